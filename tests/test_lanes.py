"""Lanes: who goes in lock-step, whose noise is the slowest's, and replicas on other devices than the first."""

import numpy as np
import pytest
from conftest import scenario

import hops
from hops.checks import Infeasible
from hops.collectives import ring
from hops.data_parallel import DataParallel
from hops.lanes import lanes, sharers
from hops.layout import Layout
from hops.noise import extreme_factors, quantile_table
from hops.plan import prepare_plan
from hops.recipes import plan_of_words
from hops.simulation import prepare
from hops.topologies import TOPOLOGIES

NOISE = {"op": {"law": "lognormal", "cv": 0.3}, "microbatch": {"law": "lognormal", "cv": 0.2}, "rank": {"law": "lognormal", "cv": 0.1}}
MOE = ("model=mixtral_8x7b", "tp=2", "pp=4", "dp=8", "microbatches=8", "topology=dgx")


def prepared(*words):
    return prepare_plan(plan_of_words(words, sweep=False)).cases[0]


@pytest.mark.parametrize(
    ("layout", "parallel", "sizes"),
    [
        (Layout(pp=1, dp=8), DataParallel(), [1] * 8),
        (Layout(pp=1, dp=8), DataParallel(zero=3), [8]),
        (Layout(pp=1, dp=8), DataParallel(zero=3, shard=2), [2] * 4),
        (Layout(pp=1, dp=8), DataParallel(zero=1, shard=2), [1] * 8),
        (Layout(pp=1, dp=8, tp=2, ep=4), DataParallel(), [4, 4]),  # experts of 2 shards each: 8 GPUs are 4 replicas
        (Layout(pp=1, dp=8, tp=2, ep=4, etp=1), DataParallel(), [2] * 4),
        (Layout(pp=1, dp=8, tp=2, cp=2, ep=4, etp=1), DataParallel(), [1] * 8),
        (Layout(pp=1, dp=8, ep=4, ep_coupling="independent"), DataParallel(), [1] * 8),
        (Layout(pp=1, dp=8, ep=4, ep_coupling="independent"), DataParallel(zero=3, shard=2), [2] * 4),
        (Layout(pp=1, dp=8, ep=2), DataParallel(zero=3, shard=4), [4, 4]),
        (Layout(pp=1, dp=12, ep=3), DataParallel(zero=3, shard=2), [6, 6]),  # groups of 3 and of 2 hold six together
        (Layout(pp=1, dp=6, tp=2, ep=4, etp=1, cp=1), DataParallel(), [2] * 3),
        (Layout(pp=1, dp=9, tp=2, ep=6, etp=1), DataParallel(), [3] * 3),
    ],
)
def test_lanes__hold_those_that_wait_for_each_other(layout, parallel, sizes):
    found = lanes(layout, parallel)
    assert [lane.n for lane in found] == sizes
    assert [replica for lane in found for replica in lane.replicas] == list(range(layout.dp))


def test_sharers__of_states_in_a_shard_group():
    layout = Layout(pp=1, dp=8, cp=2, tp=2, ep=4)  # 16 GPUs hold the rest, 4 the same experts
    assert sharers(layout, DataParallel()) == (16, 4)
    assert sharers(layout, DataParallel(shard=4)) == (8, 2)
    with pytest.raises(Infeasible, match="dp_shard=1 makes 8 groups of the 4 GPUs with the same experts"):
        sharers(layout, DataParallel(shard=1))
    with pytest.raises(Infeasible, match="dp_shard=3 does not divide dp=8"):
        sharers(layout, DataParallel(shard=3))


@pytest.mark.parametrize(("changes", "op", "microbatch"), [({}, 1, 1), ({"zero": 3}, 8, 8), ({"zero": 3, "dp_shard": 2}, 2, 2)])
def test_lane__has_the_law_of_the_slowest(changes, op, microbatch):
    case = prepare(scenario(dp=8, latency=NOISE, **changes))
    wanted = [quantile_table("lognormal", (("cv", cv),), n) for cv, n in ((0.3, op), (0.1, op), (0.2, microbatch))]
    assert all((found == table).all() for found, table in zip(case.tables, wanted, strict=False))
    assert case.n_lanes == 8 // op


def test_lane__of_gpus_has_the_slowest_of_them_but_one_number_a_microbatch():
    """GPUs of a rank that go at their own pace: tp x cp of each replica; a microbatch is the same for all of them."""
    words = [f"latency.{term}.{key}={value}" for term, law in NOISE.items() for key, value in law.items()]
    for coupling, n in (("lockstep", 4), ("independent", 1)):
        case = prepared(*MOE, "ep=4", f"ep_coupling={coupling}", "latency.per=gpu", *words)
        assert extreme_factors(case.tables[0])[1] == extreme_factors(quantile_table("lognormal", (("cv", 0.3),), 2 * n))[1]
        assert extreme_factors(case.tables[2])[1] == extreme_factors(quantile_table("lognormal", (("cv", 0.2),), n))[1]


def test_coupling__brackets_the_truth():
    """Who waits for the slowest in every layer is slower on average than who waits once; both are slower than a lone replica."""
    noise = ("latency.op.cv=0.2", "latency.microbatch.law=lognormal", "latency.microbatch.cv=0.2", "draws=200")
    lockstep, independent = (
        float(hops.simulate(*MOE, *noise, "ep=4", f"ep_coupling={word}")["iteration_time"].mean()) for word in ("lockstep", "independent")
    )
    calm = float(hops.simulate(*MOE, "latency=none", "ep=4")["iteration_time"].mean())
    assert lockstep > 1.05 * independent > 1.05 * calm


