"""Histories: what the job did in a trial of a training run, and what failed, when: the trial is run once more, with a diary."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.checks import Infeasible, count
from hops.course import N_RESULTS, NOW, STATUS, STUCK, Rows
from hops.diary import STATES, Spans, smaller, states
from hops.executor import Executor, evaluate
from hops.places import MOST_FAILURES
from hops.runs import lines_of, make_trials, training_of
from hops.scripts import Line
from hops.simulation import Case
from hops.weights import TICKS

if TYPE_CHECKING:
    import pandas as pd

N_NOTED = 1 << 16  # entries of a diary at first; a trial that needs more is run again


class History(NamedTuple):
    """One trial, in ticks."""

    trial: int
    states: Spans  # what the job did, see `hops.diary.STATES`
    smaller: Spans  # units that its plan was short of
    failures: tuple[Line, ...]  # by time; what only slowed the job too
    results: NDArray[np.int64]  # (N_RESULTS,), see `hops.course`


def histories(case: Case, pool: Rows, wanted: Iterable[int]) -> list[History]:
    """Histories of some trials of a cell whose sampled iterations are ``pool`` (3, m), as in `hops.runs.run_case`."""
    training, _ = training_of(case)
    if training.run.tier == "analytic":
        raise Infeasible("run.tier=analytic has no trials, only their mean (try run.tier=resampled)")
    chosen = [count("trial", trial, least=0, most=training.trials - 1) for trial in wanted]
    trials, n_noted, found = make_trials(case, pool), N_NOTED, []
    for trial in chosen:
        while True:
            r, space = np.zeros(N_RESULTS, np.int64), trials.space(MOST_FAILURES, n_noted)
            one = trials.run(trial, space, r)
            needed = int(space.diary[0, 0])
            if needed <= n_noted:
                break
            n_noted = 2 * needed
        if r[STATUS] == STUCK:
            raise Infeasible(f"trial {trial} does not come to an end, so it has no history")
        now = int(r[NOW])
        found.append(History(trial, states(space.diary, now), smaller(space.diary, now), lines_of(trials, one, space, r), r))
    return found


def cell_histories(case: Case, executor: Executor, wanted: Iterable[int]) -> list[History]:
    """The same, with the iterations evaluated anew."""
    training_of(case)
    (outcome,) = evaluate([case], executor)
    return histories(case, outcome.pool(0, case), wanted)


def states_frame(history: History) -> "pd.DataFrame":
    """What the job did from when until when [s]: columns state, start, end, missing (units that the plan is short of), by time.

    Training is useful, or a replay of what had been done before and was lost; what is lost later is wasted.
    """
    import pandas as pd

    spans, plans = history.states, history.smaller
    cuts = np.union1d(spans.begin, plans.begin)
    of, plan = (np.searchsorted(each.begin, cuts, side="right") - 1 for each in (spans, plans))
    ends = np.append(cuts[1:], spans.end[-1:])
    names = [STATES[what] for what in spans.what[of].tolist()]
    return pd.DataFrame({"state": names, "start": cuts / TICKS, "end": ends / TICKS, "missing": plans.what[plan]})


def failures_frame(history: History) -> "pd.DataFrame":
    """What failed, by time: columns time [s], fault, kind, unit (nodes of the job, a device or a link), until [s].

    ``until``: of a failure when it was known, of what slows the job when that ends. Failures beyond the end of the run are not its.
    """
    import pandas as pd

    rows = [
        (line.tick / TICKS, line.fault, line.kind, unit_of(line), (line.tick + (line.duration or line.detection)) / TICKS)
        for line in history.failures
    ]
    return pd.DataFrame(rows, columns=["time", "fault", "kind", "unit", "until"])


def unit_of(line: Line) -> str:
    """What failed, in words."""
    if line.link is not None:
        return line.link
    if line.device is not None:
        return f"device {line.device}"
    return f"node{'s' * (len(line.nodes) != 1)} {', '.join(map(str, line.nodes))}"
