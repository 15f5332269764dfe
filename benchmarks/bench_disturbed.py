"""One iteration with a slow rank: 1F1B p=16 m=64 with channels, by its longest path, in the event loop, and in SimPy. One core.

Goal: 50 ns an op or message in the event loop (20 million events a second). The rival is SimPy, with the same answer.
"""

import numpy as np
import pytest
from rivals import SimPyIteration

from hops.contended import run_draw
from hops.disturbed import disturbed_iterations, make_bench
from hops.scenario import Scenario
from hops.simulation import prepare
from hops.speeds import NEVER, make_speeds

GOAL = 20e6
FORWARD, TRANSFER, HOP = 0.01, 1e-3, 1e-5


@pytest.fixture(params=[(16, 64)], ids=["1f1b-p16-m64"])
def sizes(request):
    return request.param if request.config.getoption("benchmark_enable") else (4, 4)


def laid_out(sizes, loop):
    """A bench of that iteration with its last rank at half its speed, and the speeds."""
    from conftest import config

    pp, microbatches = sizes
    model = {"family": "explicit", "forward": FORWARD, "backward_input": FORWARD, "backward_weight": FORWARD, "per": "stage"}
    topology = {"name": "uniform", "latency": HOP, "bandwidth": 1 / TRANSFER}
    made = {"pp": pp, "microbatches": microbatches, "model": model | {"p2p_bytes": 1.0}, "topology": topology, "p2p": "channel"}
    bench = make_bench(prepare(Scenario.from_config(config(**made))), loop)
    return bench, make_speeds(bench.resources.n, {bench.resources.rank(0, pp - 1): [(0, NEVER, 1, 2)]})


@pytest.mark.benchmark(group="an iteration with a slow rank")
@pytest.mark.parametrize("loop", [False, True], ids=["path", "events"])
def test_disturbed__hops(benchmark, sizes, loop):
    bench, speeds = laid_out(sizes, loop)
    disturbed_iterations(bench, 0, 0, 1, speeds)
    benchmark(run_draw, bench.joint._replace(speeds=speeds), bench.times, 0)
    benchmark.extra_info |= {"most": 1e9 / GOAL, "units": bench.joint.activity.size, "unit": "ns per op or message"}
    assert bench.times.finish.max() == rival(sizes).run()


@pytest.mark.benchmark(group="an iteration with a slow rank")
def test_disturbed__simpy(benchmark, sizes):
    pp, microbatches = sizes
    made = rival(sizes)
    makespan = benchmark(made.run)
    benchmark.extra_info |= {"units": 2 * pp * microbatches + 2 * (pp - 1) * microbatches, "unit": "ns per op or message"}
    assert makespan == np.int64(disturbed_iterations(*_asked(laid_out(sizes, False)))[0, 0])


def rival(sizes):
    import hops

    pp, microbatches = sizes
    return SimPyIteration(hops.program("1f1b", pp=pp, microbatches=microbatches), FORWARD, TRANSFER, HOP, slow=pp - 1, times=2)


def _asked(laid):
    bench, speeds = laid
    return bench, 0, 0, 1, speeds
