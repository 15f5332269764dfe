"""Runs: the training runs of a cell, trial by trial, on threads; nothing of a trial depends on the others."""

from collections.abc import Mapping
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.checks import Infeasible
from hops.clocks import mark_victims
from hops.elastic import Elasticity, move_time, samples_of
from hops.episodes import run_trial, run_trials
from hops.executor import Team, evaluate_iterations
from hops.hazards import Hazards
from hops.kernels import NEVER
from hops.ledger import Ratio, ledger, run_metrics
from hops.places import Space, Way, make_space
from hops.progress import (
    ARGUMENT,
    ATTEMPT,
    DONE,
    HEALTHY,
    LAST,
    N_FAILURES,
    N_RESULTS,
    NOW,
    PLAN,
    QUEUEING,
    RECOVERING,
    SERVES,
    STATUS,
    STUCK,
    UNKNOWN,
    WANT,
    Course,
    Rows,
    healthy,
    one_plan,
)
from hops.recovery import QUEUE, Machine
from hops.renewal import expected
from hops.scripts import Line, Script
from hops.simulation import Case
from hops.training import DAY, MOST_EXACT, Training
from hops.weights import TICKS

MOST_ITERATIONS = 1 << 27  # of a run; each takes 4 bytes a thread
MOST_ATTEMPTS = 127  # at an iteration of a run of tier "exact"
TRIALS = 8  # a task


class Outcomes(NamedTuple):
    """What became of the trials of a cell; n = trials."""

    case: Case
    course: Course
    pool: Rows  # (3, m), sampled
    results: NDArray[np.int64]  # (n, 55), see `hops.progress`; none of a run of tier "analytic"

    @property
    def metrics(self) -> Mapping[str, Ratio]:
        """Numerators and denominators, each (n,)."""
        training, h = training_of(self.case)
        samples = samples_of([self.case.scenario])
        if training.run.tier == "analytic":
            return expected(training, h, self.course, samples)
        nodes = int(h.node_size.sum())
        return run_metrics(self.results, int(self.course.plans.samples[0]), nodes, training.run.iterations)

    @property
    def ledger(self) -> NDArray[np.object_]:
        """Device-ticks by bucket, (n, b) Python ints."""
        s, (training, h) = self.case.scenario, training_of(self.case)
        spares, node = training.machine.spares, self.case.weights.cluster.nodes[0][0]
        a_lane = h.piece if training.machine.elastic else s.layout.n_gpus // (s.pp * self.case.n_lanes)
        return ledger(self.results, s.layout.n_gpus, a_lane, spares, node.n_gpus, h.piece)


def run_case(case: Case, pool: Rows, team: Team) -> Outcomes:
    """Evaluate all trials of a cell whose sampled iterations are ``pool`` (3, m)."""
    training, h = training_of(case)
    elastic, course = make_course(case, pool)
    if training.run.tier == "analytic":
        return Outcomes(case, course, pool, np.zeros((0, N_RESULTS), np.int64))
    way, bound = way_of(training.machine, move_time(case)), _bound(course)
    if bound > MOST_ITERATIONS:
        raise Infeasible(f"the run has up to {bound:.3g} iterations; at most {MOST_ITERATIONS} are possible (try fewer, or fewer days)")
    results = np.zeros((training.trials, N_RESULTS), np.int64)

    def task(first: int, last: int) -> None:
        space, own, at = make_space(bound, h, way.spares), course, first
        while at < last:
            at += run_trials(h, own, way, at, space, results[at:last])
            if at < last:
                own = _served(elastic, own, results[at])

    def one(trial: int) -> None:
        exact_trial(case, elastic, course, trial, results[trial])

    if training.run.tier == "exact":
        team.run(one, ((trial,) for trial in range(training.trials)))
    else:
        team.run(task, ((at, min(at + TRIALS, training.trials)) for at in range(0, training.trials, TRIALS)))
    return _ended(Outcomes(case, course, pool, results), h)


