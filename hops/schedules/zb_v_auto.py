"""ZB-V automatic: zero bubble on a V, two chunks a rank, as a search that plans its order on times and memory.

Rank r holds stages r and 2p-1-r, so the last stage lies on the first rank and every rank may fill up equally: with 1F1B's memory there is
no bubble by span where the three passes take equally long. Not to be confused with torch's ZBVZeroBubble (`zb_v`), whose order is
fixed; no order of the two is the same. Tries four ways to fill gaps with weight passes, each again and again with the idle
time found before as that which is allowed, and keeps the order whose worst rank idles least.
"""

from itertools import product
from typing import Any

from hops.checks import Infeasible
from hops.nominal import Nominal, nominal
from hops.placements import PLACEMENTS
from hops.schedules import Op, Program, schedule

# passes through a rank: its first chunk goes down the V, its second comes up; gradients go down its second, and come up its first
DOWN, UP, BACK_DOWN, BACK_UP = range(4)


@schedule(
    "zb_v_auto",
    source="Qi et al. 2024, Pipeline Parallelism with Controllable Memory, V-ZB (arXiv:2405.15362); zero-bubble-pipeline-parallelism's zbv",
    default_vpp=2,
    fixed_vpp=True,
    plans="wave",
    unit_bubble=lambda p, m, v: 0,
    unit_when=lambda p, m, v: m >= 2 * p - 1,
    messages=lambda p, m, v: 4 * m * (p - 1),
)
def zb_v_auto(
    pp: int,
    microbatches: int,
    vpp: int,
    *,
    forward: Any = None,
    backward_input: Any = None,
    backward_weight: Any = None,
    hop: Any = None,
    memory: Any = None,
    memory_limit: Any = None,
) -> Program:
    """See `hops.nominal.nominal` for the keywords; a limit that is too small is `Infeasible`."""
    ranks = [PLACEMENTS["wave"](pp, stage) for stage in range(vpp * pp)]
    plan = nominal("zb_v_auto", ranks, forward, backward_input, backward_weight, hop, memory, memory_limit)
    best: _Ranks | None = None
    for fill_backward, fill_forward in product((True, False), repeat=2):
        approved: list[int] | None = None
        while (found := _attempt(plan, microbatches, fill_forward, fill_backward, approved)) is not None:
            if best is None or found.span() < best.span():
                best = found
            if approved is not None and found.most_idle >= max(approved):
                break
            approved = found.idle
    if best is None:
        enough = max(nominal("zb_v_auto", ranks, memory=memory).limit) / plan.unit  # 1F1B's memory on the rank that takes most
        raise Infeasible(f"zb_v_auto finds no order that keeps memory_limit={min(plan.limit) / plan.unit:g} (try memory_limit={enough:g})")
    return Program("zb_v_auto", best.ops, "wave")  # type: ignore[arg-type]


class _Ranks:
    """All ranks with what they have run so far."""

    def __init__(self, plan: Nominal, approved: list[int] | None) -> None:
        self.plan, self.pp = plan, len(plan.limit)
        self.ops: list[list[Op]] = [[] for _ in plan.limit]
        self.now, self.held, self.idle = ([0] * self.pp for _ in range(3))  # idle: since the first forward
        self.most_idle = 0
        self.allowed = [max(approved) - each for each in approved] if approved else [0] * self.pp
        self.ends: list[list[list[int]]] = [[[], [], [], []] for _ in plan.limit]  # of each pass through a rank, by microbatch
        self.waiting: list[list[Op]] = [[] for _ in plan.limit]  # weight passes, oldest first

    def span(self) -> int:
        begun = (ends[DOWN][0] - f for ends, f in zip(self.ends, self.plan.forward[: self.pp], strict=True))
        return max(end - start for end, start in zip(self.now, begun, strict=True))

    def stage(self, rank: int, way: int) -> int:
        return rank if way in (DOWN, BACK_UP) else 2 * self.pp - 1 - rank

    def n(self, rank: int, way: int) -> int:
        return len(self.ends[rank][way])

    def arrives(self, rank: int, way: int) -> int | None:
        """When the input of the next such pass is there (0: it was made here); None: it has not been made."""
        source = rank - 1 if way in (DOWN, BACK_DOWN) else rank + 1
        n, boundary = self.n(rank, way), self.stage(rank, way) - (way in (DOWN, UP))
        before = {UP: DOWN, BACK_DOWN: UP, BACK_UP: BACK_DOWN}.get(way)
        if before is not None and n >= self.n(rank, before):
            return None
        if not 0 <= source < self.pp:
            return 0
        made = self.ends[source][way]
        return made[n] + self.plan.hop[boundary] if n < len(made) else None

    def run(self, rank: int, way: int) -> None:
        """The next such pass."""
        arrives, stage, n = self.arrives(rank, way), self.stage(rank, way), self.n(rank, way)
        forward = way in (DOWN, UP)
        change = (self.plan.after_f if forward else self.plan.after_i)[stage]
        begins = max(self.now[rank], arrives or 0)
        if self.ends[rank][DOWN]:
            self.idle[rank] += begins - self.now[rank]
            self.most_idle = max(self.most_idle, self.idle[rank])
        self.now[rank] = begins + (self.plan.forward if forward else self.plan.backward_input)[stage]
        self.held[rank] += change
        self.ends[rank][way].append(self.now[rank])
        self.ops[rank].append(Op(stage, "F" if forward else "I", n))
        if not forward:
            self.waiting[rank].append(Op(stage, "W", n))

    def weight(self, rank: int) -> None:
        """The oldest weight pass."""
        op = self.waiting[rank].pop(0)
        self.now[rank] += self.plan.backward_weight[op.stage]
        self.held[rank] += self.plan.after_w[op.stage]
        self.ops[rank].append(op)

    def make_room(self, rank: int, way: int) -> bool:
        """Weight passes until such a pass has room; False: there are not enough."""
        stage, forward = self.stage(rank, way), way in (DOWN, UP)
        room = self.plan.limit_f[rank] - self.plan.after_f[stage] if forward else self.plan.limit[rank] - self.plan.after_i[stage]
        while self.held[rank] > room and self.waiting[rank]:
            self.weight(rank)
        return self.held[rank] <= room

    def fill(self, rank: int, arrives: int, outlast: bool) -> None:
        """Weight passes until ``arrives``; with ``outlast`` one more, where the rank would idle too long."""
        waiting, weights = self.waiting[rank], self.plan.backward_weight
        while waiting and self.now[rank] + weights[waiting[0].stage] <= arrives:
            self.weight(rank)
        allowed = max(self.most_idle, self.allowed[rank]) - self.idle[rank]
        if waiting and outlast and arrives - self.now[rank] > allowed:
            self.weight(rank)


