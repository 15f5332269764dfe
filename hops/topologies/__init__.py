"""The door of topologies: one file here is a complete contribution.

A topology is a function ``(pp, *, order=None, ...) -> Cluster`` under the `topology` decorator; its keywords are the
keys of the config group, with their defaults. Every number has its source on its line, here or in ``hops/hardware.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hops.cluster import Cluster, Hop, Level, build
from hops.registry import Registry, keywords, open_door

__all__ = ["TOPOLOGIES", "Cluster", "Hop", "Level", "Topology", "build", "topology"]


@dataclass(frozen=True)
class Topology:
    """One topology: how to build it for ``pp`` ranks, and where its numbers come from."""

    name: str
    build: Callable[..., Cluster]
    source: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Keys of the config group with their defaults."""
        return keywords(self.build)


TOPOLOGIES: Registry[Topology] = Registry("topology")


def topology(name: str, *, source: str) -> Callable[[Callable[..., Cluster]], Callable[..., Cluster]]:
    """Register the decorated builder under ``name``."""

    def register(make: Callable[..., Cluster]) -> Callable[..., Cluster]:
        TOPOLOGIES.add(name, Topology(name, make, source))
        return make

    return register


open_door(__name__, __path__)