def make_course(case: Case, pool: Rows) -> tuple[Elasticity | None, Course]:
    """The run in ticks, and what it becomes while units are missing, if it can go on without them."""
    training, h = training_of(case)
    elastic, seed, samples = training.machine.elastic, case.scenario.seed, samples_of([case.scenario])
    if elastic is None:
        return None, course_of(training, h, pool, seed, samples)
    if training.run.tier == "analytic":
        raise Infeasible("run.tier=analytic has no formula for a job that goes on without who failed (try run.tier=resampled)")
    found = Elasticity(case, elastic, h, pool, training.run.tier == "resampled")
    return found, found.serve(course_of(training, h, found.whole, seed, samples), 0)


def _served(elastic: Elasticity | None, course: Course, r: NDArray[np.int64]) -> Course:
    """``course`` with the plan that a trial asks for."""
    if elastic is None or r[WANT] != SERVES:
        raise RuntimeError(f"a trial asks for what nobody has: {int(r[WANT])}")
    return elastic.serve(course, int(r[ARGUMENT]))


def exact_trial(case: Case, elastic: Elasticity | None, course: Course, trial: int, r: NDArray[np.int64], n_logged: int = 0) -> Space:
    """Run a trial whose every attempt at an iteration is evaluated by the pipeline's own kernel, when it asks for it; what it leaves."""
    (training, h), n = training_of(case), course.n_iterations
    way, space = way_of(training.machine, move_time(case)), make_space(n, h, training.machine.spares, n_logged)

    def rows(missing: int, first: int, n: int) -> Rows:
        return (
            evaluate_iterations(case, trial, first, n) if elastic is None else elastic.found[missing].iterations(trial, first, n, h.piece)
        )

    pool, slot, of = rows(0, 0, n), np.arange(n)[None], np.zeros(n, np.int64)

    def knowing(course: Course) -> Course:
        return course._replace(pool=pool, slot=slot, plans=course.plans._replace(of=of))

    course, r[:] = knowing(course), 0
    r[HEALTHY] = healthy(course, trial, space.saved, r)
    while True:
        run_trial(h, course, way, trial, space, r)
        if r[STATUS] != UNKNOWN:
            return space
        if r[WANT] == SERVES:
            course = _served(elastic, course, r)
            continue
        missing, attempt, first, last = (int(r[each]) for each in (PLAN, ATTEMPT, ARGUMENT, LAST))
        if attempt > MOST_ATTEMPTS:
            raise Infeasible(f"trial {trial} attempts iteration {first} more often than run.tier=exact can, {MOST_ATTEMPTS} times")
        if attempt == len(slot):
            slot = np.concatenate([slot, np.full((1, n), -1)])
        if missing == 0 and attempt == 0:
            slot[0, first:last] = np.arange(first, last)  # those before were of another plan
        else:
            slot[attempt, first:last] = pool.shape[1] + np.arange(last - first)
            more = rows(missing, attempt * MOST_EXACT + first, last - first)
            pool, of = np.concatenate([pool, more], axis=1), np.append(of, np.full(last - first, missing))
        course = knowing(course)


def _ended(outcomes: Outcomes, h: Hazards) -> Outcomes:
    """The outcomes, if all trials have come to an end."""
    stuck = np.flatnonzero(outcomes.results[:, STATUS] == STUCK)
    if stuck.size:
        raise Infeasible(_never_ends(outcomes.course, h, int(stuck[0]), outcomes.results[stuck[0]]))
    return outcomes


