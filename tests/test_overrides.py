"""Overrides: a slow device and a degraded link, by name, and as axes of a sweep."""

import math

import pytest
from conftest import scenario

import hops
from hops.checks import Infeasible
from hops.simulation import prepare
from hops.topologies import TOPOLOGIES


def build(name="dgx", n_gpus=16, speed=None, **bandwidth):
    return TOPOLOGIES[name].build(n_gpus, overrides={"speed": speed, "bandwidth": bandwidth})


def test_speed__is_that_of_the_device_under_a_gpu_of_the_job():
    cluster = TOPOLOGIES["dgx"].build(2, order=[5, 3], overrides={"speed": {5: 0.8, "6": 0.5}})
    assert [cluster.speed(gpu) for gpu in (0, 1)] == [0.8, 1.0]
    assert TOPOLOGIES["dgx"].build(2).speed(1) == 1.0


@pytest.mark.parametrize(
    ("name", "out", "into", "others"),
    [
        ("NIC 3 out", 0.25, 1, 1),
        ("NIC_3_in", 1, 0.25, 1),
        ("NIC_3", 0.25, 0.25, 1),
        ("NIC", 0.25, 0.25, 0.25),
    ],
)
def test_bandwidth__of_one_direction_of_both_or_of_all(name, out, into, others):
    cluster = build(**{name: 0.25})
    for path, factor in ((cluster.path(3, 8), out), (cluster.path(8, 3), into), (cluster.path(2, 8), others)):
        assert path.bandwidth == 48.5e9 * factor == min(link.bandwidth for link in path.links) == min(hop.bandwidth for hop in path.hops)
        assert path.latency == 14e-6
    assert cluster.path(3, 4).bandwidth == 371e9


def test_bandwidth__factors_multiply_and_a_link_has_its_own():
    path = build(**{"NIC": 0.5, "NIC_3_out": 0.5, "PCIe switch 3": 2.0}).path(3, 8)
    assert [(link.name, link.bandwidth) for link in path.links] == [
        ("PCIe switch 3 out", 108e9),
        ("NIC 3 out", 12.125e9),
        ("NIC 8 in", 24.25e9),
        ("PCIe switch 8 in", 54e9),
    ]


def test_bandwidth__of_what_stands_between_two_groups():
    cluster = build("pcie", **{"socket_link_2-3": 0.5})
    assert (cluster.path(8, 12).bandwidth, cluster.path(12, 8).bandwidth, cluster.path(0, 4).bandwidth) == (19.5e9, 39e9, 39e9)
    assert build("uniform", **{"link_0-1": 0.5}).path(0, 1).bandwidth == 25e9
    assert build("two_sites", **{"WAN_1-0": 2.0}).path(8, 0).bandwidth == 2.82e9
    relayed = build("rail_optimized", NVSwitch_port_4_in=1e-3).path(3, 12)
    assert (relayed.path_class, relayed.bandwidth) == ("PXN", 371e6)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"NIK 3 out": 1}, r"no link 'NIK 3 out'; did you mean 'NIC 3 out'\? \(dgx has PCIe switch 0 to 15, NIC 0 to 15, NVSwitch port"),
        ({"NVSwich_port_3": 1}, r"no link 'NVSwich_port_3'; did you mean 'NVSwitch port 3'\?"),
        ({"NIC 3 up": 1}, r"no link 'NIC 3 up'; did you mean 'NIC 3'\?"),
        ({"fabric": 1}, "topology.overrides.bandwidth: no link 'fabric'"),
        ({"NIC_16": 1}, r"topology.overrides.bandwidth: no link 'NIC_16' \(dgx has NIC 0 to 15\)"),
        ({"NIC 3": 1, "NIC_3": 1}, "topology.overrides.bandwidth names 'NIC 3' twice"),
        ({"NIC 3": 0}, "topology.overrides.bandwidth.NIC 3 must be a finite number above 0; got 0"),
        ({"NIC 3": math.nan}, "topology.overrides.bandwidth.NIC 3 must be a finite number above 0; got nan"),
        ({"speed": {16: 1}}, r"topology.overrides.speed: no device 16 \(dgx has devices 0 to 15\)"),
        ({"speed": {"GPU 3": 1}}, "topology.overrides.speed takes the numbers of devices; got 'GPU 3'"),
        ({"speed": {3: 1, "3": 1}}, "topology.overrides.speed names 3 twice"),
        ({"speed": {3: -1}}, "topology.overrides.speed.3 must be a finite number above 0; got -1"),
        ({"speed": 4}, "topology.overrides.speed must be a section of keys; got 4"),
    ],
)
def test_bad_input__is_refused_by_name(keys, sentence):
    with pytest.raises(ValueError, match=sentence):
        build(**keys)


