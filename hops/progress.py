"""Progress: how far training gets until something stops it; int64 ticks, one trial.

m = sampled iterations of the pool, i = iterations. The first attempts at the iterations of a window are drawn side by side, and as
sums, so that many are done at once; what is attempted again is drawn one by one.
"""

import numpy as np

from hops.commits import commit
from hops.course import (
    ARGUMENT,
    ATTEMPT,
    BUSY,
    BUSY_HIGH,
    BUSY_LOW,
    CHECKPOINT,
    COMMITTED,
    CUT,
    CUT_ATTEMPT,
    CUT_BEGUN,
    DONE,
    EACH,
    EXPOSED,
    EXPOSED_HIGH,
    EXPOSED_LOW,
    GIVEN,
    GIVEN_BUSY,
    GIVEN_EXPOSED,
    GIVEN_TIME,
    HALF,
    IDLE,
    KEPT,
    LAST,
    MEMORY,
    NOW,
    OUT,
    PARTIAL,
    REPLAY,
    ROWS,
    SAMPLES,
    STATUS,
    TIME,
    TIMES,
    TOUCHED,
    UNKNOWN,
    USEFUL,
    WANT,
    WASTED,
    WINDOW,
)
from hops.diary import note
from hops.jit import bare, bare_kernel, inlined
from hops.kernels import NEVER
from hops.noise import BLOCKS, LANES, philox

RESAMPLE_STREAM = 20  # counter = (block of iterations, attempt, 0, stream)


@bare
def read_window(window, i, pool, slot, of, upto, r):  # type: ignore[no-untyped-def]
    """Sums over the first attempts at a window's iterations, (3, LANES + 1); False: those from ``i`` on are not known for this plan."""
    first, n = window * LANES, min(LANES, slot.shape[1] - window * LANES)
    for at in range(i, first + n):
        if of[slot[0, at]] != r[ROWS]:
            want(r, TIMES, i, 0, first + n)
            return False
    for at in range(n):
        for k in range(3):
            upto[k, at + 1] = upto[k, at] + pool[k, slot[0, first + at]]
    return True


@bare
def draw_window(window, i, pool, slot, of, begin, size, seed, trial, words, upto, r):  # type: ignore[no-untyped-def]
    """Sums over the first attempts at a window's iterations, (3, LANES + 1), if they are known from ``i`` on."""
    if slot.shape[0]:
        return read_window(window, i, pool, slot, of, upto, r)
    for b in range(BLOCKS):
        words[0, b], words[1, b], words[2, b], words[3, b] = philox(
            np.uint32(window * BLOCKS + b), np.uint32(0), np.uint32(0), np.uint32(RESAMPLE_STREAM), np.uint32(seed), np.uint32(trial)
        )
    n, base, at = np.uint64(size), np.uint64(begin), 0
    time = busy = exposed = np.int64(0)
    for word in range(4):
        for b in range(BLOCKS):
            row = base + ((np.uint64(words[word, b]) * n) >> np.uint64(32))  # unsigned: spares the test for a negative index
            time += pool[TIME, row]
            busy += pool[BUSY, row]
            exposed += pool[EXPOSED, row]
            at += 1
            upto[TIME, at], upto[BUSY, at], upto[EXPOSED, at] = time, busy, exposed
    return True


