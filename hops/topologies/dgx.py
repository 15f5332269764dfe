"""DGX: nodes of 8 GPUs behind NVSwitch, two sockets of 4 GPUs, one NIC a GPU.

Inside a node a message crosses NVSwitch whatever the socket; between nodes it leaves by its own GPU's NIC.
"""

from math import inf

from hops.checks import one_of
from hops.hardware import DGX, FABRIC, dgx_node
from hops.topologies import Cluster, Level, n_nodes, topology


@topology("dgx", source="NVIDIA DGX H100 user guide, table 6 (CPU 0 owns GPUs 0-3, CPU 1 GPUs 4-7); values: hops/hardware.py")
def dgx(n_devices: int, *, gpu: str = "h100", nodes: int | None = None) -> Cluster:
    node = dgx_node(one_of("topology.gpu", gpu, DGX))
    return Cluster("dgx", ((node, n_nodes(n_devices, 8, nodes)),), (Level("fabric", inf, "NET", (), (FABRIC,)),))
