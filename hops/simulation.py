"""The natural path on one page: scenario -> program -> graph, and scenario -> cluster, costs -> durations in ticks.

`prepare` walks it for one cell and refuses what cannot work; ``executor.evaluate`` takes the cases through the kernel
and ``metrics`` says what its ticks mean. Every arrow is a function of frozen values, remembered where cells of a
sweep ask the same again.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.cluster import Cluster
from hops.costs import Costs, Model, stage_costs
from hops.graph import Graph, lag_index, lower, transfer_index, work_index
from hops.metrics import TICKS, Floats
from hops.noise import largest_factor, quantile_table
from hops.programs import Program
from hops.scenario import Choice, Scenario
from hops.schedules import program
from hops.topologies import TOPOLOGIES


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
