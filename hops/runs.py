"""Runs: the training runs of a cell, trial by trial, on threads; nothing of a trial depends on the others."""

from collections.abc import Mapping
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.chaos import chaos_of
from hops.checks import Infeasible
from hops.clocks import mark_victims, n_drawn
from hops.countdown import Countdown
from hops.course import (
    ARGUMENT,
    DONE,
    N_FAILURES,
    N_RESULTS,
    NOW,
    QUEUEING,
    RECOVERING,
    SERVES,
    STATUS,
    STUCK,
    TIME,
    WANT,
    Course,
    Rows,
    one_plan,
)
from hops.elastic import Elasticity, move_time, samples_of
from hops.episodes import run_trials
from hops.hazards import Hazards
from hops.kernels import NEVER
from hops.ladder import steps_of
from hops.ledger import Ratio, ledger, run_metrics
from hops.places import Space, Way
from hops.recovery import QUEUE, Machine
from hops.renewal import expected
from hops.scripts import Line, Script
from hops.simulation import Case
from hops.sky import Sky
from hops.spells import slowing, told
from hops.team import Team
from hops.training import DAY, Training
from hops.trials import Trial, Trials
from hops.weights import TICKS

MOST_ITERATIONS = 1 << 27  # of a run; each takes 4 bytes a thread
TRIALS = 8  # a task


class Outcomes(NamedTuple):
    """What became of the trials of a cell; n = trials."""

    case: Case
    course: Course
    pool: Rows  # (3, m), sampled
    results: NDArray[np.int64]  # (n, N_RESULTS), see `hops.course`; none of a run of tier "analytic"

    @property
    def metrics(self) -> Mapping[str, Ratio]:
        """Numerators and denominators, each (n,)."""
        training, h = training_of(self.case)
        samples = samples_of([self.case.scenario])
        if training.run.tier == "analytic":
            return expected(training, h, self.course, samples)
        nodes = int(h.node_size.sum())
        return run_metrics(self.results, int(self.course.plans.samples[0]), nodes, training.run.iterations, self.a_lane)

    @property
    def a_lane(self) -> int:
        """GPUs that one of the ticks stands for which are counted by ranks and lanes."""
        s, (training, h) = self.case.scenario, training_of(self.case)
        n_lanes = self.case.weights.variant.size if training.failures.slows else self.case.n_lanes
        return h.piece if training.machine.elastic else s.layout.n_gpus // (s.pp * n_lanes)

    @property
    def ledger(self) -> NDArray[np.object_]:
        """Device-ticks by bucket, (n, b) Python ints."""
        s, (training, h) = self.case.scenario, training_of(self.case)
        spares, node = training.machine.spares, self.case.weights.cluster.nodes[0][0]
        return ledger(self.results, s.layout.n_gpus, self.a_lane, spares, node.n_gpus, h.piece)


def run_case(case: Case, pool: Rows, team: Team, countdown: Countdown | None = None) -> Outcomes:
    """Evaluate all trials of a cell whose sampled iterations are ``pool`` (3, m); ``countdown`` is told of each."""
    training, h = training_of(case)
    if training.run.tier == "analytic":
        return Outcomes(case, make_course(case, pool)[1], pool, np.zeros((0, N_RESULTS), np.int64))
    trials = make_trials(case, pool)
    results = np.zeros((training.trials, N_RESULTS), np.int64)

    def task(first: int, last: int) -> None:
        evaluate_some(first, last)
        if countdown is not None:
            countdown.tick(last - first)

    def evaluate_some(first: int, last: int) -> None:
        space, at = trials.space(), first
        if not trials.plain:
            for trial in range(first, last):
                trials.run(trial, space, results[trial])
            return
        own = trials.course
        while at < last:
            at += run_trials(h, own, trials.way, at, space, results[at:last])
            if at < last:
                own = _served(trials.elastic, own, results[at])
        for r in results[first:last]:
            trials.count_shares(r)

    size = TRIALS if trials.plain else 1
    team.run(task, ((at, min(at + size, training.trials)) for at in range(0, training.trials, size)))
    return _ended(Outcomes(case, trials.course, pool, results), h)


