"""Clusters: whose hop is whose link, nodes of several kinds, and a cluster of one's own in a file."""

import math

import pytest

import hops
from hops.checks import Infeasible
from hops.cluster import Cluster
from hops.config import folder
from hops.nodes import Gpu, Hop, Level, Node
from hops.paths import HERE
from hops.topologies import TOPOLOGIES

GPU = Gpu("g", 1e12, 1e9, 1e9, 1e9)
PORT, CROSSBAR = Hop("port", 0.0, 9e9, 1), Hop("crossbar", 1e-6, math.inf)
BUS, NIC = Hop("bus", 2e-6, 7e9, 2), Hop("NIC", 0.0, 5e9, 2)
FABRIC = Hop("fabric", 1e-5, math.inf)
ALL = Level("all", math.inf, "NET", (), (FABRIC,))


def node(n_gpus=4, **changes):
    """Pairs of GPUs on a crossbar, joined by a bus, with a NIC each."""
    levels = (Level("pair", 2, "NVL", (PORT,), (CROSSBAR,)), Level("node", n_gpus, "SYS", (PORT,), (BUS,)))
    return Node(**{"name": f"node{n_gpus}", "gpu": GPU, "n_gpus": n_gpus, "levels": levels, "out": (NIC,), **changes})


def names(path):
    return [link.name for link in path.links]


def test_links__are_hops_that_traffic_can_fill():
    path = Cluster("c", ((node(), 2),), (ALL,)).path(0, 3)
    assert path.hops == (PORT, BUS, PORT)
    assert names(path) == ["port 0 out", "bus 0-1", "port 3 in"]
    assert HERE.links == ()
    for never_full in (Hop("wire", 0.0, 1.0), Hop("hub", 0.0, math.inf, 1)):
        assert not never_full.is_link


def test_links__of_neighbours_are_the_same_and_of_others_are_not():
    cluster = Cluster("c", ((node(), 3),), (ALL,))
    assert names(cluster.path(4, 8)) == ["NIC 2 out", "NIC 4 in"]
    assert names(cluster.path(5, 8)) == ["NIC 2 out", "NIC 4 in"]
    assert names(cluster.path(6, 8)) == ["NIC 3 out", "NIC 4 in"]
    assert names(cluster.path(8, 4)) == ["NIC 4 out", "NIC 2 in"]
    assert names(cluster.path(6, 5)) == ["port 6 out", "bus 3-2", "port 5 in"]


def test_links__count_on_from_one_kind_of_node_to_the_next():
    small = Node("small", GPU, 1, (), (Hop("NIC", 0.0, 1e9, 1),))
    cluster = Cluster("c", ((small, 3), (node(), 2), (small, 1)), (ALL,))
    assert cluster.n_devices == 12
    found = [names(cluster.path(device, 0))[0] for device in (1, 2, 3, 4, 5, 6, 7, 10, 11)]
    assert found == [f"NIC {i} out" for i in (1, 2, 3, 3, 4, 4, 5, 6, 7)]
    assert cluster.path(0, 3).bandwidth == cluster.path(3, 0).bandwidth == 1e9
    assert cluster.links["NIC"].n == 8
    for number in range(8):
        assert names(cluster.path(cluster.member("NIC", number), 1 if number == 0 else 0))[0] == f"NIC {number} out"
    with pytest.raises(ValueError, match="c has no NIC 8"):
        cluster.member("NIC", 8)


def test_rails__have_instances_of_their_own():
    leaf = Hop("leaf", 0.0, 1e9, 2, rails=4)
    rail, spine = Level("rail", 2, "NET", (), (FABRIC,), rails=4), Level("spine", math.inf, "NET", (leaf,), (FABRIC,))
    cluster = Cluster("c", ((node(), 4),), (rail, spine))
    assert names(cluster.path(1, 5)) == ["NIC 0 out", "NIC 2 in"]
    assert names(cluster.path(1, 6)) == ["NIC 0 out", "leaf 1 out", "leaf 2 in", "NIC 3 in"]
    assert names(cluster.path(6, 9)) == ["NIC 3 out", "leaf 2 out", "leaf 5 in", "NIC 4 in"]
    assert cluster.links["leaf"].n == 8
    assert [cluster.member("leaf", number) for number in (0, 3, 4, 7)] == [0, 3, 8, 11]


