"""V adaptive: never worse than the fixed schedules of a V at their memory, never above the limit, and best with the times at hand."""

import re
from functools import lru_cache

import pytest
from conftest import run_ticks
from test_schedules import UNIT, bubbles, uniform

import hops
from hops.checks import Infeasible
from hops.nominal import nominal
from hops.placements import PLACEMENTS
from hops.programs import Program
from hops.schedules import Times, v_adaptive

NS = 1e-9


def least(pp):
    """Chunks that V-Min's worst rank holds."""
    return (pp + 4) // 3 * 2


@lru_cache
def bubble(pp, m, chunks, times=UNIT):
    """By span [passes, or whatever the times are in], with room for so many chunks a rank."""
    case = uniform("v_adaptive", pp, m, None, times, schedule__memory_limit=chunks / 2)
    assert max(case.structure.in_flight) <= chunks
    return run_ticks(case)[0][1, 0] - 2 * m * (times.f + times.b)


def test_bubble__is_the_one_of_the_table_and_near_the_authors():
    found = [bubble(8, 32, chunks) for chunks in range(8, 17)]
    assert found == [23, 21, 17, 15, 11, 9, 5, 3, 0]
    expected = [3 * 8 - 1 - 3 * M + max(24, 7 + 2 * (1 + (M + 1) // 2)) for M in range(8, 17)]
    assert all(0 <= ours - theirs <= 1 for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("pp", range(2, 9))
@pytest.mark.parametrize("rounds", [1, 3])
def test_bubble__is_no_more_than_theirs_with_their_memory(pp, rounds):
    for name in ("v_min", "v_half", "zb_v", "zb_v_auto"):
        m = rounds * pp
        peak = max(hops.program(name, pp=pp, microbatches=m).in_flight)
        assert bubble(pp, m, peak) <= bubbles(name, pp, m)[1], name


@pytest.mark.parametrize("pp", range(2, 9))
@pytest.mark.parametrize("rounds", [1, 3])
def test_bubble__shrinks_with_memory(pp, rounds):
    found = [bubble(pp, rounds * pp, chunks) for chunks in range(least(pp), 2 * pp + 2)]
    assert found == sorted(found, reverse=True)
    if rounds > 1:
        assert found[-2:] == [0, 0]
        assert len(set(found)) == len(found) - 1


@pytest.mark.parametrize("times", [(10, 11, 7), (10, 20, 15), (20, 10, 10), (10, 11, 9)])
def test_unequal_times__are_planned_on(times):
    """Of the blocks of V-Min's to ZB-V's memory those which wait least are taken: more memory helps, and fixed orders wait more."""
    pp, m, times = 6, 40, Times(*times, 1 if times[2] == 9 else 0)
    found = [bubble(pp, m, chunks, times) for chunks in range(6, 13)]
    assert found == sorted(found, reverse=True)
    for name, chunks in (("v_min", 6), ("v_half", 8), ("zb_v", 12)):
        assert found[chunks - 6] <= bubbles(name, pp, m, times=times)[1], name


@pytest.mark.parametrize(("pp", "m", "chunks", "times"), [(6, 6, 11, (83, 171, 110, 8)), (4, 4, 8, (198, 87, 195, 20))])
def test_unequal_times__may_be_met_better_by_blocks_of_less_memory(pp, m, chunks, times):
    """Where no block of the whole limit does as well, one of less is taken."""
    assert bubble(pp, m, chunks, Times(*times)) == bubble(pp, m, chunks - 1, Times(*times))
    case = uniform("v_adaptive", pp, m, None, Times(*times), schedule__memory_limit=chunks / 2)
    assert max(case.structure.in_flight) < chunks


def test_unequal_times__v_half_waits_anew_for_each_microbatch_and_we_do_not():
    times = Times(f=10, i=20, w=15, hop=0)
    theirs, ours = (
        [of(m) for m in (24, 48)] for of in (lambda m: bubbles("v_half", 6, m, times=times)[1], lambda m: bubble(6, m, 8, times))
    )
    assert theirs[1] - theirs[0] == 5 * 24
    assert ours[1] == ours[0]


@pytest.mark.parametrize("m", [1, 5, 24, 31])
def test_span__is_the_kernels_and_nearly_so_where_only_the_beginning_is_built(m):
    pp, times = 4, Times(f=1000, i=1310, w=730, hop=40)
    ranks = [PLACEMENTS["wave"](pp, stage) for stage in range(2 * pp)]
    plan = nominal("v_adaptive", ranks, times.f * NS, times.i * NS, times.w * NS, times.hop * NS)
    case = uniform("v_adaptive", pp, m, None, times, schedule__memory_limit=3)
    orders = [list(ops) for ops in case.program.ranks]
    span = run_ticks(case)[0][1, 0]
    assert v_adaptive._span(plan, orders, m) == span
    beginning = v_adaptive._orders(block_of(orders, pp, m), min(m, 16))
    assert v_adaptive._span(plan, beginning, m) == pytest.approx(span, rel=0.003)


def block_of(orders, pp, m):
    """The block that was built to these orders."""
    made = [block for level in v_adaptive.blocks(pp).values() for block in level]
    return next(block for block in made if v_adaptive._orders(block, m) == orders)


@pytest.mark.parametrize("pp", [1, 2, 3, 4, 5, 6, 8, 9])
def test_blocks__fit_into_each_other_and_hold_what_they_say(pp):
    levels, m = v_adaptive.blocks(pp), 2 * pp + 2
    assert sorted(levels) == list(range(least(pp), 2 * pp + 1))
    for peak, blocks in levels.items():
        for block in blocks[::3]:
            assert all(len({slot % 6 for slot in slots}) == 4 for slots in block)
            assert all(list(slots) == sorted(slots) for slots in block)
            assert max(Program("built", v_adaptive._orders(block, m), "wave").validate().in_flight) == peak


@pytest.mark.parametrize("pp", [1, 2, 3, 4, 5, 8])
def test_refusal__names_the_least_that_works(pp):
    for m in (1, 2, 3 * pp):
        with pytest.raises(Infeasible, match=r"v_adaptive cannot work: memory_limit=0.25 is less than .* \(try memory_limit=") as refused:
            hops.program("v_adaptive", pp=pp, microbatches=m, memory_limit=0.25)
        needed = float(re.search(r"try memory_limit=(.*)\)", str(refused.value))[1])
        assert needed == min(2 * m, least(pp)) / 2
        assert max(hops.program("v_adaptive", pp=pp, microbatches=m, memory_limit=needed).in_flight) == 2 * needed
        with pytest.raises(Infeasible, match=f"try memory_limit={needed:g}"):
            hops.program("v_adaptive", pp=pp, microbatches=m, memory_limit=needed - 0.01)


def test_refusal__of_one_tight_rank_among_others():
    limits = [8, 8, 8, 8, 8, 8, 3, 8]
    with pytest.raises(Infeasible, match=r"memory_limit=3 is less than any of its blocks takes on a rank \(try memory_limit=4\)"):
        hops.program("v_adaptive", pp=8, microbatches=32, memory_limit=limits)
    limits[6] = 5
    assert hops.program("v_adaptive", pp=8, microbatches=32, memory_limit=limits) == hops.program(
        "v_adaptive", pp=8, microbatches=32, memory_limit=5
    )


@pytest.mark.parametrize(
    "memory",
    [
        (1, 0, -1),
        (3.5e9, -1.5e9, -2e9),  # a part is freed by the backward for the input
        (1, 0.25, -1.25),  # or it adds
        ([1, 2, 1, 1, 1, 1, 2, 1], 0, [-1, -2, -1, -1, -1, -1, -2, -1]),
    ],
)
def test_limit__holds_in_the_memory_of_the_user(memory):
    changes = [each if isinstance(each, list) else [each] * 8 for each in memory]
    spans = []
    for factor in (6, 7, 10, 14):
        limit = factor * max(changes[0])
        program = hops.program("v_adaptive", pp=4, microbatches=13, memory=memory, memory_limit=limit)
        for ops in program.ranks:
            held = most = 0.0
            for op in ops:
                held += changes["FIW".index(op.kind)][op.stage]
                most = max(most, held)
            assert most <= limit * (1 + 1e-6)
        spans.append(max(program.in_flight))
    assert spans == sorted(spans)
    with pytest.raises(Infeasible, match="try memory_limit=") as refused:
        hops.program("v_adaptive", pp=4, microbatches=13, memory=memory, memory_limit=1.5 * max(changes[0]))
    needed = float(re.search(r"try memory_limit=(.*)\)", str(refused.value))[1])
    hops.program("v_adaptive", pp=4, microbatches=13, memory=memory, memory_limit=needed)


def test_limit__without_one_is_1f1bs_and_more_is_not_used():
    for pp in (1, 2, 5):
        given = [
            hops.program("v_adaptive", pp=pp, microbatches=4 * pp, **limit) for limit in ({}, {"memory_limit": pp}, {"memory_limit": 99})
        ]
        assert given[0] == given[1] == given[2]
        assert max(given[0].in_flight) == 2 * pp


def test_orders__are_built_once_for_all_times(monkeypatch):
    n_built, real = [], v_adaptive.split_orders
    monkeypatch.setattr(v_adaptive, "split_orders", lambda *given: n_built.append(1) or real(*given))
    v_adaptive._orders.cache_clear()
    words = ("schedule=v_adaptive", "schedule.memory_limit=3", "model=explicit", "topology=uniform", "pp=4", "microbatches=9", "draws=2")
    cube = hops.sweep_cube(*words, "topology.latency=" + ",".join(f"{k}.25e-6" for k in range(1, 30)))
    assert bool(cube["evaluated"].all())
    assert 1 < len(n_built) == v_adaptive._orders.cache_info().misses < 25


def test_sweep__leaves_out_limits_that_are_too_small():
    words = ("schedule=v_adaptive", "model=explicit", "topology=dgx", "latency=none", "microbatches=16")
    cube = hops.sweep_cube(*words, "schedule.memory_limit=3,4,5,6,7,8")
    assert cube["evaluated"].values.tolist() == [False, True, True, True, True, True]
    assert cube["peak_in_flight"].max("rank").values[1:].tolist() == [8, 10, 12, 14, 16]
    found = cube["iteration_time_mean"].values[1:].tolist()
    assert found == sorted(found, reverse=True)
