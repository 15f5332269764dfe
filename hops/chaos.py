"""Chaos: failures that are made to come at certain moments of a run, such as the beginning of a recovery; in one trial, in ticks.

Moments are numbered: a failure begins to be noticed, it is known, a checkpoint is due, a node joins, an iteration is about to begin, and
from FIRST_STATE on the states of `hops.places.Way`, one by one.
"""

import numpy as np

from hops.checks import Infeasible, no_such
from hops.clocks import Chaos, force, victim
from hops.course import ASK, DONE, ENTERED, ENTERED_AT, HARMLESS, N_INJECTED, NOW, SHIFT
from hops.hazards import Hazards
from hops.injections import MOMENTS
from hops.jit import bare, inlined
from hops.kernels import NEVER
from hops.training import Training
from hops.weights import TICKS

DETECTING, KNOWN, WRITING, JOINING, ITERATING = range(5)  # the first four as `MOMENTS`
FIRST_STATE = 5


@bare
def start_chaos(h, chaos, seed, trial, space):  # type: ignore[no-untyped-def]
    """Set the clocks of what comes by the clock; all rows have all their times before them."""
    clocks = space.clocks
    for j in range(chaos.times.size):
        clocks.forced[j, 3], clocks.forced[j, 4], clocks.forced[j, 5] = chaos.times[j], chaos.every[j], chaos.node[j]
        if chaos.first[j] < NEVER:
            clocks.forced[j, 3] -= 1
            force(h, j, chaos.first[j], victim(h, j, 0, seed, trial, clocks), chaos.known[j], chaos.repaired[j], clocks)


@bare
def enter(h, chaos, moment, seed, trial, space, r):  # type: ignore[no-untyped-def]
    """Let fail now what comes at this moment."""
    for j in range(chaos.times.size):
        left, there = space.clocks.forced[j, 3], moment < chaos.when.shape[1] and chaos.when[j, moment]
        if there and left > 0 and (chaos.iteration[j] < 0 or chaos.iteration[j] == r[DONE]) and space.hit.sum() < chaos.budget[j]:
            space.clocks.forced[j, 3] = left - 1
            if chaos.slows[j]:
                if r[N_INJECTED] < space.injected.shape[0]:
                    space.injected[r[N_INJECTED], 0], space.injected[r[N_INJECTED], 1] = j, r[NOW]
                    r[N_INJECTED] += 1
                continue
            who = victim(h, j, chaos.times[j] - left, seed, trial, space.clocks)
            force(h, j, r[NOW] - r[SHIFT], who, chaos.known[j], chaos.repaired[j], space.clocks)
            r[HARMLESS] = ASK


@bare
def moments(h, course, due, trial, space, r):  # type: ignore[no-untyped-def]
    """Enter what begins between two iterations; how many are to be done until the next such moment, at most ``due``."""
    if r[DONE] == due and course.every < NEVER and r[ENTERED] != r[DONE] + 1:
        r[ENTERED] = r[DONE] + 1
        enter(h, course.chaos, WRITING, course.seed, trial, space, r)
    if r[DONE] < due and r[ENTERED_AT] != r[DONE] + 1:
        r[ENTERED_AT] = r[DONE] + 1
        enter(h, course.chaos, ITERATING, course.seed, trial, space, r)
    for j in range(course.chaos.times.size):
        if course.chaos.iteration[j] > r[DONE] and space.clocks.forced[j, 3] > 0:
            due = min(due, course.chaos.iteration[j])
    return due


@inlined
def entered(every, r):  # type: ignore[no-untyped-def]
    """Whether chaos knows that a checkpoint is due, where there are any."""
    return every == NEVER or r[ENTERED] == r[DONE] + 1


def chaos_of(training: Training, h: Hazards) -> Chaos:
    """The injections of a run as rows; ``ValueError`` for a state or a node that it does not have."""
    machine, rows = training.machine, training.failures.chaos
    elastic, memory = machine.elastic, machine.memory
    back = elastic.switch if elastic is not None else () if memory is None else memory.states
    states = [state.name for state in (*machine.states, *back, *(() if elastic is None else elastic.join))]
    moments = [*MOMENTS[:3], *(MOMENTS[3:] if elastic is not None else ())]
    if rows and training.run.tier == "analytic":
        raise Infeasible("run.tier=analytic has no formula for failure.chaos (try run.tier=resampled)")
    when = np.zeros((len(rows), FIRST_STATE + len(states)), np.bool_)
    for j, each in enumerate(rows):
        if each.state is not None:
            if each.state not in (*moments, *states):
                raise no_such(f"failure.chaos[{j}].when.state", each.state, [*moments, *dict.fromkeys(states)])
            for i, name in enumerate((*MOMENTS, "", *states)):
                when[j, i] = name == each.state
        when[j, ITERATING] = each.iteration is not None
        if each.stops and each.who is not None and each.who >= h.n_nodes:
            raise ValueError(f"failure.chaos[{j}].who={each.who}; the job has nodes 0 to {h.n_nodes - 1}")

    def ticks(seconds: float | None) -> int:
        return NEVER if seconds is None else round(seconds * TICKS)

    columns = [
        (
            -1 if each.iteration is None else each.iteration,
            ticks(each.at) if each.stops else NEVER,
            ticks(each.every) if each.stops else NEVER,
            each.times,
            each.budget,
            -1 if each.who is None else each.who,
            ticks(each.detection),
            ticks(each.repair),
        )
        for each in rows
    ]
    iteration, first, every, times, budget, node, known, repaired = np.array(columns, np.int64).reshape(-1, 8).T.copy()
    slows = np.array([not each.stops for each in rows], np.bool_)
    return Chaos(when, iteration, first, every, times, budget, node, known, repaired, slows)
