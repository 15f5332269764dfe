"""Messages that both sides post (p2p=megatron, p2p=torch): by hand on two ranks, and where ranks would wait for ever."""

import math

import pytest
from conftest import run_ticks, scenario
from hypothesis import given
from test_kernels import cells

from hops import program, sweep_cube
from hops.checks import Infeasible
from hops.posts import RECV, plan, unnumbered, with_messages
from hops.programs import Program
from hops.scenario import Scenario
from hops.schedules import SCHEDULES
from hops.simulation import prepare
from hops.trace import timeline_frame

HOP = 0.25
LINK = {"name": "uniform", "latency": 0.25, "bandwidth": math.inf}
STAGES = {"family": "explicit", "per": "stage", "p2p_bytes": 0.0, "forward": 1.0, "backward_input": 1.0, "backward_weight": 1.0}


def starts(name, **changes):
    """{op: when it begins} on two ranks; a forward takes 1 s, B 2 s, a message 0.25 s."""
    made = scenario(**{"schedule__name": name, "pp": 2, "microbatches": 3, "model": STAGES, "topology__latency": HOP, **changes})
    frame = timeline_frame(prepare(made))
    return dict(zip(frame["op"], frame["start"], strict=True))


def test_megatron__a_pair_of_ranks_by_hand():
    """Rank 0: F0, send; F1, exchange F1 with B0; B0; F2, exchange F2 with B1; and so on. Nobody computes during an exchange."""
    assert starts("1f1b", p2p="megatron") == {
        "0F0": 0.0, "0F1": 1.25, "0B0": 4.5, "0F2": 6.5, "0B1": 7.75, "0B2": 11.0,
        "1F0": 1.25, "1B0": 2.25, "1F1": 4.5, "1B1": 5.5, "1F2": 7.75, "1B2": 8.75,
    }  # fmt: skip


def test_megatron__weight_passes_run_while_a_batch_is_on_its_way():
    """Rank 1 posts I1 and the receive of F2 behind I1, at 5.5, and runs W0 until 6.5, when rank 0 posts the other sides."""
    assert starts("zb_h1", p2p="megatron") == {
        "0F0": 0.0, "0F1": 1.25, "0I0": 3.5, "0W0": 4.5, "0F2": 5.5, "0I1": 6.75, "0W1": 7.75, "0I2": 9.0, "0W2": 10.0,
        "1F0": 1.25, "1I0": 2.25, "1F1": 3.5, "1I1": 4.5, "1W0": 5.5, "1F2": 6.75, "1I2": 7.75, "1W1": 8.75, "1W2": 9.75,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["interleaved", "zb_v", "hanayo", "dualpipe"])
def test_megatron__overlaps_everything_where_ranks_have_several_stages(name):
    every = {"topology__latency": HOP, "topology__bandwidth": 4e6, "model": {**STAGES, "p2p_bytes": 1e6}, "schedule__name": name}
    ours, channel = (run_ticks(prepare(scenario(**every, p2p=p2p))) for p2p in ("megatron", "channel"))
    assert (ours[0] == channel[0]).all()
    assert (ours[1] == channel[1]).all()


def test_megatron__ranks_that_would_wait_for_ever_are_refused_by_name():
    """Both send, and neither receives: rank 0 goes on with a forward, rank 1 with a backward."""
    order = Program.parse("rank 0: 0F0 0F1 0F2 0F3 0B0 0B1 0B2 0B3\nrank 1: 1F0 1F1 1B0 1B1 1F2 1F3 1B2 1B3", "mine")
    said = r"p2p=megatron makes ranks of mine wait for each other at pp=2 and microbatches=4: "
    said += r"rank 0 before 0F3 for 0SEND_F2, rank 1 before 1B1 for 1SEND_B0 \(try p2p=channel\)"
    with pytest.raises(Infeasible, match=said):
        plan(order, "megatron")
    for recv in RECV:
        assert len(plan(order, "torch", recv)[0]) == 16 + 8


def test_megatron__a_batch_that_both_sides_have_posted_passes_once_the_one_ahead_has():
    """GPipe on three ranks: the middle one hands on 1F0 and takes 0F1, both of which may have to wait for what is ahead of them."""
    assert len(plan(program("gpipe", pp=3, microbatches=2), "megatron").sequence) == 12 + 8


def test_torch__an_early_receive_holds_up_what_is_sent_the_other_way():
    """Two ranks, four stages: rank 0 posts the receive of 1F0 before it sends 0F1 (the order of pytorch #172668).

    1F0 runs from 1.25 to 2.25, so its message arrives at 2.5, and only then that of 0F1 leaves, which was ready at 2: a message's
    time more than when rank 1 receives it behind 1F0. Without posts it would be there before.
    """
    order = program("interleaved", pp=2, microbatches=2, vpp=2)
    rank_0 = "0F0 0SEND_F0 2RECV_F0 0F1 0SEND_F1 2RECV_F1 2F0 2SEND_F0 2F1 2SEND_F1 2RECV_B0 2B0"
    assert " ".join(map(str, with_messages(order, order.ranks)[0])).startswith(rank_0)
    at = {
        how: starts("interleaved", vpp=2, microbatches=2, p2p=how[0], recv=how[1])["1F1"]
        for how in (("torch", "early"), ("torch", "defer"), ("channel", "early"))
    }
    assert at == {("torch", "early"): 2.75, ("torch", "defer"): 2.5, ("channel", "early"): 2.25}


def test_torch__a_receive_is_deferred_to_its_unit_or_the_next_send():
    """Where: behind which unit rank 0 posts the receive of 1F0 and of 1F1, both early and deferred."""
    order = program("interleaved", pp=2, microbatches=2, vpp=2)
    units, found = [str(unit) for rank in order.ranks for unit in rank], {}
    for recv in RECV:
        made = plan(order, "torch", recv)
        names = [units[each] if each >= 0 else unnumbered(order, ~each) for each in made.sequence]
        waits = [made.waits[slice(*made.indptr[at : at + 2])] for at in (names.index((1, False, k)) for k in (0, 1))]
        found[recv] = [[names[i] for i in each if str(names[i])[0] == "0"] for each in waits]
    assert found == {"early": [["0F0"], ["0F1"]], "defer": [["0F1"], []]}


@given(cells())
def test_law__both_sides_only_add_waiting(made):
    base = run_ticks(prepare(Scenario.from_config({**made, "p2p": "latency", "recv": "early", "topology": LINK})))[0]
    ours = run_ticks(prepare(Scenario.from_config({**made, "topology": LINK})))[0]
    if SCHEDULES[made["schedule"]["name"]].steady is None:  # else both ends of what is measured come later, which may be nearer
        assert (ours[0] >= base[0]).all()
    assert (ours[2] == base[2]).all()


def test_recv__in_a_sweep_leaves_out_the_cells_that_it_says_nothing_to(capfd):
    cube = sweep_cube("p2p=channel,torch", "recv=early,defer", "pp=2", "microbatches=4", "latency=none", "topology=pcie")
    assert cube["evaluated"].to_pandas().stack().to_dict() == {
        ("channel", "early"): True, ("channel", "defer"): False, ("torch", "early"): True, ("torch", "defer"): True,
    }  # fmt: skip
    assert "recv=defer is for p2p=torch" in capfd.readouterr().err
