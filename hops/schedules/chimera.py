"""Chimera: two pipelines over the same ranks in opposite directions, each 1F1B with half of the microbatches.

The first half of the microbatches enters at rank 0, the second half at the last rank; so a rank holds two stages, ``rank`` and
``pp - 1 - rank``, and every stage has its weights twice. Where a backward takes as long as a forward, the two fill each other's gaps
and leave pp - 2 slots. More microbatches than ranks are units of pp, one after the other: what the paper calls direct
concatenation. It fills a unit's end with the beginning of the next, and leaves gaps where backwards take longer.
"""

from hops.schedules import Constraint, Op, Program, schedule


@schedule(
    "chimera",
    aliases=("Chimera",),
    source="Li & Hoefler 2021, Chimera (arXiv:2107.06925)",
    constraints=(
        Constraint(lambda p, m: p % 2 == 0, "an even pp, as ranks work in mirrored pairs"),
        Constraint(lambda p, m: m % p == 0, "microbatches divisible by pp, of which half goes either way"),
    ),
    # ours, for B at least as long as F; for F = B, without hops, it is the paper's 2 m + p - 2
    makespan=lambda p, m, t: (p - 2 + 2 * m // p) * t.f + m // p * (2 * p - 2) * t.b + (m // p * (2 * p - 4) + p - 1) * t.hop,
    exact_when=lambda p, m: p > 2,
    in_flight=lambda p, m, rank: p // 2 + 1 + min(rank, p - 1 - rank),
    messages=lambda p, m: 2 * m * (p - 1),
)
def chimera(pp: int, microbatches: int) -> Program:
    half, ranks = pp // 2, []
    for rank in range(pp):
        slots: dict[int, Op] = {}  # a unit takes 2 pp slots of a rank, each way half of them
        for way, stage in enumerate((rank, pp - 1 - rank)):
            for k in range(microbatches // 2):
                begin, op = 2 * pp * (k // half) + 2 * (k % half), Op(stage, "F", way * microbatches // 2 + k)
                slots[begin + stage] = op
                slots[begin + 2 * pp - 1 - stage] = op._replace(kind="B")
        ranks.append(tuple(slots[slot] for slot in sorted(slots)))
    return Program("chimera", tuple(ranks), "bidirectional")
