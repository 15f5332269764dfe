"""The natural path on one page: scenario -> cluster, costs, program -> graph -> kernel -> metrics.

    prepare(scenario)   everything about one cell that can be known without evaluating it; refuses what cannot work
    evaluate(cases)     cells that share a graph go through the kernel together, tile by tile, on threads

Every arrow is a function of frozen values, remembered where cells of a sweep ask the same again.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops import kernels
from hops.checks import count
from hops.cluster import Cluster
from hops.costs import Costs, Model, stage_costs
from hops.graph import Graph, lag_index, lower, transfer_index, work_index
from hops.metrics import COLUMNS, TICKS, Floats, draw_metrics, rank_metrics
from hops.noise import largest_factor, quantile_table
from hops.programs import Program
from hops.scenario import Choice, Scenario
from hops.schedules import program
from hops.topologies import TOPOLOGIES

BATCH = 1 << 20  # draws whose metrics are held at once


class Structure(NamedTuple):
    """What cells with the same schedule and sizes share."""

    program: Program
    graph: Graph
    n_works: NDArray[np.int64]  # how often each work and each lag occurs
    n_lags: NDArray[np.int64]


class Weights(NamedTuple):
    """What cells with the same model, topology and stages share."""

    cluster: Cluster
    costs: Costs
    work: Floats  # (6 stages,) ticks, not rounded yet
    lag: NDArray[np.int64]  # (1 + 2 stages,) ticks


class Case(NamedTuple):
    """One cell, ready to be evaluated."""

    scenario: Scenario
    weights: Weights
    table: Floats | None  # of the op law; None: nothing varies

    @property
    def structure(self) -> Structure:
        """Asked for anew each time: a case does not hold it, or thousands of sizes would fill the memory."""
        return structure(*self.shape)

    @property
    def shape(self) -> tuple[Choice, int, int | None, int, str]:
        """What the structure depends on."""
        s = self.scenario
        return s.schedule, s.pp, s.vpp, s.microbatches, s.p2p


@dataclass(frozen=True)
class Executor:
    """How to evaluate: neither number can change a result. ``threads=None``: as many as the process may use."""

    name: str = "local"
    threads: int | None = None
    tile: int = 1024

    def __post_init__(self) -> None:
        if self.threads is not None:
            object.__setattr__(self, "threads", count("executor.threads", self.threads))
        object.__setattr__(self, "tile", count("executor.tile", self.tile, most=kernels.MOST_DRAWS))


class Outcome(NamedTuple):
    """Metrics of the cells ``cells`` (their positions among those asked for)."""

    cells: list[int]
    per_draw: dict[str, Floats]  # name -> (c, n)
    per_rank: dict[str, Floats]  # name -> (c, r)


def prepare(scenario: Scenario) -> Case:
    """Build all that one cell needs; ``ValueError`` for what cannot be meant, `Infeasible` for sizes that do not fit."""
    s = scenario
    built = structure(s.schedule, s.pp, s.vpp, s.microbatches, s.p2p)
    numbers = weights(s.topology, s.model, built.program.stage_ranks, s.microbatch_size, s.p2p)
    table = quantile_table(*s.latency.op) if s.latency.op else None
    slowest = 1.0 if table is None else largest_factor(table)
    check_clock(float(built.n_works @ numbers.work) * slowest + float(built.n_lags @ numbers.lag.astype(float)))
    return Case(s, numbers, table)


@lru_cache(maxsize=512, typed=True)
def structure(schedule: Choice, pp: int, vpp: int | None, microbatches: int, p2p: str) -> Structure:
    """Program and graph of a schedule at a size."""
    written = program(schedule.name, pp, microbatches, vpp, **schedule.kwargs)
    graph = lower(written, channel=p2p == "channel")
    n_stages = written.n_stages
    return Structure(written, graph, np.bincount(graph.work, minlength=6 * n_stages), np.bincount(graph.lag, minlength=1 + 2 * n_stages))


@lru_cache(maxsize=4096, typed=True)
def weights(topology: Choice, model: Model, stage_ranks: tuple[int, ...], microbatch_size: int, p2p: str) -> Weights:
    """Durations and delays of every stage, in ticks."""
    cluster: Cluster = TOPOLOGIES[topology.name].build(max(stage_ranks) + 1, **topology.kwargs)
    costs = stage_costs(model, cluster.gpu, stage_ranks, microbatch_size)
    n_stages = costs.n_stages
    work, lag = np.zeros(6 * n_stages), np.zeros(1 + 2 * n_stages)
    for stage, here in enumerate(stage_ranks):
        f, i, w = costs.forward[stage], costs.backward_input[stage], costs.backward_weight[stage]
        for kind, seconds in (("F", f), ("B", i + w), ("I", i), ("W", w)):
            if seconds * TICKS < 1:
                raise ValueError(f"stage {stage} computes {kind} in {seconds:.3g} s; the clock counts whole ns, so give at least 1e-9 s")
            work[work_index(stage, kind)] = seconds * TICKS
        for backward, neighbour in ((False, stage + 1), (True, stage - 1)):
            if 0 <= neighbour < n_stages:
                path = cluster.between(here, stage_ranks[neighbour])
                latency, occupied = path.latency * TICKS, costs.p2p_bytes / path.bandwidth * TICKS
                lag[lag_index(stage, backward)] = np.floor(latency + 0.5)
                if p2p == "channel":
                    work[transfer_index(n_stages, stage, backward)] = occupied
                else:
                    lag[lag_index(stage, backward)] += np.floor(occupied + 0.5)
    check_clock(max(work.sum(), lag.sum()))
    whole = lag.astype(np.int64)
    work.flags.writeable = whole.flags.writeable = False
    return Weights(cluster, costs, work, whole)


def check_clock(ticks: float) -> None:
    """Refuse times that int64 ticks cannot add up."""
    if not ticks < 2**62:
        raise ValueError(f"times add up to {ticks / TICKS:.3g} s, beyond the 2^62 ns (146 years) that the clock can count")


def evaluate(cases: Sequence[Case], executor: Executor) -> Iterator[Outcome]:
    """Evaluate all cases, those that share a graph and a number of draws together; batches come as they are ready."""
    groups: dict[tuple[Any, int], list[int]] = {}
    for i, case in enumerate(cases):
        groups.setdefault((case.shape, case.scenario.draws), []).append(i)
    with ThreadPoolExecutor(executor.threads or os.process_cpu_count()) as pool:
        try:
            for (_, n_draws), members in groups.items():
                size = max(1, BATCH // n_draws)
                for at in range(0, len(members), size):
                    cells = members[at : at + size]
                    yield _batch([cases[i] for i in cells], cells, n_draws, executor.tile, pool)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _batch(cases: list[Case], cells: list[int], n_draws: int, tile: int, pool: ThreadPoolExecutor) -> Outcome:
    graph = cases[0].structure.graph
    work = np.stack([case.weights.work for case in cases])
    lag = np.stack([case.weights.lag for case in cases])
    seed = np.array([case.scenario.seed for case in cases], np.uint32)
    rows: dict[int, tuple[int, Floats]] = {}  # tables are remembered: the same law is the same array
    law = np.array([-1 if case.table is None else rows.setdefault(id(case.table), (len(rows), case.table))[0] for case in cases], np.int64)
    tables = np.stack([table for _, table in rows.values()]) if rows else np.zeros((1, 1, 2))

    def task(at: int, end: int, first: int, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        per_draw = np.empty((4, end - at, n), np.int64)
        moments = np.zeros((end - at, 3, graph.n_ranks, kernels.N_LIMBS), np.int64)
        kernels.evaluate(graph, work[at:end], lag[at:end], law[at:end], tables, seed[at:end], first, per_draw, moments)
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
