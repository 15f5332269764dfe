"""Messages between stages: which links each crosses, and how long it takes alone.

All GPUs of a rank send at the same time, and so do replicas that go in lock-step.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from hops.cluster import Cluster
from hops.layout import Layout
from hops.paths import PATH_CLASSES, Link, Path, Route, unique_routes

CONTENTION = ("none", "planned", "fifo", "fair")


@dataclass(frozen=True)
class Bundle:
    """What all GPUs of a rank send to those of another at a time."""

    paths: tuple[Path, ...]  # of every GPU of the rank, in all replicas of the lane

    @cached_property
    def links(self) -> Counter[Link]:
        """How many of the paths cross each."""
        return Counter(link for path in self.paths for link in path.links)

    @cached_property
    def crowded(self) -> list[tuple[Link, int]]:
        """Links that more than one path crosses, and how many do, of those hops where this makes a difference."""
        found = Counter(link for path in self.paths if path.route.crowded for link in path.links_on(path.route.crowded))
        return [(link, n) for link, n in found.items() if n > 1]

    @cached_property
    def routes(self) -> list[Route]:
        return unique_routes(self.paths)


@dataclass(frozen=True)
class Message:
    """What a stage hands to a neighbour, forward or backward."""

    stage: int
    backward: bool
    ranks: tuple[int, int]  # from, to
    bundle: Bundle

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.bundle.paths

    @property
    def links(self) -> Counter[Link]:
        """How many of the paths cross each."""
        return self.bundle.links

    @property
    def latency(self) -> float:
        """Of the longest path [s]."""
        return max(route.latency for route in self.bundle.routes)

    @property
    def path_class(self) -> int:
        """Of the farthest path, index into `PATH_CLASSES`."""
        return max(PATH_CLASSES.index(route.path_class) for route in self.bundle.routes)

    def seconds(self, size: float) -> float:
        """Time on the wire for ``size`` bytes a GPU; GPUs that cross one link share it evenly."""
        alone = [route.seconds(size) for route in self.bundle.routes]
        return max([*alone, *(link.seconds(n * size) for link, n in self.bundle.crowded)])

    def rate(self, size: float) -> float:
        """Bytes a second on its fullest link, for ``size`` bytes a GPU: all of them take the time of the slowest."""
        size = size if any(route.tables for route in self.bundle.routes) else 1.0
        return max(self.links.values()) * size / self.seconds(size) if self.links else 1.0


def messages(cluster: Cluster, layout: Layout, stage_ranks: Sequence[int], replicas: Sequence[int]) -> list[Message]:
    """All messages from rank to rank of replicas that go in lock-step, in the order of stages; forward first."""
    gpus = {rank: [gpu for replica in replicas for gpu in layout.gpus(rank, replica)] for rank in stage_ranks}
    bundles: dict[tuple[int, int], Bundle] = {}
    found = []
    for stage, here in enumerate(stage_ranks):
        for backward, neighbour in ((False, stage + 1), (True, stage - 1)):
            if 0 <= neighbour < len(stage_ranks) and stage_ranks[neighbour] != here:
                ends = here, stage_ranks[neighbour]
                if ends not in bundles:
                    bundles[ends] = Bundle(tuple(cluster.between(a, b) for a, b in zip(gpus[ends[0]], gpus[ends[1]], strict=True)))
                found.append(Message(stage, backward, ends, bundles[ends]))
    return found


def shared(sent: Sequence[Sequence[Message]]) -> set[Link]:
    """Links on which messages of lanes can meet: those from one rank to another follow each other anyway."""
    users = {(link, lane, message.ranks) for lane, each in enumerate(sent) for message in each for link in message.links}
    uses = Counter(link for link, *_ in users)
    return {link for link, n in uses.items() if n > 1}
