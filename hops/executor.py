"""Evaluation: cells that share a graph go through a kernel together, tile by tile, on threads of this process.

Neither tiles nor threads can change a result: noise is addressed, and what the kernel adds up are integers.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops import kernels
from hops.checks import count, no_such
from hops.contended import evaluate_contended, make_times
from hops.distributions import TERMS
from hops.graph import Graph, unfolded
from hops.impact import speeds_of
from hops.joint import Joint, side_by_side
from hops.metrics import COLUMNS, draw_metrics, rank_draws, rank_metrics
from hops.noise import LANES
from hops.noiseless import WINDOW, evaluate_noiseless
from hops.simulation import Case
from hops.team import Team
from hops.traffic import Traffic
from hops.variables import VARIABLES
from hops.weights import Floats
from hops.workspace import Work, workspace

BATCH_DRAWS = 1 << 20  # draws whose metrics are held at once
BYTES_PER_DRAW = 200  # of a cell whose metrics are made: ticks, metrics and a copy of one that is sorted
# float64 a draw of a cell that is kept, and as many a rank
KEPT_METRICS, KEPT_PER_RANK = (sum(variable.per == per for variable in VARIABLES.values()) for per in ("draw", "draw rank"))
BATCH_TIMES = 1 << 22  # nodes of all replicas times draws that the event loop holds at once: 100 MB, and their edges
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


type Ticks = tuple[NDArray[np.int64], dict[str, Floats]]  # per_draw (7, c, n), and metrics of ranks


class Outcome(NamedTuple):
    """Metrics of the cells ``cells`` (their positions among those asked for)."""

    cells: list[int]
    per_draw: dict[str, Floats]  # name -> (c, n)
    per_rank: dict[str, Floats]  # name -> (c, r), mean and deviation over the draws; or (c, r, n), the draws themselves
    ticks: NDArray[np.int64]  # (7, c, n)

    def pool(self, i: int, case: Case) -> NDArray[np.int64]:
        """Iterations of cell i of the batch, which is ``case``, as `pool_of` has them."""
        return pool_of(self.ticks[:, i], case)


def evaluate(cases: Sequence[Case], executor: Executor, keep_draws: bool = False) -> Iterator[Outcome]:
    """Evaluate all cases, those that share a graph and a number of draws together; batches come as they are ready.

    ``keep_draws`` asks for the draws of every rank's metrics, instead of their mean and deviation.
    """
    groups: dict[tuple[Any, int, bool, bool], list[int]] = {}
    for i, case in enumerate(cases):
        groups.setdefault((case.shape, case.scenario.draws, case.plain, case.by_draws), []).append(i)
    with Team.of(executor.threads) as team:
        for (_, n_draws, plain, _), members in groups.items():
            held = n_draws * (cases[members[0]].scenario.pp if keep_draws else 1)
            size = min(BATCH_CELLS, max(1, BATCH_DRAWS // held))
            for at in range(0, len(members), size):
                cells = members[at : at + size]
                batch = [cases[i] for i in cells]
                rows = zip(*map(_columns, batch), strict=True)
                columns = {key: np.array(values, float) for key, values in zip(COLUMNS, rows, strict=True)}
                found = _plain(batch, team, keep_draws) if plain else sampled(batch, n_draws, executor.tile, team, keep_draws)
                yield Outcome(cells, draw_metrics(found[0], columns), found[1], found[0])


def check_memory(keep_draws: bool, sizes: Sequence[tuple[int, int]]) -> None:
    """Refuse draws that memory cannot hold; ``sizes`` are the (draws, ranks) of every cell.

    Quantiles need all draws of a cell, the engine itself does not.
    """
    n_draws, n_ranks = (max(each) for each in zip(*sizes, strict=True)) if sizes else (0, 0)
    needed, there = n_draws * BYTES_PER_DRAW, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if keep_draws:  # once in the making, once in the cube
        needed += 2 * 8 * len(sizes) * n_draws * (n_ranks * KEPT_PER_RANK + KEPT_METRICS)
    if needed > there:
        what = f"output.keep=draws of {len(sizes)} cells" if keep_draws else "the metrics of one cell"
        raise ValueError(f"draws={n_draws} need about {needed / 1e9:.3g} GB for {what}; this machine has {there / 1e9:.3g}")


def sampled(cases: list[Case], n_draws: int, tile: int, team: Team, keep_draws: bool = False, begin: int = 0) -> Ticks:
    """Evaluate draws ``begin`` and following of cells of one graph, a tile of draws a task."""
    graph, work = cases[0].structure.graph, stacked(cases)
    replicas, (law, tables) = work.n_replicas, law_rows(cases)
    times = replicas * np.array([case.n_batches for case in cases], np.int64)
    per_draw = np.empty((kernels.N_METRICS, len(cases), n_draws), np.int64)
    per_rank = np.empty((3, len(cases) if keep_draws else 0, graph.n_ranks, n_draws), np.int64)

    moments, adding = np.zeros((len(cases), 3, graph.n_ranks, kernels.N_LIMBS), object), Lock()

    def task(at: int, end: int, first: int, n: int) -> None:
        sums = np.zeros((end - at, 3, graph.n_ranks, kernels.N_LIMBS), np.int64)
        # of its own: of a slice numba would not know that draws are next to each other
        draws = np.empty((kernels.N_METRICS, end - at, n), np.int64)
        ranks = np.empty((3, end - at if keep_draws else 0, graph.n_ranks, n), np.int64)
        if cases[0].by_draws:
            for c in range(at, end):
                here = slice(c - at, c - at + 1)
                cell = Work._make(each[c : c + 1] for each in work)
                _by_draws(cases[c], graph, cell, law[c : c + 1], tables, begin + first, draws[:, here], sums[here], ranks[:, here])
        else:
            cells, space = Work._make(each[at:end] for each in work), workspace(graph, 0, int(work.n_buckets.max()))
            kernels.evaluate(graph, cells, law[at:end], tables, begin + first, space, draws, sums, ranks)
        per_draw[:, at:end, first : first + n] = draws
        if keep_draws:
            per_rank[:, at:end, :, first : first + n] = ranks
        with adding:
            moments[at:end] += sums

    # a task is a tile of draws of all replicas, but a window at least: with a quarter of one dp=128 took twice as long
    tile = max(min(tile, LANES), tile // int(replicas.max()))
    n_cells = max(1, tile // n_draws)  # small cells share a task
    todo = [
        (at, min(at + n_cells, len(cases)), first, min(tile, n_draws - first))
        for at in range(0, len(cases), n_cells)
        for first in range(0, n_draws, tile)
    ]
    team.run(task, todo)
    certain = np.array([not case.noisy for case in cases])
    return per_draw, rank_draws(per_rank, times) if keep_draws else rank_metrics(moments, n_draws, times, certain)


def evaluate_iterations(case: Case, trial: int, first: int, n: int) -> NDArray[np.int64]:
    """Iterations of a trial as `pool_of` has them, draws ``first`` and following; those of trial 0 are the cell's own."""
    graph, work, (law, tables) = case.structure.graph, stacked([case]), law_rows([case])
    work = work._replace(seed=work.seed + (np.uint64(trial) << np.uint64(32)))
    per_draw, sums = np.empty((kernels.N_METRICS, 1, n), np.int64), np.zeros((1, 3, graph.n_ranks, kernels.N_LIMBS), np.int64)
    ranks = np.empty((3, 0, graph.n_ranks, n), np.int64)
    if case.by_draws:
        _by_draws(case, graph, work, law, tables, first, per_draw, sums, ranks)
    else:
        space = workspace(graph, 0, int(work.n_buckets.max()))
        kernels.evaluate(graph, work, law, tables, first, space, per_draw, sums, ranks)
    return pool_of(per_draw[:, 0], case)


