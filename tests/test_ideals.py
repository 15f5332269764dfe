"""Ideals, waterfall, savings and straggling: against closed forms, and against cells that never had what is taken away."""

import numpy as np
import pytest
from conftest import scenario

import hops
from hops.attribution import attributed
from hops.causes import CAUSES, STEPS, waterfalls
from hops.executor import Executor
from hops.ideals import MEANING, NOISES, made_ideal
from hops.recipes import plan_of_words
from hops.savings import candidates, iterations, savings, straggling
from hops.simulation import prepare

SERIAL = Executor(threads=1)
SMALL = ("pp=4", "microbatches=8", "draws=30")
NOISY = ("latency.rank.law=lognormal", "latency.rank.cv=0.1", "latency.link.law=lognormal", "latency.link.cv=0.3", "retry.loss=1e-3")
CASES = (
    ("schedule=zb", "dp=2", "tp=2"),
    ("schedule=interleaved", "vpp=2", "topology=pcie", "tp=2", "dp=2", "overlap_grad_reduce=true"),
    ("schedule=dualpipe", "tp=2", "cp=2", "microbatches=16"),
    ("barrier=false", "schedule=zb_h2", "host.forward=1e-3"),
    ("schedule=pipedream_2bw", "topology.overrides.speed.3=0.7"),
    ("contention=fifo", "topology=pcie", "tp=2", "dp=2", "draws=4"),
    ("disturbance=[{rank: 2, speed: 0.5}]", "draws=4"),
    ("model=mixtral_8x7b", "ep=2", "dp=2", "topology=pcie"),
    ("model=explicit", "model.forward=[1e-3,2e-3,1e-3,1e-3]"),
)


def cell(*words):
    return prepare(plan_of_words((*SMALL, *words), sweep=False).scenarios[0])


def ticks(case):
    return iterations([case], SERIAL)[0]


def levels(case):
    return tuple(int(np.quantile(ticks(case), q) + 0.5) for q in (0.5, 0.95))


@pytest.mark.parametrize("words", CASES[:5], ids=" ".join)
def test_ideal__without_noise_is_the_cell_that_has_none(words):
    noisy = cell(*words, *NOISY)
    assert (ticks(made_ideal(noisy, *NOISES, "lost messages")) == ticks(cell(*words, "latency=none"))).all()


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "zb_h1"])
def test_ideal__everything_is_the_closed_form(name):
    """With what schedules' papers assume: equal ranks, no noise, nothing between them."""
    topology = {"name": "uniform", "latency": 0.3, "bandwidth": 1e9, "overrides": {"speed": {2: 0.5}}}
    case = prepare(
        scenario(
            schedule__name=name, topology=topology, p2p="channel", model__p2p_bytes=1e8, latency={"op": {"law": "lognormal", "cv": 0.3}}
        )
    )
    ideal = made_ideal(case, *MEANING)
    mean = 3 * (1 + 1 + 2 + 1) / 4  # F, I and W of the mean rank [s]
    made = 8 * mean + 3 * mean * (1 / 3 if name == "zb_h1" else 1)  # ZB-H1 leaves F + I - W of a bubble of F + I + W
    assert ticks(ideal).tolist() == [made * 10**9]
    assert attributed(ideal, SERIAL).ticks.sum() == made * 10**9


@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_waterfall__adds_up_to_the_p95(words):
    case = cell(*words)
    (found,) = waterfalls([case], [levels(case)], SERIAL)
    assert sum(found.steps) == levels(case)[1]
    assert len(found.steps) == len(STEPS)
    calm = made_ideal(case, *NOISES, "lost messages")
    assert sum(found.steps[:-2]) == int(ticks(calm)[0])
    if case.scenario.barrier and not case.by_events and not case.structure.graph.endless:
        assert min(found.steps[:-2]) >= 0  # what takes longer never ends sooner, if all wait for all


