"""Whole processes, caches warm: what a user waits for at the terminal, against a bare import of the libraries."""

import subprocess
import sys

import pytest

CASES = {
    "1000-cells": ["-m", "seed=range(0,1000)", "draws=1"],  # goal of the first issue: under 3 s
    "main-job": ["-m", "schedule=1f1b,zb", "topology=dgx,pcie"],
}
GOALS = {"1000-cells": "3.0 s", "main-job": ""}


@pytest.fixture
def rounds(request):
    return 5 if request.config.getoption("benchmark_enable") else 1


def run(words, folder):
    subprocess.run([sys.executable, *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.benchmark(group="process")
def test_process__hops(benchmark, tmp_path, rounds, case):
    words = ["-m", "hops.sweep", *CASES[case]]
    if rounds == 1:
        words += ["microbatches=2"]
    benchmark.extra_info |= {"limit": GOALS[case]}
    benchmark.pedantic(run, (words, tmp_path), rounds=rounds, warmup_rounds=rounds > 1)
    assert len(list(tmp_path.glob("results/*/cube.nc"))) >= 1


@pytest.mark.benchmark(group="process")
def test_process__imports(benchmark, tmp_path, rounds):
    benchmark.pedantic(run, (["-c", "import numpy, numba, xarray, hydra"], tmp_path), rounds=rounds, warmup_rounds=rounds > 1)
