"""Nominal times and memory: what a schedule plans its order on, checked and in whole numbers, so that no search meets a rounding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hops.checks import Infeasible, positive

TICKS = 1e9  # a second
MOST = 2.0**62  # ticks
UNIT = 1 << 40  # the largest activation, in the whole numbers that memory is counted in
LARGEST = 1e100  # of memory, in the unit of a user; 1 / LARGEST is the least: beyond them floats overflow
GRACE = UNIT >> 20  # of a limit: what it is a sum of was rounded


@dataclass(frozen=True)
class Nominal:
    """One pass of a microbatch: times [ticks of 1 ns], and by how much it changes the memory that activations take.

    Tuples have one value a stage, ``hop`` one a boundary of stages, ``limit`` one a rank.
    """

    forward: tuple[int, ...]
    backward_input: tuple[int, ...]
    backward_weight: tuple[int, ...]
    hop: tuple[int, ...]
    after_f: tuple[int, ...]
    after_i: tuple[int, ...]
    after_w: tuple[int, ...]
    limit: tuple[int, ...]
    limit_f: tuple[int, ...]  # under what a forward must stay, so that there is room for what a backward may add
    unit: float  # in which a user counts memory


def nominal(
    name: str,
    ranks: Sequence[int],
    forward: Any = None,
    backward_input: Any = None,
    backward_weight: Any = None,
    hop: Any = None,
    memory: Any = None,
    memory_limit: Any = None,
    rounds: int = 1,
    refuses: bool = True,
) -> Nominal:
    """Read the keywords of schedule ``name``, whose stages lie on ``ranks``: each a number, or a list with one value a stage.

    Times [s]: all three or none, then F = I = W. ``hop`` is one number or one a boundary of stages; null: a thousandth of a
    forward. ``memory`` is (after_f, after_i, after_w), which make 0, in any unit; null: a microbatch on a rank is 1 until its
    weight passes. ``memory_limit`` is in the same unit, one number or one a rank; null: ``rounds`` x pp microbatches, and what a
    backward may add to them. Raises ``ValueError``; `Infeasible` for a limit that is too small for a microbatch (unless the schedule
    knows what is, and ``refuses`` not here), and for lists of another length than there are stages, boundaries or ranks.
    """
    pp, n_stages = max(ranks) + 1, len(ranks)
    times = {"forward": forward, "backward_input": backward_input, "backward_weight": backward_weight}
    absent = [key for key, value in times.items() if value is None]
    if 0 < len(absent) < len(times):
        raise ValueError(f"{name} plans on forward, backward_input and backward_weight together; without {' and '.join(absent)} it cannot")
    f, i, w = (_ticks(f"schedule.{key}", 1e-6 if value is None else value, n_stages, "stage", 1) for key, value in times.items())
    hops = _ticks("schedule.hop", min(f) / 1000 / TICKS if hop is None else hop, n_stages - 1, "boundary of stages", 0)
    kept = ([pp / n_stages] * n_stages, [0.0] * n_stages) if memory is None else _memory(memory, n_stages)
    unit = UNIT / max(kept[0])
    after_f, after_i = ([round(each * unit) for each in change] for change in kept)
    chunks = [[stage for stage in range(n_stages) if ranks[stage] == rank] for rank in range(pp)]
    held, adds = (
        [sum(after_f[stage] for stage in each) for each in chunks],
        [max(0, *(after_i[stage] for stage in each)) for each in chunks],
    )
    if memory_limit is None:
        limit = [rounds * pp * keeps + more for keeps, more in zip(held, adds, strict=True)]
    else:
        limits = [positive("schedule.memory_limit", each) for each in _each("schedule.memory_limit", memory_limit, pp, "rank")]
        limit = [round(min(each * unit, LARGEST**2)) + GRACE for each in limits]
        needs = [keeps + more for keeps, more in zip(held, adds, strict=True)]
        rank = max(range(pp), key=lambda rank: needs[rank] - limit[rank])
        if refuses and limit[rank] < needs[rank]:
            asked = f"memory_limit={limits[rank]:g} is less than a microbatch takes on rank {rank}"
            raise Infeasible(f"{name} cannot work: {asked} (try memory_limit={needs[rank] / unit:g})")
    limit_f = tuple(each - more for each, more in zip(limit, adds, strict=True))
    after_w = tuple(-a - b for a, b in zip(after_f, after_i, strict=True))
    return Nominal(f, i, w, hops, tuple(after_f), tuple(after_i), after_w, tuple(limit), limit_f, unit)


def _memory(memory: Any, n_stages: int) -> tuple[list[float], list[float]]:
    """What a forward and a backward for input add, a stage."""
    if not isinstance(memory, (list, tuple)) or len(memory) != 3:
        raise ValueError(f"schedule.memory must be three changes, after_f, after_i and after_w, such as [1,-0.5,-0.5]; got {memory!r}")
    changes = [_each("schedule.memory", change, n_stages, "stage") for change in memory]
    for f, i, w in zip(*changes, strict=True):
        numbers = all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in (f, i, w))
        if not numbers or not (f >= 0 and w <= 0 and abs(f + i + w) <= 1e-6 * f):
            raise ValueError(f"schedule.memory must be after_f >= 0, after_i, and after_w <= 0, which make 0 together; got {[f, i, w]}")
    if not 1 / LARGEST <= max(changes[0]) <= LARGEST:
        wanted = f"schedule.memory must be above 0 after_f on a stage at least, and from {1 / LARGEST:g} to {LARGEST:g}"
        raise ValueError(f"{wanted}; got {max(changes[0])}")
    return changes[0], changes[1]


def _ticks(key: str, value: Any, n: int, of: str, least: int) -> tuple[int, ...]:
    seconds = [positive(key, each, zero=least == 0) for each in _each(key, value, n, of)]
    if max(seconds, default=0) * TICKS > MOST:
        raise ValueError(f"{key} must be at most 2^62 ns (146 years), which the clock can count; got {max(seconds):g} s")
    return tuple(max(least, int(each * TICKS + 0.5)) for each in seconds)


def _each(key: str, value: Any, n: int, of: str) -> list[Any]:
    """One value for each of ``n``, from that many or a single one."""
    if not isinstance(value, (list, tuple)):
        return [value] * n
    if len(value) != n:
        raise Infeasible(f"{key} lists {len(value)} values, one a {of}; there are {n}")
    return list(value)
