"""Metrics against their definitions, and the interval of a quantile against what it promises."""

import numpy as np
import pytest
import twin
from conftest import scenario

import hops
from hops.executor import Executor, evaluate
from hops.metrics import quantile_interval, statistics
from hops.simulation import prepare

MODEL = ("model=explicit", "model.forward=0.1", "model.backward_input=0.2", "model.backward_weight=0.15")
LINK = ("topology=uniform", "topology.latency=0.01", "topology.bandwidth=inf", "p2p=latency")


def test_definitions__by_hand_on_the_twins_timeline():
    cell = hops.simulate(*MODEL, *LINK, "latency=none", "pp=3", "microbatches=4", "schedule=zb_h1")
    program = hops.program("zb_h1", pp=3, microbatches=4)
    seconds = {(s, k): t for s in range(3) for k, t in (("F", 0.1), ("I", 0.2), ("W", 0.15))}
    pairs = [(a, b) for a in range(3) for b in range(3)]
    when, busy, exposed = twin.simulate(program, seconds, dict.fromkeys(pairs, 0.01), dict.fromkeys(pairs, 0.0), p2p="latency")
    makespan, span, total, most = twin.metrics(program, when, busy)
    first = {name: float(cell[name][0]) for name in cell if cell[name].dims == ("draw",)}
    assert first["makespan"] == first["iteration_time"] == makespan / 1e9
    assert first["span"] == span / 1e9
    assert first["bubble_fraction"] == pytest.approx(1 - total / (3 * makespan))
    assert first["bubble_ratio"] == pytest.approx((3 * makespan - total) / total)
    assert first["span_bubble_fraction"] == pytest.approx(1 - most / span)
    assert first["throughput"] == pytest.approx(4 / (makespan / 1e9))
    assert cell["busy_time"].values.tolist() == [b / 1e9 for b in busy]
    assert cell["exposed_communication"].values.tolist() == [e / 1e9 for e in exposed]
    assert cell["utilization"].values == pytest.approx([b / makespan for b in busy], abs=2**-40)
    assert cell["peak_in_flight"].values.tolist() == list(program.in_flight)
    assert not {"mfu", "hfu", "flops_per_gpu", "tokens_per_second"} & set(cell)


def test_barrier__false_waits_for_the_span():
    same = ("model=explicit", "model.forward=0.2", "model.backward_input=0.2", "model.backward_weight=0.2", *LINK)
    both = [hops.simulate(*same, "latency=none", "schedule=zb_h2", f"barrier={b}") for b in ("true", "false")]
    assert float(both[0]["iteration_time"][0]) == float(both[0]["makespan"][0]) > float(both[0]["span"][0])
    assert float(both[1]["iteration_time"][0]) == float(both[0]["span"][0])


def test_mfu__is_model_flops_over_peak():
    cell = hops.simulate("latency=none", "microbatch_size=2", "model.recompute=full")
    h, s, layers, v = 6144, 2048, 48, 51200
    flops = 72 * 32 * 2 * s * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h))
    time = float(cell["iteration_time"][0])
    assert float(cell["mfu"][0]) == pytest.approx(flops / (time * 8 * 989e12))
    assert float(cell["flops_per_gpu"][0]) == pytest.approx(flops / (time * 8))
    with_recomputation = 96 * 32 * 2 * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h))
    assert float(cell["hfu"][0]) == pytest.approx(with_recomputation / (time * 8 * 989e12))
    assert float(cell["throughput"][0]) == pytest.approx(64 / time)
    assert float(cell["tokens_per_second"][0]) == pytest.approx(64 * 2048 / time)


def test_busy_time__mean_and_deviation_are_those_of_the_draws():
    case = prepare(scenario(latency__op={"law": "lognormal", "cv": 0.3}, draws=300, pp=1, microbatches=6))
    (found,) = evaluate([case], Executor())
    makespan = found.per_draw["makespan"][0]  # one rank never waits: busy time and makespan are the same
    assert found.per_rank["busy_time"][0, 0] == pytest.approx(makespan.mean(), rel=1e-12)
    assert found.per_rank["busy_time_std"][0, 0] == pytest.approx(makespan.std(ddof=1), rel=1e-9)
    assert found.per_rank["utilization"][0, 0] == 1.0
    assert found.per_rank["utilization_std"][0, 0] == 0.0


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
def test_quantile_interval__covers_at_least_what_it_promises(q):
    """2,000 samples of 500 uniforms: coverage is at least 95 % in truth; below 93.5 % by chance once in 10^3 at most."""
    rng = np.random.Generator(np.random.PCG64(3))
    inside = 0
    for _ in range(2000):
        low, high = quantile_interval(rng.uniform(size=500), q)
        inside += low <= q <= high
    print(f"q={q}: covers {inside / 20:.1f} %")
    assert 0.935 <= inside / 2000 <= 0.985


def test_quantile_interval__says_where_the_sample_is_too_small():
    low, high = quantile_interval(np.arange(10.0), 0.99)
    assert np.isfinite(low)
    assert high == np.inf
    assert quantile_interval(np.arange(3.0), 0.5) == (-np.inf, np.inf)