def test_waterfall__steps_are_the_closed_forms():
    """GPipe, rank 1 of 4 at half speed: 8 passes of the mean rank, then of the slowest; three more of the others, three hops each way."""
    topology = {"name": "uniform", "latency": 0.25, "bandwidth": float("inf"), "overrides": {"speed": {1: 0.5}}}
    case = prepare(scenario(schedule__name="gpipe", topology=topology))
    (found,) = waterfalls([case], [(0, 0)], SERIAL)
    steps = dict(zip(found.names, found.seconds, strict=True))
    assert (steps["compute"], steps["stage imbalance"], steps["bubble"]) == (8 * 3.75, 8 * (6 - 3.75), 3 * 3)
    assert steps["exposed pp"] == 2 * 3 * 0.25
    assert np.isnan(found.mfu).all()


def test_waterfall__a_cause_that_is_not_there_adds_nothing():
    case = cell("model.recompute=none", "latency=none")
    (found,) = waterfalls([case], [levels(case)], SERIAL)
    steps = dict(zip(found.names, found.steps, strict=True))
    for name in (
        "recompute",
        "exposed tp",
        "exposed cp",
        "exposed ep",
        "exposed dp",
        "host",
        "shared links",
        "disturbances",
        "median noise",
        "p95 tail",
    ):
        assert steps[name] == 0
    frame = hops.waterfall(*SMALL, "model.recompute=none", "latency=none")
    assert frame["mfu"].iloc[-1] == pytest.approx(float(hops.simulate(*SMALL, "model.recompute=none", "latency=none")["mfu"][0]), rel=1e-8)
    assert frame["total"].iloc[-1] == float(hops.simulate(*SMALL, "model.recompute=none", "latency=none")["iteration_time"][0])


def test_waterfall__of_each_cause_is_what_its_absence_saves_where_nothing_follows_it():
    """The last cause that is there is the last to be taken away."""
    case = cell("latency=none", "dp=2")
    (found,) = waterfalls([case], [levels(case)], SERIAL)
    last = list(CAUSES.values()).index("optimizer")
    assert found.steps[4 + last] == int(ticks(case)[0] - ticks(made_ideal(case, "optimizer"))[0]) == case.update.max()


def test_ideal__of_tensors_has_no_exchange_of_tensors():
    """As long as the same shares of the layers, were nothing to be exchanged: links of no latency and no end of bandwidth."""
    fast = ("topology=uniform", "topology.latency=0", "topology.bandwidth=inf", "latency=none")
    slow = ("topology=uniform", "topology.latency=1e-4", "topology.bandwidth=1e10", "latency=none")
    for words in (("tp=2",), ("schedule=dualpipe", "tp=2"), ("schedule=zb_v", "tp=4"), ("cp=2",), ("ep=2", "dp=2", "model=mixtral_8x7b")):
        ideal = made_ideal(cell(*words, *slow), "tp", "cp", "ep", "pp", "dp")
        without = made_ideal(cell(*words, *fast), "dp")
        assert ticks(ideal).tolist() == pytest.approx(ticks(without).tolist(), abs=40 * 8)  # every op is rounded once


def test_ideal__without_recompute_is_the_model_without():
    for words in ((), ("model.recompute=full",), ("schedule=zb", "model.recompute=full", "model.recompute_repeat=true")):
        ideal = made_ideal(cell(*words, "latency=none"), "recompute")
        assert ticks(ideal).tolist() == pytest.approx(
            ticks(
                cell(*words[:1], "latency=none", "model.recompute=none", *(["schedule=zb"] if words[:1] == ("schedule=zb",) else []))
            ).tolist(),
            abs=500,
        )


