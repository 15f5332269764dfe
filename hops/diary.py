"""Diary: what a job does from when until when, in one trial, where that is asked for; int64 ticks.

Nothing is written about training, which is most of it, but about what is no training, what was trained before, and what a rollback
takes back. n = entries; the first row only counts them, and a diary of no rows is not kept.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.course import CHECKPOINT, DETECTION, LOST, QUEUEING, RECOVERING, REPLAY, USEFUL, WASTED
from hops.jit import inlined

BEGIN, END, WHAT = range(3)  # columns; WHAT: the result that it is booked to, LOST: was in vain, from SMALLER on: units missing in the plan
SMALLER = 1 << 10
STATES = {
    USEFUL: "useful",
    REPLAY: "replay",
    WASTED: "wasted",
    CHECKPOINT: "checkpoint",
    DETECTION: "detection",
    QUEUEING: "queue",
    RECOVERING: "recovery",
}


class Spans(NamedTuple):
    """Spans of time one after the other, n of them."""

    begin: NDArray[np.int64]  # (n,)
    end: NDArray[np.int64]
    what: NDArray[np.int64]  # a key of `STATES`; or units that are missing


@inlined
def note(diary, begin, end, what):  # type: ignore[no-untyped-def]
    """Write down what was done between two ticks; one entry with the one before, if it goes on with that."""
    if diary.shape[0] and end > begin:
        n = diary[0, 0]
        if 0 < n < diary.shape[0] and diary[n, WHAT] == what and diary[n, END] == begin:
            diary[n, END] = end
        else:
            n += 1
            diary[0, 0] = n
            if n < diary.shape[0]:
                diary[n, BEGIN], diary[n, END], diary[n, WHAT] = begin, end, what


def make_diary(n: int) -> NDArray[np.int64]:
    """Room for so many entries; of none there will be no diary."""
    return np.zeros((n + 1 if n else 0, 3), np.int64)


def states(diary: NDArray[np.int64], now: int) -> Spans:
    """What the job did from tick 0 to ``now``: every tick is in one span, whose state is not that of the span before."""
    rows = diary[1 : diary[0, 0] + 1]
    rows = rows[rows[:, WHAT] < SMALLER]
    points = np.unique(np.append(rows[:, :2], (0, now)))

    def covered(*what: int) -> NDArray[np.bool_]:
        own = rows[np.isin(rows[:, WHAT], what)]
        change = np.zeros(points.size, np.int64)
        np.add.at(change, np.searchsorted(points, own[:, BEGIN]), 1)
        np.add.at(change, np.searchsorted(points, own[:, END]), -1)
        return np.cumsum(change)[:-1] > 0

    found = np.full(points.size - 1, USEFUL)
    for what, own in ((REPLAY, (REPLAY,)), (WASTED, (LOST, WASTED))):  # what was wasted may have been a replay
        found[covered(*own)] = what
    for what in (CHECKPOINT, DETECTION, QUEUEING, RECOVERING):  # a rollback takes only training back
        found[covered(what)] = what
    return _spans(points, found)


def smaller(diary: NDArray[np.int64], now: int) -> Spans:
    """How many units the plan was short of from tick 0 to ``now``."""
    rows = diary[1 : diary[0, 0] + 1]
    rows = rows[rows[:, WHAT] >= SMALLER]
    points = np.unique(np.append(rows[:, :2], (0, now)))
    found = np.zeros(points.size - 1, np.int64)
    found[np.searchsorted(points, rows[:, BEGIN])] = rows[:, WHAT] - SMALLER
    return _spans(points, found)


def _spans(points: NDArray[np.int64], found: NDArray[np.int64]) -> Spans:
    first = np.flatnonzero(np.diff(found, prepend=-1))
    return Spans(points[first], points[np.append(first[1:], found.size)], found[first])