def test_statistics__standard_error_and_certainty():
    values = np.array([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]])
    found = statistics(values, (0.5,), np.array([False, False]))
    assert found[""][:, 0].tolist() == [2.5, 5.0]
    assert found["_mean"].tolist() == [3.0, 5.0]
    assert found["_std"][0] == pytest.approx(np.std([1, 2, 3, 6], ddof=1))
    assert found["_standard_error"][0] == pytest.approx(found["_std"][0] / 2)
    one = statistics(values[:, :1], (0.5,), np.array([False, True]))
    assert np.isnan(one["_std"][0])  # one draw of something that varies says nothing about its spread
    assert one["_std"][1] == 0.0


def test_latency__per_gpu_is_the_slowest_of_the_ranks_gpus():
    """With tp=8 a rank waits for the slowest of eight: ops take about 1.42 standard deviations longer on average."""
    words = ("tp=8", "microbatches=8", "latency.op.cv=0.05", "draws=500")
    per_rank, per_gpu = hops.simulate(*words), hops.simulate(*words, "latency.per=gpu")
    ratio = float(per_gpu["busy_time"].sum() / per_rank["busy_time"].sum())
    assert ratio == pytest.approx(1 + 1.42 * 0.05, abs=0.004)
    alone = hops.simulate("tp=1", "microbatches=4", "draws=20", "latency.per=gpu")
    assert (alone["iteration_time"] == hops.simulate("tp=1", "microbatches=4", "draws=20")["iteration_time"]).all()
    with pytest.raises(ValueError, match=r"no latency.per named 'gpus'; did you mean 'gpu'\?"):
        hops.simulate("latency.per=gpus")


@pytest.mark.parametrize(("name", "updates"), [("pipedream", 8), ("pipedream_2bw", 1)])
def test_no_flush__all_metrics_are_those_of_a_batch(name, updates):
    """No bubble in steady state but for what ends a microbatch or a batch: the optimizer. A barrier has no meaning."""
    cells = [hops.simulate(*MODEL, *LINK, "topology.latency=0", "latency=none", "pp=4", "microbatches=8", f"schedule={name}", *more)
             for more in ((), ("barrier=false",), ("schedule.batches=3",))]  # fmt: skip
    for cell in cells:
        for metric in ("iteration_time", "makespan", "span"):
            assert float(cell[metric][0]) == pytest.approx(8 * 0.45)
        assert cell["busy_time"].values == pytest.approx([8 * 0.45] * 4)
        assert cell["utilization"].values.tolist() == [1.0] * 4
        assert float(cell["bubble_fraction"][0]) == float(cell["span_bubble_fraction"][0]) == 0
        assert float(cell["throughput"][0]) == pytest.approx(1 / 0.45)
        assert cell["exposed_communication"].values.tolist() == [0] * 4
    kept = hops.simulate(f"schedule={name}", "schedule.batches=3", "pp=4", "microbatches=8", "draws=3", "output.keep=draws")
    mean = hops.simulate(f"schedule={name}", "schedule.batches=3", "pp=4", "microbatches=8", "draws=3")
    assert kept["busy_time"].mean("draw").values == pytest.approx(mean["busy_time"].values)
    calm = hops.simulate(f"schedule={name}", "pp=4", "microbatches=8", "latency=none")
    assert mean["busy_time"].values == pytest.approx(calm["busy_time"].values, rel=0.1)
    flushed = hops.simulate("schedule=1f1b", "pp=4", "microbatches=8", "latency=none")
    update = float(flushed["iteration_time"][0] - flushed["makespan"][0])  # the slowest rank's
    assert 0 < float(calm["iteration_time"][0] - calm["span"][0]) <= updates * update
    assert float(calm["iteration_time"][0] - calm["span"][0]) == pytest.approx(updates * update, rel=0.2)
    thrice = hops.simulate(f"schedule={name}", "schedule.batches=3", "pp=4", "microbatches=8", "latency=none")
    assert float(thrice["iteration_time"][0] - thrice["span"][0]) == pytest.approx(float(calm["iteration_time"][0] - calm["span"][0]))
    time = float(calm["iteration_time"][0])
    assert float(calm["mfu"][0]) == pytest.approx(float(flushed["mfu"][0]) * float(flushed["iteration_time"][0]) / time)


def test_parts__change_nothing_that_is_counted_by_microbatch():
    whole, parts = (hops.simulate("schedule=seq1f1b", f"schedule.splits={q}", "pp=4", "microbatches=8", "latency=none") for q in (1, 4))
    assert parts["busy_time"].values == pytest.approx(whole["busy_time"].values)
    ratio = float(whole["iteration_time"][0] / parts["iteration_time"][0])
    assert ratio > 1
    for name in ("throughput", "tokens_per_second", "mfu", "hfu"):
        assert float(parts[name][0] / whole[name][0]) == pytest.approx(ratio)
