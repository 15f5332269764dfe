"""Why iterations take as long, and the page that shows it.

Goals: attribution takes at most as much again as the plain kernel, so it is at least 0.5 x as fast (1F1B p=8 m=32, channels, one
core); the report of a cube of 500 cells under 5 s as a whole process, and under 3 MB.
"""

import subprocess
import sys

import numpy as np
import pytest

from hops import sweep_cube
from hops.attribution import attributed
from hops.cube import write_cube
from hops.executor import Executor, evaluate
from hops.plan import prepare_plan
from hops.recipes import plan_of_words
from hops.report import prepared_again, write_report

SERIAL = Executor(threads=1)
CELLS = ("schedule=1f1b,zb,gpipe,zb_h2,eager_1f1b", "microbatches=range(8,58,2)", "topology=dgx,pcie", "latency.op.cv=0.05,0.2")  # 500
FEW = ("schedule=1f1b,zb", "pp=2", "microbatches=2,4", "draws=20")


def timed(benchmark, run):
    draws = 4096 if benchmark.enabled else 16
    case = prepare_plan(plan_of_words((f"draws={draws}",), sweep=False)).cases[0]
    run(case)  # compile
    benchmark(run, case)
    n_ops = int(np.count_nonzero(case.structure.graph.rank >= 0))
    benchmark.extra_info |= {"units": n_ops * draws, "unit": "ns per op and draw"}


@pytest.mark.benchmark(group="a critical path")
def test_attribution__hops(benchmark):
    timed(benchmark, lambda case: attributed(case, SERIAL))
    benchmark.extra_info |= {"goal": 0.5}


@pytest.mark.benchmark(group="a critical path")
def test_attribution__plain(benchmark):
    timed(benchmark, lambda case: list(evaluate([case], SERIAL)))


@pytest.mark.benchmark(group="a report")
def test_report__hops(benchmark, tmp_path):
    cube, folder = sweep_cube(*(CELLS if benchmark.enabled else FEW)), tmp_path / "x"
    folder.mkdir()
    write_cube(cube, folder / "cube.nc")
    if benchmark.enabled:
        command = [sys.executable, "-m", "hops.report", str(folder)]
        benchmark.pedantic(subprocess.run, (command,), {"check": True, "capture_output": True}, rounds=3, warmup_rounds=1)
    else:
        benchmark(write_report, cube, prepared_again(cube)[0], folder, "x")
    benchmark.extra_info |= {"limit": "5 s"}
    assert (folder / "report.html").stat().st_size < 3e6
