"""Programs: text, CSV, and the refusals of validate()."""

import pytest

from hops.programs import Op, Program


def ranks(*lines):
    return Program.parse("\n".join(lines), "mine")


def test_op__text_round_trips():
    assert str(Op(2, "F", 0)) == "2F0"
    assert Op.parse("12W345") == Op(12, "W", 345)


@pytest.mark.parametrize("text", ["", "F0", "2X0", "2F", "2F0 ", "-1F0", "2f0"])
def test_op__anything_else_is_refused(text):
    with pytest.raises(ValueError, match="is not an operation; it reads <stage><kind><microbatch>"):
        Op.parse(text)


def test_csv__idle_cells_are_passed_over(tmp_path):
    path = tmp_path / "order.csv"
    path.write_text("0F0,,0B0\n,1F0,1B0\n")
    program = Program.from_csv(path)
    assert program.name == "order"
    assert program.ranks == ((Op(0, "F", 0), Op(0, "B", 0)), (Op(1, "F", 0), Op(1, "B", 0)))
    assert program.to_csv() == "0F0,0B0\n1F0,1B0\n"


@pytest.mark.parametrize("order", [b"0F0,0X0\n", b"0F0 0B0\n", b"rank 0: 0F0 0B0\n", b"\xff\xfe0"])
def test_csv__what_is_no_order_is_refused_by_file(tmp_path, order):
    path = tmp_path / "order.csv"
    path.write_bytes(order)
    with pytest.raises(ValueError, match="order.csv is not an order, one comma-separated line a rank: '"):
        Program.from_csv(path)


def test_csv__a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "order.csv"
    path.write_text("0F0,0B0\n", "utf-8-sig")
    assert Program.from_csv(path).to_csv() == "0F0,0B0\n"


@pytest.mark.parametrize("op", ["0F99999999999999999999", "0F1000000000", "1000000000F0", "0F2"])
def test_csv__numbers_beyond_the_ops_are_refused_before_arrays_are_made(tmp_path, op):
    path = tmp_path / "order.csv"
    path.write_text(f"0F0,{op}\n")
    with pytest.raises(ValueError, match=f"runs {op}, and has but 2 ops"):
        Program.from_csv(path)


def test_validate__many_stages_and_microbatches_of_few_ops_are_missing_not_tabulated():
    n = 40_000  # all pairs of them would take 51 GB
    ops = [*(Op(0, "F", k) for k in range(n)), *(Op(stage, "F", 0) for stage in range(1, n))]
    with pytest.raises(ValueError, match="never runs 0B0"):
        Program("x", [ops], "loop").validate()


def test_parse__a_line_without_a_rank_is_refused():
    with pytest.raises(ValueError, match="line 2 of program 'mine' must read 'rank 1: <ops>'; got '1F0 1B0'"):
        ranks("rank 0: 0F0 0B0", "1F0 1B0")


def test_program__lists_become_tuples_and_empty_is_refused():
    assert Program("x", [[Op(0, "F", 0)]]).ranks == ((Op(0, "F", 0),),)
    with pytest.raises(ValueError, match="has no operations"):
        Program("x", [[], []])


def test_validate__names_every_waiting_rank():
    with pytest.raises(ValueError, match="deadlocks") as error:
        ranks("rank 0: 0B0 0F0", "rank 1: 1F0 1B0").validate()
    assert str(error.value) == (
        "schedule 'mine' deadlocks after 0 of 4 ops:\n"
        "  rank 0 waits at step 0: 0B0 needs 0F0 and 1B0\n"
        "  rank 1 waits at step 0: 1F0 needs 0F0"
    )


def test_validate__a_deadlock_midway_names_the_split_backward():
    with pytest.raises(ValueError, match="deadlocks") as error:
        ranks("rank 0: 0F0 0I0 0F1 0W0 0I1 0W1", "rank 1: 1F0 1F1 1I0 1W0 1I1 1W1").validate()
    assert str(error.value) == (
        "schedule 'mine' deadlocks after 2 of 12 ops:\n  rank 0 waits at step 1: 0I0 needs 1I0\n  rank 1 waits at step 1: 1F1 needs 0F1"
    )


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["r: 0F0 0B0", "r:"], "gives rank 1 of 2 nothing to run"),
        (["r: 0F0 0F0 0B0"], "runs 0F0 twice"),
        (["r: 0F0 0B0 1F0 1B0"], "runs 1F0 on rank 0; placement 'line' has it on 1"),
        (["r: 0B0 0F1 0B1"], "never runs 0F0"),
        (["r: 0F0"], "never runs 0B0, nor 0I0 and 0W0"),
        (["r: 0F0 0I0"], "never runs 0B0, nor 0W0"),
        (["r: 0F0 0B0 0W0"], "runs 0B0 and also 0W0: B is I . W"),
    ],
)
def test_validate__each_op_exactly_once_where_its_stage_lives(lines, sentence):
    with pytest.raises(ValueError, match=sentence):
        ranks(*lines).validate()


def test_holdings__are_the_moments_that_may_be_fullest():
    program = ranks("r: 0F0 0F1 0I0 0I1 0F2 0I2 0W0 0W1 0W2")
    assert program.holdings == (((2, 0), (1, 2), (0, 3)),)
    assert ranks("r: 0F0 0B0 0F1 0B1").holdings == (((1, 0),),)


def test_in_flight__is_freed_at_b_or_w():
    program = ranks("r: 0F0 0F1 0I0 0F2 0W0 0I1 0W1 0I2 0W2")
    assert program.in_flight == (3,)
    assert ranks("r: 0F0 0B0 0F1 0B1").in_flight == (1,)
