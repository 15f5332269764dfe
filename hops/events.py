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
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.checks import one_of
from hops.jit import kernel

FINISH, READY, BEGIN = range(3)  # kinds of events, in their order at one tick
DISCIPLINES = ("fifo", "fair")
FINE = 1024.0  # parts of a byte/s that levels are counted in
WIDE = 2.0**60  # a bandwidth beyond counts as this


class Links(NamedTuple):
    """What the nodes of a graph share; a node names a link once at most."""

    indptr: NDArray[np.int32]  # (o+1,) node i occupies use[indptr[i]:indptr[i+1]]
    use: NDArray[np.int32]  # (u,) link
    rate: NDArray[np.float64]  # (o,) of a transfer alone: its narrowest hop [bytes/s]
    bandwidth: NDArray[np.float64]  # (l,) [bytes/s]


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
    run_events(indptr, pred, delay, ticks, np.zeros_like(ticks), links, discipline == "fair", *made)
    return made


class Agenda(NamedTuple):
    """The next event of every node that has one: a binary heap of nodes by (tick, kind, node)."""

    heap: NDArray[np.int64]  # (o,)
    place: NDArray[np.int64]  # (o,) of a node in the heap; -1: it has no event
    tick: NDArray[np.int64]  # (o,)
    kind: NDArray[np.int64]  # (o,)
    size: NDArray[np.int64]  # (1,)


class Lines(NamedTuple):
    """Transfers at each link, those that wait (fifo) or run (fair), and what they have left."""

    indptr: NDArray[np.int64]  # (l+1,) those at link i are line[head[i]:tail[i]], room begins at indptr[i]
    line: NDArray[np.int64]  # (u,)
    head: NDArray[np.int64]  # (l,)
    tail: NDArray[np.int64]  # (l,)
    busy: NDArray[np.bool_]  # (l,) fifo: a transfer has it; fair: scratch
    free: NDArray[np.int64]  # (l,) fair, scratch: what is not given away yet [bytes/s / FINE]
    open: NDArray[np.int64]  # (l,) fair, scratch: transfers without a rate yet
    links: NDArray[np.int64]  # (l,) fair, scratch: links that the sharing spreads to
    flows: NDArray[np.int64]  # (o,) fair, scratch: transfers that it spreads to
    left: NDArray[np.int64]  # (o,) fair: 2^-scale of a tick alone
    scale: NDArray[np.int64]  # (o,)
    share: NDArray[np.int64]  # (o,) what a tick takes of `left`
    since: NDArray[np.int64]  # (o,) tick at which `left` was so


@kernel
def run_events(indptr, pred, delay, ticks, earliest, links, fair, start, finish, order):  # type: ignore[no-untyped-def]
    """Run one draw, see `run`; no node begins before ``earliest`` (o,) [ticks]; start, finish, order (o,) are results.

    ns per node, one core (Zen 5), 1F1B with p2p=channel, p=8 m=32 to p=16 m=256: 165 without links; with a network card for 2 to 8
    ranks 210 to 240 (fifo) and 470 to 800 (fair); an event is some 70, reversing the edges some 20. The kernel takes 1.3 a
    node and draw. Nodes without links begun when the last before them ends, with no event of their own: 90 and 180, but then
    nothing can happen to them in between.
    """
    n, n_links = ticks.size, links.bandwidth.size
    out_indptr, out_edge, goal = np.zeros(n + 1, np.int64), np.empty(pred.size, np.int64), np.empty(pred.size, np.int64)
    group(pred, out_indptr, out_edge)
    for node in range(n):
        goal[indptr[node] : indptr[node + 1]] = node
    agenda = Agenda(np.empty(n, np.int64), np.full(n, -1), np.empty(n, np.int64), np.empty(n, np.int64), np.zeros(1, np.int64))
    lines = make_lines(links, n, n_links, fair)
    missing, ready, begun = np.empty(n, np.int64), earliest.copy(), 0
    for node in range(n):
        missing[node] = indptr[node + 1] - indptr[node]
        if missing[node] == 0:
            put(agenda, node, ready[node], READY)

    while agenda.size[0]:
        node = take(agenda)
        now, kind = agenda.tick[node], agenda.kind[node]
        first, last = links.indptr[node], links.indptr[node + 1]
        if kind == FINISH:
            for i in range(out_indptr[node], out_indptr[node + 1]):
                after = goal[out_edge[i]]
                ready[after] = max(ready[after], now + delay[out_edge[i]])
                missing[after] -= 1
                if missing[after] == 0:
                    put(agenda, after, ready[after], READY)
            if fair and last > first and ticks[node] > 0:
                for i in range(first, last):
                    leave(lines, links.use[i], node)
                divide(links, lines, agenda, node, now, finish)
            elif not fair:
                for i in range(first, last):
                    link = links.use[i]
                    lines.busy[link] = False
                    if lines.head[link] < lines.tail[link]:
                        put(agenda, lines.line[lines.head[link]], now, BEGIN)
            continue
        if kind == READY and last > first and not fair:
            for i in range(first, last):
                join(lines, links.use[i], node, ready)
            put(agenda, node, now, BEGIN)
            continue
        if kind == BEGIN:
            free = True
            for i in range(first, last):
                link = links.use[i]
                free &= not lines.busy[link] and lines.line[lines.head[link]] == node
            if not free:  # whoever it waits for will ask again
                continue
            for i in range(first, last):
                lines.busy[links.use[i]] = True
                lines.head[links.use[i]] += 1
        start[node], finish[node], order[begun] = now, now + ticks[node], node
        begun += 1
        put(agenda, node, finish[node], FINISH)
        if fair and last > first and ticks[node] > 0:
            lines.left[node], lines.share[node], lines.since[node] = ticks[node], 0, now
            lines.scale[node] = 0
            while lines.left[node] < 1 << 60:
                lines.left[node] *= 2
                lines.scale[node] += 1
            for i in range(first, last):
                join(lines, links.use[i], node, ready)
            divide(links, lines, agenda, node, now, finish)