def pool_of(per_draw: NDArray[np.int64], case: Case, n_lanes: int | None = None) -> NDArray[np.int64]:
    """Ticks of iterations, and of these busy and exposed, summed over ranks and lanes: (3, n) from (7, n).

    Without a barrier what a rank waits for before its first op may lie in the iteration before: no more is exposed than is idle.
    """
    ticks, busy = per_draw[kernels.STEP if case.scenario.barrier else kernels.OWN_STEP], per_draw[kernels.TOTAL_BUSY]
    idle = case.scenario.pp * (n_lanes or case.n_lanes) * ticks - busy
    return np.stack([ticks, busy, np.minimum(per_draw[kernels.TOTAL_EXPOSED], idle)])


def _by_draws(case: Case, graph: Graph, cell: Work, law: NDArray[np.int64], tables: Floats, first: int, *results: NDArray[Any]) -> None:
    """Evaluate draws of one cell whose messages share links, or that is disturbed."""
    found = tuple(np.ascontiguousarray(each) for each in results)
    graph, n_draws = unfolded(graph), results[0].shape[2]
    joint = joined(case, graph)
    width = max(1, min(LANES, n_draws, BATCH_TIMES // joint.activity.size))
    times, space = make_times(width, case.n_lanes, graph, joint), workspace(graph, graph.rank.size, int(cell.n_buckets.max()))
    evaluate_contended(graph, joint, cell, law, tables, first, times, space, *found)
    for given, made in zip(results, found, strict=True):
        given[...] = made


def joined(case: Case, graph: Graph, n_lanes: int | None = None) -> Joint:
    """The replicas of a case side by side (or ``n_lanes`` of them), what they exchange, and how fast everything is."""
    w, s = case.weights, case.scenario
    met = (w.traffic, w.costs.p2p_bytes) if case.by_events else (Traffic(()), 0.0)
    joint = side_by_side(graph, n_lanes or case.n_lanes, w.n_buckets, w.overlap, *met, s.contention)
    return joint._replace(speeds=speeds_of(case, s.hindrances.disturbances)) if s.hindrances.disturbances else joint


def _plain(cases: list[Case], team: Team, keep_draws: bool) -> Ticks:
    """Evaluate `Case.plain` cells of one graph, a window of cells a task."""
    graph, numbers = cases[0].structure.graph, [case.weights for case in cases]
    work, lag = (np.stack([each[0] for each in arrays], axis=1) for arrays in zip(*((w.work, w.lag) for w in numbers), strict=True))
    drain, after = (np.stack(each, axis=1) for each in zip(*map(_after_pipeline, cases), strict=True))
    per_draw, per_rank = np.empty((kernels.N_METRICS, len(cases)), np.int64), np.empty((3, graph.n_ranks, len(cases)), np.int64)

    def task(at: int) -> None:  # whole arrays: of a slice numba would not know that cells are next to each other
        evaluate_noiseless(graph, work, lag, drain, after, at, min(at + WINDOW, len(cases)), per_draw, per_rank)

    team.run(task, ((at,) for at in range(0, len(cases), WINDOW)))
    found = rank_draws(per_rank.swapaxes(1, 2)[:, :, :, None], np.array([case.n_batches for case in cases]))
    if keep_draws:
        return per_draw[:, :, None], found
    only = {name: values[:, :, 0] for name, values in found.items()}
    spread = {name + suffix: np.zeros(values.shape) for name, values in only.items() for suffix in ("_std", "_standard_error")}
    return per_draw[:, :, None], only | spread


def _after_pipeline(case: Case) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ticks (r,) that gradients take after a rank's last op where nothing overlaps, and what follows when they are there."""
    w, built = case.weights, case.structure
    reduce, gather = (w.n_buckets * np.floor(each + 0.5).astype(np.int64) for each in (w.reduce, w.gather))
    drain, after = np.zeros(w.update.size, np.int64), case.update
    np.add.at(drain, list(built.stage_ranks), reduce)
    np.add.at(after, list(built.stage_ranks), gather)
    return drain, after


def stacked(cases: Sequence[Case]) -> Work:
    """Weights of cells with one graph, side by side for the kernel; cells with fewer variants or replicas are filled up."""
    weights = [case.weights for case in cases]

    def filled(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        size = max(len(array) for array in arrays)
        return np.stack([np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)]) for array in arrays])

    ragged = {name: filled([getattr(each, name) for each in weights]) for name in ("work", "lag", "link", "variant")}
    same = ("host", "n_buckets", "reduce", "gather", "ring", "slow", "overlap")
    retries = [case.scenario.hindrances.retry for case in cases]
    most_tries = max(retry.retries for retry in retries) + 1
    return Work(
        loss=np.array([retry.threshold for retry in retries]),
        tries=np.array([retry.retries + 1 for retry in retries]),
        timeouts=np.stack([np.pad(retry.ticks(), (0, most_tries - retry.retries - 1)) for retry in retries]),
        n_replicas=np.array([case.n_lanes for case in cases]),
        update=np.stack([case.update for case in cases]),
        seed=np.array([case.scenario.seed for case in cases], np.uint64),
        **ragged,
        **{name: np.stack([getattr(each, name) for each in weights]) for name in same},
    )


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
    n_microbatches = s.microbatches * s.dp
    return (
        s.barrier,
        case.n_batches,
        s.pp * case.n_lanes,
        n_microbatches * s.microbatch_size,
        nan if costs.tokens is None else n_microbatches * costs.tokens,
        nan if costs.model_flops is None else n_microbatches * sum(costs.model_flops) / costs.pipelines,
        nan if costs.hardware_flops is None else n_microbatches * sum(costs.hardware_flops) / costs.pipelines,
        case.weights.peak_flops / s.layout.n_gpus,
        s.layout.n_gpus,
    )
