"""Cells without noise, side by side: 1,000 cells that differ in op times and hop, 1F1B p2p=latency, on all cores.

Goal: 3e9 op-cells a second on two cores. The rival is what the engine would do without the second kernel: the kernel of
draws, one draw a cell, on the same threads.
"""

import os

import numpy as np
import pytest

import hops
from hops import kernels
from hops.lowering import lower
from hops.noiseless import WINDOW, evaluate_noiseless
from hops.team import Team
from hops.workspace import Work, workspace

GOAL = 3e9
CELLS = 1000


@pytest.fixture(params=[(8, 32), (16, 128)], ids=["1f1b-p8-m32", "1f1b-p16-m128"])
def case(request):
    """Graph, work (w, c) and lag (l, c) of all cells; two of them where the benchmarks only have to run."""
    pp, m = request.param
    n_cells = CELLS if request.config.getoption("benchmark_enable") else 2
    rng = np.random.Generator(np.random.PCG64(1))
    work, lag = np.zeros((7 * pp, n_cells)), np.tile(rng.integers(10_000, 100_000, n_cells), (1 + 3 * pp, 1))
    work[: 4 * pp] = rng.uniform(5e6, 20e6, (4 * pp, n_cells))
    lag[0] = 0
    return lower(hops.program("1f1b", pp=pp, microbatches=m), "latency"), work, lag, 2 * pp * m * n_cells


@pytest.mark.benchmark(group="cells without noise")
def test_noiseless__hops(benchmark, case):
    graph, work, lag, n_op_cells = case
    n_cells = work.shape[1]
    nothing = np.zeros((graph.n_ranks, n_cells), np.int64)
    per_draw, per_rank = np.empty((kernels.N_METRICS, n_cells), np.int64), np.empty((3, graph.n_ranks, n_cells), np.int64)

    def task(at):
        evaluate_noiseless(graph, work, lag, nothing, nothing, at, min(at + WINDOW, n_cells), per_draw, per_rank)

    with Team(os.process_cpu_count()) as team:
        todo = [(at,) for at in range(0, n_cells, WINDOW)]
        team.run(task, todo)  # compile
        benchmark(team.run, task, todo)
    benchmark.extra_info |= {"most": 1e9 / GOAL, "units": n_op_cells, "unit": "ns per op and cell"}
    assert (per_draw[0] > 0).all()


@pytest.mark.benchmark(group="cells without noise")
def test_noiseless__draw_kernel(benchmark, case):
    graph, work, lag, n_op_cells = case
    n_cells, pp = work.shape[1], graph.n_ranks
    per_draw, moments = np.empty((kernels.N_METRICS, n_cells, 1), np.int64), np.zeros((n_cells, 3, pp, kernels.N_LIMBS), np.int64)
    none, tables, not_kept = np.full((n_cells, 5), -1), np.zeros((1, 1, 2)), np.empty((3, 0, pp, 1), np.int64)
    cells = Work(
        loss=np.zeros(n_cells, np.int64),
        tries=np.ones(n_cells, np.int64),
        timeouts=np.zeros((n_cells, 1), np.int64),
        work=np.ascontiguousarray(work.T)[:, None],
        lag=np.ascontiguousarray(lag.T)[:, None],
        link=np.zeros((n_cells, 1, 1 + 3 * pp), np.int64),
        host=np.zeros((n_cells, 4 * pp)),
        variant=np.zeros((n_cells, 1), np.int64),
        n_replicas=np.ones(n_cells, np.int64),
        seed=np.zeros(n_cells, np.uint64),
        n_buckets=np.zeros((n_cells, pp), np.int64),
        reduce=np.zeros((n_cells, pp)),
        gather=np.zeros((n_cells, pp)),
        ring=np.zeros((n_cells, pp), np.int64),
        slow=np.zeros((n_cells, 4 * pp)),
        update=np.zeros((n_cells, pp), np.int64),
        overlap=np.zeros((n_cells, 2), np.bool_),
    )

    def some(at):
        here = slice(at, at + WINDOW)
        some_cells, results = Work._make(each[here] for each in cells), (per_draw[:, here], moments[here], not_kept)
        kernels.evaluate(graph, some_cells, none[here], tables, 0, workspace(graph, 0, 0), *results)

    with Team(os.process_cpu_count()) as team:
        todo = [(at,) for at in range(0, n_cells, WINDOW)]
        team.run(some, todo)
        benchmark(team.run, some, todo)
    benchmark.extra_info |= {"units": n_op_cells, "unit": "ns per op and cell"}
