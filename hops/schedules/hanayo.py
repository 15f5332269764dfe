"""Hanayo: microbatches go to and fro over the ranks, ``vpp / 2`` waves each; no weights are held twice. One wave is a V.

The paper gives no generator: the order is a greedy list of ours, made for backwards twice as long as forwards and transfers that take no
time. A rank that is free runs the backward that is nearest to its end, or if none is ready the forward that is. Nothing bounds what is in
flight; the paper's design has as many microbatches as ranks.
"""

from heapq import heappop, heappush

from hops.placements import PLACEMENTS
from hops.schedules import Constraint, Op, Program, schedule


@schedule(
    "hanayo",
    aliases=("Hanayo",),
    default_vpp=2,
    source="Liu et al. 2023, Hanayo: Harnessing Wave-like Pipeline Parallelism (arXiv:2308.15762); order: ours",
    constraints=(Constraint(lambda p, m, v: v % 2 == 0, "an even vpp, two chunks a wave"),),
    unit_bubble=lambda p, m, v: 6 * p - 2 * m - 4,
    unit_when=lambda p, m, v: v == 2 and m <= p,
    messages=lambda p, m, v: 2 * m * v * (p - 1),
)
def hanayo(pp: int, microbatches: int, vpp: int) -> Program:
    last = pp * vpp - 1
    home = [PLACEMENTS["wave"](pp, stage) for stage in range(last + 1)]
    ready: list[list[tuple[int, int]]] = [[] for _ in range(pp)]  # (passes to come, microbatch): the nearest to its end is least
    ready[0] = [(2 * last + 1, k) for k in range(microbatches)]
    ranks: list[list[Op]] = [[] for _ in range(pp)]
    ends: list[tuple[int, int, int, int]] = []  # (slot, rank, passes to come, microbatch)
    free = [True] * pp
    slot, woken = 0, {0}
    while woken:
        for rank in sorted(woken):
            if free[rank] and ready[rank]:
                left, k = heappop(ready[rank])
                free[rank] = False
                ranks[rank].append(Op(left, "B", k) if left <= last else Op(2 * last + 1 - left, "F", k))
                heappush(ends, (slot + (2 if left <= last else 1), rank, left, k))
        woken = set()
        slot = ends[0][0] if ends else slot
        while ends and ends[0][0] == slot:
            _, rank, left, k = heappop(ends)
            free[rank] = True
            woken.add(rank)
            if left:
                left -= 1
                there = home[left if left <= last else 2 * last + 1 - left]
                heappush(ready[there], (left, k))
                woken.add(there)
    return Program("hanayo", ranks, "wave")  # type: ignore[arg-type]
