"""Training runs: 54 days of 16,384 GPUs at the rate of Llama 3 (419 stops, iterations of 6 s), 1,000 trials, restart, all cores.

Goal: under 4 s on two cores. The rival is one trial in numpy: iterations drawn and summed from one failure to the next.
"""

import os

import numpy as np
import pytest

from hops.checkpoints import Checkpoint
from hops.course import DONE, N_FAILURES, N_RESULTS
from hops.data_parallel import DataParallel
from hops.episodes import run_trials
from hops.faults import make_failures
from hops.hazards import hazards
from hops.layout import Layout
from hops.places import make_space
from hops.recovery import RECOVERIES
from hops.runs import course_of, way_of
from hops.sections import frozen
from hops.team import Team
from hops.topologies import TOPOLOGIES
from hops.training import Run, Training

TRIALS = 1000
MTBF = 54 * 86400 / 419  # s


@pytest.fixture(params=[TRIALS], ids=["llama3"])
def run(request):
    """What can fail, the course and the way back, and how many trials; two where the benchmarks only have to run."""
    failures = make_failures(frozen({"faults": {"node": {"mean": MTBF * 2048}}}))
    training = Training(Run(None, 54.0), TRIALS, failures, RECOVERIES["restart"].make(), Checkpoint("young", 10.0, 0.0))
    h = hazards(training, TOPOLOGIES["dgx"].build(16384), Layout(16, 128, 8), DataParallel())
    ticks = np.random.Generator(np.random.PCG64(0)).normal(6e9, 6e7, 1000)
    pool = np.ascontiguousarray(np.stack([ticks, 1500 * ticks, 100 * ticks]).astype(np.int64))
    return (
        h,
        course_of(training, h, pool, 0, 1),
        way_of(training.machine),
        request.param if request.config.getoption("benchmark_enable") else 2,
    )


@pytest.mark.benchmark(group="training runs")
def test_runs__hops(benchmark, run):
    h, course, way, trials = run
    results = np.zeros((trials, N_RESULTS), np.int64)

    def task(at):
        space = make_space(course.horizon // int(course.pool[0].min()) + 1, h, way.spares)
        run_trials(h, course, way, at, space, results[at : at + 8])

    with Team(os.process_cpu_count()) as team:
        task(0)  # compile
        benchmark(team.run, task, [(at,) for at in range(0, trials, 8)])
    benchmark.extra_info |= {"limit": "4 s", "units": int(results[:, DONE].sum()), "unit": "ns per iteration"}
    assert abs(results[:, N_FAILURES].mean() - 419) < 5 * 20.5 / trials**0.5


@pytest.mark.benchmark(group="training runs")
def test_runs__numpy(benchmark, run):
    _, course, _, trials = run
    times, every, horizon = course.pool[0] / 1e9, course.every, 54 * 86400.0 / (1 if trials == TRIALS else 50)

    def trial():
        rng = np.random.Generator(np.random.PCG64(1))
        now, done, failure = 0.0, 0, rng.exponential(MTBF)
        while now < horizon:
            n = int(1.2 * (failure - now) / 6) + 2
            ends = now + np.cumsum(times[rng.integers(0, times.size, n)] + np.where(np.arange(1, n + 1) % every, 0.0, 10.0))
            kept = int(np.searchsorted(ends, min(failure, horizon), side="right"))
            done += kept // every * every if failure < horizon else kept
            now = min(failure, horizon) + 230.0
            failure = now + rng.exponential(MTBF)
        return done

    done = benchmark(trial)
    benchmark.extra_info |= {"units": done, "unit": "ns per iteration"}
    assert done > 0
