"""Posts: when ranks post what they send and receive, for runtimes in which a message needs both sides (``p2p=megatron``, ``p2p=torch``).

Still no time. `plan` puts the messages between the units of a program and says what each waits for; the rules are stated there.
"""

from collections.abc import Sequence
from typing import NamedTuple

from hops.checks import Infeasible
from hops.programs import Op, Program, Unit, members

RECV = ("early", "defer")  # when ``p2p=torch`` posts a receive

type Message = tuple[int, bool, int]  # stage that sends, backward, microbatch
type Gap = list[tuple[int, list[Message]]]  # what a rank posts between two units: (stream, batch); a stream is a rank, or 0 for all


class Post(NamedTuple):
    """One side of a message; text as torch prints it: ``0SEND_F3`` of the stage that sends, ``1RECV_F3`` of the one that receives."""

    message: Message
    sends: bool

    def __str__(self) -> str:
        stage, backward, k = self.message
        goal = stage if self.sends else stage - 1 if backward else stage + 1
        return f"{goal}{'SEND' if self.sends else 'RECV'}_{'B' if backward else 'F'}{k}"


def plan(program: Program, p2p: str, recv: str = "early") -> tuple[list[tuple[int, Unit]], list[list[int]]]:
    """Units and messages in an order in which each follows what it needs, and the places in it of what else each waits for.

    A message is an `Op` of the stage that sends it, on rank -1. It needs its op, and waits for the unit before the receiver's post
    and, on both sides, for the batch posted before to be through: all its messages have arrived. Messages of one batch in one
    direction come one by one. A unit needs its inputs, and waits for what its rank sent where that blocks.

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
    ranks = _traffic(program)
    batches = _megatron(ranks) if p2p == "megatron" else _torch(program, ranks, recv)
    order, waits, stuck = _Walk(ranks, batches, blocking=p2p == "megatron").run()
    if stuck:
        asked = f"p2p={p2p} makes ranks of {program.name} wait for each other at pp={program.pp} and microbatches={program.microbatches}"
        raise Infeasible(f"{asked}: {', '.join(stuck)} (try p2p=channel)")
    return order, waits


def with_messages(program: Program, ranks: Sequence[Sequence[Unit | str]]) -> list[list[Unit | str | Post]]:
    """Put a send behind every unit whose result another rank needs, and the receive at that moment into the list of that rank.

    Ranks take turns, an action each where they can; what is no unit needs nothing (torch/distributed/pipelining/schedules.py,
    _add_send_recv, from memory).
    """
    found = [list[Unit | str | Post]() for _ in ranks]
    traffic = {step.unit: step for steps in _traffic(program) for step in steps}
    sent = set[Message]()
    position = [0] * len(ranks)
    while any(at < len(rank) for at, rank in zip(position, ranks, strict=True)):
        for r, rank in enumerate(ranks):
            if position[r] == len(rank):
                continue
            action = rank[position[r]]
            step = None if isinstance(action, str) else traffic[action]
            if step is not None and not all(message in sent for message, _ in step.receives):
                continue
            found[r].append(action)
            position[r] += 1
            for message, goal in step.sends if step is not None else ():
                found[r].append(Post(message, True))
                found[goal].append(Post(message, False))
                sent.add(message)
    return found


class _Step(NamedTuple):
    """A unit of a rank, the messages that it makes and needs, and the other end of each."""

    unit: Unit
    sends: list[tuple[Message, int]]
    receives: list[tuple[Message, int]]
    stands_aside: bool  # neither ends a batch of Megatron's nor waits for it


def _traffic(program: Program) -> list[list[_Step]]:
    """Of every rank its steps."""
    n_stages, ranks = program.n_stages, list[list[_Step]]()
    for rank, units in enumerate(program.ranks):
        steps = list[_Step]()
        for unit in units:
            sends, receives = list[tuple[Message, int]](), list[tuple[Message, int]]()
            for stage, kind, k in members(unit):
                if kind == "W":
                    continue
                backward = kind != "F"
                goal, origin = (stage - 1, stage + 1) if backward else (stage + 1, stage - 1)
                if 0 <= goal < n_stages and (home := program.rank_of(goal, k)) != rank:
                    sends.append(((stage, backward, k), home))
                if 0 <= origin < n_stages and (home := program.rank_of(origin, k)) != rank:
                    receives.append(((origin, backward, k), home))
            steps.append(_Step(unit, sends, receives, isinstance(unit, Op) and unit.kind == "W"))
        ranks.append(steps)
    return ranks


def _ends(ranks: Sequence[Sequence[_Step]]) -> dict[Message, tuple[int, int]]:
    """The ranks that send and receive each message."""
    return {message: (rank, goal) for rank, steps in enumerate(ranks) for step in steps for message, goal in step.sends}


def _megatron(ranks: Sequence[Sequence[_Step]]) -> list[list[Gap]]:
    """What each rank posts before each unit and after the last."""
    found = []
    for steps in ranks:
        gaps: list[Gap] = [[] for _ in range(len(steps) + 1)]
        at, sends = 0, list[tuple[Message, int]]()  # behind the latest unit that does not stand aside
        for i, step in enumerate([*steps, None]):
            if step is not None and step.stands_aside:
                continue
            goals = {goal for _, goal in sends}
            receives = [] if step is None else step.receives
            first = [message for message, _ in sends] + [message for message, home in receives if home in goals]
            gaps[at] += [(0, batch) for batch in (first, [message for message, home in receives if home not in goals]) if batch]
            at, sends = i + 1, [] if step is None else step.sends
        found.append(gaps)
    return found


def _torch(program: Program, ranks: Sequence[Sequence[_Step]], recv: str) -> list[list[Gap]]:
    """As `_megatron`."""
    found = []
    ends = _ends(ranks)
    for rank, actions in enumerate(with_messages(program, program.ranks)):
        gaps: list[dict[int, list[Message]]] = [{}]
        deferred: dict[int, list[Message]] = {}  # receives by the rank that they come from
        steps = iter(ranks[rank])
        for action in actions:
            if not isinstance(action, Post):
                for message, peer in next(steps).receives if recv == "defer" else ():
                    waiting = deferred.get(peer, [])
                    n = waiting.index(message) + 1 if message in waiting else 0
                    if n:
                        gaps[-1].setdefault(peer, []).extend(waiting[:n])
                        del waiting[:n]
                gaps.append({})
            elif recv == "defer" and not action.sends:
                deferred.setdefault(ends[action.message][0], []).append(action.message)
            else:
                peer = ends[action.message][action.sends]
                gaps[-1].setdefault(peer, []).extend([*deferred.pop(peer, ()), action.message])
        found.append([list(gap.items()) for gap in gaps])
    return found


class _Batch:
    """What a rank posts at a time to a stream."""

    __slots__ = ("ahead", "before", "behind", "messages", "n_left")

    def __init__(self, messages: list[Message], before: int, ahead: "_Batch | None") -> None:
        self.messages, self.before, self.ahead = messages, before, ahead  # before: place of the unit before it, or -1
        self.behind: _Batch | None = None
        self.n_left = len(messages)
        if ahead is not None:
            ahead.behind = self


class _Walk:
    """Ranks run until they wait; a message passes once both sides have posted it and what they posted before has passed."""

    def __init__(self, ranks: Sequence[Sequence[_Step]], gaps: Sequence[Sequence[Gap]], blocking: bool) -> None:
        self.ranks, self.gaps, self.blocking = ranks, gaps, blocking
        self.order: list[tuple[int, Unit]] = []
        self.waits: list[list[int]] = []
        self.place: dict[Message, int] = {}  # in `order`, of messages that have passed
        self.ends = _ends(ranks)
        self.posted: dict[Message, list[tuple[int, _Batch]]] = {}  # rank and batch of the sides that have posted
        self.latest: dict[tuple[int, int], _Batch] = {}  # of each stream of each rank
        self.position = [0] * len(ranks)  # units that have run
        self.n_posted = [0] * len(ranks)  # gaps that have been posted
        self.ran = [-1] * len(ranks)  # place of the unit before
        self.held: list[list[Message]] = [[] for _ in ranks]  # what the next unit waits for that does not stand aside
        self.runnable = list(range(len(ranks)))[::-1]

    def run(self) -> tuple[list[tuple[int, Unit]], list[list[int]], list[str]]:
        """All in order, what each waits for, and who waits for ever."""
        while self.runnable:
            rank = self.runnable.pop()
            while self._step(rank):
                pass
        stuck = []
        for rank, steps in enumerate(self.ranks):
            if self.position[rank] < len(steps):
                posts = (Post(message, self.ends[message][0] == rank) for message in self._wanted(rank) if message not in self.place)
                stuck.append(f"rank {rank} before {steps[self.position[rank]].unit} for {' and '.join(map(str, posts))}")
        return self.order, self.waits, stuck

    def _step(self, rank: int) -> bool:
        """Post what stands before the next unit of ``rank`` and run it; whether it could."""
        at = self.position[rank]
        if self.n_posted[rank] == at:
            self.n_posted[rank] += 1
            for stream, messages in self.gaps[rank][at]:
                self._post(rank, stream, messages)
        if at == len(self.ranks[rank]) or any(message not in self.place for message in self._wanted(rank)):
            return False
        step = self.ranks[rank][at]
        needed = {message for message, _ in step.receives}
        self.waits.append([self.place[message] for message in self._wanted(rank) if message not in needed])
        if self.blocking and not step.stands_aside:
            self.held[rank] = []
        self.ran[rank], self.position[rank] = len(self.order), at + 1
        self.order.append((rank, step.unit))
        return True

    def _wanted(self, rank: int) -> list[Message]:
        """What the next unit of ``rank`` waits for."""
        step = self.ranks[rank][self.position[rank]]
        wanted = [message for message, _ in step.receives]
        return wanted if step.stands_aside else [*wanted, *(message for message in self.held[rank] if message not in wanted)]

    def _post(self, rank: int, stream: int, messages: list[Message]) -> None:
        batch = self.latest[rank, stream] = _Batch(messages, self.ran[rank], self.latest.get((rank, stream)))
        for message in messages:
            self.posted.setdefault(message, []).append((rank, batch))
        if self.blocking:
            self.held[rank] += messages
        candidates = list(messages)
        for message in candidates:  # grows on the way
            sides = self.posted.get(message, ())
            if message not in self.place and len(sides) == 2 and all(b.ahead is None or not b.ahead.n_left for _, b in sides):
                candidates += self._pass(message, sides)

    def _pass(self, message: Message, sides: Sequence[tuple[int, _Batch]]) -> list[Message]:
        """Put ``message`` into the order; returns those that may follow."""
        ends, waits, following = self.ends[message], set[int](), list[Message]()
        for rank, batch in sides:
            if batch.ahead is not None:
                waits.update(self.place[other] for other in batch.ahead.messages)
            if len(batch.messages) > 1:
                waits.update(self.place[other] for other in batch.messages if other in self.place and self.ends[other] == ends)
            if rank == ends[1] and batch.before >= 0:
                waits.add(batch.before)
            batch.n_left -= 1
            if not batch.n_left and batch.behind is not None:
                following += batch.behind.messages
        stage, backward, k = message
        self.place[message] = len(self.order)
        self.order.append((-1, Op(stage, "FB"[backward], k)))
        self.waits.append(sorted(waits))
        self.runnable += ends
        return following
