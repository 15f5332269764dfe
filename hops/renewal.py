"""Renewal: what a training run takes on average, exactly, where failures are exponential and iterations independent of each other.

Between checkpoints a job needs ``every`` iterations and one checkpoint without a failure; after one, the time until it is known
(failures in it join it) and then the recovery, which failures begin anew. Source: Daly 2006 (FGCS 22), Aupy et al. 2013; with
E exp(-d / M) for iterations d that vary.
"""

from collections.abc import Mapping
from math import exp, expm1, isinf, log

import numpy as np

from hops.checks import Infeasible
from hops.course import TIME, Course
from hops.hazards import Hazards
from hops.kernels import NEVER
from hops.ledger import Ratio
from hops.recovery import Machine
from hops.training import Training
from hops.weights import TICKS


def segment_time(iterations: float, cost: float, mtbf: float, known: float, recovery: float) -> float:
    """Mean time [s] until a segment and its checkpoint are done; ``iterations`` is -M log E exp(-sum of d / M), for constant d their sum.

    ``known`` after a failure passes without exposure, ``recovery`` after it with.
    """
    if isinf(mtbf):
        return iterations + cost
    return expm1((iterations + cost) / mtbf) * (mtbf + known) * exp(recovery / mtbf)


def expected(training: Training, h: Hazards, course: Course, samples: float) -> Mapping[str, Ratio]:
    """Metrics of the mean run, each as one trial; `Infeasible` for what has no closed form."""
    machine, faults = training.machine, training.failures.faults
    reasons = {
        "failures of a script": training.failures.script is not None,
        "lifetimes that are not exponential": any(fault.lifetime.law != "exponential" for fault in faults),
        "components that age while the job trains": h.exposure,
        "a checkpoint that is persisted while training goes on": course.persist > 0,
        "a strategy with spares or copies in memory": _counts(machine),
    }
    for reason, holds in reasons.items():
        if holds:
            raise Infeasible(f"run.tier=analytic has no formula for {reason} (try run.tier=resampled)")
    d, mtbf = course.pool[TIME] / TICKS, h.mtbf
    clocks = np.bincount(h.clock_fault, minlength=len(faults)) / h.mean  # rates; times until failures are known only count by their mean
    known = float((clocks * h.detect).sum() / clocks.sum() / TICKS) if not isinf(mtbf) else 0.0
    recovery = sum(state.seconds for state in machine.states)
    each = float(d.mean()) if isinf(mtbf) else -mtbf * log(float(np.exp(-d / mtbf).mean()))
    cost = course.cost / TICKS

    def wall(n: int) -> float:
        if course.every == NEVER:
            return segment_time(n * each, 0.0, mtbf, known, recovery)
        whole, rest = divmod(n, course.every)
        return whole * segment_time(course.every * each, cost, mtbf, known, recovery) + (
            segment_time(rest * each, cost, mtbf, known, recovery) if rest else 0.0
        )

    if training.run.iterations is not None:
        n, total = float(training.run.iterations), wall(training.run.iterations)
    elif course.every == NEVER:
        raise Infeasible("run.tier=analytic has no formula for days without checkpoints (try run.iterations, or a checkpoint.interval)")
    else:
        total = course.horizon / TICKS
        n = total / wall(course.every) * course.every
    one = np.ones(1)
    figures = {
        "wall_time": (total, 1),
        "iterations_done": (n, 1),
        "goodput": (samples * n, total),
        "goodput_fraction": (n * float(d.mean()), total),
        "ettr": (n * float(d.mean()), total),
        "n_failures": (total / mtbf, 1),
        "n_interruptions": (0.0 if isinf(mtbf) else total / (mtbf + known), 1),
        "mtbf": (mtbf, 1),
    }
    return {name: (above * one, below * one) for name, (above, below) in figures.items()}


def _counts(machine: Machine) -> bool:
    return machine.memory is not None or any(state.acquires for state in machine.states)
