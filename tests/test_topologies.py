"""The standing test of the door of topologies, and what a message crosses in each."""

import math

import pytest

from hops.checks import Infeasible
from hops.topologies import TOPOLOGIES

every_topology = pytest.mark.parametrize("name", TOPOLOGIES)


def build(name, pp=2, **keys):
    return TOPOLOGIES[name].build(pp, **keys)


@every_topology
@pytest.mark.parametrize("pp", [1, 2, 7, 8, 9, 64])
def test_cluster__has_a_device_a_rank_and_a_path_between_all(name, pp):
    cluster = build(name, pp)
    assert len(cluster.order) == pp
    assert cluster.n_devices >= pp
    for a in range(pp):
        for b in range(pp):
            there, back = cluster.between(a, b), cluster.between(b, a)
            assert there.latency == back.latency == sum(hop.latency for hop in there.hops)
            assert there.bandwidth == back.bandwidth == min([hop.bandwidth for hop in there.hops], default=math.inf)
            assert (there.hops == ()) == (a == b)
    assert cluster.gpu.peak_flops > 0
    assert TOPOLOGIES[name].source


@pytest.mark.parametrize("gpu", ["a100", "h100"])
def test_pcie__one_rank_moves_across_switch_sockets_and_nodes(gpu):
    paths = [build("pcie", gpu=gpu, order=[0, other]).between(0, 1) for other in (1, 2, 4, 8)]
    assert [path.path_class for path in paths] == ["PIX", "PHB", "SYS", "NET"]
    assert [len(path.hops) for path in paths] == [1, 3, 5, 7]
    latencies = [path.latency for path in paths]
    assert latencies == sorted(latencies)
    assert len(set(latencies)) == 4
    assert paths[2].bandwidth < paths[1].bandwidth
    assert paths[3].bandwidth != paths[2].bandwidth
    size = {"a100": 24, "h100": 39}[gpu]
    assert str(paths[2]) == f"SYS (PCIe switch > host bridge > socket link > host bridge > PCIe switch), 6.1 us, {size} GB/s"


def test_dgx__sockets_share_nvswitch_and_nodes_do_not():
    same, across, out = (build("dgx", order=[0, other]).between(0, 1) for other in (1, 4, 8))
    assert same == across
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
        ({"gpu": "v100"}, r"no topology.gpu named 'v100'.* \(known: a100, b200, h100\)"),
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