def make_trials(case: Case, pool: Rows) -> Trials:
    """All that the trials of a cell have in common."""
    training, h = training_of(case)
    spells = slowing(training, case.weights.cluster, case.scenario.layout, case.scenario.hindrances.retry.seconds)
    sky = Sky(case, spells, True if training.run.engine == "event" else None)
    elastic, course = make_course(case, sky.all_lanes(pool))
    course, bound = course._replace(alone=training.run.engine == "event", chaos=chaos_of(training, h)), _bound(course)
    if bound > MOST_ITERATIONS:
        raise Infeasible(f"the run has up to {bound:.3g} iterations; at most {MOST_ITERATIONS} are possible (try fewer, or fewer days)")
    way = way_of(training.machine, move_time(case))
    ladder = training.machine.ladder
    steps = None if ladder is None or elastic is not None else steps_of(ladder, int(course.ordered[course.ordered.size // 2]))
    return Trials(case, h, course, way, elastic, sky, training.run.tier == "exact", bound, steps)


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


def _ended(outcomes: Outcomes, h: Hazards) -> Outcomes:
    """The outcomes, if all trials have come to an end."""
    stuck = np.flatnonzero(outcomes.results[:, STATUS] == STUCK)
    if stuck.size:
        raise Infeasible(never_ends(outcomes.course, h, int(stuck[0]), outcomes.results[stuck[0]]))
    return outcomes


def failures_of(outcomes: Outcomes) -> Script:
    """The failures that each trial met, by running it once more; replayed (``failure=file``) they give the same results."""
    trials, script = make_trials(outcomes.case, outcomes.pool), []
    for trial, r in enumerate(outcomes.results):
        again, space = np.zeros_like(r), trials.space(int(r[N_FAILURES]))
        script.append(lines_of(trials, trials.run(trial, space, again), space, again))
    return tuple(script)


def lines_of(trials: Trials, one: Trial, space: Space, r: NDArray[np.int64]) -> tuple[Line, ...]:
    """The failures of a trial that has run with a log of them."""
    training, h = training_of(trials.case)
    names = [fault.name for fault in training.failures.faults if fault.stops]
    nodes = trials.case.weights.cluster.job_nodes(trials.case.scenario.layout.n_gpus)
    lines = []
    for tick, clock, n, known, repaired in space.log[: r[N_FAILURES]].tolist():
        hit = np.zeros(h.n_nodes, np.int8)
        mark_victims(h, clock, n, trials.course.seed, one.trial, hit, hit.copy())
        forced = clock >= n_drawn(h)
        name = "forced" if forced else names[h.clock_fault[clock]] if names else "script"
        lines.append(Line(tick, tuple(np.flatnonzero(hit).tolist()), known, repaired, name))
    if one.forecast is not None:
        begun = [spell for spell in one.forecast.found if spell.begin < r[NOW]]
        lines = sorted([*lines, *told(one.forecast.spells, begun, nodes)], key=lambda line: line.tick)
    return tuple(lines)


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
        ordered=np.sort(pool[TIME]),
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


def never_ends(course: Course, h: Hazards, trial: int, r: NDArray[np.int64]) -> str:
    """Say of a trial that it does not come to an end."""
    asked = f"{course.n_iterations} iterations" if course.n_iterations < NEVER else f"{course.horizon / TICKS / DAY:g} days"
    segment = min(course.every, course.n_iterations) * float(course.pool[0].mean()) / TICKS
    return (
        f"a run of {asked} does not come to an end: after {r[N_FAILURES]} failures in {r[NOW] / TICKS:.4g} s trial {trial} has kept "
        f"{r[DONE]} iterations (a failure every {h.mtbf:.4g} s, {segment:.4g} s of training between two checkpoints)"
    )
