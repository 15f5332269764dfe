"""Rail-optimised: GPU i of every DGX node hangs on a leaf of rail i, so that equal GPUs of a pod are one switch apart.

A pod of ``nodes_per_leaf`` nodes has 8 leaves, one a rail; the spine joins the leaves. A message to another rail goes
over NVLink to the GPU of its own node that is on the receiver's rail, and from there along that rail (NCCL's PXN, its
default); with ``pxn=false`` it leaves by its own NIC and crosses the spine. ``oversubscription`` is as in fat_tree; the link
"leaf 9 out" is the uplink bundle of the leaf of rail 1 in pod 1.
"""

from math import inf

from hops.checks import count, flag, one_of, positive
from hops.hardware import DGX, FABRIC, NIC, SPINE, dgx_node
from hops.topologies import Cluster, Hop, Level, n_nodes, topology

RAILS = 8


@topology(
    "rail_optimized",
    source="NVIDIA DGX SuperPOD H100 reference architecture: units of 32 nodes with 8 leaves (from memory); values: hops/hardware.py",
)
def rail_optimized(
    n_devices: int,
    *,
    gpu: str = "h100",
    nodes_per_leaf: int = 32,
    oversubscription: float = 1.0,
    pxn: bool = True,
    nodes: int | None = None,
) -> Cluster:
    node, per_leaf = dgx_node(one_of("topology.gpu", gpu, DGX)), count("topology.nodes_per_leaf", nodes_per_leaf)
    bundle = per_leaf * NIC[gpu] / positive("topology.oversubscription", oversubscription)
    uplinks = (Hop("leaf", 0.0, bundle, per_leaf, rails=RAILS),)
    network = [Level("rail", per_leaf, "NET", (), (FABRIC,), rails=RAILS)]
    if flag("topology.pxn", pxn):
        network += [Level("spine", inf, "NET", uplinks, (SPINE,), rails=RAILS), Level("other rail", inf, "PXN", (), (), rails=RAILS)]
    else:
        network += [Level("spine", inf, "NET", uplinks, (SPINE,))]
    return Cluster("rail_optimized", ((node, n_nodes(n_devices, 8, nodes)),), tuple(network))
