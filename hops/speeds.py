"""Speeds: how fast each resource works from when to when, as whole numbers. int64 ticks of 1 ns from the iteration's beginning.

r = resources, k = pieces of time. Inside a piece a resource works at num / den, outside at 1.
"""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.checks import FINEST
from hops.jit import kernel

NEVER = 1 << 62  # later than all ticks
MOST_NUM = 1 << 20

type Piece = tuple[int, int, int, int]  # begin, end, num, den


class Speeds(NamedTuple):
    """Pieces of time, those of a resource in order and apart."""

    indptr: NDArray[np.int64]  # (r+1,) those of resource i are indptr[i]:indptr[i+1]
    begin: NDArray[np.int64]  # (k,) ticks
    end: NDArray[np.int64]  # (k,) ticks
    num: NDArray[np.int64]  # (k,)
    den: NDArray[np.int64]  # (k,)
    varies: NDArray[np.bool_]  # (r+1,) whether there are any of a resource; the last is that of -1, which nothing disturbs


def countable(speed: Fraction) -> Fraction:
    """The nearest speed that a `Piece` can have; 0 only where it is 0."""
    return max(speed.limit_denominator(FINEST), Fraction(1, FINEST)) if speed else speed


def make_speeds(n: int, pieces: Mapping[int, Iterable[Piece]]) -> Speeds:
    """Speeds of ``n`` resources from the pieces of some; ``ValueError`` where these overlap, or a number does not fit."""
    rows: list[Piece] = []
    indptr = np.zeros(n + 1, np.int64)
    for resource, each in sorted(pieces.items()):
        if not 0 <= resource < n:
            raise ValueError(f"speeds of resource {resource}; there are {n}")
        own = list(each)
        for before, (begin, end, num, den) in zip([(0, 0, 1, 1), *own], own, strict=False):
            if not (before[1] <= begin < end <= NEVER and 0 <= num <= MOST_NUM and 0 < den <= FINEST):
                raise ValueError(
                    f"a speed of {num}/{den} from {begin} to {end} ticks: pieces must follow each other, and den be from 1 to {FINEST}"
                )
        rows += own
        indptr[resource + 1] = len(own)
    columns = np.array(rows, np.int64).reshape(-1, 4).T.copy()
    begin, end, num, den = columns[0], columns[1], columns[2], columns[3]
    return Speeds(np.cumsum(indptr), begin, end, num, den, np.append(indptr[1:] > 0, False))


def stopped(speeds: Speeds, resources: Iterable[int], at: int) -> Speeds:
    """The same, where ``resources`` do nothing from tick ``at`` on: what runs on them then ends beyond all ticks."""
    dead = set(resources)
    pieces: dict[int, list[Piece]] = {}
    for resource in range(speeds.indptr.size - 1):
        here = range(speeds.indptr[resource], speeds.indptr[resource + 1])
        rows = [(int(speeds.begin[k]), int(speeds.end[k]), int(speeds.num[k]), int(speeds.den[k])) for k in here]
        if resource in dead:
            rows = [(begin, min(end, at), num, den) for begin, end, num, den in rows if begin < at] + [(at, NEVER, 0, 1)]
        if rows:
            pieces[resource] = rows
    return make_speeds(speeds.indptr.size - 1, pieces)


@kernel
def advance(tick, work, resource, speeds):  # type: ignore[no-untyped-def]
    """When ``work`` ticks of a resource (-1: of one that nothing disturbs) have passed, from ``tick`` on.

    Ends are rounded up to whole ticks; what a piece leaves undone is whole ticks too, as what it has done is rounded down.
    Inner loops ask ``speeds.varies`` before they call: the call alone counts references to all arrays, some 100 ns.
    """
    if resource < 0:
        return tick + work
    for k in range(speeds.indptr[resource], speeds.indptr[resource + 1]):
        if speeds.end[k] <= tick:
            continue
        if speeds.begin[k] > tick:
            if work <= speeds.begin[k] - tick:
                return tick + work
            work -= speeds.begin[k] - tick
            tick = speeds.begin[k]
        if speeds.num[k] == 0:
            tick = speeds.end[k]
            continue
        needed = (work * speeds.den[k] + speeds.num[k] - 1) // speeds.num[k]
        if needed <= speeds.end[k] - tick:
            return tick + needed
        work -= (speeds.end[k] - tick) * speeds.num[k] // speeds.den[k]  # less than work den, so it fits
        tick = speeds.end[k]
    return tick + work
