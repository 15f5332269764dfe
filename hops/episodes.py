"""Episodes: a training run through its failures, in int64 ticks; one trial a call.

At equal ticks what ends comes before a failure, and a failure before it is known and before anything starts. An iteration
that a failure meets is discarded whole, and with it what can not be loaded again. A failure while another is being
noticed joins it; one during the recovery begins it anew, with the nodes of both missing.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.clocks import DETECT_STREAM, REPAIR_STREAM, Clocks, delay, end_lifetime, make_clocks, mark_victims, start_clocks
from hops.hazards import Hazards
from hops.jit import inlined, kernel
from hops.kernels import NEVER
from hops.progress import (
    CHECKPOINT,
    DETECTION,
    DONE,
    FINISHED,
    FREE,
    HEALTHY,
    MEMORY,
    N_AWAY,
    N_CHECKPOINTS,
    N_EPISODES,
    N_FAILURES,
    N_FROM_MEMORY,
    NOW,
    QUEUEING,
    SETTLED,
    STANDING_BY,
    STATUS,
    STUCK,
    TOUCHED,
    UNKNOWN,
    VACANT,
    WINDOW,
    Saved,
    advance,
    back_to_checkpoint,
    back_to_memory,
    book,
    healthy,
    later,
    make_saved,
    promote,
    save,
)

MOST_FAILURES = 1 << 20  # of a trial
NONE = -1  # no checkpoint is being persisted


class Way(NamedTuple):
    """The way back; s = states: those from the durable checkpoint, then those from the memory of others."""

    ticks: NDArray[np.int64]  # (s,) in a state
    bucket: NDArray[np.int64]  # (s,) result that they are booked to
    acquires: NDArray[np.bool_]  # (s,) it begins when there is a spare for every vacant place
    n_durable: int  # states from the durable checkpoint
    spares: int  # nodes that stand by at the start
    pool: bool  # who fails is replaced by them, and joins them when it is repaired; else nobody counts nodes


class Space(NamedTuple):
    """Scratch of one trial."""

    saved: Saved
    clocks: Clocks
    hit: NDArray[np.int8]  # (n_nodes,) places in the job whose node failed since training stopped
    vacant: NDArray[np.int8]  # (n_nodes,) places that no node has taken yet
    away: NDArray[np.int64]  # (spares + n_nodes,) when a node that failed comes back; the first N_AWAY are meant
    log: NDArray[np.int64]  # (failures, 5) of a trial, where asked for: tick, clock, how many it had before, until known, until repaired


def make_space(n_iterations: int, h: Hazards, spares: int, n_logged: int = 0) -> Space:
    """Scratch for runs of at most so many iterations."""
    hit, vacant = np.zeros(h.n_nodes, np.int8), np.zeros(h.n_nodes, np.int8)
    clocks = make_clocks(1 if len(h.script) else h.clock_fault.size)
    return Space(make_saved(n_iterations), clocks, hit, vacant, np.empty(spares + h.n_nodes, np.int64), np.empty((n_logged, 5), np.int64))


@inlined
def next_failure(ends, shift):  # type: ignore[no-untyped-def]
    """Tick of the next failure."""
    return later(ends[0], shift) if ends.size else np.int64(NEVER)


@kernel
def fail(h, way, seed, trial, tick, space, r):  # type: ignore[no-untyped-def]
    """Let what fails next fail at ``tick``; ticks until that is known."""
    clock, n = end_lifetime(h, seed, trial, space.clocks)
    known = delay(h, h.detect, h.detect_law, clock, n, DETECT_STREAM, seed, trial)
    repaired = delay(h, h.repair, h.repair_law, clock, n, REPAIR_STREAM, seed, trial)
    if r[N_FAILURES] < space.log.shape[0]:
        for k, value in enumerate((tick, clock, n, known, repaired)):
            space.log[r[N_FAILURES], k] = value
    r[N_FAILURES] += 1
    n_new = mark_victims(h, clock, n, seed, trial, space.hit, space.vacant)
    if way.pool:
        for _ in range(n_new):
            space.away[r[N_AWAY]] = later(tick, repaired)
            r[N_AWAY] += 1
        r[VACANT] += n_new
    return known


@kernel
def settle(way, tick, away, r):  # type: ignore[no-untyped-def]
    """Let nodes come back until ``tick``; those that stand by are counted, at most as many as the job has paid for."""
    while True:
        least = 0
        for k in range(1, r[N_AWAY]):
            if away[k] < away[least]:
                least = k
        returns = r[N_AWAY] > 0 and away[least] <= tick
        until = away[least] if returns else tick
        r[STANDING_BY] += min(r[FREE], way.spares) * (until - r[SETTLED])
        r[SETTLED] = until
        if not returns:
            return
        r[FREE] += 1
        r[N_AWAY] -= 1
        away[least] = away[r[N_AWAY]]


@kernel
def enough(r, away):  # type: ignore[no-untyped-def]
    """When there will be a spare for every vacant place: the tick, now or later."""
    missing = r[VACANT] - r[FREE]
    if missing <= 0:
        return r[NOW]
    if missing > r[N_AWAY]:
        return np.int64(NEVER)
    return np.sort(away[: r[N_AWAY]])[missing - 1]


@kernel
def survived(h, hit):  # type: ignore[no-untyped-def]
    """Whether a node of every group that holds the same state is left."""
    for g in range(h.group.size - 1):
        left = False
        for at in range(h.group[g], h.group[g + 1]):
            left = left or hit[h.group_node[at]] == 0
        if not left:
            return False
    return True


@kernel
def recover(h, course, way, trial, shift, space, r):  # type: ignore[no-untyped-def]
    """From a failure, at this tick, until the job trains again, or until the horizon; whether it can from the memory of others."""
    ends, again, from_memory = space.clocks.tick, True, False
    r[N_EPISODES] += 1
    while again and r[NOW] < course.horizon and r[N_FAILURES] < MOST_FAILURES:
        again = False
        known = later(r[NOW], fail(h, way, course.seed, trial, r[NOW], space, r))
        while not h.exposure and next_failure(ends, shift) <= min(known, course.horizon - 1) and r[N_FAILURES] < MOST_FAILURES:
            fail(h, way, course.seed, trial, next_failure(ends, shift), space, r)
        book(r, DETECTION, min(known, course.horizon))
        from_memory = way.ticks.size > way.n_durable and survived(h, space.hit)
        for s in range(way.n_durable, way.ticks.size) if from_memory else range(way.n_durable):
            failure = np.int64(NEVER) if h.exposure else next_failure(ends, shift)
            if way.acquires[s]:
                settle(way, r[NOW], space.away, r)
                there = enough(r, space.away)
                again = failure < min(there, course.horizon)
                book(r, QUEUEING, min(failure, there, course.horizon))
                if r[NOW] < there:
                    break
                settle(way, there, space.away, r)
                r[FREE] -= r[VACANT]
                r[VACANT] = 0
                space.vacant[:] = 0
            end = later(r[NOW], way.ticks[s])
            again = failure < min(end, course.horizon)
            book(r, way.bucket[s], min(failure, end, course.horizon))
            if again:
                break
    space.hit[:] = 0
    if not way.pool:
        space.vacant[:] = 0
    return from_memory


@inlined
def write_checkpoint(cost, persist, pending, limit, point, r):  # type: ignore[no-untyped-def]
    """Write one when that of before is durable, at tick ``pending``; until when it counts itself, and whether it was written."""
    end = later(max(r[NOW], pending), cost)
    book(r, CHECKPOINT, min(end, limit))
    if end > limit:
        return pending, False
    if pending != NONE:
        promote(point)
    save(r, point, 1)
    r[N_CHECKPOINTS] += 1
    return later(end, persist), True


@kernel
def run_trial(h, course, way, trial, space, r):  # type: ignore[no-untyped-def]
    """One training run; leaves what became of it in ``r`` (29,), zeros before. ``space`` is as it was after it."""
    pool, slot, saved = course.pool, course.slot, space.saved
    attempt, words, upto, point = saved.attempt, saved.words, saved.upto, saved.point
    ends, copy_every, copy_cost, seed = space.clocks.tick, course.copy_every, course.copy_cost, course.seed
    r[WINDOW], r[STATUS], r[FREE] = -1, STUCK, way.spares
    start_clocks(h, seed, trial, space.clocks)
    save(r, point, 0)
    pending, shift = np.int64(NONE), np.int64(0)
    while r[N_FAILURES] < MOST_FAILURES:
        limit = min(next_failure(ends, shift), course.horizon)
        last = point[0, 0] if pending == NONE else point[1, 0]
        stop = last + course.every if course.every < course.n_iterations - last else course.n_iterations
        on_time = advance(pool, slot, attempt, words, upto, copy_every, copy_cost, seed, trial, stop, limit, r)
        if r[STATUS] == UNKNOWN:
            break
        if on_time and course.every < NEVER:
            pending, on_time = write_checkpoint(course.cost, course.persist, pending, limit, point, r)
            if on_time and r[DONE] == course.n_iterations:
                book(r, CHECKPOINT, min(pending, limit))
                on_time = pending <= limit
        if on_time:
            if r[DONE] == course.n_iterations:
                r[STATUS] = FINISHED
                break
            continue
        if limit < course.horizon:
            if pending != NONE and pending <= limit:
                promote(point)
            pending = np.int64(NONE)
            if recover(h, course, way, trial, shift, space, r):
                r[MEMORY] = max(r[MEMORY], point[0, 0])
                r[N_FROM_MEMORY] += 1
                back_to_memory(pool, slot, attempt, seed, trial, r)
            else:
                back_to_checkpoint(point, attempt, r)
            shift += r[NOW] - limit if h.exposure else 0
        if r[NOW] >= course.horizon:
            r[STATUS] = FINISHED if course.n_iterations == NEVER else STUCK
            break
    settle(way, r[NOW], space.away, r)
    attempt[: r[TOUCHED]] = 0
    space.vacant[:] = 0


@kernel
def run_trials(h, course, way, first, space, results):  # type: ignore[no-untyped-def]
    """Trials ``first`` and following, one a row of ``results`` (trials, 29)."""
    for k in range(results.shape[0]):
        results[k] = 0
        run_trial(h, course, way, first + k, space, results[k])
        results[k, HEALTHY] = healthy(course, first + k, space.saved)
