"""Commits: when iterations of a run came to count; int64 ticks, one trial.

Most follow the one before at once, and are as long as an iteration is: these are only counted. A journal has those before which something
came (a checkpoint, all of an interruption with what was done again), and those that were evaluated alone. What follows a copy to the
memory of others, as every so many iterations do, is only counted too.
"""

import numpy as np
from numpy.typing import NDArray

from hops.course import COMMITTED, GIVEN, N_GAPS, ROWS
from hops.jit import inlined

# columns of the journal: iterations done with it; ticks: when it came to count, since the one before, of training stopped before it; which
# rows it was drawn from
NUMBER, COMMIT, INTERVAL, LATE, STATE = range(5)


@inlined
def commit(r, gaps, done, begun, time, copy_every, copy_cost):  # type: ignore[no-untyped-def]
    """Note that iteration ``done``, the next one, counts; ``begun`` and ``time`` are its own."""
    idle = begun - r[COMMITTED]
    if (done - 1) % copy_every == 0 and done > 1 and idle == copy_cost:
        idle = 0
    if idle or r[GIVEN] or r[ROWS] != (gaps[r[N_GAPS] - 1, STATE] if r[N_GAPS] else 0):
        at = r[N_GAPS]
        gaps[at, NUMBER], gaps[at, COMMIT], gaps[at, INTERVAL] = done, begun + time, begun + time - r[COMMITTED]
        gaps[at, LATE], gaps[at, STATE] = idle, r[ROWS]
        r[N_GAPS] += 1


@inlined
def uncommit(r, gaps, done):  # type: ignore[no-untyped-def]
    """Only the first ``done`` iterations count."""
    while r[N_GAPS] and gaps[r[N_GAPS] - 1, NUMBER] > done:
        r[N_GAPS] -= 1


def make_journal(n_iterations: int) -> NDArray[np.int64]:
    """Room for the journal of a run of at most so many iterations; what is not used takes no memory."""
    return np.empty((n_iterations + 1, 5), np.int64)
