"""Clusters: nodes of devices, the network that joins them, and what a message crosses between two devices. SI units.

A message climbs from its device to the first level that the two devices have in common, crosses it, and comes down on
the other side. Where traffic can meet on a hop, the hop's instance has a name ("NIC 3 out"): a `Link` of the path.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf, prod
from typing import NamedTuple

from hops.checks import Infeasible


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
    """One thing that a message crosses: latency [s] and bandwidth [bytes/s] of one direction.

    ``shared_by`` neighbours (GPUs inside a node, nodes in the network) use one instance of it; None: its traffic never
    meets. In a network of ``rails`` those nodes have an instance for each rail.
    """

    name: str
    latency: float
    bandwidth: float
    shared_by: int | None = None
    rails: int = 1

    @cached_property
    def is_link(self) -> bool:
        """Whether traffic can meet on it: what has no limit is never full."""
        return self.shared_by is not None and self.bandwidth < inf


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
        _check_levels(f"node {self.name!r}", (*self.levels, Level("whole node", self.n_gpus, "LOC", (), ())), "GPUs")
        for hop in (*self.out, *(hop for level in self.levels for hop in (*level.up, *level.across))):
            if hop.shared_by is not None and self.n_gpus % hop.shared_by:
                raise ValueError(f"node {self.name!r}: {hop.name!r}, shared by {hop.shared_by}, does not divide its {self.n_gpus} GPUs")

    @cached_property
    def links(self) -> "dict[str, Family]":
        """Those of one such node."""
        return {hop.name: Family(hop, between, self.n_gpus // (hop.shared_by or 1)) for hop, between in _links(self.levels, self.out)}


class Family(NamedTuple):
    """The instances 0..n-1 of a hop; each serves a group, or stands ``between`` two ("socket link 0-1")."""

    hop: Hop
    between: bool
    n: int


class Link(NamedTuple):
    """One instance of a hop in one direction; flows whose paths contain the same link share its bandwidth [bytes/s]."""

    name: str
    bandwidth: float


@dataclass(frozen=True)
class Path:
    """How a message travels; the latency is the sum over the hops [s], the bandwidth the narrowest hop [bytes/s]."""

    path_class: str
    hops: tuple[Hop, ...]
    links: tuple[Link, ...] = ()  # those of the hops that other traffic may use as well

    @cached_property
    def latency(self) -> float:
        return sum([hop.latency for hop in self.hops])

    @cached_property
    def bandwidth(self) -> float:
        return min([hop.bandwidth for hop in self.hops], default=inf)

    def __str__(self) -> str:
        hops = " > ".join(hop.name for hop in self.hops) or "same device"
        return f"{self.path_class} ({hops}), {self.latency * 1e6:.5g} us, {self.bandwidth / 1e9:.4g} GB/s"


HERE = Path("LOC", ())

# NCCL's words, nearest first; their places here are noise addresses and must stay
PATH_CLASSES = ("LOC", "NVL", "NVB", "C2C", "PIX", "PXB", "PXN", "PHB", "SYS", "NET")


class Run(NamedTuple):
    """Neighbouring nodes of one kind."""

    kind: Node
    device: int  # the first
    node: int
    first: Mapping[str, int]  # number of the first instance of each of the kind's links, by name


class Place(NamedTuple):
    """Where a device is: in which run, node, place in the node, place in the run."""

    run: Run
    node: int
    gpu: int
    position: int


@dataclass(frozen=True)
class Cluster:
    """Nodes by kind, the levels of the network between them, and the device that each GPU of a job is.

    Devices are numbered node by node, in the order of ``nodes``. ``speeds`` are factors by device, ``bandwidths`` factors by
    the name of a link, which may lack its direction or its number too ("NIC 3", "NIC"). ``ValueError`` where sizes do not divide
    or two different hops have one name.
    """

    name: str
    nodes: tuple[tuple[Node, int], ...]  # kind, how many of them
    network: tuple[Level, ...] = ()
    order: tuple[int, ...] = ()  # device of each GPU of the job
    speeds: Mapping[int, float] = field(default_factory=dict)
    bandwidths: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_levels(self.name, self.network, "nodes")
        for kind in dict.fromkeys(kind for kind, _ in self.nodes):
            inside, outside = _links(kind.levels, kind.out), _links(self.network)
            last = {hop.name: (hop, between) for hop, between in inside + outside}
            twice = [each for each in inside + outside if last[each[0].name] != each] + [each for each in inside if each in outside]
            if twice:
                raise ValueError(f"{self.name}: two hops are named {twice[0][0].name!r}; who shares a link is found by its name")
            for level in self.network:
                if kind.n_gpus % level.rails:
                    raise ValueError(f"{self.name}: {level.rails} rails of level {level.name!r}, but {kind.n_gpus} GPUs in {kind.name!r}")

    @cached_property
    def n_devices(self) -> int:
        return sum(kind.n_gpus * n for kind, n in self.nodes)

    @cached_property
    def links(self) -> dict[str, Family]:
        """All links, by the name of their hop."""
        found: dict[str, Family] = {}
        for kind, n in self.nodes:
            for name, each in kind.links.items():
                found[name] = each._replace(n=n * each.n + (found[name].n if name in found else 0))
        for hop, between in _links(self.network):
            found[hop.name] = Family(hop, between, -(-sum(n for _, n in self.nodes) // (hop.shared_by or 1)) * hop.rails)
        return found

    @property
    def gpu(self) -> Gpu:
        """Type of the job's first GPU."""
        return self.device(0)

    def device(self, gpu: int) -> Gpu:
        """Type of GPU ``gpu`` of the job."""
        return self._place(self.order[gpu]).run.kind.gpu

    def speed(self, gpu: int) -> float:
        """Factor on the speed of GPU ``gpu`` of the job; 1.0: as its type says."""
        return self.speeds.get(self.order[gpu], 1.0)

    def between(self, gpu: int, other: int) -> Path:
        """Path from GPU ``gpu`` of the job to GPU ``other``."""
        return self.path(self.order[gpu], self.order[other])

    def path(self, a: int, b: int) -> Path:
        """Path from device ``a`` to device ``b``; devices that no level joins are an `Infeasible`."""
        if a == b:
            return HERE
        here, there = self._place(a), self._place(b)
        if here.node == there.node:
            for level in here.run.kind.levels:
                if here.gpu // level.size == there.gpu // level.size:
                    return self._path(level, here, there)
        else:
            for level in self.network:
                if here.node // level.size == there.node // level.size:
                    same_rail = here.gpu % level.rails == there.gpu % level.rails
                    if same_rail and level.path_class != "PXN":
                        return self._path(level, here, there)
                    if not same_rail and level.path_class == "PXN":
                        relay = a - here.gpu % level.rails + there.gpu % level.rails
                        first, then = self.path(a, relay), self.path(relay, b)
                        return Path(level.path_class, first.hops + then.hops, first.links + then.links)
        raise Infeasible(f"{self.name}: no path between devices {a} and {b}, as no level joins them")

    def member(self, link: str, number: int) -> int:
        """The first device that instance ``number`` of a link serves."""
        for run, (kind, n) in zip(self._runs, self.nodes, strict=True):
            if link in kind.links:
                hop, _, per_node = kind.links[link]
                index = number - run.first.get(link, 0)
                if 0 <= index < n * per_node:
                    return run.device + index * (hop.shared_by or 1)
            else:
                hop = self.links[link].hop
                node = number // hop.rails * (hop.shared_by or 1) - run.node
                if 0 <= node < n:
                    return run.device + node * kind.n_gpus + number % hop.rails
        raise ValueError(f"{self.name} has no {link} {number}")

    def _path(self, level: Level, here: Place, there: Place) -> Path:
        """Path between two places that first meet at ``level``; the links in the order of their hops."""
        inside = here.node == there.node
        up, links_up = _climb(level, here, inside, "out")
        down, links_down = _climb(level, there, inside, "in")
        between = [(hop, f"{_number(hop, here, inside)}-{_number(hop, there, inside)}") for hop in level.across if hop.is_link]
        links = (*links_up, *(Link(f"{hop.name} {ends}", hop.bandwidth) for hop, ends in between), *links_down[::-1])
        path = Path(level.path_class, (*up, *level.across, *down[::-1]), links)
        return self._scaled(path) if self.bandwidths else path

    def _scaled(self, path: Path) -> Path:
        """The path with the factors of its links."""
        hops, links = list(path.hops), list[Link]()
        for i, hop in enumerate(path.hops):
            if hop.is_link:
                name, bandwidth = path.links[len(links)]
                instance = name.removesuffix(" out").removesuffix(" in")
                factor = prod(self.bandwidths.get(each, 1.0) for each in dict.fromkeys((name, instance, hop.name)))
                if factor != 1.0:
                    hops[i] = replace(hop, bandwidth=bandwidth * factor)
                links.append(Link(name, bandwidth * factor))
        return Path(path.path_class, tuple(hops), tuple(links))

    def _place(self, device: int) -> Place:
        run = self._runs[bisect_right(self._starts, device) - 1]
        index = device - run.device
        return Place(run, run.node + index // run.kind.n_gpus, index % run.kind.n_gpus, index)

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        return tuple(run.device for run in self._runs)

    @cached_property
    def _runs(self) -> tuple[Run, ...]:
        runs, device, node, first = list[Run](), 0, 0, dict[str, int]()
        for kind, n in self.nodes:
            runs.append(Run(kind, device, node, first))
            device, node = device + n * kind.n_gpus, node + n
            first = first | {name: first.get(name, 0) + n * each.n for name, each in kind.links.items()}
        return tuple(runs)


def _climb(level: Level, at: Place, inside: bool, direction: str) -> tuple[tuple[Hop, ...], list[Link]]:
    """Hops from a device up to a level, and those of them that are links."""
    out = () if inside else at.run.kind.out
    links = [Link(f"{hop.name} {_number(hop, at, True)} {direction}", hop.bandwidth) for hop in out if hop.is_link]
    links += [Link(f"{hop.name} {_number(hop, at, inside)} {direction}", hop.bandwidth) for hop in level.up if hop.is_link]
    return (*out, *level.up), links


def _number(hop: Hop, at: Place, inside: bool) -> int:
    """Which instance of a hop serves a place: they count on from kind to kind, from node to node, from rail to rail."""
    if inside:
        return at.run.first.get(hop.name, 0) + at.position // (hop.shared_by or 1)
    return at.node // (hop.shared_by or 1) * hop.rails + at.gpu % hop.rails


def _links(levels: Sequence[Level], out: Sequence[Hop] = ()) -> list[tuple[Hop, bool]]:
    """Hops that are links, and whether they stand between two groups."""
    served = [*out, *(hop for level in levels for hop in level.up)]
    between = [hop for level in levels for hop in level.across]
    return [(hop, False) for hop in served if hop.is_link] + [(hop, True) for hop in between if hop.is_link]


def _check_levels(noun: str, levels: Sequence[Level], unit: str) -> None:
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
