"""Walks: ranks run unit after unit until they wait for a message, one at a time; which comes when. Compiled, still no time.

r = ranks, u = units and o = operations, rank by rank as in `Program.table`; x = messages as `hops.sequence.makes` numbers them, and
behind them as many as two stages make, which nobody sends; y = posts and b = batches of them, rank by rank as posted; n = units and
messages that cross. Gaps, one in front of each unit and one behind a rank's last, are numbered rank by rank: that in front of unit u
on rank r is u + r.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.jit import inner, kernel

type Ints = NDArray[np.int64]


class Traffic(NamedTuple):
    """What units send to other ranks and receive from them; -1: nothing, nobody."""

    bounds: Ints  # (r+1,) units of rank r are bounds[r]:bounds[r+1]
    begins: Ints  # (u+1,) operations of unit u are begins[u]:begins[u+1]
    aside: NDArray[np.bool_]  # (u,) weight passes, which neither send nor receive
    unit: Ints  # (o,)
    rank: Ints  # (o,)
    sends: Ints  # (o,) message
    needs: Ints  # (o,) message
    origin: Ints  # (x,) rank that sends it
    goal: Ints  # (x,) rank that receives it


class Batches(NamedTuple):
    """What ranks post at a time to a stream; -1: none."""

    message: Ints  # (y,)
    begins: Ints  # (b+1,) posts of batch b are begins[b]:begins[b+1]
    gaps: Ints  # (gaps+1,) batches of gap g are gaps[g]:gaps[g+1]
    rank: Ints  # (b,)
    unit: Ints  # (b,) that runs before
    ahead: Ints  # (b,) the one before on its stream
    behind: Ints  # (b,) the one after on its stream
    held_by: Ints  # (u,) unit that must have got rid of what it sends


class Walk(NamedTuple):
    """How far a walk has come; -1: not yet."""

    position: Ints  # (r,) next unit
    n_posted: Ints  # (r,) next gap
    ran: Ints  # (u+1,) place of units in the sequence; behind them that of none
    passed: Ints  # (x,) place of messages in the sequence; the last is none, which has passed
    sides: Ints  # (x, 2) batches with it of those that have posted it
    n_left: Ints  # (b,) messages that have not passed
    candidates: Ints  # (2y,) messages that may pass
    sequence: Ints  # (n,) unit, or ``~message``
    indptr: Ints  # (n+1,) waits of i are waits[indptr[i]:indptr[i+1]]
    waits: Ints  # places in the sequence


def walk(traffic: Traffic, batches: Batches) -> Walk:
    """Run all units and let all messages cross, as far as they come."""
    n_ranks, n_units, n_left = traffic.bounds.size - 1, traffic.aside.size, np.diff(batches.begins)
    n = n_units + np.count_nonzero(traffic.sends >= 0)
    n_ahead = np.where(batches.ahead >= 0, np.append(n_left, 0)[batches.ahead], 0)
    begun = Walk(
        position=traffic.bounds[:-1].copy(),
        n_posted=traffic.bounds[:-1] + np.arange(n_ranks),
        ran=np.full(n_units + 1, -1),
        passed=np.append(np.full(traffic.goal.size - 1, -1), 0),
        sides=np.full((traffic.goal.size, 2), -1),
        n_left=n_left,
        candidates=np.empty(2 * batches.message.size, int),
        sequence=np.empty(n, int),
        indptr=np.zeros(n + 1, int),
        waits=np.empty(batches.message.size + int(n_left @ (n_ahead + n_left)), int),
    )
    go(traffic, batches, begun)
    return begun


@kernel
def go(traffic, batches, walk):  # type: ignore[no-untyped-def]
    """Ranks run until they wait, and again when a message of theirs has passed."""
    # arrays are taken out of their tuples once: where they are used, which counts their holders, took interleaved p=16 m=128 45 ms, not 7
    bounds, begins, sends, needs = traffic.bounds, traffic.begins, traffic.sends, traffic.needs
    gaps, held_by = batches.gaps, batches.held_by
    position, n_posted, ran, passed = walk.position, walk.n_posted, walk.ran, walk.passed
    sequence, indptr, waits = walk.sequence, walk.indptr, walk.waits
    n_ranks, n = position.size, 0
    runnable, n_runnable = np.empty(n_ranks + batches.message.size, np.int64), n_ranks
    runnable[:n_ranks] = np.arange(n_ranks)[::-1]
    while n_runnable:
        n_runnable -= 1
        rank, first = runnable[n_runnable], n
        while True:
            unit = position[rank]
            if n_posted[rank] == unit + rank:
                n_posted[rank] += 1
                for batch in range(gaps[unit + rank], gaps[unit + rank + 1]):
                    n = post(traffic, batches, walk, batch, n)
            if unit == bounds[rank + 1]:
                break
            ready, held = have_passed(begins, needs, passed, unit), held_by[unit]
            if not ready or (held >= 0 and not have_passed(begins, sends, passed, held)):
                break
            indptr[n + 1] = indptr[n]
            for op in range(begins[held], begins[held + 1]) if held >= 0 else range(0):
                if sends[op] >= 0:
                    waits[indptr[n + 1]] = passed[sends[op]]
                    indptr[n + 1] += 1
            ran[unit], sequence[n] = n, unit
            position[rank] += 1
            n += 1
        for i in range(first, n):
            if sequence[i] < 0:
                runnable[n_runnable], runnable[n_runnable + 1] = traffic.origin[~sequence[i]], traffic.goal[~sequence[i]]
                n_runnable += 2


@inner
def have_passed(begins, messages, passed, unit):  # type: ignore[no-untyped-def]
    """Whether those of ``messages`` (o,) have that are of ``unit``."""
    found = True
    for op in range(begins[unit], begins[unit + 1]):
        found &= passed[messages[op]] >= 0
    return found


@inner
def post(traffic, batches, walk, batch, n):  # type: ignore[no-untyped-def]
    """Post ``batch`` and let pass what may; ``n`` have run and passed before, returns how many have then."""
    origin, goal, messages, begins, ahead = traffic.origin, traffic.goal, batches.message, batches.begins, batches.ahead
    passed, sides, n_left, candidates = walk.passed, walk.sides, walk.n_left, walk.candidates
    sequence, indptr, waits = walk.sequence, walk.indptr, walk.waits
    n_candidates, k = offer(messages, begins, batch, candidates, 0), 0
    for message in candidates[:n_candidates]:
        sides[message, 0 if sides[message, 0] < 0 else 1] = batch
    while k < n_candidates:
        message = candidates[k]
        k += 1
        if passed[message] >= 0 or not (is_open(ahead, n_left, sides[message, 0]) and is_open(ahead, n_left, sides[message, 1])):
            continue
        indptr[n + 1] = indptr[n]
        for side in sides[message]:
            for i in range(begins[ahead[side]], begins[ahead[side] + 1]) if ahead[side] >= 0 else range(0):
                add_wait(indptr, waits, n, passed[messages[i]])
            for i in range(begins[side], begins[side + 1]):  # in one direction they come one by one
                if goal[messages[i]] == goal[message] and origin[messages[i]] == origin[message]:
                    add_wait(indptr, waits, n, passed[messages[i]])
            if batches.rank[side] == goal[message]:
                add_wait(indptr, waits, n, walk.ran[batches.unit[side]])
            n_left[side] -= 1
            if n_left[side] == 0 and batches.behind[side] >= 0:
                n_candidates = offer(messages, begins, batches.behind[side], candidates, n_candidates)
        passed[message], sequence[n] = n, ~message
        n += 1
    return n


@inner
def offer(messages, begins, batch, candidates, n_candidates):  # type: ignore[no-untyped-def]
    """Add the messages of ``batch`` to the candidates; how many there are then."""
    for i in range(begins[batch], begins[batch + 1]):
        candidates[n_candidates] = messages[i]
        n_candidates += 1
    return n_candidates


@inner
def is_open(ahead, n_left, side):  # type: ignore[no-untyped-def]
    """Whether that batch has been posted, and what was posted before it has passed."""
    return side >= 0 and (ahead[side] < 0 or n_left[ahead[side]] == 0)


@inner
def add_wait(indptr, waits, n, place):  # type: ignore[no-untyped-def]
    """Let message ``n`` wait for ``place``, too, if there is such a place; its waits are in order, each once."""
    at = indptr[n + 1]
    while at > indptr[n] and waits[at - 1] > place:
        at -= 1
    if place < 0 or (at > indptr[n] and waits[at - 1] == place):
        return
    for i in range(indptr[n + 1], at, -1):
        waits[i] = waits[i - 1]
    waits[at] = place
    indptr[n + 1] += 1


@kernel
def take_turns(traffic, actions, bounds):  # type: ignore[no-untyped-def]
    """What ranks post if they take turns, an action each where they can: posts (y, 3: gap, message, whether sent) as they come.

    ``actions``: units of rank r, and -1 for what needs and sends nothing, are actions[bounds[r]:bounds[r+1]]; gaps are between these.
    """
    begins, sends, needs, goals = traffic.begins, traffic.sends, traffic.needs, traffic.goal
    position, sent, moves, n = bounds[:-1].copy(), np.zeros(traffic.goal.size, np.bool_), True, 0
    posts = np.empty((2 * traffic.sends.size, 3), np.int64)
    sent[-1] = True  # what is needed where nothing is
    while moves:
        moves = False
        for rank in range(position.size):
            if position[rank] == bounds[rank + 1]:
                continue
            unit, ready = actions[position[rank]], True
            ops = range(begins[unit], begins[unit + 1]) if unit >= 0 else range(0)
            for op in ops:
                ready &= sent[needs[op]]
            if not ready:
                continue
            moves = True
            position[rank] += 1
            for op in ops:
                message = sends[op]
                if message >= 0:
                    goal = goals[message]
                    posts[n, 0], posts[n, 1], posts[n, 2] = position[rank] + rank, message, 1
                    posts[n + 1, 0], posts[n + 1, 1], posts[n + 1, 2] = position[goal] + goal, message, 0
                    sent[message] = True
                    n += 2
    return posts[:n]
