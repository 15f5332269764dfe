"""Ways: how a job comes back from a failure to where it can train, state by state; int64 ticks, one trial."""

import numpy as np

from hops.jit import inlined, kernel
from hops.kernels import NEVER
from hops.places import MOST_FAILURES, cast, coming, enough, fail, n_missing, next_failure, settle, survived, take_back
from hops.progress import (
    DETECTION,
    FREE,
    N_EVENTS,
    NOT_ASKED,
    NOW,
    PHASE,
    PLAN,
    PLANNED,
    QUEUEING,
    RETURN,
    SERVES,
    SHIFT,
    SOURCE,
    VACANT,
    book,
    later,
    want,
)

TRAINING, NOTICED, WAITING = range(3)  # PHASE
LOADED, KEPT_ALL, COPIED = range(3)  # SOURCE: the durable checkpoint, what those that are left have, copies in the memory of others
THERE, AGAIN, WANTED = range(3)  # how a way ends: at its end, at another failure, or where something is not known


@inlined
def ahead(h, course, way, trial, until, space, r):  # type: ignore[no-untyped-def]
    """Tick of the next failure that stops the way back, where it comes before ``until``."""
    failure = np.int64(NEVER) if h.exposure else next_failure(space.clocks.tick, r[SHIFT])
    if way.elastic and failure < until:
        failure = coming(h, way, course.seed, trial, until, space, r)
    return failure


@inlined
def notice(h, course, way, trial, space, r):  # type: ignore[no-untyped-def]
    """From a failure, at this tick, until it is known."""
    ends = space.clocks.tick
    known = later(r[NOW], fail(h, way, course.seed, trial, r[NOW], space, r))
    while not h.exposure and next_failure(ends, r[SHIFT]) <= min(known, course.horizon - 1) and r[N_EVENTS] < MOST_FAILURES:
        fail(h, way, course.seed, trial, next_failure(ends, r[SHIFT]), space, r)
    book(r, DETECTION, min(known, course.horizon))
    r[PHASE] = NOTICED


@kernel
def wait_for_plan(h, course, way, trial, space, r):  # type: ignore[no-untyped-def]
    """Let all take their places that can, until there is a plan for those that are there."""
    while True:
        take_back(h, r[NOW], space, r)
        cast(h, space, r)
        missing = n_missing(h, -1, space)
        if course.plans.status[missing] == NOT_ASKED:
            want(r, SERVES, missing, 0, 0)
            return WANTED
        if course.plans.status[missing] == PLANNED or r[NOW] >= course.horizon or r[N_EVENTS] >= MOST_FAILURES:
            return THERE
        until = min(r[RETURN], course.horizon)
        failure = ahead(h, course, way, trial, until, space, r)
        if min(r[RETURN], course.horizon) == until:  # nobody who might come back has failed meanwhile
            book(r, QUEUEING, min(failure, until))
            if failure < until:
                return AGAIN


@inlined
def pass_states(h, course, way, trial, first, last, space, r):  # type: ignore[no-untyped-def]
    """Pass states first <= . < last of the way, until the horizon, or until another failure: AGAIN."""
    for s in range(first, last):
        if way.acquires[s]:
            failure = np.int64(NEVER) if h.exposure else next_failure(space.clocks.tick, r[SHIFT])
            settle(way, r[NOW], space.away, r)
            there = enough(r, space.away)
            book(r, QUEUEING, min(failure, there, course.horizon))
            if r[NOW] < there:
                return AGAIN if failure < course.horizon else THERE
            settle(way, there, space.away, r)
            r[FREE] -= r[VACANT]
            r[VACANT] = 0
            space.vacant[:] = 0
        end = min(later(r[NOW], way.ticks[s]), course.horizon)
        failure = ahead(h, course, way, trial, end, space, r)
        book(r, way.bucket[s], min(failure, end))
        if failure < end:
            return AGAIN
    return THERE


@inlined
def way_back(h, course, way, trial, space, r):  # type: ignore[no-untyped-def]
    """From when a failure is known until the job can train."""
    first, last, r[SOURCE] = 0, way.n_durable, LOADED
    if way.elastic and r[PHASE] == NOTICED:
        cast(h, space, r)
        missing = n_missing(h, -1, space)
        if course.plans.status[missing] == NOT_ASKED:
            want(r, SERVES, missing, 0, 0)
            return WANTED
        left = way.keeps and course.plans.redundant[r[PLAN]] and survived(h, space.hit if way.renews else space.vacant)
        if left and course.plans.status[missing] == PLANNED:
            first, last, r[SOURCE] = way.n_durable, way.n_back, KEPT_ALL
        else:
            r[PHASE] = WAITING  # and nothing that comes back meanwhile changes that the checkpoint is loaded
    elif not way.elastic and way.n_back > way.n_durable and survived(h, space.hit):
        first, last, r[SOURCE] = way.n_durable, way.n_back, COPIED
    if r[PHASE] == WAITING:
        end = wait_for_plan(h, course, way, trial, space, r)
        if end != THERE:
            return end
    return pass_states(h, course, way, trial, first, last, space, r)
