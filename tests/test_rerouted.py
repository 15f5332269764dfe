"""Pipelines without some of their ranks: who takes over what, the engine against the twin, weights that several routes share."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import config, run_ticks, scenario
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_data_parallel import NET, evaluated
from test_kernels import times, twin_of

import hops
from hops.checks import Infeasible
from hops.distributions import TERMS
from hops.elastic import find
from hops.lowering import P2P
from hops.programs import Program
from hops.recipes import plan_of_words
from hops.recovery import RECOVERIES
from hops.recovery.recycle import spread
from hops.routes import named, reroute, routes_of
from hops.scenario import Scenario
from hops.schedules import SCHEDULES
from hops.sections import Choice
from hops.simulation import prepare
from hops.trace import timeline_frame


@st.composite
def shapes(draw):
    """Pipelines, stages, microbatches of each, and ranks that are gone, of no stage all."""
    pipelines, stages, each = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 6))
    places = [(d, s) for d in range(pipelines) for s in range(stages)]
    failed = draw(st.sets(st.sampled_from(places), max_size=len(places) - 1))
    assume(all(sum(s == stage for _, s in failed) < pipelines for stage in range(stages)))
    return pipelines, stages, each, tuple(sorted(failed))


@given(shapes())
def test_routes__peers_of_a_stage_take_over_evenly_and_all_else_stays(shape):
    pipelines, stages, each, failed = shape
    found = reroute(*shape)
    left = [(s, d) for s in range(stages) for d in range(pipelines) if (d, s) not in failed]
    assert found.n_ranks == len(left)
    assert set(found.route) == set(range(len(found.ranks)))
    assert len(set(found.ranks)) == len(found.ranks)
    taken = Counter()
    for k, route in enumerate(found.route):
        for stage, rank in enumerate(found.ranks[route]):
            assert left[rank][0] == stage
            if (k // each, stage) not in failed:
                assert left[rank] == (stage, k // each)
            else:
                taken[rank] += 1
    for stage in range(stages):
        loads = [taken[rank] for rank, (s, _) in enumerate(left) if s == stage]
        assert max(loads) - min(loads) <= 1
    assert routes_of(named(*shape)) == found


def test_routes__by_hand():
    """Of 2 pipelines of 3 stages rank (0, 1) is gone: (1, 1), which is rank 2, runs its stage for both."""
    found = reroute(2, 3, 2, ((0, 1),))
    assert found == (5, ((0, 2, 3), (1, 2, 4)), (0, 0, 1, 1))
    program = hops.program("rerouted", pp=5, microbatches=4, pipelines=2, failed=[[0, 1]])
    assert program.placement == "rerouted:2:3:2:0.1"
    assert program.stage_ranks == (0, 2, 3, 1, 2, 4)
    assert program.n_stages == 3
    assert sorted({op.microbatch for op in program.ops[2]}) == [0, 1, 2, 3]
    assert str(program).splitlines()[2] == "rank 2: 1F0 1F2 1F1 1F3 1I0 1I2 1I1 1I3 1W0 1W2 1W1 1W3"
    assert Program.parse(str(program), "rerouted", program.placement) == program


@st.composite
def rerouted(draw):
    """A job with ranks gone, its stages' times, links, noise and order."""
    pipelines, stages, each, failed = draw(shapes())
    model = {"family": "explicit", "per": "stage", "p2p_bytes": draw(st.floats(0, 1e8))}
    model |= {key: draw(times(stages)) for key in ("forward", "backward_input", "backward_weight")}
    return config(
        schedule={
            "name": "rerouted", "pipelines": pipelines, "failed": [list(each) for each in failed],
            "decoupled": draw(st.booleans()), "rounds": draw(st.sampled_from([None, 1, 2])),
        },
        model=model,
        topology={"name": "uniform", "latency": draw(st.floats(0, 0.5)), "bandwidth": draw(st.sampled_from([1e8, 5e9]))},
        latency={term: draw(st.sampled_from([{"law": "none"}, {"law": "lognormal", "cv": 0.3}])) for term in TERMS},
        pp=pipelines * stages - len(failed),
        microbatches=pipelines * each,
        draws=3,
        seed=draw(st.integers(0, 2**32 - 1)),
        p2p=draw(st.sampled_from(P2P)),
    )  # fmt: skip


