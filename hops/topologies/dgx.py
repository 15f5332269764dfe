"""DGX: nodes of 8 GPUs behind NVSwitch, two sockets of 4 GPUs, one NIC a GPU.

Inside a node a message crosses NVSwitch whatever the socket; between nodes it leaves by its own GPU's NIC.
"""

from collections.abc import Sequence
from math import inf

from hops.checks import count
from hops.topologies import GPUS, Cluster, Hop, Level, build, one_of, topology

NVLINK = {
    "a100": Hop("NVSwitch", 3.4e-6, 229e9),  # NVLink3: busbw of 8 A100 at 1 GiB (vTrain's table); NCCL tuning, NVLINK ring hop, Simple
    "h100": Hop("NVSwitch", 3.4e-6, 371e9),  # NVLink4: 18 x 20.6 GB/s (NCCL topo.h); NCCL tuning, NVLINK ring hop, Simple
}
PCIE = {
    "a100": Hop("PCIe switch", 0.0, 25.6e9),  # PCIe 4.0 x16, 32 GB/s x 0.8 (SimAI calbusbw.h); latency is part of NCCL's NET hop
    "h100": Hop("PCIe switch", 0.0, 54e9),  # PCIe 5.0 x16, measured within a NUMA node (p2pmark); latency is part of NCCL's NET hop
}
NIC = {
    "a100": Hop("NIC", 0.0, 23.5e9),  # HDR InfiniBand, ConnectX-6, 200 Gb/s (SimAI calbusbw.h)
    "h100": Hop("NIC", 0.0, 48.5e9),  # NDR InfiniBand, ConnectX-7, 400 Gb/s (SimAI calbusbw.h)
}
FABRIC = Hop("fabric", 14e-6, inf)  # NCCL tuning, NET ring hop, Simple: device to device; the NICs are the narrow part


@topology("dgx", source="NVIDIA DGX H100 user guide, table 6 (CPU 0 owns GPUs 0-3, CPU 1 GPUs 4-7); NCCL 2.2x tuning.cc, topo.h")
def dgx(pp: int, *, gpu: str = "h100", nodes: int | None = None, order: Sequence[int] | None = None) -> Cluster:
    one_of("topology.gpu", gpu, list(NVLINK))
    within, out = (NVLINK[gpu],), (PCIE[gpu], NIC[gpu], FABRIC, NIC[gpu], PCIE[gpu])
    levels = [
        Level("socket", 4, "NVL", within),
        Level("node", 8, "NVL", within),
        Level("fabric", inf, "NET", out),
    ]
    n_devices = None if nodes is None else 8 * count("topology.nodes", nodes)
    return build("dgx", GPUS[gpu], n_devices, levels, pp, order, per_node=8)
