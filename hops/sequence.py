"""Sequences: operations as numbers, and an order in which all of them can run, each after what it needs.

o = operations, rank by rank; u = units, numbered rank by rank: what a rank runs at a time, one operation or two that are fused.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # numpy is loaded when the first program is written, not when schedules are
    import numpy as np
    from numpy.typing import NDArray

KINDS = "FBIW"  # forward; full backward; backward for input; backward for weight (torch's letters)
F, W = KINDS.index("F"), KINDS.index("W")

type Ints = NDArray[np.int64]
type Flags = NDArray[np.bool_] | bool


class Table(NamedTuple):
    """Operations as numbers, each (o,)."""

    rank: Ints
    stage: Ints
    kind: Ints  # index into `KINDS`
    microbatch: Ints
    unit: Ints  # which it is part of, numbered rank by rank

    @property
    def n_stages(self) -> int:
        return 1 + int(self.stage.max())

    @property
    def n_microbatches(self) -> int:
        return 1 + int(self.microbatch.max())


def tabulate(
    n_ops: Sequence[int], stage: Sequence[int], kind: Iterable[int], microbatch: Sequence[int], n_units: int, widths: int | Sequence[int]
) -> Table:
    """Put operations into a table: ``n_ops`` of them on each rank, ``widths`` of them in each unit."""
    import numpy as np

    kinds = np.fromiter(kind, np.int64, len(stage))
    rank, unit = np.repeat(np.arange(len(n_ops)), n_ops), np.repeat(np.arange(n_units), widths)
    return Table(rank, np.array(stage), kinds, np.array(microbatch), unit)


def is_complete(t: Table, homes: Sequence[int], first_seats: Sequence[int]) -> bool:
    """Whether every microbatch passes every stage forward and back once, full or split, on the rank that has its seat.

    ``homes``: rank of every seat; ``first_seats``: see `hops.programs.Program`.
    """
    import numpy as np

    there = np.zeros((t.n_stages, len(KINDS), t.n_microbatches), np.int64)
    np.add.at(there, (t.stage, t.kind, t.microbatch), 1)
    forward, full, *split = there.swapaxes(0, 1)
    complete = (forward == 1) & (full + split[0] == 1) & (split[0] == split[1])
    return bool(complete.all() and (np.array(homes)[t.stage + np.array(first_seats)[t.microbatch]] == t.rank).all())


def makes(t: Table) -> Ints:
    """What each operation makes (o,), numbered by stage, direction and microbatch; a weight pass that which no operation needs."""
    import numpy as np

    nothing = 2 * t.n_stages * t.n_microbatches
    return np.where(t.kind == W, nothing, _number(t, t.stage, t.kind != F))


def run(t: Table, n_units: Sequence[int]) -> tuple[list[int], dict[int, list[int]]]:
    """Run complete operations, ``n_units`` units on each rank: those that ran, in sequence, and where each rank is stuck.

    That is {unit: numbers of what it lacks, see `makes`}, empty if all ran.
    """
    ends = list(accumulate(n_units))
    wanted, given, nothing = _exchanged(t, ends[-1])
    fused = ends[-1] < t.unit.size
    position, found = [0, *ends[:-1]], list[int]()
    done = bytearray(nothing + 1)
    done[nothing] = True
    waiting: dict[int, list[int]] = {}
    runnable = list(range(len(ends)))[::-1]
    while runnable:
        rank = runnable.pop()
        for unit in range(position[rank], ends[rank]):
            need = wanted[unit]
            if not (done[need[0]] and done[need[1]] and (not fused or (done[need[2]] and done[need[3]]))):
                waiting.setdefault(next(each for each in need if not done[each]), []).append(rank)
                position[rank] = unit
                break
            found.append(unit)
            for each in given[unit]:
                done[each] = True
                if each in waiting:
                    runnable.extend(waiting.pop(each))
        else:
            position[rank] = ends[rank]
    return found, {at: [each for each in wanted[at] if not done[each]] for at, end in zip(position, ends, strict=True) if at < end}


def _exchanged(t: Table, n_units: int) -> tuple[list[list[int]], list[list[int]], int]:
    """What each unit needs and what it makes, as many numbers each, and the number that stands for nothing."""
    import numpy as np

    nothing, backward, weight = 2 * t.n_stages * t.n_microbatches, t.kind != F, t.kind == W
    own = np.where(backward, _number(t, t.stage, weight), nothing)  # on the same stage
    other = np.where(backward, _number(t, t.stage + 1, True), _number(t, t.stage - 1, False))
    other[weight | np.where(backward, t.stage == t.n_stages - 1, t.stage == 0)] = nothing
    needs, made = np.stack([own, other], axis=1), makes(t)[:, None]
    if n_units == t.unit.size:
        return needs.tolist(), made.tolist(), nothing
    is_second = np.diff(t.unit, prepend=-1) == 0
    wants, gives = np.full((n_units, 4), nothing), np.full((n_units, 2), nothing)
    for columns, here in ((0, ~is_second), (1, is_second)):
        wants[t.unit[here], 2 * columns : 2 * columns + 2], gives[t.unit[here], columns] = needs[here], made[here, 0]
    return wants.tolist(), gives.tolist(), nothing


def _number(t: Table, stage: Ints, backward: Flags) -> Ints:
    found: Ints = (2 * stage + backward) * t.n_microbatches + t.microbatch
    return found
