"""Clocks: when what fails next, in one trial. Every lifetime is a function of its address, so no order of asking can change it.

A clock counts down one lifetime after the other, of one component, or of all of a fault together (`hops.hazards`). The next
to end is the top of a heap; at the same tick the clock with the smaller number comes first. The last clocks count nothing down:
what is forced to fail (`force`) is theirs.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.hazards import ANY, Hazards
from hops.jit import bare, bare_kernel, inlined
from hops.kernels import NEVER
from hops.noise import philox, quantile

# last word of the counter, beyond those of `hops.noise`: counter = (component or clock, how many before it, fault, stream)
LIFETIME_STREAM, CHOICE_STREAM, DETECT_STREAM, REPAIR_STREAM = 16, 17, 18, 19
DURATION_STREAM, CHAOS_STREAM = 21, 22


class Clocks(NamedTuple):
    """Scratch of one trial; k = clocks."""

    tick: NDArray[np.int64]  # (k,) heap: when the clock ends
    clock: NDArray[np.int64]  # (k,) which it is
    n_ended: NDArray[np.int64]  # (k,) lifetimes that have ended, by clock
    forced: NDArray[np.int64]  # (j, 6) of the last clocks, see `Chaos`: who fails next, known, repaired, times left, every, node


class Chaos(NamedTuple):
    """What is made to fail when, as rows that force the last clocks (`force`); j = rows, s = moments (`hops.chaos`)."""

    when: NDArray[np.bool_]  # (j, s) the moments at which it comes
    iteration: NDArray[np.int64]  # (j,) at which of them, where it comes at an iteration; -1: any
    first: NDArray[np.int64]  # (j,) tick of the first where it comes by the clock; NEVER
    every: NDArray[np.int64]  # (j,) ticks from one to the next
    times: NDArray[np.int64]  # (j,) how often at most
    budget: NDArray[np.int64]  # (j,) nodes that may be down at once, with the one that it takes
    node: NDArray[np.int64]  # (j,) -1: any
    known: NDArray[np.int64]  # (j,) ticks until it is known
    repaired: NDArray[np.int64]  # (j,) and until repaired
    slows: NDArray[np.bool_]  # (j,) it stops nobody (`hops.spells`)


def no_chaos(n: int = 0) -> Chaos:
    """``n`` rows that never come by themselves."""
    each = np.zeros(n, np.int64)
    return Chaos(np.zeros((n, 0), np.bool_), each, each + NEVER, each, each, each, each, each, each, each > 0)


NO_CHAOS = no_chaos()


def make_clocks(h: Hazards, n_forced: int = 0) -> Clocks:
    """Scratch for the clocks of what can fail, and so many whose ends are forced."""
    n = n_drawn(h) + n_forced
    return Clocks(np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64), np.empty((n_forced, 6), np.int64))


@inlined
def n_drawn(h):  # type: ignore[no-untyped-def]
    """Clocks that are not forced; a script is one."""
    return 1 if h.script.shape[0] else h.clock_fault.size


@inlined
def random_time(mean, table, bits):  # type: ignore[no-untyped-def]
    """Ticks that 32 random bits make of a law of mean 1 given as a table, times ``mean``; beyond the clock: NEVER."""
    ticks = mean * quantile(table, bits) + 0.5
    return np.int64(ticks) if ticks < 2.0**61 else np.int64(NEVER)


@bare
def lifetime(h, clock, n, seed, trial):  # type: ignore[no-untyped-def]
    """Ticks of lifetime ``n`` of a clock; at least 1, so that time goes on."""
    fault, component = h.clock_fault[clock], h.clock_component[clock]
    who = np.uint32(ANY) if component < 0 else np.uint32(component)
    bits, _, _, _ = philox(who, np.uint32(n), h.identity[fault], np.uint32(LIFETIME_STREAM), np.uint32(seed), np.uint32(trial))
    law = h.first_law[fault] if n == 0 else h.law[fault]
    return max(np.int64(1), random_time(h.mean[fault], h.tables[law], bits))


@inlined
def before(clocks, i, j):  # type: ignore[no-untyped-def]
    """Whether place i of the heap ends before place j."""
    a, b = clocks.tick[i], clocks.tick[j]
    return a < b or (a == b and clocks.clock[i] < clocks.clock[j])


@bare
def sift(clocks, i):  # type: ignore[no-untyped-def]
    """Move what is at place i of the heap down to where it belongs."""
    n = clocks.tick.size
    while 2 * i + 1 < n:
        child = 2 * i + 1
        if child + 1 < n and before(clocks, child + 1, child):
            child += 1
        if before(clocks, i, child):
            return
        clocks.tick[i], clocks.tick[child] = clocks.tick[child], clocks.tick[i]
        clocks.clock[i], clocks.clock[child] = clocks.clock[child], clocks.clock[i]
        i = child


@inlined
def script_tick(h, trial, n):  # type: ignore[no-untyped-def]
    """When line ``n`` of the script comes true, if it is of this trial."""
    return h.script[n, 0] if n < h.script_first[min(trial, h.script_first.size - 2) + 1] else np.int64(NEVER)


@bare_kernel
def start_clocks(h, seed, trial, clocks):  # type: ignore[no-untyped-def]
    """Begin the first lifetime of every clock; a script is one clock, whose lifetimes are its lines."""
    n = n_drawn(h)
    for k in range(n, clocks.tick.size):
        clocks.tick[k], clocks.clock[k], clocks.n_ended[k] = NEVER, k, 0
        clocks.forced[k - n, 3], clocks.forced[k - n, 4], clocks.forced[k - n, 5] = 0, NEVER, 0
    if h.script.shape[0]:
        clocks.n_ended[0] = h.script_first[min(trial, h.script_first.size - 2)]
        clocks.tick[0], clocks.clock[0] = script_tick(h, trial, clocks.n_ended[0]), 0
        return
    for k in range(n):
        clocks.tick[k], clocks.clock[k], clocks.n_ended[k] = lifetime(h, k, 0, seed, trial), k, 0
    for i in range(clocks.tick.size // 2 - 1, -1, -1):
        sift(clocks, i)


@bare_kernel
def force(h, j, tick, node, known, repaired, clocks):  # type: ignore[no-untyped-def]
    """Let a node fail at ``tick`` by the forced clock ``j``, known and repaired so many ticks later."""
    clock = n_drawn(h) + j
    clocks.forced[j, 0], clocks.forced[j, 1], clocks.forced[j, 2] = node, known, repaired
    i = 0
    while clocks.clock[i] != clock:
        i += 1
    while i > 0 and (tick < clocks.tick[(i - 1) // 2] or (tick == clocks.tick[(i - 1) // 2] and clock < clocks.clock[(i - 1) // 2])):
        clocks.tick[i], clocks.clock[i] = clocks.tick[(i - 1) // 2], clocks.clock[(i - 1) // 2]
        i = (i - 1) // 2
    clocks.tick[i], clocks.clock[i] = tick, clock


@bare
def victim(h, j, n, seed, trial, clocks):  # type: ignore[no-untyped-def]
    """The node that failure ``n`` of a forced clock takes."""
    if clocks.forced[j, 5] >= 0:
        return clocks.forced[j, 5]
    bits, _, _, _ = philox(np.uint32(j), np.uint32(n), np.uint32(0), np.uint32(CHAOS_STREAM), np.uint32(seed), np.uint32(trial))
    return np.int64((np.uint64(bits) * np.uint64(h.n_nodes)) >> np.uint64(32))


@inlined
def upcoming(h, clocks):  # type: ignore[no-untyped-def]
    """Clock of the failure at the top of the heap, and how many it had before; of one that is forced its node."""
    clock = clocks.clock[0]
    j = clock - n_drawn(h)
    return clock, clocks.forced[j, 0] if j >= 0 else clocks.n_ended[clock]


@bare
def end_lifetime(h, seed, trial, clocks):  # type: ignore[no-untyped-def]
    """Take the failure at the top of the heap and begin that clock's next lifetime; (clock, how many it had before), see `upcoming`."""
    clock, n = upcoming(h, clocks)
    if clock >= n_drawn(h):
        j = clock - n_drawn(h)
        clocks.n_ended[clock] += 1
        again = clocks.forced[j, 3] > 0 and clocks.forced[j, 4] < NEVER
        clocks.tick[0] = clocks.tick[0] + clocks.forced[j, 4] if again else NEVER
        if again:
            clocks.forced[j, 3] -= 1
            clocks.forced[j, 0] = victim(h, j, clocks.n_ended[clock], seed, trial, clocks)
        sift(clocks, 0)
        return clock, n
    clocks.n_ended[clock] = n + 1
    if h.script.shape[0]:
        clocks.tick[0] = script_tick(h, trial, n + 1)
        sift(clocks, 0)
        return clock, n
    clocks.tick[0] = min(np.int64(NEVER), clocks.tick[0] + lifetime(h, clock, n + 1, seed, trial))
    sift(clocks, 0)
    return clock, n


