"""PCIe server: nodes of 8 PCIe GPUs, no NVLink; two sockets, each with two PCIe switches of two GPUs, and one NIC.

A message crosses the switch, the host bridge, the socket link or the fabric, depending on where the two GPUs first
meet. The four GPUs of a socket share its NIC. The GPUs are the PCIe cards, slower than the SXM modules of a DGX.
"""

from math import inf

from hops.checks import one_of
from hops.hardware import FABRIC, SOCKET_LINK, pcie_node
from hops.topologies import Cluster, Level, n_nodes, topology


@topology("pcie", source="NCCL's path classes and tuning; two-socket servers as measured by p2pmark; values: hops/hardware.py")
def pcie(n_devices: int, *, gpu: str = "h100", nodes: int | None = None) -> Cluster:
    node = pcie_node(one_of("topology.gpu", gpu, list(SOCKET_LINK)))
    return Cluster("pcie", ((node, n_nodes(n_devices, 8, nodes)),), (Level("fabric", inf, "NET", (), (FABRIC,)),))
