"""Variables of training runs, as a cell and a cube hold them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hops.checks import Infeasible
from hops.countdown import Countdown
from hops.executor import Executor, Outcome, evaluate
from hops.ledger import BUCKETS, each_trial, over_trials
from hops.metrics import quantile_ends
from hops.plan import Prepared
from hops.runs import Outcomes, failures_of, run_case
from hops.scripts import script_text
from hops.simulation import Case
from hops.team import Team
from hops.variables import ALL, INTERVALS, SOME, attributes
from hops.weights import TICKS

type Values = np.ndarray[Any, Any]


def runs_of(
    cases: Sequence[Case], outcome: Outcome, executor: Executor, countdown: Countdown
) -> Iterator[tuple[int, Outcomes | Infeasible]]:
    """Training runs of those cells of a batch that have one, or why one does not come to its end; ``countdown`` of trials."""
    with Team.of(executor.threads) as team:
        for at, i in enumerate(outcome.cells):
            if cases[i].scenario.training is not None:
                try:
                    yield i, run_case(cases[i], outcome.pool(at, cases[i]), team, countdown)
                except Infeasible as reason:
                    yield i, reason


def trials_left(cases: Sequence[Case]) -> Countdown:
    """A countdown of all trials of some cells."""
    return Countdown("training runs", sum(case.scenario.training.trials for case in cases if case.scenario.training))


def run_of(cases: Sequence[Case], outcome: Outcome, executor: Executor) -> Outcomes:
    """The training run of a single cell; `Infeasible` where it does not come to its end."""
    with trials_left(cases) as countdown:
        ((_, found),) = runs_of(cases, outcome, executor, countdown)
    if isinstance(found, Infeasible):
        raise found
    return found


def cell_variables(runs: Outcomes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables and coordinates of a cell: every trial's, and what they are over all of them."""
    data: dict[str, Any] = {}
    for name, ratio in runs.metrics.items():
        means = over_trials(ratio, [])
        data[name] = ("trial", each_trial(ratio), attributes(name))
        data |= {name + suffix: ((), means[suffix], attributes(name + suffix)) for suffix in ("_mean", "_standard_error")}
    if len(runs.results):
        data["ledger"] = (("trial", "bucket"), _device_seconds(runs), attributes("ledger"))
    return data, {"trial": trial_numbers(max(1, len(runs.results))), "bucket": bucket_names()}


def run_columns(runs: Outcomes, quantiles: Sequence[float], keep: str) -> Iterator[tuple[str, tuple[str, ...], Values]]:
    """What a cube holds of a cell's runs: name, dims, values; ``keep`` says of which metrics every trial."""
    for name, ratio in runs.metrics.items():
        for suffix, found in over_trials(ratio, quantiles).items():
            if suffix:
                yield name + suffix, (), np.array(found)
            elif keep == ALL:
                yield name, ("trial",), each_trial(ratio)
            else:
                yield name, ("quantile",), found
        if name in INTERVALS and keep != ALL:
            each = np.sort(each_trial(ratio))[None]
            for suffix, end in zip(("_low", "_high"), quantile_ends(each, quantiles), strict=True):
                yield name + suffix, ("quantile",), end[0]
            if keep == SOME:
                yield f"{name}_trials", ("trial",), each_trial(ratio)
    if len(runs.results):
        spent = _device_seconds(runs)
        yield "ledger", ("trial", "bucket") if keep == ALL else ("bucket",), spent if keep == ALL else spent.mean(axis=0)
        if keep != ALL:
            n, deviation = len(spent), spent.std(axis=0, ddof=1) if len(spent) > 1 else np.full(spent.shape[1], np.nan)
            yield "ledger_std", ("bucket",), deviation
            yield "ledger_standard_error", ("bucket",), deviation / np.sqrt(n)


def cell_failures(prepared: Prepared) -> str:
    """The failures that every trial of a cell met, as a script (`hops.scripts`); evaluates it anew."""
    (outcome,) = evaluate(prepared.cases, prepared.plan.executor)
    return script_text(failures_of(run_of(prepared.cases, outcome, prepared.plan.executor)))


def _device_seconds(runs: Outcomes) -> Values:
    found: Values = (runs.ledger / TICKS).astype(float)
    return found


def trial_numbers(n: int) -> tuple[str, Any, dict[str, str]]:
    return ("trial", np.arange(n), {"long_name": "sampled training run"})


def bucket_names() -> tuple[str, Any, dict[str, str]]:
    return ("bucket", np.array(BUCKETS, object), {"long_name": "what became of a GPU's time"})
