"""Messages between stages: which links each crosses, and how long it takes alone.

All GPUs of a rank send at the same time, and so do replicas that go in lock-step.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from hops.cluster import PATH_CLASSES, Cluster, Link, Path
from hops.layout import Layout

CONTENTION = ("none", "planned", "fifo", "fair")


class Message(NamedTuple):
    """What a stage hands to a neighbour, forward or backward."""

    stage: int
    backward: bool
    ranks: tuple[int, int]  # from, to
    paths: tuple[Path, ...]  # of every GPU of the rank, in all replicas of the lane
    links: Counter[Link]  # how many of them cross it

    @property
    def latency(self) -> float:
        """Of the longest path [s]."""
        return max(path.latency for path in self.paths)

    @property
    def path_class(self) -> int:
        """Of the farthest path, index into `PATH_CLASSES`."""
        return max(PATH_CLASSES.index(path.path_class) for path in self.paths)

    def seconds(self, size: float) -> float:
        """Time on the wire for ``size`` bytes a GPU; GPUs that cross one link share it evenly."""
        narrowest = min(path.bandwidth for path in self.paths)
        return max([size / narrowest, *(n * size / link.bandwidth for link, n in self.links.items())])


def messages(cluster: Cluster, layout: Layout, stage_ranks: Sequence[int], replicas: Sequence[int]) -> list[Message]:
    """All messages from rank to rank of replicas that go in lock-step, in the order of stages; forward first."""
    found = []
    for stage, here in enumerate(stage_ranks):
        for backward, neighbour in ((False, stage + 1), (True, stage - 1)):
            if 0 <= neighbour < len(stage_ranks) and stage_ranks[neighbour] != here:
                ends = [(layout.gpus(here, replica), layout.gpus(stage_ranks[neighbour], replica)) for replica in replicas]
                paths = tuple(cluster.between(a, b) for each in ends for a, b in zip(*each, strict=True))
                found.append(
                    Message(stage, backward, (here, stage_ranks[neighbour]), paths, Counter(link for path in paths for link in path.links))
                )
    return found


def shared(sent: Sequence[Sequence[Message]]) -> set[Link]:
    """Links on which messages of lanes can meet: those from one rank to another follow each other anyway."""
    users = {(link, lane, message.ranks) for lane, each in enumerate(sent) for message in each for link in message.links}
    uses = Counter(link for link, *_ in users)
    return {link for link, n in uses.items() if n > 1}
