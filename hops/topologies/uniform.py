"""Uniform: every pair of devices joined by the same link. For papers, teaching and what-if questions."""

from math import inf

from hops.checks import one_of, positive
from hops.hardware import GPUS
from hops.topologies import Cluster, Hop, Level, Node, topology


@topology("uniform", source="the cluster that schedule papers assume")
def uniform(n_devices: int, *, latency: float = 10e-6, bandwidth: float = 50e9, gpu: str = "h100") -> Cluster:
    hop = Hop(
        "link",
        positive("topology.latency", latency, zero=True),
        positive("topology.bandwidth", bandwidth, infinite=True),
        shared_by=1,  # between two devices: every pair has its own
    )
    node = Node("device", GPUS[one_of("topology.gpu", gpu, list(GPUS))], 1, (), ())
    return Cluster("uniform", ((node, n_devices),), (Level("cluster", inf, "NET", (), (hop,)),))
