"""Searching schedules: their orders equal the slow twins', keep their limits, and accept whatever stages cost."""

import random

import pytest
from conftest import run_ticks, scenario
from twin_searches import greedy, line_search, v_search

import hops
from hops.checks import Infeasible
from hops.simulation import prepare

NS = 1e-9


def seconds(ticks):
    return [each * NS for each in ticks]


def peaks(program, memory):
    """Most that each rank holds; ``memory`` is {kind: change of a pass}."""
    found = []
    for ops in program.ranks:
        held = [0.0]
        for op in ops:
            held.append(held[-1] + memory[op.kind])
        found.append(max(held))
    return found


def draw_line(rng):
    """Random stages, hops and limits of a pipeline; times are whole, so that ties occur."""
    p, m, spread = rng.randint(1, 6), rng.randint(1, 18), rng.choice((1.0, 1.3, 3, 10))
    base = rng.choice(((1000, 1000, 1000), (1000, 1100, 700), (500, 900, 900)))
    f, i, w = ([round(each * rng.uniform(1, spread)) for _ in range(p)] for each in base)
    hop = [rng.choice((0, 1, 50, 300)) for _ in range(p - 1)]
    x = rng.choice((-0.5, 0, 0.25, 0.5, 1.0))  # of an activation, what the backward for the input frees
    limit = [max(1, 1 - x) + rng.choice((0, 0.5, p - 1, 2 * p - 1, p - 0.25)) for _ in range(p)]
    return p, m, f, i, w, hop, {"F": 1, "I": -x, "W": x - 1}, limit


@pytest.mark.parametrize("seed", range(60))
def test_line__order_equals_the_twin_s_and_keeps_its_limits(seed):
    p, m, f, i, w, hop, memory, limit = draw_line(random.Random(seed))
    given = {"forward": seconds(f), "backward_input": seconds(i), "backward_weight": seconds(w), "hop": seconds(hop)}
    program = hops.program("zb_auto", pp=p, microbatches=m, **given, memory=tuple(memory.values()), memory_limit=limit)
    room = [each - max(0, memory["I"]) for each in limit]  # forwards leave what a backward may add
    order, _ = line_search(p, m, f, i, w, hop, memory, {"F": room, "I": limit})
    assert [[(op.kind, op.microbatch) for op in ops] for ops in program.ranks] == order
    assert all(peak <= most + 1e-5 for peak, most in zip(peaks(program, memory), limit, strict=True))


