"""Intervals: percentiles of the intervals between iterations that count, and the worst hour, from a journal of what is not in a row."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hops.commits import make_journal
from hops.course import CALM, COMMITTED, DONE, INTERVALS, LONGEST, N_GAPS, N_RESULTS, NOW, WORST, Course, one_plan
from hops.intervals import PERCENTS, describe_drawn, worst_window
from hops.kernels import NEVER


def made(intervals, tail=0):
    """Journal and results of a run of these intervals: (ticks that it waits, ticks that it trains)."""
    r, gaps, now = np.zeros(N_RESULTS, np.int64), make_journal(len(intervals)), 0
    for k, (idle, time) in enumerate(intervals):
        now += idle + time
        if idle:
            gaps[r[N_GAPS]] = k + 1, now, idle + time, idle, 0
            r[N_GAPS] += 1
    r[DONE], r[COMMITTED], r[NOW] = len(intervals), now, now + tail
    return r, gaps


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from([0, 0, 1, 5, 30]), st.integers(1, 9)), min_size=1, max_size=12),
    st.integers(0, 9),
    st.integers(1, 60),
)
def test_worst_window__is_that_of_all_that_there_are(intervals, tail, length):
    r, gaps = made(intervals, tail)
    worst_window(gaps, length, r)
    trains = np.concatenate([np.repeat([0, 1], each) for each in intervals] + [np.zeros(tail, int)])
    length = min(length, len(trains))
    assert r[WORST] == min(trains[at : at + length].sum() for at in range(len(trains) - length + 1))


@settings(max_examples=200)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.lists(st.sampled_from([0, 0, 1, 5, 30]), min_size=1, max_size=40),
    st.sampled_from([NEVER, 1, 3]), st.integers(0, 2),
)  # fmt: skip
def test_describe__percentiles_are_of_all_intervals_as_if_those_in_a_row_were_the_whole_pool(pool, idle, copy_every, copy_cost):
    """Every interval that is in no journal counts as one part in m of each of the pool, later by a copy where one came before it."""
    r, gaps = made([(each, 4) for each in idle])
    course = Course(
        np.array([pool] * 3), NEVER, NEVER, NEVER, 0, 0, copy_every, copy_cost, 0, np.zeros((0, 1), np.int64), one_plan(len(pool)), CALM
    )
    values = []
    for k, each in enumerate(idle):
        late = copy_cost if k and k % copy_every == 0 else 0
        values += [each + 4] * len(pool) if each else [time + late for time in pool]
    for ordered in (course.ordered, np.sort(pool)):
        describe_drawn(course._replace(ordered=ordered), 0, np.zeros(40, np.int32), gaps, r)
        values.sort()
        wanted = [values[-(-percent * len(values) // 100) - 1] for percent in PERCENTS]
        assert r[INTERVALS : INTERVALS + len(PERCENTS)].tolist() == wanted
        assert r[LONGEST] == values[-1]
