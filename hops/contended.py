"""Cells whose transfers share links, draw by draw in the event loop: durations come from the kernel's window, times from events.

o = nodes of one replica, d = lanes, r = ranks, a = nodes of all replicas, which run side by side, as they may meet on links too.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.events import run_events
from hops.jit import kernel
from hops.kernels import add_metrics, add_replica, begin_replicas
from hops.links import Links
from hops.noise import LANES
from hops.synchronization import release, synchronize
from hops.window import GATHER, REDUCE, draw_links, run_window


class Joint(NamedTuple):
    """Replicas of a graph side by side: their edges, indptr (a+1,) and pred, and the links that their messages share."""

    indptr: NDArray[np.int32]
    pred: NDArray[np.int32]
    links: Links
    fair: bool


class Times(NamedTuple):
    """Scratch of one call [ticks]: per lane what events need to know, and of the last lane what they found."""

    ticks: NDArray[np.int64]  # (d, a) duration of a node alone
    earliest: NDArray[np.int64]  # (d, a) before when it cannot begin
    hosted: NDArray[np.int64]  # (d, a) when its host has issued it
    delay: NDArray[np.int64]  # (d, edges)
    start: NDArray[np.int64]  # (a,)
    finish: NDArray[np.int64]  # (a,)
    order: NDArray[np.int64]  # (a,)


def make_times(width: int, n_all: int, n_edges: int) -> Times:
    """Allocate `Times` for ``width`` draws at once."""
    sizes: tuple[tuple[int, ...], ...] = ((width, n_all),) * 3 + ((width, n_edges),) + ((n_all,),) * 3
    return Times(*(np.empty(size, np.int64) for size in sizes))


@kernel
def run_contended(graph, slot, joint, cells, law, tables, window, lo, hi, times, space):  # type: ignore[no-untyped-def]
    """Evaluate draws lo <= . < hi of a window, all replicas; leaves their sums and extremes in ``space``, as `run_replicas` does."""
    n, n_nodes = hi - lo, graph.rank.size
    draw_links(graph, cells.seed[0], law, tables, window, lo, hi, space)
    if cells.overlap[0, GATHER]:
        release(graph, cells, 0, law, n, space)
    for replica in range(cells.n_replicas[0] - 1, -1, -1):  # so that the lags in ``space`` are those of the first, as in a trace
        run_window(graph, slot, cells, 0, law, tables, replica, window, lo, hi, space)
        for node in range(n_nodes):
            at = replica * n_nodes + node
            for d in range(n):
                times.ticks[d, at] = space.finish[node, d] - space.begun[node, d]
                times.earliest[d, at], times.hosted[d, at] = space.bound[node, d], space.hosted[node, d]
        for edge in range(graph.pred.size):
            for d in range(n):
                times.delay[d, replica * graph.pred.size + edge] = space.lag[graph.lag[edge], d]
    begin_replicas(space)
    for d in range(n):
        run_events(
            joint.indptr, joint.pred, times.delay[d], times.ticks[d], times.earliest[d], joint.links, joint.fair,
            times.start, times.finish, times.order,
        )  # fmt: skip
        for replica in range(cells.n_replicas[0]):
            measure(graph, cells, replica, times.start, times.finish, times.delay[d], d, times.hosted, space)
            add_replica(graph.n_ranks, replica, d, d + 1, space)


@kernel
def evaluate_contended(graph, joint, cells, law, tables, first_draw, times, space, per_draw, moments, per_rank):  # type: ignore[no-untyped-def]
    """Evaluate the one cell of ``cells`` (`Work`), whose replicas are a `Joint`; the rest as in `evaluate`.

    As many draws at once as ``times`` has room for; ``space`` has a row for every node. What one draw left in them is a trace.
    """
    n_draws, slot = per_draw.shape[2], np.arange(graph.rank.size)
    for window in range(first_draw // LANES, (first_draw + n_draws - 1) // LANES + 1):
        begin = max(first_draw - window * LANES, 0)
        end = min(first_draw + n_draws - window * LANES, LANES)
        for lo in range(begin, end, times.ticks.shape[0]):
            hi = min(lo + times.ticks.shape[0], end)
            run_contended(graph, slot, joint, cells, law[0], tables, window, lo, hi, times, space)
            synchronize(graph, cells, 0, law[0], hi - lo, space)
            at = window * LANES + lo - first_draw
            add_metrics(0, graph.n_ranks, cells.n_replicas[0], hi - lo, at, space, per_draw, moments, per_rank)


@kernel
def measure(graph, cells, replica, start, finish, delay, d, hosted, space):  # type: ignore[no-untyped-def]
    """Take lane ``d`` of a replica from start, finish of all nodes and delay of all edges to ``space``, as `run_window` does."""
    first_node, first_edge = replica * graph.rank.size, replica * graph.pred.size
    most_buckets = space.released.shape[0] // graph.opening.size
    space.busy[:, d] = 0
    space.exposed[:, d] = 0
    for node in range(graph.rank.size):
        rank, at = graph.rank[node], first_node + node
        if rank < 0:
            continue
        ready = unhindered = hosted[d, at]
        for edge in range(graph.indptr[node], graph.indptr[node + 1]):
            ready = max(ready, finish[first_node + graph.pred[edge]] + delay[first_edge + edge])
            unhindered = max(unhindered, finish[first_node + graph.origin[edge]])
        ticks = finish[at] - start[at]
        space.busy[rank, d] += ticks
        # of a lone predecessor without delay there is nothing to wait for but it
        if graph.indptr[node + 1] - graph.indptr[node] != 1 or graph.lag[graph.indptr[node]] != 0:
            space.exposed[rank, d] += ready - unhindered
        space.exposed[rank, d] += start[at] - ready
        if graph.first[node]:
            space.first[rank, d] = ready
        if graph.last[node]:
            space.last[rank, d] = finish[at]
        if graph.milestone[node] >= 0 and cells.overlap[0, REDUCE]:
            n_parts = cells.n_buckets[0, graph.reduced[graph.milestone[node]]]
            for part in range(n_parts):
                row = graph.milestone[node] * most_buckets + part
                there = finish[at] - ticks * (n_parts - 1 - part) // n_parts
                space.ready[row, d] = max(space.ready[row, d], there)
