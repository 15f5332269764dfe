"""Training runs of cells: what no failure changes, what must add up, what must not depend on how it is evaluated."""

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import twin_elastic
import twin_runs
from conftest import run_ticks

import hops
from hops import course as columns
from hops import kernels
from hops.__main__ import main as report
from hops.checks import Infeasible
from hops.elastic import find
from hops.executor import evaluate as evaluate_cells
from hops.executor import evaluate_iterations, make_executor
from hops.plan import prepare_plan
from hops.recipes import plan_of_words
from hops.runs import failures_of, run_case
from hops.team import Team
from hops.variables import VARIABLES, attributes

SMALL = ("model=explicit", "pp=2", "microbatches=4", "draws=50", "topology.nodes=2")
FAULT = "+failure.faults.gpu={scope: device, mean: 20.0, detection: 0.5, repair: 4.0}"
RUN = (*SMALL, "run.iterations=300", "trials=6", "checkpoint.cost=0.1", "recovery.init=0.2", "recovery.load=0.3")


def outcomes(*overrides, threads=2):
    """What `hops.runs` makes of one cell, before it becomes a Dataset."""
    (case,) = prepare_plan(plan_of_words(overrides, sweep=False)).cases
    (outcome,) = evaluate_cells([case], make_executor({"threads": threads}))
    with Team(threads) as team:
        return case, outcome, run_case(case, outcome.pool(0, case), team)


def same(a, b):
    for name in [name for name in VARIABLES if VARIABLES[name].per.startswith("trial")]:
        assert np.array_equal(a[name].values, b[name].values, equal_nan=True), name


def test_run__without_one_nothing_is_added():
    cell = hops.simulate(*SMALL)
    assert not set(cell.dims) & {"trial", "bucket"}
    assert not [name for name in cell if name in VARIABLES and VARIABLES[str(name)].per.startswith("trial")]


@pytest.mark.parametrize("tier", ["resampled", "exact"])
def test_run__without_failures_is_the_healthy_run(tier):
    cell = hops.simulate(*RUN, f"run.tier={tier}")
    assert (cell["goodput_fraction"] == 1).all()
    assert (cell["ettr"] == 1).all()
    assert (cell["n_checkpoints"] == 0).all()
    assert (cell["n_failures"] == 0).all()


def test_exact__without_failures_is_the_sum_of_the_cell_s_draws():
    case, outcome, runs = outcomes(*RUN, "run.tier=exact", "draws=300")
    assert int(runs.results[0, columns.NOW]) == int(outcome.ticks[kernels.STEP, 0].sum())
    assert len(set(runs.results[:, columns.NOW].tolist())) == 6  # every trial has noise of its own
    assert (evaluate_iterations(case, 0, 0, 300) == outcome.pool(0, case)).all()


@pytest.mark.parametrize("recovery", ["restart", "peer_memory"])
def test_exact__equals_the_twin_whose_every_attempt_is_a_draw_of_its_own(recovery):
    """Attempt a at iteration i is draw a x 2^26 + i of the trial: evaluated one by one, as the twin asks for them."""
    nodes = ("topology.nodes=2", "topology.order=[0,8]", "run.iterations=120", "checkpoint.interval=1.0", "trials=1")
    case, _, runs = outcomes(*RUN, FAULT, *nodes, f"recovery={recovery}", "run.tier=exact")
    h, known = case.hazards, {}

    class Pool:
        def __len__(self):
            return 1

        def __getitem__(self, at):
            i, attempt = at
            if at not in known:
                ticks, _ = run_ticks(case, first=attempt * 2**26 + i, n=1)
                known[at] = tuple(int(ticks[row, 0]) for row in (kernels.STEP, kernels.TOTAL_BUSY, kernels.TOTAL_EXPOSED))
            return known[at]

    machine, course = case.scenario.training.machine, runs.course
    ways = (machine.states, machine.memory.states if machine.memory else ())
    states = [[(s.bucket, round(s.seconds * 1e9), s.acquires) for s in way] for way in ways]
    job = twin_runs.Job(
        Pool(), states[0], course.n_iterations, every=course.every, cost=course.cost, copy_every=course.copy_every,
        memory_states=states[1] or None, groups=[h.group_node[a:b].tolist() for a, b in zip(h.group[:-1], h.group[1:], strict=True)],
    )  # fmt: skip
    (lines,) = failures_of(runs)
    failures = twin_runs.Failures([], 0, 0, [(line.tick, line.nodes, line.detection, line.repair) for line in lines])
    with patch.object(twin_runs, "draw", lambda job, trial, i, attempt: (i, attempt)):
        wanted = twin_runs.run(job, failures, 0)
    r = runs.results[0]
    assert [int(each) for each in r[:8]] == [
        wanted[key] for key in ("useful", "wasted", "checkpoint", "detection", "recovery", "queue", "now", "done")
    ]
    assert wanted["lost"] > 0
    assert wanted["healthy"] == r[columns.HEALTHY]


