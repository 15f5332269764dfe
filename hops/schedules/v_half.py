"""V-Half: half of 1F1B's activations (and a little) on a V, for half its bubble.

A rank holds p+2 chunks (p+1 if p is odd), half as many microbatches' worth. The paper writes B for the backward for input (our I). The
order does not depend on times. On the last rank a microbatch's second forward is in the slot after the first, as in the authors' code;
``turn=2``, as in the paper's table, leaves one between: a chunk more in flight, and less bubble. The bubble is the
same for any m as long as TW + 2 TB >= 2 TF and TW + 2 TF >= 2 TB; else each microbatch adds what is missing.
"""

from hops.building_block import repeated, split_orders
from hops.checks import count
from hops.schedules import Program, schedule


@schedule(
    "v_half",
    aliases=("V-Half",),
    default_vpp=2,
    fixed_vpp=True,
    source="Qi et al. 2024, Pipeline Parallelism with Controllable Memory (arXiv:2405.15362), offsets of the authors' code",
    unit_bubble=lambda p, m, v: 3 * p - (4 if p % 2 else 7) + 2 * (p == 2) if p > 1 else 0,
    unit_when=lambda p, m, v: m >= p and (p != 2 or m > 3),
    in_flight=lambda p, m, v, rank: min(2 * m, p + 2 - p % 2),
    messages=lambda p, m, v: 4 * m * (p - 1),
)
def v_half(pp: int, microbatches: int, vpp: int, *, turn: int = 1) -> Program:
    count("schedule.turn", turn, most=2)
    return Program("v_half", repeated(split_orders, block(pp, turn), microbatches, steady=pp + 2), "wave")  # type: ignore[arg-type]


def block(pp: int, turn: int = 1) -> list[tuple[int, int, int, int]]:
    """Slots of F0, F1 and the backwards of chunk 1 and 0, of every rank."""
    gap = turn if pp % 2 else 3 + turn  # or slots would meet
    return [(2 * rank, 3 * pp - 3 + turn - rank, 3 * pp - 2 + gap + 2 * rank, 6 * pp - 3 + gap - rank) for rank in range(pp)]
