"""Places: which nodes of the job are there, in one trial: who fails, who is repaired, who has no work; int64 ticks.

A job that is not elastic has a node in every place whenever it trains: another one, or one of its spares. An elastic job goes on
without those that failed. It loses whole units (`hops.recovery.Elastic`), so that nodes of a unit that is missing may stand idle.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.clocks import DETECT_STREAM, REPAIR_STREAM, Clocks, delay, end_lifetime, make_clocks, mark_victims, n_drawn, upcoming
from hops.commits import make_journal
from hops.course import (
    ASK,
    DEGRADED,
    EACH,
    FREE,
    GIVEN,
    HARMLESS,
    N_AWAY,
    N_EVENTS,
    N_FAILURES,
    N_PLANS,
    NOW,
    OUT,
    PLAN,
    REPAIRED,
    REPAIRED_UNTIL,
    RETURN,
    ROWS,
    SETTLED,
    SHIFT,
    SINCE,
    STANDING_BY,
    VACANT,
    WINDOW,
    Saved,
    make_saved,
)
from hops.diary import SMALLER, make_diary, note
from hops.hazards import Hazards
from hops.jit import bare, inlined
from hops.kernels import NEVER
from hops.progress import later

MOST_FAILURES = 1 << 20  # of a trial
IN_VAIN = 1 << 16  # in a row that let a run get no farther: 0.2 s a trial, where all of the above take 4


class Way(NamedTuple):
    """The way back; s = states: from the durable checkpoint, then from the memory of others, then those of a node that joins."""

    ticks: NDArray[np.int64]  # (s,) in a state
    bucket: NDArray[np.int64]  # (s,) result that they are booked to
    acquires: NDArray[np.bool_]  # (s,) it begins when there is a spare for every vacant place
    n_durable: int  # states from the durable checkpoint
    n_back: int  # these, and those from the memory of others
    spares: int  # nodes that stand by at the start
    pool: bool  # who fails is replaced by them, and joins them when it is repaired; else nobody counts nodes
    elastic: bool  # the job goes on with the nodes that are left
    keeps: bool  # and with what their memory has
    renews: bool  # of which there are as many copies as before once it goes on
    rejoin: int  # ticks after its repair until a node can take its place again


class Space(NamedTuple):
    """Scratch of one trial; k = units that are missing."""

    saved: Saved
    clocks: Clocks
    hit: NDArray[np.int8]  # (n_nodes,) places in the job whose node failed since training stopped
    vacant: NDArray[np.int8]  # (n_nodes,) places that no node has taken yet
    away: NDArray[np.int64]  # (spares + n_nodes,) when a node that failed comes back; the first N_AWAY are meant
    log: NDArray[np.int64]  # (failures, 5) of a trial, where asked for: tick, clock, how many it had before, until known, until repaired
    back: NDArray[np.int64]  # (n_nodes,) of an elastic job: when the node of a vacant place can take it again
    part: NDArray[np.int8]  # (n_nodes,) it takes part in what the job is doing
    out: NDArray[np.int8]  # (n_nodes,) it has no work in the plan that is on
    seen: NDArray[np.int8]  # (n_nodes,) scratch of scratch: 0
    used: NDArray[np.int8]  # (k,) plans that were on
    injected: NDArray[np.int64]  # (most, 2) what chaos slows: row, tick
    gaps: NDArray[np.int64]  # (i, 5) the journal of commits
    cuts: NDArray[np.int64]  # (cuts, 5) of a trial, where asked for: iteration, attempt, when it began, was cut, and that was known
    diary: NDArray[np.int64]  # (1 + n, 3) of a trial, where asked for: see `hops.diary`


def make_space(n_iterations: int, h: Hazards, spares: int, n_logged: int = 0, n_forced: int = 0, n_noted: int = 0) -> Space:
    """Scratch for runs of at most so many iterations, of which so many failures and cuts, and entries of a diary, are logged."""
    clocks = make_clocks(h, n_forced)
    hit, vacant, part, out, seen = (np.zeros(h.n_nodes, np.int8) for _ in range(5))
    away, log, back = np.empty(spares + h.n_nodes, np.int64), np.empty((n_logged, 5), np.int64), np.empty(h.n_nodes, np.int64)
    used, cuts = np.zeros(h.unit.size, np.int8), np.empty((n_logged, 5), np.int64)
    injected, gaps, diary = np.empty((MOST_FAILURES, 2), np.int64), make_journal(n_iterations), make_diary(n_noted)
    return Space(make_saved(n_iterations), clocks, hit, vacant, away, log, back, part, out, seen, used, injected, gaps, cuts, diary)


@inlined
def next_failure(ends, shift):  # type: ignore[no-untyped-def]
    """Tick of the next failure."""
    return later(ends[0], shift) if ends.size else np.int64(NEVER)


@bare
def fail(h, way, seed, trial, tick, space, r):  # type: ignore[no-untyped-def]
    """Let what fails next fail at ``tick``; ticks until that is known. Nodes that are away cannot: a failure of none but these is none."""
    clock, n = end_lifetime(h, seed, trial, space.clocks)
    forced = clock - n_drawn(h)
    if forced >= 0:
        known, repaired = space.clocks.forced[forced, 1], space.clocks.forced[forced, 2]
    else:
        known = delay(h, h.detect, h.detect_law, clock, n, DETECT_STREAM, seed, trial)
        repaired = delay(h, h.repair, h.repair_law, clock, n, REPAIR_STREAM, seed, trial)
    r[N_EVENTS] += 1
    if way.elastic:
        mark_victims(h, clock, n, seed, trial, space.seen, space.seen)
        if not leave(h, tick, later(later(tick, repaired), way.rejoin), space, r):
            return known
    if r[N_FAILURES] < space.log.shape[0]:
        for k, value in enumerate((tick, clock, n, known, repaired)):
            space.log[r[N_FAILURES], k] = value
    r[N_FAILURES] += 1
    if not way.elastic:
        n_new = mark_victims(h, clock, n, seed, trial, space.hit, space.vacant)
        if way.pool:
            for _ in range(n_new):
                space.away[r[N_AWAY]] = later(tick, repaired)
                r[N_AWAY] += 1
            r[VACANT] += n_new
    return known


@bare
def settle(way, tick, away, r):  # type: ignore[no-untyped-def]
    """Let nodes come back until ``tick``; those that stand by are counted, at most as many as the job has paid for."""
    while True:
        least = 0
        for k in range(1, r[N_AWAY]):
            if away[k] < away[least]:
                least = k
        returns = r[N_AWAY] > 0 and away[least] <= tick
        until = away[least] if returns else tick
        r[STANDING_BY] += min(r[FREE], way.spares) * (until - r[SETTLED])
        r[SETTLED] = until
        if not returns:
            return
        r[FREE] += 1
        r[N_AWAY] -= 1
        away[least] = away[r[N_AWAY]]


@bare
def enough(r, away):  # type: ignore[no-untyped-def]
    """When there will be a spare for every vacant place: the tick, now or later."""
    missing = r[VACANT] - r[FREE]
    if missing <= 0:
        return r[NOW]
    if missing > r[N_AWAY]:
        return np.int64(NEVER)
    tick, n = np.int64(-1), 0  # the first ``n`` are back by then; a sort would make an array
    while n < missing:
        next_tick, at_once = np.int64(NEVER), 0
        for k in range(r[N_AWAY]):
            if tick < away[k] < next_tick:
                next_tick, at_once = away[k], 1
            elif away[k] == next_tick:
                at_once += 1
        if at_once == 0:
            return np.int64(NEVER)
        tick, n = next_tick, n + at_once
    return tick


@bare
def survived(h, hit):  # type: ignore[no-untyped-def]
    """Whether a node of every group that holds the same state is left."""
    for g in range(h.group.size - 1):
        left = False
        for at in range(h.group[g], h.group[g + 1]):
            left = left or hit[h.group_node[at]] == 0
        if not left:
            return False
    return True


@bare
def count_repairs(h, tick, space, r):  # type: ignore[no-untyped-def]
    """Count the GPUs without work that are away, until ``tick``."""
    for node in range(h.n_nodes):
        if space.out[node] and space.vacant[node]:
            r[REPAIRED] += h.node_size[node] * max(0, min(space.back[node], tick) - r[REPAIRED_UNTIL])
    r[REPAIRED_UNTIL] = max(r[REPAIRED_UNTIL], tick)  # a failure may be counted ahead of what it cannot stop


@bare
def leave(h, tick, back, space, r):  # type: ignore[no-untyped-def]
    """Let the nodes that were ``seen`` to fail leave an elastic job until tick ``back``; how many were not away anyway."""
    count_repairs(h, tick, space, r)
    n = 0
    for node in range(h.n_nodes):
        if space.seen[node]:
            space.seen[node] = 0
            if space.vacant[node] == 0 or space.back[node] <= tick:
                space.vacant[node], space.back[node] = 1, back
                space.hit[node] = max(space.hit[node], space.part[node])
                n += 1
    note_return(space, r)
    return n


@bare
def note_return(space, r):  # type: ignore[no-untyped-def]
    """Find out when the next node can take its place again."""
    r[RETURN], r[HARMLESS] = NEVER, ASK
    for node in range(space.vacant.size):
        if space.vacant[node]:
            r[RETURN] = min(r[RETURN], space.back[node])


@bare
def take_back(h, tick, space, r):  # type: ignore[no-untyped-def]
    """Let all take their places that can at ``tick``."""
    count_repairs(h, tick, space, r)
    for node in range(space.vacant.size):
        if space.vacant[node] and space.back[node] <= tick:
            space.vacant[node] = 0
    note_return(space, r)


@bare
def is_missing(h, unit, tick, space):  # type: ignore[no-untyped-def]
    """Whether a node of a unit has left and is not there again by ``tick``."""
    for at in range(h.unit[unit], h.unit[unit + 1]):
        node = h.unit_node[at]
        if space.vacant[node] and space.back[node] > tick:
            return True
    return False


@bare
def n_missing(h, tick, space):  # type: ignore[no-untyped-def]
    """Units that are missing, if all that can by ``tick`` have taken their places."""
    n = 0
    for unit in range(h.unit.size - 1):
        n += is_missing(h, unit, tick, space)
    return n


@bare
def cast(h, space, r):  # type: ignore[no-untyped-def]
    """Say who takes part from here on: the nodes of units that are not missing."""
    space.part[:] = 0
    for unit in range(h.unit.size - 1):
        if not is_missing(h, unit, -1, space):
            for at in range(h.unit[unit], h.unit[unit + 1]):
                space.part[h.unit_node[at]] = 1
    r[HARMLESS] = ASK


@bare
def turn_to(h, plans, missing, horizon, space, r):  # type: ignore[no-untyped-def]
    """Train by the plan for so many missing units from here on."""
    count_repairs(h, r[NOW], space, r)
    if r[PLAN]:
        r[DEGRADED] += r[NOW] - r[SINCE]
        note(space.diary, r[SINCE], r[NOW], SMALLER + r[PLAN])
    r[PLAN], r[ROWS], r[WINDOW], r[GIVEN] = missing, missing, -1, 0
    r[SINCE], r[EACH], r[OUT] = r[NOW], plans.samples[missing], plans.idle[missing]
    if r[NOW] < horizon and not space.used[missing]:
        space.used[missing] = 1
        r[N_PLANS] += 1
    for node in range(h.n_nodes):
        space.out[node] = 1 - space.part[node]


@bare
def harmless(h, seed, trial, space, r):  # type: ignore[no-untyped-def]
    """Whether what fails next stops nobody who takes part."""
    if r[HARMLESS] == ASK:
        tick = next_failure(space.clocks.tick, r[SHIFT])
        clock, n = upcoming(h, space.clocks)
        mark_victims(h, clock, n, seed, trial, space.seen, space.seen)
        r[HARMLESS] = 1
        for node in range(h.n_nodes):
            if space.seen[node] and space.part[node] and (space.vacant[node] == 0 or space.back[node] <= tick):
                r[HARMLESS] = 0
            space.seen[node] = 0
    return r[HARMLESS] == 1


@bare
def coming(h, way, seed, trial, until, space, r):  # type: ignore[no-untyped-def]
    """Tick of the next failure that stops the job; those before it, and before ``until``, happen."""
    while True:
        tick = next_failure(space.clocks.tick, r[SHIFT])
        if not way.elastic or tick >= until or r[N_EVENTS] >= MOST_FAILURES or not harmless(h, seed, trial, space, r):
            return tick
        fail(h, way, seed, trial, tick, space, r)
