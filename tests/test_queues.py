"""Bounded queues between stages: the twin's answer, no-ops, deadlocks and the least queue that works."""

import re

import numpy as np
import pytest
import twin
from conftest import FLUSHED, config, run_ticks, scenario
from hypothesis import given, settings
from hypothesis import strategies as st
from test_disturbed import at_most_idle, both, drawn_speeds, names, resources_of
from test_kernels import cells, check_twin, twin_of

import hops
from hops.checks import Infeasible
from hops.queues import FREE_AT
from hops.scenario import Scenario
from hops.simulation import prepare
from hops.trace import messages, timeline_frame


def works(made):
    """The case, or with the queue that its error recommends."""
    try:
        return prepare(Scenario.from_config(made)), made
    except Infeasible as error:
        least = int(re.search(r"try queue=(\d+)", str(error))[1])
        if least > made["queue"] + 1:  # one less does not work
            with pytest.raises(Infeasible, match=f"deadlocks with queue={least - 1} \\(try queue={least}\\)"):
                prepare(Scenario.from_config({**made, "queue": least - 1}))
        made = {**made, "queue": least}
        return prepare(Scenario.from_config(made)), made


@given(cells(), st.integers(1, 4), st.sampled_from(FREE_AT))
def test_queue__equals_the_twin(made, queue, free_at):
    case, made = works({**made, "queue": queue, "queue_free_at": free_at})
    for draw in range(2 if case.noisy else 1):
        check_twin(case, made, draw)


@settings(max_examples=40)
@given(cells(FLUSHED), st.integers(1, 3), st.sampled_from(FREE_AT), st.data())
def test_queue__of_disturbed_stages_equals_the_twin(made, queue, free_at, data):
    """A stall upstream fills queues, one downstream empties them."""
    if made["p2p"] in ("megatron", "torch") or made["schedule"]["name"] in ("chimera", "dualpipe"):
        made = {**made, "p2p": "channel", "schedule": {"name": "1f1b_v" if made["vpp"] == 2 else "1f1b"}, "recv": "early"}
        made["vpp"] = 2 if made["vpp"] == 2 else None
        n = made["pp"] * (made["vpp"] or 1)
        made["model"] = {**made["model"], **{key: [1.0] * n for key in ("forward", "backward_input", "backward_weight")}}
    case, made = works({**made, "queue": queue, "queue_free_at": free_at})
    given = drawn_speeds(data, resources_of(case))
    ((numbers),) = names(resources_of(case))
    advance = twin.disturbed({who: given.get(number, []) for who, number in numbers.items()})
    program, (when, busy, exposed) = twin_of(made, 0, advance=advance)
    step = twin.step(program, [when], [0] * program.pp, advances=[advance])[0]
    assert both(case, given) == [step, sum(busy), at_most_idle(case, step, sum(busy), sum(exposed))]


@given(cells(FLUSHED), st.integers(0, 3), st.sampled_from(FREE_AT))
def test_queue__with_room_for_all_changes_no_bit(made, more, free_at):
    roomy = {**made, "queue": made["microbatches"] + more, "queue_free_at": free_at}
    without, case = (prepare(Scenario.from_config(each)) for each in (made, roomy))
    assert case.structure is without.structure
    almost, _ = works({**roomy, "queue": max(1, made["microbatches"] - 1)})
    assert (run_ticks(almost)[0][0] >= run_ticks(without)[0][0]).all()


@settings(max_examples=30)
@given(cells(FLUSHED), st.integers(1, 4))
def test_queue__that_is_longer_is_no_slower(made, queue):
    """And room that is free at the start of the next op is no later than at its end."""
    _, made = works({**made, "queue": queue})
    short, long, early = (
        run_ticks(prepare(Scenario.from_config({**made, **changes})))[0][0]
        for changes in ({}, {"queue": made["queue"] + 1}, {"queue_free_at": "start"})
    )
    assert (long <= short).all()
    assert (early <= short).all()


def case_of(**changes):
    return prepare(scenario(pp=2, microbatches=4, **changes))