def test_path__what_no_level_joins_is_disconnected():
    cluster = Cluster("c", ((node(), 2),), (), order=(7, 0))
    with pytest.raises(Infeasible, match="c: no path between devices 7 and 0, as no level joins them"):
        cluster.between(0, 1)
    assert cluster.path(4, 7).path_class == "SYS"
    apart = Cluster("c", ((node(levels=node().levels[:1]), 1),), (ALL,))
    assert apart.path(0, 1).path_class == "NVL"
    with pytest.raises(Infeasible, match="no path between devices 0 and 2"):
        apart.path(0, 2)
    pods = Cluster("c", ((node(), 4),), (Level("pod", 2, "NET", (), (FABRIC,)),))
    assert pods.path(0, 7).path_class == "NET"
    with pytest.raises(Infeasible, match="no path between devices 4 and 8"):
        pods.path(4, 8)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: node(n_gpus=3), "node 'node3': level 'pair' of 2 GPUs does not divide level 'node' of 3"),
        (
            lambda: node(n_gpus=4, levels=(Level("wide", 8, "NVL", (), ()),)),
            "level 'wide' of 8 GPUs does not divide level 'whole node' of 4",
        ),
        (lambda: node(out=(Hop("NIC", 0.0, 1.0, 3),)), "node 'node4': 'NIC', shared by 3, does not divide its 4 GPUs"),
        (
            lambda: Cluster("c", ((node(), 4),), (Level("a", 2, "NET", (), ()), Level("b", 3, "NET", (), ()))),
            "c: level 'a' of 2 nodes does not divide level 'b' of 3",
        ),
        (
            lambda: Cluster("c", ((node(), 4),), (Level("a", 4, "NET", (), ()), Level("b", math.inf, "NET", (), (Hop("x", 0.0, 1.0, 8),)))),
            "c: 'x', shared by 8 nodes, cannot lie across level 'b': that joins groups of 4",
        ),
        (
            lambda: Cluster("c", ((node(), 4),), (Level("a", 4, "NET", (), (), rails=3),)),
            "3 rails of level 'a', but 4 GPUs in 'node4'",
        ),
        (lambda: Cluster("c", ((node(), 4),), (Level("a", 4, "NET", (NIC,), ()),)), "two hops are named 'NIC'"),
        (lambda: Cluster("c", ((node(), 4),), (Level("a", 4, "NET", (PORT,), ()),)), "two hops are named 'port'"),
        (lambda: Cluster("c", ((node(out=(Hop("port", 0.0, 1.0, 1),)), 4),)), "two hops are named 'port'"),
    ],
)
def test_sizes_and_names__that_cannot_be_meant_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


CUSTOM = {
    "nodes": (("big", 2), ("small", None)),
    "kinds": {
        "big": {
            "gpu": "mi300x",
            "gpus": 4,
            "levels": ({"name": "node", "size": None, "class": "NVB", "up": ("mesh",)},),
            "out": ("NIC",),
        },
        "small": {
            "gpu": {"name": "mine", "peak_flops": 1e12, "memory": 1e9, "memory_bandwidth": 2e9, "host_bandwidth": 3e9, "fp8_flops": None},
            "gpus": 1,
            "out": ("slow NIC",),
        },
    },
    "network": (
        {"name": "leaf", "size": 2, "class": "NET", "across": ("fabric",)},
        {"name": "site", "size": None, "class": "NET", "up": ("uplink",), "across": ("WAN",)},
    ),
    "hops": {
        "mesh": {"bandwidth": 64e9, "latency": 1e-6, "shared_by": 1},
        "NIC": {"bandwidth": 50e9, "shared_by": 2},
        "slow NIC": {"bandwidth": 10e9, "shared_by": 1},
        "fabric": {"latency": 1e-5},
        "uplink": {"bandwidth": 20e9, "shared_by": 2},
        "WAN": {"latency": 1e-2, "bandwidth": 15e9, "shared_by": 2},
    },
}


def custom(n_gpus=10, **changes):
    """The cluster above; ``kinds__big__gpus`` style keys reach into its sections."""

    def changed(section, path, value):
        if not path:
            return value
        if isinstance(section, tuple):
            return tuple(changed(each, path[1:], value) if i == int(path[0]) else each for i, each in enumerate(section))
        if path[0] == "drop":
            return {key: each for key, each in section.items() if key != path[1]}
        return {**section, path[0]: changed(section.get(path[0]), path[1:], value)}

    given = CUSTOM
    for key, value in changes.items():
        given = changed(given, key.split("__"), value)
    return TOPOLOGIES["custom"].build(n_gpus, **given)


