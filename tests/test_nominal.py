"""Nominal times and memory: what the keywords of a schedule that plans may be."""

import math

import pytest

import hops
from hops.checks import Infeasible
from hops.nominal import GRACE, UNIT, nominal

LINE, V = (0, 1, 2), (0, 1, 1, 0)


def test_nothing_given__equal_passes_a_small_hop_and_the_memory_of_1f1b():
    plan = nominal("x", LINE)
    assert plan.forward == plan.backward_input == plan.backward_weight == (1000,) * 3
    assert plan.hop == (1, 1)
    assert (plan.after_f, plan.after_i, plan.after_w) == ((UNIT,) * 3, (0,) * 3, (-UNIT,) * 3)
    assert plan.limit == plan.limit_f == (3 * UNIT,) * 3
    assert nominal("x", LINE, rounds=2).limit == (6 * UNIT,) * 3


def test_chunks__keep_a_part_of_a_microbatch_each():
    plan = nominal("x", V)
    assert plan.limit == (4 * UNIT,) * 2  # of which a chunk is one: two microbatches
    assert nominal("x", V, memory_limit=2).limit == (4 * UNIT + GRACE,) * 2


def test_lists__one_value_a_stage_boundary_or_rank():
    plan = nominal("x", LINE, [1e-3, 2e-3, 3e-3], 1e-3, 2.5e-9, [1e-6, 0], ([1, 2, 4], [0, -1, -1], [-1, -1, -3]), [4, 5, 6])
    assert plan.forward == (1_000_000, 2_000_000, 3_000_000)
    assert plan.backward_weight == (3, 3, 3)
    assert plan.hop == (1000, 0)
    assert (plan.after_f, plan.after_w) == ((UNIT // 4, UNIT // 2, UNIT), (-UNIT // 4, -UNIT // 4, -3 * UNIT // 4))
    assert plan.limit == tuple(each * UNIT // 4 + GRACE for each in (4, 5, 6))


def test_backward_that_adds__leaves_less_room_for_forwards():
    """With full recomputation a backward for the input makes more than the forward kept."""
    plan = nominal("x", LINE, memory=(1, 15, -16))
    assert plan.limit_f == (3 * UNIT,) * 3
    assert plan.limit == (18 * UNIT,) * 3
    with pytest.raises(Infeasible, match=r"memory_limit=8 is less than a microbatch takes on rank 0 \(try memory_limit=16\)"):
        nominal("x", LINE, memory=(1, 15, -16), memory_limit=8)


def test_limit__that_is_too_small_names_the_rank_that_needs_most():
    with pytest.raises(Infeasible, match=r"memory_limit=1 is less than a microbatch takes on rank 1 \(try memory_limit=3\)"):
        nominal("x", LINE, memory=([2, 3, 1], 0, [-2, -3, -1]), memory_limit=1)


def test_limit__however_large_is_none():
    assert hops.program("zb_auto", pp=2, microbatches=3, memory_limit=1e308) == hops.program(
        "zb_auto", pp=2, microbatches=3, memory_limit=9
    )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"forward": 1.0}, "zb_auto plans on forward, .* together; without backward_input and backward_weight it cannot"),
        ({"forward": 0, "backward_input": 1, "backward_weight": 1}, "schedule.forward must be a finite number above 0; got 0"),
        ({"hop": -1.0}, "schedule.hop must be a finite number at least 0; got -1.0"),
        ({"hop": [1.0]}, "schedule.hop lists 1 values, one a boundary of stages; there are 3"),
        ({"memory": 1.0}, r"schedule.memory must be three changes, .* such as \[1,-0.5,-0.5\]; got 1.0"),
        ({"memory": (1, 0, 0)}, r"which make 0 together; got \[1, 0, 0\]"),
        ({"memory": (1, -2, 1)}, r"which make 0 together; got \[1, -2, 1\]"),
        ({"memory": (math.inf, 0, -math.inf)}, "which make 0 together"),
        ({"memory": ("1", 0, -1)}, r"which make 0 together; got \['1', 0, -1\]"),
        ({"memory": (True, 0, -1)}, r"which make 0 together; got \[True, 0, -1\]"),
        ({"memory": (1, False, -1)}, r"which make 0 together; got \[1, False, -1\]"),
        ({"memory": (1, 0, "-1")}, r"which make 0 together; got \[1, 0, '-1'\]"),
        ({"forward": 1e300, "backward_input": 1, "backward_weight": 1}, r"schedule.forward must be at most 2\^62 ns .*; got 1e\+300 s"),
        ({"hop": 1e10}, r"schedule.hop must be at most 2\^62 ns .*; got 1e\+10 s"),
        ({"memory": (1e-300, 0, -1e-300)}, r"and from 1e-100 to 1e\+100; got 1e-300"),
        ({"memory": (1e200, 0, -1e200)}, r"and from 1e-100 to 1e\+100; got 1e\+200"),
        ({"memory": (0, 0, 0)}, "schedule.memory must be above 0 after_f on a stage at least"),
        ({"memory": ([1, 1], 0, -1)}, "schedule.memory lists 2 values, one a stage; there are 4"),
        ({"memory_limit": "fits"}, "schedule.memory_limit must be a finite number above 0; got 'fits'"),
        ({"memory_limit": math.nan}, "schedule.memory_limit must be a finite number above 0; got nan"),
        ({"memory_limit": [1, 2]}, "schedule.memory_limit lists 2 values, one a rank; there are 4"),
    ],
)
def test_broken__is_refused_by_name(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        hops.program("zb_auto", pp=4, microbatches=8, **given)
