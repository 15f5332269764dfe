"""Episodes: a training run through its failures, in int64 ticks; one trial a call.

At equal ticks what ends comes before a failure, and a failure before it is known and before anything starts. An iteration
that a failure meets is discarded whole, and with it what can not be loaded again. A failure while another is being
noticed joins it; one during the recovery begins it anew, with the nodes of both missing.

A trial that needs what is not known yet (the times of an attempt, the plan for so many missing units) says so in its results, and
goes on from there when it is called again.
"""

import numpy as np

from hops.chaos import entered, moments, start_chaos
from hops.clocks import start_clocks
from hops.course import (
    ALONE,
    CHECKPOINT,
    DEGRADED,
    DONE,
    FARTHEST,
    FARTHEST_AT,
    FINISHED,
    FREE,
    GIVEN,
    HEALTHY,
    N_CHECKPOINTS,
    N_EVENTS,
    N_INJECTED,
    N_KNOWN,
    NOW,
    PENDING,
    PHASE,
    PLAN,
    RETURN,
    ROWS,
    SHIFT,
    SINCE,
    SLOWED,
    SPELL,
    STATUS,
    STUCK,
    TOUCHED,
    UNKNOWN,
    USEFUL,
    WASTED,
    WEATHER,
    WINDOW,
)
from hops.diary import SMALLER, note
from hops.intervals import describe
from hops.jit import bare, bare_kernel, inlined, kernel
from hops.kernels import NEVER
from hops.places import IN_VAIN, MOST_FAILURES, cast, count_repairs, fail, harmless, next_failure, settle, turn_to
from hops.progress import advance, book, healthy, later, save, want
from hops.rollback import promote
from hops.ways import AGAIN, NONE, TRAINING, WANTED, go_on, interrupt, join, log_cut, notice, way_back


@inlined
def write_checkpoint(cost, persist, limit, point, diary, r):  # type: ignore[no-untyped-def]
    """Write one when that of before is durable, at tick PENDING; True: it was written."""
    end = later(max(r[NOW], r[PENDING]), cost)
    book(r, CHECKPOINT, min(end, limit), diary)
    if end > limit:
        return False
    if r[PENDING] != NONE:
        promote(point)
    save(r, point, 1)
    r[N_CHECKPOINTS] += 1
    r[PENDING] = later(end, persist)
    return True


@bare
def start(h, course, way, trial, space, r):  # type: ignore[no-untyped-def]
    """Begin a trial, with zeros in ``r``."""
    r[WINDOW], r[FREE], r[PENDING] = -1, way.spares, NONE
    start_clocks(h, course.seed, trial, space.clocks)
    start_chaos(h, course.chaos, course.seed, trial, space)
    save(r, space.saved.point, 0)
    save(r, space.saved.point, 2)
    if space.diary.shape[0]:
        space.diary[0, 0] = 0
    cast(h, space, r)
    r[RETURN] = NEVER
    turn_to(h, course.plans, 0, course.horizon, space, r)


@inlined
def look(weather, r):  # type: ignore[no-untyped-def]
    """Take the speeds of now; until which tick they last. Now, or earlier: it is not known."""
    while r[SPELL] + 1 < weather.tick.size and weather.tick[r[SPELL] + 1] <= r[NOW]:
        r[SPELL] += 1
    if r[ROWS] != weather.state[r[SPELL]]:
        r[ROWS], r[WINDOW] = weather.state[r[SPELL]], -1
    return weather.tick[r[SPELL] + 1] if r[SPELL] + 1 < weather.tick.size else weather.tick[r[SPELL]]


@inlined
def in_vain(course, r):  # type: ignore[no-untyped-def]
    """Whether a run that stands still has failed too often, in all or without getting any farther; one of so many days ends anyway."""
    if r[DONE] > r[FARTHEST]:
        r[FARTHEST], r[FARTHEST_AT] = r[DONE], r[N_EVENTS]
    return r[N_EVENTS] >= MOST_FAILURES or (course.horizon == NEVER and r[N_EVENTS] - r[FARTHEST_AT] >= IN_VAIN)


