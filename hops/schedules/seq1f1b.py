"""Seq1F1B: 1F1B in which a microbatch passes in ``splits`` parts of its sequence, one after the other; backwards in reverse.

The attention of a part looks back at those before it, so the forward of a part follows theirs, and its backward precedes theirs.
Rank r warms up with p-1-r parts and those that the first backward needs, q-1. Parts take equal times, 1/q of a microbatch's, as
the paper cuts a sequence into parts of equal FLOPs; so are activations and messages 1/q. Operations count parts as microbatches:
kq+j is part j of microbatch k.
"""

from hops.checks import count
from hops.schedules import Op, Program, Times, alternate, schedule
from hops.schedules.one_f_one_b import n_hops


def parts(splits: int = 2) -> int:
    return count("schedule.splits", splits)


def makespan(p: int, m: int, t: Times, q: int = 2) -> int:
    """As 1F1B with as many microbatches as there are parts, and q-1 forwards more to begin with."""
    return (m * q + p - 1) * (t.f + t.b) // q + n_hops(p, m * q, more=q - 1) * t.hop


@schedule(
    "seq1f1b",
    aliases=("Seq1F1B",),
    source="Sun et al. 2024, Seq1F1B (arXiv:2406.03488) [from memory]; warmup as sail-sg has it",
    parts=parts,
    makespan=makespan,
    exact_when=lambda p, m: True,
    in_flight=lambda p, m, rank: min(p - rank + 1, 2 * m),
    messages=lambda p, m: 4 * m * (p - 1),
)
def seq1f1b(pp: int, microbatches: int, *, splits: int = 2) -> Program:
    n, ranks = parts(splits), []
    for rank in range(pp):
        forward = [Op(rank, "F", k) for k in range(microbatches * n)]
        backward = [Op(rank, "B", k * n + j) for k in range(microbatches) for j in reversed(range(n))]
        ranks.append(alternate(forward, backward, warmup=pp - 2 - rank + n))
    return Program("seq1f1b", ranks)  # type: ignore[arg-type]