@kernel
def group(key, indptr, member):  # type: ignore[no-untyped-def]
    """Group the places of ``key`` (k,) by value: those of v become member[indptr[v]:indptr[v+1]], in order; indptr comes as zeros."""
    for i in range(key.size):
        indptr[key[i] + 1] += 1
    for v in range(indptr.size - 1):
        indptr[v + 1] += indptr[v]
    at = indptr[:-1].copy()
    for i in range(key.size):
        member[at[key[i]]] = i
        at[key[i]] += 1


@kernel
def put(agenda, node, tick, kind):  # type: ignore[no-untyped-def]
    """Give ``node`` its next event, in place of the one that it may have."""
    heap, place = agenda.heap, agenda.place
    agenda.tick[node], agenda.kind[node] = tick, kind
    at, again = place[node], place[node] >= 0
    if not again:
        at = agenda.size[0]
        agenda.size[0] += 1
    while at > 0 and before(agenda, node, heap[(at - 1) >> 1]):
        heap[at] = heap[(at - 1) >> 1]
        place[heap[at]] = at
        at = (at - 1) >> 1
    heap[at] = node
    place[node] = at
    if again:  # it may be later than before
        sink(agenda, node, at)


@kernel
def take(agenda):  # type: ignore[no-untyped-def]
    """Take the node with the first event off the agenda."""
    node = agenda.heap[0]
    agenda.place[node] = -1
    agenda.size[0] -= 1
    if agenda.size[0]:
        sink(agenda, agenda.heap[agenda.size[0]], 0)
    return node


@kernel
def sink(agenda, node, at):  # type: ignore[no-untyped-def]
    """Put ``node`` into the hole ``at``, or below, where it belongs."""
    heap, size = agenda.heap, agenda.size[0]
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and before(agenda, heap[child + 1], heap[child]):
            child += 1
        if not before(agenda, heap[child], node):
            break
        heap[at] = heap[child]
        agenda.place[heap[at]] = at
        at = child
    heap[at] = node
    agenda.place[node] = at


@kernel
def before(agenda, a, b):  # type: ignore[no-untyped-def]
    """Whether the event of node ``a`` comes before that of node ``b``."""
    if agenda.tick[a] != agenda.tick[b]:
        return agenda.tick[a] < agenda.tick[b]
    if agenda.kind[a] != agenda.kind[b]:
        return agenda.kind[a] < agenda.kind[b]
    return a < b