def test_bad_input__ends_that_nothing_joins_and_keys_that_mean_nothing():
    for ends in ("socket_link_1-2", "socket_link_1-1"):
        with pytest.raises(ValueError, match=f"no link '{ends}': . and . are not the two ends of a socket link"):
            build("pcie", **{ends: 0.5})
    with pytest.raises(Infeasible, match=r"no link 'socket_link_3-4' \(pcie has socket link 0 to 3\)"):
        build("pcie", **{"socket_link_3-4": 0.5})
    with pytest.raises(ValueError, match=r"no key of topology.overrides named 'sped'; did you mean 'speed'\?"):
        TOPOLOGIES["dgx"].build(2, overrides={"sped": {}})
    with pytest.raises(ValueError, match="topology.overrides must be a section of keys; got 4"):
        TOPOLOGIES["dgx"].build(2, overrides=4)


def test_scenario__sections_reach_the_door_as_they_were():
    cluster = prepare(
        scenario(topology__bandwidth=50e9, topology__overrides={"speed": {2: 0.5, "1": 0.5}, "bandwidth": {"link_0-1": 0.5}})
    ).weights.cluster
    assert (cluster.speed(2), cluster.between(0, 1).bandwidth, cluster.between(1, 0).bandwidth) == (0.5, 25e9, 50e9)
    with pytest.raises(ValueError, match="topology.overrides must be a section of keys; got 5"):
        scenario(topology__overrides=5)
    with pytest.raises(ValueError, match="topology.latency must be a value or a list; got a section"):
        scenario(topology__latency={"a": 1})


SMALL = ("pp=4", "microbatches=4", "latency=none", "draws=2", "model.p2p_bytes=1e9", "model=explicit")


@pytest.mark.parametrize("plus", ["", "+"])
def test_sweep__over_a_degraded_link(plus):
    cube = hops.sweep_cube(f"{plus}topology.overrides.bandwidth.NVSwitch_port_1=0.01,1", *SMALL)
    assert cube["iteration_time_mean"].dims == ("NVSwitch_port_1",)
    degraded, healthy = cube["iteration_time_mean"].values
    assert healthy == float(hops.simulate(*SMALL)["iteration_time"].mean())
    assert degraded > 1.5 * healthy
    alone = hops.simulate("topology.overrides.bandwidth.NVSwitch_port_1=0.01", *SMALL)
    assert float(alone["iteration_time"].mean()) == degraded


@pytest.mark.parametrize("plus", ["", "+"])
def test_sweep__over_the_speed_of_a_device_beside_another(plus):
    words = (f"{plus}topology.overrides.speed.2=0.8,1.0", "topology.overrides.speed.1=0.5", "topology=dgx,dgx_a100")
    cube = hops.sweep_cube(*words, *SMALL)
    assert cube.sizes["speed_2"] == 2
    assert cube["speed_2"].values.tolist() == [0.8, 1.0]
    assert bool(cube["evaluated"].all())


def test_sweep__a_link_that_only_some_clusters_have_masks_the_others(capsys):
    cube = hops.sweep_cube("topology=dgx,pcie", "topology.overrides.bandwidth.socket_link=0.5,1", *SMALL)
    assert cube["evaluated"].values.tolist() == [[False, False], [True, True]]
    assert "no link 'socket_link'" in capsys.readouterr().err
