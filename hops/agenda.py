"""The agenda of the event loop: the next event of every node, first things first. int64 ticks of 1 ns."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.jit import kernel

FINISH, READY, BEGIN = range(3)  # kinds of events, in their order at one tick


class Agenda(NamedTuple):
    """The next event of every node that has one: a binary heap of nodes by (tick, kind, node)."""

    heap: NDArray[np.int64]  # (o,)
    place: NDArray[np.int64]  # (o,) of a node in the heap; -1: it has no event
    tick: NDArray[np.int64]  # (o,)
    kind: NDArray[np.int64]  # (o,)
    size: NDArray[np.int64]  # (1,)


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
