"""What slows a run and does not stop it: the engine is the slow twin, to the tick, in every bucket; and what must change nothing."""

import functools
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import twin
import twin_runs
from test_runs import ELASTIC, STRATEGIES, outcomes, same

import hops
from hops import course as columns
from hops.__main__ import main as report
from hops.disturbed import disturbed_iterations, make_bench
from hops.impact import speeds_of
from hops.lifetimes import SHAPES
from hops.runs import failures_of
from hops.scripts import script_text
from hops.speeds import make_speeds
from hops.spells import slowing

SMALL = (
    "model=explicit", "pp=2", "dp=2", "zero=0", "microbatches=4", "draws=30", "topology.nodes=2",
    "topology.order=[0,1,8,9]",
    "checkpoint.cost=0.1", "checkpoint.interval=2.0", "recovery.init=0.2", "recovery.load=0.3", "run.iterations=50", "trials=3",
)  # fmt: skip
SENDS = "model.p2p_bytes=1e7"  # what rails are slow for
STOP = "+failure.faults.node={scope: node, mean: 15.0, detection: 0.5, repair: 4.0, age: fresh}"
LAWS = {
    "exponential": {"law": "exponential", "shape": None},
    "weibull": {"law": "weibull", "shape": 0.7},
}
KINDS = {
    "slow": {"kind": "slow", "scope": "device", "speed": 0.4, "mean": 12.0, "duration": 1.0, "duration_law": "exponential"},
    "flap": {"kind": "stall", "scope": "NIC", "mean": 70.0, "duration": 0.8, "duration_law": "uniform", "repair": 3.0},
    "rail": {"kind": "bandwidth", "scope": "NET", "bandwidth": 0.01, "mean": 4.0, "duration": 2.0},
}
RECOVERIES = {
    "restart": ("recovery=restart",),
    "spare": ("recovery=spare", "recovery.spares=1"),
    "peer_memory": ("recovery=peer_memory", "recovery.every=2", "recovery.stall=0.05"),
    "just_in_time": ("recovery=just_in_time", "recovery.save=0.1"),
}
AHEAD = 15 * 10**9  # ticks; no iteration takes longer, so that no spell that begins later matters to it
COLUMNS = {
    "useful": columns.USEFUL, "wasted": columns.WASTED, "checkpoint": columns.CHECKPOINT, "detection": columns.DETECTION,
    "recovery": columns.RECOVERING, "queue": columns.QUEUEING, "now": columns.NOW, "done": columns.DONE,
    "failures": columns.N_FAILURES, "episodes": columns.N_EPISODES, "lost": columns.LOST, "replay": columns.REPLAY,
    "checkpoints": columns.N_CHECKPOINTS, "from_memory": columns.N_FROM_MEMORY, "standby": columns.STANDING_BY,
    "healthy": columns.HEALTHY, "slowed": columns.SLOWED, "spells": columns.N_SPELLS, "trained": columns.WORST,
    "rebalanced": columns.N_REBALANCED,
}  # fmt: skip


def told(kinds, law):
    """Overrides for these kinds of faults."""
    return tuple(f"+failure.faults.{name}={json.dumps(KINDS[name] | LAWS[law] | {'age': 'fresh'}).replace(chr(34), '')}" for name in kinds)


@functools.cache
def table(law, shape):
    return twin.Table(lambda u: SHAPES[law].quantile(u, shape or 1.0))