def test_queue__by_hand():
    """GPipe, F = 1, B = 2, one place: each forward waits for the next stage's; the last begins the backwards, who wait likewise."""
    slow = {"schedule__name": "gpipe", "model__forward": [1.0, 2.0], "model__per": "stage"}

    def forwards(**changes):
        frame = timeline_frame(case_of(**slow, **changes))
        return frame[(frame["rank"] == 0) & (frame["kind"] == "F")]["start"].round(9).tolist()

    assert forwards() == [0, 1, 2, 3]
    assert forwards(queue=1) == [0, 3, 6, 9]  # when 1F0, 1F1, 1F2 have ended
    assert forwards(queue=1, queue_free_at="start") == [0, 1, 3, 5]  # when they begin
    assert forwards(queue=2) == [0, 1, 3, 5]
    assert forwards(queue=2, queue_free_at="start") == [0, 1, 2, 3]


def test_queue__waits_for_room_are_no_communication():
    slow = {"schedule__name": "gpipe", "model__forward": [1.0, 2.0], "model__per": "stage", "queue": 1}
    for free_at in FREE_AT:
        moments = run_ticks(case_of(**slow, queue_free_at=free_at))[1]
        assert (moments[1] == 0).all()


def test_queue__is_between_ranks_only():
    """ZB-V hands over from chunk to chunk on the last rank: pp=1 has no queue at all."""
    made = {"schedule__name": "zb_v", "pp": 1, "microbatches": 8}
    with_queue, without = (prepare(scenario(**made, queue=queue)) for queue in (1, None))
    assert (with_queue.structure.graph.pred == without.structure.graph.pred).all()


def test_queue__deadlock_names_who_waits():
    with pytest.raises(Infeasible) as error:
        prepare(scenario(schedule__name="1f1b_overlap", pp=4, microbatches=8, queue=1))
    assert str(error.value).splitlines() == [
        "schedule '1f1b_overlap' deadlocks with queue=1 (try queue=2):",
        "  rank 0 waits at step 5: 0F5 needs 1F4",
        "  rank 1 waits at step 4: 1F4 needs 2B0",
        "  rank 2 waits at step 3: 2F3 needs 3B1",
        "  rank 3 waits at step 3: 3F2 needs 2B0",
    ]
    prepare(scenario(schedule__name="1f1b_overlap", pp=4, microbatches=8, queue=2))


@pytest.mark.parametrize("p2p", ["latency", "rendezvous", "torch"])
def test_queue__draws_no_messages(p2p):
    made = {"p2p": p2p, "model__p2p_bytes": 1e8, "topology__bandwidth": 1e9}
    for free_at in FREE_AT:
        found = messages(case_of(**made, queue=1, queue_free_at=free_at))
        assert len(found) == len(messages(case_of(**made))) == 8


@pytest.mark.parametrize("contention", ["planned", "fifo"])
def test_queue__in_the_event_loop(contention):
    made = {"latency__op": {"law": "lognormal", "cv": 0.3}, "pp": 4, "p2p": "channel", "queue": 1}
    plain, asked = (prepare(scenario(**made, contention=word)) for word in ("none", contention))
    (wanted, found) = (timeline_frame(case, 3) for case in (plain, asked))
    assert found.equals(wanted)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"queue": 0}, "queue must be a whole number of at least 1; got 0"),
        ({"queue": 1.5}, "queue must be a whole number"),
        ({"queue_free_at": "end"}, "no queue_free_at named 'end'.*known: finish, start"),
        ({"queue": 1, "queue_free_at": "start", "host": {"forward": 1.0}}, "queue_free_at=start takes an op to begin"),
        ({"queue": 1, "queue_free_at": "start", "overlap_param_gather": True}, "queue_free_at=start takes an op to begin"),
    ],
)
def test_queue__refuses(changes, words):
    with pytest.raises(ValueError, match=words):
        prepare(Scenario.from_config(config(**changes)))


def test_queue__is_an_axis():
    cube = hops.sweep_cube("queue=1,2,null", "schedule=gpipe,zb_h2", "pp=4", "microbatches=8", "model=explicit", "latency=none")
    times = cube["iteration_time_mean"].sel(schedule="gpipe").values
    assert np.all(np.diff(times) <= 0)
    assert times[0] > times[2]
