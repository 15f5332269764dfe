"""Interleaved 1F1B: every rank holds vpp chunks of the model, and microbatches pass the ranks vpp times, in groups.

Megatron's virtual pipeline: in each group of ``group_size`` consecutive microbatches (default pp) all pass a rank's first
chunk, then its second, and so on; backwards take the chunks in reverse. Divides the bubble by vpp, multiplies the
messages by it. Where pp does not divide the microbatches Megatron's last group is shorter, as here; torch makes groups of equal
size instead, as many as pp goes into microbatches: ``grouping=torch``.
"""

from hops.checks import count, one_of
from hops.schedules import Constraint, Op, Program, alternate, schedule


def table(microbatches: int, vpp: int, size: int) -> list[tuple[int, int]]:
    """(chunk, microbatch) in the order of the forwards: group by group, chunk by chunk."""
    groups = [range(at, min(at + size, microbatches)) for at in range(0, microbatches, size)]
    return [(chunk, k) for group in groups for chunk in range(vpp) for k in group]


def size_of(pp: int, group_size: int | None) -> int:
    """Microbatches in a group."""
    return pp if group_size is None else count("schedule.group_size", group_size)


def groups_fit(pp: int, microbatches: int, vpp: int, group_size: int | None = None, grouping: str = "megatron") -> bool:
    size = size_of(pp, group_size)
    return grouping == "torch" or (pp <= size <= microbatches and (microbatches % size == 0 or microbatches % size >= pp))


def groups_equal(pp: int, microbatches: int, vpp: int, group_size: int | None = None, grouping: str = "megatron") -> bool:
    return grouping != "torch" or microbatches % max(1, microbatches // pp) == 0


FIT = Constraint(
    groups_fit,
    "microbatches divisible by group_size (default pp), or a last group of at least pp, and group_size from pp to microbatches",
)


@schedule(
    "interleaved",
    aliases=("Interleaved1F1B",),
    default_vpp=2,
    source="Narayanan et al. 2021, Megatron-LM, fig. 4 bottom (arXiv:2104.04473); microbatch_group_size_per_vp_stage of Megatron-Core",
    constraints=(
        FIT,
        Constraint(groups_equal, "groups of equal size, as many as pp goes into microbatches"),
    ),
    makespan=lambda p, m, v, t: (v * m + p - 1) * (t.f + t.b) + 2 * (p * v - 1) * t.hop,
    exact_when=lambda p, m, v: p > 1 and m % p == 0,
    in_flight=lambda p, m, v, rank: min(2 * (p - 1 - rank) + (v - 1) * p + 1, m * v),
    messages=lambda p, m, v: 2 * m * (p * v - 1) if p > 1 else 0,
)
def interleaved(pp: int, microbatches: int, vpp: int, *, group_size: int | None = None, grouping: str = "megatron") -> Program:
    one_of("schedule.grouping", grouping, ("megatron", "torch"))
    if grouping == "torch" and group_size is not None:
        raise ValueError(f"schedule.group_size={group_size} says what grouping=torch decides itself (leave one of them out)")
    size = microbatches // max(1, microbatches // pp) if grouping == "torch" else size_of(pp, group_size)
    order = table(microbatches, vpp, size)
    ranks = []
    for rank in range(pp):
        forward = [Op(chunk * pp + rank, "F", k) for chunk, k in order]
        backward = [Op((vpp - 1 - chunk) * pp + rank, "B", k) for chunk, k in order]
        ranks.append(alternate(forward, backward, warmup=2 * (pp - 1 - rank) + (vpp - 1) * size))
    return Program("interleaved", ranks, "loop")  # type: ignore[arg-type]
