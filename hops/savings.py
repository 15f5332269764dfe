"""Savings: how much time an iteration would save were something ideal, draw by draw of the same weather."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from hops import kernels
from hops.executor import Executor, evaluate
from hops.ideals import MEANING, NOISES, but_one, made_ideal
from hops.metrics import student
from hops.paths import PATH_CLASSES
from hops.simulation import Case
from hops.weights import TICKS, Ints

MOST_RANKS = 3  # the slowest, that are asked about one by one


class Saving(NamedTuple):
    """What an ideal saves of an iteration [s]: the mean over draws with its 95 % interval, and of the p95."""

    name: str
    mean: float
    standard_error: float
    low: float
    high: float
    tail: float
    share: float  # of the mean iteration

    @property
    def meaning(self) -> str:
        """The ideal in words."""
        noun, _, which = self.name.partition(" ")
        more = {"rank": f"rank {which} is no slower than the mean of the others", "link": f"messages over {which} take no time"}
        return MEANING.get(self.name) or more[noun]


class Straggling(NamedTuple):
    """What slow ranks and noise cost: ratios to the time of equal ranks without any; S = T / T_ideal of ByteDance's straggler analysis."""

    slowdown: float  # of the mean iteration
    waste: float  # share of the time of GPUs, 1 - 1/S
    by_rank: tuple[float, ...]  # with all ranks but this one as long as the mean, without noise


def savings(case: Case, executor: Executor, names: Sequence[str] | None = None) -> list[Saving]:
    """What each of ``names`` would save, None: of all that matter; most first. ``ValueError`` for a name that is no ideal."""
    return savings_of([case], executor, names)[0]


def savings_of(cases: Sequence[Case], executor: Executor, names: Sequence[str] | None = None) -> list[list[Saving]]:
    """`savings` of several cases, evaluated side by side."""
    asked = [list(dict.fromkeys(candidates(case) if names is None else names)) for case in cases]
    ideals = [[case, *(made_ideal(case, name) for name in each)] for case, each in zip(cases, asked, strict=True)]
    ticks = iter(iterations([each for row in ideals for each in row], executor))
    found = []
    for case, each in zip(cases, asked, strict=True):
        own = next(ticks)
        found.append(sorted((_saving(name, own, next(ticks), case) for name in each), key=lambda saving: -saving.mean))
    return found


def straggling(case: Case, executor: Executor) -> Straggling:
    """What slow ranks and noise cost."""
    calm = made_ideal(case, *NOISES, "lost messages", "disturbance")
    ranks = range(case.scenario.pp)
    own, ideal, *others = iterations([case, made_ideal(calm, "balance"), *(but_one(calm, rank) for rank in ranks)], executor)
    slowdown = float(own.mean() / ideal[0])
    return Straggling(slowdown, 1 - 1 / slowdown, tuple(float(other[0] / ideal[0]) for other in others))


def iterations(cases: Sequence[Case], executor: Executor) -> list[Ints]:
    """Ticks of the iterations of each, in as many draws as it asks for; training runs are left alone."""
    cases = [case._replace(scenario=replace(case.scenario, training=None)) for case in cases]
    found = [np.empty(0, np.int64)] * len(cases)
    for outcome in evaluate(cases, executor):
        for i, cell in enumerate(outcome.cells):
            s = cases[cell].scenario
            found[cell] = outcome.ticks[kernels.STEP if s.barrier else kernels.OWN_STEP, i]
    return found


def _saving(name: str, own: Ints, ideal: Ints, case: Case) -> Saving:
    unit, n = TICKS * case.n_batches, own.size
    saved = (own - ideal) / unit  # the ideal may have one draw, if nothing varies
    mean, error, half = float(saved.mean()), 0.0, 0.0
    if case.noisy and (saved != saved[0]).any():
        error = float(saved.std(ddof=1) / np.sqrt(n))
        half = float(student(np.array(n))) * error
    elif case.noisy and n == 1:
        error = half = float("nan")
    tail = float(np.quantile(own, 0.95) - np.quantile(ideal, 0.95)) / unit
    return Saving(name, mean, error, mean - half, mean + half, tail, mean * unit / float(own.mean()))


def candidates(case: Case) -> list[str]:
    """Ideals that change the case: of single ranks the slowest, of single links none if all are of one class."""
    w, often = case.weights, case.structure.n_works
    spent = np.zeros(case.scenario.pp)
    for seat, rank in enumerate(case.structure.stage_ranks):
        spent[rank] += w.work[:, 4 * seat : 4 * seat + 4].max(axis=0) @ often[4 * seat : 4 * seat + 4]
    ranks = [f"rank {rank}" for rank in np.argsort(-spent, kind="stable")[:MOST_RANKS]]
    found = [name for name in (*MEANING, *ranks) if made_ideal(case, name) is not case]
    crossed = [f"link {PATH_CLASSES[path]}" for path in np.unique(w.link)]
    links = [name for name in crossed if made_ideal(case, name) is not case]
    return found + (links if len(links) > 1 else [])
