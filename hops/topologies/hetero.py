"""Mixed nodes on one fabric: DGX nodes (a100, h100, ...) and PCIe servers (a100_pcie, h100_pcie), 8 GPUs each.

``nodes`` lists kinds and how many nodes of each, in the order of their devices; null, once: as many as the job needs. A
message between two kinds leaves by the sender's NIC and arrives by the receiver's, as fast as the slower of them.
"""

from collections.abc import Sequence
from math import inf

from hops.hardware import DGX, FABRIC, SOCKET_LINK, dgx_node, pcie_node
from hops.topologies import Cluster, Level, node_runs, topology


@topology("hetero", source="clusters that grew over generations; nodes as in dgx and pcie, values: hops/hardware.py")
def hetero(n_devices: int, *, nodes: Sequence[Sequence[object]] = (("h100", 1), ("a100", None))) -> Cluster:
    kinds = {gpu: dgx_node(gpu) for gpu in DGX} | {f"{gpu}_pcie": pcie_node(gpu) for gpu in SOCKET_LINK}
    return Cluster("hetero", node_runs(n_devices, nodes, kinds), (Level("fabric", inf, "NET", (), (FABRIC,)),))
