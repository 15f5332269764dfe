"""Shared by all tests: hypothesis profile, a way to evaluate one cell down to ticks, and the command line."""

import fcntl
import os
import sys
import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import settings
from numba.core.caching import FunctionCache
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher

import hops
from hops import jit, kernels, sweep
from hops.executor import law_rows, stacked
from hops.scenario import Scenario
from hops.schedules import SCHEDULES
from hops.simulation import prepare
from hops.workspace import workspace

settings.register_profile("hops", deadline=None, derandomize=True)
settings.load_profile("hops")

ORDERS = [name for name in SCHEDULES if name != "file"]  # schedules that need no file
FLUSHED = [name for name in ORDERS if SCHEDULES[name].steady is None]

CONFIG = {
    "schedule": {"name": "1f1b"},
    "topology": {"name": "uniform", "latency": 0.0, "bandwidth": float("inf")},
    "model": {"family": "explicit", "forward": 1.0, "backward_input": 1.0, "backward_weight": 1.0, "per": "rank", "p2p_bytes": 0.0},
    "efficiency": {},
    "memory": {},
    "latency": {"op": {"law": "none"}},
    "pp": 4,
    "vpp": None,
    "dp": 1,
    "tp": 1,
    "cp": 1,
    "cp_comm": "p2p",
    "cp_balance": "zigzag",
    "ep_coupling": "lockstep",
    "tp_comm_overlap": False,
    "ep_comm_overlap": False,
    "ep": 1,
    "etp": None,
    "microbatches": 8,
    "microbatch_size": 1,
    "gpus": None,
    "global_batch_size": None,
    "draws": 16,
    "seed": 0,
    "p2p": "latency",
    "recv": "early",
    "barrier": True,
    "contention": "none",
    "zero": 1,
    "dp_shard": None,
    "overlap_grad_reduce": False,
    "overlap_param_gather": False,
    "bucket_size": None,
    "overlap_slowdown": {},
    "host": {},
    "cuda_graph": False,
    "disturbance": [],
    "retry": {},
    "queue": None,
    "queue_free_at": "finish",
    "failure": {},
    "recovery": {"name": "restart"},
    "checkpoint": {},
    "run": {},
    "trials": 16,
}


def config(**changes):
    """A small config; ``schedule__name`` style keys reach into sections, whole sections replace."""
    made = {key: dict(value) if isinstance(value, dict) else value for key, value in CONFIG.items()}
    for key, value in changes.items():
        head, _, tail = key.partition("__")
        if tail:
            made[head][tail] = value
        else:
            made[key] = value
    return made


def scenario(**changes):
    return Scenario.from_config(config(**changes))


def run_ticks(case, first=0, n=None, split=(), graph=None):
    """Evaluate ``case``: per_draw (7, n) and exact moments (3, ranks, 9) as Python ints; ``split`` cuts the draws into calls.

    ``graph``: instead of its own.
    """
    n = case.scenario.draws if n is None else n
    graph = case.structure.graph if graph is None else graph
    law, tables = law_rows([case])
    cuts = [0, *split, n]
    parts, moments = [], np.zeros((3, graph.n_ranks, kernels.N_LIMBS), object)
    for a, b in pairwise(cuts):
        per_draw = np.empty((kernels.N_METRICS, 1, b - a), np.int64)
        sums = np.zeros((1, 3, graph.n_ranks, kernels.N_LIMBS), np.int64)
        cells, nobody = stacked([case]), np.empty((3, 0, graph.n_ranks, b - a), np.int64)
        space = workspace(graph, 0, int(cells.n_buckets.max()))
        kernels.evaluate(graph, cells, law, tables, first + a, space, per_draw, sums, nobody)
        parts.append(per_draw[:, 0])
        moments += sums[0]
    return np.concatenate(parts, axis=1), moments


def compile_once(dispatcher, signature, compiled=Dispatcher.compile, patience=120.0):
    """Compile a kernel while no other process compiles it: what one has made the others find in the cache.

    Kernels wait for those that they call, and these for no caller of theirs: nobody waits in a circle. A lock ends with its process.
    """
    if signature in dispatcher.overloads or not isinstance(dispatcher._cache, FunctionCache):
        return compiled(dispatcher, signature)
    function, until = dispatcher.py_func, time.monotonic() + patience
    with global_compiler_lock, open(COMPILING / f"{function.__module__}.{function.__qualname__}.lock", "w") as lock:
        while time.monotonic() < until:  # then it is compiled twice
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
        return compiled(dispatcher, signature)


COMPILING = jit.cache_folder()
Dispatcher.compile = compile_once


@pytest.fixture(scope="session", autouse=True)
def _compiled(request):
    """Compile the largest kernels before any test; of two workers that run the whole suite, one those of training runs (as long again)."""
    if os.environ.get("PYTEST_XDIST_WORKER", "gw0") == "gw1" and len(request.session.items) > 1000:
        run = ["failure=llama3", "run.iterations=9", "trials=2"]
        hops.simulate("model=explicit", "pp=1", "microbatches=1", "latency=none", "draws=1", *run)
    else:
        run_ticks(prepare(scenario(latency__op={"law": "lognormal"})))


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run a command line in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words, main=sweep.main):
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["hops", *words])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
