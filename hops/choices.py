"""Choices: the best cell of a cube, which others may be as good, and which are worth a thought at all. ... = cells, n = draws."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from hops.comparisons import paired
from hops.lookup import Asked, asked, axes_of, compared, direction, draws_of, labels_of, quantile_of, value_of
from hops.metrics import quantile_interval, student
from hops.variables import VARIABLES
from hops.weights import Floats

NORMAL = 1.959964  # standard errors between a mean and the ends of its 95 % interval, of very many

MOST_TIES = 4  # that are printed
FEWEST_BEYOND = 10  # draws


class Best(NamedTuple):
    """The best cell of a cube by one statistic of a metric, and all that may be as good."""

    metric: str
    statistic: str
    labels: dict[str, Any]  # what the axes have there; of axes without one that advance together all, so `position` selects
    value: float
    ties: tuple[dict[str, Any], ...] | None  # cells that cannot be told from it with 95 % confidence; None: nobody knows its error
    paired: bool  # by pairs of draws; else by intervals of either alone, which tell fewer cells apart
    position: dict[Hashable, int]  # for ``isel``
    n_needed: int = 0  # draws from which on cells can be told apart by such a quantile; 0: it has as many

    def __str__(self) -> str:
        unit = VARIABLES[self.metric].units
        lines = [f"best {self.statistic} of {self.metric}: {_words(self.labels)}, {self.value:.6g}{'' if unit == '1' else f' {unit}'}"]
        if self.ties is None:
            lines.append("how sure that is cannot be said: the cube keeps neither draws nor errors of it")
        elif not self.ties:
            lines.append("all other cells are worse, with 95 % confidence each")
        else:
            more = f", and {len(self.ties) - MOST_TIES} more" if len(self.ties) > MOST_TIES else ""
            lines.append(f"cannot be told from it: {'; '.join(map(_words, self.ties[:MOST_TIES]))}{more}")
        if self.ties and self.n_needed:
            key = "trials" if VARIABLES[self.metric].per == "trial" else "draws"
            lines.append(f"a {self.statistic} of so few {key} tells little (try {key}={self.n_needed})")
        return "\n".join(lines)


def best(cube: xr.Dataset, metric: str = "iteration_time", statistic: str | float = "mean", where: Asked = None) -> Best:
    """The cell with the least, or most, as the metric has it (`hops.variables`), of a statistic; ``where`` says which cells count.

    ``statistic`` is "mean", or a quantile ("p95", or 0.95); of a rank's metric the worst rank counts. Cells whose interval of the
    difference to the best contains 0 are its ties: of means by Student's t over pairs, of quantiles by the errors that their
    distribution-free intervals tell, which are correlated as are the draws that lie below (Bahadur).
    """
    q = quantile_of(statistic)
    values = np.where(asked(cube, where), value_of(cube, metric, q).values, np.nan)
    if not np.isfinite(values).any():
        raise ValueError(f"no cell {'that where asks for ' if where is not None else ''}has any {metric}")
    at = np.unravel_index(int((np.nanargmin if direction(metric) < 0 else np.nanargmax)(values)), values.shape)
    low, high, in_pairs = _gaps(cube, metric, q, values, at)
    axes, known = axes_of(cube), labels_of(cube)

    def labels(cell: Sequence[Any]) -> dict[str, Any]:
        here = dict(zip(axes, map(int, cell), strict=True))
        return {name: coord.values.tolist()[here[coord.dims[0]]] for name, coord in known.items()}

    ties = None
    if low is not None and high is not None:
        same = np.isfinite(values) & ~((low > 0) | (high < 0))  # NaN too: of a single draw nobody knows the error
        same[at] = False
        order = sorted(np.argwhere(same).tolist(), key=lambda cell: -direction(metric) * float(values[tuple(cell)]))
        ties = tuple(map(labels, order))
    name = "mean" if q is None else f"p{100 * q:g}"
    return Best(
        metric, name, labels(at), float(values[at]), ties, in_pairs, dict(zip(axes, map(int, at), strict=True)), _needed(cube, metric, q)
    )


def _needed(cube: xr.Dataset, metric: str, q: float | None) -> int:
    """Draws from which on `FEWEST_BEYOND` lie beyond a quantile, where the cells that are compared have fewer."""
    if q is None or not 0 < q < 1 or metric not in compared(cube):
        return 0
    draws, certain = draws_of(cube, metric)
    n = draws.where(~certain).count("draw").values
    needed = int(np.ceil(round(FEWEST_BEYOND / min(q, 1 - q), 6)))
    return needed if ((n > 0) & (n < needed)).any() else 0


def pareto(cube: xr.Dataset, *metrics: str, statistic: str | float = "mean", where: Asked = None) -> xr.DataArray:
    """Which cells no other beats in one of several metrics without losing in another; dims of the axes.

    Cells without a value in one of them, or that ``where`` leaves out, are False; of a rank's metric the worst rank counts.
    """
    if len(metrics) < 2:
        got = ", ".join(map(repr, metrics)) or "none"
        raise ValueError(f"pareto needs two metrics or more, such as 'iteration_time', 'peak_memory'; got {got}")
    q, wanted = quantile_of(statistic), asked(cube, where)
    values = [value_of(cube, metric, q).values.ravel() for metric in metrics]  # refuses what is no metric
    costs = np.stack([-direction(metric) * each for metric, each in zip(metrics, values, strict=True)], axis=1)
    open_to = np.isfinite(costs).all(axis=1) & wanted.ravel()
    found, points = np.zeros(len(costs), bool), costs[open_to]
    found[open_to] = [not ((points <= point).all(axis=1) & (points < point).any(axis=1)).any() for point in points]
    told = {"long_name": f"no other cell is better in one of {', '.join(metrics)} and as good in the others"}
    return xr.DataArray(found.reshape(wanted.shape), cube["evaluated"].coords, axes_of(cube), "pareto", told)


def _words(labels: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in labels.items()) or "the only cell"


def _gaps(cube: xr.Dataset, metric: str, q: float | None, values: Floats, at: tuple[Any, ...]) -> tuple[Floats | None, Floats | None, bool]:
    """Ends (...,) of a 95 % interval of the difference of every cell to that at ``at``; None where there is none; whether of pairs."""
    difference = values - values[at]
    if VARIABLES[metric].per in ("rank", "cell"):  # exact
        return difference, difference, False
    draws = None
    if metric in compared(cube):
        draws, certain = draws_of(cube, metric)
    if draws is None or draws.ndim > values.ndim + 1:
        error = _error(cube, metric, q)
        if error is None:
            return None, None, False
        half = NORMAL * np.hypot(error, error[at])
        return difference - half, difference + half, False
    each, sure = draws.values, certain.transpose(*axes_of(cube)).values
    if q is None:
        found = paired(each, each[at], (sure, sure[at]))
        half = np.where(found.difference_error == 0, 0.0, student(found.n) * found.difference_error)
        return found.difference - half, found.difference + half, True
    each = np.concatenate([each, np.full((*each.shape[:-1], 1), np.nan)], axis=-1)  # so that one draw that says it all stands twice
    return *quantile_gaps(np.where(sure[..., None], each[..., :1], each), at, q), True


def _error(cube: xr.Dataset, metric: str, q: float | None) -> Floats | None:
    """Standard error of `value_of` in every cell; None where it is not known."""
    if q is None:
        if f"{metric}_standard_error" not in cube:
            return None
        found = cube[f"{metric}_standard_error"]
        if "rank" in found.dims:  # of the worst rank
            means = cube[metric] if f"{metric}_mean" not in cube else cube[f"{metric}_mean"]
            found = found.where(means == (means.max("rank") if direction(metric) < 0 else means.min("rank"))).max("rank")
    elif f"{metric}_low" in cube:
        here = {"quantile": int(np.abs(cube["quantile"].values - q).argmin())}
        found = (cube[f"{metric}_high"].isel(here) - cube[f"{metric}_low"].isel(here)) / (2 * NORMAL)
    else:
        return None
    values: Floats = found.transpose(*axes_of(cube)).values
    return values


def quantile_gaps(draws: Floats, at: tuple[Any, ...], q: float) -> tuple[Floats, Floats]:
    """Ends (...,) of a 95 % interval of the difference of quantile ``q`` of draws (..., n) to that of the cell ``at``, in pairs.

    A sample's quantile lies off by what share of the draws lies below the true one, over the density there (Bahadur 1966); the first
    is counted, the second told by the `quantile_interval`. Where fewer than `FEWEST_BEYOND` draws lie on a side of the quantile, the
    two intervals' farthest ends, which are wider.
    """
    # of 1,000 samples of two cells whose times correlate at 0.98 it covers 94.8 % with 10 beyond (1,000 draws, 0.99), 86.8 % with 5
    flat = draws.reshape(-1, draws.shape[-1])
    here, below = int(np.ravel_multi_index(at, draws.shape[:-1])), np.full(flat.shape, np.nan)
    value, low, high = np.full((3, len(flat)), np.nan)
    few = np.zeros(len(flat), bool)
    for cell, each in enumerate(flat):
        known = each[~np.isnan(each)]
        if known.size:
            value[cell] = np.quantile(known, q)
            varies = known.min() < known.max()
            low[cell], high[cell] = quantile_interval(known, q) if varies or known.size == 1 else (value[cell], value[cell])
            below[cell] = np.where(np.isnan(each), np.nan, each <= value[cell])
            few[cell] = varies and known.size * min(q, 1 - q) < FEWEST_BEYOND - 1e-9
    both = ~(np.isnan(below) | np.isnan(below[here]))
    n = np.maximum(both.sum(axis=1), 1)
    mine, others = np.where(both, below[here], 0.0), np.where(both, below, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        error, means = (high - low) / (2 * NORMAL), (mine.sum(axis=1) / n, others.sum(axis=1) / n)
        covariance = (mine * others).sum(axis=1) / n - means[0] * means[1]
        correlation = covariance / np.sqrt(means[0] * (1 - means[0]) * means[1] * (1 - means[1]))
        correlation = np.where(np.isfinite(correlation), correlation, 0.0)
        variance = error**2 + error[here] ** 2 - 2 * correlation * error * error[here]
        half, difference = NORMAL * np.sqrt(np.maximum(variance, 0.0)), value - value[here]
        ends = (
            np.where(few | few[here], low - high[here], difference - half),
            np.where(few | few[here], high - low[here], difference + half),
        )
    return ends[0].reshape(draws.shape[:-1]), ends[1].reshape(draws.shape[:-1])
