"""The form that torch runs: written by hand for small cases, read back, and free of deadlock as torch would run it."""

import re
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest
from conftest import ORDERS

import hops
from hops import __main__
from hops.programs import Fused, Op, Program, members
from hops.schedules import SCHEDULES
from hops.torch_order import lowered, to_csv

SIZES = [(1, 2), (2, 1), (3, 7), (4, 8)]
VPP = {"interleaved": 3, "interleaved_overlap": 3, "looped_bfs": 4, "hanayo": 4}  # others: as many as they have by default

# 1F1B of two ranks and microbatches, and torch's class that runs it loads this file: see benchmarks/torch_bridge.py
HAND_WRITTEN = """\
0UNSHARD,0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0B0,0WAIT_SEND_F0,0RECV_B1,0B1,0WAIT_SEND_F1,0REDUCE_GRAD,0WAIT_REDUCE_GRAD,0RESHARD
1UNSHARD,1RECV_F0,1F0,1RECV_F1,1B0,1SEND_B0,1F1,1B1,1SEND_B1,1REDUCE_GRAD,1WAIT_REDUCE_GRAD,1RESHARD,1WAIT_SEND_B0,1WAIT_SEND_B1
"""


def accepted():
    for name in ORDERS:
        record = SCHEDULES[name]
        for pp, m in SIZES:
            sizes = record.sizes(pp, m, VPP.get(name))
            if all(constraint.holds(*sizes) for constraint in record.constraints):
                yield name, pp, m


every_size = pytest.mark.parametrize(("name", "pp", "m"), list(accepted()))


def written(name, pp, m):
    return hops.program(name, pp=pp, microbatches=m, vpp=VPP.get(name))


def test_lowered__of_1f1b_as_written_by_hand(tmp_path):
    program = hops.program("1f1b", pp=2, microbatches=2)
    assert to_csv(program, tmp_path / "order.csv") == (tmp_path / "order.csv").read_text() == HAND_WRITTEN
    plain = "".join(",".join(action for action in line.split(",") if "WAIT" not in action) + "\n" for line in HAND_WRITTEN.splitlines())
    assert to_csv(program, waits=False) == plain
    assert to_csv(program, sharded=False, waits=False) == re.sub(r"\d(UNSHARD|RESHARD|REDUCE_GRAD),?|,\d(REDUCE_GRAD|RESHARD)", "", plain)


def test_lowered__on_a_v_the_turn_needs_no_message():
    assert lowered(hops.program("zb_v", pp=2, microbatches=1), sharded=False, waits=False) == (
        ("0F0", "0SEND_F0", "3RECV_F0", "3F0", "3I0", "3SEND_B0", "3W0", "0RECV_B0", "0I0", "0W0"),
        ("1RECV_F0", "1F0", "2F0", "2SEND_F0", "2RECV_B0", "2I0", "2W0", "1I0", "1SEND_B0", "1W0"),
    )


def test_lowered__a_fused_unit_sends_for_both_and_waits_for_both():
    first, last = lowered(hops.program("1f1b_overlap", pp=2, microbatches=4), sharded=False)
    assert ",".join(first[:11]) == "0F0,0SEND_F0,0F1,0SEND_F1,0RECV_B0,0F2,0SEND_F2,0RECV_B1,(0F3;0B0)OVERLAP_F_B,0WAIT_SEND_F0,0SEND_F3"
    assert ",".join(last[:7]) == "1RECV_F0,1F0,1RECV_F1,(1F1;1B0)OVERLAP_F_B,1SEND_B0,1RECV_F2,(1F2;1B1)OVERLAP_F_B"


def test_lowered__gathers_three_stages_ahead_and_gives_up_the_others():
    (rank,) = lowered(hops.program("looped_bfs", pp=1, microbatches=1, vpp=4), waits=False)
    assert rank == (
        *("0UNSHARD", "1UNSHARD", "2UNSHARD", "0F0", "0RESHARD", "3UNSHARD", "1F0", "2F0", "3F0", "3B0", "3REDUCE_GRAD"),
        *("3RESHARD", "0UNSHARD", "2B0", "2REDUCE_GRAD", "2RESHARD", "1B0", "1REDUCE_GRAD", "1RESHARD", "0B0", "0REDUCE_GRAD", "0RESHARD"),
    )


