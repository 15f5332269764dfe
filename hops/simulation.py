"""The natural path on one page: scenario -> program -> graph, and scenario -> cluster, costs -> durations in ticks.

`prepare` walks it for one cell and refuses what cannot work; ``executor.evaluate`` takes the cases through the kernel
and ``metrics`` says what its ticks mean. Every arrow is a function of frozen values, remembered where cells of a
sweep ask the same again.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.checks import Infeasible
from hops.cluster import PATH_CLASSES, Cluster
from hops.collectives import groups, ring
from hops.costs import Costs, after_pipeline
from hops.distributions import TERMS
from hops.efficiency import Efficiency
from hops.graph import Graph, lag_index, lower, transfer_index, work_index
from hops.layout import Layout
from hops.memory import Memory, check_room, offloaded, peak_memory
from hops.metrics import TICKS, Floats
from hops.models import Model, stage_costs
from hops.noise import extreme_factors, quantile_table
from hops.programs import KINDS, Program
from hops.scenario import Choice, Scenario
from hops.schedules import SCHEDULES, program
from hops.topologies import TOPOLOGIES

MOST_PASSES = 1 << 20  # of a microbatch through a stage; lowering takes 2.1 kB each at its peak (ZB-H1, tracemalloc), so about 2 GB


class Structure(NamedTuple):
    """What cells with the same schedule and sizes share. Not the program: it is 1.6 times as large as the graph."""

    graph: Graph
    stage_ranks: tuple[int, ...]
    in_flight: tuple[int, ...]
    n_works: NDArray[np.int64]  # how often each work and each lag occurs
    n_lags: NDArray[np.int64]


class Weights(NamedTuple):
    """What cells with the same model, topology and stages share."""

    cluster: Cluster
    costs: Costs
    work: Floats  # (6 stages,) ticks, not rounded yet
    lag: NDArray[np.int64]  # (1 + 2 stages,) ticks
    link: NDArray[np.int64]  # (1 + 2 stages,) class of the path that a lag stands for, index into `PATH_CLASSES`
    tail: NDArray[np.int64]  # (ranks,) ticks of gradient exchange and optimizer, after the last op of a rank in all replicas


class Case(NamedTuple):
    """One cell, ready to be evaluated."""

    scenario: Scenario
    weights: Weights
    tables: tuple[Floats | None, ...]  # one a term of `Latency`; None: the term is off

    @property
    def structure(self) -> Structure:
        """Asked for anew each time: a case does not hold it, or thousands of sizes would fill the memory."""
        return structure(*self.shape)

    @property
    def noisy(self) -> bool:
        return any(table is not None for table in self.tables)

    @property
    def program(self) -> Program:
        """The program, written out anew."""
        s = self.scenario
        return program(s.schedule.name, s.pp, s.microbatches, s.vpp, **s.schedule.kwargs)

    @property
    def memory(self) -> tuple[Memory, ...] | None:
        """What a GPU of each rank holds at most; None where the model is explicit times."""
        built, layout = self.structure, self.scenario.layout
        return peak_memory(
            self.weights.costs,
            built.stage_ranks,
            built.in_flight,
            layout.n_replicas,
            layout.n_expert_replicas,
            allowances=self.scenario.memory,
        )

    @property
    def room(self) -> tuple[float, ...]:
        """Memory of a GPU of each rank [bytes]."""
        return (self.weights.cluster.gpu.memory,) * self.scenario.pp

    @property
    def shape(self) -> tuple[Choice, int, int | None, int, str]:
        """What the structure depends on."""
        s = self.scenario
        return s.schedule, s.pp, s.vpp, s.microbatches, s.p2p


def prepare(scenario: Scenario) -> Case:
    """Build all that one cell needs; ``ValueError`` for what cannot be meant, `Infeasible` for sizes that do not fit."""
    s = scenario
    passes = math.prod(SCHEDULES[s.schedule.name].sizes(s.pp, s.microbatches, s.vpp))
    if passes > MOST_PASSES:
        sizes = f"pp={s.pp} and microbatches={s.microbatches}"
        raise Infeasible(f"{sizes} make {passes} passes of a microbatch through a stage; at most {MOST_PASSES} are possible")
    # GPUs of a rank go in lock-step: where noise is that of one GPU, a rank has the largest of tp x cp
    lock_step = {"op": s.tp * s.cp, "rank": s.tp * s.cp} if s.latency.per == "gpu" else {}
    tables = tuple(
        None if term is None else quantile_table(term.name, term.params, lock_step.get(kind, 1))
        for kind, term in zip(TERMS, s.latency.terms, strict=True)
    )
    extremes = [(1.0, 1.0) if table is None else extreme_factors(table) for table in tables]
    largest = math.prod(high for _, high in extremes)
    built = structure(s.schedule, s.pp, s.vpp, s.microbatches, s.p2p)
    numbers = weights(s.topology, s.model, s.efficiency, built.stage_ranks, s.microbatch_size, s.p2p, s.layout, s.memory.offload)
    check_ticks(numbers, noisy=any(extreme != (1.0, 1.0) for extreme in extremes[:-1]))
    pipeline = float(built.n_works @ numbers.work) + float(built.n_lags @ numbers.lag.astype(float))
    check_clock(pipeline * largest + float(numbers.tail.max()))
    case = Case(s, numbers, tables)
    check_room(numbers.costs, case.room, s.layout.n_replicas, s.layout.n_expert_replicas)
    return case


@lru_cache(maxsize=256, typed=True)
def structure(schedule: Choice, pp: int, vpp: int | None, microbatches: int, p2p: str) -> Structure:
    """Graph of a schedule at a size."""
    written = program(schedule.name, pp, microbatches, vpp, **schedule.kwargs)
    graph = lower(written, p2p)
    n_stages = written.n_stages
    return Structure(
        graph,
        written.stage_ranks,
        written.in_flight,
        np.bincount(graph.work, minlength=6 * n_stages),
        np.bincount(graph.lag, minlength=1 + 2 * n_stages),
    )


@lru_cache(maxsize=4096, typed=True)
def weights(
    topology: Choice,
    model: Model,
    efficiency: Efficiency | None,
    stage_ranks: tuple[int, ...],
    microbatch_size: int,
    p2p: str,
    layout: Layout,
    offload: float,
) -> Weights:
    """Durations and delays of every stage, in ticks."""
    devices = {key: None if key == "order" and isinstance(value, str) else value for key, value in topology.params}
    cluster: Cluster = TOPOLOGIES[topology.name].build(layout.n_gpus, **devices)
    shared = tuple(groups(cluster, layout, rank) for rank in range(layout.pp))
    costs = offloaded(stage_costs(model, cluster.gpu, stage_ranks, microbatch_size, shared, efficiency), cluster.gpu, offload)
    tail = np.full(layout.pp, costs.overhead * TICKS)
    if costs.parameters is not None:
        for rank in range(layout.pp):
            held = sum(n for n, home in zip(costs.parameters, stage_ranks, strict=True) if home == rank)
            tail[rank] += after_pipeline(held, cluster.gpu, ring(cluster, layout.replicas(rank))) * TICKS
    n_stages = costs.n_stages
    work, lag, link = np.zeros(6 * n_stages), np.zeros(1 + 2 * n_stages), np.zeros(1 + 2 * n_stages, np.int64)
    for stage, here in enumerate(stage_ranks):
        passes = (costs.forward, costs.backward, costs.backward_input, costs.backward_weight)
        for kind, seconds in zip(KINDS, (each[stage] for each in passes), strict=True):
            work[work_index(stage, kind)] = seconds * TICKS
        for backward, neighbour in ((False, stage + 1), (True, stage - 1)):
            if 0 <= neighbour < n_stages:
                path = cluster.between(layout.gpu(here), layout.gpu(stage_ranks[neighbour]))
                latency, occupied = path.latency * TICKS, costs.p2p_bytes / path.bandwidth * TICKS
                link[lag_index(stage, backward)] = PATH_CLASSES.index(path.path_class)
                lag[lag_index(stage, backward)] = np.floor(latency + 0.5)
                if p2p != "latency":
                    work[transfer_index(n_stages, stage, backward)] = occupied
                else:
                    lag[lag_index(stage, backward)] += np.floor(occupied + 0.5)
    check_clock(max(work.sum(), lag.sum(), tail.max()))
    whole, after = lag.astype(np.int64), np.floor(tail + 0.5).astype(np.int64)
    for array in (work, whole, link, after):
        array.flags.writeable = False
    return Weights(cluster, costs, work, whole, link, after)


def check_ticks(weights: Weights, noisy: bool) -> None:
    """Refuse compute times that whole ns cannot hold: below 1 ns, or with noise below 1 us, where rounding is 0.05 % of it."""
    times = weights.work[: 4 * weights.costs.n_stages]
    at, least = int(times.argmin()), 1000 if noisy else 1
    if times[at] < least:
        stage, kind, seconds = at // 4, KINDS[at % 4], times[at] / TICKS
        needed = "1e-6 s, as noise is rounded to whole ns" if noisy else "the 1 ns that the clock counts"
        raise ValueError(f"stage {stage} computes {kind} in {seconds:.3g} s, less than {needed}")


def check_clock(ticks: float) -> None:
    """Refuse times that int64 ticks cannot add up."""
    if not ticks < 2**62:
        raise ValueError(f"times add up to {ticks / TICKS:.3g} s, beyond the 2^62 ns (146 years) that the clock can count")
