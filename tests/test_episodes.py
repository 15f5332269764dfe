"""Training runs: the engine is the slow twin, to the tick, in every bucket; at adversarial times, for all laws and strategies."""

import functools

import numpy as np
import pytest
import twin
import twin_runs
from hypothesis import given, settings
from hypothesis import strategies as st

from hops import course as columns
from hops.chaos import chaos_of
from hops.checkpoints import Checkpoint
from hops.checks import Infeasible
from hops.course import FINISHED, STUCK, Course, one_plan
from hops.data_parallel import DataParallel
from hops.diary import STATES, smaller, states
from hops.episodes import run_trials
from hops.faults import Failures, Fault
from hops.hazards import hazards
from hops.injections import Injection
from hops.kernels import NEVER
from hops.layout import Layout
from hops.lifetimes import SHAPES, Lifetime
from hops.places import IN_VAIN, make_space
from hops.recovery import RECOVERIES, Machine, Memory, State
from hops.runs import way_of
from hops.scripts import Line
from hops.topologies import TOPOLOGIES
from hops.training import Run, Training

N_NODES = 4
CLUSTER = TOPOLOGIES["dgx"].build(8 * N_NODES)
LAYOUT = Layout(4, 8, 1)  # pp, dp: the 8 replicas of a rank are a node
COLUMNS = {
    "useful": columns.USEFUL, "wasted": columns.WASTED, "checkpoint": columns.CHECKPOINT, "detection": columns.DETECTION,
    "recovery": columns.RECOVERING, "queue": columns.QUEUEING, "now": columns.NOW, "done": columns.DONE,
    "failures": columns.N_FAILURES, "episodes": columns.N_EPISODES, "lost": columns.LOST, "replay": columns.REPLAY,
    "checkpoints": columns.N_CHECKPOINTS, "from_memory": columns.N_FROM_MEMORY, "standby": columns.STANDING_BY,
    "healthy": columns.HEALTHY, "trained": columns.WORST, "rebalanced": columns.N_REBALANCED,
}  # fmt: skip


@functools.cache
def table(law, shape):
    return twin.Table(lambda u: SHAPES[law].quantile(u, shape or 1.0))


def fault(name="node", law="exponential", mean=60, shape=None, nodes=None, detection=3, repair=40, batch=(1.0,)):
    """The same fault for the engine and for the twin; ticks, fresh lifetimes. ``nodes`` is a size: components of so many nodes."""

    def time(law, mean, shape=None, age="fresh"):
        return Lifetime(law, mean / 1e9, shape, age)

    size = nodes or 1
    ours = Fault(name, "fail_stop", "rack", size, time(law, mean, shape), time("uniform", detection), time("exponential", repair), batch)
    groups = [list(range(at, min(at + size, N_NODES))) for at in range(0, N_NODES, size)]
    one_clock = law == "exponential"
    clock = mean / 1e9 * 1e9 / (len(groups) if one_clock else 1)
    lifetime = clock, table(law, shape), table(law, shape)
    times = (detection / 1e9 * 1e9, table("uniform", None)), (repair / 1e9 * 1e9, table("exponential", None))
    return ours, twin_runs.Fault(name, groups, lifetime, *times, one_clock, batch)


def state(name, ticks, bucket="recovery", acquires=False):
    return State(name, ticks / 1e9, bucket, acquires)


