"""Episodes: a training run through its failures, in int64 ticks; one trial a call.

At equal ticks what ends comes before a failure, and a failure before it is known and before anything starts. An iteration
that a failure meets is discarded whole, and with it what can not be loaded again. A failure while another is being
noticed joins it; one during the recovery begins it anew, with the nodes of both missing.

A trial that needs what is not known yet (the times of an attempt, the plan for so many missing units) says so in its results, and
goes on from there when it is called again.
"""

from hops.clocks import start_clocks
from hops.jit import inlined, kernel
from hops.kernels import NEVER
from hops.places import MOST_FAILURES, cast, count_repairs, fail, harmless, n_missing, next_failure, settle, take_back, turn_to
from hops.progress import (
    CHECKPOINT,
    DEGRADED,
    DONE,
    FINISHED,
    FREE,
    HEALTHY,
    MEMORY,
    N_CHECKPOINTS,
    N_EPISODES,
    N_EVENTS,
    N_FROM_MEMORY,
    NO_PLAN,
    NOT_ASKED,
    NOW,
    PENDING,
    PHASE,
    PLAN,
    RETURN,
    SERVES,
    SHIFT,
    SINCE,
    SOURCE,
    STATUS,
    STOPPED,
    STUCK,
    TOUCHED,
    UNKNOWN,
    WINDOW,
    advance,
    back_to_checkpoint,
    back_to_memory,
    book,
    healthy,
    later,
    promote,
    save,
    want,
)
from hops.ways import AGAIN, COPIED, LOADED, THERE, TRAINING, WANTED, notice, pass_states, way_back

NONE = -1  # no checkpoint is being persisted


@kernel
def interrupt(h, course, way, trial, space, r):  # type: ignore[no-untyped-def]
    """Stop training, as something fails at this tick."""
    if r[PENDING] != NONE and r[PENDING] <= r[NOW]:
        promote(space.saved.point)
    r[PENDING], r[STOPPED] = NONE, r[NOW]
    r[N_EPISODES] += 1
    notice(h, course, way, trial, space, r)


@inlined
def go_on(h, course, way, trial, space, r):  # type: ignore[no-untyped-def]
    """Train again, with what the way back has led to."""
    saved = space.saved
    if r[SOURCE] == COPIED:
        r[MEMORY] = max(r[MEMORY], saved.point[0, 0])
        back_to_memory(course.pool, course.slot, course.plans, saved.attempt, course.seed, trial, r)
    elif r[SOURCE] == LOADED:
        back_to_checkpoint(saved.point, saved.attempt, r)
    r[N_FROM_MEMORY] += r[SOURCE] != LOADED
    if way.elastic:
        turn_to(h, course.plans, n_missing(h, -1, space), course.horizon, space, r)
    elif not way.pool:
        space.vacant[:] = 0
    space.hit[:] = 0
    r[SHIFT] += r[NOW] - r[STOPPED] if h.exposure else 0
    r[PHASE] = TRAINING


@kernel
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
    if pass_states(h, course, way, trial, way.n_back, way.ticks.size, space, r) == AGAIN:
        return AGAIN
    turn_to(h, course.plans, missing, course.horizon, space, r)
    r[SHIFT] += r[NOW] - begun if h.exposure else 0
    return THERE


@inlined
def write_checkpoint(cost, persist, limit, point, r):  # type: ignore[no-untyped-def]
    """Write one when that of before is durable, at tick PENDING; True: it was written."""
    end = later(max(r[NOW], r[PENDING]), cost)
    book(r, CHECKPOINT, min(end, limit))
    if end > limit:
        return False
    if r[PENDING] != NONE:
        promote(point)
    save(r, point, 1)
    r[N_CHECKPOINTS] += 1
    r[PENDING] = later(end, persist)
    return True


@kernel
def start(h, course, way, trial, space, r):  # type: ignore[no-untyped-def]
    """Begin a trial, with zeros in ``r``."""
    r[WINDOW], r[FREE], r[PENDING] = -1, way.spares, NONE
    start_clocks(h, course.seed, trial, space.clocks)
    save(r, space.saved.point, 0)
    cast(h, space, r)
    r[RETURN] = NEVER
    turn_to(h, course.plans, 0, course.horizon, space, r)