@bare_kernel
def drawn(i, attempt, size, seed, trial):  # type: ignore[no-untyped-def]
    """Which of ``size`` sampled iterations an attempt at iteration i is."""
    block = np.uint32(i // LANES * BLOCKS + i % BLOCKS)
    a, b, c, d = philox(block, np.uint32(attempt), np.uint32(0), np.uint32(RESAMPLE_STREAM), np.uint32(seed), np.uint32(trial))
    word = i // BLOCKS % 4
    bits = a if word == 0 else b if word == 1 else c if word == 2 else d
    return np.int64((np.uint64(bits) * np.uint64(size)) >> np.uint64(32))


@inlined
def row_of(i, attempt, slot, of, plan, begin, size, seed, trial):  # type: ignore[no-untyped-def]
    """Row of the pool that an attempt at iteration i takes under a plan; -1: not known yet."""
    row = np.int64(-1)
    if slot.shape[0] == 0:
        row = begin + drawn(i, attempt, size, seed, trial)
    elif attempt < slot.shape[0] and slot[attempt, i] >= 0 and of[slot[attempt, i]] == plan:
        row = slot[attempt, i]
    return row


@inlined
def want(r, kind, argument, attempt, last):  # type: ignore[no-untyped-def]
    """Say what the trial needs to go on."""
    r[STATUS], r[WANT], r[ARGUMENT], r[ATTEMPT], r[LAST] = UNKNOWN, kind, argument, attempt, last


@inlined
def later(tick, ticks):  # type: ignore[no-untyped-def]
    """``ticks`` after ``tick``, at most NEVER."""
    return tick + min(ticks, NEVER - tick)


@inlined
def book(r, bucket, until, diary):  # type: ignore[no-untyped-def]
    """Let time pass, and write down what it was for."""
    note(diary, r[NOW], until, bucket)
    spend(r, bucket, until)


@inlined
def spend(r, bucket, until):  # type: ignore[no-untyped-def]
    """Let time pass."""
    r[bucket] += until - r[NOW]
    r[IDLE + bucket] += r[OUT] * (until - r[NOW])
    r[NOW] = until


@inlined
def keep(r, n, whole, busy, exposed):  # type: ignore[no-untyped-def]
    """Book ``n`` iterations that are done."""
    mask = np.int64((1 << HALF) - 1)
    r[USEFUL] += whole
    r[IDLE + USEFUL] += r[OUT] * whole
    r[NOW] += whole
    r[SAMPLES] += n * r[EACH]
    r[BUSY_HIGH] += busy >> HALF
    r[BUSY_LOW] += busy & mask
    r[EXPOSED_HIGH] += exposed >> HALF
    r[EXPOSED_LOW] += exposed & mask


@inlined
def save(r, point, row):  # type: ignore[no-untyped-def]
    """Write what is done into a checkpoint."""
    point[row, 0] = r[DONE]
    for k, kept in enumerate(KEPT):
        point[row, 1 + k] = r[kept]


@inlined
def forgo(r, n, whole, busy, exposed, copy_cost, point):  # type: ignore[no-untyped-def]
    """Take ``n`` iterations that were done later out of the copy in others' memory; as `KEPT` has them."""
    mask = np.int64((1 << HALF) - 1)
    point[2, 0] = r[MEMORY]
    point[2, 1] -= whole
    point[2, 2] -= busy >> HALF
    point[2, 3] -= busy & mask
    point[2, 4] -= exposed >> HALF
    point[2, 5] -= exposed & mask
    point[2, 6] -= n * r[EACH]
    point[2, 7] -= r[OUT] * whole
    point[2, 8] -= whole + copy_cost


@inlined
def advance(  # type: ignore[no-untyped-def]
    pool, slot, of, begin, size, attempt, words, upto, point, gaps, diary, copy_every, copy_cost, seed, trial, stop, limit, hard, soft, r
):
    """Train until ``stop`` iterations are done, or until tick ``limit``; what is under way then is discarded. True: all are done.

    With a ``soft`` limit it is not even begun, and a copy is made until tick ``hard``.
    The parts of `Course` and `Saved` one by one: as tuples they took 200 ns a call, in
    which numba counts references.
    """
    while r[DONE] < stop:
        i = r[DONE]
        if i < r[TOUCHED] or r[GIVEN]:
            begun, time, busy, exposed = r[NOW], r[GIVEN_TIME], r[GIVEN_BUSY], r[GIVEN_EXPOSED]
            if not r[GIVEN]:
                row = row_of(i, attempt[i], slot, of, r[ROWS], begin, size, seed, trial)
                if row < 0:
                    want(r, TIMES, i, attempt[i], min(r[TOUCHED], slot.shape[1]))
                    return False
                time, busy, exposed = pool[TIME, row], pool[BUSY, row], pool[EXPOSED, row]
            done = i + (begun + time <= limit)
            if done > i:
                commit(r, gaps, done, begun, time, copy_every, copy_cost)
                keep(r, 1, time, busy, exposed)
                r[COMMITTED] = r[NOW]
            if i < r[TOUCHED] and (done > i or not soft):
                r[REPLAY] += min(begun + time, limit) - begun
                note(diary, begun, min(begun + time, limit), REPLAY)
            end, r[GIVEN] = i + 1, r[GIVEN] if soft and done == i else 0
        else:
            window = i // LANES
            if r[WINDOW] != window:
                if not draw_window(window, i, pool, slot, of, begin, size, seed, trial, words, upto, r):
                    return False
                r[WINDOW] = window
            first, done, end, copies = window * LANES, i, min(stop, (window + 1) * LANES), i // copy_every
            # copies are made between iterations: the one after the last is not yet
            before = r[NOW] - upto[TIME, i - first] - copies * copy_cost
            if before + upto[TIME, end - first] + (end - 1) // copy_every * copy_cost <= limit:
                done = end
            else:  # one of them is cut: those before it are done
                cut = end
                while cut - done > 1:
                    middle = (done + cut) // 2
                    if before + upto[TIME, middle - first] + (middle - 1) // copy_every * copy_cost <= limit:
                        done = middle
                    else:
                        cut = middle
            if done > i:
                a, b = i - first, done - first
                commit(r, gaps, i + 1, r[NOW], upto[TIME, a + 1] - upto[TIME, a], copy_every, copy_cost)
                keep(r, done - i, upto[TIME, b] - upto[TIME, a], upto[BUSY, b] - upto[BUSY, a], upto[EXPOSED, b] - upto[EXPOSED, a])
                made = (done - 1) // copy_every - copies
                spend(r, CHECKPOINT, r[NOW] + made * copy_cost)
                for k in range(copies, copies + made if diary.shape[0] else copies):
                    copied = before + upto[TIME, (k + 1) * copy_every - first] + k * copy_cost
                    note(diary, copied, copied + copy_cost, CHECKPOINT)
                r[COMMITTED] = r[NOW]
                if made > 0:
                    r[MEMORY] = (done - 1) // copy_every * copy_every
                    save(r, point, 2)
                    at = r[MEMORY] - first
                    forgo(
                        r,
                        done - r[MEMORY],
                        upto[TIME, b] - upto[TIME, at],
                        upto[BUSY, b] - upto[BUSY, at],
                        upto[EXPOSED, b] - upto[EXPOSED, at],
                        copy_cost,
                        point,
                    )
        r[DONE] = done
        if done > i and done % copy_every == 0:
            copied = r[NOW] + copy_cost
            book(r, CHECKPOINT, min(copied, hard), diary)
            if copied > hard:
                return False
            r[MEMORY] = done
            save(r, point, 2)
        if done < end and soft:
            return False
        if done < end:
            if limit > r[NOW]:  # what would begin at the tick of a failure has not begun
                r[CUT], r[CUT_ATTEMPT], r[CUT_BEGUN] = done + 1, attempt[done], r[NOW]
                r[PARTIAL] += limit - r[NOW]
                attempt[done] += 1
                r[TOUCHED] = max(r[TOUCHED], done + 1)
            book(r, WASTED, limit, diary)
            return False
    return True


@bare_kernel
def healthy(course, trial, saved, r):  # type: ignore[no-untyped-def]
    """The same trial without failures and checkpoints: ticks of all iterations; or how many fit, where only the horizon ends the run."""
    upto, now, done = saved.upto, np.int64(0), 0
    plans, r[ROWS] = course.plans, 0
    while done < course.n_iterations:
        draw_window(
            done // LANES, done, course.pool, course.slot, plans.of, plans.first[0], plans.size[0], course.seed, trial, saved.words, upto, r
        )
        n = min(LANES, course.n_iterations - done)
        if now + upto[TIME, n] > course.horizon:
            while now + upto[TIME, n] > course.horizon:
                n -= 1
            return np.int64(done + n)
        now += upto[TIME, n]
        done += n
    return now
