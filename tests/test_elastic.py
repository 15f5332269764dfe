"""Elastic runs: the engine is the slow twin, to the tick, in every bucket; at adversarial times, for all kinds of strategy."""

import numpy as np
import pytest
import twin_elastic
import twin_runs
from hypothesis import given, settings
from hypothesis import strategies as st
from test_episodes import COLUMNS, LAWS, noted, state, timed, told

from hops import course as columns
from hops.chaos import chaos_of
from hops.checkpoints import Checkpoint
from hops.course import FINISHED, NO_PLAN, NOT_ASKED, PLANNED, Course, Plans
from hops.data_parallel import DataParallel
from hops.episodes import run_trials
from hops.faults import Failures
from hops.hazards import hazards
from hops.injections import Injection
from hops.kernels import NEVER
from hops.layout import Layout
from hops.places import make_space
from hops.recovery import NEIGHBOURS, REPLICAS, UNITS, Elastic, Machine
from hops.runs import way_of
from hops.scripts import Line
from hops.topologies import TOPOLOGIES
from hops.training import Run, Training

CLUSTER = TOPOLOGIES["dgx"].build(32)  # 4 nodes
IDLE = {f"idle {name}": columns.IDLE + COLUMNS[name] for name in ("useful", "wasted", "checkpoint", "detection", "recovery", "queue")}
MORE = {"repaired": columns.REPAIRED, "degraded": columns.DEGRADED, "samples": columns.SAMPLES, "plans": columns.N_PLANS}
BACK = state("queue", 3, "queue"), state("load", 7)
POOLS = [[(10, 80, 3), (12, 90, 0), (7, 40, 9)], [(13, 60, 1), (9, 50, 2)], [(17, 30, 3)], None, None]


def nothing(scenario, missing, gpus):
    return ()


def elastic(unit="node", holders=REPLICAS, switch=(2, 1), join=(4,), rejoin=5, renews=True):
    states = ([state("switch", ticks) for ticks in switch], [state("join", ticks) for ticks in join])
    return Machine(BACK, elastic=Elastic(nothing, unit, *map(tuple, states), rejoin / 1e9, holders, renews))


# machine, layout (4 nodes of 8 GPUs): a replica a node, or two nodes a replica
MACHINES = {
    "replicas of a node": (elastic("replica", UNITS), Layout(1, 4, 8)),
    "replicas of two nodes": (elastic("replica", UNITS, switch=(3,), join=(2, 2)), Layout(2, 2, 8)),
    "replicas, at once": (elastic("replica", UNITS, (), (), 0), Layout(1, 4, 8)),
    "nodes": (elastic(), Layout(2, 2, 8)),
    "nodes, from the checkpoint": (elastic(holders=None), Layout(2, 2, 8)),
    "neighbours": (elastic(holders=NEIGHBOURS, renews=False), Layout(4, 1, 8)),
}


