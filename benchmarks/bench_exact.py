"""A training run whose every iteration is evaluated: 1,000 of 1F1B p=16 m=64 with channels, 50 failures, checkpoints. One core.

Goal: 100 times faster than SimPy, and 3 times faster than every iteration through the event loop (``run.engine=event``), which gives
the same to the bit. SimPy has no noise to draw, and is timed over 20 iterations and one failure.
"""

import json

import numpy as np
import pytest
from rivals import SimPyIteration, SimPyRun

import hops
from hops.executor import evaluate_iterations
from hops.plan import prepare_plan
from hops.recipes import plan_of_words
from hops.runs import run_case
from hops.team import Team

FORWARD, TRANSFER, HOP = 0.01, 1e-3, 1e-5
EVERY, COST, DETECTION, RESTART = 20, 0.5, 1.0, 2.0
ITERATION = 2.5  # s, about


@pytest.fixture
def sizes(request):
    """Ranks, microbatches, iterations, failures; few where the benchmarks only have to run."""
    return (16, 64, 1000, 50) if request.config.getoption("benchmark_enable") else (4, 4, 12, 1)


def made(sizes, folder, engine, latency="lognormal"):
    """A case, a pool (which is not drawn from), and what takes its trials."""
    pp, microbatches, n, n_failures = sizes
    path = folder / "failures.jsonl"
    every = n * FORWARD * 3 * (microbatches + pp - 1) / (n_failures + 1)
    lines = [
        {"t_ns": round((k + 1) * every * 1e9) + 12345, "nodes": [0], "detection_ns": round(DETECTION * 1e9)} for k in range(n_failures)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    model = (f"model.forward={FORWARD}", f"model.backward_input={FORWARD}", f"model.backward_weight={FORWARD}", "model.p2p_bytes=1.0")
    words = (
        "model=explicit", *model, "model.per=stage", f"pp={pp}", f"microbatches={microbatches}", f"latency={latency}", "topology=uniform",
        f"topology.latency={HOP}", f"topology.bandwidth={1 / TRANSFER}", "p2p=channel", f"run.iterations={n}", "run.tier=exact",
        f"run.engine={engine}", "trials=1", "draws=8", "failure=file", f"failure.script={path}", "recovery.init=0",
        f"recovery.load={RESTART}",
        f"checkpoint.cost={COST}", f"checkpoint.interval={EVERY * FORWARD * 3 * (microbatches + pp - 1) * 1.01}",
    )  # fmt: skip
    (case,) = prepare_plan(plan_of_words(words, sweep=False)).cases
    return case, evaluate_iterations(case, 0, 0, case.scenario.draws)


@pytest.mark.benchmark(group="1,000 iterations, each evaluated")
@pytest.mark.parametrize("engine", ["hybrid", "event"])
def test_exact__hops(benchmark, sizes, tmp_path, engine):
    case, pool = made(sizes, tmp_path, engine)
    with Team(1) as team:
        run_case(case, pool, team)
        found = benchmark(run_case, case, pool, team)
    benchmark.extra_info |= {"units": sizes[2], "unit": "ns per iteration"} | ({"goal": 100} if engine == "hybrid" else {})
    assert found.metrics["n_failures"][0] == sizes[3]


@pytest.mark.benchmark(group="1,000 iterations, each evaluated")
def test_exact__simpy(benchmark, sizes, tmp_path):
    pp, microbatches, *_ = sizes
    program = hops.program("1f1b", pp=pp, microbatches=microbatches)
    short = (pp, microbatches, 20, 1)
    case, pool = made(short, tmp_path, "hybrid", "none")
    with Team(1) as team:
        found = run_case(case, pool, team)
    ((line,),) = case.scenario.training.failures.script
    rival = SimPyRun(SimPyIteration(program, FORWARD, TRANSFER, HOP), 20, found.course.every, COST, [line.tick], DETECTION + RESTART)
    wall = benchmark(rival.run)
    benchmark.extra_info |= {"units": 20, "unit": "ns per iteration"}
    assert np.int64(wall) == found.results[0, 6]