@settings(max_examples=60)
@given(rerouted())
def test_rerouted__kernel_equals_the_twin(made):
    try:
        case = prepare(Scenario.from_config(made))
    except Infeasible:  # ranks that block would wait for each other
        assume(False)
    for draw in range(2 if case.noisy else 1):
        program, (when, busy, exposed) = twin_of(made, draw)
        ticks, moments = run_ticks(case, first=draw, n=1)
        total = (moments[:, :, 0] << 42) + (moments[:, :, 1] << 21) + moments[:, :, 2]
        assert ticks[0, 0] == max(end for _, end in when.values())
        assert list(total[0]) == busy
        assert list(total[1]) == exposed
    wanted = {(s, kind, k) for s in range(program.n_stages) for kind in "FIW" for k in range(program.microbatches)}
    if made["schedule"]["decoupled"]:
        assert {op for ops in program.ops for op in ops} == wanted


@settings(max_examples=60)
@given(rerouted())
def test_rerouted__who_is_free_runs_a_backward_that_can_be_else_a_forward_else_a_weight_pass(made):
    """On the times that it was planned for: of every stage, link and direction."""
    made |= {"latency": {term: {"law": "none"} for term in TERMS}, "p2p": "latency", "draws": 1}
    made["schedule"]["rounds"], made["model"]["p2p_bytes"], hop = None, 0.0, round(made["topology"]["latency"] * 1e9)
    program, (when, _, _) = twin_of(made, 0)
    home = {(op.stage, op.microbatch): rank for rank, ops in enumerate(program.ops) for op in ops}

    def arrives(op):
        stage, kind, k = op
        if kind == "W":
            return when[stage, "I", k][1]
        if kind == "F" and stage == 0:
            return 0
        before = (stage - 1, "F", k) if kind == "F" else (stage, "F", k) if stage == program.n_stages - 1 else (stage + 1, kind, k)
        return when[before][1] + hop * (home[before[0], k] != home[stage, k])

    for ops in program.ops:
        for i, op in enumerate(ops):
            start = when[op][0]
            assert op.kind in "IB" or all(arrives(later) > start for later in ops[i:] if later.kind in "IB")
            assert op.kind != "W" or all(arrives(later) > start for later in ops[i:] if later.kind == "F")
            idle = start > (when[ops[i - 1]][1] if i else 0)
            assert not (idle and made["schedule"]["decoupled"]) or all(arrives(later) >= start for later in ops[i:])


def test_rerouted__whole_backwards_hold_as_1f1b_does_for_as_many_microbatches():
    """Peers of stage 0 have 9 for 6: half as many again as the 4 of 1F1B."""
    program = hops.program("rerouted", pp=11, microbatches=18, pipelines=3, failed=[[2, 0]], decoupled=False)
    assert program.in_flight == (6, 6, 3, 3, 3, 2, 2, 2, 1, 1, 1)


