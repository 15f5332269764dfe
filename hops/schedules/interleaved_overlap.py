"""Interleaved 1F1B with overlap: Megatron-Core's schedule for mixtures of experts, every steady pair one unit.

As `interleaved` with one forward more ahead, so that forward and backward of a pair need not one another; each half computes
while the other exchanges with its experts.
"""

from hops.schedules import Fused, Op, Program, Unit, schedule
from hops.schedules.interleaved import FIT, size_of, table


@schedule(
    "interleaved_overlap",
    default_vpp=2,
    source="Megatron-Core, pipeline_parallel/schedules.py with --overlap-moe-expert-parallel-comm [code]",
    constraints=(FIT,),
    makespan=lambda p, m, v, t: (  # ours: a hop more for every pair but those of warmup and cooldown
        (v * m + p - 1) * (t.f + t.b) + (2 * (p * v - 1) + v * m - (v - 1) * p - 2) * t.hop
    ),
    exact_when=lambda p, m, v: p > 1 and m % p == 0 and m >= 2 * p,
    in_flight=lambda p, m, v, rank: min(2 * (p - 1 - rank) + (v - 1) * p + 2, m * v),
    messages=lambda p, m, v: 2 * m * (p * v - 1) if p > 1 else 0,
)
def interleaved_overlap(pp: int, microbatches: int, vpp: int, *, group_size: int | None = None) -> Program:
    size = size_of(pp, group_size)
    order = table(microbatches, vpp, size)
    ranks = list[tuple[Unit, ...]]()
    for rank in range(pp):
        forward = [Op(chunk * pp + rank, "F", k) for chunk, k in order]
        backward = [Op((vpp - 1 - chunk) * pp + rank, "B", k) for chunk, k in order]
        warmup = min(2 * (pp - 1 - rank) + (vpp - 1) * size + 1, len(order))
        pairs = [Fused(*pair) for pair in zip(forward[warmup:], backward, strict=False)]
        ranks.append((*forward[:warmup], *pairs, *backward[len(pairs) :]))
    return Program("interleaved_overlap", tuple(ranks), "loop")
