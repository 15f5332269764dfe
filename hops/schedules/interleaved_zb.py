"""Interleaved zero bubble: interleaved 1F1B with the backward split, as torch orders it, for the memory of ZB-H1 in chunks.

Warmup has one forward for each rank that follows, not two; rank r keeps r weight passes in arrears. With one chunk it is ZB-H1 (where
microbatches >= pp - 1). Microbatches go round in groups of equal size, as many as pp goes
into them.
"""

from hops.schedules import Constraint, Op, Program, Times, schedule
from hops.schedules.interleaved import groups_equal, table


def _span(p: int, m: int, v: int, t: Times) -> int:
    return v * m * (t.f + t.b) + (p - 1) * (t.f + t.i - t.w) + (4 * (p - 1) + p * (v - 1)) * t.hop


@schedule(
    "interleaved_zb",
    aliases=("InterleavedZeroBubble",),
    default_vpp=2,
    source="torch.distributed.pipelining ScheduleInterleavedZeroBubble; weights as in Qi et al. 2023, fig. 3 top (arXiv:2401.10241)",
    constraints=(
        Constraint(lambda p, m, v: groups_equal(p, m, v, grouping="torch"), "groups of equal size, as many as pp goes into microbatches"),
    ),
    makespan=_span,
    span=_span,
    exact_when=lambda p, m, v: p > 1 and m % p == 0 and m >= 2 * p,
    in_flight=lambda p, m, v, rank: min((v - 1) * (m // max(1, m // p)) + p, m * v),
    messages=lambda p, m, v: 2 * m * (p * v - 1) if p > 1 else 0,
)
def interleaved_zb(pp: int, microbatches: int, vpp: int) -> Program:
    size = microbatches // max(1, microbatches // pp)
    order = table(microbatches, vpp, size)
    ranks = []
    for rank in range(pp):
        warmup = min((vpp - 1) * size + pp - 1 - rank, len(order))
        forward = [Op(chunk * pp + rank, "F", k) for chunk, k in order]
        ops = forward[:warmup]
        backward = [((vpp - 1 - chunk) * pp + rank, k) for chunk, k in order]
        for i, (stage, k) in enumerate(backward):
            ops += forward[warmup + i : warmup + i + 1]
            ops.append(Op(stage, "I", k))
            if i >= rank:
                stage, k = backward[i - rank]
                ops.append(Op(stage, "W", k))
        ops += [Op(stage, "W", k) for stage, k in backward[max(0, len(order) - rank) :]]
        ranks.append(ops)
    return Program("interleaved_zb", ranks, "loop")  # type: ignore[arg-type]
