"""The standing test of the door of topologies, and what a message crosses in each."""

import math

import pytest

from hops.checks import Infeasible
from hops.topologies import TOPOLOGIES

every_topology = pytest.mark.parametrize("name", TOPOLOGIES)
NEEDS = {
    "custom": {
        "nodes": (("pair", None),),
        "kinds": {"pair": {"gpu": "l4", "gpus": 2, "levels": ({"name": "node", "size": 2, "class": "PHB", "across": ("bus",)},)}},
        "hops": {"bus": {"bandwidth": 1e9, "shared_by": 1}, "wire": {"bandwidth": 5e8, "latency": 1e-3, "shared_by": 1}},
        "network": ({"name": "all", "size": None, "class": "NET", "across": ("wire",)},),
    }
}


def build(name, pp=2, **keys):
    return TOPOLOGIES[name].build(pp, **{**NEEDS.get(name, {}), **keys})


def path(name, a, b, **keys):
    """The path between two devices, and the names of its links, of a cluster that has them."""
    found = build(name, order=[a, b], **keys).between(0, 1)
    return found, [link.name for link in found.links]


def nics(a, b, *between):
    """Links from NIC to NIC of DGX nodes."""
    return [f"PCIe switch {a} out", f"NIC {a} out", *between, f"NIC {b} in", f"PCIe switch {b} in"]


def numbers(found):
    return found.path_class, found.latency, found.bandwidth


@every_topology
@pytest.mark.parametrize("pp", [1, 2, 7, 8, 9, 64])
def test_cluster__has_a_device_a_rank_and_a_path_between_all(name, pp):
    cluster = build(name, pp)
    assert len(set(cluster.order)) == pp
    assert cluster.n_devices > max(cluster.order)
    for a in range(pp):
        for b in range(pp):
            there, back = cluster.between(a, b), cluster.between(b, a)
            assert there.latency == back.latency == sum(hop.latency for hop in there.hops)
            assert there.bandwidth == back.bandwidth == min([hop.bandwidth for hop in there.hops], default=math.inf)
            assert there.path_class == back.path_class
            assert (there.hops == ()) == (a == b)
            # a link for each hop that can be full, in their order, and none in both directions
            assert [link.bandwidth for link in there.links] == [hop.bandwidth for hop in there.hops if hop.is_link]
            assert min([link.bandwidth for link in there.links], default=math.inf) == there.bandwidth
            assert not {link.name for link in there.links} & {link.name for link in back.links}
    assert cluster.gpu.peak_flops > 0
    assert TOPOLOGIES[name].source


@every_topology
def test_links__of_a_name_have_one_bandwidth_and_are_those_of_the_cluster(name):
    cluster, bandwidths = build(name, 24), {}
    for a in range(24):
        for b in range(24):
            for link in cluster.between(a, b).links:
                assert bandwidths.setdefault(link.name, link.bandwidth) == link.bandwidth
    families = {name: family.n for name, family in cluster.links.items()}
    for link in bandwidths:
        hop, number = next((each, link[len(each) + 1 :]) for each in sorted(families, key=len, reverse=True) if link.startswith(each))
        assert all(int(part) < families[hop] for part in number.split()[0].split("-"))


@pytest.mark.parametrize("gpu", ["a100", "h100"])
def test_pcie__one_rank_moves_across_switch_sockets_and_nodes(gpu):
    paths = [build("pcie", gpu=gpu, order=[0, other]).between(0, 1) for other in (1, 2, 4, 8)]
    assert [path.path_class for path in paths] == ["PIX", "PHB", "SYS", "NET"]
    latencies = [path.latency for path in paths]
    assert latencies == sorted(latencies)
    assert len(set(latencies)) == 4
    assert paths[2].bandwidth < paths[1].bandwidth
    assert paths[3].bandwidth != paths[2].bandwidth
    size = {"a100": 24, "h100": 39}[gpu]
    crossed = "PCIe slot > PCIe switch > host bridge > socket link > host bridge > PCIe switch > PCIe slot"
    assert str(paths[2]) == f"SYS ({crossed}), 6.1 us, {size} GB/s"


