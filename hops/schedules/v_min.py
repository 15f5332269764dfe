"""V-Min: the schedule of a V that holds least, a third of 1F1B's activations (and a little).

A rank holds 2 floor((p+4)/3) chunks, (p+4)/3 microbatches' worth. The paper writes B for the backward for input (our I). The order
does not depend on times, and suits equal ones: with others each microbatch waits anew, and the bubble grows with m.
"""

from hops.building_block import repeated, split_orders
from hops.schedules import Program, schedule


@schedule(
    "v_min",
    aliases=("V-Min",),
    default_vpp=2,
    fixed_vpp=True,
    source="Qi et al. 2024, Pipeline Parallelism with Controllable Memory (arXiv:2405.15362), offsets of the authors' code",
    unit_bubble=lambda p, m, v: 4 * p - (5 if p % 3 else 7) if p > 1 else 0,
    unit_when=lambda p, m, v: m >= max(p, 3),
    in_flight=lambda p, m, v, rank: min(2 * m, (p + 4) // 3 * 2 - (rank == 0 and p % 3 == 2 and m >= (2 * p + 5) // 3)),
    messages=lambda p, m, v: 4 * m * (p - 1),
)
def v_min(pp: int, microbatches: int, vpp: int) -> Program:
    return Program("v_min", repeated(split_orders, block(pp), microbatches, steady=pp), "wave")  # type: ignore[arg-type]


def block(pp: int) -> list[tuple[int, int, int, int]]:
    """Slots of F0, F1 and the backwards of chunk 1 and 0, of every rank."""
    gap = 0 if pp % 3 else 2  # or slots would meet
    return [(rank, 2 * pp - 1 - rank, 2 * pp + gap + rank, 4 * pp + gap - 1 - rank) for rank in range(pp)]