@settings(max_examples=60)
@given(rerouted(), st.booleans(), st.data())
def test_rerouted__gradients_are_reduced_once_a_stage_when_all_its_ranks_have_them(made, overlap, data):
    """Those of a rank are ready when its last microbatch has passed, whatever route that takes."""
    made |= {"overlap_grad_reduce": overlap, "p2p": "channel"}
    n_stages, pipelines = len(made["model"]["forward"]), len(routes_of_config(made).ranks)
    pieces = np.array([data.draw(st.integers(0, 3)) for _ in range(n_stages)])
    seats = routes_of_config(made).seats
    first = np.array([seat == seats.index(rank) for seat, rank in enumerate(seats)])
    numbers = {"n_buckets": np.tile(pieces, pipelines) * first, "ring": np.full(len(seats), NET)}
    numbers["update"] = np.array([data.draw(st.integers(0, 10**9)) for _ in range(made["pp"])])
    for name, size in (("reduce", n_stages), ("gather", n_stages), ("slow", 4 * n_stages), ("host", 4 * n_stages)):
        numbers[name] = np.tile([data.draw(st.sampled_from([0.0, 1e7, 123456789.25, 5e10])) for _ in range(size)], pipelines)
    numbers["gather"] *= 0
    case, run, step = evaluated(made, numbers)
    when, _, _ = run(0, 0)
    ticks, _ = run_ticks(case, first=0, n=1)
    assert tuple(ticks[4:6, 0]) == step(0, [when])


