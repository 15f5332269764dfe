"""Single iterations of a case under speeds of its resources, for training runs: how long they take, and what a failure cuts off.

What is class A (slow, stalled) is a longest path whose ends are `hops.speeds.advance`d; what is class B (a device dies, and the iteration
is discarded) is such an iteration, cut: nothing in it needs to be simulated up to the failure.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops import kernels
from hops.checks import FINEST
from hops.contended import Times, add_executed, evaluate_contended, make_times
from hops.executor import joined, law_rows, pool_of, stacked
from hops.graph import Graph, unfolded
from hops.impact import speeds_of
from hops.joint import Joint, Resources
from hops.simulation import Case, most_ticks
from hops.speeds import NEVER, Speeds, stopped
from hops.weights import Floats, check_clock
from hops.workspace import Work, Workspace, workspace

WIDTH = 16  # draws at once


class Bench(NamedTuple):
    """A case laid out with all of its lanes, and scratch: one a thread. Its disturbances are ``speeds``, and no others count."""

    case: Case
    graph: Graph
    joint: Joint
    cells: Work
    law: NDArray[np.int64]
    tables: Floats
    times: Times
    space: Workspace
    resources: Resources
    speeds: Speeds


def make_bench(case: Case, loop: bool | None = None) -> Bench:
    """Lay ``case`` out; ``loop``: whether by the event loop, by default where traffic shares links."""
    graph, n_lanes = unfolded(case.structure.graph), case.weights.variant.size
    resources = Resources(n_lanes, graph.n_ranks, graph.opening.size)
    check_clock(most_ticks(case) * FINEST)
    cells, (law, tables) = stacked([case]), law_rows([case])
    joint = joined(case, graph, n_lanes)
    return Bench(
        case,
        graph,
        joint if loop is None else joint._replace(loop=loop),
        cells._replace(n_replicas=np.array([n_lanes])),
        law,
        tables,
        make_times(WIDTH, n_lanes, graph, joint),
        workspace(graph, graph.rank.size, int(cells.n_buckets.max())),
        resources,
        speeds_of(case, case.scenario.hindrances.disturbances),
    )


def disturbed_iterations(bench: Bench, trial: int, first: int, n: int, speeds: Speeds) -> NDArray[np.int64]:
    """Draws ``first`` and following of a trial as `hops.executor.pool_of` has them, (3, n) ticks, but summed over all lanes.

    ``ValueError`` for a resource that stands still for ever.
    """
    if ((speeds.num == 0) & (speeds.end == NEVER)).any():
        raise ValueError("a resource stands still for ever: such an iteration never ends (cut it with executed_ticks)")
    return pool_of(_evaluate(bench, trial, first, n, speeds)[:, 0], bench.case, bench.resources.n_lanes)


def executed_ticks(bench: Bench, trial: int, draw: int, speeds: Speeds, at: int) -> NDArray[np.int64]:
    """What every rank of every lane has computed until tick ``at`` of a draw, (lanes, ranks) ticks; an op that ends then has ended."""
    _evaluate(bench, trial, draw, 1, speeds)
    executed = np.zeros((bench.resources.n_lanes, bench.resources.n_ranks), np.int64)
    add_executed(bench.graph, bench.joint, at, bench.times, executed)
    return executed


def drifted_ticks(
    bench: Bench, trial: int, draw: int, speeds: Speeds, dead: Mapping[tuple[int, int], int], until: int
) -> NDArray[np.int64]:
    """The same where ranks (lane, rank) stop at ticks of their own, at ``until`` or before: the others go on until they wait for them."""
    for each, at in dead.items():
        speeds = stopped(speeds, [bench.resources.rank(*each)], at)
    executed = executed_ticks(bench, trial, draw, speeds, until)
    for at in set(dead.values()):
        before = np.zeros_like(executed)
        add_executed(bench.graph, bench.joint, at, bench.times, before)
        for each in (each for each, tick in dead.items() if tick == at):
            executed[each] = before[each]
    return executed


def _evaluate(bench: Bench, trial: int, first: int, n: int, speeds: Speeds) -> NDArray[np.int64]:
    """Ticks of every draw (7, 1, n)."""
    graph, cells = bench.graph, bench.cells
    per_draw, ranks = np.empty((kernels.N_METRICS, 1, n), np.int64), np.empty((3, 0, graph.n_ranks, n), np.int64)
    sums = np.zeros((1, 3, graph.n_ranks, kernels.N_LIMBS), np.int64)
    cells = cells._replace(seed=cells.seed + (np.uint64(trial) << np.uint64(32)))
    joint = bench.joint._replace(speeds=speeds)
    evaluate_contended(graph, joint, cells, bench.law, bench.tables, first, bench.times, bench.space, per_draw, sums, ranks)
    return per_draw
