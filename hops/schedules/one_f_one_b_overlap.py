"""1F1B with overlap: a longer warmup, then every forward runs as one unit with a backward of another microbatch.

Each half computes while the other exchanges with its experts, which is what the unit is for (Megatron-Core's combined 1F1B;
Victarry's simulator calls it 1f1b_overlap): with 2(p - 1 - rank) + 1 forwards ahead no pair needs one another.
"""

from hops.schedules import Fused, Op, Program, Unit, schedule


@schedule(
    "1f1b_overlap",
    source="Megatron-Core, combined_1f1b (--overlap-moe-expert-parallel-comm); order as in Victarry's pipeline simulator [code]",
    makespan=lambda p, m, t: (m + p - 1) * (t.f + t.b) + (2 * (p - 1) + 2 * max(0, m // 2 - 1) * (p > 1)) * t.hop,  # ours
    exact_when=lambda p, m: True,
    in_flight=lambda p, m, rank: min(2 * (p - rank), m),
    messages=lambda p, m: 2 * m * (p - 1),
)
def one_f_one_b_overlap(pp: int, microbatches: int) -> Program:
    ranks = list[tuple[Unit, ...]]()
    for rank in range(pp):
        warmup = min(2 * (pp - 1 - rank) + 1, microbatches)
        ahead = [Op(rank, "F", k) for k in range(warmup)]
        pairs = [Fused(Op(rank, "F", k + warmup), Op(rank, "B", k)) for k in range(microbatches - warmup)]
        ranks.append((*ahead, *pairs, *(Op(rank, "B", k) for k in range(microbatches - warmup, microbatches))))
    return Program("1f1b_overlap", tuple(ranks))
