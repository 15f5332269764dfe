"""Intervals: how long after one another iterations of a run came to count, and its worst hour, from the journal; one trial.

An iteration that follows at once is drawn from a pool: how many are shorter than a time is a share of the pool, and none is looked up.
"""

import numpy as np

from hops.commits import COMMIT, INTERVAL, LATE, NUMBER, STATE
from hops.course import COMMITTED, DONE, INTERVALS, LONGEST, N_GAPS, NOW, TIME, WORST
from hops.jit import inlined, inner, kernel
from hops.progress import drawn

PERCENTS = (50, 95, 99)  # of the intervals between commits, in INTERVALS and following
WINDOW = 3600 * 10**9  # ticks: an hour, over which ByteRobust (SOSP 2025, as cited) has its sliding ETTR


@inlined
def in_a_row(gaps, n, done, k):  # type: ignore[no-untyped-def]
    """Iterations in a row between entries k - 1 and k of ``n``, of a run of ``done``: after which, how many, drawn from where."""
    after = gaps[k - 1, NUMBER] if k else 0
    return after, (gaps[k, NUMBER] - 1 if k < n else done) - after, gaps[k - 1, STATE] if k else 0


@inlined
def copied(after, n, copy_every):  # type: ignore[no-untyped-def]
    """How many of ``n`` iterations after the first ``after`` follow a copy."""
    return (after + n - 1) // copy_every - (after - 1) // copy_every if after else (n - 1) // copy_every if n else 0


@kernel
def describe_drawn(course, trial, attempt, gaps, r):  # type: ignore[no-untyped-def]
    """Percentiles of the intervals between commits, where those of iterations at once are as the pools that they are drawn from."""
    n, first, size, windy = r[N_GAPS], course.plans.first, course.plans.size, course.weather.tick.size > 0
    some, more = np.zeros(size.size), np.zeros(size.size)  # how many in a row, and after a copy
    n_known = n
    for k in range(n + 1):
        after, many, state = in_a_row(gaps, n, r[DONE], k)
        if windy and state:  # which states have pools is a matter of other trials
            n_known += many
            continue
        later = copied(after, many, course.copy_every) if course.copy_cost else 0
        some[state] += many - later
        more[state] += later
    late, at = np.empty(n_known, np.int64), n
    late[:n] = gaps[:n, INTERVAL]
    for k in range(n + 1 if n_known > n else 0):
        after, many, state = in_a_row(gaps, n, r[DONE], k)
        for i in range(after, after + many if state else after):
            row = first[state] + drawn(i, np.int64(attempt[i]), size[state], course.seed, trial)
            late[at] = course.pool[TIME, row] + (course.copy_cost if i > 0 and i % course.copy_every == 0 else 0)
            at += 1
    late.sort()
    known = course.ordered.size == course.pool.shape[1]
    ordered = course.ordered if known else course.pool[TIME].copy()
    low, high = np.int64(0), np.int64(0)
    for p in range(size.size):
        if some[p] + more[p]:
            own = ordered[first[p] : first[p] + size[p]]
            if not known:
                own.sort()
            high = max(high, own[-1] + (course.copy_cost if more[p] else 0))
    high = max(high, late[-1]) if n_known else high
    r[LONGEST] = high
    for q in range(len(PERCENTS)):
        wanted, a, b = PERCENTS[q] * r[DONE] / 100, low, high
        while a < b:  # the smallest that so many are not longer than
            middle = (a + b) // 2
            found = np.float64(np.searchsorted(late, middle, side="right"))
            for p in range(size.size):
                if some[p] + more[p]:
                    own = ordered[first[p] : first[p] + size[p]]
                    found += some[p] * np.searchsorted(own, middle, side="right") / size[p]
                    found += more[p] * np.searchsorted(own, middle - course.copy_cost, side="right") / size[p]
            a, b = (a, middle) if found >= wanted * (1 - 1e-12) else (middle + 1, b)
        r[INTERVALS + q] = a


@inner
def describe_known(course, attempt, gaps, r):  # type: ignore[no-untyped-def]
    """The same, where every iteration is known."""
    n, found = r[N_GAPS], np.empty(r[DONE], np.int64)
    for k in range(n + 1):
        after, many, _ = in_a_row(gaps, n, r[DONE], k)
        for i in range(after, after + many):
            late = i > 0 and i % course.copy_every == 0
            found[i] = course.pool[TIME, course.slot[attempt[i], i]] + (course.copy_cost if late else 0)
        if k < n:
            found[gaps[k, NUMBER] - 1] = gaps[k, INTERVAL]
    found.sort()
    r[LONGEST] = found[-1]
    for q in range(len(PERCENTS)):
        r[INTERVALS + q] = found[(PERCENTS[q] * r[DONE] + 99) // 100 - 1]


@kernel
def worst_window(gaps, longest, r):  # type: ignore[no-untyped-def]
    """Ticks of training in the window of the run, at most so long, that has least of it; copies in a row count as training."""
    n, length = r[N_GAPS], min(longest, r[NOW])
    begin, end = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)  # when it did not train
    for k in range(n):
        begin[k] = gaps[k, COMMIT] - gaps[k, INTERVAL]
        end[k] = begin[k] + gaps[k, LATE]
    begin[n], end[n] = r[COMMITTED], r[NOW]
    worst, first, whole = np.int64(0), 0, np.int64(0)  # ticks in intervals first .. k - 1
    for k in range(n + 1):  # windows that end with an interval, and the first: others can be moved left until they do
        whole += end[k] - begin[k]
        since = max(end[k], length) - length
        while end[first] <= since and first < k:
            whole -= end[first] - begin[first]
            first += 1
        worst = max(worst, whole - max(np.int64(0), since - begin[first]))
    r[WORST] = length - worst


@inner
def describe(course, trial, attempt, gaps, r):  # type: ignore[no-untyped-def]
    """Say of a run how long after one another its iterations came to count, and how it trained in its worst hour."""
    worst_window(gaps, WINDOW, r)
    if r[DONE] == 0:
        return
    if course.slot.shape[0]:
        describe_known(course, attempt, gaps, r)
    else:
        describe_drawn(course, trial, attempt, gaps, r)