def _attempt(plan: Nominal, microbatches: int, fill_forward: bool, fill_backward: bool, approved: list[int] | None) -> _Ranks | None:
    """One order; None where it gets stuck. A weight pass may outlast the gap before a forward, or a backward of the second chunk."""
    ranks = _Ranks(plan, approved)
    _warm_up(ranks, microbatches)
    n_run = 0
    while any(ranks.n(rank, BACK_UP) < microbatches for rank in range(ranks.pp)):
        ways = [_way_back(ranks, rank, microbatches) for rank in range(ranks.pp)]
        for rank, way in enumerate(ways):
            ranks.make_room(rank, way)
        for rank in sorted(range(ranks.pp), key=lambda r: -r if ways[r] == BACK_UP else ranks.pp + r):
            arrives = ranks.arrives(rank, ways[rank])
            if arrives is not None:
                ranks.fill(rank, arrives, ways[rank] == BACK_UP or fill_backward)
                ranks.run(rank, ways[rank])
        for rank in range(ranks.pp):
            forward = _way_forward(ranks, rank, microbatches)
            if forward is not None and ranks.make_room(rank, forward):
                ranks.fill(rank, ranks.arrives(rank, forward) or 0, fill_forward)
                ranks.run(rank, forward)
        n_before, n_run = n_run, sum(map(len, ranks.ops))
        if n_run == n_before:
            return None
    for rank in range(ranks.pp):
        while ranks.waiting[rank]:
            ranks.weight(rank)
    return ranks


def _way_back(ranks: _Ranks, rank: int, microbatches: int) -> int:
    """Which backward is next: that of the first chunk if its gradient is there, or none is left of the second."""
    n_down, n_up = ranks.n(rank, BACK_DOWN), ranks.n(rank, BACK_UP)
    return BACK_UP if n_up < n_down and (ranks.arrives(rank, BACK_UP) is not None or n_down == microbatches) else BACK_DOWN


def _way_forward(ranks: _Ranks, rank: int, microbatches: int) -> int | None:
    """Which forward is next, if one can be: that of the second chunk before that of the first."""
    able = [way for way in (UP, DOWN) if ranks.n(rank, way) < microbatches and ranks.arrives(rank, way) is not None]
    return able[0] if able else None


def _warm_up(ranks: _Ranks, microbatches: int) -> None:
    """Forwards until every rank has as many as the one before it: as time and room allow until the first comes up the V."""
    plan, pp = ranks.plan, ranks.pp
    pair = [plan.after_f[rank] + plan.after_f[-1 - rank] for rank in range(pp)]
    for rank in range(pp):
        ranks.run(rank, DOWN)
    ranks.run(pp - 1, UP)
    for rank in reversed(range(pp - 1)):
        arrives = ranks.arrives(rank, UP) or 0
        while (
            ranks.n(rank, DOWN) < microbatches
            and ranks.now[rank] + plan.forward[rank] <= arrives
            and all(ranks.held[r] + pair[r] * (1 + r) <= plan.limit_f[r] for r in range(rank + 1))
        ):
            for each in range(rank + 1):
                ranks.run(each, DOWN)
        ranks.run(rank, UP)
    way, stalled = DOWN, 0
    for rank in range(1, pp):
        while stalled < 2 and _behind(ranks, rank, microbatches):
            stalled += 1
            for each in reversed(range(rank, pp)):
                if ranks.n(each, way) < microbatches and ranks.arrives(each, way) is not None and ranks.make_room(each, way):
                    ranks.run(each, way)
                    stalled = 0
            way = UP if way == DOWN else DOWN


def _behind(ranks: _Ranks, rank: int, microbatches: int) -> bool:
    """Whether a rank has run fewer forwards than the one before it, or no more of the second chunk while some are left."""
    here, before = ((ranks.n(each, DOWN), ranks.n(each, UP)) for each in (rank, rank - 1))
    return sum(here) < sum(before) or here[1] <= before[1] < microbatches
