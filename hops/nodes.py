"""Nodes: devices, what stands between them, and how nodes are made of them. SI units."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import NamedTuple

from hops.tables import Table


@dataclass(frozen=True)
class Gpu:
    """A device type; dense BF16 FLOP/s, bytes, bytes/s."""

    name: str
    peak_flops: float
    memory: float
    memory_bandwidth: float
    host_bandwidth: float  # to and from the memory of its host, one direction
    fp8_flops: float | None = None  # None: has no FP8


@dataclass(frozen=True)
class Hop:
    """One thing that a message crosses: latency [s] and bandwidth [bytes/s] of one direction, or a ``table`` in place of both.

    ``shared_by`` neighbours (GPUs inside a node, nodes in the network) use one instance of it; None: its traffic never
    meets. In a network of ``rails`` those nodes have an instance for each rail. A message occupies a hop with a table for all of
    its time there; ``ValueError`` for a table beside latency or bandwidth.
    """

    name: str
    latency: float
    bandwidth: float
    shared_by: int | None = None
    rails: int = 1
    table: Table = ()

    def __post_init__(self) -> None:
        if self.table and (self.latency or self.bandwidth < inf):
            raise ValueError(f"{self.name!r} has a table, which stands for its latency and bandwidth: leave them out")

    @cached_property
    def is_link(self) -> bool:
        """Whether traffic can meet on it: what has no limit is never full."""
        return self.shared_by is not None and (self.bandwidth < inf or bool(self.table))


@dataclass(frozen=True)
class Level:
    """Groups of ``size`` (GPUs inside a node, nodes in the network), and how two members that first meet in one reach each other.

    The sender goes ``up``, the message ``across``, the receiver takes its own ``up`` in reverse; in the network both go
    out of their nodes before. ``path_class`` is NCCL's word for such a path. With ``rails`` a level joins only GPUs on
    the same rail (place in the node modulo rails), and a level of class PXN only those on different ones: the sender hands
    the message to the GPU of its own node that is on the receiver's rail, from where it goes on.
    """

    name: str
    size: float  # inf: all of them
    path_class: str
    up: tuple[Hop, ...]
    across: tuple[Hop, ...]
    rails: int = 1


@dataclass(frozen=True)
class Node:
    """A kind of node: GPUs, levels from the inside out, hops ``out`` to the network; ``ValueError`` where sizes do not divide."""

    name: str
    gpu: Gpu
    n_gpus: int
    levels: tuple[Level, ...]
    out: tuple[Hop, ...]

    def __post_init__(self) -> None:
        check_levels(f"node {self.name!r}", (*self.levels, Level("whole node", self.n_gpus, "LOC", (), ())), "GPUs")
        for hop in (*self.out, *(hop for level in self.levels for hop in (*level.up, *level.across))):
            if hop.shared_by is not None and self.n_gpus % hop.shared_by:
                raise ValueError(f"node {self.name!r}: {hop.name!r}, shared by {hop.shared_by}, does not divide its {self.n_gpus} GPUs")

    @cached_property
    def links(self) -> "dict[str, Family]":
        """Those of one such node."""
        return {hop.name: Family(hop, between, self.n_gpus // (hop.shared_by or 1)) for hop, between in links_of(self.levels, self.out)}


class Family(NamedTuple):
    """The instances 0..n-1 of a hop; each serves a group, or stands ``between`` two ("socket link 0-1")."""

    hop: Hop
    between: bool
    n: int


def links_of(levels: Sequence[Level], out: Sequence[Hop] = ()) -> list[tuple[Hop, bool]]:
    """Hops that are links, and whether they stand between two groups."""
    served = [*out, *(hop for level in levels for hop in level.up)]
    between = [hop for level in levels for hop in level.across]
    return [(hop, False) for hop in served if hop.is_link] + [(hop, True) for hop in between if hop.is_link]


def check_levels(noun: str, levels: Sequence[Level], unit: str) -> None:
    """Refuse levels that do not lie in one another, and links across one that do not stand between what it joins."""
    for i, level in enumerate(levels):
        for inner in levels[:i]:
            if inner.size > level.size or (level.size < inf and level.size % inner.size):
                sizes = f"level {inner.name!r} of {inner.size:g} {unit} does not divide level {level.name!r} of {level.size:g}"
                raise ValueError(f"{noun}: {sizes}")
        joined = max((inner.size for inner in levels[:i] if inner.size < level.size), default=1)
        for hop in level.across:
            if hop.is_link and joined % (hop.shared_by or 1):
                shared = f"{hop.name!r}, shared by {hop.shared_by} {unit},"
                raise ValueError(f"{noun}: {shared} cannot lie across level {level.name!r}: that joins groups of {joined:g}")