def both(pool, faults, machine, trials, scripts=None, clock="calendar", chaos=(), **course):
    """Results of the engine, a dict of ticks and counts a trial; and those of the twin."""
    ours, theirs = zip(*faults, strict=True) if faults else ((), ())
    lines = None if scripts is None else tuple(tuple(Line(tick, tuple(nodes), *rest) for tick, nodes, *rest in each) for each in scripts)
    training = Training(Run(1, None), trials, Failures(ours, 1.0, clock, lines, None, tuple(chaos)), machine, Checkpoint())
    h = hazards(training, CLUSTER, LAYOUT, DataParallel(zero=0))
    wanted = {"n_iterations": NEVER, "horizon": NEVER, "every": NEVER, "cost": 0, "persist": 0, **course}
    memory = machine.memory
    copies = (NEVER, 0) if memory is None else (memory.every, round(memory.cost * 1e9))
    way, seed = way_of(machine), 5
    plan = Course(
        np.array(pool, np.int64).T.copy(),
        **wanted,
        copy_every=copies[0],
        copy_cost=copies[1],
        seed=seed,
        slot=np.zeros((0, 1), np.int64),
        plans=one_plan(len(pool)),
        chaos=chaos_of(training, h),
    )
    bound = plan.n_iterations if plan.horizon == NEVER else plan.horizon // min(each[0] for each in pool) + 1
    results = np.zeros((trials, columns.N_RESULTS), np.int64)
    run_trials(h, plan, way, 0, make_space(bound, h, way.spares, 0, len(chaos)), results)
    diaries = [spans for spans, _ in noted(h, plan, way, len(chaos), bound, results)]

    def states(of):
        return [(each.bucket, round(each.seconds * 1e9), each.acquires) for each in of]

    job = twin_runs.Job(
        pool, states(machine.states), **wanted, memory_states=None if memory is None else states(memory.states),
        copy_every=copies[0], copy_cost=copies[1],
        groups=[h.group_node[a:b].tolist() for a, b in zip(h.group[:-1], h.group[1:], strict=True)],
        spares=machine.spares, exposure=clock == "exposure", seed=seed, n_nodes=N_NODES,
        chaos=[told(each, {"durable": machine.states, "memory": memory.states if memory else ()}) for each in chaos],
    )  # fmt: skip
    wanted_results = []
    for trial in range(trials):
        failures = twin_runs.Failures(theirs, seed, trial, None if scripts is None else list(scripts[trial]))
        failures.forced = [one for j, each in enumerate(chaos) for one in timed(each, j, seed, trial)]
        wanted_results.append(twin_runs.run(job, failures, trial))
        assert len(wanted_results[-1].pop("intervals")) in (wanted_results[-1]["done"], 0)
        assert diaries[trial] == wanted_results[-1].pop("spans")
    found = []
    for r in results:
        one = {name: int(r[at]) for name, at in COLUMNS.items()}
        one["busy"] = int(r[columns.BUSY_HIGH]) * 2**32 + int(r[columns.BUSY_LOW])
        one["exposed"] = int(r[columns.EXPOSED_HIGH]) * 2**32 + int(r[columns.EXPOSED_LOW])
        one["lost busy"] = int(r[columns.LOST_HIGH]) * 2**32 + int(r[columns.LOST_LOW])
        one |= {"slowed": int(r[columns.SLOWED]), "spells": int(r[columns.N_SPELLS])}
        one["gaps"] = int(r[columns.N_GAPS]) if r[columns.STATUS] == FINISHED else 0
        found.append(one | {"finished": bool(r[columns.STATUS] == FINISHED)})
    return found, wanted_results


def noted(h, plan, way, n_chaos, bound, results):
    """Spans of every trial by a diary, and of its plans; keeping one changes no result."""
    space = make_space(bound, h, way.spares, 0, n_chaos, 1 << 14)
    for trial, wanted in enumerate(results):
        r = np.zeros_like(results[:1])
        assert run_trials(h, plan, way, trial, space, r) == 1
        r[0, columns.WANT : columns.LAST + 1] = wanted[columns.WANT : columns.LAST + 1]  # it may have asked for a plan
        assert (r[0] == wanted).all()
        assert space.diary[0, 0] < 1 << 14
        found, now = (states(space.diary, int(wanted[columns.NOW])), smaller(space.diary, int(wanted[columns.NOW])))
        spans = [(STATES[what], begin, end) for begin, end, what in zip(*(each.tolist() for each in found), strict=True)]
        yield spans, [(what, begin, end) for begin, end, what in zip(*(each.tolist() for each in now), strict=True)]


def told(each, ways):
    """An injection as the twin takes it, to which the states of ``ways`` are known by their place; by the clock it has no states."""
    states = [each.state, *((way, i) for way, of in ways.items() for i, one in enumerate(of) if one.name == each.state)]
    where = {} if each.iteration is None else {"iteration": each.iteration}
    found = {"states": ["iteration"] if where else states, "known": round(each.detection * 1e9), "repaired": round(each.repair * 1e9)}
    return found | where | {"node": each.who, "times": each.times, "budget": each.budget}


def timed(each, j, seed, trial):
    """Failures of an injection by the clock: (tick, which, node, ticks until known, until repaired)."""
    for n in range(each.times if each.at is not None else 0):
        node = twin_runs.bits(seed, trial, j, n, 0, 22)[0] * N_NODES // 2**32 if each.who is None else each.who
        yield round((each.at + n * (each.every or 0)) * 1e9), j, node, round(each.detection * 1e9), round(each.repair * 1e9)


