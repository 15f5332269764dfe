"""Elasticity: what a job becomes while some of its units are missing: plans, the GPUs that they leave without work, their iterations.

k = units that are missing. A plan is found, and its iterations sampled, when a trial first asks for it; nothing of it depends on who asked.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from math import inf
from threading import Lock
from typing import NamedTuple

import numpy as np

from hops.checks import Infeasible
from hops.course import BUSY, EXPOSED, NO_PLAN, NOT_ASKED, PLANNED, TIME, Course, Plans, Rows
from hops.executor import evaluate_iterations
from hops.hazards import Hazards
from hops.memory import headroom
from hops.recovery import Elastic, Plan
from hops.scenario import Latency, Scenario
from hops.simulation import Case, prepare
from hops.weights import TICKS


class Found(NamedTuple):
    """A plan that can be."""

    plan: Plan
    cases: tuple[Case, ...]

    @property
    def n_gpus(self) -> int:
        """That have work."""
        return sum(cell.layout.n_gpus for cell in self.plan.cells) if self.plan.n_gpus is None else self.plan.n_gpus

    @property
    def samples(self) -> int:
        """Of an iteration."""
        return samples_of(self.plan.cells) if self.plan.samples is None else self.plan.samples

    def iterations(self, trial: int, first: int, n: int, piece: int) -> Rows:
        """Iterations of a trial, draws ``first`` and following; busy and exposed summed over all GPUs, in pieces of so many."""
        if self.plan.seconds is not None:
            ticks = np.full(n, round(self.plan.seconds * TICKS))
            return np.stack([ticks, ticks * (self.n_gpus // piece), 0 * ticks])
        each = [evaluate_iterations(case, trial, first, n) for case in self.cases]
        return self.together(each, piece)

    def together(self, each: Sequence[Rows], piece: int) -> Rows:
        """Iterations of all cells side by side, from those of each."""
        sizes = [case.scenario.layout.n_gpus // (case.scenario.pp * case.n_lanes * piece) for case in self.cases]
        time = np.maximum.reduce([rows[TIME] for rows in each])
        if self.plan.slowdown != 1:
            time = np.floor(time * self.plan.slowdown + 0.5).astype(np.int64)
        busy, exposed = (sum(size * rows[k] for size, rows in zip(sizes, each, strict=True)) for k in (BUSY, EXPOSED))
        time = np.maximum(time, -(-(busy + exposed) // (self.n_gpus // piece)))  # who does another's work too cannot do both at once
        return np.ascontiguousarray(np.stack([time, busy, exposed]))


def samples_of(cells: Sequence[Scenario]) -> int:
    """Samples of an iteration."""
    return sum(s.microbatches * s.microbatch_size * s.dp for s in cells)


def move_time(case: Case) -> float:
    """Seconds in which a GPU of the fullest rank gets its weights and optimizer states over the narrowest link of the cluster.

    0 where nothing moves; of a model that does not say what a GPU holds, a ``ValueError``.
    """
    training, held = case.scenario.training, case.memory
    elastic = None if training is None else training.machine.elastic
    if elastic is None or not any(state.moves for state in (*elastic.switch, *elastic.join)):
        return 0.0
    if held is None:
        raise ValueError(
            "recovery.move=null is found from what a GPU holds, and a model of explicit times does not say (set recovery.move)"
        )
    rates = [family.hop.bandwidth for family in case.weights.cluster.links.values()]
    return max(each.weights + each.optimizer for each in held) / min(rates, default=inf)


def find(elastic: Elastic, scenario: Scenario, missing: int, gpus: int) -> Found | Infeasible:
    """The plan with most samples a second, without noise, for a job that lacks so many nodes or replicas; or why there is none.

    Plans that need more memory than the GPUs have count only where no other does.
    """
    found, reason = list[tuple[bool, float, int, Found]](), Infeasible(f"there is no plan for the {gpus} GPUs that are left")
    plans = elastic.plans(replace(scenario, training=None), missing, gpus)
    for at, given in enumerate(plans):
        plan = replace(given, cells=tuple(map(on_first_devices, given.cells)))
        try:
            cases, fits = _prepared(plan.cells)
            each = Found(plan, cases)
            found.append((fits, each.samples / _noiseless(plan) if len(plans) > 1 else 1.0, -at, each))
        except Infeasible as why:
            reason = why
    return max(found, key=lambda one: one[:3])[3] if found else reason


def on_first_devices(cell: Scenario) -> Scenario:
    """``cell`` on the first of the devices that a longer ``topology.order`` lists."""
    names = [key for key, _ in cell.topology.params]
    if not isinstance(cell.topology.kwargs.get("order"), (list, tuple)):
        return cell
    at, n = names.index("order"), cell.layout.n_gpus
    params, types = list(cell.topology.params), list(cell.topology.types)
    params[at], types[at] = ("order", params[at][1][:n]), types[at][:n]
    return replace(cell, topology=cell.topology._replace(params=tuple(params), types=tuple(types)))


@lru_cache(maxsize=256)
def _prepared(cells: tuple[Scenario, ...]) -> tuple[tuple[Case, ...], bool]:
    """Cells ready to be evaluated, and whether they fit the memory of their GPUs as far as that is known."""
    cases = tuple(prepare(cell) for cell in cells)
    held = [(case.memory, case.weights.room) for case in cases]
    return cases, all(memory is None or headroom(memory, room) >= 0 for memory, room in held)


@lru_cache(maxsize=4096)
def _noiseless(plan: Plan) -> float:
    """Seconds of an iteration without noise."""
    if plan.seconds is not None:
        return plan.seconds
    calm = [prepare(replace(cell, latency=Latency(), draws=1)) for cell in plan.cells]
    return plan.slowdown * max(int(evaluate_iterations(case, 0, 0, 1)[TIME, 0]) for case in calm) / TICKS


@lru_cache(maxsize=64)
def _sampled(plan: Plan, piece: int) -> Rows:
    """The pool of a plan: as many iterations as its cells have draws."""
    cases, _ = _prepared(plan.cells)
    return Found(plan, cases).iterations(0, 0, max((cell.draws for cell in plan.cells), default=1), piece)


class Elasticity:
    """Plans of a job, by how many of its units are missing."""

    def __init__(self, case: Case, elastic: Elastic, h: Hazards, pool: Rows, keeps_pools: bool) -> None:
        """``pool`` are iterations of the whole job; ``keeps_pools``: trials draw from pools, and do not evaluate each of theirs."""
        self.case, self.elastic, self.h, self.keeps_pools, self.lock = case, elastic, h, keeps_pools, Lock()
        self.found: dict[int, Found] = {}
        n = h.unit.size
        self.most = n - 2 if elastic.unit == "replica" else n  # units without which all states are still there twice
        none = np.zeros(n, np.int64)
        self.plans = Plans(none, none, np.full(n, NOT_ASKED), none, none, np.zeros(n, np.bool_), np.zeros(0, np.int64))
        self.pool = np.zeros((3, 0), np.int64)
        self.whole = pool  # from when the first plan is found: its iterations
        for missing in (0, 1):  # of a job that could never go on it is said at once
            reason = self._add(missing)
            if reason is not None:
                raise Infeasible(f"the job cannot go on without one {elastic.unit}: {reason}")

    @property
    def shortest(self) -> int:
        """Ticks that every iteration takes at least: a half of what those of the whole job do."""
        return max(1, int(self.whole[TIME].min()) // 2)

    def _add(self, missing: int) -> Infeasible | None:
        """Find the plan for so many missing units; arrays that a trial may be reading are left alone."""
        scenario, lost = self.case.scenario, missing * self.h.unit_size
        one = scenario.layout.n_gpus // scenario.dp if self.elastic.unit == "replica" else int(self.h.node_size.max()) * self.h.piece
        left = max(0, scenario.layout.n_gpus - lost * one)
        found = find(self.elastic, scenario, lost, left)
        plans = Plans._make(each.copy() for each in self.plans)
        if isinstance(found, Infeasible):
            plans.status[missing] = NO_PLAN
            self.plans = plans
            return found
        piece, total = self.h.piece, self.case.scenario.layout.n_gpus
        self.found[missing] = found
        if missing == 0:
            self.whole = found.together([self.whole], piece) if found.plan.seconds is None else found.iterations(0, 0, 1, piece)
        if self.keeps_pools:
            rows = self.whole if missing == 0 else _sampled(found.plan, piece)
            if rows[TIME].min() < self.shortest:
                times = f"{rows[TIME].min() / TICKS:.3g} s with {found.n_gpus} GPUs, {self.whole[TIME].min() / TICKS:.3g} s with all"
                raise Infeasible(f"iterations become less than half as long where GPUs are missing: {times}")
            plans.first[missing], plans.size[missing] = self.pool.shape[1], rows.shape[1]
            self.pool = np.ascontiguousarray(np.concatenate([self.pool, rows], axis=1))
        plans.status[missing], plans.samples[missing] = PLANNED, found.samples
        plans.idle[missing], plans.redundant[missing] = (total - found.n_gpus) // piece, found.plan.redundant and missing < self.most
        self.plans = plans
        return None

    def serve(self, course: Course, missing: int) -> Course:
        """``course`` with the plan for so many missing units."""
        with self.lock:
            if self.plans.status[missing] == NOT_ASKED:
                self._add(missing)
            if self.keeps_pools:
                return course._replace(pool=self.pool, plans=self.plans)
            return course._replace(plans=self.plans._replace(of=course.plans.of))