def test_dgx__sockets_share_nvswitch_and_nodes_do_not():
    same, across, out = (build("dgx", order=[0, other]).between(0, 1) for other in (1, 4, 8))
    assert same.hops == across.hops
    assert (same.path_class, out.path_class) == ("NVL", "NET")
    assert out.latency > same.latency
    assert out.bandwidth < same.bandwidth


@pytest.mark.parametrize("name", ["dgx", "pcie"])
def test_gpu__generation_changes_device_and_links(name):
    old, new = build(name, gpu="a100"), build(name, gpu="h100")
    assert old.gpu.peak_flops < new.gpu.peak_flops
    assert old.between(0, 1).bandwidth < new.between(0, 1).bandwidth
    assert old.path(0, 8).bandwidth < new.path(0, 8).bandwidth


@pytest.mark.parametrize("name", ["dgx", "pcie"])
def test_nodes__as_many_as_needed_or_as_told(name):
    assert build(name, 9).n_devices == 16
    assert build(name, 9, nodes=3).n_devices == 24
    with pytest.raises(Infeasible, match=f"{name} has 8 devices; the job needs 9"):
        build(name, 9, nodes=1)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"gpu": "v100"}, r"no topology.gpu named 'v100'.* \(known: a100, b200, h100, h200\)"),
        ({"nodes": 0}, "topology.nodes must be a whole number of at least 1; got 0"),
        ({"order": 5}, "topology.order must be a list of device numbers, one a GPU; got 5"),
        ({"order": [0, 0]}, "gives one device to two GPUs"),
        ({"order": [0]}, "must name one device a GPU; got 1 devices for 2 GPUs"),
        ({"order": [0, -1]}, "device must be a whole number of at least 0; got -1"),
    ],
)
def test_bad_input__is_refused_by_name(keys, sentence):
    with pytest.raises(ValueError, match=sentence):
        build("dgx", **keys)


@pytest.mark.parametrize("key", ["latency", "bandwidth"])
@pytest.mark.parametrize("value", [math.nan, -1.0, "fast", True])
def test_uniform__refuses_what_is_no_number(key, value):
    with pytest.raises(ValueError, match=f"topology.{key} must be a .*number"):
        build("uniform", **{key: value})


def test_uniform__legal_ends():
    path = build("uniform", latency=0, bandwidth=math.inf).between(0, 1)
    assert (path.latency, path.bandwidth) == (0.0, math.inf)
    with pytest.raises(ValueError, match="bandwidth must be a number above 0; got 0"):
        build("uniform", bandwidth=0)
    with pytest.raises(ValueError, match="latency must be a finite number at least 0; got inf"):
        build("uniform", latency=math.inf)


def test_nvl72__a_rack_is_one_domain_of_as_many_gpus_as_are_usable():
    whole = TOPOLOGIES["gb200_nvl72"].build(144)
    assert [whole.between(0, other).path_class for other in (1, 71, 72, 143)] == ["NVL", "NVL", "NET", "NET"]
    assert whole.n_devices == 144
    part = TOPOLOGIES["gb200_nvl72"].build(72, usable_per_domain=64)
    assert [part.between(0, other).path_class for other in (63, 64)] == ["NVL", "NET"]
    assert part.n_devices == 128
    assert part.between(0, 1).bandwidth == 721.8e9
    with pytest.raises(ValueError, match="topology.usable_per_domain must be a whole number from 1 to 72; got 73"):
        TOPOLOGIES["gb200_nvl72"].build(2, usable_per_domain=73)
    with pytest.raises(Infeasible, match="gb200_nvl72 has 72 devices; the job needs 80"):
        TOPOLOGIES["gb200_nvl72"].build(80, racks=1)


