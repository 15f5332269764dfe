"""Uniform: every pair of devices joined by the same link. For papers, teaching and what-if questions."""

from collections.abc import Sequence
from math import inf

from hops.checks import one_of, positive
from hops.hardware import GPUS
from hops.topologies import Cluster, Hop, Level, build, topology


@topology("uniform", source="the cluster that schedule papers assume")
def uniform(
    n_gpus: int, *, latency: float = 10e-6, bandwidth: float = 50e9, gpu: str = "h100", order: Sequence[int] | None = None
) -> Cluster:
    hop = Hop(
        "link",
        positive("topology.latency", latency, zero=True),
        positive("topology.bandwidth", bandwidth, infinite=True),
    )
    levels = [Level("cluster", inf, "NET", (hop,))]
    return build("uniform", GPUS[one_of("topology.gpu", gpu, list(GPUS))], None, levels, n_gpus, order)