def twin_of(case, course, failures, spells, trial):
    """What the twin makes of a trial, whose iterations the event loop evaluates one by one."""
    machine, h, parts = case.scenario.training.machine, case.hazards, spells.parts if spells else ()
    bench, exact = make_bench(case, loop=True), case.scenario.training.run.tier == "exact"
    rows = int(course.plans.size[0])

    def iterate(where, now, times, shares=None):
        of, draw = (trial, where[1] * 2**26 + where[0]) if exact else (0, where)
        ahead = [(part, max(begin, now), end) for part, own in times.items() for begin, end, _ in own if end > now]
        found = [
            replace(parts[part].disturbance, start=(begin - now) / 1e9, duration=(end - begin) / 1e9)
            for part, begin, end in ahead
            if begin < now + AHEAD
        ]
        speeds = speeds_of(case, found)
        row = disturbed_iterations(bench, of, draw, 1, speeds if shares is None else divided(case, bench, speeds, shares))[:, 0].tolist()
        assert row[0] < AHEAD
        return (*row, now + int(speeds.begin.min()) if speeds.begin.size else None)

    class Pool:
        def __len__(self):
            return rows

        def __getitem__(self, at):
            return iterate(at, 0, {})

    def states(of):
        return [(each.bucket, round(each.seconds * 1e9), each.acquires) for each in of]

    spell_list = [list(spell) for spell in drawn(case, spells, trial)]
    timeout = spells.timeout[0] if spells else twin_runs.NEVER
    stands = {i: not part.disturbance.speed and speeds_of(case, [part.disturbance]).varies.any() for i, part in enumerate(parts)}
    ladder = ladder_of(case, machine.ladder, course, bench, parts) if machine.ladder else None
    job = twin_runs.Job(
        Pool(), states(machine.states), course.n_iterations, every=course.every, cost=course.cost,
        memory_states=states(machine.memory.states) if machine.memory else None, copy_every=course.copy_every, copy_cost=course.copy_cost,
        groups=[h.group_node[a:b].tolist() for a, b in zip(h.group[:-1], h.group[1:], strict=True)], spares=machine.spares,
        seed=course.seed, sky=twin_runs.Sky(spell_list, [part.node for part in parts], stands, timeout, iterate, ladder), n_nodes=h.n_nodes,
    )  # fmt: skip
    if not exact:
        return twin_runs.run(job, failures, trial)
    with patch.object(twin_runs, "draw", lambda job, trial, i, attempt: (i, attempt)):
        return twin_runs.run(job, failures, trial)


def own(bench, lane):
    """Resources of a lane."""
    n, ways = bench.resources, [(seat, backward) for seat in range(bench.resources.n_seats) for backward in (False, True)]
    return {n.rank(lane, i) for i in range(n.n_ranks)} | {each(lane, *way) for each in (n.channel, n.delay) for way in ways}


def pieces_of(speeds, resource):
    """When a resource has which speed, where that is not 1."""
    at = range(speeds.indptr[resource], speeds.indptr[resource + 1])
    return [(int(speeds.begin[k]), int(speeds.end[k]), Fraction(int(speeds.num[k]), int(speeds.den[k]))) for k in at]


def divided(case, bench, speeds, shares):
    """Speeds of lanes that have ``shares`` of the microbatches: who has twice as many takes twice as long for everything."""
    found = {x: [(a, b, v.numerator, v.denominator) for a, b, v in pieces_of(speeds, x)] for x in range(bench.resources.n)}
    for lane, n in enumerate(shares):
        for x in own(bench, lane):
            whole, at = [], 0
            for a, b, v in pieces_of(speeds, x):
                whole += [(at, a, Fraction(1))] * (a > at) + [(a, b, v)]
                at = b
            whole += [(at, twin_runs.NEVER, Fraction(1))] * (at < twin_runs.NEVER)
            scaled = [(a, b, (v * case.scenario.microbatches / n).limit_denominator(1000)) for a, b, v in whole]
            found[x] = [(a, b, v.numerator, v.denominator) for a, b, v in scaled]
    return make_speeds(bench.resources.n, found)