@pytest.mark.parametrize(
    ("name", "keys", "a", "b", "expected", "links"),
    [
        ("dgx", {"gpu": "a100"}, 3, 5, ("NVL", 3.4e-6, 229e9), ["NVSwitch port 3 out", "NVSwitch port 5 in"]),
        ("dgx", {"gpu": "h200"}, 3, 5, ("NVL", 3.4e-6, 371e9), ["NVSwitch port 3 out", "NVSwitch port 5 in"]),
        ("dgx", {"gpu": "a100"}, 3, 13, ("NET", 14e-6, 23.5e9), nics(3, 13)),
        ("dgx", {"gpu": "b200"}, 3, 13, ("NET", 14e-6, 48.5e9), nics(3, 13)),
        ("pcie", {}, 8, 9, ("PIX", 5.7e-6, 54e9), ["PCIe slot 8 out", "PCIe slot 9 in"]),
        ("pcie", {}, 8, 11, ("PHB", 5.7e-6 + 0.2e-6, 54e9),
         ["PCIe slot 8 out", "PCIe switch 4 out", "PCIe switch 5 in", "PCIe slot 11 in"]),
        ("pcie", {}, 14, 9, ("SYS", 5.7e-6 + 0.2e-6 + 0.2e-6, 39e9),
         ["PCIe slot 14 out", "PCIe switch 7 out", "socket link 3-2", "PCIe switch 4 in", "PCIe slot 9 in"]),
        ("pcie", {"gpu": "a100"}, 6, 8, ("NET", 14e-6, 23.5e9),
         ["PCIe slot 6 out", "PCIe switch 3 out", "NIC 1 out", "NIC 2 in", "PCIe switch 4 in", "PCIe slot 8 in"]),
        ("uniform", {}, 1, 0, ("NET", 10e-6, 50e9), ["link 1-0"]),
        ("gb200_nvl72", {}, 0, 71, ("NVL", 3.4e-6, 721.8e9), ["NVSwitch port 0 out", "NVSwitch port 71 in"]),
        ("gb200_nvl72", {}, 0, 72, ("NET", 14e-6, 48.5e9), ["NIC 0 out", "NIC 72 in"]),
        ("fat_tree", {}, 0, 31, ("NET", 14e-6, 48.5e9), nics(0, 31)),
        ("fat_tree", {}, 0, 32, ("NET", 14.26e-6, 48.5e9),
         nics(0, 32, "leaf 0 out", "leaf 1 in")),
        ("rail_optimized", {"nodes_per_leaf": 2}, 3, 11, ("NET", 14e-6, 48.5e9),
         nics(3, 11)),
        ("rail_optimized", {"nodes_per_leaf": 2}, 3, 19, ("NET", 14.26e-6, 48.5e9),
         nics(3, 19, "leaf 3 out", "leaf 11 in")),
        ("rail_optimized", {"nodes_per_leaf": 2}, 3, 12, ("PXN", 17.4e-6, 48.5e9),
         ["NVSwitch port 3 out", "NVSwitch port 4 in", *nics(4, 12)]),
        ("rail_optimized", {"nodes_per_leaf": 2}, 3, 20, ("PXN", 17.66e-6, 48.5e9),
         ["NVSwitch port 3 out", "NVSwitch port 4 in", *nics(4, 20, "leaf 4 out", "leaf 12 in")]),
        ("rail_optimized", {"nodes_per_leaf": 2, "pxn": False}, 3, 12, ("NET", 14.26e-6, 48.5e9),
         nics(3, 12, "leaf 3 out", "leaf 4 in")),
        ("two_sites", {"nodes_per_site": 2}, 0, 8, ("NET", 14e-6, 48.5e9), nics(0, 8)),
        ("two_sites", {"nodes_per_site": 2}, 20, 8, ("NET", 17.5e-3, 1.41e9),
         nics(20, 8, "WAN 1-0")),
        ("hetero", {}, 0, 1, ("NVL", 3.4e-6, 371e9), ["NVSwitch port 0 out", "NVSwitch port 1 in"]),
        ("hetero", {}, 8, 9, ("NVL", 3.4e-6, 229e9), ["NVSwitch port 8 out", "NVSwitch port 9 in"]),
        ("hetero", {}, 8, 0, ("NET", 14e-6, 23.5e9), nics(8, 0)),
        ("hetero", {"nodes": (("h100", 1), ("a100_pcie", None))}, 2, 15, ("NET", 14e-6, 23.5e9),
         ["PCIe switch 2 out", "NIC 2 out", "NIC 9 in", "PCIe switch 11 in", "PCIe slot 7 in"]),
    ],
)  # fmt: skip
def test_path__class_latency_bandwidth_and_links(name, keys, a, b, expected, links):
    found, crossed = path(name, a, b, **keys)
    assert numbers(found) == (expected[0], pytest.approx(expected[1], rel=1e-12), expected[2])
    assert crossed == links
    back, mirrored = path(name, b, a, **keys)
    assert numbers(back) == numbers(found)
    opposite = {"out": "in", "in": "out"}
    ends = [" ".join([*link.split()[:-1], opposite.get(link.split()[-1], "-".join(link.split()[-1].split("-")[::-1]))]) for link in links]
    assert sorted(ends) == sorted(mirrored) or found.path_class == "PXN"  # which goes by the receiver's rail, either way