def failures_of(outcomes: Outcomes) -> Script:
    """The failures that each trial met, by running it once more; replayed (``failure=file``) they give the same results."""
    training, h = training_of(outcomes.case)
    names, way = [fault.name for fault in training.failures.faults], way_of(training.machine, move_time(outcomes.case))
    elastic, course = make_course(outcomes.case, outcomes.pool)
    script = []
    for trial, r in enumerate(outcomes.results):
        again, n_logged = np.zeros_like(r), int(r[N_FAILURES])
        if training.run.tier == "exact":
            space = exact_trial(outcomes.case, elastic, course, trial, again, n_logged)
        else:
            space = make_space(_bound(course), h, way.spares, n_logged)
            run_trial(h, course, way, trial, space, again)
            while again[STATUS] == UNKNOWN:
                course = _served(elastic, course, again)
                run_trial(h, course, way, trial, space, again)
        lines = []
        for tick, clock, n, known, repaired in space.log.tolist():
            hit = np.zeros(h.n_nodes, np.int8)
            mark_victims(h, clock, n, outcomes.course.seed, trial, hit, hit.copy())
            name = names[h.clock_fault[clock]] if names else "script"
            lines.append(Line(tick, tuple(np.flatnonzero(hit).tolist()), known, repaired, name))
        script.append(tuple(lines))
    return tuple(script)


def _bound(course: Course) -> int:
    """Most iterations that the run can have."""
    if course.horizon == NEVER:
        return course.n_iterations
    shortest = int(course.pool[0, : course.plans.size[0]].min())
    if len(course.plans.size) > 1:  # see `Elasticity.shortest`
        shortest = max(1, shortest // 2)
    return course.horizon // shortest + 1


def training_of(case: Case) -> tuple[Training, Hazards]:
    """The training run that a case asks for, and what can fail in it."""
    if case.scenario.training is None or case.hazards is None:
        raise ValueError("no training run is asked for (set run.days or run.iterations)")
    return case.scenario.training, case.hazards


def course_of(training: Training, h: Hazards, pool: Rows, seed: int, samples: int) -> Course:
    """The run in ticks."""
    run, checkpoint, memory = training.run, training.checkpoint, training.machine.memory
    interval = checkpoint.seconds(h.mtbf)
    return Course(
        pool,
        NEVER if run.iterations is None else run.iterations,
        NEVER if run.days is None else round(run.days * DAY * TICKS),
        NEVER if interval == inf else max(1, round(interval * TICKS / float(pool[0].mean()))),
        round(checkpoint.cost * TICKS),
        round(checkpoint.persist * TICKS),
        NEVER if memory is None else memory.every,
        0 if memory is None else round(memory.cost * TICKS),
        seed,
        np.zeros((0, 1), np.int64),
        one_plan(pool.shape[1], samples),
    )


def way_of(machine: Machine, move: float = 0.0) -> Way:
    """The way back in ticks; states that move what a GPU holds take ``move`` seconds longer."""
    memory, elastic = machine.memory, machine.elastic
    back = elastic.switch if elastic is not None else () if memory is None else memory.states
    states = machine.states + back + (() if elastic is None else elastic.join)
    return Way(
        np.array([round((state.seconds + move * state.moves) * TICKS) for state in states], np.int64),
        np.array([QUEUEING if state.bucket == QUEUE else RECOVERING for state in states], np.int64),
        np.array([state.acquires for state in states], np.bool_),
        len(machine.states),
        len(machine.states) + len(back),
        machine.spares,
        any(state.acquires for state in states),
        elastic is not None,
        elastic is not None and elastic.holders is not None,
        elastic is not None and elastic.renews,
        0 if elastic is None else round(elastic.rejoin * TICKS),
    )


def _never_ends(course: Course, h: Hazards, trial: int, r: NDArray[np.int64]) -> str:
    asked = f"{course.n_iterations} iterations" if course.n_iterations < NEVER else f"{course.horizon / TICKS / DAY:g} days"
    segment = min(course.every, course.n_iterations) * float(course.pool[0].mean()) / TICKS
    return (
        f"a run of {asked} does not come to an end: after {r[N_FAILURES]} failures in {r[NOW] / TICKS:.4g} s trial {trial} has kept "
        f"{r[DONE]} iterations (a failure every {h.mtbf:.4g} s, {segment:.4g} s of training between two checkpoints)"
    )
