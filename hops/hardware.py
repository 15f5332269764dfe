"""Hardware values, each with its source on its line: device types, links by the generation of their device, nodes made of them."""

from math import inf

from hops.nodes import Gpu, Hop, Level, Node

GPUS = {
    gpu.name: gpu
    for gpu in (
        # BF16 without sparsity, memory, its bandwidth, link to the host, FP8 without sparsity
        Gpu("a100", 312e12, 80e9, 2039e9, 25.6e9),  # NVIDIA A100 data sheet, SXM 80 GB; host: PCIe 4.0 x16, 32 GB/s x 0.8
        Gpu("a100_pcie", 312e12, 80e9, 1935e9, 25.6e9),  # NVIDIA A100 data sheet, PCIe 80 GB
        Gpu("h100", 989e12, 80e9, 3350e9, 54e9, 1979e12),  # NVIDIA H100 data sheet, SXM5: sparse figures halved; host: PCIe 5.0 x16
        Gpu("b200", 2250e12, 180e9, 7700e9, 54e9, 4500e12),  # NVIDIA B200: sparse figures halved; 180 GB, 7.7 TB/s (verda.com)
        Gpu("gb200", 2250e12, 186e9, 8000e9, 450e9, 4500e12),  # verda.com; 186 GB: NVL72 sheet; NVLink-C2C 900 GB/s in both directions
        Gpu("h200", 989e12, 141e9, 4800e9, 54e9, 1979e12),  # NVIDIA H200 data sheet, SXM: an H100 with more memory
        Gpu("gb300", 2500e12, 279e9, 8000e9, 450e9, 5000e12),  # verda.com; FP8 from memory
        Gpu("v100", 125e12, 32e9, 900e9, 12.8e9),  # from memory: SXM2 32 GB, FP16 (it has no BF16); host: PCIe 3.0 x16, 16 GB/s x 0.8
        Gpu("mi300x", 1307e12, 192e9, 5300e9, 54e9, 2614e12),  # AMD MI300X data sheet, dense (rooflinenotes); FP8 from memory
        Gpu("l40s", 362e12, 48e9, 864e9, 25.6e9, 733e12),  # NVIDIA L40S data sheet, sparse figures halved; FP8 from memory
        Gpu("l4", 121e12, 24e9, 300e9, 25.6e9, 242e12),  # NVIDIA L4 data sheet, sparse figures halved; FP8 from memory
        Gpu("a10g", 70e12, 24e9, 600e9, 25.6e9),  # from memory: AWS's own, slower than the A10 with its 125e12
        Gpu("h100_pcie", 756e12, 80e9, 2000e9, 54e9, 1513e12),  # NVIDIA H100 data sheet, PCIe: sparse figures halved
    )
}

NVLINK = {  # a GPU's way into the NVSwitches of its node
    "a100": Hop("NVSwitch port", 0.0, 229e9, 1),  # NVLink3, 300 GB/s nominal; bus bandwidth of an 8-GPU all-reduce (vTrain's table)
    "h100": Hop("NVSwitch port", 0.0, 371e9, 1),  # NVLink4, 450 GB/s nominal; 18 links x 20.6 GB/s (NCCL topo.h)
    "h200": Hop("NVSwitch port", 0.0, 371e9, 1),  # NVLink4 as well
    "b200": Hop("NVSwitch port", 0.0, 721.8e9, 1),  # NVLink5, 900 GB/s nominal; 18 links x 40.1 GB/s (NCCL topo.h)
    "gb200": Hop("NVSwitch port", 0.0, 721.8e9, 1),  # the links of a B200
}
NVSWITCH = Hop("NVSwitch", 3.4e-6, inf)  # NCCL tuning, NVLINK ring hop, Simple; carries what its ports carry

PCIE_HOP = 5.7e-6  # NCCL tuning, PCI ring hop, Simple
PCIE = {
    "a100": 25.6e9,  # PCIe 4.0 x16, 32 GB/s x 0.8 (SimAI calbusbw.h)
    "h100": 54e9,  # PCIe 5.0 x16, measured within a NUMA node (p2pmark)
    "h200": 54e9,  # PCIe 5.0 x16 as well
    "b200": 54e9,  # PCIe 5.0 x16 as well
}
BRIDGE_LATENCY = 0.2e-6  # assumed: two bridges on top of a PCIe hop then cost the 6.1 us of a loaded transfer (p2pmark)
SOCKET_LINK = {
    "a100": Hop("socket link", 0.0, 24e9, 4),  # AMD Zen3 xGMI (NCCL topo.h); latency: in the two host bridges
    "h100": Hop("socket link", 0.0, 39e9, 4),  # 39-51 GB/s measured across sockets (rtx6kpro notes), the low end
}

NIC = {
    "a100": 23.5e9,  # HDR InfiniBand, ConnectX-6, 200 Gb/s (SimAI calbusbw.h)
    "h100": 48.5e9,  # NDR InfiniBand, ConnectX-7, 400 Gb/s (SimAI calbusbw.h)
    "h200": 48.5e9,  # ConnectX-7 as well (NVIDIA DGX H100/H200 user guide)
    "b200": 48.5e9,  # ConnectX-7 as well (from memory)
    "gb200": 48.5e9,  # ConnectX-7 as well (from memory)
}
DGX = ("a100", "h100", "h200", "b200")  # GPUs of DGX nodes
FABRIC = Hop("fabric", 14e-6, inf)  # NCCL tuning, NET ring hop, Simple: device to device, so no other hop of the path adds latency
SPINE = Hop("spine", 14e-6 + 2 * 0.13e-6, inf)  # two more switches than `FABRIC`, 130 ns each (NVIDIA Quantum, from memory)


def dgx_node(gpu: str) -> Node:
    """8 GPUs behind NVSwitch, each with a NIC on its own PCIe switch (NVIDIA DGX H100 user guide, table 6)."""
    levels = (Level("node", 8, "NVL", (NVLINK[gpu],), (NVSWITCH,)),)
    return Node(gpu, GPUS[gpu], 8, levels, (Hop("PCIe switch", 0.0, PCIE[gpu], 1), Hop("NIC", 0.0, NIC[gpu], 1)))


def pcie_node(gpu: str) -> Node:
    """8 PCIe GPUs on two sockets, two a PCIe switch, one NIC a socket; latencies stand in what is crossed last."""
    slot, switch = Hop("PCIe slot", 0.0, PCIE[gpu], 1), Hop("PCIe switch", 0.0, PCIE[gpu], 2)
    bridge = Hop("host bridge", BRIDGE_LATENCY, inf)
    levels = (
        Level("switch", 2, "PIX", (slot,), (Hop("PCIe switch", PCIE_HOP, inf),)),
        Level("socket", 4, "PHB", (slot, switch), (Hop("host bridge", PCIE_HOP + BRIDGE_LATENCY, inf),)),
        Level("node", 8, "SYS", (slot, switch), (Hop("host bridge", PCIE_HOP + BRIDGE_LATENCY, inf), SOCKET_LINK[gpu], bridge)),
    )
    out = (slot, switch, Hop("host bridge", 0.0, inf), Hop("NIC", 0.0, NIC[gpu], 4))
    return Node(f"{gpu}_pcie", GPUS[f"{gpu}_pcie"], 8, levels, out)