def ladder_of(case, given, course, bench, parts):
    """The twin's ladder, whose job measures replicas one by one, and gives each microbatch to whom it makes ready first."""
    n, each = bench.resources.n_lanes, case.scenario.microbatches

    def speeds(active):
        return speeds_of(case, [parts[i].disturbance for i in sorted(active)])

    def divide(active):
        found, took = speeds(active), []
        if n == 1 or not found.num.all():
            return None
        for lane in range(n):
            pieces = {x: [(a, b, v.numerator, v.denominator) for a, b, v in pieces_of(found, x)] for x in own(bench, lane)}
            took.append(int(disturbed_iterations(bench, 0, 0, 1, make_speeds(bench.resources.n, pieces))[0, 0]))
        shares = [1] * n
        for _ in range(n * each - n):
            i = min(range(n), key=lambda i: ((shares[i] + 1) * took[i], i))
            shares[i] += 1
        better = max(a * b for a, b in zip(shares, took, strict=True)) < each * max(took)
        return shares if better else None

    return twin_runs.Ladder(
        sorted(course.ordered.tolist())[len(course.ordered) // 2], given.threshold, given.patience, round(given.rebalance * 1e9),
        round(given.evict * 1e9), [part.disturbance.scope != "link" or part.disturbance.which[0] != "NET" for part in parts],
        lambda active: bool(active) and bool(speeds(active).varies.any()), divide,
    )  # fmt: skip


def drawn(case, spells, trial):
    """Spells of a trial, by the twin's own clocks."""
    if spells is None:
        return []
    faults, at = [], 0
    for fault in case.scenario.training.failures.faults:
        if not fault.stops:
            n = sum(part.fault == fault.name for part in spells.parts)
            one, mean = fault.lifetime.law == "exponential", fault.lifetime.mean * 1e9
            lifetime = mean / n if one else mean, *[table(fault.lifetime.law, fault.lifetime.shape)] * 2
            times = [(each.mean * 1e9, table(each.law, each.shape)) for each in (fault.duration, fault.repair)]
            faults.append(twin_runs.Fault(fault.name, [[at + i] for i in range(n)], lifetime, *times, one))
            at += n
    return sorted(twin_runs.drawn_spells(faults, case.scenario.seed, trial, 10**12))


def stops(case, trial):
    """Failures that stop the job, by the twin's own clocks."""
    found = []
    for fault in case.scenario.training.failures.faults:
        if fault.stops:
            n, mean = case.hazards.n_nodes, fault.lifetime.mean * 1e9
            one = fault.lifetime.law == "exponential"
            lifetime = mean / n if one else mean, *[table(fault.lifetime.law, fault.lifetime.shape)] * 2
            times = [(each.mean * 1e9, table(each.law, each.shape)) for each in (fault.detection, fault.repair)]
            found.append(twin_runs.Fault(fault.name, [[i] for i in range(n)], lifetime, *times, one))
    return twin_runs.Failures(found, case.scenario.seed, trial)


def check(case, runs, spells):
    for trial, r in enumerate(runs.results):
        wanted = twin_of(case, runs.course, stops(case, trial), spells, trial)
        assert {name: int(r[at]) for name, at in COLUMNS.items()} == {name: wanted[name] for name in COLUMNS}, trial
        if case.scenario.training.run.tier == "exact":
            known = [wanted["intervals"][-(-percent * wanted["done"] // 100) - 1] for percent in (50, 95, 99, 100)]
            assert r[columns.INTERVALS : columns.LONGEST + 1].tolist() == known
        assert wanted["busy"] == int(r[columns.BUSY_HIGH]) * 2**32 + int(r[columns.BUSY_LOW])
        assert wanted["exposed"] == int(r[columns.EXPOSED_HIGH]) * 2**32 + int(r[columns.EXPOSED_LOW])
        assert wanted["lost busy"] == int(r[columns.LOST_HIGH]) * 2**32 + int(r[columns.LOST_LOW])
    n = case.scenario.layout.n_gpus + 8 * case.scenario.training.machine.spares
    assert (runs.ledger.sum(axis=1) == [n * int(r[columns.NOW]) for r in runs.results]).all()
    assert runs.ledger.min() >= 0


def equal(one, other):
    """Two outcomes, in every bucket and metric."""
    assert (one.ledger == other.ledger).all()
    assert list(one.metrics) == list(other.metrics)
    for name, ratio in one.metrics.items():
        assert np.array_equal(ratio, other.metrics[name]), name


def spells_of(case):
    return slowing(case.scenario.training, case.weights.cluster, case.scenario.layout)


@pytest.mark.parametrize(("tier", "law"), [("resampled", "exponential"), ("exact", "exponential"), ("exact", "weibull")])
@pytest.mark.parametrize("recovery", RECOVERIES)
def test_run__equals_the_twin(recovery, law, tier):
    """All kinds at once, with failures; stalls longer than 0.6 s are failures of their own."""
    case, _, runs = outcomes(*SMALL, SENDS, *RECOVERIES[recovery], STOP, *told(KINDS, law), f"run.tier={tier}", "failure.timeout=0.6")
    check(case, runs, spells_of(case))
    assert runs.results[:, columns.SLOWED].min() > 0
    assert runs.results[:, columns.N_FAILURES].sum() > 0


@pytest.mark.parametrize("tier", ["resampled", "exact"])
def test_run__what_only_slows_loses_no_work(tier):
    case, _, runs = outcomes(*SMALL, SENDS, *told(KINDS, "exponential"), f"run.tier={tier}", "checkpoint.interval=null")
    check(case, runs, spells_of(case))
    assert (runs.results[:, columns.NOW] > runs.results[:, columns.HEALTHY]).all()
    for nothing in (columns.WASTED, columns.LOST, columns.N_FAILURES):
        assert (runs.results[:, nothing] == 0).all()


def test_pools__of_a_state_are_what_each_of_its_iterations_would_be_alone():
    """One GPU that is slow most of the time: its state has a pool soon; the twin, which knows none, comes to the same."""
    words = (*SMALL, STOP, "run.iterations=400", "trials=1", "draws=10")
    slow = "+failure.faults.slow={kind: slow, scope: job, speed: 0.5, law: constant, mean: 30.0, duration: 25.0, age: fresh}"
    case, _, runs = outcomes(*words, slow)
    check(case, runs, spells_of(case))
    assert runs.results[0, columns.SLOWED] > 20e9


@pytest.mark.parametrize(
    "fault",
    [
        "{kind: slow, scope: node, speed: 1.0, mean: 5.0, duration: 2.0}",
        "{kind: bandwidth, scope: NIC, bandwidth: 1.0, mean: 40.0, duration: 2.0}",  # of 16 NICs one at a time, more or less
        "{kind: stall, scope: node, mean: 1e30, duration: 2.0}",
    ],
)
@pytest.mark.parametrize("tier", ["resampled", "exact"])
def test_nothing__that_slows_to_the_same_speed_changes_a_bit(tier, fault):
    words = (*SMALL, STOP, f"run.tier={tier}")
    quiet, found = hops.simulate(*words), hops.simulate(*words, f"+failure.faults.nothing={fault}")
    assert (found["slowed_time"] == 0).all()
    same(quiet, found.assign(n_slowdowns=quiet["n_slowdowns"]))


def test_trials__depend_neither_on_threads_nor_on_each_other():
    words = (*SMALL, STOP, *told(KINDS, "exponential"), "trials=6")
    many = hops.simulate(*words, "executor.threads=2")
    same(many, hops.simulate(*words, "executor.threads=1"))
    same(many.isel(trial=slice(0, 3)), hops.simulate(*words, "trials=3"))


@pytest.mark.parametrize("timeout", ["0.6", "null"])
def test_script__replays_to_the_same_bits(timeout, command):
    words = (*SMALL, SENDS, STOP, *told(KINDS, "exponential"), f"failure.timeout={timeout}")
    code, _, error = command(*words, "output.failures=f.jsonl", main=report)
    assert code == 0, error
    again = [each for each in words if not each.startswith(("+failure", "failure"))]
    same(hops.simulate(*words), hops.simulate(*again, "failure=file", "failure.script=f.jsonl", f"failure.timeout={timeout}"))
    lines = [json.loads(line) for line in Path("f.jsonl").read_text().splitlines()]
    assert {line.get("kind") for line in lines} == {None, "slow", "stall", "bandwidth"}
    assert {line.get("link", "").split(" ")[0] for line in lines} == {"", "NIC", "NET"}


def test_stall__that_lasts_too_long_is_a_failure_of_its_node(tmp_path):
    """It begins at 1 s and stands for an hour: the node fails when the timeout ends, and its place has a link that works."""
    (tmp_path / "f.jsonl").write_text(
        '{"t_ns": 1000000000, "kind": "stall", "link": "NIC 8", "duration_ns": 3600000000000, "repair_ns": 5}\n'
    )
    words = (*SMALL, "failure=file", f"failure.script={tmp_path}/f.jsonl", "checkpoint.interval=null", "trials=1", "latency=none")
    _, _, runs = outcomes(*words, "failure.timeout=10.0")
    (r,) = runs.results
    assert r[columns.N_FAILURES] == r[columns.N_EPISODES] == 1
    assert r[columns.DETECTION] == 0
    assert r[columns.NOW] == 11 * 10**9 + r[columns.RECOVERING] + r[columns.HEALTHY]
    (lines,) = failures_of(runs)
    assert [(line.tick, line.nodes, line.kind, line.duration) for line in lines] == [
        (10**9, (), "stall", 10**10), (11 * 10**9, (1,), "fail_stop", 0),
    ]  # fmt: skip
    waited = hops.simulate(*words, "failure.timeout=null")
    assert float(waited["wall_time"][0]) > 3600
    assert float(waited["lost_work"][0]) == 0


def test_checkpoint__traffic_slows_messages_between_nodes_until_it_is_durable():
    """As what chaos does at that moment; it loses nothing, and at full bandwidth it is nothing."""
    words = (*SMALL, STOP, "checkpoint.persist=0.7", "model.p2p_bytes=1e9")
    slow = hops.simulate(*words, "checkpoint.bandwidth=0.25")
    same(
        slow,
        hops.simulate(
            *words,
            "failure.chaos=[{when: {state: checkpoint}, what: bandwidth, scope: NET, magnitude: 0.25, duration: 0.8, times: 1000000}]",
        ),
    )
    calm = hops.simulate(*words)
    same(calm, hops.simulate(*words, "checkpoint.bandwidth=1"))
    assert (slow["slowed_time"] > 0).all()
    assert float(slow["wall_time_mean"]) > float(calm["wall_time_mean"])


TRIES = ("retry.timeout=0.05", "retry.retries=3")  # a link is dead after 0.2 s and a tick


def test_retry__a_dead_link_is_another_way_until_it_works_again(tmp_path):
    """Every stall is cut where all tries have timed out, and half of the bandwidth is there 0.1 s later."""
    words = (*SMALL, STOP, *told(["flap"], "exponential"), *TRIES)
    *_, plain = outcomes(*words, "failure.timeout=null")
    *_, runs = outcomes(*words, "recovery=retry", "recovery.bandwidth=0.5", "recovery.reroute=0.1")
    lines, whole = ([line for line in failures_of(each)[0] if line.kind != "fail_stop"] for each in (runs, plain))
    cut = [(line.tick, line.tick + min(line.duration, 300_000_001)) for line in whole]
    rest = [(line.tick + 300_000_001, line.tick + line.duration) for line in whole if line.duration > 300_000_001]
    stalls = [(line.tick, line.tick + line.duration) for line in lines if line.kind == "stall"]
    detours = [(line.tick, line.tick + line.duration, line.speed) for line in lines if line.kind == "bandwidth"]
    assert rest
    assert stalls == [each for each in cut if each[0] < runs.results[0, columns.NOW]][: len(stalls)]
    assert detours == [(*each, 0.5) for each in rest][: len(detours)]
    assert runs.results[:, columns.NOW].sum() < plain.results[:, columns.NOW].sum()
    (tmp_path / "f.jsonl").write_text(script_text(failures_of(runs)))
    again = [each for each in words if not each.startswith("+failure")]
    *_, replayed = outcomes(*again, "failure=file", f"failure.script={tmp_path}/f.jsonl", "failure.timeout=null")
    equal(runs, replayed)


@pytest.mark.parametrize(
    ("recovery", "timeout"),
    [(("recovery=retry", "recovery.bandwidth=0"), "0.200000001"), (("recovery=backpressure",), "null")],
)
def test_recovery__of_what_stands_still_is_a_timeout(recovery, timeout):
    """With no other way the node of a dead link fails; under backpressure none ever does."""
    words = (*SMALL, STOP, *told(["flap"], "exponential"), *TRIES)
    found = hops.simulate(*words, "recovery.init=0.2", *recovery)
    same(found, hops.simulate(*words, f"failure.timeout={timeout}"))
    assert (found["n_failures"] != hops.simulate(*words)["n_failures"]).any() == (timeout != "null")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("+failure.faults.a={kind: slow, mean: 5}",), r"failure.faults.a.speed is not set; a fault of kind slow needs it"),
        (("+failure.faults.a={kind: stall, mean: 5}",), r"failure.faults.a.duration is not set; a fault of kind stall needs it"),
        (("+failure.faults.a={mean: 5, speed: 0.5}",), r"failure.faults.a.speed has no meaning for a fault of kind fail_stop; got 0.5"),
        (("+failure.faults.a={kind: slow, mean: 5, speed: 0, duration: 1}",), r"failure.faults.a.speed=0 stands still \(try kind: stall\)"),
        (("+failure.faults.a={kind: slow, mean: 5, speed: -1, duration: 1}",), r"failure.faults.a.speed must be"),
        (("+failure.faults.a={kind: slow, mean: 5, speed: 2, duration: 1}",), r"failure.faults.a.speed must be 0, or from 0.001 to 1"),
        (("+failure.faults.a={kind: stall, scope: nik, mean: 5, duration: 1}",), r"no failure.faults.a.scope named 'nik'; did you mean"),
        (("+failure.faults.a={kind: bandwidth, scope: node, mean: 5, bandwidth: 0.5, duration: 1}",), r"scope named 'node'"),
        (("+failure.faults.a={kind: slow, mean: 5, speed: 0.5, duration: 1}", "run.tier=analytic"), r"run.tier=analytic has no formula"),
        (("+failure.faults.a={kind: slow, mean: 5, speed: 0.5, duration: 1}", "disturbance=[{rank: 0, speed: 0.5}]"), r"both at once"),
        (("+failure.faults.a={kind: slow, mean: 5, speed: 0.5, duration: 1}", "recovery=shrink_dp"), r"goes on with fewer nodes"),
        (("failure.timeout=0",), r"failure.timeout must be"),
        (("checkpoint.bandwidth=0",), r"checkpoint.bandwidth must be from 0.001 to 1; got 0"),
        (("checkpoint.bandwidth=0.5", "checkpoint.persist=1.0", "failure.clock=exposure"), r"checkpoint.bandwidth follows the calendar"),
        (("recovery=retry", "recovery.bandwidth=2"), r"recovery.bandwidth must be 0, or from 0.001 to 1"),
        (("run.engine=event",), r"run.engine=event evaluates every iteration; got run.tier=resampled \(try run.tier=exact\)"),
    ],
)  # fmt: skip
def test_bad_input__is_refused(overrides, sentence):
    words = [each for each in SMALL if not (overrides[-1].startswith("recovery=") and each.startswith("recovery"))]
    with pytest.raises(ValueError, match=sentence):
        hops.simulate(*words, *overrides)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"t_ns": 1, "kind": "slow", "nodes": [0], "duration_ns": 5}', "kind slow needs a magnitude"),
        ('{"t_ns": 1, "kind": "slow", "magnitude": 0.5, "duration_ns": 5}', "needs duration_ns, and one of nodes, device and link"),
        ('{"t_ns": 1, "magnitude": 0.5}', "magnitude of a failure that stops the job"),
        ('{"t_ns": 1, "kind": "bandwidth", "nodes": [0], "magnitude": 0.5, "duration_ns": 5}', "only a link has bandwidth"),
        ('{"t_ns": 1, "kind": "stall", "link": "NIC 99", "duration_ns": 5}', "no link 'NIC 99'"),
        ('{"t_ns": 1, "kind": "stall", "device": 99, "duration_ns": 5}', "slows device 99; the cluster has devices 0 to 15"),
        ('{"t_ns": 1, "kind": "stall", "nodes": [9], "duration_ns": 5}', "lets node 9 fail; the job has nodes 0 to 1"),
    ],
)  # fmt: skip
def test_script__bad_lines_are_refused(line, sentence, tmp_path):
    (tmp_path / "f.jsonl").write_text(line)
    with pytest.raises(ValueError, match=sentence):
        hops.simulate(*SMALL, "failure=file", f"failure.script={tmp_path}/f.jsonl")