def both(name, faults, trials, scripts=None, clock="calendar", pools=POOLS, asked=True, chaos=(), **course):
    """Results of the engine, a dict of ticks and counts a trial; and those of the twin."""
    machine, layout = MACHINES[name]
    ours, theirs = zip(*faults, strict=True) if faults else ((), ())
    lines = None if scripts is None else tuple(tuple(Line(tick, tuple(nodes), *rest) for tick, nodes, *rest in each) for each in scripts)
    training = Training(Run(1, None), trials, Failures(ours, 1.0, clock, lines, None, tuple(chaos)), machine, Checkpoint())
    h = hazards(training, CLUSTER, layout, DataParallel(zero=0))
    n = len(h.unit)
    pools = [*pools[: n - 1], None]
    size = [0 if pool is None else len(pool) for pool in pools]
    first = np.cumsum([0, *size])[:-1]
    status = np.array([NO_PLAN if pool is None else PLANNED for pool in pools])
    samples, idle, redundant = [100 - 7 * k for k in range(n)], [k * (4 // (n - 1)) for k in range(n)], [k < n - 2 for k in range(n)]
    wanted = {"n_iterations": NEVER, "horizon": NEVER, "every": NEVER, "cost": 0, "persist": 0, **course}
    way, seed = way_of(machine), 5
    rows = np.array([row for pool in pools if pool is not None for row in pool], np.int64).T.copy()
    known = Plans(
        first, np.array(size), status.copy() if asked else np.where(np.arange(n), NOT_ASKED, PLANNED), np.array(samples), np.array(idle),
        np.array(redundant), np.zeros(0, np.int64),
    )  # fmt: skip
    plan = Course(
        rows, **wanted, copy_every=NEVER, copy_cost=0, seed=seed, slot=np.zeros((0, 1), np.int64), plans=known, chaos=chaos_of(training, h)
    )
    bound = plan.n_iterations if plan.horizon == NEVER else plan.horizon // 7 + 1
    results, space, at = np.zeros((trials, columns.N_RESULTS), np.int64), make_space(bound, h, 0, 0, len(chaos)), 0
    while at < trials:
        at += run_trials(h, plan, way, at, space, results[at:])
        if at < trials:
            assert results[at, columns.WANT] == columns.SERVES
            missing = results[at, columns.ARGUMENT]
            assert known.status[missing] == NOT_ASKED
            known.status[missing] = status[missing]
    diaries = list(noted(h, plan, way, len(chaos), bound, results))
    e = machine.elastic

    def states(of):
        return [(each.bucket, round(each.seconds * 1e9)) for each in of]

    units = [set(h.unit_node[a:b].tolist()) for a, b in zip(h.unit[:-1], h.unit[1:], strict=True)]
    groups = [h.group_node[a:b].tolist() for a, b in zip(h.group[:-1], h.group[1:], strict=True)]
    job = twin_elastic.Job(
        pools, samples, idle, redundant, units, h.node_size.tolist(), states(machine.states), states(e.switch), states(e.join),
        round(e.rejoin * 1e9), e.holders is not None, e.renews, groups, exposure=clock == "exposure", seed=seed, **wanted,
        chaos=[told(each, {"durable": machine.states, "switch": e.switch, "join": e.join}) for each in chaos], n_nodes=h.n_nodes,
    )  # fmt: skip
    wanted_results = []
    for trial in range(trials):
        failures = twin_runs.Failures(theirs, seed, trial, None if scripts is None else list(scripts[trial]))
        failures.forced = [one for j, each in enumerate(chaos) for one in timed(each, j, seed, trial)]
        wanted_results.append(twin_elastic.run(job, failures, trial))
        assert diaries[trial] == (wanted_results[-1].pop("spans"), wanted_results[-1].pop("smaller"))
    return [tuple_of(r) for r in results], wanted_results


def tuple_of(r):
    one = {name: int(r[at]) for name, at in (COLUMNS | IDLE | MORE).items() if name not in ("standby", "rebalanced")}
    one["busy"] = int(r[columns.BUSY_HIGH]) * 2**32 + int(r[columns.BUSY_LOW])
    one["exposed"] = int(r[columns.EXPOSED_HIGH]) * 2**32 + int(r[columns.EXPOSED_LOW])
    return one | {"finished": bool(r[columns.STATUS] == FINISHED)}


def check(found, wanted):
    for trial, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert one == other, trial
        assert min(one.values()) >= 0
        assert one["repaired"] <= sum(one[name] for name in IDLE)


COURSES = {
    "iterations": {"n_iterations": 40, "every": 3, "cost": 4},
    "overlapped": {"n_iterations": 40, "horizon": 4000, "every": 2, "cost": 1, "persist": 25},  # periodic failures may leave no time for it
    "days": {"horizon": 3000, "every": 4, "cost": 2, "persist": 5},
    "no checkpoints": {"horizon": 1500},
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("course", COURSES)
def test_elastic__equals_the_twin(law, machine, course):
    check(*both(machine, LAWS[law], 6, **COURSES[course]))


@pytest.mark.parametrize("machine", MACHINES)
def test_elastic__equals_the_twin_where_components_age_while_the_job_trains(machine):
    check(*both(machine, LAWS["exponential"], 6, clock="exposure", n_iterations=40, every=3, cost=4, persist=2))


@pytest.mark.parametrize("machine", MACHINES)
def test_elastic__what_is_not_known_is_asked_for_once_and_changes_nothing(machine):
    found = both(machine, LAWS["racks and nodes"], 6, asked=False, **COURSES["iterations"])
    check(*found)
    assert found[0] == both(machine, LAWS["racks and nodes"], 6, **COURSES["iterations"])[0]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("known", [0, 3])
def test_elastic__equals_the_twin_at_every_tick_that_a_failure_can_come(machine, known):
    """Iterations of 10 and 13 ticks: a second failure at all ticks after the first, through its switch, its iterations and its join."""
    scripts = [
        [(first, (0,), known, 14), (first + later, (who,), 1, 9), (200, (2,), 0, 0)]
        for first in (0, 9, 10, 30, 33)
        for later in range(56)
        for who in (0, 1)
    ]
    pools = [[(10, 80, 3)], [(13, 60, 1)], [(17, 30, 3)], None, None]
    check(*both(machine, [], len(scripts), scripts=scripts, pools=pools, n_iterations=14, every=3, cost=3, persist=4))


@settings(max_examples=100)
@given(
    st.sampled_from(sorted(MACHINES)),
    st.lists(st.tuples(st.integers(0, 200), st.sets(st.integers(0, 3), min_size=1), st.integers(0, 9), st.integers(0, 60)), max_size=12),
    st.integers(1, 5), st.integers(0, 5), st.integers(0, 30), st.booleans(),
)  # fmt: skip
def test_elastic__equals_the_twin_for_any_script(machine, lines, every, cost, persist, by_horizon):
    script = [(tick, tuple(sorted(nodes)), known, repaired) for tick, nodes, known, repaired in sorted(lines, key=lambda line: line[0])]
    length = {"horizon": 230} if by_horizon else {"n_iterations": 15}
    check(*both(machine, [], 1, scripts=[script], every=every, cost=cost, persist=persist, **length))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("who", [1, None])
def test_chaos__a_failure_in_every_state_equals_the_twin(machine, who):
    """Also while a node joins, between two states, in an iteration, and by the clock."""
    scripts = [[(25, (0,), 3, 30), (26, (2,), 1, 5), (140, (3,), 2, 9)]] * 2
    job, ns = {"n_iterations": 25, "every": 3, "cost": 3, "persist": 4}, {"detection": 2e-9, "repair": 9e-9, "who": who}
    e = MACHINES[machine][0].elastic
    names = [state.name for state in (*BACK, *e.switch, *e.join)]
    rows = [Injection(state=name, times=2, **ns) for name in ("detection", "recovery", "checkpoint", "join", *dict.fromkeys(names))]
    rows += [Injection(iteration=5, **ns), Injection(at=31e-9, **ns), Injection(at=20e-9, every=33e-9, times=4, **ns)]
    rows += [Injection(state="recovery", times=5, budget=2, **ns)]
    for at, row in enumerate(rows):
        check(*both(machine, [], 2, scripts=scripts, chaos=[row], **job))
        check(*both(machine, [], 2, scripts=scripts, chaos=[row, rows[at - 1]], **job))
        check(*both(machine, LAWS["exponential"], 3, chaos=[row], **job))
    plain, _ = both(machine, [], 2, scripts=scripts, **job)
    found, _ = both(machine, [], 2, scripts=scripts, chaos=rows[:4], **job)
    assert found[0]["failures"] > plain[0]["failures"]
