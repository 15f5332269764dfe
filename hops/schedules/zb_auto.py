"""ZB automatic: zero bubble as a search, which plans its order on times and memory, for a limit of memory.

A limit of p microbatches is ZB-1p, of 2p ZB-2p (`zb_1p`, `zb_2p`). The paper's heuristic, which weighs three choices both ways
and keeps the order of least span: how far the warmup reaches, whether a forward may be put off, and whether weight passes fill
gaps that they outlast. (Its integer program, appendix G, is not solved; with far less than p microbatches the heuristic is poor.)
Memory is part of the schedule: what of an activation is freed by the backward for input and what only by that for weight decides
how far forwards may run ahead.
"""

from itertools import product
from typing import Any

from hops.nominal import Nominal, nominal
from hops.schedules import Op, Program, schedule
from hops.schedules.zb_h1 import span


@schedule(
    "zb_auto",
    source="Qi et al. 2023, Zero Bubble, section 3.1 (arXiv:2401.10241); zero-bubble-pipeline-parallelism's auto_schedule",
    plans="line",
    makespan=span,  # with 1F1B's memory and equal stages as ZB-H1
    span=span,
    exact_when=lambda p, m: m >= 2 * p,
    in_flight=lambda p, m, rank: min(p, m),
    messages=lambda p, m: 2 * m * (p - 1),
)
def zb_auto(
    pp: int,
    microbatches: int,
    *,
    forward: Any = None,
    backward_input: Any = None,
    backward_weight: Any = None,
    hop: Any = None,
    memory: Any = None,
    memory_limit: Any = None,
) -> Program:
    """See `hops.nominal.nominal` for the keywords."""
    plan = nominal("zb_auto", range(pp), forward, backward_input, backward_weight, hop, memory, memory_limit)
    return search("zb_auto", plan, microbatches)


def search(name: str, plan: Nominal, microbatches: int) -> Program:
    """The order of least span that the heuristic finds."""
    found = [_attempt(plan, microbatches, *choices) for choices in product((True, False), repeat=3)]
    best = min(found, key=_Ranks.span)
    ranks = []
    for rank, kinds in enumerate(best.kinds):
        number = {kind: iter(range(microbatches)) for kind in "FIW"}
        ranks.append([Op(rank, kind, next(number[kind])) for kind in kinds])
    return Program(name, ranks)  # type: ignore[arg-type]


