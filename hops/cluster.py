"""Clusters: nodes by kind, the network between them, and the path of a message from any device to any other. SI units.

A message climbs from its device to the first level that the two devices have in common, crosses it, and comes down on
the other side. Where traffic can meet on a hop, the hop's instance has a name ("NIC 3 out"): a `Link` of the path.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from hops.checks import Infeasible
from hops.nodes import Family, Gpu, Level, Node, check_levels, links_of
from hops.paths import HERE, Leg, Path, Place, Route, Run, route, scaled


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
        check_levels(self.name, self.network, "nodes")
        for kind in dict.fromkeys(kind for kind, _ in self.nodes):
            inside, outside = links_of(kind.levels, kind.out), links_of(self.network)
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
        for hop, between in links_of(self.network):
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

    def node(self, device: int) -> int:
        """Number of the node that ``device`` is in."""
        return self._place(device).node

    def job_nodes(self, n_gpus: int) -> dict[int, int]:
        """Nodes of a job of so many GPUs, in order, each with its place in the job: the number that failures know it by."""
        return {node: i for i, node in enumerate(sorted({self.node(device) for device in self.order[:n_gpus]}))}

    def between(self, gpu: int, other: int) -> Path:
        """Path from GPU ``gpu`` of the job to GPU ``other``."""
        return self.path(self.order[gpu], self.order[other])

    def path(self, a: int, b: int) -> Path:
        """Path from device ``a`` to device ``b``; devices that no level joins are an `Infeasible`."""
        if a == b:
            return HERE
        here, there = self._place(a), self._place(b)
        if here.node == there.node:
            for i, level in enumerate(here.run.kind.levels):
                if here.gpu // level.size == there.gpu // level.size:
                    return self._path(i, Leg(level, here, there))
        else:
            for i, level in enumerate(self.network, start=len(here.run.kind.levels)):
                if here.node // level.size == there.node // level.size:
                    same_rail = here.gpu % level.rails == there.gpu % level.rails
                    if same_rail and level.path_class != "PXN":
                        return self._path(i, Leg(level, here, there))
                    if not same_rail and level.path_class == "PXN":
                        relay = a - here.gpu % level.rails + there.gpu % level.rails
                        first, then = self.path(a, relay), self.path(relay, b)
                        hops = first.hops + then.hops
                        names = frozenset(hop.name for hop in hops)
                        return Path(Route(level.path_class, hops, names), first.legs + then.legs, self.bandwidths)
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

    def _path(self, i: int, leg: Leg) -> Path:
        """Path between two places that first meet at level ``i`` of the sender's, those of the network after those of its node."""
        key = i, leg.here.run.number, leg.there.run.number
        if key not in self._routes:
            self._routes[key] = route(leg)
        path = Path(self._routes[key], (leg,))
        return scaled(path, self.bandwidths) if self.bandwidths else path

    def _place(self, device: int) -> Place:
        run = self._runs[bisect_right(self._starts, device) - 1]
        index = device - run.device
        return Place(run, run.node + index // run.kind.n_gpus, index % run.kind.n_gpus, index)

    @cached_property
    def _routes(self) -> dict[tuple[int, int, int], Route]:
        """Those that have been asked for, by level and runs."""
        return {}

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        return tuple(run.device for run in self._runs)

    @cached_property
    def _runs(self) -> tuple[Run, ...]:
        runs, device, node, first = list[Run](), 0, 0, dict[str, int]()
        for kind, n in self.nodes:
            runs.append(Run(len(runs), kind, device, node, first))
            device, node = device + n * kind.n_gpus, node + n
            first = first | {name: first.get(name, 0) + n * each.n for name, each in kind.links.items()}
        return tuple(runs)
