"""The event loop: one draw of a graph whose transfers share links, event by event. int64 ticks of 1 ns.

o = nodes, e = edges, u = uses of links by nodes, l = links. A node is ready when all that it waits for has ended and the
delays are over; without links it then runs at once. A node with links is a transfer, and shares them:

* fifo: a transfer has all its links to itself for its whole duration. Transfers stand in one order, by (tick at which
  they were ready, node number); one begins as soon as all its links are free and none before it in this order still
  waits for any of them. The first of those waiting waits only for transfers that run, so nothing can deadlock.
* fair: all transfers that are ready run; links divide their bandwidth max-min fairly (water-filling: Bertsekas & Gallager,
  Data Networks, 6.5.2, from memory), and none is faster than alone. Levels are rounded down to 2^-10 bytes/s. What a transfer
  has left is its ticks times 2^k, k as large as 61 bits allow, and each tick takes its share of that: its rate, as a
  part of its own top rate, rounded down to 2^-k. It ends at the nearest tick. So it takes exactly its ticks alone; one that
  takes d ticks because it shares is at most 1 + d^2 2^-60 of them late by rounding (2^30 ticks are about a second).

Events are in total order (tick, kind, node): at one tick first all that ends ends, then what is ready joins, then transfers
begin. So the outcome depends on the numbers of the nodes only where two transfers are ready at the same tick.

What resources do faster or slower for a while (`hops.speeds`) stretches nodes and delays; not transfers that share fairly.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.agenda import BEGIN, FINISH, KIND, NODE, READY, put, take
from hops.checks import one_of
from hops.edges import group
from hops.jit import kernel
from hops.links import Links, divide, join, leave, make_lines
from hops.speeds import advance, make_speeds

DISCIPLINES = ("fifo", "fair")


class Run(NamedTuple):
    """When each node ran [ticks], and the nodes in the order in which they began, which is a topological one."""

    start: NDArray[np.int64]  # (o,)
    finish: NDArray[np.int64]  # (o,)
    order: NDArray[np.int64]  # (o,)


def run(
    indptr: NDArray[np.int32],
    pred: NDArray[np.int32],
    delay: NDArray[np.int64],
    ticks: NDArray[np.int64],
    links: Links,
    discipline: str,
) -> Run:
    """Run one draw of a graph without cycles: edges indptr (o+1,), pred (e,), delay (e,) [ticks]; ticks (o,) of every node alone.

    ``discipline``: fifo or fair, anything else is a ``ValueError``.
    """
    one_of("discipline", discipline, DISCIPLINES)
    made = Run(*(np.empty(ticks.size, np.int64) for _ in Run._fields))
    steady = make_speeds(0, {}), np.full(ticks.size, -1), np.full(pred.size, -1)
    own = indptr.copy(), pred.copy()  # a graph's cannot be written to: another type, for which all would be compiled anew
    run_events(*own, delay, ticks, np.zeros_like(ticks), links, discipline == "fair", *steady, *made)
    return made


@kernel
def run_events(indptr, pred, delay, ticks, earliest, links, fair, speeds, place, via, start, finish, order):  # type: ignore[no-untyped-def]
    """Run one draw, see `run`; no node begins before ``earliest`` (o,) [ticks]; start, finish, order (o,) are results.

    place (o,), via (e,): resource of a node, and of a delay, among those of ``speeds``; -1: none.

    ns per node, one core (Zen 5), 1F1B with p2p=channel, p=16 m=64: 41 without links, two events each; 171 with the agenda as a tuple. The
    kernel takes 1.3 a node and draw.
    """
    # arrays are taken out of their tuples once, see `hops.agenda`
    n, n_links, varies = ticks.size, links.bandwidth.size, speeds.varies
    out_indptr, out_edge, goal = np.zeros(n + 1, np.int64), np.empty(pred.size, np.int64), np.empty(pred.size, np.int64)
    group(pred, out_indptr, out_edge)
    for node in range(n):
        goal[indptr[node] : indptr[node + 1]] = node
    agenda, what, at_place, n_events = np.empty(n, np.int64), np.empty(n, np.int64), np.full(n, -1), 0
    lines = make_lines(links, n, n_links, fair)
    uses, use, line, head, tail, busy = links.indptr, links.use, lines.line, lines.head, lines.tail, lines.busy
    missing, ready, begun = np.empty(n, np.int64), earliest.copy(), 0
    for node in range(n):
        missing[node] = indptr[node + 1] - indptr[node]
        if missing[node] == 0:
            n_events = put(agenda, what, at_place, n_events, node, ready[node], READY)

    while n_events:
        now, kind, node = agenda[0], what[0] >> KIND, what[0] & NODE
        take(agenda, what, at_place, n_events)
        n_events -= 1
        first, last = uses[node], uses[node + 1]
        if kind == FINISH:
            for i in range(out_indptr[node], out_indptr[node + 1]):
                edge = out_edge[i]
                after = goal[edge]
                there = advance(now, delay[edge], via[edge], speeds) if varies[via[edge]] else now + delay[edge]
                ready[after] = max(ready[after], there)
                missing[after] -= 1
                if missing[after] == 0:
                    n_events = put(agenda, what, at_place, n_events, after, ready[after], READY)
            if fair and last > first and ticks[node] > 0:
                for i in range(first, last):
                    leave(line, head, tail, use[i], node)
                divide(links, lines, agenda, what, at_place, n_events, node, now, finish)
            elif not fair:
                for i in range(first, last):
                    link = use[i]
                    busy[link] = False
                    if head[link] < tail[link] and at_place[line[head[link]]] < 0:  # else it is asked at this tick already
                        n_events = put(agenda, what, at_place, n_events, line[head[link]], now, BEGIN)
            continue
        if kind == READY and last > first and not fair:
            for i in range(first, last):
                join(line, head, tail, use[i], node, ready)
            n_events = put(agenda, what, at_place, n_events, node, now, BEGIN)
            continue
        if kind == BEGIN:
            free = True
            for i in range(first, last):
                free &= not busy[use[i]] and line[head[use[i]]] == node
            if not free:  # whoever it waits for will ask again
                continue
            for i in range(first, last):
                busy[use[i]] = True
                head[use[i]] += 1
        start[node], order[begun] = now, node
        finish[node] = advance(now, ticks[node], place[node], speeds) if varies[place[node]] else now + ticks[node]
        begun += 1
        n_events = put(agenda, what, at_place, n_events, node, finish[node], FINISH)
        if fair and last > first and ticks[node] > 0:
            lines.left[node], lines.share[node], lines.since[node] = ticks[node], 0, now
            lines.scale[node] = 0
            while lines.left[node] < 1 << 60:
                lines.left[node] *= 2
                lines.scale[node] += 1
            for i in range(first, last):
                join(line, head, tail, use[i], node, ready)
            divide(links, lines, agenda, what, at_place, n_events, node, now, finish)