def test_zero_3__gathers_what_contexts_share():
    """Weights shared by four parts of a sequence are gathered as those shared by four replicas are, within the iteration."""
    case = [prepared("model=gpt_22b", "latency=none", "pp=4", "tp=2", "cp=4", f"zero={zero}") for zero in (1, 3)]
    n_gathers = [int((each.structure.graph.work >= 6 * each.program.n_stages).sum()) for each in case]
    assert n_gathers[0] == 0 < n_gathers[1]
    words = ("model=gpt_22b", "latency=none", "pp=4", "tp=2", "cp=4")
    one, three = (hops.simulate(*words, f"zero={zero}") for zero in (1, 3))
    assert float(three["makespan"][0]) > float(one["makespan"][0])  # the first stage waits for its weights


MIXED = {"topology": {"name": "hetero", "nodes": (("h100", 1), ("a100", 1))}, "tp": 4, "model": None}


def mixed(**changes):
    model = {"family": "transformer", "layers": 8, "hidden": 4096, "heads": 32, "kv_heads": 32, "ffn_hidden": 16384, "gated": False}
    model |= {"experts": 1, "active_experts": 1, "vocabulary": 1000, "sequence": 2048, "recompute": "none", "efficiency": 0.5}
    return prepare(scenario(**{**MIXED, "model": {**model, "bytes_per_value": 2}, "p2p": "channel", **changes}))


def test_mixed__a_stage_is_as_slow_as_the_gpus_of_its_rank():
    """Four ranks of four GPUs, two on an H100 node and two on an A100 node; tp=1 so that nothing but compute is timed."""
    case = mixed(tp=1, pp=4, topology={"name": "hetero", "nodes": (("h100", 1), ("a100", 1)), "order": [0, 1, 8, 9]})
    forward = case.weights.work[0, 4:12:4]  # of the two in the middle, which are alike: no embedding, no head
    peaks = [case.weights.cluster.device(gpu).peak_flops for gpu in (1, 2)]
    assert peaks[0] > 3 * peaks[1]
    assert forward[1] / forward[0] == pytest.approx(peaks[0] / peaks[1], rel=1e-9)
    assert case.weights.peak_flops == 2 * sum(peaks)
    assert case.weights.room == tuple(case.weights.cluster.device(gpu).memory for gpu in range(4))


def test_mixed__replicas_on_slower_gpus_are_variants():
    """Two replicas, the second on A100s: as slow as it; in lock-step the one lane is."""
    made = {"topology": {"name": "hetero", "nodes": (("h100", 1), ("a100", 1)), "order": [0, 8, 1, 9]}, "tp": 1, "pp": 2, "dp": 2}
    case, together = mixed(**made), mixed(**made, zero=3)
    assert case.weights.variant.tolist() == [0, 1]
    assert case.n_lanes == 2
    assert (case.weights.work[1, :8] > 2 * case.weights.work[0, :8]).all()
    assert together.weights.variant.tolist() == [0]
    assert (together.weights.work[0, :8] == case.weights.work[1, :8]).all()
    smallest = min(case.weights.cluster.device(gpu).memory for gpu in range(4))
    assert case.weights.room == (smallest, smallest)


def test_speed__of_one_device_slows_its_rank_of_its_replica():
    """Device 5 of 8 is rank 2 of replica 1: three quarters of the speed, so four thirds of the time."""
    case = prepare(scenario(pp=4, dp=2, topology={"name": "dgx", "overrides": {"speed": {"5": 0.75}}}))
    assert case.weights.variant.tolist() == [0, 1]
    compute = case.weights.work[:, :16].reshape(2, 4, 4)
    ratio = compute[1] / compute[0]
    assert ratio[2] == pytest.approx(4 / 3)
    assert (np.delete(ratio, 2, axis=0) == 1).all()
    alike = prepare(scenario(pp=4, dp=2, topology={"name": "dgx", "overrides": {"speed": {str(i): 0.75 for i in range(8)}}}))
    assert alike.weights.variant.tolist() == [0, 0]
    assert (alike.weights.work[0, :16] == compute[0].ravel() / 0.75).all()


def test_clock__counts_the_busy_time_of_all_replicas():
    """A rank that is busy for a year fits the clock, 64 replicas of it do not; without noise they are one."""
    model = {"family": "explicit", "forward": 1e5, "backward_input": 1e5, "backward_weight": 1e5, "per": "rank", "p2p_bytes": 0.0}
    long = {"model": model, "microbatches": 100, "pp": 1}
    prepare(scenario(**long, latency=NOISE))
    prepare(scenario(**long, dp=64))
    with pytest.raises(ValueError, match=r"times add up to .* s, beyond the 2\^62 ns"):
        prepare(scenario(**long, dp=64, latency=NOISE))


def test_ring__shares_links_with_those_that_exchange_at_the_same_time():
    """Two servers: the four GPUs of a socket share its card, those of another socket have one of their own; on DGX every GPU has."""
    layout = Layout(pp=1, tp=8, dp=2)
    pcie, dgx = (TOPOLOGIES[name].build(layout.n_gpus) for name in ("pcie", "dgx"))
    first, *others = layout.replica_groups(0)
    assert (first, len(others)) == ((0, 8), 7)
    alone, together = ring(pcie, first), ring(pcie, first, others)
    assert together.bandwidth == alone.bandwidth / 4
    assert ring(pcie, first, others[3:]) == alone
    assert ring(dgx, first, others) == ring(dgx, first)


def test_replica_groups__are_all_gpus_of_a_rank_once():
    layout = Layout(pp=2, tp=2, cp=2, dp=4, ep=4, etp=1)
    for groups, own in ((layout.replica_groups(1), layout.replicas(1)), (layout.expert_replica_groups(1), layout.expert_replicas(1))):
        assert groups[0] == own
        assert sorted(gpu for group in groups for gpu in group) == sorted(layout.members(1))