def test_custom__is_what_it_says():
    cluster = custom()
    assert cluster.n_devices == 10
    assert [cluster.device(gpu).name for gpu in (0, 7, 8)] == ["mi300x", "mi300x", "mine"]
    assert (cluster.device(8).memory_bandwidth, cluster.device(8).fp8_flops) == (2e9, None)
    inside, leaf, far = cluster.between(1, 2), cluster.between(1, 4), cluster.between(8, 1)
    assert (inside.path_class, inside.latency, inside.bandwidth, names(inside)) == ("NVB", 2e-6, 64e9, ["mesh 1 out", "mesh 2 in"])
    assert (leaf.latency, leaf.bandwidth, names(leaf)) == (1e-5, 50e9, ["NIC 0 out", "NIC 2 in"])
    assert (far.latency, far.bandwidth) == (1e-2, 10e9)
    assert names(far) == ["slow NIC 0 out", "uplink 1 out", "WAN 1-0", "uplink 0 in", "NIC 0 in"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"drop__nodes": None}, "topology.nodes is not set; custom needs nodes and kinds"),
        ({"drop__kinds": None}, "topology.kinds is not set"),
        ({"kinds": 3}, "topology.kinds must be a section of keys; got 3"),
        ({"hops__NIC__bandwidth": math.nan}, "topology.hops.NIC.bandwidth must be a number above 0; got nan"),
        ({"hops__NIC__bandwidth": 0}, "topology.hops.NIC.bandwidth must be a number above 0; got 0"),
        ({"hops__NIC__bandwidth": True}, "topology.hops.NIC.bandwidth must be a number above 0; got True"),
        ({"hops__NIC__latency": -1.0}, "topology.hops.NIC.latency must be a finite number at least 0; got -1.0"),
        ({"hops__NIC__shared_by": 0}, "topology.hops.NIC.shared_by must be a whole number of at least 1; got 0"),
        ({"hops__NIC__shared_by": 3}, "node 'big': 'NIC', shared by 3, does not divide its 4 GPUs"),
        ({"hops__NIC__latncy": 1.0}, r"no key of topology.hops.NIC named 'latncy'; did you mean 'latency'\?"),
        ({"hops__NIC": 5}, "topology.hops.NIC must be a section of keys; got 5"),
        ({"kinds__big__gpu": "mi300"}, r"no topology.kinds.big.gpu named 'mi300'; did you mean 'mi300x'\?"),
        ({"kinds__big__gpus": 0}, "topology.kinds.big.gpus must be a whole number of at least 1; got 0"),
        ({"kinds__big__gps": 1}, "no key of topology.kinds.big named 'gps'; did you mean 'gpus'"),
        ({"kinds__big__drop__gpus": 1}, r"topology.kinds.big.gpus is not set \(topology.kinds.big needs gpu, gpus\)"),
        ({"kinds__small__gpu__memory": 0}, "topology.kinds.small.gpu.memory must be a finite number above 0; got 0"),
        ({"kinds__small__gpu__drop__memory": 0}, "topology.kinds.small.gpu.memory is not set"),
        ({"kinds__small__gpu__flops": 1}, r"no key of topology.kinds.small.gpu named 'flops'; did you mean 'fp8_flops'\?"),
        ({"kinds__big__out": "NIC"}, "topology.kinds.big.out must be a list of names of hops; got 'NIC'"),
        ({"kinds__big__out": ("NIK",)}, r"no hop of topology.kinds.big.out named 'NIK'; did you mean 'NIC'\?"),
        ({"kinds__big__levels__0__size": 3}, "node 'big': level 'node' of 3 GPUs does not divide level 'whole node' of 4"),
        ({"kinds__big__levels__0__class": "NVLINK"}, r"no topology.kinds.big.levels\[0\].class named 'NVLINK'"),
        ({"kinds__big__levels": 4}, "topology.kinds.big.levels must be a list of levels; got 4"),
        ({"network__0__drop__class": 4}, r"topology.network\[0\].class is not set"),
        ({"network__0__size": 2.5}, r"topology.network\[0\].size must be a whole number of at least 1; got 2.5"),
        ({"network__0__nodes": 2}, r"no key of topology.network\[0\] named 'nodes'"),
        ({"network__0__across": ("fabrik",)}, r"no hop of topology.network\[0\].across named 'fabrik'; did you mean 'fabric'\?"),
        ({"hops__WAN__shared_by": 4}, "'WAN', shared by 4 nodes, cannot lie across level 'site': that joins groups of 2"),
        ({"nodes": (("bug", 2),)}, r"no kind of topology.nodes named 'bug'; did you mean 'big'\?"),
    ],
)
def test_custom__bad_values_are_refused_by_name(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        custom(**changes)


def test_custom__without_a_network_its_nodes_are_disconnected():
    cluster = custom(drop__network=None)
    assert cluster.between(0, 3).path_class == "NVB"
    with pytest.raises(Infeasible, match="custom: no path between devices 3 and 4"):
        cluster.between(3, 4)


SMALL = ("microbatches=4", "draws=2", "latency=none")


def test_example__is_a_cluster_whose_numbers_are_axes():
    cube = hops.sweep_cube("topology=custom_example", "tp=8", "topology.hops.NVLink.bandwidth=371e9,1e9", *SMALL)
    fast, slow = cube["iteration_time_mean"].values
    assert slow > 1.5 * fast
    assert (folder("conf") / "topology" / "custom_example.yaml").read_text().count("from memory") == 0


def test_example__a_missing_network_is_refused_where_ranks_must_talk():
    hops.simulate("topology=custom_example", "topology.network=[]", *SMALL)  # eight ranks in one node
    with pytest.raises(Infeasible, match="custom: no path between devices 7 and 8"):
        hops.simulate("topology=custom_example", "topology.network=[]", "pp=16", *SMALL)
    with pytest.raises(ValueError, match=r"no key of topology.hops.NIC named 'speed'"):
        hops.simulate("topology=custom_example", "+topology.hops.NIC.speed=2", *SMALL)
    with pytest.raises(Infeasible, match=r"topology.nodes is not set; custom needs nodes and kinds"):
        hops.simulate("topology=custom", *SMALL)
