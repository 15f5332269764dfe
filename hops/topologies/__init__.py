"""The door of topologies: one file here is a complete contribution.

A topology is a function ``(pp, *, order=None, ...) -> Cluster`` under the `topology` decorator; its keywords are the
keys of the config group, with their defaults. Every number has its source on its line.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hops.checks import one_of, positive
from hops.cluster import GPUS, Cluster, Hop, Level, build
from hops.registry import Registry, keywords, open_door, summary

__all__ = ["GPUS", "TOPOLOGIES", "Cluster", "Hop", "Level", "Topology", "build", "one_of", "positive", "topology"]


@dataclass(frozen=True)
class Topology:
    """One topology: how to build it for ``pp`` ranks, and in a line what it is."""

    name: str
    build: Callable[..., Cluster]
    source: str
    summary: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Keys of the config group with their defaults."""
        return keywords(self.build)


TOPOLOGIES: Registry[Topology] = Registry("topology")


def topology(name: str, *, source: str) -> Callable[[Callable[..., Cluster]], Callable[..., Cluster]]:
    """Register the decorated builder under ``name``."""

    def register(make: Callable[..., Cluster]) -> Callable[..., Cluster]:
        TOPOLOGIES.add(name, Topology(name, make, source, summary(make)))
        return make

    return register


open_door(__name__, __path__)