@kernel
def make_lines(links, n, n_links, fair):  # type: ignore[no-untyped-def]
    """Allocate `Lines`, empty."""
    indptr, m = np.zeros(n_links + 1, np.int64), n if fair else 0
    group(links.use, indptr, np.empty(links.use.size, np.int64))
    return Lines(
        indptr,
        np.empty(links.use.size, np.int64),
        indptr[:-1].copy(),
        indptr[:-1].copy(),
        np.zeros(n_links, np.bool_),
        np.empty(n_links, np.int64),
        np.zeros(n_links, np.int64),
        np.empty(n_links, np.int64),
        np.empty(m, np.int64),
        np.empty(m, np.int64),
        np.empty(m, np.int64),
        np.empty(m, np.int64),
        np.empty(m, np.int64),
    )


@kernel
def join(lines, link, node, ready):  # type: ignore[no-untyped-def]
    """Put ``node`` at the end of a link's line, before those that were ready at the same tick and have higher numbers."""
    line, at = lines.line, lines.tail[link]
    while at > lines.head[link] and ready[line[at - 1]] == ready[node] and line[at - 1] > node:
        line[at] = line[at - 1]
        at -= 1
    line[at] = node
    lines.tail[link] += 1


@kernel
def leave(lines, link, node):  # type: ignore[no-untyped-def]
    """Take ``node`` out of a link's line; the others move up."""
    at = lines.head[link]
    while lines.line[at] != node:
        at += 1
    lines.tail[link] -= 1
    for i in range(at, lines.tail[link]):
        lines.line[i] = lines.line[i + 1]


@kernel
def divide(links, lines, agenda, node, now, finish):  # type: ignore[no-untyped-def]
    """Divide anew the links of ``node``, which has just joined or left, and of all who share with those who run there."""
    n_links, n_left = spread(links, lines, node)
    while n_left:  # flows[:n_left] have no rate yet
        level, narrowest = np.int64(0), -1
        for i in range(n_links):
            link = lines.links[i]
            if lines.open[link] > 0:
                even = lines.free[link] // lines.open[link]
                if narrowest < 0 or even < level or (even == level and link < narrowest):
                    level, narrowest = even, link
        slow = False  # those that cannot use the level go first, and leave the others more
        for i in range(n_left):
            slow |= whole(links.rate[lines.flows[i]]) <= level
        n_kept = 0
        for i in range(n_left):
            flow = lines.flows[i]
            top = whole(links.rate[flow])
            first, last = links.indptr[flow], links.indptr[flow + 1]
            settled = slow and top <= level
            for j in range(first, last):
                settled |= not slow and links.use[j] == narrowest
            if not settled:
                lines.flows[n_kept] = flow
                n_kept += 1
                continue
            given = min(top, level)
            for j in range(first, last):
                lines.free[links.use[j]] -= given
                lines.open[links.use[j]] -= 1
            share = max(np.int64(1), np.int64(given / top * (np.int64(1) << lines.scale[flow])))
            if share != lines.share[flow]:
                lines.left[flow] = max(np.int64(0), lines.left[flow] - lines.share[flow] * (now - lines.since[flow]))
                lines.share[flow], lines.since[flow] = share, now
                finish[flow] = now + (lines.left[flow] + (share >> 1)) // share
                put(agenda, flow, finish[flow], FINISH)
        n_left = n_kept


@kernel
def spread(links, lines, node):  # type: ignore[no-untyped-def]
    """Gather in ``lines`` the links and flows that a change at ``node`` can reach, nothing given away yet; returns how many."""
    n_links = n_flows = 0
    for i in range(links.indptr[node], links.indptr[node + 1]):
        lines.links[n_links] = links.use[i]
        lines.busy[links.use[i]] = True
        n_links += 1
    at = 0
    while at < n_links:
        link = lines.links[at]
        at += 1
        lines.free[link], lines.open[link] = whole(links.bandwidth[link]), lines.tail[link] - lines.head[link]
        for i in range(lines.head[link], lines.tail[link]):
            flow = lines.line[i]
            if link == links.use[links.indptr[flow]]:  # it stands in the lines of all its links; count it at the first
                lines.flows[n_flows] = flow
                n_flows += 1
            for j in range(links.indptr[flow], links.indptr[flow + 1]):
                if not lines.busy[links.use[j]]:
                    lines.links[n_links] = links.use[j]
                    lines.busy[links.use[j]] = True
                    n_links += 1
    for i in range(n_links):
        lines.busy[lines.links[i]] = False
    return n_links, n_flows


@kernel
def whole(rate):  # type: ignore[no-untyped-def]
    """A rate or bandwidth [bytes/s], in whole parts."""
    return max(np.int64(1), np.int64(min(rate * FINE, WIDE)))