@bare_kernel
def run_trial(h, course, way, trial, space, r):  # type: ignore[no-untyped-def]
    """One training run; leaves what became of it in ``r`` (r,), zeros before, or UNKNOWN where it is to go on.

    Called again with what it wanted it does; `conclude` is to follow when it has ended.
    """
    pool, slot, plans, saved = course.pool, course.slot, course.plans, space.saved
    attempt, words, upto, point = saved.attempt, saved.words, saved.upto, saved.point
    ends, gaps, copy_every, copy_cost, seed = space.clocks.tick, space.gaps, course.copy_every, course.copy_cost, course.seed
    of, firsts, sizes = plans.of, plans.first, plans.size
    every, cost, persist, n_iterations, horizon = course.every, course.cost, course.persist, course.n_iterations, course.horizon
    windy, chaotic, alone, elastic = course.weather.tick.size > 0, course.chaos.times.size > 0, course.alone, way.elastic
    if r[STATUS] != UNKNOWN:
        start(h, course, way, trial, space, r)
    r[STATUS], crossing = STUCK, False
    while r[PHASE] != TRAINING or r[N_EVENTS] < MOST_FAILURES:
        if r[PHASE] != TRAINING:
            end = way_back(h, course, way, trial, space, r)
            if end == WANTED:
                return
            vain = in_vain(course, r)
            if end == AGAIN and not vain:
                notice(h, course, way, trial, space, r)
                continue
            go_on(h, course, way, trial, space, r)
            if vain:
                break
        if r[NOW] >= horizon:
            r[STATUS] = FINISHED if n_iterations == NEVER else STUCK
            break
        last = point[0, 0] if r[PENDING] == NONE else point[1, 0]
        due = last + every if every < n_iterations - last else n_iterations
        stop = moments(h, course, due, trial, space, r) if chaotic else due
        failure = next_failure(ends, r[SHIFT])
        limit = min(failure, horizon)
        if r[RETURN] <= r[NOW] < limit and r[DONE] < due:
            end = join(h, course, way, trial, space, r)
            if end == WANTED:
                return
            if end == AGAIN:
                interrupt(h, course, way, trial, space, r)
            continue
        # what stops nobody who takes part, and a node that comes back, lets the iteration that is under way come to its end
        passes = elastic and failure < horizon and harmless(h, seed, trial, space, r)
        returns = r[NOW] < r[RETURN] < limit and not crossing
        until, stop, crossing = r[RETURN] if returns else limit, min(stop, r[DONE] + 1) if crossing else stop, False
        edge, slow, trained = np.int64(NEVER), r[GIVEN] == 2, r[USEFUL] + r[WASTED]
        if (windy or alone) and r[DONE] < due and r[NOW] < limit:
            if r[GIVEN]:
                stop = r[DONE] + 1
            else:
                edge = look(course.weather, r) if windy else edge
                if edge <= r[NOW] or r[N_INJECTED] > r[N_KNOWN]:
                    want(r, WEATHER, 0, 0, 0)
                    return
                slow = windy and course.weather.state[r[SPELL]] > 0
                if alone or (slow and sizes[r[ROWS]] == 0):
                    want(r, ALONE, r[DONE], attempt[r[DONE]], edge)
                    return
                until = min(until, edge)
        soft = returns or passes or edge < limit
        begin, size = firsts[r[ROWS]], sizes[r[ROWS]]
        begins = r[NOW] < limit or r[DONE] >= stop
        if not begins:  # and the rows of an iteration that does not are not asked for
            r[GIVEN] = 0
        if not begins or not advance(
            pool, slot, of, begin, size, attempt, words, upto, point, gaps, space.diary, copy_every, copy_cost, seed, trial, stop, until,
            limit, soft, r,
        ):  # fmt: skip
            if r[STATUS] == UNKNOWN:
                return
            r[SLOWED] += r[USEFUL] + r[WASTED] - trained if slow else 0
            if returns:
                crossing = r[NOW] < r[RETURN]
            elif edge < limit:
                if r[NOW] < edge:  # its speeds change within the next iteration
                    want(r, ALONE, r[DONE], attempt[r[DONE]], edge)
                    return
            elif passes:
                fail(h, way, seed, trial, failure, space, r)
            elif limit < horizon:
                interrupt(h, course, way, trial, space, r)
            continue
        r[SLOWED] += r[USEFUL] + r[WASTED] - trained if slow else 0
        if r[DONE] < due or (chaotic and not entered(every, r)):
            continue
        over = r[DONE] == n_iterations
        if every < NEVER:
            end = later(max(r[NOW], r[PENDING]), cost)
            if passes and failure < (later(end, persist) if over else end):
                fail(h, way, seed, trial, failure, space, r)
                continue
            written = write_checkpoint(cost, persist, limit, point, space.diary, r)
            if written and over:
                book(r, CHECKPOINT, min(r[PENDING], limit), space.diary)
                written = r[PENDING] <= limit
            if not written:
                if limit < horizon:
                    interrupt(h, course, way, trial, space, r)
                continue
        if over:
            r[STATUS] = FINISHED
            break
    log_cut(space, r)
    settle(way, r[NOW], space.away, r)
    count_repairs(h, r[NOW], space, r)
    if r[PLAN]:
        r[DEGRADED] += r[NOW] - r[SINCE]
        note(space.diary, r[SINCE], r[NOW], SMALLER + r[PLAN])
    space.hit[:] = space.vacant[:] = space.out[:] = space.used[:] = 0


@kernel
def conclude(course, trial, space, r):  # type: ignore[no-untyped-def]
    """Describe the intervals of a trial that has ended, and leave ``space`` as it was before."""
    if r[STATUS] == FINISHED:
        describe(course, trial, space.saved.attempt, space.gaps, r)
    space.saved.attempt[: r[TOUCHED]] = 0


@kernel
def run_trials(h, course, way, first, space, results):  # type: ignore[no-untyped-def]
    """Trials ``first`` and following, one a row of ``results`` (trials, r); up to one that is left UNKNOWN, or goes on from there."""
    for k in range(results.shape[0]):
        if results[k, STATUS] != UNKNOWN:
            results[k] = 0
        run_trial(h, course, way, first + k, space, results[k])
        if results[k, STATUS] == UNKNOWN:
            return k
        conclude(course, first + k, space, results[k])
        results[k, HEALTHY] = healthy(course, first + k, space.saved, results[k])
    return results.shape[0]