def test_savings__are_paired_and_say_how_sure_they_are():
    case = cell("tp=2", "dp=2", "latency.op.cv=0.2")
    found = {each.name: each for each in savings(case, SERIAL)}
    assert set(found) == set(candidates(case))
    assert list(found.values()) == sorted(found.values(), key=lambda each: -each.mean)
    update = found["optimizer"]
    assert update.mean == pytest.approx(case.update.max() / 1e9)
    assert (update.standard_error, update.low, update.high) == (0, update.mean, update.mean)
    noise = found["op noise"]
    own, calm = ticks(case), int(ticks(made_ideal(case, "op noise"))[0])
    assert noise.mean == pytest.approx((own.mean() - calm) / 1e9)
    assert noise.tail == pytest.approx((np.quantile(own, 0.95) - calm) / 1e9)
    assert noise.standard_error == pytest.approx(own.std(ddof=1) / 30**0.5 / 1e9)
    assert (noise.low, noise.high) == pytest.approx([noise.mean + sign * 2.04523 * noise.standard_error for sign in (-1, 1)], rel=1e-4)
    for each in found.values():
        assert each.meaning


def test_ideal__balance_is_the_mean_of_all_replicas():
    """One GPU of six at half speed, in one of three replicas: 9 passes of 3 s x 7/6 in all of them."""
    topology = {"name": "uniform", "latency": 0.0, "bandwidth": float("inf"), "overrides": {"speed": {1: 0.5}}}
    case = prepare(scenario(schedule__name="gpipe", pp=2, dp=3, topology=topology))
    assert sorted(np.bincount(case.weights.variant)) == [1, 2]
    assert ticks(made_ideal(case, "balance")).tolist() == pytest.approx([9 * 3.5e9], abs=20)


def test_savings__of_a_slow_rank_is_to_be_rid_of_it():
    slow, fair = (cell("model=explicit", f"topology.overrides.speed.2={speed}") for speed in (0.5, 1))
    (found,) = savings(slow, SERIAL, ["rank 2"])
    assert found.mean == pytest.approx((ticks(slow) - ticks(fair)).mean() / 1e9, rel=1e-7)


def test_ideal__that_is_none_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="no ideal named 'rank 9'; did you mean 'rank"):
        hops.what_if(*SMALL, ideal=("rank 9",))
    with pytest.raises(ValueError, match="did you mean 'optimizer'"):
        hops.what_if(*SMALL, ideal=("optimiser",))


def test_ideal__alone_needs_no_tuple():
    assert hops.what_if(*SMALL, ideal="optimizer").equals(hops.what_if(*SMALL, ideal=("optimizer",)))


def test_straggling__of_one_slow_rank_is_the_closed_form():
    """ByteDance's S = T / T_ideal: rank 1 of 4 at half speed, GPipe: T = m x 6 + 3 x 3 against (m + 3) x 3.75 for the mean rank."""
    case = prepare(
        scenario(
            schedule__name="gpipe",
            topology={"name": "uniform", "latency": 0.0, "bandwidth": float("inf"), "overrides": {"speed": {1: 0.5}}},
        )
    )
    found = straggling(case, SERIAL)
    worst = (8 * 6 + 3 * 3) / (11 * 3.75)
    assert found.slowdown == pytest.approx(worst, rel=1e-12)
    assert found.waste == pytest.approx(1 - 1 / worst, rel=1e-12)
    assert int(np.argmax(found.by_rank)) == 1
    assert found.by_rank[1] == pytest.approx((8 * 6 + 3 * 3.75) / (11 * 3.75), rel=1e-12)
    assert max(found.by_rank[i] for i in (0, 2, 3)) <= 1
    fair = straggling(prepare(scenario()), SERIAL)
    assert (fair.slowdown, fair.waste, fair.by_rank) == (1, 0, (1, 1, 1, 1))


def test_links__of_one_class_are_free_alone():
    """Two classes on the way of this job: each alone saves less than both, and both are all messages."""
    case = cell("topology=dgx", "dp=4", "tp=2", "pp=4", "latency=none", "model=llama3_70b")
    found = {each.name: each.mean for each in savings(case, SERIAL)}
    links = [name for name in found if name.startswith("link ")]
    assert len(links) != 1
    for name in links:
        assert 0 <= found[name] <= found["pp"]