@pytest.mark.parametrize("seed", range(40))
def test_greedy__order_equals_the_twin_s_and_keeps_its_limits(seed):
    rng = random.Random(seed)
    p, m = rng.randint(1, 6), rng.randint(1, 18)
    f, i, w = ([rng.randint(1, rng.choice((2, 9))) for _ in range(p)] for _ in range(3))
    hop = [rng.choice((0, 1, 2, 12)) for _ in range(p - 1)]
    x = rng.choice((-0.5, 0, 0.25, 0.5, 1.0))
    memory, limit = {"F": 1, "I": -x, "W": x - 1}, [max(1, 1 - x) + rng.choice((0, 0.5, p - 1, 2 * p - 1)) for _ in range(p)]
    given = {"forward": seconds(f), "backward_input": seconds(i), "backward_weight": seconds(w), "hop": seconds(hop)}
    program = hops.program("zb_greedy", pp=p, microbatches=m, **given, memory=tuple(memory.values()), memory_limit=limit)
    order = greedy(p, m, f, i, w, hop, memory, {"F": [each - max(0, memory["I"]) for each in limit], "I": limit})
    assert [[(op.kind, op.microbatch) for op in ops] for ops in program.ranks] == order
    assert all(peak <= most + 1e-5 for peak, most in zip(peaks(program, memory), limit, strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_v__order_equals_the_twin_s(seed):
    rng = random.Random(seed)
    p, m = rng.randint(1, 6), rng.randint(1, 18)
    times = f, i, w = rng.choice(((1000, 1000, 1000), (1000, 1100, 700), (500, 900, 900), (1000, 500, 100), (300, 1000, 200)))
    hop, x, limit = rng.choice((0, 1, 50)), rng.choice((0, 0.25, 0.5)), rng.choice((2 * p, 2 * p, 3 * p, 2 * p + 0.5, 4 * p))
    memory = {"F": 1, "I": -x, "W": x - 1}
    given = dict(zip(("forward", "backward_input", "backward_weight"), seconds(times), strict=True)) | {"hop": hop * NS}
    program = hops.program("zb_v_auto", pp=p, microbatches=m, **given, memory=tuple(memory.values()), memory_limit=limit)
    order, _ = v_search(p, m, f, i, w, hop, memory, limit)
    assert [[(op.kind, op.stage, op.microbatch) for op in ops] for ops in program.ranks] == order
    assert max(peaks(program, memory)) <= limit + 1e-5


@pytest.mark.parametrize("seed", range(60))
def test_v__unequal_stages_and_tight_limits_have_an_order_too(seed):
    rng = random.Random(seed)
    p, m, spread = rng.randint(1, 6), rng.randint(1, 18), rng.choice((1.3, 3, 20))
    f, i, w = ([rng.uniform(1, spread) for _ in range(2 * p)] for _ in range(3))
    x = rng.uniform(-0.5, 0.5)
    memory = {"F": 0.5, "I": -x, "W": x - 0.5}
    limit = [1 + max(0, -x) + rng.uniform(0, rng.choice((0, 1, p, 2 * p))) for _ in range(p)]
    given = {"forward": f, "backward_input": i, "backward_weight": w, "hop": [rng.uniform(0, 0.3) for _ in range(2 * p - 1)]}
    program = hops.program("zb_v_auto", pp=p, microbatches=m, **given, memory=tuple(memory.values()), memory_limit=limit)
    assert all(peak <= most + 1e-5 for peak, most in zip(peaks(program, memory), limit, strict=True))


def test_memory__the_rest_for_weight_passes_decides_how_far_forwards_run_ahead():
    """What a backward for input frees lets zb_2p start more forwards: 0.1015 with (1, 0, -1), 0.0433 with the paper's split."""
    times = {"forward": 18.522e-3, "backward_input": 18.086e-3, "backward_weight": 9.337e-3, "hop": 0.601e-3}
    whole, split = (hops.program("zb_2p", pp=8, microbatches=24, **times, memory=each) for each in ((1, 0, -1), (1, -0.634, -0.366)))
    assert max(whole.in_flight) == 16
    assert max(split.in_flight) > 16


@pytest.mark.parametrize("name", ["zb_auto", "zb_greedy", "zb_v_auto"])
def test_limit__too_small_is_refused_with_the_least_that_works(name):
    for limit, memory in ((0.7, (0.5, 0, -0.5) if name == "zb_v_auto" else (1, 0, -1)), (0.7, None), ([9, 0.7, 9, 9], None)):
        with pytest.raises(
            Infeasible, match=rf"{name} cannot work: memory_limit=0.7 is less than a microbatch takes on rank \d"
        ) as refused:
            hops.program(name, pp=4, microbatches=8, memory=memory, memory_limit=limit)
        assert str(refused.value).endswith("(try memory_limit=1)")
        assert hops.program(name, pp=4, microbatches=8, memory=memory, memory_limit=1).microbatches == 8


@pytest.mark.parametrize(("pp", "idle"), [(4, 17), (8, 49)])
def test_v__unequal_passes_idle_as_in_the_authors_search(pp, idle):
    """Whatever the number of microbatches: F, I, W = 10, 11, 7 leave this much."""
    for m in (2 * pp, 4 * pp):
        model = {"family": "explicit", "per": "stage", "p2p_bytes": 0.0}
        model |= {"forward": 10e-6, "backward_input": 11e-6, "backward_weight": 7e-6}
        ticks, _ = run_ticks(prepare(scenario(schedule={"name": "zb_v_auto"}, pp=pp, microbatches=m, model=model)))
        assert ticks[1, 0] == 1000 * (2 * m * 28 + idle)


@pytest.mark.parametrize("unit", [1, 100])
def test_zb_v_auto__a_limit_that_no_order_keeps_is_refused_with_one_that_works(unit):
    takes = [unit * each for each in (1, 2, 3, 1, 2, 3)]
    given = {"pp": 3, "microbatches": 5, "memory": (takes, 0, [-each for each in takes])}
    with pytest.raises(Infeasible, match=rf"finds no order that keeps memory_limit={4 * unit} \(try memory_limit={12 * unit}\)"):
        hops.program("zb_v_auto", **given, memory_limit=4 * unit)
    hops.program("zb_v_auto", **given, memory_limit=12 * unit)
