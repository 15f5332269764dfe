"""GB200 NVL72: racks of 72 GPUs (18 trays of two superchips, two GPUs each) in one NVLink domain, one NIC a GPU.

A job seldom takes all 72: ``usable_per_domain`` (64, say, for powers of two) is how many of them it gets, and then it
goes on in the next rack.
"""

from math import inf

from hops.checks import count
from hops.hardware import FABRIC, GPUS, NIC, NVLINK, NVSWITCH
from hops.topologies import Cluster, Hop, Level, Node, n_nodes, topology


@topology("gb200_nvl72", source="NVIDIA GB200 NVL72: 18 compute trays, 9 NVSwitch trays; values: hops/hardware.py")
def gb200_nvl72(n_devices: int, *, usable_per_domain: int = 72, racks: int | None = None) -> Cluster:
    usable = count("topology.usable_per_domain", usable_per_domain, most=72)
    level = Level("rack", usable, "NVL", (NVLINK["gb200"],), (NVSWITCH,))
    rack = Node("rack", GPUS["gb200"], usable, (level,), (Hop("NIC", 0.0, NIC["gb200"], 1),))
    n_racks = n_nodes(n_devices, usable, racks, "topology.racks")
    return Cluster("gb200_nvl72", ((rack, n_racks),), (Level("fabric", inf, "NET", (), (FABRIC,)),))