def routes_of_config(made):
    s = made["schedule"]
    n = (made["pp"] + len(s["failed"])) // s["pipelines"]
    return reroute(s["pipelines"], n, made["microbatches"] // s["pipelines"], tuple(map(tuple, s["failed"])))


JOB = ("model=gpt_22b", "topology=dgx_a100", "latency=none", "pp=4", "tp=8", "microbatches=8", "dp=3", "zero=0")


def job(*more):
    return plan_of_words((*JOB, *more), sweep=False).scenarios[0]


def plan(s, missing=1, **how):
    return find(RECOVERIES["recycle"].make(**how).elastic, s, missing, s.layout.n_gpus - 8 * missing)


def test_plan__without_failures_is_as_three_replicas():
    """Side by side in one program: the same iteration and the same memory, where nothing is gone."""
    whole = prepare(job())
    choice = Choice("rerouted", (("decoupled", False), ("pipelines", 3)), (bool, int))
    side = prepare(replace(whole.scenario, schedule=choice, pp=12, dp=1, microbatches=24))
    assert run_ticks(side)[0][0].tolist() == run_ticks(whole)[0][0].tolist()
    assert run_ticks(side)[0][4].tolist() == run_ticks(whole)[0][4].tolist()
    assert side.memory == tuple(each for each in whole.memory for _ in range(3))


def test_plan__peers_hold_their_weights_once_and_more_activations():
    whole, found = prepare(job()), plan(job())
    (case,) = found.cases
    assert found.n_gpus == 11 * 8
    assert found.samples == 24
    assert case.scenario.pp == 11
    assert [each.weights for each in case.memory] == [whole.memory[s].weights for s in (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3)]
    assert case.memory[9].activations > whole.memory[3].activations
    assert case.weights.n_buckets.sum() == 11
    gpus = [case.weights.cluster.order[8 * rank] // 8 for rank in range(11)]
    assert gpus == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]  # node 9 holds stage 3 of pipeline 0


def test_plan__on_devices_of_a_list_stays_on_them():
    devices = list(range(96))[::-1]
    (case,) = plan(job(f"topology.order={devices}")).cases
    assert case.weights.cluster.order == tuple(each for each in devices if devices.index(each) // 8 != 9)


def test_plan__decoupled_is_faster_and_coupled_takes_less():
    fast, slow = plan(job()), plan(job(), decoupled=False)
    kinds = [{op.kind for ops in found.cases[0].program.ops for op in ops} for found in (fast, slow)]
    assert kinds == [set("FIW"), set("FB")]
    times = [int(found.iterations(0, 0, 1, 8)[0, 0]) for found in (fast, slow)]
    assert times[0] < times[1]
    assert max(each.activations for each in fast.cases[0].memory) > max(each.activations for each in slow.cases[0].memory)


def test_plan__that_does_not_fit_gives_way_to_one_that_does():
    """Less and less memory: all microbatches in flight, twice as many as 1F1B has, as many, for which whole backwards take no less."""
    taken = [max(each.total for each in prepare(cell).memory) for cell in cells(job("microbatches=16"))]
    assert taken[0] > taken[1] > taken[2] == taken[3]
    for i, room in enumerate(taken[:3]):
        tight = job("microbatches=16", f"memory.reserve={80e9 - room - 1}")
        (chosen,) = plan(tight).plan.cells
        assert chosen.schedule == cells(tight)[i].schedule


def cells(s):
    return [each.cells[0] for each in RECOVERIES["recycle"].make().elastic.plans(s, 1, s.layout.n_gpus - 8)]


def test_spread__is_even_over_stages_and_pipelines_from_the_last_stage_on():
    assert spread(1, 3, 4) == ((0, 3),)
    assert spread(5, 3, 4) == ((0, 0), (0, 3), (1, 2), (1, 3), (2, 1))
    for pipelines, stages in ((2, 3), (4, 4), (5, 2)):
        for n in range(1, (pipelines - 1) * stages + 1):
            found = spread(n, pipelines, stages)
            assert len(found) == n
            for axis, size in ((0, pipelines), (1, stages)):
                counts = [sum(place[axis] == i for place in found) for i in range(size)]
                assert max(counts) - min(counts) <= 1 + (axis == 0)


def test_plan__ends_where_a_stage_has_no_peer_left():
    elastic, s = RECOVERIES["recycle"].make().elastic, job()
    assert [len(elastic.plans(s, k, 96 - 8 * k)) for k in (0, 1, 8, 9)] == [1, 4, 4, 0]
    redundant = [elastic.plans(s, k, 96 - 8 * k)[0].redundant for k in (1, 4, 5, 8)]
    assert redundant == [True, True, False, False]
    assert [len(elastic.plans(s, k, 96 - 16 * k)[0].cells[0].schedule.kwargs["failed"]) for k in (1, 2)] == [2, 4]  # nodes of two ranks


def test_rerouted__states_are_shared_by_those_that_hold_them():
    """With ZeRO 1 by two where one of three is gone: the fewest count for all."""
    schedule = ("schedule=rerouted", "schedule.pipelines=3", "schedule.failed=[[0,3]]")
    one = ("pp=11", "dp=1", "microbatches=24")
    alone, shared = (prepare(job(*schedule, *one, f"zero={zero}")) for zero in (0, 1))
    for a, b in zip(alone.memory, shared.memory, strict=True):
        assert (b.weights, b.optimizer) == (a.weights, pytest.approx(a.optimizer / 2))
    assert SCHEDULES["rerouted"].n_stages(11, 24, None, {"pipelines": 3, "failed": [[0, 3]]}) == 4


def test_rerouted__is_planned_on_the_times_of_every_stage():
    """With weight passes that take long nobody waits for them, with links that do forwards run ahead."""
    sizes = {"pp": 5, "microbatches": 12}
    gone = {"pipelines": 2, "failed": [[1, 2]]}
    usual = hops.program("rerouted", **sizes, **gone)
    for changes in ({"model__backward_input": 0.3}, {"topology__latency": 2.0}):
        case = prepare(scenario(schedule={"name": "rerouted"} | gone, **sizes, **changes))
        assert case.program != usual
        ticks = [run_ticks(each)[0][0, 0] for each in (case, replaced(case, usual))]
        assert ticks[0] <= ticks[1]


def replaced(case, program):
    """The case with the order of ``program``, which is planned on equal times and hops of a thousandth."""
    told = {"forward": 1.0, "backward_input": 1.0, "backward_weight": 1.0, "hop": 0.001}
    given = {"pipelines": 2, "failed": ((1, 2),)} | told
    types = {"pipelines": int, "failed": ((int, int),)} | dict.fromkeys(told, float)
    keys = sorted(given)
    choice = Choice("rerouted", tuple((key, given[key]) for key in keys), tuple(types[key] for key in keys))
    other = prepare(replace(case.scenario, schedule=choice))
    assert other.program == program
    return other


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (("dp=1",), r"no other replica holds the state of GPU 0 \(dp=1, zero=0.*: try dp=2 or more\)"),
        (("dp=1", "cp=2"), r"lets other replicas take over microbatches, and dp=1 has none \(try dp=2 or more\)"),
        (("schedule=interleaved",), "pipelines of one stage a rank that end with a flush; interleaved is none"),
        (("schedule=chimera",), "chimera is none"),
        (("zero=1", "dp_shard=1"), "needs replicas that hold all states; got zero=1 and dp_shard=1"),
        (("recovery.decoupled=1",), "recovery.decoupled must be true or false; got 1"),
        (("recovery.join=-1",), "recovery.join must be a finite number at least 0"),
    ],
)
def test_recycle__bad_input_is_refused_by_name(changes, sentence):
    run = ("recovery=recycle", "run.iterations=10", "trials=1", "failure=llama3", "draws=1")
    with pytest.raises(ValueError, match=sentence):
        hops.simulate(*JOB, *run, *changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"failed": [[2, 3]]}, r"pp \+ those that failed divisible by pipelines; got pp=10 .*try pp=8 or 11"),
        ({"failed": [[3, 0], [0, 0]]}, "failed to name ranks of its pipelines and stages"),
        ({"failed": [[0, 4], [0, 0]]}, "failed to name ranks of its pipelines and stages"),
        ({"failed": [[0, 0], [0, 0]]}, "names a rank twice"),
        ({"failed": [0, 1]}, "must list pipeline and stage"),
        ({"failed": [[0, -1], [0, 0]]}, "schedule.failed: a stage must be a whole number of at least 0; got -1"),
        ({"failed": [[0, 1], [1, 1], [2, 1], [0, 0], [1, 0]]}, "no pipeline of 3 is left that holds stage 1"),
        ({"failed": [[0, 0], [0, 1]], "rounds": 0}, "schedule.rounds must be a whole number"),
        ({"failed": [[0, 0], [0, 1]], "decoupled": 1}, "schedule.decoupled must be true or false"),
        ({"failed": [[0, 0], [0, 1]], "pipelines": 0}, "schedule.pipelines must be a whole number"),
    ],
)
def test_rerouted__bad_input_is_refused_by_name(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        prepare(scenario(schedule={"name": "rerouted", "pipelines": 3} | changes, pp=10, microbatches=6))
    with pytest.raises(ValueError, match="microbatches divisible by pipelines"):
        prepare(scenario(schedule={"name": "rerouted", "pipelines": 3, "failed": [[2, 3]]}, pp=11, microbatches=7))


def test_rerouted__weights_gathered_ahead_are_refused():
    with pytest.raises(Infeasible, match="try overlap_param_gather=false"):
        prepare(scenario(schedule={"name": "rerouted"}, overlap_param_gather=True))


@pytest.mark.parametrize(
    ("placement", "sentence"),
    [
        ("rerouted", "must read rerouted:<pipelines>"),
        ("rerouted:2:x:1:", "must read rerouted:<pipelines>"),
        ("rerouted:0:1:1:", "a size must be a whole number of at least 1"),
        ("rerouted:2:2:1:1.1", "needs 3 ranks, 2 stages and 2 microbatches; got 2 ranks, 2 stages and 1 microbatches"),
    ],
)
def test_placements__that_do_not_fit_are_refused(placement, sentence):
    with pytest.raises(ValueError, match=sentence):
        Program.parse("rank 0: 0F0 0B0\nrank 1: 1F0 1B0", "mine", placement).validate()


def test_timeline__says_the_route():
    case = prepare(scenario(schedule={"name": "rerouted", "pipelines": 3, "failed": [[2, 1]]}, pp=5, microbatches=12))
    frame = timeline_frame(case)
    passed = frame[frame["op"].str.startswith("0F")].set_index("microbatch")["route"]
    assert passed.sort_index().tolist() == [0] * 4 + [1] * 4 + [2, 3] * 2