def test_lowered__a_fused_unit_comes_with_all_its_stages():
    """Three stages are kept, but of a unit both: the fourth comes along."""
    pairs = [Fused(Op(stage, "F", 1), Op(other, "B", 0)) for stage, other in ((0, 3), (1, 2), (2, 1), (3, 0))]
    units = [*(Op(stage, "F", 0) for stage in range(4)), *pairs, *(Op(stage, "B", 1) for stage in (3, 2, 1, 0))]
    (rank,) = lowered(Program("mine", (tuple(units),), "loop").validate(), waits=False)
    assert rank[:13] == (
        *("0UNSHARD", "1UNSHARD", "2UNSHARD", "0F0", "0RESHARD", "3UNSHARD", "1F0"),
        *("1RESHARD", "0UNSHARD", "2F0", "1UNSHARD", "3F0", "(0F1;3B0)OVERLAP_F_B"),
    )


@every_size
def test_csv__both_forms_read_back(name, pp, m, tmp_path):
    program, path = written(name, pp, m), tmp_path / "order.csv"
    for write in (program.to_csv, partial(to_csv, program), partial(to_csv, program, waits=False), partial(to_csv, program, sharded=False)):
        write(path=path)
        read = Program.from_csv(path, name)
        assert (read.ranks, read.stage_ranks) == (program.ranks, program.stage_ranks)


@every_size
def test_messages__each_sent_once_and_received_once_in_the_same_order(name, pp, m):
    program = written(name, pp, m)
    sent, received = defaultdict(list), defaultdict(list)
    for rank, actions in enumerate(lowered(program, sharded=False, waits=False)):
        for action in actions:
            if match := re.fullmatch(r"(\d+)(SEND|RECV)_([FB])(\d+)", action):
                stage, kind, way, k = int(match[1]), match[2], match[3], int(match[4])
                if kind == "SEND":
                    goal = stage + (1 if way == "F" else -1)
                    sent[rank, program.rank_of(goal, k)].append((goal, way, k))
                else:
                    source = stage - (1 if way == "F" else -1)
                    received[program.rank_of(source, k), rank].append((stage, way, k))
    assert sent == received  # torch has one stream a peer: the first sent must be the first received
    assert sum(map(len, sent.values())) == SCHEDULES[name].messages(*SCHEDULES[name].sizes(pp, m, VPP.get(name)))
    assert all(a != b for a, b in sent)