@kernel
def run_trial(h, course, way, trial, space, r):  # type: ignore[no-untyped-def]
    """One training run; leaves what became of it in ``r`` (55,), zeros before, or UNKNOWN where it is to go on.

    Called again with what it wanted it does. At the end ``space`` is as it was before.
    """
    pool, slot, plans, saved = course.pool, course.slot, course.plans, space.saved
    attempt, words, upto, point = saved.attempt, saved.words, saved.upto, saved.point
    of, firsts, sizes, ends, copy_every, copy_cost, seed = (
        plans.of,
        plans.first,
        plans.size,
        space.clocks.tick,
        course.copy_every,
        course.copy_cost,
        course.seed,
    )
    if r[STATUS] != UNKNOWN:
        start(h, course, way, trial, space, r)
    r[STATUS], crossing = STUCK, False
    while r[PHASE] != TRAINING or r[N_EVENTS] < MOST_FAILURES:
        if r[PHASE] != TRAINING:
            end = way_back(h, course, way, trial, space, r)
            if end == WANTED:
                return
            if end == AGAIN and r[N_EVENTS] < MOST_FAILURES:
                notice(h, course, way, trial, space, r)
                continue
            go_on(h, course, way, trial, space, r)
            if r[N_EVENTS] >= MOST_FAILURES:
                break
        if r[NOW] >= course.horizon:
            r[STATUS] = FINISHED if course.n_iterations == NEVER else STUCK
            break
        failure = next_failure(ends, r[SHIFT])
        limit = min(failure, course.horizon)
        last = point[0, 0] if r[PENDING] == NONE else point[1, 0]
        due = last + course.every if course.every < course.n_iterations - last else course.n_iterations
        if r[RETURN] <= r[NOW] < limit and r[DONE] < due:
            end = join(h, course, way, trial, space, r)
            if end == WANTED:
                return
            if end == AGAIN:
                interrupt(h, course, way, trial, space, r)
            continue
        # what stops nobody who takes part, and a node that comes back, lets the iteration that is under way come to its end
        passes = way.elastic and failure < course.horizon and harmless(h, seed, trial, space, r)
        returns = r[NOW] < r[RETURN] < limit and not crossing
        until, stop, crossing = r[RETURN] if returns else limit, min(due, r[DONE] + 1) if crossing else due, False
        if not advance(
            pool,
            slot,
            of,
            firsts[r[PLAN]],
            sizes[r[PLAN]],
            attempt,
            words,
            upto,
            copy_every,
            copy_cost,
            seed,
            trial,
            stop,
            until,
            returns or passes,
            r,
        ):
            if r[STATUS] == UNKNOWN:
                return
            if returns:
                crossing = r[NOW] < r[RETURN]
            elif passes:
                fail(h, way, seed, trial, failure, space, r)
            elif limit < course.horizon:
                interrupt(h, course, way, trial, space, r)
            continue
        if r[DONE] < due:
            continue
        over = r[DONE] == course.n_iterations
        if course.every < NEVER:
            end = later(max(r[NOW], r[PENDING]), course.cost)
            if passes and failure < (later(end, course.persist) if over else end):
                fail(h, way, seed, trial, failure, space, r)
                continue
            written = write_checkpoint(course.cost, course.persist, limit, point, r)
            if written and over:
                book(r, CHECKPOINT, min(r[PENDING], limit))
                written = r[PENDING] <= limit
            if not written:
                if limit < course.horizon:
                    interrupt(h, course, way, trial, space, r)
                continue
        if over:
            r[STATUS] = FINISHED
            break
    settle(way, r[NOW], space.away, r)
    count_repairs(h, r[NOW], space, r)
    r[DEGRADED] += r[NOW] - r[SINCE] if r[PLAN] else 0
    attempt[: r[TOUCHED]] = 0
    space.hit[:] = space.vacant[:] = space.out[:] = space.used[:] = 0


@kernel
def run_trials(h, course, way, first, space, results):  # type: ignore[no-untyped-def]
    """Trials ``first`` and following, one a row of ``results`` (trials, 55); up to one that is left UNKNOWN, or goes on from there."""
    for k in range(results.shape[0]):
        if results[k, STATUS] != UNKNOWN:
            results[k] = 0
        run_trial(h, course, way, first + k, space, results[k])
        if results[k, STATUS] == UNKNOWN:
            return k
        results[k, HEALTHY] = healthy(course, first + k, space.saved, results[k])
    return results.shape[0]