@pytest.mark.parametrize(("name", "far", "bundle"), [("fat_tree", 32, 4 * 8 * 48.5e9), ("rail_optimized", 256, 32 * 48.5e9)])
def test_oversubscription__narrows_what_flows_share_and_a_lone_flow_only_when_it_is_narrower_than_a_nic(name, far, bundle):
    for ratio in (1, 4, 7.0):
        found, _ = path(name, 0, far, oversubscription=ratio)
        assert found.bandwidth == 48.5e9
        assert [link.bandwidth for link in found.links if "leaf" in link.name] == [bundle / ratio] * 2
    narrow, _ = path(name, 0, far, oversubscription=1000)
    assert narrow.bandwidth == bundle / 1000
    assert path(name, 0, far // 2, oversubscription=1000)[0].bandwidth == 48.5e9  # below the leaf
    for ratio in (0, math.nan, math.inf):
        with pytest.raises(ValueError, match="topology.oversubscription must be a finite number above 0"):
            build(name, oversubscription=ratio)


def test_leaf__of_all_its_nodes_is_one_link():
    leaves = [[link for link in path("fat_tree", a, 100, nodes_per_leaf=2)[1] if "leaf" in link] for a in (0, 15, 16)]
    assert leaves == [["leaf 0 out", "leaf 6 in"]] * 2 + [["leaf 1 out", "leaf 6 in"]]


def test_two_sites__hold_half_of_the_job_each():
    cluster = build("two_sites", 20)
    assert cluster.n_devices == 32
    assert cluster.order == (*range(10), *range(16, 26))
    assert [cluster.between(0, other).latency for other in (9, 10)] == [14e-6, 17.5e-3]
    assert build("two_sites", 20, wan_latency=1e-3, wan_bandwidth=2e9).between(9, 10).bandwidth == 2e9
    assert build("two_sites", 16, nodes_per_site=1).order == tuple(range(16))
    with pytest.raises(Infeasible, match="two_sites has 16 devices; the job needs 17"):
        build("two_sites", 17, nodes_per_site=1)


def test_hetero__devices_are_those_of_their_nodes():
    cluster = build("hetero", 32, nodes=(("h100", 2), ("a100", 2)))
    assert [cluster.device(gpu).name for gpu in (0, 15, 16, 31)] == ["h100", "h100", "a100", "a100"]
    assert cluster.gpu.name == "h100"
    assert build("hetero", 2, nodes=(("h100", 2), ("a100", 2)), order=[16, 0]).gpu.name == "a100"
    assert [build("hetero", n).n_devices for n in (8, 9, 20)] == [8, 16, 24]  # the node given, and as many more as it takes
    with pytest.raises(Infeasible, match="hetero has 32 devices; the job needs 33"):
        build("hetero", 33, nodes=(("h100", 2), ("a100", 2)))


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        (4, r"topology.nodes must list pairs of a kind and how many nodes of it, such as \[\[h100,2\],\[a100,2\]\]; got 4"),
        ((), "must list pairs"),
        (("h100", 2), "must list pairs"),
        ((("h10", 2),), "no kind of topology.nodes named 'h10'; did you mean 'h100'?"),
        ((("h100", 0),), "topology.nodes must be a whole number of at least 1; got 0"),
        ((("h100", math.nan),), "topology.nodes must be a whole number of at least 1; got nan"),
        ((("h100", None), ("a100", None)), "may leave the number of one kind open"),
    ],
)
def test_nodes__that_cannot_be_meant_are_refused(nodes, sentence):
    with pytest.raises(ValueError, match=sentence):
        build("hetero", nodes=nodes)
