"""Fat tree: DGX nodes on leaf switches, leaves joined by a spine.

``oversubscription`` is what the NICs below a leaf can send over what its uplinks carry: 1 is a full fat tree, 7 what
Llama 3 was trained on above its pods (arXiv:2407.21783, 3.3.1). The uplinks of a leaf are one link ("leaf 1 out") with the
bandwidth of the whole bundle. A single flow therefore still gets its NIC's rate across the spine, unless the bundle is
narrower than that; what oversubscription costs shows where flows meet on the bundle.
"""

from math import inf

from hops.checks import count, one_of, positive
from hops.hardware import DGX, FABRIC, NIC, SPINE, dgx_node
from hops.topologies import Cluster, Hop, Level, n_nodes, topology


@topology(
    "fat_tree", source="leaves of 64 ports, half of them down: 4 nodes of 8 NICs (NVIDIA QM9700, from memory); values: hops/hardware.py"
)
def fat_tree(
    n_devices: int, *, gpu: str = "h100", nodes_per_leaf: int = 4, oversubscription: float = 1.0, nodes: int | None = None
) -> Cluster:
    node, per_leaf = dgx_node(one_of("topology.gpu", gpu, DGX)), count("topology.nodes_per_leaf", nodes_per_leaf)
    bundle = per_leaf * 8 * NIC[gpu] / positive("topology.oversubscription", oversubscription)
    network = (
        Level("leaf", per_leaf, "NET", (), (FABRIC,)),
        Level("spine", inf, "NET", (Hop("leaf", 0.0, bundle, per_leaf),), (SPINE,)),
    )
    return Cluster("fat_tree", ((node, n_nodes(n_devices, 8, nodes)),), network)