class _Ranks:
    """All ranks with what they have run so far."""

    def __init__(self, plan: Nominal) -> None:
        self.plan, self.pp = plan, len(plan.forward)
        self.kinds: list[list[str]] = [[] for _ in plan.forward]
        self.now, self.held, self.idle, self.n_w = ([0] * self.pp for _ in range(4))  # idle: since the first forward
        self.f_ends: list[list[int]] = [[] for _ in plan.forward]
        self.i_ends: list[list[int]] = [[] for _ in plan.forward]
        self.most_idle = 0

    def span(self) -> int:
        return max(end - ends[0] + f for end, ends, f in zip(self.now, self.f_ends, self.plan.forward, strict=True))

    def forward_arrives(self, rank: int) -> int:
        """When the next forward of a rank could begin, were the rank free."""
        return self.f_ends[rank - 1][len(self.f_ends[rank])] + self.plan.hop[rank - 1] if rank else 0

    def backward_arrives(self, rank: int) -> int:
        return self.i_ends[rank + 1][len(self.i_ends[rank])] + self.plan.hop[rank] if rank < self.pp - 1 else 0

    def forward(self, rank: int) -> None:
        begins = max(self.now[rank], self.forward_arrives(rank))
        if self.f_ends[rank]:
            self._idles(rank, begins)
        self.now[rank] = begins + self.plan.forward[rank]
        self.held[rank] += self.plan.after_f[rank]
        self.f_ends[rank].append(self.now[rank])
        self.kinds[rank].append("F")

    def backward(self, rank: int) -> None:
        begins = max(self.now[rank], self.backward_arrives(rank))
        self._idles(rank, begins)
        self.now[rank] = begins + self.plan.backward_input[rank]
        self.held[rank] += self.plan.after_i[rank]
        self.i_ends[rank].append(self.now[rank])
        self.kinds[rank].append("I")

    def _idles(self, rank: int, begins: int) -> None:
        self.idle[rank] += begins - self.now[rank]
        self.most_idle = max(self.most_idle, self.idle[rank])

    def pending(self, rank: int) -> int:
        """Weight passes that it could run."""
        return len(self.i_ends[rank]) - self.n_w[rank]

    def weight(self, rank: int, n: int = 1) -> None:
        self.now[rank] += n * self.plan.backward_weight[rank]
        self.held[rank] += n * self.plan.after_w[rank]
        self.n_w[rank] += n
        self.kinds[rank] += "W" * n

    def needed(self, rank: int, room: int) -> int:
        """Weight passes until no more than ``room`` is held."""
        after = self.plan.after_w[rank]
        return -((self.held[rank] - room) // after) if self.held[rank] > room and after else 0


def _attempt(plan: Nominal, microbatches: int, reach: bool, put_off: bool, outlast: bool) -> _Ranks:
    """One order. ``reach``: warmup forwards must end before the first gradient arrives, not only begin.

    ``put_off``: a forward may wait while the next rank has two to catch up with. ``outlast``: weight passes may fill a gap
    that they outlast, even if it would do no harm.
    """
    ranks = _Ranks(plan)
    last = ranks.pp - 1

    def fill(rank: int, arrives: int) -> None:
        """Weight passes until ``arrives``; in the rest of the gap one more, if the rank would be the one that idles most."""
        gap = arrives - ranks.now[rank]
        n = min(ranks.pending(rank), max(0, gap // plan.backward_weight[rank]))
        ranks.weight(rank, n)
        gap -= n * plan.backward_weight[rank]
        if gap > 0 and ranks.pending(rank) and (outlast or gap > ranks.most_idle - ranks.idle[rank]):
            ranks.weight(rank)

    def wanted(rank: int) -> bool:
        """Whether another forward is due now."""
        n_f = len(ranks.f_ends[rank])
        if not put_off or rank == last or n_f < len(ranks.f_ends[rank + 1]) + 2:
            return True
        then = ranks.now[rank + 1] + plan.forward[rank + 1] + plan.backward_input[rank + 1] + plan.hop[rank]  # its gradient arrives
        if ranks.now[rank] >= then:
            return False
        weights = ranks.needed(rank, plan.limit_f[rank] - plan.after_f[rank]) * plan.backward_weight[rank]
        ends = ranks.now[rank] + plan.forward[rank] + weights
        return ends <= then or then - ranks.now[rank] > ranks.most_idle - ranks.idle[rank]

    _warm_up(ranks, microbatches, reach)
    for _ in range(1, microbatches):
        due = [len(ends) < microbatches and wanted(rank) for rank, ends in enumerate(ranks.f_ends)]
        for rank in reversed(range(last)):
            due[rank] = due[rank] and due[rank + 1]
        for rank in range(ranks.pp):
            if due[rank]:
                ranks.weight(rank, ranks.needed(rank, plan.limit_f[rank] - plan.after_f[rank]))
                if rank:
                    fill(rank, ranks.forward_arrives(rank))
                ranks.forward(rank)
        for rank in reversed(range(ranks.pp)):
            ranks.weight(rank, ranks.needed(rank, plan.limit[rank] - plan.after_i[rank]))
            if rank < last:
                fill(rank, ranks.backward_arrives(rank))
            if rank == 0 and len(ranks.f_ends[0]) == microbatches:
                ranks.weight(0, ranks.pending(0))
            ranks.backward(rank)
    for rank in range(ranks.pp):
        ranks.weight(rank, ranks.pending(rank))
    return ranks


def _warm_up(ranks: _Ranks, microbatches: int, reach: bool) -> None:
    """The first forward everywhere, as many more as there is time and room for before the first gradient, and its backward."""
    plan, last = ranks.plan, ranks.pp - 1
    for rank in range(ranks.pp):
        ranks.forward(rank)
    more = [0] * ranks.pp
    arrives = ranks.now[last] + plan.backward_input[last]
    for rank in reversed(range(last)):
        arrives += plan.hop[rank]
        ends, held = ranks.now[rank], ranks.held[rank]
        while (
            1 + more[rank] < microbatches
            and held + plan.after_f[rank] <= plan.limit_f[rank]
            and (ends + plan.forward[rank] <= arrives if reach else ends < arrives)
        ):
            held += plan.after_f[rank]
            ends += plan.forward[rank]
            more[rank] += 1
        arrives = max(ends, arrives) + plan.backward_input[rank]
    for rank in range(1, ranks.pp):
        while more[rank] and more[rank] >= more[rank - 1] and 1 + more[rank] < microbatches:
            more[rank] -= 1
        more[rank] = min(more[rank], more[rank - 1])  # what has not come cannot run
    for rank in range(ranks.pp):
        for _ in range(more[rank]):
            ranks.forward(rank)
    for rank in reversed(range(ranks.pp)):
        ranks.backward(rank)
