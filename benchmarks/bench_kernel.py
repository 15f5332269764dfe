"""The kernel against batched numpy: 1F1B p=8 m=32 (512 ops), log-normal op noise, p2p=latency, one core.

Goal: at least 8 times the op-draws a second. The kernel also does what the rival does not: exposed communication and
exact moments of every rank.
"""

import numpy as np
import pytest
from rivals import BatchedNumpy

import hops
from hops import kernels
from hops.executor import Executor, evaluate, law_rows, stacked
from hops.plan import prepare_plan
from hops.recipes import plan_of_words
from hops.workspace import workspace

GOAL = 8.0
SECONDS, HOP, CV = 10e-3, 100e-6, 0.05


@pytest.fixture(params=[(8, 32, 4096)], ids=["1f1b-p8-m32"])
def size(request):
    """Ranks, microbatches, draws; one small window where the benchmarks only have to run."""
    pp, m, n = request.param
    return pp, m, n if request.config.getoption("benchmark_enable") else 8


def make_kernel(pp, m, n):
    model = [f"model.{key}={SECONDS}" for key in ("forward", "backward_input", "backward_weight")]
    sizes = [f"pp={pp}", f"microbatches={m}", f"draws={n}", f"latency.op.cv={CV}"]
    link = ["topology=uniform", f"topology.latency={HOP}", "topology.bandwidth=inf", "p2p=latency"]
    (case,) = prepare_plan(plan_of_words(("model=explicit", *model, *sizes, *link), sweep=False)).cases
    law, tables = law_rows([case])
    per_draw, moments = np.empty((kernels.N_METRICS, 1, n), np.int64), np.zeros((1, 3, pp, kernels.N_LIMBS), np.int64)
    graph = case.structure.graph
    space, nobody = workspace(graph, 0, 0), np.empty((3, 0, pp, n), np.int64)
    return (graph, stacked([case]), law, tables, 0, space, per_draw, moments, nobody), per_draw


@pytest.mark.benchmark(group="kernel")
def test_kernel__hops(benchmark, size):
    arguments, per_draw = make_kernel(*size)
    kernels.evaluate(*arguments)  # compile
    benchmark(kernels.evaluate, *arguments)
    benchmark.extra_info |= {"goal": GOAL, "units": size[0] * size[1] * 2 * size[2], "unit": "ns per op and draw"}
    assert (per_draw[0] > 0).all()


@pytest.mark.parametrize("threads", [2, 1], ids=["hops", "one_thread"])
@pytest.mark.benchmark(group="threads")
def test_threads(benchmark, request, threads):
    """60,000 draws of the default cell."""
    n_draws = 60_000 if request.config.getoption("benchmark_enable") else 8
    (case,) = prepare_plan(plan_of_words((f"draws={n_draws}",), sweep=False)).cases
    list(evaluate([case], Executor(threads=threads)))  # compile
    benchmark.pedantic(lambda: list(evaluate([case], Executor(threads=threads))), rounds=15 if n_draws > 8 else 1)
    benchmark.extra_info |= {"units": n_draws * 512, "unit": "ns per op and draw"} | ({"goal": 1.8} if threads == 2 else {})


@pytest.mark.benchmark(group="replicas")
def test_replicas__hops(benchmark, request):
    """128 replicas of p=16, m=64 with channels, 1,000 draws, on all cores: 262 million op-draws in under a second."""
    sizes = ["dp=128", "pp=16", "microbatches=64", "draws=1000"] if request.config.getoption("benchmark_enable") else ["dp=2", "draws=8"]
    (case,) = prepare_plan(plan_of_words(tuple(sizes), sweep=False)).cases
    list(evaluate([case], Executor()))  # compile
    benchmark.pedantic(lambda: list(evaluate([case], Executor())), rounds=5 if len(sizes) > 2 else 1)
    benchmark.extra_info |= {
        "limit": "1.0 s",
        "units": 2 * case.scenario.pp * case.scenario.microbatches * case.scenario.dp * case.scenario.draws,
    }
    benchmark.extra_info |= {"unit": "ns per op and draw"}


@pytest.mark.benchmark(group="kernel")
def test_kernel__numpy(benchmark, size):
    pp, m, n = size
    batch = min(n, 1024)  # the rival's best: 512 to 2048 are alike, beyond the finish times leave the cache
    rival = BatchedNumpy(hops.program("1f1b", pp=pp, microbatches=m), SECONDS, HOP, CV, batch)
    benchmark(rival.run)
    benchmark.extra_info |= {"units": pp * m * 2 * batch, "unit": "ns per op and draw"}
    arguments, ours = make_kernel(pp, m, batch)
    kernels.evaluate(*arguments)
    if n >= 1024:  # the same distribution: means within 1e-3, when the standard error of each is about 1e-4
        assert rival.makespan.mean() == pytest.approx(ours[0].mean() / 1e9, rel=1e-3)
        assert rival.busy.sum(axis=0).mean() == pytest.approx(ours[2].mean() / 1e9, rel=1e-3)
