"""Collectives: what a ring of devices needs to exchange tensors. Ring algorithms as NCCL runs them for large messages.

Source: Patarasuk & Yuan 2009, bandwidth-optimal all-reduce; n - 1 steps of 1/n of the tensor, each a hop of the ring.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf

from hops.cluster import Cluster


@dataclass(frozen=True)
class Ring:
    """``n`` devices; ``latency`` [s] and ``bandwidth`` [bytes/s] of the slowest path between neighbours."""

    n: int = 1
    latency: float = 0.0
    bandwidth: float = inf
    path_class: str = "LOC"  # of the narrowest path

    def gather(self, size: float) -> float:
        """Seconds of an all-gather that makes ``size`` bytes on every device, or of a reduce-scatter of as many."""
        return (self.n - 1) * (self.latency + size / self.n / self.bandwidth)

    def all_reduce(self, size: float) -> float:
        """Seconds of an all-reduce of ``size`` bytes: a reduce-scatter and an all-gather."""
        return 2 * self.gather(size)


ALONE = Ring()


def ring(cluster: Cluster, gpus: Sequence[int]) -> Ring:
    """The ring over ``gpus``, in the order given."""
    if len(gpus) == 1:
        return ALONE
    paths = [cluster.between(a, b) for a, b in pairwise([*gpus, gpus[0]])]
    narrowest = min(paths, key=lambda path: path.bandwidth)
    return Ring(len(gpus), max(path.latency for path in paths), narrowest.bandwidth, narrowest.path_class)