def check(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert one == other
        buckets = ("useful", "wasted", "checkpoint", "detection", "recovery", "queue")
        assert sum(one[bucket] for bucket in buckets) == one["now"]
        assert min(one.values()) >= 0


WAKE = state("wake", 1, acquires=True)
MACHINES = {
    "restart": Machine((state("teardown", 2), state("queue", 3, "queue"), state("load", 7))),
    "at once": Machine(()),
    "spare": Machine((state("teardown", 1), state("wake", 2, acquires=True), state("load", 6)), spares=2),
    "no spare": Machine((state("wake", 2, acquires=True), state("load", 6)), spares=0),
    "peers": Machine((state("load", 9),), Memory((state("fetch", 2),), "peers", 2, 1, 1 / 1e9)),
    "peers, rarely": Machine((state("load", 9),), Memory((state("fetch", 2),), "peers", 2, 3, 2 / 1e9)),
    "peers, spares": Machine((WAKE, state("load", 9)), Memory((WAKE, state("fetch", 2)), "peers"), spares=1),
    "replicas": Machine((state("load", 9),), Memory((state("save", 1), state("load", 4)), "replicas")),
}
POOL = [(10, 31, 3), (12, 40, 0), (7, 25, 9), (11, 38, 1)]
LAWS = {
    "exponential": [fault()],
    "weibull": [fault(law="weibull", shape=0.7, mean=250)],
    "racks and nodes": [fault("rack", nodes=2, mean=300), fault("node", mean=200, law="gamma", shape=0.5)],
    "batches": [fault(batch=(0.5, 0.3, 0.2))],
    "periodic": [fault(law="constant", mean=61)],
    "never": [],
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    "course",
    [
        {"n_iterations": 40, "every": 3, "cost": 4},
        {"n_iterations": 40, "every": 2, "cost": 1, "persist": 25},
        {"horizon": 3000, "every": 4, "cost": 2, "persist": 5},
        {"horizon": 1500},
    ],
    ids=["iterations", "overlapped", "days", "no checkpoints"],
)
def test_run__equals_the_twin(law, machine, course):
    check(*both(POOL, LAWS[law], MACHINES[machine], 6, **course))


@pytest.mark.parametrize("machine", MACHINES)
def test_run__equals_the_twin_where_components_age_while_the_job_trains(machine):
    check(*both(POOL, LAWS["exponential"], MACHINES[machine], 6, clock="exposure", n_iterations=40, every=3, cost=4, persist=2))


@pytest.mark.parametrize("machine", MACHINES)
def test_run__equals_the_twin_at_every_tick_that_a_failure_can_come(machine):
    """Iterations of 10 ticks, checkpoints of 3 that are durable 4 later: ends of all kinds, and one tick before and after."""
    scripts = [
        [(tick, (0,), known, 30), (tick + known + again, (1,), 1, 5), (200, (2,), 0, 0)]
        for tick in range(110)
        for known in (0, 3)
        for again in (2, 9)
    ]
    check(*both([(10, 1, 1)], [], MACHINES[machine], len(scripts), scripts=scripts, n_iterations=14, every=3, cost=3, persist=4))


@settings(max_examples=100)
@given(
    st.sampled_from(sorted(MACHINES)),
    st.lists(st.tuples(st.integers(0, 200), st.sets(st.integers(0, 3), min_size=1), st.integers(0, 9), st.integers(0, 60)), max_size=12),
    st.integers(1, 5), st.integers(0, 5), st.integers(0, 30), st.booleans(),
)  # fmt: skip
def test_run__equals_the_twin_for_any_script(machine, lines, every, cost, persist, by_horizon):
    script = [(tick, tuple(sorted(nodes)), known, repaired) for tick, nodes, known, repaired in sorted(lines, key=lambda line: line[0])]
    length = {"horizon": 230} if by_horizon else {"n_iterations": 15}
    check(*both([(10, 1, 1)], [], MACHINES[machine], 1, scripts=[script], every=every, cost=cost, persist=persist, **length))


@settings(max_examples=130)
@given(
    st.sampled_from(["restart", "at once"]), st.lists(st.integers(0, 200), max_size=8), st.integers(0, 200),
    st.integers(1, 5), st.integers(0, 5), st.integers(0, 30),
)  # fmt: skip
def test_law__one_more_failure_never_shortens_a_run(machine, ticks, more, every, cost, persist):
    """Under restart, without noise, and known at once: of two that are noticed together the first alone counts, and may hide the other."""
    scripts = [[(tick, (0,), 0, 0) for tick in sorted(each)] for each in (ticks, [*ticks, more])]
    job = {"n_iterations": 15, "every": every, "cost": cost, "persist": persist}
    (less, longer), _ = both([(10, 1, 1)], [], MACHINES[machine], 2, scripts=scripts, **job)
    assert longer["now"] >= less["now"]


def test_run__windows_and_what_is_attempted_again_come_from_one_address():
    """A run of more than a window: iterations that are done at once, and one by one after a failure, are those of the twin."""
    found, wanted = both(POOL, [fault(mean=9000)], MACHINES["restart"], 4, n_iterations=900, every=37, cost=4)
    check(found, wanted)
    assert min(one["lost"] for one in found) > 0


def moments(machine):
    """All states that a run with this machine can enter."""
    names = [each.name for each in (*machine.states, *(machine.memory.states if machine.memory else ()))]
    return ["detection", "recovery", "checkpoint", *dict.fromkeys(names)]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("who", [1, None])
def test_chaos__a_failure_in_every_state_equals_the_twin(machine, who):
    """And in two states at once, in an iteration, and by the clock; the ledger closes, and nothing is negative."""
    scripts = [[(25, (0,), 3, 30), (26, (2,), 1, 5), (140, (3,), 2, 9)]] * 2
    job = {"n_iterations": 14, "every": 3, "cost": 3, "persist": 4}
    ns = {"detection": 2e-9, "repair": 9e-9, "who": who}
    rows = [Injection(state=state, times=2, **ns) for state in moments(MACHINES[machine])]
    rows += [Injection(iteration=5, **ns), Injection(at=31e-9, **ns), Injection(at=20e-9, every=33e-9, times=4, **ns)]
    rows += [Injection(state="recovery", times=5, budget=2, **ns)]
    plain, _ = both(POOL, [], MACHINES[machine], 2, scripts=scripts, **job)
    for at, row in enumerate(rows):
        found, wanted = both(POOL, [], MACHINES[machine], 2, scripts=scripts, chaos=[row], **job)
        check(found, wanted)
        assert row.state not in (None, "detection", "recovery", "checkpoint") or found[0]["failures"] > plain[0]["failures"]
        check(*both(POOL, [], MACHINES[machine], 2, scripts=scripts, chaos=[row, rows[at - 1]], **job))
        check(*both(POOL, LAWS["exponential"], MACHINES[machine], 4, chaos=[row], **job))


def test_run__that_cannot_end_says_so():
    """Periodic failures closer than a segment between checkpoints: the engine gives up after so many; a run of days comes to its end."""
    faults, machine = [fault(law="constant", mean=20, detection=0)], MACHINES["at once"]
    training = Training(Run(1, None), 1, Failures((faults[0][0],)), machine, Checkpoint())
    h = hazards(training, CLUSTER, LAYOUT, DataParallel())
    plan = Course(np.array([[10], [1], [1]]), 30, NEVER, 3, 0, 0, NEVER, 0, 0, np.zeros((0, 1), np.int64), one_plan(1))
    results = np.zeros((1, columns.N_RESULTS), np.int64)
    run_trials(h, plan, way_of(machine), 0, make_space(30, h, 0), results)
    assert results[0, columns.STATUS] == STUCK
    assert results[0, columns.DONE] == 0
    assert IN_VAIN < results[0, columns.N_FAILURES] < IN_VAIN + 9  # counted from when it first had done as much as it ever would
    run_trials(h, plan._replace(n_iterations=NEVER, horizon=30 * IN_VAIN), way_of(machine), 0, make_space(30 * IN_VAIN, h, 0), results)
    assert results[0, columns.STATUS] == FINISHED
    assert results[0, columns.N_FAILURES] > IN_VAIN


def test_recoveries__all_of_the_door_are_machines():
    for name, record in RECOVERIES.items():
        machine = record.make()
        assert machine.states, name
        assert way_of(machine).ticks.sum() > 0


def test_hazards__replicas_that_hold_nothing_in_common_are_refused():
    machine = RECOVERIES["just_in_time"].make()
    training = Training(Run(1, None), 1, Failures(), machine, Checkpoint())
    with pytest.raises(Infeasible, match=r"no other replica holds the state of GPU 0 \(dp=8, zero=1, dp_shard=null: try zero=0"):
        hazards(training, CLUSTER, LAYOUT, DataParallel(zero=1))
    assert len(hazards(training, CLUSTER, LAYOUT, DataParallel(zero=1, shard=4)).group) > 2
