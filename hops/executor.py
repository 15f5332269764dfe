"""Evaluation: cells that share a graph go through the kernel together, tile by tile, on threads of this process.

Neither tiles nor threads can change a result: noise is addressed, and what the kernel adds up are integers.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops import kernels
from hops.checks import count, no_such
from hops.distributions import TERMS
from hops.metrics import COLUMNS, Floats, draw_metrics, rank_metrics
from hops.simulation import Case

BATCH_DRAWS = 1 << 20  # draws whose metrics are held at once
BYTES_PER_DRAW = 200  # of a cell whose metrics are made: ticks, metrics and a copy of one that is sorted
BATCH_CELLS = 1024  # cells likewise: each may bring a quantile table of 64 kB


@dataclass(frozen=True)
class Executor:
    """How to evaluate: neither number can change a result. ``threads=None``: as many as the process may use."""

    name: str = "local"
    threads: int | None = None
    tile: int = 1024

    def __post_init__(self) -> None:
        if self.name != "local":
            raise no_such("executor", self.name, ["local"])
        if self.threads is not None:
            object.__setattr__(self, "threads", count("executor.threads", self.threads))
        object.__setattr__(self, "tile", count("executor.tile", self.tile, most=kernels.MOST_DRAWS))


def make_executor(section: Mapping[str, Any]) -> Executor:
    """Check the config section; unknown keys and values out of range are a ``ValueError``."""
    known = [field.name for field in fields(Executor)]
    for key in section:
        if key not in known:
            raise no_such("key of executor", key, known)
    return Executor(**section)


class Outcome(NamedTuple):
    """Metrics of the cells ``cells`` (their positions among those asked for)."""

    cells: list[int]
    per_draw: dict[str, Floats]  # name -> (c, n)
    per_rank: dict[str, Floats]  # name -> (c, r)


def evaluate(cases: Sequence[Case], executor: Executor) -> Iterator[Outcome]:
    """Evaluate all cases, those that share a graph and a number of draws together; batches come as they are ready."""
    groups: dict[tuple[Any, int], list[int]] = {}
    for i, case in enumerate(cases):
        groups.setdefault((case.shape, case.scenario.draws), []).append(i)
    with ThreadPoolExecutor(executor.threads or os.process_cpu_count()) as pool:
        try:
            for (_, n_draws), members in groups.items():
                size = min(BATCH_CELLS, max(1, BATCH_DRAWS // n_draws))
                for at in range(0, len(members), size):
                    cells = members[at : at + size]
                    yield _batch([cases[i] for i in cells], cells, n_draws, executor.tile, pool)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def check_memory(n_draws: int) -> None:
    """Refuse more draws of a cell than memory holds: quantiles need them all, the engine itself does not."""
    needed, there = n_draws * BYTES_PER_DRAW, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ValueError(
            f"draws={n_draws} need about {needed / 1e9:.3g} GB for the metrics of one cell; this machine has {there / 1e9:.3g}"
        )


def _batch(cases: list[Case], cells: list[int], n_draws: int, tile: int, pool: ThreadPoolExecutor) -> Outcome:
    graph = cases[0].structure.graph
    work = np.stack([case.weights.work for case in cases])
    lag = np.stack([case.weights.lag for case in cases])
    seed = np.array([case.scenario.seed for case in cases], np.uint32)
    link = np.stack([case.weights.link for case in cases])
    law, tables = law_rows(cases)

    def task(at: int, end: int, first: int, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        per_draw = np.empty((4, end - at, n), np.int64)
        moments = np.zeros((end - at, 3, graph.n_ranks, kernels.N_LIMBS), np.int64)
        kernels.evaluate(graph, work[at:end], lag[at:end], link[at:end], law[at:end], tables, seed[at:end], first, per_draw, moments)
        return per_draw, moments

    n_cells = max(1, tile // n_draws)  # small cells share a task
    todo = [
        (at, min(at + n_cells, len(cases)), first, min(tile, n_draws - first))
        for at in range(0, len(cases), n_cells)
        for first in range(0, n_draws, tile)
    ]
    per_draw = np.empty((4, len(cases), n_draws), np.int64)
    moments = np.zeros((len(cases), 3, graph.n_ranks, kernels.N_LIMBS), object)
    for (at, end, first, n), (ticks, sums) in zip(todo, pool.map(lambda t: task(*t), todo), strict=True):
        per_draw[:, at:end, first : first + n] = ticks
        moments[at:end] += sums
    columns = {key: np.array(values, float) for key, values in zip(COLUMNS, zip(*map(_columns, cases), strict=True), strict=True)}
    return Outcome(cells, draw_metrics(per_draw, columns), rank_metrics(moments, n_draws))


def law_rows(cases: Sequence[Case]) -> tuple[NDArray[np.int64], Floats]:
    """Every term of every case as a row of one stack of tables: law (c, 4), -1 where a term is off, and tables (laws, cells, 2)."""
    rows: dict[int, tuple[int, Floats]] = {}  # tables are remembered: the same law is the same array
    law = np.full((len(cases), len(TERMS)), -1, np.int64)
    for c, case in enumerate(cases):
        for i, table in enumerate(case.tables):
            if table is not None:
                law[c, i] = rows.setdefault(id(table), (len(rows), table))[0]
    return law, np.stack([table for _, table in rows.values()]) if rows else np.zeros((1, 1, 2))


def _columns(case: Case) -> tuple[Any, ...]:
    s, costs, nan = case.scenario, case.weights.costs, float("nan")
    return (
        s.barrier,
        s.pp,
        s.microbatches * s.microbatch_size,
        nan if costs.tokens is None else s.microbatches * costs.tokens,
        nan if costs.model_flops is None else s.microbatches * sum(costs.model_flops),
        nan if costs.hardware_flops is None else s.microbatches * sum(costs.hardware_flops),
        case.weights.cluster.gpu.peak_flops,
    )