def test_rate__of_zero_is_no_failure():
    same(hops.simulate(*RUN), hops.simulate(*RUN, FAULT, "failure.rate=0"))


@pytest.mark.parametrize("recovery", ["restart", "spare", "peer_memory", "just_in_time"])
def test_ledger__adds_up_to_all_gpus_and_the_wall_clock(recovery):
    sizes = ("pp=2", "dp=8", "zero=0", "recovery.spares=2" if recovery == "spare" else "recovery.init=0.2")
    _, _, runs = outcomes(*RUN, FAULT, *sizes, f"recovery={recovery}", "run.days=0.005", "run.iterations=null")
    n = 16 + (16 if recovery == "spare" else 0)
    assert (runs.ledger.sum(axis=1) == [n * int(r[columns.NOW]) for r in runs.results]).all()
    assert runs.ledger.min() >= 0
    assert (runs.results[:, columns.NOW] == round(0.005 * 86400 * 1e9)).all()
    if recovery == "spare":
        assert runs.ledger[:, -1].sum() > 0  # some were away


def test_ledger__has_no_negative_bubble_where_iterations_slide_into_one_another():
    """ZB-H2 without waits in its steady state: ranks wait for their first message before they are in the iteration at all."""
    times = ("model=explicit", "model.per=stage", "model.forward=1.2", "model.backward_input=0.9", "model.backward_weight=1.3")
    link = ("topology=uniform", "topology.latency=0.1", "topology.bandwidth=inf", "p2p=latency", "latency=none", "barrier=false")
    cell = hops.simulate("schedule=zb_h2", *times, *link, "pp=4", "microbatches=16", "run.iterations=3", "trials=1")
    spent = cell["ledger"].isel(trial=0)
    assert float(spent.sum()) == pytest.approx(4 * 3 * 54.4)
    assert float(spent.sel(bucket="useful")) == pytest.approx(4 * 3 * 54.4)
    assert (spent >= 0).all()


def test_trials__depend_neither_on_threads_nor_on_each_other():
    many = hops.simulate(*RUN, FAULT, "trials=12", "executor.threads=2")
    same(many, hops.simulate(*RUN, FAULT, "trials=12", "executor.threads=1"))
    same(many.isel(trial=slice(0, 6)), hops.simulate(*RUN, FAULT))
    assert len(set(many["wall_time"].values.tolist())) == 12


