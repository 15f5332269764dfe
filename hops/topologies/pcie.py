"""PCIe server: nodes of 8 PCIe GPUs, no NVLink; two sockets, each with two PCIe switches of two GPUs, and one NIC.

A message crosses the switch, the host bridge, the socket link or the fabric, depending on where the two GPUs first meet.
The four GPUs of a socket share its NIC.
"""

from collections.abc import Sequence
from math import inf

from hops.checks import count
from hops.topologies import GPUS, Cluster, Hop, Level, build, one_of, topology

CARD = {"a100": GPUS["a100"], "h100": GPUS["h100_pcie"]}
PCIE = {
    "a100": Hop("PCIe switch", 5.7e-6, 25.6e9),  # PCIe 4.0 x16, 32 GB/s x 0.8 (SimAI calbusbw.h); NCCL tuning, PCI ring hop, Simple
    "h100": Hop("PCIe switch", 5.7e-6, 54e9),  # PCIe 5.0 x16, measured within a NUMA node (p2pmark); NCCL tuning, PCI ring hop, Simple
}
NIC = {
    "a100": Hop("NIC", 0.0, 23.5e9),  # HDR InfiniBand, ConnectX-6, 200 Gb/s (SimAI calbusbw.h)
    "h100": Hop("NIC", 0.0, 48.5e9),  # NDR InfiniBand, ConnectX-7, 400 Gb/s (SimAI calbusbw.h)
}
# p2p over PCIe takes 4.1 us at best and 6.1 us loaded (p2pmark): a host bridge costs the 0.4 us between NCCL's 5.7 and that
BRIDGE = Hop("host bridge", 0.4e-6, 54e9)  # no narrower than its PCIe link (p2pmark, same NUMA node)
SOCKET = Hop("socket link", 0.0, 39e9)  # 39-51 GB/s measured across sockets (rtx6kpro notes), the low end; latency: in its two bridges
FABRIC = Hop("fabric", 14e-6, inf)  # NCCL tuning, NET ring hop, Simple: device to device, so the PCIe hops below add none


@topology("pcie", source="two-socket PCIe server: NCCL 2.2x tuning.cc and path classes; SimAI calbusbw.h; p2pmark measurements")
def pcie(pp: int, *, gpu: str = "h100", nodes: int | None = None, order: Sequence[int] | None = None) -> Cluster:
    one_of("topology.gpu", gpu, list(CARD))
    switch, leg = PCIE[gpu], Hop("PCIe switch", 0.0, PCIE[gpu].bandwidth)
    half = (leg, Hop("host bridge", 0.0, BRIDGE.bandwidth), NIC[gpu])
    levels = [
        Level("switch", 2, "PIX", (switch,)),
        Level("socket", 4, "PHB", (switch, BRIDGE, leg)),
        Level("node", 8, "SYS", (switch, BRIDGE, SOCKET, BRIDGE, leg)),
        Level("fabric", inf, "NET", (*half, FABRIC, *half[::-1])),
    ]
    n_devices = None if nodes is None else 8 * count("topology.nodes", nodes)
    return build("pcie", CARD[gpu], n_devices, levels, pp, order, per_node=8)
