"""GB200 NVL72: racks of 72 GPUs (18 trays of two superchips, two GPUs each) in one NVLink domain, one NIC a GPU.

A job seldom takes all 72: ``usable_per_domain`` (64, say, for powers of two) is how many of them it gets, and then it
goes on in the next rack.
"""

from collections.abc import Sequence
from math import inf

from hops.checks import count
from hops.hardware import FABRIC, GPUS, NIC, RACK_SWITCH
from hops.topologies import Cluster, Level, build, topology


@topology("gb200_nvl72", source="NVIDIA GB200 NVL72: 18 compute trays, 9 NVSwitch trays; values: hops/hardware.py")
def gb200_nvl72(n_gpus: int, *, usable_per_domain: int = 72, racks: int | None = None, order: Sequence[int] | None = None) -> Cluster:
    usable = count("topology.usable_per_domain", usable_per_domain, most=72)
    levels = [
        Level("rack", usable, "NVL", (RACK_SWITCH,)),
        Level("fabric", inf, "NET", (NIC["gb200"], FABRIC, NIC["gb200"])),
    ]
    n_devices = None if racks is None else usable * count("topology.racks", racks)
    return build("gb200_nvl72", GPUS["gb200"], n_devices, levels, n_gpus, order, per_node=usable)
