"""The door of topologies: one file here is a complete contribution.

A topology is a function ``(n_devices, *, ...) -> Cluster`` under the `topology` decorator: a cluster of at least so many
devices, where its parameters allow. Its keywords are the keys of the config group, with their defaults; ``order`` and
``overrides`` every topology has. Every number has its source on its line, here or in ``hops/hardware.py``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hops.checks import Infeasible, count, one_of
from hops.cluster import Cluster
from hops.nodes import Hop, Level, Node
from hops.overrides import OVERRIDES, with_overrides
from hops.registry import Registry, keywords, open_door

__all__ = ["TOPOLOGIES", "Cluster", "Hop", "Level", "Node", "Topology", "n_nodes", "node_runs", "topology"]


@dataclass(frozen=True)
class Topology:
    """One topology: how to make a cluster of at least so many devices, and where its numbers come from."""

    name: str
    make: Callable[..., Cluster]
    source: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Keys of the config group with their defaults."""
        return {**keywords(self.make), "order": None, "overrides": OVERRIDES}

    def build(self, n_gpus: int, *, order: Any = None, overrides: Any = None, **parameters: Any) -> Cluster:
        """Make the cluster for a job of ``n_gpus``.

        ``order`` gives the device of each GPU of the job (default: as the topology places them, or GPU i on device i). Raises
        ``ValueError`` for what cannot be meant and `Infeasible` for a cluster that is too small.
        """
        devices = None if order is None else _devices(order, n_gpus)
        needed = n_gpus if devices is None else max(devices) + 1
        cluster = self.make(needed, **parameters)
        if cluster.n_devices < needed:
            raise Infeasible(f"{self.name} has {cluster.n_devices} devices; the job needs {needed} (try fewer GPUs, or a larger cluster)")
        return with_overrides(replace(cluster, order=devices or cluster.order or tuple(range(n_gpus))), overrides)


def _devices(order: Any, n_gpus: int) -> tuple[int, ...]:
    if not isinstance(order, (list, tuple)):
        raise ValueError(f"topology.order must be a list of device numbers, one a GPU; got {order!r}")
    devices = tuple(count("topology.order: a device", device, least=0) for device in order)
    if len(set(devices)) < len(devices):
        raise ValueError(f"topology.order gives one device to two GPUs: {list(devices)}")
    if len(devices) != n_gpus:
        raise Infeasible(f"topology.order must name one device a GPU; got {len(devices)} devices for {n_gpus} GPUs")
    return devices


TOPOLOGIES: Registry[Topology] = Registry("topology")


def topology(name: str, *, source: str) -> Callable[[Callable[..., Cluster]], Callable[..., Cluster]]:
    """Register the decorated builder under ``name``."""

    def register(make: Callable[..., Cluster]) -> Callable[..., Cluster]:
        TOPOLOGIES.add(name, Topology(name, make, source))
        return make

    return register


def n_nodes(n_devices: int, per_node: int, nodes: Any, key: str = "topology.nodes") -> int:
    """``nodes`` where given, else as many as ``n_devices`` need."""
    return -(-n_devices // per_node) if nodes is None else count(key, nodes)


def node_runs(n_devices: int, nodes: Any, kinds: Mapping[str, Node]) -> tuple[tuple[Node, int], ...]:
    """Nodes by kind from ``topology.nodes``, pairs of a kind and how many of it; null, once: as many as ``n_devices`` need."""
    pairs = nodes if isinstance(nodes, (list, tuple)) else ()
    if not pairs or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise ValueError(f"topology.nodes must list pairs of a kind and how many nodes of it, such as [[h100,2],[a100,2]]; got {nodes!r}")
    if sum(n is None for _, n in pairs) > 1:
        raise ValueError(f"topology.nodes may leave the number of one kind open (null), not of several; got {nodes!r}")
    found = [
        (kinds[one_of("kind of topology.nodes", kind, list(kinds))], n if n is None else count("topology.nodes", n)) for kind, n in pairs
    ]
    rest = n_devices - sum(kind.n_gpus * n for kind, n in found if n is not None)
    filled = [(kind, max(0, n_nodes(rest, kind.n_gpus, None)) if n is None else n) for kind, n in found]
    return tuple((kind, n) for kind, n in filled if n)


open_door(__name__, __path__)
