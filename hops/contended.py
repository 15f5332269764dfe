"""Cells whose traffic shares links, draw by draw in the event loop: durations come from the kernel's window, times from events.

o = nodes of one replica, d = lanes, r = ranks; a = activities, x = pieces, e = edges of a `Joint` of all replicas, which may meet on
links too.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.events import run_events
from hops.graph import Graph
from hops.jit import inlined, inner, kernel
from hops.joint import Joint, cut
from hops.kernels import add_metrics, add_replica, begin_replicas
from hops.noise import LANES
from hops.speeds import advance
from hops.synchronization import exchange_ticks, release
from hops.window import GATHER, draw_links, run_window


class Times(NamedTuple):
    """Scratch of one call [ticks]: per lane what events need to know, and of the last lane what they found."""

    ticks: NDArray[np.int64]  # (d, a) duration of an activity alone
    hosted: NDArray[np.int64]  # (d, nodes of all replicas) when its host has issued it
    delay: NDArray[np.int64]  # (d, edges of all replicas)
    pieces: NDArray[np.int64]  # (x,) duration alone
    earliest: NDArray[np.int64]  # (x,) before when it cannot begin
    waits: NDArray[np.int64]  # (e,) delay
    start: NDArray[np.int64]  # (x,)
    finish: NDArray[np.int64]  # (x,)
    order: NDArray[np.int64]  # (x,)


def make_times(width: int, n_replicas: int, graph: Graph, joint: Joint) -> Times:
    """Allocate `Times` for ``width`` draws at once."""
    n, edges = joint.activity.size, joint.pred.size
    wide = (joint.further.size - 1, n_replicas * graph.rank.size, n_replicas * graph.pred.size)
    found = [np.empty((width, size), np.int64) for size in wide] + [np.empty(size, np.int64) for size in (n, n, edges, n, n, n)]
    return Times(*found)


@inlined
def run_contended(graph, joint, cells, c, law, tables, window, lo, hi, times, space):  # type: ignore[no-untyped-def]
    """Evaluate draws lo <= . < hi of a window, all replicas; leaves their sums and extremes in ``space``, as `run_replicas` does."""
    n, n_nodes = hi - lo, graph.rank.size
    draw_links(graph, cells.seed[c], law, tables, window, lo, hi, space)
    if cells.overlap[c, GATHER]:
        release(graph, cells, c, law, n, space)
    for replica in range(cells.n_replicas[c] - 1, -1, -1):
        run_window(graph, cells, c, law, tables, replica, window, lo, hi, space)
        for node in range(n_nodes):
            at = replica * n_nodes + node
            for d in range(n):
                times.ticks[d, at] = space.finish[node, d] - space.begun[node, d]
                times.hosted[d, at] = space.hosted[node, d]
        for edge in range(graph.pred.size):
            for d in range(n):
                times.delay[d, replica * graph.pred.size + edge] = space.lag[graph.lag[edge], d]
    bucket = cells.n_replicas[c] * n_nodes
    for i in range(graph.reduced.size):
        bucket = fill_buckets(graph, cells, c, law, graph.reduced[i], cells.reduce, n, bucket, times, space)
    for i in range(graph.opening.size if cells.overlap[c, GATHER] else 0):
        bucket = fill_buckets(graph, cells, c, law, graph.opening[i], cells.gather, n, bucket, times, space)
    begin_replicas(space)
    for d in range(n):
        run_draw(joint, times, d)
        for replica in range(cells.n_replicas[c] - 1, -1, -1):
            measure(graph, joint, replica, times, d, space)
            add_replica(graph, d, d + 1, space)
        measure_exchange(graph, joint, cells, c, times, d, space)


@inner
def fill_buckets(graph, cells, c, law, stage, base, n, bucket, times, space):  # type: ignore[no-untyped-def]
    """Durations of the buckets of a stage, activities from ``bucket`` on; returns the next one. ``base`` (c, s) ticks."""
    exchange_ticks(base[c, stage], cells.ring[c, stage], law, graph, n, space, space.ticks)
    for _ in range(cells.n_buckets[c, stage]):
        for d in range(n):
            times.ticks[d, bucket] = space.ticks[d]
        bucket += 1
    return bucket


@kernel
def run_draw(joint, times, d):  # type: ignore[no-untyped-def]
    """Run lane ``d``: fills start, finish, order."""
    cut(joint, times.ticks[d], times.pieces)
    times.earliest[:] = 0
    times.earliest[: times.hosted.shape[1]] = times.hosted[d]
    for edge in range(joint.delay.size):
        times.waits[edge] = times.delay[d, joint.delay[edge]] if joint.delay[edge] >= 0 else 0
    if joint.loop:
        run_events(
            joint.indptr, joint.pred, times.waits, times.pieces, times.earliest, joint.links, joint.fair,
            joint.speeds, joint.place, joint.via, times.start, times.finish, times.order,
        )  # fmt: skip
    else:
        walk(joint, times)


@inner
def walk(joint, times):  # type: ignore[no-untyped-def]
    """The longest path in place of the events: fills start and finish."""
    indptr, pred, via, place, speeds, varies = joint.indptr, joint.pred, joint.via, joint.place, joint.speeds, joint.speeds.varies
    pieces, waits, start, finish = times.pieces, times.waits, times.start, times.finish
    for piece in joint.order:
        begin = times.earliest[piece]
        for edge in range(indptr[piece], indptr[piece + 1]):
            end = finish[pred[edge]]
            there = advance(end, waits[edge], via[edge], speeds) if varies[via[edge]] else end + waits[edge]
            begin = max(begin, there)
        start[piece] = begin
        finish[piece] = advance(begin, pieces[piece], place[piece], speeds) if varies[place[piece]] else begin + pieces[piece]


@kernel
def evaluate_contended(graph, joint, cells, law, tables, first_draw, times, space, per_draw, moments, per_rank):  # type: ignore[no-untyped-def]
    """Evaluate the one cell of ``cells`` (`Work`), whose replicas are a `Joint`; the rest as in `evaluate`.

    As many draws at once as ``times`` has room for; ``space`` has a row for every node. What the last draw left in it is a trace.
    """
    n_draws, c = per_draw.shape[2], np.int64(0)  # not a literal, for which numba would compile all anew
    for window in range(first_draw // LANES, (first_draw + n_draws - 1) // LANES + 1):
        begin = max(first_draw - window * LANES, 0)
        end = min(first_draw + n_draws - window * LANES, LANES)
        for lo in range(begin, end, times.ticks.shape[0]):
            hi = min(lo + times.ticks.shape[0], end)
            run_contended(graph, joint, cells, c, law[c], tables, window, lo, hi, times, space)
            update_disturbed(graph, joint, cells, c, law[c], hi - lo, space)
            at = window * LANES + lo - first_draw
            add_metrics(c, graph.n_ranks, cells.n_replicas[c], hi - lo, at, space, per_draw, moments, per_rank)


@inner
def last_piece(joint, activity):  # type: ignore[no-untyped-def]
    """Where ``activity`` ends."""
    return joint.further[activity + 1] - 1 if joint.further[activity + 1] > joint.further[activity] else activity


@inner
def measure(graph, joint, replica, times, d, space):  # type: ignore[no-untyped-def]
    """Take lane ``d`` of a replica from the times of all pieces to ``space``, as `run_window` does.

    An op that waits between its pieces for weights begins as much later: as late as it can without waiting.
    """
    first_node, first_edge = replica * graph.rank.size, replica * graph.pred.size
    start, finish = times.start, times.finish
    space.busy[:, d] = 0
    space.exposed[:, d] = 0
    for node in range(graph.rank.size):
        rank, at = graph.rank[node], first_node + node
        begun, before = start[at], at
        for piece in range(joint.further[at], joint.further[at + 1]):
            if joint.links.indptr[piece] == joint.links.indptr[piece + 1]:
                begun += start[piece] - finish[before]
            before = piece
        space.begun[node, d], space.finish[node, d] = begun, finish[before]
        if rank < 0:
            continue
        ready = unhindered = times.hosted[d, at]
        for edge in range(graph.indptr[node], graph.indptr[node + 1]):
            ended = finish[last_piece(joint, first_node + graph.pred[edge])]
            wait, lag = times.delay[d, first_edge + edge], joint.lag[first_edge + edge]
            ready = max(ready, advance(ended, wait, lag, joint.speeds) if joint.speeds.varies[lag] else ended + wait)
            unhindered = max(unhindered, finish[last_piece(joint, first_node + graph.origin[edge])])
        if graph.counted[node]:
            space.busy[rank, d] += finish[before] - begun
            # of a lone predecessor without delay there is nothing to wait for but it
            if graph.indptr[node + 1] - graph.indptr[node] != 1 or graph.lag[graph.indptr[node]] != 0:
                space.exposed[rank, d] += ready - unhindered
            space.exposed[rank, d] += begun - ready
        if graph.first[node]:
            space.first[rank, d] = ready if graph.counted[node] else finish[before]
        if graph.last[node]:
            space.last[rank, d] = finish[before]


@inner
def measure_exchange(graph, joint, cells, c, times, d, space):  # type: ignore[no-untyped-def]
    """Take what replicas exchange in lane ``d`` to ``space``, as `release` and `reduce_gradients` do."""
    most_buckets = space.released.shape[0] // graph.opening.size
    bucket = cells.n_replicas[c] * graph.rank.size
    for milestone in range(graph.reduced.size):
        for part in range(cells.n_buckets[c, graph.reduced[milestone]]):
            at = milestone * most_buckets + part
            space.ready[at, d], space.reduced[at, d] = times.start[bucket], times.finish[last_piece(joint, bucket)]
            bucket += 1
    for rank in range(graph.n_ranks):
        for i in range(graph.reductions[rank], graph.reductions[rank + 1]):
            for part in range(cells.n_buckets[c, graph.reduced[graph.reducing[i]]]):
                space.latest[rank, d] = max(space.latest[rank, d], space.reduced[graph.reducing[i] * most_buckets + part, d])
    for i in range(graph.opening.size if cells.overlap[c, GATHER] else 0):
        for part in range(cells.n_buckets[c, graph.opening[i]]):
            space.released[graph.opening[i] * most_buckets + part, d] = times.finish[last_piece(joint, bucket)]
            bucket += 1


@inner
def update_disturbed(graph, joint, cells, c, law, n, space):  # type: ignore[no-untyped-def]
    """Update and gather weights as `hops.synchronization.update_weights` does, each resource at its speed.

    Replicas update at the same time and gather when the last of them has.
    """
    first_ring = joint.speeds.indptr.size - 1 - graph.opening.size
    shared, own = space.start, space.unhindered  # when a rank ends that waits for all others, or for none
    for d in range(n):
        space.step[d] = space.own_step[d] = space.most_after[d] = 0
    for rank in range(graph.n_ranks):
        for d in range(n):
            space.most_after[d] = max(space.most_after[d], space.latest[rank, d])
    for rank in range(graph.n_ranks):
        for d in range(n):
            begin, alone = space.most_after[d], space.latest[rank, d]
            shared[d] = own[d] = 0
            for replica in range(cells.n_replicas[c]):
                place = replica * graph.n_ranks + rank
                shared[d] = max(shared[d], advance(begin, cells.update[c, rank], place, joint.speeds))
                own[d] = max(own[d], advance(alone, cells.update[c, rank], place, joint.speeds))
        if not cells.overlap[c, GATHER]:
            for i in range(graph.openings[rank], graph.openings[rank + 1]):
                stage = graph.opening[i]
                exchange_ticks(cells.gather[c, stage], cells.ring[c, stage], law, graph, n, space, space.ticks)
                for d in range(n):
                    for _ in range(cells.n_buckets[c, stage]):
                        shared[d] = advance(shared[d], space.ticks[d], first_ring + stage, joint.speeds)
                        own[d] = advance(own[d], space.ticks[d], first_ring + stage, joint.speeds)
        for d in range(n):
            space.step[d] = max(space.step[d], shared[d])
            space.own_step[d] = max(space.own_step[d], own[d] - space.earliest[rank, d])
    if graph.endless:
        for d in range(n):
            space.step[d] = space.own_step[d]


@kernel
def add_executed(graph, joint, at, times, executed):  # type: ignore[no-untyped-def]
    """Add what every rank of every lane has computed until tick ``at`` to executed (lanes, r); ops that are not counted too.

    What an op waits between its pieces counts where it waits for a link, as in its busy time.
    """
    for node in range(graph.rank.size * executed.shape[0]):
        rank = graph.rank[node % graph.rank.size]
        if rank < 0:
            continue
        before = node
        done = min(times.finish[node], at) - min(times.start[node], at)
        for piece in range(joint.further[node], joint.further[node + 1]):
            waited = joint.links.indptr[piece] < joint.links.indptr[piece + 1]
            begin = times.finish[before] if waited else times.start[piece]
            done += min(times.finish[piece], at) - min(begin, at)
            before = piece
        executed[node // graph.rank.size, rank] += done
