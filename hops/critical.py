"""The critical path of every draw: from the end of an iteration back to its beginning, every tick booked to what it waited for.

o = nodes in topological order, d = lanes (draws of a window, innermost), r = ranks, k = what time is booked to (`part_names`). Of
several that end at the same tick the path goes through the first in the graph's order, and exchanges before their gradients.
"""

import numpy as np

from hops.jit import inner, kernel
from hops.kernels import run_replicas
from hops.noise import LANES
from hops.synchronization import exchange_ticks, synchronize
from hops.window import GATHER, REDUCE, run_window

N_FIXED = 3  # parts between those of ranks and those of messages: REDUCE_GRAD, UNSHARD, optimizer


@inner
def leave(graph, cells, c, law, barrier, n, space, book, cursor, origin, source, bucket):  # type: ignore[no-untyped-def]
    """Go back from the end of the iteration to the end of an op: books the optimizer, and what replicas exchange after it.

    Leaves where every lane is: ``cursor`` (d,) its tick, ``origin`` (d,) where it will end; ``source`` (d,) the rank whose last op ends
    there or, where ``bucket`` (d,) is one of the gradients and not -1, the milestone whose gradients are there by then.
    """
    most_buckets, reductions = space.released.shape[0] // graph.opening.size, 2 * graph.n_ranks
    gathered = np.zeros((graph.n_ranks, LANES), np.int64)
    if not cells.overlap[c, GATHER]:
        for rank in range(graph.n_ranks):
            for i in range(graph.openings[rank], graph.openings[rank + 1]):
                stage = graph.opening[i]
                exchange_ticks(cells.gather[c, stage], cells.ring[c, stage], law, graph, n, space, space.ticks)
                for d in range(n):
                    gathered[rank, d] += cells.n_buckets[c, stage] * space.ticks[d]
    for d in range(n):
        last = follows = 0  # the rank that ends last, and whose update takes longest
        for rank in range(1, graph.n_ranks):
            after, longest = cells.update[c, rank] + gathered[rank, d], cells.update[c, follows] + gathered[follows, d]
            if barrier:
                last = rank if space.latest[rank, d] > space.latest[last, d] else last
                follows = rank if after > longest else follows
            else:
                mine = space.latest[rank, d] + after - space.earliest[rank, d]
                last = rank if mine > space.latest[last, d] + longest - space.earliest[last, d] else last
                follows = last
        book[reductions + 1, d] += gathered[follows, d]
        book[reductions + 2, d] += cells.update[c, follows]
        now, source[d], bucket[d] = space.latest[last, d], last, -1
        origin[d] = np.int64(0) if barrier else space.earliest[last, d]
        going = True
        for i in range(graph.reductions[last + 1] - 1, graph.reductions[last] - 1, -1):
            milestone = graph.reducing[i]
            for part in range(cells.n_buckets[c, graph.reduced[milestone]] - 1, -1, -1):
                at = milestone * most_buckets + part
                going = going and space.reduced[at, d] == now
                if going:
                    begin = max(space.ready[at, d], origin[d])
                    book[reductions, d] += now - begin
                    now, source[d], bucket[d] = begin, milestone, at
        cursor[d] = now


@inner
def enter(graph, cells, c, n, space, cursor, source, bucket, node_of):  # type: ignore[no-untyped-def]
    """Find the op of this replica that ends, or has gradients, at the tick where a lane is: fills ``node_of`` (d,) where there is one."""
    most_buckets = space.released.shape[0] // graph.opening.size
    for node in range(graph.rank.size):
        rank, milestone = graph.rank[node], graph.milestone[node]
        if cells.overlap[c, REDUCE]:
            if milestone < 0 and not (rank >= 0 and graph.last[node]):
                continue
            for d in range(n):
                if node_of[d] >= 0:
                    continue
                if bucket[d] < 0:
                    found = rank == source[d] and graph.last[node] and space.finish[node, d] == cursor[d]
                else:
                    found = False
                    if milestone == source[d]:
                        n_parts, part = cells.n_buckets[c, graph.reduced[milestone]], bucket[d] - milestone * most_buckets
                        ticks = space.finish[node, d] - start_of(graph, node, d, space)
                        found = space.finish[node, d] - ticks * (n_parts - 1 - part) // n_parts == cursor[d]
                if found:
                    node_of[d] = node
        elif rank >= 0 and graph.last[node]:
            for d in range(n):
                mine = rank == source[d] and bucket[d] < 0
                if bucket[d] >= 0:
                    for i in range(graph.reductions[rank], graph.reductions[rank + 1]):
                        mine = mine or graph.reducing[i] == source[d]
                if mine and node_of[d] < 0 and space.finish[node, d] == cursor[d]:
                    node_of[d] = node