@pytest.mark.parametrize("extra", [("failure.clock=exposure",), ("recovery=spare", "recovery.spares=1"), ("run.tier=exact",)])
def test_script__replays_to_the_same_bits(extra, command):
    words = (*RUN, FAULT, *extra, "checkpoint.interval=2.0")
    code, said, error = command(*words, "output.failures=f.jsonl", main=report)
    assert code == 0, error
    assert "written: f.jsonl" in said
    again = [each for each in words if not each.startswith(("+failure", "failure"))]
    same(hops.simulate(*words), hops.simulate(*again, "failure=file", "failure.script=f.jsonl"))
    line = json.loads(Path("f.jsonl").read_text().splitlines()[0])
    assert set(line) == {"trial", "t_ns", "fault", "nodes", "detection_ns", "repair_ns"}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 1 is not a JSON object"),
        ("[1]", "line 1 is not a JSON object"),
        ("", "has no failures"),
        ('{"nodes": [0]}', "line 1 has no t_ns"),
        ('{"t_ns": -1}', "line 1: t_ns must be a whole number from 0"),
        ('{"t_ns": 1, "node": 0}', "no key of .* named 'node'; did you mean 'nodes'"),
        ('{"t_ns": 5, "nodes": [0]}\n{"t_ns": 4}', "line 2: t_ns=4 comes after 5; lines of a trial must be in order"),
        ('{"t_ns": 5, "nodes": [7]}', "lets node 7 fail; the job has nodes 0 to 0"),
        ('{"t_ns": 5, "nodes": []}', "nodes must list places in the job"),
        ('{"t_ns": 5, "trial": 0}\n{"t_ns": 5}', "some lines have a trial and some have none"),
        ('{"t_ns": 5, "trial": 0}\n{"t_ns": 5, "trial": 1}', r"has failures of 2 trials; got trials=6 \(try trials=2\)"),
    ],
)
def test_script__bad_lines_are_refused_by_number(line, sentence, tmp_path):
    (tmp_path / "f.jsonl").write_text(line)
    with pytest.raises(ValueError, match=sentence):
        hops.simulate(*RUN, "failure=file", f"failure.script={tmp_path}/f.jsonl")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("checkpoint.interval=0.05",), "checkpoint.interval=0.05 is less than the checkpoint.cost=0.1 s of writing one"),
        (("checkpoint.cost=500", FAULT), "checkpoint.interval=young makes .* s, less than .* as a failure comes every"),
        ((FAULT, "+failure.faults.gpu.size=null", "failure.faults.gpu.scope=rack"), "no failure.faults.gpu.scope .* named 'rack'"),
        ((FAULT, "recovery=just_in_time"), "no other replica holds the state of GPU 0"),
        ((FAULT, "recovery=peer_memory"), "2 copies of a node's state need as many nodes; the job has 1"),
        ((FAULT, "failure.faults.gpu.mean=0.05", "checkpoint.interval=3.0"), "does not come to an end: after .* failures"),
        ((FAULT, "run.tier=exact", "run.days=1", "run.iterations=null"), "run.tier=exact evaluates every iteration"),
        ((FAULT, "run.tier=analytic", "recovery=spare"), "run.tier=analytic has no formula for a strategy with spares"),
        (("schedule=pipedream",), "pipedream has no flush, so its iterations do not end one by one"),
        (("run.days=1e9", "run.iterations=null"), "the run has up to .* iterations; at most"),
    ],
)
def test_bad_input__is_refused_with_the_number(overrides, sentence):
    with pytest.raises(ValueError, match=sentence):
        hops.simulate(*RUN, *overrides)


def test_cube__runs_and_cells_without_one_side_by_side():
    cube = hops.sweep_cube(*RUN, FAULT, "failure.rate=0,1", "checkpoint.interval=0.5,2")
    assert cube["goodput"].dims == ("rate", "interval", "quantile")
    assert cube["ledger"].dims == ("rate", "interval", "bucket")
    assert {name for name, each in VARIABLES.items() if each.per.startswith("trial")} <= set(cube)
    for name in cube.data_vars:
        if name not in ("evaluated", "fits", "shared_links"):
            assert cube[name].attrs == attributes(str(name))
    alone = hops.simulate(*RUN, FAULT, "checkpoint.interval=2")
    found = cube.sel(rate=1, interval=2)
    assert float(found["goodput_fraction_mean"]) == float(alone["goodput_fraction_mean"])
    assert (found["ledger"].values == alone["ledger"].mean("trial").values).all()
    kept = hops.sweep_cube(*RUN, FAULT, "failure.rate=0,1", "output.keep=draws")
    assert (kept["goodput"].sel(rate=1).values == hops.simulate(*RUN, FAULT)["goodput"].values).all()


def test_cube__a_run_that_never_ends_leaves_its_cell_empty_and_says_why():
    sweep = (*RUN, FAULT, "failure.faults.gpu.mean=0.2,20", "checkpoint.interval=3.0", "trials=2")
    cube = hops.sweep_cube(*sweep)
    assert np.isnan(cube["goodput_mean"].sel(mean=0.2))
    assert float(cube["goodput_mean"].sel(mean=20)) > 0
    assert (cube["iteration_time_mean"] > 0).all()
    assert "1 of 2 cells without their training run: a run of 300 iterations does not come to an end" in cube.hops.table()
    with pytest.raises(Infeasible, match="does not come to an end"):
        hops.sweep_cube(*sweep, "hydra.sweeper.strict=true")


def test_means__are_ratios_of_means():
    cell = hops.simulate(*RUN, FAULT)
    total = float((cell["n_failures"]).sum())
    assert float(cell["mtbf_mean"]) == pytest.approx(float(cell["wall_time"].sum()) / total, rel=1e-12)
    assert float(cell["goodput_mean"]) == pytest.approx(300 * 4 / float(cell["wall_time"].mean()), rel=1e-12)


def test_report__says_what_became_of_the_run(command):
    code, said, _ = command(*RUN, FAULT, main=report)
    assert code == 0
    for words in ("training run of 300 iterations: 6 trials", "goodput ", "of that without failures", "failures  ", "time of the GPUs"):
        assert words in said


