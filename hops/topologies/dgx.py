"""DGX: nodes of 8 GPUs behind NVSwitch, two sockets of 4 GPUs, one NIC a GPU.

Inside a node a message crosses NVSwitch whatever the socket; between nodes it leaves by its own GPU's NIC.
"""

from collections.abc import Sequence
from math import inf

from hops.checks import count, one_of
from hops.hardware import FABRIC, GPUS, NIC, NVSWITCH, PCIE
from hops.topologies import Cluster, Hop, Level, build, topology


@topology("dgx", source="NVIDIA DGX H100 user guide, table 6 (CPU 0 owns GPUs 0-3, CPU 1 GPUs 4-7); values: hops/hardware.py")
def dgx(n_gpus: int, *, gpu: str = "h100", nodes: int | None = None, order: Sequence[int] | None = None) -> Cluster:
    one_of("topology.gpu", gpu, list(NVSWITCH))
    within, lane = (NVSWITCH[gpu],), Hop("PCIe switch", 0.0, PCIE[gpu])
    levels = [
        Level("socket", 4, "NVL", within),
        Level("node", 8, "NVL", within),
        Level("fabric", inf, "NET", (lane, NIC[gpu], FABRIC, NIC[gpu], lane)),
    ]
    n_devices = None if nodes is None else 8 * count("topology.nodes", nodes)
    return build("dgx", GPUS[gpu], n_devices, levels, n_gpus, order, per_node=8)
