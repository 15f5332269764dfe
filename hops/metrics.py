"""Metrics: what the kernel's ticks mean. Cells first: c = cells that share a graph, n = draws, r = ranks."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hops.kernels import BUSY, EXPOSED, LIMB, MAKESPAN, MOST_BUSY, ONE, OWN_STEP, SPAN, STEP, TOTAL_BUSY, UTILIZATION
from hops.weights import TICKS, Floats

# name, row, unit, whether it is summed over replicas and batches
PER_RANK = (
    ("busy_time", BUSY, TICKS, True),
    ("exposed_communication", EXPOSED, TICKS, True),
    ("utilization", UTILIZATION, ONE, False),
)

# what a cell contributes to its metrics besides ticks, one column each; NaN where the model has none
COLUMNS = ("barrier", "batches", "ranks", "samples", "tokens", "model_flops", "hardware_flops", "peak_flops", "gpus")


def draw_metrics(per_draw: NDArray[np.int64], columns: Mapping[str, Floats]) -> dict[str, Floats]:
    """Metrics of every draw, each (c, n), from per_draw (7, c, n) ticks and the cells' `COLUMNS`, each (c,).

    A metric that no cell of the batch has (NaN throughout, such as mfu of explicit times) is left out.
    """
    column = {key: values[:, None] for key, values in columns.items()}
    unit = TICKS * column["batches"]
    makespan, span = per_draw[MAKESPAN] / unit, per_draw[SPAN] / unit
    busy, most_busy = per_draw[TOTAL_BUSY] / unit, per_draw[MOST_BUSY] / unit
    iteration_time = np.where(column["barrier"] > 0, per_draw[STEP], per_draw[OWN_STEP]) / unit
    found = {
        "iteration_time": iteration_time,
        "makespan": makespan,
        "span": span,
        "bubble_fraction": 1 - busy / (column["ranks"] * makespan),
        "bubble_ratio": column["ranks"] * makespan / busy - 1,
        "span_bubble_fraction": 1 - most_busy / span,
        "throughput": column["samples"] / iteration_time,
        "tokens_per_second": column["tokens"] / iteration_time,
        "mfu": column["model_flops"] / (iteration_time * column["peak_flops"] * column["gpus"]),
        "hfu": column["hardware_flops"] / (iteration_time * column["peak_flops"] * column["gpus"]),
        "flops_per_gpu": column["model_flops"] / (iteration_time * column["gpus"]),
    }
    return {name: values for name, values in found.items() if not np.isnan(values).all()}


def rank_metrics(
    moments: NDArray[np.object_], n_draws: int, times: NDArray[np.int64], certain: NDArray[np.bool_] | None = None
) -> dict[str, Floats]:
    """Mean, deviation over draws and standard error of every rank's metrics, each (c, r), from exact sums (c, 3, r, 9) of Python ints.

    Of several replicas and batches, ``times`` (c,) in all, the mean. ``certain`` cells (c,) do not vary; None: none is.
    """
    a, b, c, aa, ab, ac, bb, bc, cc = np.moveaxis(moments, -1, 0)
    total = (a << 2 * LIMB) + (b << LIMB) + c
    squares = (aa << 4 * LIMB) + (ab << 3 * LIMB + 1) + ((bb + 2 * ac) << 2 * LIMB) + (bc << LIMB + 1) + cc
    mean = (total / n_draws).astype(float)
    if n_draws > 1:
        variance = ((n_draws * squares - total * total) / (n_draws * (n_draws - 1))).astype(float)
        deviation = np.sqrt(variance)
    else:
        deviation = np.full(mean.shape, np.nan)
        deviation[np.zeros(len(mean), bool) if certain is None else certain] = 0.0
    found = {}
    for name, row, unit, sums in PER_RANK:
        share = unit * np.where(sums, times, 1)[:, None]
        found[name] = mean[:, row] / share
        found[f"{name}_std"] = deviation[:, row] / share
        found[f"{name}_standard_error"] = found[f"{name}_std"] / np.sqrt(n_draws)
    return found


def rank_draws(per_rank: NDArray[np.int64], times: NDArray[np.int64]) -> dict[str, Floats]:
    """Every rank's metrics in every draw, each (c, r, n), from per_rank (3, c, r, n) ticks; of ``times`` (c,) the mean."""
    return {name: per_rank[row] / (unit * np.where(sums, times, 1)[:, None, None]) for name, row, unit, sums in PER_RANK}


def quantile_interval(sample: Floats, q: float, confidence: float = 0.95) -> tuple[float, float]:
    """Distribution-free interval of quantile ``q`` [unit of ``sample``]; an end that the sample is too small to bound is infinite."""
    low, high = quantile_ends(np.sort(sample)[None], (q,), confidence)
    return float(low[0, 0]), float(high[0, 0])


def quantile_ends(ordered: Floats, quantiles: Sequence[float], confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Both ends of the `quantile_interval` of each quantile, (c, q), from sorted values (c, n)."""
    n = ordered.shape[1]
    framed = np.pad(ordered, ((0, 0), (1, 1)), constant_values=(-np.inf, np.inf))  # order statistic k in column k
    ranks = np.array([interval_ranks(n, q, confidence) for q in quantiles])
    return framed[:, ranks[:, 0]], framed[:, ranks[:, 1]]


@lru_cache
def interval_ranks(n: int, q: float, confidence: float = 0.95) -> tuple[int, int]:
    """Order statistics of ``n`` draws that enclose quantile ``q`` with at least ``confidence``; 0 and n + 1 where there is none.

    Their ranks a binomial gives. Source: David & Nagaraja 2003, Order Statistics, 7.1.
    """
    from scipy.special import bdtr

    def at_most(k: int) -> float:  # P(at most k of n draws lie below the quantile)
        return float(bdtr(k, n, q))

    lower = bisect_left(range(n + 1), (1 - confidence) / 2, key=at_most)
    return lower, bisect_left(range(n + 1), (1 + confidence) / 2, key=at_most) + 1


def student(n: NDArray[Any], confidence: float = 0.95) -> Floats:
    """Standard errors between a mean of ``n`` values and the ends of its interval, by Student's t; NaN of fewer than 2."""
    from scipy.special import stdtrit

    return np.where(n > 1, stdtrit(np.maximum(n - 1.0, 1.0), (1 + confidence) / 2), np.nan)


def statistics(values: Floats, quantiles: Sequence[float], certain: NDArray[np.bool_], intervals: bool = False) -> dict[str, Floats]:
    """Quantiles (c, q) under "" and mean, std, standard_error (c,) of values (c, n); a ``certain`` cell does not vary.

    With ``intervals`` the `quantile_ends` too.
    """
    n, ordered = values.shape[1], np.sort(values, axis=1)  # 1,024 x 100: sorting 0.15 ms, then quantiles 0.6; of what is not sorted 2.1
    deviation = values.std(axis=1, ddof=1) if n > 1 else np.full(len(values), np.nan)
    deviation = np.where(certain, 0.0 * values[:, 0], deviation)  # a metric that the cell does not have stays NaN
    ends = {}
    if intervals:
        found = zip(("_low", "_high"), quantile_ends(ordered, quantiles), strict=True)
        ends = {suffix: np.where(certain[:, None], values[:, :1], end) for suffix, end in found}
    return {
        "": np.quantile(ordered, quantiles, axis=1).T,
        **ends,
        "_mean": values.mean(axis=1),
        "_std": deviation,
        "_standard_error": deviation / np.sqrt(n),
    }