@every_size
def test_actions__run_to_the_end_as_torch_would_run_them(name, pp, m):
    """A receive takes what was sent, a wait what was received, a pass what it needs, on stages that are gathered then."""
    program = written(name, pp, m)
    ranks, done, last = [list(rank) for rank in lowered(program)], set(), program.n_stages - 1
    gathered = [set() for _ in ranks]

    def comes(stage, way):
        return stage - 1 if way == "F" else stage + 1

    def runnable(rank, action):
        if match := re.fullmatch(r"(\d+)(WAIT_SEND|SEND|RECV)_([FB])(\d+)", action):
            stage, kind, way, k = int(match[1]), match[2], match[3], match[4]
            if kind == "RECV":
                return f"{comes(stage, way)}SEND_{way}{k}" in done
            if kind == "WAIT_SEND":
                goal = 2 * stage - comes(stage, way)
                return f"{stage}SEND_{way}{k}" in done and f"{goal}RECV_{way}{k}" in done
            return any(f"{stage}{each}{k}" in done for each in ("F" if way == "F" else "BI"))
        if re.search("UNSHARD|RESHARD|REDUCE", action):
            return True
        for op in members(Op.parse(action) if action[0] != "(" else fused[action]):
            assert op.stage in gathered[rank], action
            way, k = "F" if op.kind == "F" else "B", op.microbatch
            before = comes(op.stage, way)
            if op.kind == "W":
                needed = {f"{op.stage}I{k}"}
            elif not 0 <= before <= last:
                needed = set() if way == "F" else {f"{op.stage}F{k}"}
            elif program.rank_of(before, k) == rank:
                needed = {f"{before}{each}{k}" for each in ("F" if way == "F" else "BI")}
            else:
                needed = {f"{op.stage}RECV_{way}{k}"}
            if needed and not needed & done:
                return False
        return True

    fused = {str(unit): unit for units in program.ranks for unit in units if isinstance(unit, Fused)}
    moved = True
    while moved:
        moved = False
        for rank, actions in enumerate(ranks):
            while actions and runnable(rank, actions[0]):
                action, moved = actions.pop(0), True
                stage = re.match(r"\d+", action)
                if "UNSHARD" in action:
                    assert int(stage[0]) not in gathered[rank]
                    gathered[rank].add(int(stage[0]))
                if "RESHARD" in action:
                    gathered[rank].remove(int(stage[0]))
                assert action not in done or "SHARD" in action or (program.pipelines > 1 and "REDUCE" in action)
                done |= {action, *(str(op) for op in members(fused[action]))} if action in fused else {action}
    assert ranks == [[] for _ in ranks]
    assert gathered == [set() for _ in ranks]
    for stage in range(last + 1):
        assert {f"{stage}REDUCE_GRAD", f"{stage}WAIT_REDUCE_GRAD"} <= done
    assert {action.replace("WAIT_", "") for action in done if "WAIT_SEND" in action} == {
        action for action in done if "SEND" in action and "WAIT" not in action
    }


@every_size
def test_reduction__follows_the_last_backward_of_its_stage_at_once(name, pp, m):
    for rank in lowered(written(name, pp, m), waits=False):
        actions = [action for action in rank if not re.search("SEND|RECV", action)]
        for at, action in enumerate(actions):
            if "REDUCE_GRAD" in action:
                stage = action.removesuffix("REDUCE_GRAD")
                backward = re.compile(rf"(?<!\d){stage}[BW]\d")
                assert backward.search(actions[at - 1])
                assert not any(backward.search(later) for later in actions[at:])


def test_command__writes_the_order_that_was_planned_on_model_and_cluster(command):
    words = ["schedule=zb_auto", "pp=3", "microbatches=6", "model=explicit", "model.forward=[1e-3,1e-3,3e-3]", "latency=none"]
    words += ["model.backward_input=1e-3", "model.backward_weight=1e-3"]
    code, out, err = command(*words, "program=order.csv", "lowered=torch.csv", main=__main__.main)
    assert code == 0, err
    assert "written: order.csv (" in out
    assert "written: torch.csv (" in out
    program = Program.from_csv("order.csv", "zb_auto").validate()
    frame = hops.timeline(*words)
    assert [list(map(str, units)) for units in program.ranks] == [list(frame[frame["rank"] == rank]["op"]) for rank in range(3)]
    assert program.ranks != hops.program("zb_auto", pp=3, microbatches=6).ranks
    assert to_csv(program) == Path("torch.csv").read_text()
    again = hops.simulate("schedule=file", "schedule.path=torch.csv", *words[1:])
    assert float(again["makespan"][0]) == frame["end"].max()


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("program=none/order.csv", r"program: no folder none \(looked in "),
        ("lowered=.", "lowered must be the name of a file, such as order.csv; got '.'"),
        ("lowered=..", "lowered: .. is a folder"),
        ("program=3", "program must be the name of a file, such as order.csv; got 3"),
        ("program=", "program must be the name of a file, such as order.csv; got ''"),
    ],
)
def test_command__a_file_that_cannot_be_is_refused_before_anything_runs(command, word, sentence):
    code, out, err = command("pp=2", "microbatches=2", word, main=__main__.main)
    assert (code, out) == (1, "")
    assert re.match(sentence, err)


def test_sweep__writes_no_order(command):
    code, _, err = command("-m", "program=a.csv,b.csv")
    assert code == 1
    assert "program cannot be an axis: no result depends on it" in err
