"""Schedules on a V: bubbles and peaks with equal times, what other times do to them, and that only their ends need to be built."""

import pytest
import twin_blocks
from test_schedules import bubbles

import hops
from hops.building_block import full_orders, split_orders
from hops.schedules import SCHEDULES, Times, one_f_one_b_v, v_half, v_min

# bubble of a rank in chunk passes, m = 4p (Qi et al. 2024, arXiv:2405.15362, as the authors' code has it)
PP = (2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 16)
BUBBLES = {
    "v_half": (1, 5, 5, 11, 11, 17, 17, 23, 23, 29, 41, 41),
    "v_min": (3, 5, 11, 15, 17, 23, 27, 29, 35, 41, 53, 59),
    "1f1b_v": (4, 8, 15, 18, 22, 30, 33, 36, 45, 52, 67, 75),
}
PEAKS = {  # chunk activations on the worst rank
    "v_half": (4, 4, 6, 6, 8, 8, 10, 10, 12, 14, 16, 18),
    "v_min": (4, 4, 4, 6, 6, 6, 8, 8, 8, 10, 12, 12),
    "1f1b_v": (4, 6, 6, 8, 10, 10, 12, 14, 14, 18, 22, 22),
}
published = pytest.mark.parametrize(("name", "pp"), [(name, pp) for name in BUBBLES for pp in PP])


def split_twin(name, pp, m):
    return twin_blocks.orders(getattr(twin_blocks, name)(pp), m)


def whole_twin(name, pp, m):
    return twin_blocks.whole_orders(one_f_one_b_v.block(pp), m)


@published
def test_bubble__is_the_published_one(name, pp):
    expected = BUBBLES[name][PP.index(pp)]
    assert bubbles(name, pp, 4 * pp) == (expected, expected)  # by makespan and by span
    if SCHEDULES[name].unit_when(pp, 4 * pp, 2):
        assert SCHEDULES[name].unit_bubble(pp, 4 * pp, 2) == expected


@published
def test_peak__is_the_published_one(name, pp):
    assert max(hops.program(name, pp=pp, microbatches=4 * pp).in_flight) == PEAKS[name][PP.index(pp)]


@pytest.mark.parametrize("pp", [1, 2, 3, 5, 6, 13, 16])
def test_1f1b_v__peak_is_two_thirds(pp):
    most = 2 * (2 * pp // 3) + 2 if pp > 1 else 2
    for m in (1, 2, pp, 2 * pp + 1):
        assert max(hops.program("1f1b_v", pp=pp, microbatches=m).in_flight) == min(2 * m, most)


@pytest.mark.parametrize("pp", range(1, 17))
def test_zb_v__has_no_bubble_but_the_start(pp):
    assert bubbles("zb_v", pp, 2 * pp - 1) == (pp - 1, 0)
    assert hops.program("zb_v", pp=pp, microbatches=2 * pp - 1).in_flight == (2 * pp,) * pp if pp > 1 else (2,)


def test_zb_v__of_torch_with_unequal_times():
    times = Times(f=10, i=11, w=7, hop=0)
    assert [bubbles("zb_v", pp, m, times=times) for pp in (4, 8) for m in (16, 40)] == [(33, 24), (33, 24), (77, 56), (77, 56)]


@pytest.mark.parametrize("pp", [3, 4, 6, 8])
@pytest.mark.parametrize(
    ("times", "each"),  # what each microbatch adds to the bubble: V-Half's by the paper's condition
    [((10, 11, 7), (0, 10)), ((10, 20, 15), (5, 30)), ((20, 10, 10), (10, 40)), ((10, 10, 9), (0, 2)), ((30, 10, 15), (25, 70))],
)
def test_unequal_times__each_microbatch_waits_anew(pp, times, each):
    f, i, w = times
    assert each[0] == max(0, 2 * f - w - 2 * i, 2 * i - w - 2 * f)
    for name, more in zip(("v_half", "v_min"), each, strict=True):
        found = [bubbles(name, pp, m, times=Times(*times, 0))[1] for m in (4 * pp, 4 * pp + 1, 4 * pp + 5)]
        assert [found[1] - found[0], found[2] - found[0]] == [more, 5 * more]


@pytest.mark.parametrize("pp", [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 15])
@pytest.mark.parametrize(
    ("name", "params", "block", "orders"),
    [
        ("v_min", {}, v_min.block, split_orders),
        ("v_half", {}, v_half.block, split_orders),
        ("v_half", {"turn": 2}, lambda pp: v_half.block(pp, 2), split_orders),
        ("1f1b_v", {}, one_f_one_b_v.block, full_orders),
    ],
)
def test_repeated__is_what_is_built_whole(name, params, block, orders, pp):
    for m in (pp, 3 * pp + 1, 3 * pp + 6):
        assert hops.program(name, pp=pp, microbatches=m, **params).ranks == tuple(map(tuple, orders(block(pp), m)))


@pytest.mark.parametrize("pp", range(1, 17))
def test_block__has_no_two_passes_on_a_slot(pp):
    for block in (v_min.block(pp), v_half.block(pp), v_half.block(pp, 2)):
        assert all(len({slot % 6 for slot in slots}) == 4 for slots in block)
        assert all(list(slots) == sorted(slots) for slots in block)
    for f0, f1, b1, b0 in one_f_one_b_v.block(pp):
        assert {slot % 6 for slot in (f0, f1, b1, b1 + 1, b0, b0 + 1)} == set(range(6))


def test_v_half__turn_trades_memory_for_bubble():
    code, table = ([hops.program("v_half", pp=pp, microbatches=4 * pp, turn=turn) for pp in (4, 5, 8)] for turn in (1, 2))
    assert [max(program.in_flight) for program in code] == [6, 6, 10]
    assert [max(program.in_flight) for program in table] == [7, 7, 11]
    with pytest.raises(ValueError, match="schedule.turn must be a whole number from 1 to 2; got 3"):
        hops.program("v_half", pp=4, microbatches=8, turn=3)


@pytest.mark.parametrize("pp", [1, 2, 3, 4, 5, 6, 9])
@pytest.mark.parametrize(("name", "orders"), [("v_min", split_twin), ("v_half", split_twin), ("1f1b_v", whole_twin)])
def test_order__equals_the_twin_s(name, orders, pp):
    for m in sorted({1, 2, 3, pp, 2 * pp + 1, 3 * pp}):
        program = hops.program(name, pp=pp, microbatches=m)
        assert [[(op.kind, op.stage, op.microbatch) for op in ops] for ops in program.ranks] == orders(name, pp, m)


def test_zb_v__of_few_microbatches_is_torchs_order_without_the_others():
    assert str(hops.program("zb_v", pp=2, microbatches=3)).splitlines() == [
        "rank 0: 0F0 0F1 0F2 3F0 3I0 3W0 3F1 3I1 3W1 0I0 0W0 3F2 3I2 3W2 0I1 0W1 0I2 0W2",
        "rank 1: 1F0 2F0 1F1 2F1 2I0 2W0 1F2 1I0 1W0 2F2 2I1 2W1 1I1 2I2 1I2 1W1 2W2 1W2",
    ]
    assert [str(op) for op in hops.program("zb_v", pp=2, microbatches=1).ranks[1]] == ["1F0", "2F0", "2I0", "2W0", "1I0", "1W0"]