def test_metrics__share_of_time_and_number_of_slowdowns():
    cell = hops.simulate(*SMALL, *told(["slow"], "exponential"), "run.iterations=80")
    assert (cell["slowed_time"] > 0).all()
    assert (cell["slowed_time"] < 1).all()
    assert np.isclose(float(cell["slowed_time_mean"]), float((cell["slowed_time"] * cell["wall_time"]).sum() / cell["wall_time"].sum()))
    assert (cell["n_slowdowns"] > 0).all()
    assert (cell["goodput_fraction"] < 1).all()


# ---- the event engine


@pytest.mark.parametrize(
    ("recovery", "law"),
    [
        *((name, law) for name in RECOVERIES for law in ("weibull", "script")),
        *((name, "exponential") for name in ("restart", "peer_memory")),
        *((name, law) for name in STRATEGIES for law in ("weibull", "script")),
    ],
)
def test_engine__event_is_hybrid_to_the_bit(recovery, law, tmp_path):
    """Every iteration through the event loop, one by one; stalls and slow GPUs too where the job has a fixed size."""
    elastic = recovery in STRATEGIES
    words = [*ELASTIC, *STRATEGIES[recovery]] if elastic else [*SMALL, SENDS, *RECOVERIES[recovery]]
    words = [each for each in words if not each.startswith("+failure")]
    words += ["run.tier=exact", "failure.timeout=0.6", "trials=4", "run.iterations=40"]
    if law == "script":
        lines = [
            {"trial": trial, "t_ns": 700_000_001 * k + 97 * trial, "nodes": [k % 2], "detection_ns": 10**8, "repair_ns": 10**9}
            for trial in range(4)
            for k in range(1, 6)
        ]
        (tmp_path / "f.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
        words += ["failure=file", f"failure.script={tmp_path}/f.jsonl"]
    else:
        shape, mean = "" if law == "exponential" else ", shape: 0.7", 60.0 if elastic else 9.0
        words += [f"+failure.faults.node={{scope: node, law: {law}{shape}, mean: {mean}, detection: 0.3, repair: 2.0, age: fresh}}"]
        words += [] if elastic else [*told(KINDS, law)]
    _, _, hybrid = outcomes(*words)
    _, _, event = outcomes(*words, "run.engine=event")
    equal(hybrid, event)
    assert hybrid.results[:, columns.N_FAILURES].sum() > 0
    assert hybrid.results[:, columns.EXECUTED].sum() > 0


def test_lost_busy__is_what_ops_had_computed_when_they_were_cut(tmp_path):
    """Two ranks, one microbatch, no latency: rank 0 computes F, waits for rank 1, computes B. Node 1 dies in the middle of its op."""
    times = ("model=explicit", "model.per=stage", "model.forward=1.0", "model.backward_input=1.0", "model.backward_weight=1.0")
    words = (*times, "topology=dgx", "topology.nodes=2", "topology.order=[0,8]", "pp=2", "microbatches=1", "latency=none", "p2p=latency",
             "model.p2p_bytes=0", "run.iterations=2", "trials=1", "run.tier=exact", "checkpoint.interval=null", "failure=file")  # fmt: skip
    (tmp_path / "f.jsonl").write_text('{"t_ns": 500000000, "nodes": [1], "detection_ns": 9000000000}\n')
    cell = hops.simulate(*words, f"failure.script={tmp_path}/f.jsonl")
    assert float(cell["lost_busy"][0]) == 1.0  # rank 0 ends its forward beyond the failure, before that is known
    (tmp_path / "f.jsonl").write_text('{"t_ns": 1500000000, "nodes": [1], "detection_ns": 9000000000}\n')
    cell = hops.simulate(*words, f"failure.script={tmp_path}/f.jsonl")
    assert float(cell["lost_busy"][0]) == pytest.approx(1.5, abs=1e-4)  # a hop is some us
    resampled = hops.simulate(*words, f"failure.script={tmp_path}/f.jsonl", "run.tier=resampled")
    assert float(resampled["lost_busy"][0]) == pytest.approx(1.5, abs=1e-3)  # one of two ranks is busy at any time
