"""Ladder: what to do about a job that is slow, step by step, from what its iterations take; int64 ticks of one trial.

Ski rental: a step is taken as soon as being slow has cost as much as the step costs, so that in the end it costs at most twice what it
had if one had known how long that lasts. Source: Greyhound (Falcon), as cited.
"""

from collections.abc import Sequence
from heapq import heapify, heapreplace
from typing import NamedTuple

from hops.recovery import Ladder
from hops.weights import TICKS


class Steps(NamedTuple):
    """A `Ladder` in ticks of a job."""

    usual: int  # that an iteration takes when nothing is slow
    longest: int  # that one takes which is not slow
    patience: int  # slow ones in a row until the job takes itself to be slow
    rebalance: int
    evict: int


class Rung(NamedTuple):
    """Where a job stands on it."""

    n_slow: int = 0  # iterations in a row
    loss: int = 0  # ticks more than usual since there were enough of them
    balance: tuple[int, ...] = ()  # microbatches of every lane; none: as planned


GROUND = Rung()


def steps_of(ladder: Ladder, usual: int) -> Steps:
    """The ladder of a job whose iterations usually take so many ticks."""
    rebalance, evict = round(ladder.rebalance * TICKS), round(ladder.evict * TICKS)
    return Steps(usual, usual + round(usual * ladder.threshold), ladder.patience, rebalance, evict)


def seen(rung: Rung, ticks: int, steps: Steps) -> Rung:
    """Take note of what an iteration took."""
    if rung.n_slow >= steps.patience:
        return rung._replace(loss=rung.loss + max(0, ticks - steps.usual))
    return rung._replace(n_slow=rung.n_slow + 1 if ticks > steps.longest else 0)


def evicts(rung: Rung, steps: Steps) -> bool:
    """Whether the last step is due."""
    return rung.n_slow >= steps.patience and rung.loss >= steps.evict


def rebalances(rung: Rung, steps: Steps) -> bool:
    """Whether the step before it is due, and has not been taken."""
    return rung.n_slow >= steps.patience and rung.loss >= steps.rebalance and not rung.balance


def balanced(times: Sequence[int], total: int) -> tuple[int, ...]:
    """``total`` microbatches of replicas that take ``times`` for one, so that the last is ready as early as can be; each has one at least.

    Each goes to whom it makes ready first (Greyhound, as cited); no other division is faster.
    """
    found = [1] * len(times)
    ready = [(2 * ticks, i) for i, ticks in enumerate(times)]
    heapify(ready)
    for _ in range(total - len(times)):
        _, i = ready[0]
        found[i] += 1
        heapreplace(ready, ((found[i] + 1) * times[i], i))
    return tuple(found)
