"""Links that transfers share in the event loop: who stands at each, and what bandwidth everybody gets. See `hops.events`.

o = nodes, u = uses of links by nodes, l = links.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.agenda import FINISH, move
from hops.edges import group
from hops.jit import inner, kernel

FINE = 1024.0  # parts of a byte/s that levels are counted in
WIDE = 2.0**60  # a bandwidth beyond counts as this


class Links(NamedTuple):
    """What the nodes of a graph share; a node names a link once at most."""

    indptr: NDArray[np.int32]  # (o+1,) node i occupies use[indptr[i]:indptr[i+1]]
    use: NDArray[np.int32]  # (u,) link
    rate: NDArray[np.float64]  # (o,) of a transfer alone: its narrowest hop [bytes/s]
    bandwidth: NDArray[np.float64]  # (l,) [bytes/s]


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


@inner
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
def join(line, head, tail, link, node, ready):  # type: ignore[no-untyped-def]
    """Put ``node`` at the end of a link's line, before those that were ready at the same tick and have higher numbers."""
    at = tail[link]
    while at > head[link] and ready[line[at - 1]] == ready[node] and line[at - 1] > node:
        line[at] = line[at - 1]
        at -= 1
    line[at] = node
    tail[link] += 1


@kernel
def leave(line, head, tail, link, node):  # type: ignore[no-untyped-def]
    """Take ``node`` out of a link's line; the others move up."""
    at = head[link]
    while line[at] != node:
        at += 1
    tail[link] -= 1
    for i in range(at, tail[link]):
        line[i] = line[i + 1]


@inner
def divide(links, lines, agenda, what, place, n_events, node, now, finish):  # type: ignore[no-untyped-def]
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
                move(agenda, what, place, n_events, flow, finish[flow], FINISH)
        n_left = n_kept


@inner
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


@inner
def whole(rate):  # type: ignore[no-untyped-def]
    """A rate or bandwidth [bytes/s], in whole parts."""
    return max(np.int64(1), np.int64(min(rate * FINE, WIDE)))
