"""Layouts: which GPU of the job is whose neighbour, and what rings of them cost."""

import pytest

from hops.collectives import ALONE, Ring, ring
from hops.layout import Layout
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
