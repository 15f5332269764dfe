"""1F1B-V: a V whose backwards are not split, with two thirds of 1F1B's activations (and a little).

A rank holds 2 floor(2p/3) + 2 chunks. The building block is put down greedily, each backward at the first slots after the one that it
needs which leave room for the rest, and compacted. Bubble and peak are those of the authors' code where both are known; whether the order
is, is not. It is made for backwards twice as long as forwards.
"""

from hops.building_block import PERIOD, full_orders, repeated
from hops.schedules import Program, schedule

# of the authors' code, m = 4p
BUBBLE = {1: 0, 2: 4, 3: 8, 4: 15, 5: 18, 6: 22, 7: 30, 8: 33, 9: 36, 10: 45, 12: 52, 15: 67, 16: 75}


@schedule(
    "1f1b_v",
    aliases=("1F1B-V",),
    default_vpp=2,
    fixed_vpp=True,
    source="Qi et al. 2024, Pipeline Parallelism with Controllable Memory (arXiv:2405.15362); block and compaction: ours",
    unit_bubble=lambda p, m, v: BUBBLE[p],
    unit_when=lambda p, m, v: p in BUBBLE and m >= 2 * p,
    messages=lambda p, m, v: 4 * m * (p - 1),
)
def one_f_one_b_v(pp: int, microbatches: int, vpp: int) -> Program:
    return Program("1f1b_v", repeated(full_orders, block(pp), microbatches, steady=2 * pp), "wave")  # type: ignore[arg-type]


def block(pp: int) -> list[tuple[int, int, int, int]]:
    """Slots of F0, F1 and the two backwards of every rank, no two on the same slot modulo 6."""
    forwards = [(rank, 2 * pp - 1 - rank) for rank in range(pp)]
    first, second, slot = [0] * pp, [0] * pp, 2 * pp
    for rank in range(pp):
        slot = next(s for s in range(slot, slot + PERIOD) if _halves(forwards[rank], s))
        first[rank] = slot
        slot += 2
    for rank in reversed(range(pp)):
        taken = {s % PERIOD for s in (*forwards[rank], first[rank], first[rank] + 1)}
        slot = next(s for s in range(slot, slot + PERIOD) if not taken & {s % PERIOD, (s + 1) % PERIOD})
        second[rank] = slot
        slot += 2
    return [(*forwards[rank], first[rank], second[rank]) for rank in range(pp)]


def _halves(forwards: tuple[int, int], slot: int) -> bool:
    """Whether a backward at ``slot`` leaves two slots, one after the other, for the other backward."""
    taken = {s % PERIOD for s in (*forwards, slot, slot + 1)}
    return len(taken) == 4 and any({s, (s + 1) % PERIOD}.isdisjoint(taken) for s in range(PERIOD))
