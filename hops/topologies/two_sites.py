"""Two sites of DGX nodes with a WAN between them: half of the job here, half of it there.

``nodes_per_site=null``: as many as half of the job needs, and GPU i is at the second site where i is in the second half; with a
number the first site is filled first. ``wan_latency`` is one way, from device to device; ``wan_bandwidth`` is what all traffic of
one direction has together ("WAN 0-1"). Its default is the upper end of what two machines got (0.53 to 1.41 GB/s): a site that
leases more says so.
"""

from hops.checks import count, one_of, positive
from hops.hardware import DGX, FABRIC, dgx_node
from hops.topologies import Cluster, Hop, Level, topology


@topology("two_sites", source="GCP us-central1 to us-west1: bandwidth from Sailor, round trip of 35 ms from memory; nodes as in dgx")
def two_sites(
    n_devices: int,
    *,
    gpu: str = "h100",
    nodes_per_site: int | None = None,
    wan_latency: float = 17.5e-3,  # half a round trip of 35 ms (from memory)
    wan_bandwidth: float = 1.41e9,  # 0.53 to 1.41 GB/s (Sailor, multizone_bandwidths_het.json)
) -> Cluster:
    node, here = dgx_node(one_of("topology.gpu", gpu, DGX)), -(-n_devices // 2)
    per_site = -(-here // 8) if nodes_per_site is None else count("topology.nodes_per_site", nodes_per_site)
    latency, bandwidth = positive("topology.wan_latency", wan_latency, zero=True), positive("topology.wan_bandwidth", wan_bandwidth)
    network = (
        Level("site", per_site, "NET", (), (FABRIC,)),
        Level("WAN", 2 * per_site, "NET", (), (Hop("WAN", latency, bandwidth, per_site),)),
    )
    halves = tuple(i if i < here else 8 * per_site + i - here for i in range(n_devices))
    return Cluster("two_sites", ((node, 2 * per_site),), network, halves if nodes_per_site is None else ())
