"""Layouts: which GPU of the job is whose neighbour, and what rings of them cost."""

import pytest

import hops
from hops.cluster import PATH_CLASSES
from hops.collectives import ALONE, Ring, ring
from hops.graph import lag_index
from hops.layout import Layout
from hops.plan import prepare_plan
from hops.sweep import _plan
from hops.topologies import TOPOLOGIES


def test_order__megatrons_default_has_tensor_shards_next_to_each_other_and_pipeline_ranks_farthest_apart():
    layout = Layout(pp=4, dp=3, tp=2)
    assert layout.n_gpus == 24
    assert layout.shards(0) == (0, 1)
    assert layout.replicas(0) == (0, 2, 4)
    assert [layout.gpu(rank) for rank in range(4)] == [0, 6, 12, 18]
    everyone = {layout.gpu(r, d, t) for r in range(4) for d in range(3) for t in range(2)}
    assert everyone == set(range(24))


def test_order__in_other_words_is_another_placement():
    layout = Layout(pp=4, dp=3, tp=2, order="tp-cp-ep-pp-dp")
    assert [layout.gpu(rank) for rank in range(4)] == [0, 2, 4, 6]
    assert layout.replicas(0) == (0, 8, 16)


@pytest.mark.parametrize("order", ["tp-dp-pp", "tp-cp-ep-dp-dp", "", "pp"])
def test_order__must_name_every_dimension_once(order):
    with pytest.raises(ValueError, match="must be a list of devices, or tp, cp, ep, dp, pp joined by '-'"):
        Layout(pp=2, order=order)


def test_ring__by_hand():
    """Four devices, 1 us and 1 GB/s: three steps of a quarter each."""
    four = Ring(4, 1e-6, 1e9)
    assert four.gather(4e6) == pytest.approx(3 * (1e-6 + 1e-3))
    assert four.all_reduce(4e6) == 2 * four.gather(4e6)
    assert ALONE.all_reduce(1e9) == 0.0


def test_ring__is_as_slow_as_its_slowest_neighbours():
    cluster = TOPOLOGIES["dgx"].build(16)
    assert ring(cluster, (3,)) == ALONE
    inside, across = ring(cluster, range(8)), ring(cluster, range(4, 12))
    assert (inside.latency, inside.bandwidth) == (3.4e-6, 371e9)
    assert (across.latency, across.bandwidth) == (14e-6, 48.5e9)


def test_cluster__sixteen_thousand_gpus_are_placed():
    layout = Layout(pp=16, dp=128, tp=8)
    cluster = TOPOLOGIES["dgx"].build(layout.n_gpus)
    assert (cluster.n_devices, len({layout.gpu(r, d, t) for r in range(16) for d in range(128) for t in range(8)})) == (16384, 16384)


def path_class(*words):
    """Class of the path from stage 0 to stage 1."""
    case = prepare_plan(_plan(words, sweep=False)).cases[0]
    return PATH_CLASSES[case.weights.link[0, lag_index(0, False)]]


def test_order__decides_what_a_message_between_stages_crosses():
    """Eight replicas of two ranks on two DGX: with Megatron's order replicas are neighbours and ranks a node apart."""
    words = ("pp=2", "dp=8", "topology=dgx", "latency=none")
    assert path_class(*words) == "NET"
    assert path_class(*words, "topology.order=tp-cp-ep-pp-dp") == "NVL"
    assert path_class(*words, f"topology.order=[{','.join(str(2 * i % 16 + i // 8) for i in range(16))}]") == "NVL"


@pytest.mark.parametrize("latency", ["none", "lognormal"])
def test_metrics__of_replicas_count_all_of_them(latency):
    words = ("pp=4", "tp=2", "microbatches=8", f"latency={latency}", "draws=20", "output.keep=draws")
    one, three = hops.simulate(*words), hops.simulate(*words, "dp=3")
    for cell, dp in ((one, 1), (three, 3)):
        samples = 8 * dp / cell["iteration_time"]
        assert (abs(cell["throughput"] / samples - 1) < 1e-12).all()
        a_token = cell["mfu"] * 989e12 * (4 * 2 * dp) / cell["tokens_per_second"]  # FLOPs
        layers, h, s, v = 48, 6144, 2048, 51200
        megatrons = 72 * layers * h * h * (1 + s / (6 * h) + v / (12 * layers * h))  # Narayanan et al. 2021, without recomputation
        assert (abs(a_token / megatrons - 1) < 1e-9).all()
        idle = 1 - cell["busy_time"].sum("rank") / (4 * cell["makespan"])
        assert (abs(cell["bubble_fraction"] - idle) < 1e-9).all()
        assert (abs(cell["utilization"] - cell["busy_time"] / cell["makespan"]) < 1e-9).all()
    # the same FLOPs a GPU: only the wait for the slowest replica and the exchange of gradients are added
    assert float(three["mfu"].mean()) < float(one["mfu"].mean())
    assert float(three["mfu"].mean()) > 0.8 * float(one["mfu"].mean())
