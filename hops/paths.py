"""Paths: what a message crosses between two devices, and the names of the links that it may share with others.

Which hops these are depends on the kinds of the two nodes and the level at which they first meet: a `Route`, the same for
thousands of paths. Which instances of the hops only the two places say; most questions do not ask for them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf, prod
from typing import NamedTuple

from hops.nodes import Hop, Level, Node
from hops.tables import Table, faster, narrowest, wire_seconds

# NCCL's words, nearest first; their places here are noise addresses and must stay
PATH_CLASSES = ("LOC", "NVL", "NVB", "C2C", "PIX", "PXB", "PXN", "PHB", "SYS", "NET")


class Run(NamedTuple):
    """Neighbouring nodes of one kind."""

    number: int
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


class Link(NamedTuple):
    """One instance of a hop in one direction; flows whose paths contain the same link share its bandwidth [bytes/s] or table."""

    hop: str
    instance: str  # "3 out", "0-1"
    bandwidth: float
    table: Table = ()

    @property
    def name(self) -> str:
        return f"{self.hop} {self.instance}"

    def seconds(self, size: float) -> float:
        """Time of ``size`` bytes, of one message or several."""
        return wire_seconds(size, self.bandwidth, (self.table,) if self.table else ())

    def rate(self, size: float) -> float:
        """Bytes a second that one message of ``size`` bytes gets."""
        return size / self.seconds(size) if self.table else self.bandwidth

    def scaled(self, factors: Mapping[str, float]) -> "Link":
        """With the factors that name it, its hop, or both of its directions."""
        both = self.name.removesuffix(" out").removesuffix(" in")
        factor = prod(factors.get(each, 1.0) for each in dict.fromkeys((self.name, both, self.hop)))
        return self if factor == 1.0 else self._replace(bandwidth=self.bandwidth * factor, table=faster(self.table, factor))


@dataclass(frozen=True)
class Route:
    """What paths have in common; the latency is the sum over the hops [s], the bandwidth the narrowest without a table [bytes/s]."""

    path_class: str
    hops: tuple[Hop, ...]
    crowded: tuple[Hop, ...] = ()  # which paths from different devices to different ones may have in common

    @cached_property
    def latency(self) -> float:
        return sum([hop.latency for hop in self.hops])

    @cached_property
    def bandwidth(self) -> float:
        return min([hop.bandwidth for hop in self.hops], default=inf)

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        return tuple(dict.fromkeys(hop.table for hop in self.hops if hop.table))

    @cached_property
    def rate(self) -> float:
        """Bandwidth that long messages get [bytes/s]."""
        return narrowest(self.bandwidth, self.tables)

    def seconds(self, size: float) -> float:
        """Time on the wire of ``size`` bytes, which the latency comes on top of."""
        return wire_seconds(size, self.bandwidth, self.tables)


class Leg(NamedTuple):
    """A level, and the two places that first meet there."""

    level: Level
    here: Place
    there: Place

    @property
    def inside(self) -> bool:
        """A node."""
        return self.here.node == self.there.node


@dataclass(frozen=True)
class Path:
    """How a message travels between two devices."""

    route: Route
    legs: tuple[Leg, ...] = ()
    factors: Mapping[str, float] = field(default_factory=dict)  # on the bandwidth of links: see `scaled`

    @property
    def path_class(self) -> str:
        return self.route.path_class

    @property
    def hops(self) -> tuple[Hop, ...]:
        return self.route.hops

    @property
    def latency(self) -> float:
        """[s], without the time on hops that have a table."""
        return self.route.latency

    @property
    def bandwidth(self) -> float:
        """Of the narrowest hop without a table [bytes/s]."""
        return self.route.bandwidth

    def seconds(self, size: float) -> float:
        """Time on the wire of ``size`` bytes, which the latency comes on top of."""
        return self.route.seconds(size)

    @cached_property
    def links(self) -> tuple[Link, ...]:
        """Those of the hops that other traffic may use as well, in the order of the hops."""
        return self.links_on(self.hops)

    def links_on(self, hops: Collection[Hop]) -> tuple[Link, ...]:
        """Those that are instances of ``hops``."""
        names = {hop.name for hop in hops}
        links = (link for leg in self.legs for link in _links_of(leg, names))
        return tuple(link.scaled(self.factors) for link in links) if self.factors else tuple(links)

    def __str__(self) -> str:
        hops = " > ".join(hop.name for hop in self.hops) or "same device"
        return f"{self.path_class} ({hops}), {self.latency * 1e6:.5g} us, {self.route.rate / 1e9:.4g} GB/s"


HERE = Path(Route("LOC", ()))


def unique_routes(paths: Iterable[Path]) -> list[Route]:
    """Routes of the paths, each once, in their order."""
    return list({id(path.route): path.route for path in paths}.values())


def scaled(path: Path, factors: Mapping[str, float]) -> Path:
    """The path with factors on the bandwidth of its links, by their names, those of their hops, or of both their directions."""
    links = iter(Path(path.route, path.legs, factors).links)
    hops = [replace(hop, bandwidth=link.bandwidth, table=link.table) if hop.is_link and (link := next(links)) else hop for hop in path.hops]
    return Path(replace(path.route, hops=tuple(hops)), path.legs, factors)


def route(leg: Leg) -> Route:
    """What a path has in common with those between such nodes that meet at the same level."""
    level, here, there = leg
    out, into = ((), ()) if leg.inside else (here.run.kind.out, there.run.kind.out)
    met = (*level.up, *level.across)
    crowded = [hop for hop in (*out, *into) if hop.shared_by != 1] + [hop for hop in met if not leg.inside or hop.shared_by != 1]
    hops = (*out, *met, *level.up[::-1], *into[::-1])
    return Route(level.path_class, hops, tuple(hop for hop in crowded if hop.is_link))


def _links_of(leg: Leg, names: Collection[str]) -> Iterator[Link]:
    level, here, there = leg
    inside = leg.inside
    yield from _climb(leg, here, names, "out")
    for hop in level.across:
        if hop.name in names and hop.is_link:
            yield Link(hop.name, f"{_number(hop, here, inside)}-{_number(hop, there, inside)}", hop.bandwidth, hop.table)
    yield from _climb(leg, there, names, "in")[::-1]


def _climb(leg: Leg, at: Place, names: Collection[str], direction: str) -> list[Link]:
    """Links from a device up to a level."""
    inside = leg.inside
    hops = [] if inside else [(hop, True) for hop in at.run.kind.out]
    hops += [(hop, inside) for hop in leg.level.up]
    return [
        Link(hop.name, f"{_number(hop, at, within)} {direction}", hop.bandwidth, hop.table)
        for hop, within in hops
        if hop.name in names and hop.is_link
    ]


def _number(hop: Hop, at: Place, inside: bool) -> int:
    """Which instance of a hop serves a place: they count on from kind to kind, from node to node, from rail to rail."""
    if inside:
        return at.run.first.get(hop.name, 0) + at.position // (hop.shared_by or 1)
    return at.node // (hop.shared_by or 1) * hop.rails + at.gpu % hop.rails