@inner
def start_of(graph, node, d, space):  # type: ignore[no-untyped-def]
    """When a node begins in lane ``d``."""
    if space.begun.shape[0] > 0:
        return space.begun[node, d]
    start = np.int64(0)
    for edge in range(graph.indptr[node], graph.indptr[node + 1]):
        start = max(start, space.finish[graph.pred[edge], d] + space.lag[graph.lag[edge], d])
    return start


@inner
def walk_back(graph, cells, c, n, space, book, cursor, origin, node_of, head, following, crossed):  # type: ignore[no-untyped-def]
    """Follow the critical path of every lane that is at an op of this replica to its origin; ``crossed`` (o,) counts draws.

    Nodes from the last to the first, each with a list of the lanes that are there (``head`` (o,) and ``following`` (d,), all -1 before
    and after), so that rows of finish times are read in the order of memory. us a draw, one core (Zen 5), 1F1B p=8 m=32, p2p=channel: 0.9,
    beside 1.2 of the evaluation; with all lanes asked at every node whether they are there 1.6.
    """
    n_stages, n_ranks, hosts = cells.n_buckets[c].size, graph.n_ranks, space.begun.shape[0] > 0
    lags, finish, delay = 2 * n_ranks + N_FIXED, space.finish, space.lag
    for d in range(n):
        if node_of[d] >= 0:
            following[d], head[node_of[d]] = head[node_of[d]], d
            node_of[d] = -1
    for node in range(graph.rank.size - 1, -1, -1):
        d, head[node] = head[node], -1
        if d < 0:
            continue
        rank, begin, end = graph.rank[node], graph.indptr[node], graph.indptr[node + 1]
        mine = rank if rank >= 0 else lags + 1 + graph.work[node] - 4 * n_stages
        issued = hosts and cells.host[c, graph.work[node]] > 0
        while d >= 0:
            crossed[node] += 1
            most, by, lag = np.int64(0), -1, 0
            for edge in range(begin, end):
                there = finish[graph.pred[edge], d] + delay[graph.lag[edge], d]
                if there > most:
                    most, by, lag = there, graph.pred[edge], graph.lag[edge]
            start = space.begun[node, d] if hosts else most
            to = max(start, origin[d])
            book[mine, d] += cursor[d] - to
            further = following[d]
            if to > origin[d] and most == start:
                cursor[d] = max(finish[by, d], origin[d])
                book[lags + lag, d] += to - cursor[d]
                if cursor[d] > origin[d]:
                    following[d], head[by] = head[by], d
            else:  # its host has issued it just then, or the weights have come; or this is the origin
                cursor[d] = origin[d]
                hosted = issued and space.hosted[node, d] == start
                book[n_ranks + rank if hosted else 2 * n_ranks + 1, d] += to - origin[d]
            d = further


@kernel
def attribute(graph, cells, law, tables, first_draw, barrier, space, book, crossed):  # type: ignore[no-untyped-def]
    """Book every tick of the one cell of ``cells`` (`Work`) to parts: ``book`` (k, n), from ``first_draw`` on; counts ``crossed`` (o,).

    ``graph`` and ``space`` have a row for every node; ``space`` has starts too where hosts issue or weights are gathered within.
    """
    c, n_draws = np.int64(0), book.shape[1]
    cursor, origin = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    source, bucket, node_of = np.empty(LANES, np.int64), np.empty(LANES, np.int64), np.empty(LANES, np.int32)
    head, following = np.full(graph.rank.size, -1, np.int32), np.full(LANES, -1, np.int32)
    lanes = np.zeros((book.shape[0], LANES), np.int64)
    for window in range(first_draw // LANES, (first_draw + n_draws - 1) // LANES + 1):
        lo, hi = max(first_draw - window * LANES, 0), min(first_draw + n_draws - window * LANES, LANES)
        n, at = hi - lo, window * LANES + lo - first_draw
        run_replicas(graph, cells, c, law[c], tables, window, lo, hi, space)
        synchronize(graph, cells, c, law[c], n, space)
        lanes[:] = 0
        node_of[:] = -1
        leave(graph, cells, c, law[c], barrier, n, space, lanes, cursor, origin, source, bucket)
        for replica in range(cells.n_replicas[c]):
            left = 0
            for d in range(n):
                left += cursor[d] > origin[d]
            if left == 0:
                break
            if replica > 0:  # the first one was evaluated last
                run_window(graph, cells, c, law[c], tables, replica, window, lo, hi, space)
            enter(graph, cells, c, n, space, cursor, source, bucket, node_of)
            walk_back(graph, cells, c, n, space, lanes, cursor, origin, node_of, head, following, crossed)
        for part in range(book.shape[0]):
            for d in range(n):
                book[part, at + d] = lanes[part, d]
