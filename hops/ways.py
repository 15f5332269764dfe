"""Ways: from a failure until the job trains again, state by state, in int64 ticks; and how a node joins an elastic job."""

import numpy as np

from hops.chaos import DETECTING, FIRST_STATE, JOINING, KNOWN, enter
from hops.course import (
    CUT,
    CUT_ATTEMPT,
    CUT_BEGUN,
    CUTS_OPEN,
    DETECTION,
    ENTERED,
    ENTERED_AT,
    FREE,
    MEMORY,
    N_CUTS,
    N_EPISODES,
    N_EVENTS,
    N_FROM_MEMORY,
    NO_PLAN,
    NOT_ASKED,
    NOW,
    PENDING,
    PHASE,
    PLAN,
    PLANNED,
    QUEUEING,
    RESUMED,
    RETURN,
    SERVES,
    SHIFT,
    SOURCE,
    STOPPED,
    VACANT,
)
from hops.jit import bare, inlined
from hops.kernels import NEVER
from hops.places import MOST_FAILURES, cast, coming, enough, fail, n_missing, next_failure, settle, survived, take_back, turn_to
from hops.progress import book, later, want
from hops.rollback import back_to, promote

NONE = -1  # no checkpoint is being persisted
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
    enter(h, course.chaos, DETECTING, course.seed, trial, space, r)
    while not h.exposure and next_failure(ends, r[SHIFT]) <= min(known, course.horizon - 1) and r[N_EVENTS] < MOST_FAILURES:
        fail(h, way, course.seed, trial, next_failure(ends, r[SHIFT]), space, r)
    book(r, DETECTION, min(known, course.horizon), space.diary)
    r[PHASE] = NOTICED
    if r[CUTS_OPEN]:
        space.cuts[r[N_CUTS] - 1, 4] = r[NOW]
        r[CUTS_OPEN] = 0
    if r[NOW] < course.horizon:
        enter(h, course.chaos, KNOWN, course.seed, trial, space, r)


@inlined
def log_cut(space, r):  # type: ignore[no-untyped-def]
    """Write down the iteration that was cut at this tick, if one was, and if asked for."""
    if r[CUT]:
        if r[N_CUTS] < space.cuts.shape[0]:
            for k, value in enumerate((r[CUT] - 1, r[CUT_ATTEMPT], r[CUT_BEGUN], r[NOW], r[NOW])):
                space.cuts[r[N_CUTS], k] = value
            r[CUTS_OPEN] = 1
        r[N_CUTS] += 1
        r[CUT] = 0


@bare
def interrupt(h, course, way, trial, space, r):  # type: ignore[no-untyped-def]
    """Stop training, as something fails at this tick."""
    if r[PENDING] != NONE and r[PENDING] <= r[NOW]:
        promote(space.saved.point)
    r[PENDING], r[STOPPED] = NONE, r[NOW]
    r[N_EPISODES] += 1
    r[ENTERED] = r[ENTERED_AT] = 0
    log_cut(space, r)
    notice(h, course, way, trial, space, r)


@bare
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
            book(r, QUEUEING, min(failure, until), space.diary)
            if failure < until:
                return AGAIN


@inlined
def pass_states(h, course, way, trial, first, last, space, r):  # type: ignore[no-untyped-def]
    """Pass states first <= . < last of the way, until the horizon, or until another failure: AGAIN."""
    for s in range(first, last):
        if r[NOW] < course.horizon:
            enter(h, course.chaos, FIRST_STATE + s, course.seed, trial, space, r)
        if way.acquires[s]:
            failure = np.int64(NEVER) if h.exposure else next_failure(space.clocks.tick, r[SHIFT])
            settle(way, r[NOW], space.away, r)
            there = enough(r, space.away)
            book(r, QUEUEING, min(failure, there, course.horizon), space.diary)
            if r[NOW] < there:
                return AGAIN if failure < course.horizon else THERE
            settle(way, there, space.away, r)
            r[FREE] -= r[VACANT]
            r[VACANT] = 0
            space.vacant[:] = 0
        end = min(later(r[NOW], way.ticks[s]), course.horizon)
        failure = ahead(h, course, way, trial, end, space, r)
        book(r, way.bucket[s], min(failure, end), space.diary)
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


@inlined
def go_on(h, course, way, trial, space, r):  # type: ignore[no-untyped-def]
    """Train again, with what the way back has led to."""
    saved = space.saved
    if r[SOURCE] == COPIED:
        back_to(2 if r[MEMORY] > saved.point[0, 0] else 0, saved.point, saved.attempt, space.gaps, space.diary, r)
    elif r[SOURCE] == LOADED:
        back_to(0, saved.point, saved.attempt, space.gaps, space.diary, r)
    r[N_FROM_MEMORY] += r[SOURCE] != LOADED
    if way.elastic:
        turn_to(h, course.plans, n_missing(h, -1, space), course.horizon, space, r)
    elif not way.pool:
        space.vacant[:] = 0
    space.hit[:] = 0
    r[SHIFT] += r[NOW] - r[STOPPED] if h.exposure else 0
    r[PHASE], r[RESUMED] = TRAINING, r[NOW]


@bare
def join(h, course, way, trial, space, r):  # type: ignore[no-untyped-def]
    """Between two iterations, let all take their places that can; the job stops for that where a unit is whole again."""
    missing, begun = n_missing(h, r[NOW], space), r[NOW]
    if course.plans.status[missing] == NOT_ASKED:
        want(r, SERVES, missing, 0, 0)
        return WANTED
    take_back(h, r[NOW], space, r)
    if missing == r[PLAN] or course.plans.status[missing] == NO_PLAN:
        return THERE
    cast(h, space, r)
    enter(h, course.chaos, JOINING, course.seed, trial, space, r)
    if pass_states(h, course, way, trial, way.n_back, way.ticks.size, space, r) == AGAIN:
        return AGAIN
    turn_to(h, course.plans, missing, course.horizon, space, r)
    r[SHIFT] += r[NOW] - begun if h.exposure else 0
    return THERE
