"""Planning: what model and cluster tell a schedule that plans its order, and how often it is asked."""

import pytest
from conftest import scenario

import hops
from hops import simulation
from hops.checks import Infeasible
from hops.planning import schedule_for
from hops.recipes import plan_of_words
from hops.schedules import zb_2p, zb_auto

GPT = ("model=gpt_22b", "topology=dgx_h100", "pp=8", "latency=none")


def told(**changes):
    return schedule_for(scenario(**changes)).kwargs


def test_told__times_of_every_stage_hops_and_no_memory_of_explicit_times():
    model = {"family": "explicit", "per": "rank", "p2p_bytes": 1e6}
    model |= {"forward": [1e-3, 2e-3, 3e-3, 4e-3], "backward_input": 1e-3, "backward_weight": 2e-3}
    topology = {"name": "uniform", "latency": 1e-5, "bandwidth": 1e9}
    for p2p in ("latency", "channel"):
        given = told(schedule__name="zb_auto", model=model, topology=topology, p2p=p2p)
        assert given["forward"] == (1e-3, 2e-3, 3e-3, 4e-3)
        assert given["backward_input"] == (1e-3,) * 4
        assert given["backward_weight"] == (2e-3,) * 4
        assert given["hop"] == (1.01e-3,) * 3
        assert given["memory"] is given["memory_limit"] is None


def test_told__chunks_are_stages_and_the_turn_of_the_v_is_no_hop():
    given = told(schedule__name="zb_v_auto", pp=2, topology={"name": "uniform", "latency": 1e-5, "bandwidth": float("inf")})
    assert given["forward"] == (0.5,) * 4
    assert given["hop"] == (1e-5, 0.0, 1e-5)


def test_told__what_the_user_set_stays():
    given = told(schedule={"name": "zb_auto", "forward": 7.0, "memory": [1, -0.5, -0.5], "memory_limit": 3})
    assert (given["forward"], given["memory"], given["memory_limit"]) == (7.0, (1, -0.5, -0.5), 3)
    assert given["backward_input"] == (1.0,) * 4


def test_told__nothing_where_the_order_depends_on_sizes_only():
    s = scenario()
    assert schedule_for(s) is s.schedule


def test_order__is_the_one_planned_on_the_true_times():
    """A slow rank: the order is that of `hops.program` with the times of that machine, and no other."""
    words = ["schedule=zb_auto", "pp=4", "microbatches=12", "model=explicit", "model.per=stage", "topology=uniform", "latency=none"]
    words += ["model.backward_input=1e-3", "model.backward_weight=1e-3", "topology.latency=0", "topology.bandwidth=inf"]
    slow = [1e-3, 1e-3, 2e-3, 1e-3]
    frame = hops.timeline(*words, f"model.forward={slow}")
    known, blind = (
        hops.program("zb_auto", pp=4, microbatches=12, forward=each, backward_input=1e-3, backward_weight=1e-3, hop=0)
        for each in (slow, 1e-3)
    )
    found = tuple(tuple(frame[frame["rank"] == rank].sort_values("start")["op"]) for rank in range(4))
    assert found == tuple(tuple(map(str, ops)) for ops in known.ranks)
    assert known != blind


def test_sweep__plans_once_for_all_noise_and_once_for_every_latency(monkeypatch):
    n_searches, real = [], zb_auto.search
    for module in (zb_auto, zb_2p):
        monkeypatch.setattr(module, "search", lambda *given: n_searches.append(1) or real(*given))
    words = ("schedule=zb_2p", "model=explicit", "topology=uniform", "pp=3", "microbatches=7", "draws=2")
    hops.sweep_cube(*words, "latency.op.cv=" + ",".join(f"{k}e-3" for k in range(1, 101)))
    assert len(n_searches) == 1
    simulation._lowered.cache_clear()
    hops.sweep_cube(*words, "topology.latency=1.25e-6,2.25e-6,3.25e-6")
    assert len(n_searches) == 4
    assert simulation._lowered.cache_info().misses == 1  # small hops: all the same order


def test_memory__of_gpt_is_split_as_in_table_1():
    """34 h a token and layer with selective recomputation, of which 32 h are left for W."""
    plan = schedule_for(plan_of_words(("schedule=zb_auto", *GPT, "model.recompute=selective"), sweep=False).scenarios[0]).kwargs
    (after_f, *_), (after_i, *_), (after_w, *_) = plan["memory"]
    assert (after_f, after_i, after_w) == pytest.approx((1, -2 / 34, -32 / 34))


def test_fits__fills_the_memory_and_no_more():
    cell = hops.simulate("schedule=zb_auto", "schedule.memory_limit=fits", "microbatches=32", *GPT)
    number = hops.simulate("schedule=zb_auto", "schedule.memory_limit=16", "microbatches=32", *GPT)
    per_microbatch = (number["peak_memory"][0] - cell["peak_memory"][0]) / (number["peak_in_flight"][0] - cell["peak_in_flight"][0])
    assert bool(cell["fits"])
    assert not bool(number["fits"])
    assert 0 <= float(cell["headroom"]) < 1.1 * float(per_microbatch)


def test_fits__holds_for_chunks_offload_and_fragmentation():
    for words in (["schedule=zb_v_auto"], ["schedule=zb_auto", "memory.offload=0.5"], ["schedule=zb_auto", "memory.fragmentation=0.2"]):
        cell = hops.simulate(*words, "schedule.memory_limit=fits", "microbatches=32", *GPT)
        assert bool(cell["fits"]), words
        assert float(cell["headroom"]) < 8e9


def test_fits__needs_a_model_that_says_and_room_for_one():
    with pytest.raises(ValueError, match="memory_limit=fits needs a model that says what activations take"):
        hops.simulate("schedule=zb_auto", "schedule.memory_limit=fits", "model=explicit")
    with pytest.raises(ValueError, match="memory_limit=fits is found in microbatches"):
        hops.simulate("schedule=zb_auto", "schedule.memory_limit=fits", "schedule.memory=[1,0,-1]", *GPT)
    with pytest.raises(Infeasible, match="zb_auto with memory_limit=fits finds no room on rank 0: it holds .* GB"):
        hops.simulate("schedule=zb_auto", "schedule.memory_limit=fits", "model=gpt3_175b", "topology=dgx_h100", "pp=8")


def test_fits__a_rank_without_layers_holds_as_many_as_there_are():
    words = ("schedule=zb_auto", "schedule.memory_limit=fits", "microbatches=32", "model.layout='E|(tttt|)*11ttttL'", *GPT, "pp=13")
    limits = schedule_for(plan_of_words(words, sweep=False).scenarios[0]).kwargs["memory_limit"]
    assert limits[0] >= 2**20  # the most that a scenario can ask for
    assert max(limits[1:]) < 100
