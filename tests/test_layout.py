"""Layouts: which GPU of the job is whose neighbour, and what rings of them cost."""

import pytest

import hops
from hops.checks import Infeasible
from hops.collectives import ALONE, Ring, crowd, ring
from hops.graph import lag_index
from hops.layout import Layout
from hops.paths import PATH_CLASSES
from hops.plan import prepare_plan
from hops.recipes import plan_of_words
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
    case = prepare_plan(plan_of_words(words, sweep=False)).cases[0]
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


def test_contexts__lie_between_tensor_shards_and_replicas():
    layout = Layout(pp=2, dp=2, tp=2, cp=3)
    assert layout.n_gpus == 24
    assert layout.contexts(0) == (0, 2, 4)
    assert layout.replicas(1) == (12, 14, 16, 18, 20, 22)  # dp x cp hold the same weights
    assert layout.gpu(1, replica=1, shard=1, context=2) == 23
    assert layout.members(1) == tuple(range(12, 24))
    everyone = {layout.gpu(r, d, t, c) for r in range(2) for d in range(2) for t in range(2) for c in range(3)}
    assert everyone == set(range(24))
    other = Layout(pp=2, dp=2, tp=2, cp=3, order="cp-tp-ep-dp-pp")
    assert (other.contexts(0), other.shards(0)) == ((0, 1, 2), (0, 3))


def test_experts__are_folded_over_the_gpus_of_a_rank():
    """32 GPUs a rank (tp 2 x cp 2 x dp 8). Experts on 8 of them with tp's shards: 2 x 8 x 2; whole: 1 x 8 x 4."""
    folded = Layout(pp=2, dp=8, tp=2, cp=2, ep=8)
    assert folded.expert_shards(1) == (32, 33)
    assert folded.experts(1) == tuple(range(32, 48, 2))
    assert folded.expert_replicas(1) == (32, 48)
    assert folded.n_expert_replicas == 2
    whole = Layout(pp=2, dp=8, tp=2, cp=2, ep=8, etp=1)
    assert whole.expert_shards(1) == (32,)
    assert whole.experts(1) == tuple(range(32, 40))
    assert whole.expert_replicas(1) == (32, 40, 48, 56)
    dense = Layout(pp=2, dp=8, tp=2)
    assert (dense.experts(0), dense.expert_shards(0), dense.expert_replicas(0)) == ((0,), dense.shards(0), dense.replicas(0))
    apart = Layout(pp=2, dp=8, tp=2, cp=2, ep=8, etp=1, order="tp-cp-ep-pp-dp")  # ranks are neighbours: a rank has 0-3, 8-11, ...
    assert apart.experts(0) == (0, 1, 2, 3, 8, 9, 10, 11)


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"dp": 8, "ep": 3}, r"ep=3 with etp=1 does not divide the tp x cp x dp = 8 GPUs of a pipeline rank \(try ep=2 or 4\)"),
        ({"dp": 4, "tp": 2, "ep": 8}, r"ep=8 with etp=2 does not divide the tp x cp x dp = 8 GPUs .*\(try ep=2 or 4\)"),
        ({"dp": 4, "tp": 2, "etp": 3}, "etp=3 does not divide the tp x cp x dp = 8 GPUs of a pipeline rank"),
    ],
)
def test_experts__that_do_not_fold_are_refused_with_what_works(sizes, sentence):
    with pytest.raises(Infeasible, match=sentence):
        Layout(pp=2, **sizes)
    assert Layout(pp=2, dp=4, tp=2, ep=8, etp=1).n_expert_replicas == 1


def test_crowd__each_class_of_paths_has_wires_of_its_own():
    """Sixteen GPUs on two DGX, each with 16 MB: 7 MB to its node over NVSwitch while 8 MB go out over its NIC."""
    cluster = TOPOLOGIES["dgx"].build(16)
    both = crowd(cluster, range(16))
    assert both.all_to_all(16e6) == pytest.approx(max(3.4e-6 + 7e6 / 371e9, 14e-6 + 8e6 / 48.5e9))
    inside = crowd(cluster, range(8))
    assert inside.all_to_all(8e6) == pytest.approx(3.4e-6 + 7e6 / 371e9)
    uneven = crowd(cluster, (0, 1, 2, 8))  # the last has three peers out there
    assert uneven.all_to_all(4e6) == pytest.approx(14e-6 + 3e6 / 48.5e9)
    assert crowd(cluster, (3,)).all_to_all(1e9) == 0.0


@pytest.mark.parametrize(
    "words", [("cp=2",), ("cp=2", "cp_comm=a2a", "tp=2"), ("model=mixtral_8x7b", "ep=4", "dp=2", "cp=2", "etp=1", "tp=2")]
)
def test_gpus__of_all_dimensions_count(words):
    case = prepare_plan(plan_of_words(("pp=2", "latency=none", "microbatches=4", *words), sweep=False)).cases[0]
    s = case.scenario
    assert len(case.weights.cluster.order) == s.layout.n_gpus == 2 * s.tp * s.dp * s.cp
    cell = hops.simulate("pp=2", "latency=none", "microbatches=4", *words)
    flops = sum(case.weights.costs.model_flops) * 4 * s.dp
    assert float(cell["mfu"][0]) == pytest.approx(flops / (float(cell["iteration_time"][0]) * 989e12 * s.layout.n_gpus))


def test_gpus__derive_dp_by_all_that_share_a_replica():
    words = ("gpus=64", "dp=null", "pp=2", "tp=2", "cp=4", "latency=none", "microbatches=4")
    assert prepare_plan(plan_of_words(words, sweep=False)).cases[0].scenario.dp == 4
