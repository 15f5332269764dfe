"""Runs: the training runs of a cell, trial by trial, on threads; nothing of a trial depends on the others."""

from collections.abc import Mapping
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.checks import Infeasible
from hops.clocks import mark_victims
from hops.episodes import Way, make_space, run_trial, run_trials
from hops.executor import Team, evaluate_iterations
from hops.hazards import Hazards
from hops.kernels import NEVER
from hops.ledger import Ratio, ledger, run_metrics
from hops.progress import ATTEMPT, DONE, N_FAILURES, N_RESULTS, NOW, QUEUEING, RECOVERING, STATUS, STUCK, TOUCHED, UNKNOWN, Course
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
    results: NDArray[np.int64]  # (n, 29), see `hops.progress`; none of a run of tier "analytic"

    @property
    def metrics(self) -> Mapping[str, Ratio]:
        """Numerators and denominators, each (n,)."""
        s, (training, h) = self.case.scenario, training_of(self.case)
        samples = s.microbatches * s.microbatch_size * s.dp
        if training.run.tier == "analytic":
            return expected(training, h, self.course, samples)
        return run_metrics(self.results, samples, training.run.iterations is None)

    @property
    def ledger(self) -> NDArray[np.object_]:
        """Device-ticks by bucket, (n, b) Python ints."""
        s = self.case.scenario
        spares, node = training_of(self.case)[0].machine.spares, self.case.weights.cluster.nodes[0][0]
        return ledger(self.results, s.layout.n_gpus, s.layout.n_gpus // (s.pp * self.case.n_lanes), spares, node.n_gpus)


def run_case(case: Case, pool: NDArray[np.int64], team: Team) -> Outcomes:
    """Evaluate all trials of a cell whose sampled iterations are ``pool`` (3, m)."""
    training, h = training_of(case)
    course, way = course_of(training, h, pool, case.scenario.seed), way_of(training.machine)
    if training.run.tier == "analytic":
        return Outcomes(case, course, np.zeros((0, N_RESULTS), np.int64))
    bound = _bound(course)
    if bound > MOST_ITERATIONS:
        raise Infeasible(f"the run has up to {bound:.3g} iterations; at most {MOST_ITERATIONS} are possible (try fewer, or fewer days)")
    results = np.zeros((training.trials, N_RESULTS), np.int64)
    if training.run.tier == "exact":

        def one(trial: int) -> None:
            exact_trial(case, h, course, way, trial, results)

        team.run(one, ((trial,) for trial in range(training.trials)))
        return _ended(Outcomes(case, course, results), h)

    def task(first: int, last: int) -> None:
        run_trials(h, course, way, first, make_space(bound, h, way.spares), results[first:last])

    team.run(task, ((at, min(at + TRIALS, training.trials)) for at in range(0, training.trials, TRIALS)))
    return _ended(Outcomes(case, course, results), h)


def exact_trial(case: Case, h: Hazards, course: Course, way: Way, trial: int, results: NDArray[np.int64]) -> Course:
    """Run a trial whose every attempt at an iteration is evaluated by the pipeline's own kernel; the course with all of them.

    What will be attempted again is not known before: the trial is run until it needs that, and once more when it has it.
    """
    n = course.n_iterations
    pools, slot = [evaluate_iterations(case, trial, 0, n)], np.arange(n)[None]
    space = make_space(n, h, way.spares)
    while True:
        course = course._replace(pool=np.ascontiguousarray(np.concatenate(pools, axis=1)), slot=slot)
        run_trials(h, course, way, trial, space, results[trial : trial + 1])
        r = results[trial]
        if r[STATUS] != UNKNOWN:
            return course
        attempt, first, last = int(r[ATTEMPT]), int(r[DONE]), min(int(r[TOUCHED]), n)
        if attempt > MOST_ATTEMPTS:
            raise Infeasible(f"trial {trial} attempts iteration {first} more often than run.tier=exact can, {MOST_ATTEMPTS} times")
        if attempt == len(slot):
            slot = np.concatenate([slot, np.full((1, n), -1)])
        slot[attempt, first:last] = sum(each.shape[1] for each in pools) + np.arange(last - first)
        pools.append(evaluate_iterations(case, trial, attempt * MOST_EXACT + first, last - first))


def _ended(outcomes: Outcomes, h: Hazards) -> Outcomes:
    """The outcomes, if all trials have come to an end."""
    stuck = np.flatnonzero(outcomes.results[:, STATUS] == STUCK)
    if stuck.size:
        raise Infeasible(_never_ends(outcomes.course, h, int(stuck[0]), outcomes.results[stuck[0]]))
    return outcomes


def failures_of(outcomes: Outcomes) -> Script:
    """The failures that each trial met, by running it once more; replayed (``failure=file``) they give the same results."""
    training, h = training_of(outcomes.case)
    names, way = [fault.name for fault in training.failures.faults], way_of(training.machine)
    script = []
    for trial, r in enumerate(outcomes.results):
        course, space = outcomes.course, make_space(_bound(outcomes.course), h, way.spares, int(r[N_FAILURES]))
        if training.run.tier == "exact":
            course = exact_trial(outcomes.case, h, course, way, trial, outcomes.results)
        run_trial(h, course, way, trial, space, np.zeros_like(r))
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
    return course.n_iterations if course.horizon == NEVER else course.horizon // int(course.pool[0].min()) + 1


def training_of(case: Case) -> tuple[Training, Hazards]:
    """The training run that a case asks for, and what can fail in it."""
    if case.scenario.training is None or case.hazards is None:
        raise ValueError("no training run is asked for (set run.days or run.iterations)")
    return case.scenario.training, case.hazards


def course_of(training: Training, h: Hazards, pool: NDArray[np.int64], seed: int) -> Course:
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
    )


def way_of(machine: Machine) -> Way:
    """The way back in ticks."""
    states = machine.states + (() if machine.memory is None else machine.memory.states)
    return Way(
        np.array([round(state.seconds * TICKS) for state in states], np.int64),
        np.array([QUEUEING if state.bucket == QUEUE else RECOVERING for state in states], np.int64),
        np.array([state.acquires for state in states], np.bool_),
        len(machine.states),
        machine.spares,
        any(state.acquires for state in states),
    )


def _never_ends(course: Course, h: Hazards, trial: int, r: NDArray[np.int64]) -> str:
    asked = f"{course.n_iterations} iterations" if course.n_iterations < NEVER else f"{course.horizon / TICKS / DAY:g} days"
    segment = min(course.every, course.n_iterations) * float(course.pool[0].mean()) / TICKS
    return (
        f"a run of {asked} does not come to an end: after {r[N_FAILURES]} failures in {r[NOW] / TICKS:.4g} s trial {trial} has kept "
        f"{r[DONE]} iterations (a failure every {h.mtbf:.4g} s, {segment:.4g} s of training between two checkpoints)"
    )
