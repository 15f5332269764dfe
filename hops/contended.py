"""Cells whose transfers share links, draw by draw in the event loop: durations come from the kernel's window, times from events.

o = nodes of one replica, d = lanes, r = ranks. All replicas run side by side, as they may meet on links too.
"""

import numpy as np

from hops.events import run_events
from hops.jit import kernel
from hops.kernels import add_metrics, add_replica, begin_replicas, most_buckets
from hops.noise import LANES
from hops.synchronization import release, synchronize
from hops.window import GATHER, REDUCE, draw_links, run_window
from hops.workspace import workspace


@kernel
def evaluate_contended(graph, indptr, pred, links, fair, cells, law, tables, first_draw, per_draw, moments, per_rank):  # type: ignore[no-untyped-def]
    """Evaluate the one cell of ``cells`` (`Work`), whose replicas' nodes indptr, pred and ``links`` join; the rest as in `evaluate`."""
    n_nodes, n_draws, n_replicas = graph.rank.size, per_draw.shape[2], cells.n_replicas[0]
    space = workspace(graph, n_nodes, n_nodes, most_buckets(cells))
    slot = np.arange(n_nodes)
    n_all = n_nodes * n_replicas
    ticks, earliest, hosted = np.empty((LANES, n_all), np.int64), np.empty((LANES, n_all), np.int64), np.empty((LANES, n_all), np.int64)
    delay = np.empty((LANES, pred.size), np.int64)
    start, finish, order = np.empty(n_all, np.int64), np.empty(n_all, np.int64), np.empty(n_all, np.int64)
    for window in range(first_draw // LANES, (first_draw + n_draws - 1) // LANES + 1):
        lo = max(first_draw - window * LANES, 0)
        hi = min(first_draw + n_draws - window * LANES, LANES)
        n = hi - lo
        draw_links(graph, cells.seed[0], law[0], tables, window, lo, hi, space)
        if cells.overlap[0, GATHER]:
            release(graph, cells, 0, law[0], n, space)
        for replica in range(n_replicas):
            run_window(graph, slot, cells, 0, law[0], tables, replica, window, lo, hi, space)
            for node in range(n_nodes):
                at = replica * n_nodes + node
                for d in range(n):
                    ticks[d, at] = space.finish[node, d] - space.begun[node, d]
                    earliest[d, at], hosted[d, at] = space.bound[node, d], space.hosted[node, d]
            for edge in range(graph.pred.size):
                for d in range(n):
                    delay[d, replica * graph.pred.size + edge] = space.lag[graph.lag[edge], d]
        begin_replicas(space)
        for d in range(n):
            run_events(indptr, pred, delay[d], ticks[d], earliest[d], links, fair, start, finish, order)
            for replica in range(n_replicas):
                measure(graph, cells, replica, start, finish, delay[d], d, hosted, space)
                add_replica(graph.n_ranks, replica, d, d + 1, space)
        synchronize(graph, cells, 0, law[0], n, space)
        add_metrics(0, graph.n_ranks, n_replicas, n, window * LANES + lo - first_draw, space, per_draw, moments, per_rank)


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