@bare
def delay(h, mean, law, clock, n, stream, seed, trial):  # type: ignore[no-untyped-def]
    """Ticks that the failure which ends lifetime ``n`` of a clock takes to be known, or to be repaired."""
    if h.script.shape[0]:
        return h.script[n, 1 if stream == DETECT_STREAM else 2]
    fault, component = h.clock_fault[clock], h.clock_component[clock]
    who = np.uint32(ANY) if component < 0 else np.uint32(component)
    bits, _, _, _ = philox(who, np.uint32(n), h.identity[fault], np.uint32(stream), np.uint32(seed), np.uint32(trial))
    return random_time(mean[fault], h.tables[law[fault]], bits)


@inlined
def mark(h, component, hit, vacant):  # type: ignore[no-untyped-def]
    """Mark the nodes of a component; how many places in the job that leaves vacant."""
    n_new = 0
    for at in range(h.member[component], h.member[component + 1]):
        hit[h.node[at]] = 1
        n_new += 1 - vacant[h.node[at]]
        vacant[h.node[at]] = 1
    return n_new


@bare
def choose(h, clock, n, seed, trial):  # type: ignore[no-untyped-def]
    """Components that the end of lifetime ``n`` of a clock takes with it: the first, counted within its fault, and how many from it on.

    A clock of several components chooses: the first of a batch by chance, the others are those after it.
    """
    fault, component = h.clock_fault[clock], h.clock_component[clock]
    size, at_once = h.first[fault + 1] - h.first[fault], 1
    if component < 0:
        a, b, _, _ = philox(np.uint32(ANY), np.uint32(n), h.identity[fault], np.uint32(CHOICE_STREAM), np.uint32(seed), np.uint32(trial))
        component = np.int64((np.uint64(a) * np.uint64(size)) >> np.uint64(32))
        share = (np.float64(b) + 0.5) * 2.0**-32
        while at_once < h.batch.shape[1] and share > h.batch[fault, at_once - 1]:
            at_once += 1
    return component, min(at_once, size)


@bare_kernel
def mark_victims(h, clock, n, seed, trial, hit, vacant):  # type: ignore[no-untyped-def]
    """Mark the nodes (n_nodes,) that a failure takes with it, see `upcoming`; how many places in the job that leaves vacant."""
    if clock >= n_drawn(h):
        hit[n] = 1
        n_new = 1 - vacant[n]
        vacant[n] = 1
        return n_new
    if h.script.shape[0]:
        return mark(h, n, hit, vacant)
    fault, n_new = h.clock_fault[clock], 0
    component, at_once = choose(h, clock, n, seed, trial)
    for i in range(at_once):
        n_new += mark(h, h.first[fault] + (component + i) % (h.first[fault + 1] - h.first[fault]), hit, vacant)
    return n_new
