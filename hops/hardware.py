"""Hardware values, each with its source on its line: device types, and links by the generation of their device."""

from math import inf

from hops.cluster import Gpu, Hop

GPUS = {
    gpu.name: gpu
    for gpu in (
        # BF16 without sparsity, memory, its bandwidth, link to the host, FP8 without sparsity
        Gpu("a100", 312e12, 80e9, 2039e9, 25.6e9),  # NVIDIA A100 data sheet, SXM 80 GB; host: PCIe 4.0 x16, 32 GB/s x 0.8
        Gpu("a100_pcie", 312e12, 80e9, 1935e9, 25.6e9),  # NVIDIA A100 data sheet, PCIe 80 GB
        Gpu("h100", 989e12, 80e9, 3350e9, 54e9, 1979e12),  # NVIDIA H100 data sheet, SXM5: sparse figures halved; host: PCIe 5.0 x16
        Gpu("b200", 2250e12, 180e9, 7700e9, 54e9, 4500e12),  # NVIDIA B200: sparse figures halved; 180 GB, 7.7 TB/s (verda.com)
        Gpu("gb200", 2250e12, 186e9, 8000e9, 450e9, 4500e12),  # verda.com; 186 GB: NVL72 sheet; NVLink-C2C 900 GB/s in both directions
        Gpu("h100_pcie", 756e12, 80e9, 2000e9, 54e9, 1513e12),  # NVIDIA H100 data sheet, PCIe: sparse figures halved
    )
}

NVSWITCH = {
    "a100": Hop("NVSwitch", 3.4e-6, 229e9),  # NVLink3, 300 GB/s nominal; measured: bus bandwidth of an 8-GPU all-reduce (vTrain's table)
    "h100": Hop("NVSwitch", 3.4e-6, 371e9),  # NVLink4, 450 GB/s nominal; 18 links x 20.6 GB/s (NCCL topo.h)
    "b200": Hop("NVSwitch", 3.4e-6, 721.8e9),  # NVLink5, 900 GB/s nominal; 18 links x 40.1 GB/s (NCCL topo.h)
}  # latency: NCCL tuning, NVLINK ring hop, Simple

RACK_SWITCH = Hop("NVSwitch", 3.4e-6, 721.8e9)  # of a GB200 NVL72: the links of a B200, for 72 GPUs

PCIE_HOP = 5.7e-6  # NCCL tuning, PCI ring hop, Simple
PCIE = {
    "a100": 25.6e9,  # PCIe 4.0 x16, 32 GB/s x 0.8 (SimAI calbusbw.h)
    "h100": 54e9,  # PCIe 5.0 x16, measured within a NUMA node (p2pmark)
    "b200": 54e9,  # PCIe 5.0 x16 as well
}
BRIDGE_LATENCY = 0.2e-6  # assumed: two bridges on top of a PCIe hop then cost the 6.1 us of a loaded transfer (p2pmark)
SOCKET_LINK = {
    "a100": Hop("socket link", 0.0, 24e9),  # AMD Zen3 xGMI (NCCL topo.h); latency: in the two host bridges
    "h100": Hop("socket link", 0.0, 39e9),  # 39-51 GB/s measured across sockets (rtx6kpro notes), the low end
}

NIC = {
    "a100": Hop("NIC", 0.0, 23.5e9),  # HDR InfiniBand, ConnectX-6, 200 Gb/s (SimAI calbusbw.h)
    "h100": Hop("NIC", 0.0, 48.5e9),  # NDR InfiniBand, ConnectX-7, 400 Gb/s (SimAI calbusbw.h)
    "b200": Hop("NIC", 0.0, 48.5e9),  # ConnectX-7 as well (from memory)
    "gb200": Hop("NIC", 0.0, 48.5e9),  # ConnectX-7 as well (from memory)
}
FABRIC = Hop("fabric", 14e-6, inf)  # NCCL tuning, NET ring hop, Simple: device to device, so no other hop of the path adds latency
