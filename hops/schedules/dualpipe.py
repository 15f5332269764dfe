"""DualPipe: two pipelines over the same ranks in opposite directions, and most forwards run as one unit with a backward of the other.

The first half of the microbatches enters at rank 0, the second half at the last rank; so a rank holds two stages, ``rank`` and
``pp - 1 - rank``, and every stage has its weights twice. DeepSeek writes B for the full backward, as we do. A rank does as its
mirror image does, with the other half of the microbatches; the two in the middle do not fuse their first forward and backward.
"""

from hops.schedules import Constraint, Program, schedule
from hops.schedules.dualpipe_v import Writer, write


@schedule(
    "dualpipe",
    aliases=("DualPipe",),
    source="DeepSeek, DualPipe repository, dualpipe.py; bubble (PP/2-1)(F&B + B - 3W) of its README [code]",
    constraints=(
        Constraint(lambda p, m: p % 2 == 0, "an even pp, as ranks work in mirrored pairs"),
        Constraint(lambda p, m: m % 2 == 0 and m >= 2 * p, "an even number of at least 2 pp microbatches, both directions counted"),
    ),
    # ours, for F at least as long as I; for F = I, without hops, it is the README's
    makespan=lambda p, m, t: m * (t.f + t.b) + (p // 2 - 1) * (2 * t.f + t.i - t.w) + ((p - 1) * m // p + max(1, 3 * (p // 2 - 1))) * t.hop,
    exact_when=lambda p, m: m % p == 0,
    unit_bubble=lambda p, m: p - 2,
    unit_when=lambda p, m: True,
    in_flight=lambda p, m, rank: p + 1,
    messages=lambda p, m: 2 * m * (p - 1),
)
def dualpipe(pp: int, microbatches: int) -> Program:
    half, ranks = microbatches // 2, []
    for rank in range(pp):
        row = min(rank, pp - 1 - rank)
        writer = Writer((row, pp - 1 - row), (0, half) if rank == row else (half, 0))
        ranks.append(write(writer, pp // 2 - 1 - row, row, half - pp + row + 1, row == pp // 2 - 1))
    return Program("dualpipe", tuple(ranks), "bidirectional")
