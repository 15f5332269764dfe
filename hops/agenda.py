"""The agenda of the event loop: the next event of every node, first things first. int64 ticks of 1 ns.

A binary heap of nodes by (tick, kind, node), as three arrays: tick (o,) and what (o,) = kind x 2^32 + node in the order of the heap,
place (o,) of a node in it, -1: it has no event. They are passed one by one, and how many events there are is a number of the caller's:
in a tuple, whose holders numba counts at every call, an event took 85 ns instead of 20.
"""

from hops.jit import inner

FINISH, READY, BEGIN = range(3)  # kinds of events, in their order at one tick
KIND = 32  # bits in front of it
NODE = (1 << KIND) - 1  # those of the node


@inner
def put(tick, what, place, n, node, when, kind):  # type: ignore[no-untyped-def]
    """Give ``node``, which has none, its next event; returns how many there are now, after ``n``."""
    rise(tick, what, place, n, when, kind << KIND | node)
    return n + 1


@inner
def move(tick, what, place, n, node, when, kind):  # type: ignore[no-untyped-def]
    """Give ``node`` another event in place of the one that it has among ``n``."""
    at = rise(tick, what, place, place[node], when, kind << KIND | node)
    sink(tick, what, place, n, at, when, kind << KIND | node)  # it may be later than before


@inner
def take(tick, what, place, n):  # type: ignore[no-untyped-def]
    """Take the first of ``n`` events off the agenda."""
    place[what[0] & NODE] = -1
    if n > 1:
        sink(tick, what, place, n - 1, 0, tick[n - 1], what[n - 1])


@inner
def rise(tick, what, place, at, when, which):  # type: ignore[no-untyped-def]
    """Put an event into the hole ``at``, or above, where it belongs; returns where."""
    while at > 0:
        above = (at - 1) >> 1
        if tick[above] < when or (tick[above] == when and what[above] < which):
            break
        tick[at], what[at] = tick[above], what[above]
        place[what[at] & NODE] = at
        at = above
    tick[at], what[at] = when, which
    place[which & NODE] = at
    return at


@inner
def sink(tick, what, place, n, at, when, which):  # type: ignore[no-untyped-def]
    """Put an event into the hole ``at`` among ``n``, or below, where it belongs."""
    while 2 * at + 1 < n:
        child = 2 * at + 1
        if child + 1 < n and (tick[child + 1] < tick[child] or (tick[child + 1] == tick[child] and what[child + 1] < what[child])):
            child += 1
        if when < tick[child] or (when == tick[child] and which < what[child]):
            break
        tick[at], what[at] = tick[child], what[child]
        place[what[at] & NODE] = at
        at = child
    tick[at], what[at] = when, which
    place[which & NODE] = at
