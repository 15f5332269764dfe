"""Settling: how many draws every cell needs until its error is below a target (``draws=auto``)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hops.checks import FIRST_DRAWS
from hops.countdown import Countdown
from hops.executor import BATCH_CELLS, BATCH_DRAWS, check_memory, sampled
from hops.kernels import OWN_STEP, STEP
from hops.metrics import quantile_ends
from hops.plan import Plan, Prepared, Target
from hops.simulation import Case
from hops.team import Team
from hops.weights import Floats

MOST_DRAWS = 1 << 20  # of a cell that does not settle


def settled(prepared: Prepared) -> Prepared:
    """The plan with the number of draws in every cell that it needs; a plan whose draws were typed as it is.

    Draws are tried `FIRST_DRAWS` first, then twice as many, and so on, as often as a cell is above its target. Those that were tried
    are evaluated again with all their metrics: so a cell is the very cell whose number was typed, for twice the time.
    """
    plan = prepared.plan
    if plan.target is None:
        return prepared
    noisy = [i for i, case in enumerate(prepared.cases) if case.noisy]
    groups: dict[tuple[Any, bool], list[int]] = {}
    for i in noisy:
        groups.setdefault((prepared.cases[i].shape, prepared.cases[i].by_draws), []).append(i)
    cases, n_draws, n_short = prepared.cases, [case.scenario.draws for case in prepared.cases], 0
    with Team.of(plan.executor.threads) as team, Countdown("finding draws", len(noisy)) as countdown:
        for members in groups.values():
            for i, n, settles in _tried(cases, members, plan.target, plan.executor.tile, team):
                n_draws[i] = n
                n_short += not settles
                countdown.tick()
    found = with_draws(prepared, n_draws)
    check_memory(plan.keep_draws, [(case.scenario.draws, case.scenario.pp) for case in found.cases])
    notes = (*plan.notes, *_notes(plan, [n_draws[i] for i in noisy], n_short))
    return replace(found, plan=replace(found.plan, notes=notes))


def with_draws(prepared: Prepared, n_draws: Sequence[int]) -> Prepared:
    """The plan with so many draws in every cell, as if they had been typed."""
    plan, scenarios = prepared.plan, list(prepared.plan.scenarios)
    cases = [case._replace(scenario=replace(case.scenario, draws=n)) for case, n in zip(prepared.cases, n_draws, strict=True)]
    for at, case in zip(prepared.cells, cases, strict=True):
        scenarios[at] = case.scenario
    return replace(prepared, plan=replace(plan, scenarios=tuple(scenarios), target=None), cases=tuple(cases))


def _tried(cases: Sequence[Case], members: Sequence[int], target: Target, tile: int, team: Team) -> Iterator[tuple[int, int, bool]]:
    """Cell, draws, and whether these settle it, of cells of one graph; at no time more than some `BATCH_DRAWS` are held."""
    todo = [(part, np.empty((len(part), 0))) for part in _parts(members, FIRST_DRAWS)]
    while todo:
        cells, times = todo.pop()
        batch, n = [cases[i] for i in cells], times.shape[1]
        ticks = sampled(batch, n or FIRST_DRAWS, tile, team, begin=n)[0]
        barrier = np.array([case.scenario.barrier for case in batch])[:, None]
        times = np.concatenate([times, np.where(barrier, ticks[STEP], ticks[OWN_STEP])], axis=1)
        n, settles = times.shape[1], errors(times, target) <= target.error
        for i in np.flatnonzero(settles | (n >= MOST_DRAWS)):
            yield cells[i], n, bool(settles[i])
        left = np.flatnonzero(~settles) if n < MOST_DRAWS else np.zeros(0, int)
        todo += [([cells[i] for i in part], times[part]) for part in _parts(left.tolist(), 2 * n)]


def _parts(cells: Sequence[int], n_draws: int) -> list[list[int]]:
    """Cells divided so that a part and its draws are not too many."""
    size = max(1, min(BATCH_CELLS, BATCH_DRAWS // n_draws))
    return [list(cells[at : at + size]) for at in range(0, len(cells), size)]


def errors(times: Floats, target: Target) -> Floats:
    """Error (c,) of cells' times (c, n), as a share of what `Target` says."""
    if target.quantile is None:
        found: Floats = times.std(axis=1, ddof=1) / np.sqrt(times.shape[1]) / times.mean(axis=1)
        return found
    ordered = np.sort(times, axis=1)
    low, high = quantile_ends(ordered, (target.quantile,))
    half: Floats = (high - low)[:, 0] / 2 / np.quantile(ordered, target.quantile, axis=1)
    return half


def _notes(plan: Plan, n_draws: Sequence[int], n_short: int) -> Iterator[str]:
    if plan.target is None or not n_draws:
        return
    error, q = plan.target
    what = "the standard error of the mean" if q is None else f"half the 95 % interval of the {q:g} quantile"
    many = f"{min(n_draws)}" + (f" to {max(n_draws)}" if max(n_draws) > min(n_draws) else "")
    yield f"draws=auto: {many} draws a cell, to bring {what} to {100 * error:g} % of it or less"
    if n_short:
        yield f"draws=auto: {n_short} of {len(plan.scenarios)} cells do not come below target_error={error:g} in {MOST_DRAWS} draws"
