"""PCIe server: nodes of 8 PCIe GPUs, no NVLink; two sockets, each with two PCIe switches of two GPUs, and one NIC.

A message crosses the switch, the host bridge, the socket link or the fabric, depending on where the two GPUs first
meet. The four GPUs of a socket share its NIC. The GPUs are the PCIe cards, slower than the SXM modules of a DGX.
"""

from collections.abc import Sequence
from math import inf

from hops.checks import count, one_of
from hops.hardware import BRIDGE_LATENCY, FABRIC, GPUS, NIC, PCIE, PCIE_HOP, SOCKET_LINK
from hops.topologies import Cluster, Hop, Level, build, topology


@topology("pcie", source="NCCL's path classes and tuning; two-socket servers as measured by p2pmark; values: hops/hardware.py")
def pcie(n_gpus: int, *, gpu: str = "h100", nodes: int | None = None, order: Sequence[int] | None = None) -> Cluster:
    one_of("topology.gpu", gpu, list(SOCKET_LINK))
    switch, lane = Hop("PCIe switch", PCIE_HOP, PCIE[gpu]), Hop("PCIe switch", 0.0, PCIE[gpu])
    bridge = Hop("host bridge", BRIDGE_LATENCY, PCIE[gpu])
    out = (lane, Hop("host bridge", 0.0, PCIE[gpu]), NIC[gpu])
    levels = [
        Level("switch", 2, "PIX", (switch,)),
        Level("socket", 4, "PHB", (switch, bridge, lane)),
        Level("node", 8, "SYS", (switch, bridge, SOCKET_LINK[gpu], bridge, lane)),
        Level("fabric", inf, "NET", (*out, FABRIC, *out[::-1])),
    ]
    n_devices = None if nodes is None else 8 * count("topology.nodes", nodes)
    return build("pcie", GPUS[f"{gpu}_pcie"], n_devices, levels, n_gpus, order, per_node=8)
