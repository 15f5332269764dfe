"""Tables: measured times of messages by size, where latency and bandwidth do not fit. TCP with bursts is the common case."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import log
from typing import Any

from hops.checks import positive

type Table = tuple[tuple[float, float], ...]  # (bytes, seconds) of one message, both increasing


def make_table(key: str, pairs: Any) -> Table:
    """Check a table from the config; ``ValueError`` where it is not two pairs or more of increasing bytes and seconds above 0."""
    listed = isinstance(pairs, (list, tuple)) and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs)
    if not listed or len(pairs) < 2:
        raise ValueError(f"{key} must list two or more pairs of bytes and seconds, such as [[1e6,4e-4],[64e6,5e-2]]; got {pairs!r}")
    table = tuple((positive(f"{key}: bytes", size), positive(f"{key}: seconds", time)) for size, time in pairs)
    for (size, time), (larger, longer) in pairwise(table):
        if larger <= size:
            raise ValueError(f"{key} must have its sizes in increasing order; got {larger:g} bytes after {size:g}")
        if longer < time:
            raise ValueError(f"{key}: a larger message must not take less time; got {longer:g} s for {larger:g} bytes after {time:g} s")
    return table


def table_seconds(table: Table, size: float) -> float:
    """Time of one message of ``size`` bytes.

    Between two measured sizes a straight line on log-log axes. Below the first size its time, as what remains there is
    mostly latency; beyond the last the last pair's rate, as what remains there is mostly bandwidth.
    """
    at = bisect_right(table, size, key=lambda pair: pair[0])
    if at == 0:
        return table[0][1]
    below, seconds = table[at - 1]
    if at == len(table):
        return seconds * (size / below)
    above, longer = table[at]
    return float(seconds * (longer / seconds) ** (log(size / below) / log(above / below)))


def table_rate(table: Table) -> float:
    """Bandwidth that long messages get [bytes/s]."""
    size, seconds = table[-1]
    return size / seconds


def faster(table: Table, factor: float) -> Table:
    """The table of a hop that is ``factor`` times as fast."""
    return tuple((size, seconds / factor) for size, seconds in table)


def wire_seconds(size: float, bandwidth: float, tables: Iterable[Table] = ()) -> float:
    """Time of ``size`` bytes through hops at once: the narrowest of those without a table [bytes/s], and those with one."""
    return max([size / bandwidth, *(table_seconds(table, size) for table in tables)])


def narrowest(bandwidth: float, tables: Sequence[Table]) -> float:
    """Bandwidth that long messages get through hops [bytes/s]."""
    return min([bandwidth, *map(table_rate, tables)])
