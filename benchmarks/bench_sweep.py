"""Whole processes, caches warm: what a user waits for at the terminal, against a bare import of the libraries.

And what one cell more costs, after start-up: against one job more of Hydra's own sweeper.
"""

import re
import statistics
import subprocess
import sys
import time

import pytest

from hops import sweep
from hops.__main__ import main

SWEEP = ["-m", "hops.sweep", "-m"]
# 480 layouts; 198 of them come out, the others are masked with the reason
LAYOUTS = ["gpus=1024", "global_batch_size=1536", "model=gpt3_175b", "schedule=interleaved", "topology=fat_tree", "draws=100"]
LAYOUTS += ["tp=8,4,2,1", "pp=8,4,2,16,32", "vpp=2,3,4,6", "microbatch_size=6,8,4,3,2,1"]
CASES = {
    "main-job": ([*SWEEP, "schedule=1f1b,zb", "topology=dgx,pcie"], "2.5 s and 2.5 x the imports"),
    "1000-cells": ([*SWEEP, "seed=range(0,1000)", "draws=1"], "3.0 s"),
    "10000-cells-100-draws": ([*SWEEP, "seed=range(0,10000)", "draws=100"], "6.0 s"),
    "480-layouts": ([*SWEEP, *LAYOUTS], "10.0 s"),
    "help": (["-m", "hops", "--help"], "0.5 s"),
    "cfg-job": (["-m", "hops", "--cfg", "job"], "0.5 s"),
}


@pytest.fixture
def rounds(request):
    return 5 if request.config.getoption("benchmark_enable") else 1


@pytest.fixture
def run(rounds, tmp_path, monkeypatch):
    """Run a command line as a process; where nothing is timed, in this one."""
    monkeypatch.chdir(tmp_path)

    def process(words):
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

    def here(words):
        monkeypatch.setattr(sys, "argv", words[1:])
        try:
            (sweep.main if words[1] == "hops.sweep" else main)()
        except SystemExit as stop:
            if stop.code:
                raise

    return process if rounds > 1 else here


def small(words):
    """The same, small enough to try whether it runs."""
    words = [word.replace("range(0,10000)", "range(0,2)").replace("range(0,1000)", "range(0,2)") for word in words]
    return [re.sub(r"^((tp|pp|vpp|microbatch_size)=\d+),.*", r"\1", word) for word in words]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.benchmark(group="process")
def test_process__hops(benchmark, tmp_path, run, rounds, case):
    words, limit = CASES[case]
    benchmark.extra_info |= {"limit": limit}
    benchmark.pedantic(run, (words if rounds > 1 else small(words),), rounds=rounds, warmup_rounds=rounds > 1)
    assert bool(list(tmp_path.glob("results/*/cube.nc"))) == ("hops.sweep" in words)


@pytest.mark.benchmark(group="process")
def test_process__imports(benchmark, rounds):
    words = [sys.executable, "-c", "import numpy, numba, xarray, hydra"]
    benchmark.pedantic(subprocess.run, (words,), {"check": True}, rounds=rounds, warmup_rounds=rounds > 1)


@pytest.mark.parametrize(("sweeper", "n"), [("cube", 1000), ("basic", 20)], ids=["hops", "basic"])
@pytest.mark.benchmark(group="one cell more")
def test_cell(benchmark, tmp_path, run, rounds, sweeper, n):
    """A process with ``n`` cells more than another; a cell of each costs a job of one draw."""

    def words(cells):
        return [*SWEEP, f"hydra/sweeper={sweeper}", f"seed=range(0,{cells})", "draws=1"]

    starts = []
    for _ in range(rounds):
        begin = time.perf_counter()
        run(words(1))
        starts.append(time.perf_counter() - begin)
    n = n if rounds > 1 else 1
    benchmark.pedantic(run, (words(1 + n),), rounds=rounds)
    benchmark.extra_info |= {"start": statistics.median(starts), "units": n, "unit": "ns per cell after start-up"}
    benchmark.extra_info |= {"goal": 50} if sweeper == "cube" else {}
