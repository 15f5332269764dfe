"""Course: a training run as it should go, what it can go back to, and what one trial leaves behind; int64 ticks.

m = sampled iterations of the pool, i = iterations, k = units that are missing.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.clocks import NO_CHAOS, Chaos
from hops.noise import BLOCKS, LANES

TIME, BUSY, EXPOSED = range(3)  # rows of the pool

# what a trial leaves behind, in ticks of the job or counts; up to QUEUEING they add up to NOW
(USEFUL, WASTED, CHECKPOINT, DETECTION, RECOVERING, QUEUEING, NOW, DONE, BUSY_HIGH, BUSY_LOW, EXPOSED_HIGH, EXPOSED_LOW,
 N_FAILURES, N_EPISODES, LOST, REPLAY, N_CHECKPOINTS, HEALTHY, STATUS, TOUCHED, WINDOW, MEMORY, N_FROM_MEMORY,
 FREE, VACANT, SETTLED, STANDING_BY, N_AWAY, SAMPLES) = range(29)  # fmt: skip
IDLE = 29  # and the five after: the first six, times the GPUs that have no work in the plan
# where it is: what else it needs to go on, and what it asks for where STATUS is UNKNOWN
(PENDING, SHIFT, PHASE, STOPPED, SOURCE, WANT, ARGUMENT, ATTEMPT, LAST) = range(35, 44)
# of the plan that is on: units missing, GPUs without work, samples of an iteration; and since when
(PLAN, OUT, EACH, SINCE, DEGRADED, REPAIRED, REPAIRED_UNTIL, RETURN, HARMLESS, N_PLANS, N_EVENTS) = range(44, 55)
# what was asked for: an iteration that was evaluated alone (2: disturbed), its three rows; and of the weather: the piece that is
# on, the rows of the pool that it takes, when training last began, ticks of disturbed iterations, spells that have begun
(GIVEN, GIVEN_TIME, GIVEN_BUSY, GIVEN_EXPOSED, SPELL, ROWS, RESUMED, SLOWED, N_SPELLS) = range(55, 64)
# of what was discarded: computing of iterations that were rolled back, ticks of those that were cut; of the last one that was:
# iteration + 1, attempt, when it began
(LOST_HIGH, LOST_LOW, PARTIAL, CUT, CUT_ATTEMPT, CUT_BEGUN, N_CUTS, CUTS_OPEN) = range(64, 72)
ENTERED, ENTERED_AT = range(72, 74)  # iteration + 1 whose checkpoint, or which itself, was last entered (`hops.chaos`)
EXECUTED, N_INJECTED, N_KNOWN = range(74, 77)  # ticks computed in iterations that were cut; what chaos slows, and of that what is known
# when the last iteration came to count, entries of the journal (`hops.commits`); percentiles and longest of the intervals, ticks of
# training in the worst hour
COMMITTED, N_GAPS, INTERVALS, LONGEST, WORST = 77, 78, 79, 82, 83
# most iterations that were done when the job stopped, and how many things had failed when it first had done as many
FARTHEST, FARTHEST_AT = 84, 85
N_REBALANCED = 86  # times that a slow job has divided its microbatches anew
N_RESULTS = 87
KEPT = (USEFUL, BUSY_HIGH, BUSY_LOW, EXPOSED_HIGH, EXPOSED_LOW, SAMPLES, IDLE + USEFUL, COMMITTED)  # what a rollback takes back
ASK = -1  # HARMLESS: not known yet
FINISHED, STUCK, UNKNOWN = range(3)  # STATUS; unknown: what it WANTs
# WANT: ticks of attempt ATTEMPT at iterations ARGUMENT to LAST; the plan for so many units missing, ARGUMENT; attempt ATTEMPT at
# iteration ARGUMENT alone, which begins now and may be disturbed until tick LAST; the weather from now on
TIMES, SERVES, ALONE, WEATHER = range(4)
HALF = 32  # busy ticks of all GPUs pass 2^63 in 54 days of 16,384: they are counted in halves of so many bits


type Rows = NDArray[np.int64]  # (3, n) ticks of iterations; of these busy, and exposed


class Plans(NamedTuple):
    """What the job does while so many units are missing, k of them; without elasticity only none can be."""

    first: NDArray[np.int64]  # (k,) the iterations that it is sampled from are rows first .. first + size of the pool
    size: NDArray[np.int64]
    status: NDArray[np.int64]  # (k,) NOT_ASKED, NO_PLAN, PLANNED
    samples: NDArray[np.int64]  # (k,) of an iteration
    idle: NDArray[np.int64]  # (k,) GPUs without work, in `hops.elastic.Elasticity.piece`
    redundant: NDArray[np.bool_]  # (k,) whether every state has another holder
    of: NDArray[np.int64]  # (m,) units missing in the plan that a row was evaluated for; of none: as ``first`` says


NOT_ASKED, NO_PLAN, PLANNED = range(3)


def one_plan(n: int, samples: int = 1) -> Plans:
    """Nothing but the whole job, whose iterations are ``n`` rows of the pool."""
    one = np.ones(1, np.int64)
    return Plans(0 * one, n * one, PLANNED * one, samples * one, 0 * one, one > 0, np.zeros(0, np.int64))


class Weather(NamedTuple):
    """What the job meets that slows it; e = pieces of time. No pieces: there is never any."""

    tick: NDArray[np.int64]  # (e,) when a piece begins, the first at 0; the last says until when all is known
    state: NDArray[np.int64]  # (e,) which speeds it has, 0: the usual ones; its iterations are rows first[state] .. of the pool


NONE = np.zeros(0, np.int64)
CALM = Weather(NONE, NONE)


class Course(NamedTuple):
    """A run as it should go."""

    pool: NDArray[np.int64]  # (3, m) ticks of an iteration; of these busy, and exposed, summed over ranks and lanes
    n_iterations: int  # after so many it ends
    horizon: int  # at this tick at the latest
    every: int  # iterations between checkpoints
    cost: int  # ticks that training stands still for one
    persist: int  # ticks after that until it is durable
    copy_every: int  # iterations between copies to the memory of others
    copy_cost: int  # ticks that training stands still for one
    seed: int
    slot: NDArray[np.int64]  # (attempts, i) rows of the pool, -1: not known yet; of no attempts: drawn at random
    plans: Plans
    weather: Weather = CALM
    chaos: Chaos = NO_CHAOS
    alone: bool = False  # every iteration is evaluated alone
    ordered: NDArray[np.int64] = NONE  # (m,) times of the pool, of each plan in rising order; none: not found yet


class Saved(NamedTuple):
    """What one trial can go back to, and what it has drawn."""

    attempt: NDArray[np.int32]  # (i,) how often an iteration was begun; 0 from TOUCHED on
    words: NDArray[np.uint32]  # (4, BLOCKS)
    upto: NDArray[np.int64]  # (3, LANES + 1) sums of the pool over the first attempts at the iterations of window WINDOW, from its first on
    point: NDArray[np.int64]  # (3, 1 + 8) durable checkpoint, one that is being persisted, copy in others' memory: iterations done, `KEPT`


def make_saved(n_iterations: int) -> Saved:
    """Memory for runs of at most so many iterations."""
    words, upto = np.empty((4, BLOCKS), np.uint32), np.zeros((3, LANES + 1), np.int64)
    return Saved(np.zeros(n_iterations + 1, np.int32), words, upto, np.zeros((3, 1 + len(KEPT)), np.int64))