ELASTIC = (
    "model=explicit", "pp=4", "dp=4", "zero=0", "microbatches=8", "draws=20", f"topology.order={list(range(0, 128, 8))}",
    "run.iterations=150", "trials=6", "checkpoint.cost=0.1", "checkpoint.interval=3.0",
    "+failure.faults.node={scope: node, mean: 300.0, detection: 0.5, repair: 8.0}",
)  # fmt: skip
STRATEGIES = {
    "shrink_dp": ("recovery=shrink_dp", "recovery.reconfigure=0.5", "recovery.rejoin=2", "recovery.join=0.3"),
    "shrink_dp, global batch": (
        "recovery=shrink_dp",
        "recovery.keep_global_batch=true",
        "recovery.reconfigure=0.5",
        "recovery.load=0.5",
        "recovery.rejoin=2",
        "recovery.join=0.3",
    ),
    "repartition": ("recovery=repartition", "recovery.reconfigure=0.4", "recovery.move=0.2", "recovery.load=0.5"),
    "oobleck": ("recovery=oobleck", "recovery.smallest=3", "recovery.reconfigure=0.4", "recovery.load=0.5"),
    "bamboo": ("recovery=bamboo", "recovery.pause=0.2", "recovery.rejoin=1", "recovery.join=0.2", "recovery.rendezvous=0.5"),
    "recycle": ("recovery=recycle", "recovery.reroute=0.4", "recovery.rejoin=1", "recovery.join=0.2", "recovery.load=0.5"),
    "table": ("recovery=table", "recovery.samples_per_second=[60,55,50,40,0]", "recovery.join=0.1", "recovery.load=0.5"),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_elastic__ledger_closes_and_goes_on_with_fewer(name):
    _, _, runs = outcomes(*ELASTIC, *STRATEGIES[name])
    assert (runs.ledger.sum(axis=1) == [16 * int(r[columns.NOW]) for r in runs.results]).all()
    assert runs.ledger.min() >= 0
    assert runs.ledger[:, -1].sum() > 0  # repair
    assert runs.results[:, columns.DEGRADED].sum() > 0
    assert runs.results[:, columns.N_FROM_MEMORY].sum() > 0
    fraction = np.divide(*runs.metrics["goodput_fraction"])
    assert ((fraction > 0) & (fraction < 1)).all()
    if name not in ("shrink_dp",):  # a smaller batch is all that changes samples
        assert (runs.results[:, columns.SAMPLES] == 150 * 32).all()
    else:
        assert (runs.results[:, columns.SAMPLES] < 150 * 32).any()


@pytest.mark.parametrize("name", STRATEGIES)
def test_elastic__without_failures_is_the_healthy_run(name):
    quiet = hops.simulate(*ELASTIC, *STRATEGIES[name], "failure.rate=0")
    assert (quiet["goodput_fraction"] <= 1).all()
    assert (quiet["degraded_time"] == 0).all()
    if name != "table":
        same(quiet, hops.simulate(*ELASTIC, "failure.rate=0"))


@pytest.mark.parametrize("tier", ["resampled", "exact"])
def test_elastic__depends_neither_on_threads_nor_on_trials(tier):
    words = (*ELASTIC, *STRATEGIES["shrink_dp, global batch"], f"run.tier={tier}")
    many = hops.simulate(*words, "trials=8", "executor.threads=2")
    same(many, hops.simulate(*words, "trials=8", "executor.threads=1"))
    same(many.isel(trial=slice(0, 6)), hops.simulate(*words))


@pytest.mark.parametrize("name", ["shrink_dp, global batch", "oobleck", "recycle"])
def test_elastic__exact_tier_equals_the_twin(name):
    """Attempt a at iteration i is draw a x 2^26 + i of the trial, of every cell of the plan that is on then."""
    case, _, runs = outcomes(*ELASTIC, *STRATEGIES[name], "run.tier=exact", "trials=2")
    h, machine, known = case.hazards, case.scenario.training.machine, {}
    n = len(h.unit)
    plans = [find(machine.elastic, case.scenario, k, 16 - k * (4 if h.unit_size * (n - 1) == 4 else 1)) for k in range(n)]
    plans = [None if isinstance(each, Infeasible) else each for each in plans]

    class Pool:
        def __init__(self, plan, trial):
            self.plan, self.trial = plan, trial

        def __len__(self):
            return 1

        def __getitem__(self, at):
            i, attempt = at
            key = id(self.plan), self.trial, at
            if key not in known:
                draw = [evaluate_iterations(each, self.trial, attempt * 2**26 + i, 1)[:, 0].tolist() for each in self.plan.cases]
                lanes = [each.scenario.dp // each.n_lanes for each in self.plan.cases]
                time, *rest = zip(*draw, strict=True)
                known[key] = (max(time), *(sum(a * b for a, b in zip(each, lanes, strict=True)) for each in rest))
            return known[key]

    def states(of):
        return [(each.bucket, round(each.seconds * 1e9)) for each in of]

    course, e = runs.course, machine.elastic
    for trial, lines in enumerate(failures_of(runs)):
        job = twin_elastic.Job(
            [each and Pool(each, trial) for each in plans], [each and each.samples for each in plans],
            [each and 16 - each.n_gpus for each in plans], [k < (n - 2 if e.unit == "replica" else n) for k in range(n)],
            [set(h.unit_node[a:b].tolist()) for a, b in zip(h.unit[:-1], h.unit[1:], strict=True)], [1] * 16,
            states(machine.states), states(e.switch), states(e.join), round(e.rejoin * 1e9), True, e.renews,
            [h.group_node[a:b].tolist() for a, b in zip(h.group[:-1], h.group[1:], strict=True)],
            course.n_iterations, every=course.every, cost=course.cost,
        )  # fmt: skip
        failures = twin_runs.Failures([], 0, 0, [(line.tick, line.nodes, line.detection, line.repair) for line in lines])
        with patch.object(twin_runs, "draw", lambda job, trial, i, attempt: (i, attempt)):
            wanted = twin_elastic.run(job, failures, trial)
        r = runs.results[trial]
        assert [int(each) for each in r[:8]] == [
            wanted[key] for key in ("useful", "wasted", "checkpoint", "detection", "recovery", "queue", "now", "done")
        ]
        for key, at in (("samples", columns.SAMPLES), ("repaired", columns.REPAIRED), ("idle useful", columns.IDLE)):
            assert wanted[key] == r[at], key
        assert wanted["exposed"] == int(r[columns.EXPOSED_HIGH]) * 2**32 + int(r[columns.EXPOSED_LOW])
        assert wanted["healthy"] == r[columns.HEALTHY]
        assert wanted["degraded"] > 0


@pytest.mark.parametrize("tier", ["resampled", "exact"])
def test_elastic__script_replays_to_the_same_bits(tier, command):
    words = (*ELASTIC, *STRATEGIES["repartition"], f"run.tier={tier}")
    code, _, error = command(*words, "output.failures=f.jsonl", main=report)
    assert code == 0, error
    again = [each for each in words if "failure" not in each]
    same(hops.simulate(*words), hops.simulate(*again, "failure=file", "failure.script=f.jsonl"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("recovery=shrink_dp", "dp=1", "topology.order=[0,8,16,24]"), r"a job of one replica cannot go on without it \(dp=1"),
        (("recovery=shrink_dp", "zero=1"), r"no replica is left that holds all states .*dp_shard=null.*try zero=0"),
        (("recovery=repartition", "zero=1", "recovery.move=1"), "no other replica holds the state of GPU 0"),
        (("recovery=repartition",), r"explicit times does not say \(set recovery.move\)"),
        (("recovery=oobleck", "recovery.smallest=8"), "cannot go on without one node: there is no plan for the 15 GPUs that are left"),
        (("recovery=shrink_dp", "recovery.keep_global_batch=2"), "recovery.keep_global_batch must be true or false; got 2"),
        (("recovery=repartition", "recovery.get_from=disk"), "no recovery.get_from named 'disk'"),
        (("recovery=table", "recovery.samples_per_second=[0,1]"), "recovery.samples_per_second must be a finite number above 0"),
        (("recovery=table", "recovery.samples_per_second=3"), "must list samples/s of all nodes"),
        (("recovery=bamboo", "recovery.slowdown=0.5"), "recovery.slowdown must be a factor of at least 1"),
        (("recovery=shrink_dp", "run.tier=analytic"), "run.tier=analytic has no formula for a job that goes on without who failed"),
        (("recovery=shrink_dp", "recovery.join=-1"), "recovery.join must be a finite number at least 0"),
        (("recovery=table", "recovery.samples_per_second=[10,30]"), "less than half as long where GPUs are missing"),
    ],
)
def test_elastic__bad_input_is_refused_by_name(overrides, sentence):
    with pytest.raises(ValueError, match=sentence):
        hops.simulate(*ELASTIC, *overrides)
