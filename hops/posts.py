"""Posts: when ranks post what they send and receive, for runtimes in which a message needs both sides (``p2p=megatron``, ``p2p=torch``).

Still no time. `plan` puts the messages between the units of a program and says what each waits for; the rules are stated there.
Letters and numbers are those of `hops.walks`.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.checks import Infeasible
from hops.programs import KINDS, Program, Unit
from hops.sequence import makes
from hops.walks import Batches, Ints, Traffic, take_turns, walk

RECV = ("early", "defer")  # when ``p2p=torch`` posts a receive
F, W = KINDS.index("F"), KINDS.index("W")


class Post(NamedTuple):
    """One side of a message; text as torch prints it: ``0SEND_F3`` of the stage that sends, ``1RECV_F3`` of the one that receives."""

    stage: int  # that sends
    backward: bool
    microbatch: int
    sends: bool

    def __str__(self) -> str:
        goal = self.stage if self.sends else self.stage - 1 if self.backward else self.stage + 1
        return f"{goal}{'SEND' if self.sends else 'RECV'}_{'B' if self.backward else 'F'}{self.microbatch}"


class Plan(NamedTuple):
    """Units and messages in an order in which each follows what it needs, and the places in it of what else each waits for."""

    sequence: Ints  # (n,) number of a unit, or ``~number`` of a message, see `unnumbered`
    indptr: Ints  # (n+1,) i waits for those at waits[indptr[i]:indptr[i+1]]
    waits: Ints


def plan(program: Program, p2p: str, recv: str = "early") -> Plan:
    """Put the messages of ``program`` between its units.

    A message needs its op, and waits for the unit before the receiver's post and, on both sides, for the batch posted before to be
    through: all its messages have arrived. Messages of one batch in one direction come one by one. A unit needs its inputs, and waits
    for what its rank sent where that blocks.

    ``megatron`` (without interleaving): what a unit sends is one batch with what the next unit receives from the same ranks;
    receives from others follow as a batch of their own. A rank has one batch at a time and runs nothing until it is through but
    weight passes (of zero bubble, which Megatron does not have): they neither send nor receive, so "next" passes over them.
    ``torch``: a rank has a stream for every other. What it posts between two units to and from that rank is a batch, and batches
    follow each other as posted; the rank runs on. Sends are posted behind their unit, receives with ``recv=early`` where torch's
    order has them (`with_messages`), so that one ahead of its sender holds up what goes the other way (pytorch #172668, #188833);
    with ``recv=defer`` in front of the unit that needs them or of the next send to that rank: the order of a stream stays, and
    nobody waits for ever.

    gpt_22b, p=8 m=32, over p2p=channel: 1F1B on a DGX megatron +0.06 %, torch 0.00 %, deferred +0.06 %, on PCIe +0.32, 0.00 and
    +0.32 %; ZB-H1 +0.02, 0.00 and +0.07 %, on PCIe +0.08, 0.00 and +0.36 %. Eager 1F1B and ZB-H2 take 4.9 and 4.0 times as
    long with megatron: an order that runs ahead of the next rank must not wait for what it sends.

    Raises `Infeasible` where ranks that block wait for each other for ever.
    """
    traffic = _traffic(program)
    batches = _megatron(traffic) if p2p == "megatron" else _torch(traffic, recv)
    walked, stuck = walk(traffic, batches), list[str]()
    for rank in np.flatnonzero(walked.position < traffic.bounds[1:]):
        unit = walked.position[rank]
        wanted = np.append(traffic.needs[_operations(traffic, unit)], traffic.sends[_operations(traffic, batches.held_by[unit])])
        absent = wanted[walked.passed[wanted] < 0]
        posts = _posts(program, absent, traffic.origin[absent] == rank)
        stuck.append(f"rank {rank} before {program.ranks[rank][unit - traffic.bounds[rank]]} for {' and '.join(map(str, posts))}")
    if stuck:
        asked = f"p2p={p2p} makes ranks of {program.name} wait for each other at pp={program.pp} and microbatches={program.microbatches}"
        raise Infeasible(f"{asked}: {', '.join(stuck)} (try p2p=channel)")
    return Plan(walked.sequence, walked.indptr, walked.waits[: walked.indptr[-1]])


def unnumbered(program: Program, message: Ints) -> tuple[NDArray[np.intp], ...]:
    """Stage that sends, whether backward, and microbatch of messages."""
    return np.unravel_index(message, (program.n_stages, 2, program.microbatches))


def _posts(program: Program, message: Ints, sends: Ints | NDArray[np.bool_]) -> list[Post]:
    rows = np.stack([*unnumbered(program, message), sends], axis=1).tolist()
    return [Post(stage, bool(backward), k, bool(sent)) for stage, backward, k, sent in rows]


def with_messages(program: Program, ranks: Sequence[Sequence[Unit | str]]) -> list[list[Unit | str | Post]]:
    """Put a send behind every unit whose result another rank needs, and the receive at that moment into the list of that rank.

    ``ranks``: the units of ``program``, in order, and between them what needs nothing. Ranks take turns, an action each where they
    can (torch/distributed/pipelining/schedules.py, _add_send_recv, from memory).
    """
    units = count()
    actions = np.array([-1 if isinstance(each, str) else next(units) for each in chain.from_iterable(ranks)])
    where, message, sends = take_turns(_traffic(program), actions, np.cumsum([0, *map(len, ranks)])).T
    posts, gaps = defaultdict[int, list[Post]](list), count()
    for gap, each in zip(where.tolist(), _posts(program, message, sends), strict=True):
        posts[gap].append(each)
    return [[*posts[next(gaps)], *chain.from_iterable((each, *posts[next(gaps)]) for each in rank)] for rank in ranks]


def _traffic(program: Program) -> Traffic:
    t, n_stages, m = program.table, program.n_stages, program.microbatches
    homes = np.array(program.stage_ranks)[np.array(program.first_seats) + np.arange(n_stages)[:, None]]  # (s, k)
    origin, goal = np.full((2, n_stages + 2, 2, m), -1)
    origin[:n_stages] = homes[:, None]
    goal[: n_stages - 1, 0], goal[1:n_stages, 1] = homes[1:], homes[:-1]
    goal[goal == origin] = -1
    made, crosses = makes(t), goal.ravel() >= 0
    needed = made + np.where(t.kind == F, -2 * m, 2 * m)  # before the first stage and behind the last are those that nobody sends
    begins = np.flatnonzero(np.diff(t.unit, prepend=-1, append=t.unit.size))
    return Traffic(
        bounds=np.cumsum([0, *map(len, program.ranks)]),
        begins=begins,
        aside=(np.diff(begins) == 1) & (t.kind[begins[:-1]] == W),
        unit=t.unit,
        rank=t.rank,
        sends=np.where(crosses[made], made, -1),
        needs=np.where(crosses[needed], needed, -1),
        origin=origin.ravel(),
        goal=goal.ravel(),
    )


def _operations(traffic: Traffic, unit: int) -> slice:
    return slice(*traffic.begins[unit : unit + 2]) if unit >= 0 else slice(0)


def _megatron(traffic: Traffic) -> Batches:
    """All that a rank posts is one stream."""
    n_ranks, units, ranks = traffic.bounds.size - 1, np.arange(traffic.aside.size), traffic.rank[traffic.begins[:-1]]
    latest = np.maximum.accumulate(np.where(traffic.aside, -1, units))  # that does not stand aside
    before = np.concatenate([[-1], latest[:-1]])
    before[before < traffic.bounds[ranks]] = -1
    sending, receiving = np.flatnonzero(traffic.sends >= 0), np.flatnonzero(traffic.needs >= 0)
    op, sends = np.append(sending, receiving), np.arange(2 * sending.size) < sending.size
    message, rank, unit = np.where(sends, traffic.sends[op], traffic.needs[op]), traffic.rank[op], traffic.unit[op]
    gap = rank + 1 + np.where(sends, unit, np.maximum(before[unit], traffic.bounds[rank] - 1))
    pair = gap * n_ranks + np.where(sends, traffic.goal[message], traffic.origin[message])
    follows = 1 - np.isin(pair, pair[sends])
    order = np.argsort(gap, kind="stable")
    held_by = np.where(traffic.aside, -1, before)
    return _batches(traffic, gap[order], message[order], follows[order], rank[order] * n_ranks, held_by)


def _torch(traffic: Traffic, recv: str) -> Batches:
    """All that a rank posts to and from another is one stream."""
    n_ranks, units = traffic.bounds.size - 1, np.arange(traffic.aside.size)
    posts = take_turns(traffic, units, traffic.bounds)
    gap, message, sends = posts[np.argsort(posts[:, 0], kind="stable")].T
    origin, goal = traffic.origin[message], traffic.goal[message]
    stream = np.where(sends, origin * n_ranks + goal, goal * n_ranks + origin)
    if recv == "defer":  # moments of a gap: its sends, then the halves of the unit behind it with what they need
        needed_by = np.empty(traffic.goal.size, int)
        needed_by[traffic.needs] = np.arange(traffic.needs.size)
        n, op = gap.size, needed_by[message]
        unit = traffic.unit[op]
        own = np.where(sends, gap * (n + 2) + np.arange(n), (unit + goal) * (n + 2) + n + op - traffic.begins[unit])
        moment = _earliest_from_here(own, stream)
        order = np.argsort(moment, kind="stable")
        gap, message, stream = moment[order] // (n + 2), message[order], stream[order]
    return _batches(traffic, gap, message, stream % n_ranks, stream, np.full(units.size, -1))


def _earliest_from_here(moment: Ints, stream: Ints) -> Ints:
    """The earliest of the moments that are not before each (y,) on its stream."""
    order, end, found = np.argsort(stream, kind="stable"), 1 + moment.max(initial=0), np.empty_like(moment)
    found[order] = np.minimum.accumulate((stream * end + moment)[order][::-1])[::-1] % end
    return found


def _batches(traffic: Traffic, gap: Ints, message: Ints, part: Ints, stream: Ints, held_by: Ints) -> Batches:
    """Posts in order of their gaps (y,), of which each part is a batch; streams of rank r are r n_ranks to (r + 1) n_ranks."""
    n_ranks = traffic.bounds.size - 1
    _, first, which, size = np.unique(gap * (n_ranks + 1) + part, return_index=True, return_inverse=True, return_counts=True)
    in_order = np.argsort(first)
    gap, stream = gap[first[in_order]], stream[first[in_order]]
    rank, unit = stream // n_ranks, gap - stream // n_ranks - 1
    by_stream = np.argsort(stream, kind="stable")
    meets = stream[by_stream[:-1]] == stream[by_stream[1:]]
    before, after = by_stream[:-1][meets], by_stream[1:][meets]
    ahead, behind = np.full((2, gap.size), -1)
    ahead[after], behind[before] = before, after
    return Batches(
        message=message[np.argsort(first[which], kind="stable")],
        begins=np.cumsum(np.append(0, size[in_order])),
        gaps=np.searchsorted(gap, np.arange(traffic.bounds[-1] + n_ranks + 1)),
        rank=rank,
        unit=np.where(unit >= traffic.bounds[rank], unit, -1),
        ahead=ahead,
        behind=behind,
        held_by=held_by,
    )
