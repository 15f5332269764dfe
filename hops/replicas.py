"""Replicas that are alike: whose GPUs stand to each other as those of another do, so that their messages take as long."""

from math import inf

import numpy as np

from hops.cluster import Cluster
from hops.layout import Layout


def alike(cluster: Cluster, layout: Layout) -> list[int]:
    """For each replica the first that it is, moved by whole nodes; itself where links have factors of their own.

    Such replicas have the same place in equal nodes for each GPU, and cross the borders of the groups of nodes that levels and
    links of the network make at the same GPUs: then the same pairs meet at the same level, and on the same link where they did.
    """
    if cluster.bandwidths:
        return list(range(layout.dp))
    sizes = {"dp": layout.dp, "pp": layout.pp, "tp": layout.tp, "cp": layout.cp}
    along = np.ix_(*(layout.strides[word] * np.arange(n) for word, n in sizes.items()))
    device = np.array(cluster.order)[sum(along)].reshape(layout.dp, -1)

    per_node, n_nodes = (np.array(each) for each in zip(*((kind.n_gpus, n) for kind, n in cluster.nodes), strict=True))
    first_device, first_node = np.cumsum(per_node * n_nodes) - per_node * n_nodes, np.cumsum(n_nodes) - n_nodes
    run = np.searchsorted(first_device, device, side="right") - 1
    index = device - first_device[run]
    node, place = first_node[run] + index // per_node[run], index % per_node[run]

    shared = [hop.shared_by for level in cluster.network for hop in (*level.up, *level.across) if hop.is_link]
    groups = {1, *(level.size for level in cluster.network if level.size < inf), *shared}
    apart = [node // n - node[:, :1] // n for n in groups]
    first: dict[bytes, int] = {}
    return [first.setdefault(row.tobytes(), replica) for replica, row in enumerate(np.stack([run, place, *apart], axis=1))]
