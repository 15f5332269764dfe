"""Histories: what the job does in a trial adds up to what the trial is booked. When it does it is held to the twins elsewhere."""

import numpy as np
import pytest
from test_runs import ELASTIC, FAULT, RUN, STRATEGIES, outcomes
from test_weather import KINDS, SENDS

import hops
from hops import course as columns
from hops import histories
from hops.diary import STATES, make_diary, note, smaller, states
from hops.histories import failures_frame, states_frame
from hops.histories import histories as histories_of
from hops.run_plots import COLOURS, MARKS, raster_figure, run_figure, shares, worst_stretch
from hops.runs import failures_of
from hops.scripts import KINDS as KINDS_OF_FAILURES

WIDE = ("pp=2", "dp=8", "zero=0", "run.days=0.005", "run.iterations=null")
SLOW = "+failure.faults.slow={kind: slow, scope: device, speed: 0.4, mean: 30.0, duration: 2.0}"
# how it came to what it needed, what is only logged, and entries of a journal, which depend on which states have pools by then
SCRATCH = {columns.WANT, columns.ARGUMENT, columns.ATTEMPT, columns.LAST, columns.CUTS_OPEN, columns.N_GAPS}
RUNS = {
    "calm": RUN,
    "restart": (*RUN, FAULT),
    "persisted late": (*RUN, FAULT, "checkpoint.persist=3.0", "checkpoint.interval=2.0"),
    "spare": (*RUN, FAULT, *WIDE, "recovery=spare", "recovery.spares=2"),
    "peer_memory": (*RUN, FAULT, *WIDE, "recovery=peer_memory", "recovery.every=7", "recovery.stall=0.05"),
    "just_in_time": (*RUN, FAULT, *WIDE, "recovery=just_in_time"),
    "exact": (*RUN, FAULT, "run.tier=exact", "trials=2"),
    "slow": (*RUN, FAULT, SLOW),
    **{name: (*ELASTIC, *words) for name, words in STRATEGIES.items()},
    "shrunk to the end": (*ELASTIC, *STRATEGIES["shrink_dp"], "failure.faults.node.repair=1e5", "failure.faults.node.mean=2000.0"),
}


@pytest.mark.parametrize("name", RUNS)
def test_history__adds_up_to_what_the_trial_is_booked(name):
    case, outcome, runs = outcomes(*RUNS[name])
    script = failures_of(runs)
    for history, r in zip(histories_of(case, outcome.pool(0, case), range(len(runs.results))), runs.results, strict=True):
        assert set(np.flatnonzero(history.results != r).tolist()) <= SCRATCH  # neither a diary nor a log changes anything
        spans = history.states
        lengths = {what: int((spans.end - spans.begin)[spans.what == what].sum()) for what in STATES}
        assert lengths[columns.USEFUL] + lengths[columns.REPLAY] == r[columns.USEFUL]
        assert {what: lengths[what] for what in STATES if what not in (columns.USEFUL, columns.REPLAY)} == {
            what: r[what] for what in STATES if what not in (columns.USEFUL, columns.REPLAY)
        }
        assert spans.begin[0] == 0
        assert (spans.begin[1:] == spans.end[:-1]).all()
        assert (spans.what[1:] != spans.what[:-1]).all()
        assert spans.end[-1] == r[columns.NOW]
        missing = history.smaller
        assert (missing.end - missing.begin)[missing.what > 0].sum() == r[columns.DEGRADED]
        assert history.failures == script[history.trial]
        if name == "shrunk to the end" and r[columns.PLAN]:
            assert missing.end[-1] == r[columns.NOW]
            assert missing.what[-1] == r[columns.PLAN]
        if name in ("restart", "exact", "slow"):
            assert 0 < lengths[columns.REPLAY] <= r[columns.REPLAY]
    assert name != "shrunk to the end" or runs.results[:, columns.PLAN].any()
    assert name in ("calm", "shrunk to the end") or columns.WASTED in spans.what


def test_diary__entries_go_on_and_rollbacks_take_only_training_back():
    diary = make_diary(8)
    for begin, end, what in (
        (10, 12, columns.CHECKPOINT),
        (12, 13, columns.CHECKPOINT),
        (15, 15, columns.QUEUEING),
        (20, 22, columns.RECOVERING),
    ):
        note(diary, begin, end, what)
    note(diary, 5, 22, columns.LOST)
    note(diary, 22, 30, columns.REPLAY)
    note(diary, 28, 35, columns.LOST)
    note(diary, 3, 9, 1024 + 2)
    assert diary[0, 0] == 6
    assert [(STATES[what], end) for end, what in zip(*states(diary, 40)[1:], strict=True)] == [
        ("useful", 5), ("wasted", 10), ("checkpoint", 13), ("wasted", 20), ("recovery", 22), ("replay", 28), ("wasted", 35), ("useful", 40),
    ]  # fmt: skip
    assert [each.tolist() for each in smaller(diary, 40)] == [[0, 3, 9], [3, 9, 40], [0, 2, 0]]


def test_diary__that_was_too_short_is_kept_again(monkeypatch):
    words = (*RUN, FAULT)
    whole = hops.run_timeline(*words, trial=1)
    monkeypatch.setattr(histories, "N_NOTED", 3)
    assert hops.run_timeline(*words, trial=1).equals(whole)
    assert len(whole) > 20


def test_frames__are_in_seconds_and_say_what_failed():
    words = (*RUN, FAULT, SLOW)
    frame, failures = (find(*words, trial=2) for find in (hops.run_timeline, hops.run_failures))
    assert list(frame) == ["state", "start", "end", "missing"]
    assert frame["end"].iloc[-1] == float(hops.simulate(*words)["wall_time"][2])
    assert set(frame["state"]) <= set(COLOURS) == set(STATES.values())
    assert list(failures) == ["time", "fault", "kind", "unit", "until"]
    assert set(failures["fault"]) == {"gpu", "slow"}
    assert set(failures["unit"][failures["fault"] == "gpu"]) <= {"node 0", "node 1"}
    assert failures["unit"][failures["kind"] == "slow"].str.fullmatch(r"device \d").all()
    assert failures["time"].is_monotonic_increasing
    assert (failures["until"] > failures["time"]).all()
    begun = frame["start"][frame["state"] == "detection"]
    assert set(begun) <= set(failures["time"][failures["kind"] == "fail_stop"])
    elastic = hops.run_timeline(*ELASTIC, *STRATEGIES["shrink_dp"])
    assert elastic["missing"].max() == 1
    assert (elastic["end"][:-1].to_numpy() == elastic["start"][1:].to_numpy()).all()


@pytest.mark.parametrize(
    ("words", "trial", "sentence"),
    [
        ((*RUN, FAULT), 6, "trial must be a whole number from 0 to 5; got 6"),
        (RUN[:5], 0, "no training run is asked for"),
        ((*RUN, FAULT, "run.tier=analytic", "failure.clock=exposure"), 0, "run.tier=analytic has no trials, only their mean"),
        ((*RUN, FAULT, "recovery.load=1e4"), 0, "a run of 300 iterations does not come to an end"),
    ],
)
def test_bad_input__is_refused(words, trial, sentence):
    with pytest.raises(ValueError, match=sentence):
        hops.run_timeline(*words, trial=trial)


def test_shares__are_what_the_job_did_in_each_part():
    frame = hops.run_timeline(*RUN, FAULT)
    end = frame["end"].iloc[-1]
    for a, b, n in ((0.0, end, 7), (end / 3, end / 2, 40), (0.0, end, 1)):
        found = shares(frame, a, b, n)
        assert found.sum(axis=0) == pytest.approx(np.ones(n))
        edges = np.linspace(a, b, n + 1)
        for k, state in enumerate(COLOURS):
            own = frame[frame["state"] == state]
            for i in range(n):
                inside = np.minimum(own["end"], edges[i + 1]) - np.maximum(own["start"], edges[i])
                assert found[k, i] == pytest.approx(inside.clip(lower=0).sum() / (b - a) * n, abs=1e-9)
    assert shares(frame, 0.0, 2 * end, 2)[:, 1].sum() == 0  # the run is over
    a, b = worst_stretch(frame, 10)
    useful = shares(frame, 0.0, end, 10)[0]
    assert round(a / (b - a)) == useful.argmin()


def test_figure__shows_states_failures_and_what_is_missing():
    assert set(MARKS) == set(KINDS_OF_FAILURES)
    words = (*RUN, FAULT, SLOW)
    figure = hops.run_figure(*words, trial=2)
    frame, failures = (find(*words, trial=2) for find in (hops.run_timeline, hops.run_failures))
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time [s]", "share of time [%]")
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named[-2:] == [f"failure ({(failures['kind'] == 'fail_stop').sum()})", f"GPU slow ({(failures['kind'] == 'slow').sum()})"]
    assert len(named) == frame["state"].nunique() + 2
    marks = sorted(x for line in axes.lines for x in line.get_xdata())
    assert marks == failures["time"].tolist()
    assert sum(len(bars.get_paths()) for bars in axes.collections[: frame["state"].nunique()]) == len(frame)
    many = hops.run_figure(
        *RUN[:-4], "checkpoint.cost=0.1", "recovery.init=0.2", "recovery.load=0.3", FAULT, "run.iterations=9000", "trials=1"
    )
    assert len(many.axes) == 2
    assert "closer" in many.axes[1].get_title()
    smaller = hops.run_figure(*ELASTIC, *STRATEGIES["shrink_dp"])
    assert [axes.get_ylabel() for axes in smaller.axes] == ["share of time [%]", "units\nmissing"]


def test_raster__a_row_a_trial_white_where_a_run_is_over():
    case, outcome, _ = outcomes(*RUN, FAULT)
    frames = [states_frame(history) for history in histories_of(case, outcome.pool(0, case), range(6))]
    figure = raster_figure(frames, "six")
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("time [s]", "trial", "six")
    picture = axes.images[0].get_array()
    assert len(picture) == 6
    ends = np.array([frame["end"].iloc[-1] for frame in frames])
    assert [int((row < 1).any(axis=1).sum()) for row in picture] == pytest.approx(700 * ends / ends.max(), abs=1.5)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 6


def test_run_figure__of_a_run_in_which_nothing_fails():
    case, outcome, _ = outcomes(*RUN, "run.iterations=3")
    (history,) = histories_of(case, outcome.pool(0, case), [0])
    assert states_frame(history)["state"].tolist() == ["useful"]
    assert len(failures_frame(history)) == 0
    figure = run_figure(states_frame(history), failures_frame(history), "calm")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["training that counts"]


def test_unit__says_what_failed():
    fault = "+failure.faults.rail={" + ", ".join(f"{k}: {v}" for k, v in KINDS["rail"].items()) + "}"
    failures = hops.run_failures(*RUN, fault, SENDS, "topology.order=[0,8]", "run.iterations=50")
    assert len(failures)
    assert set(failures["unit"].str.split().str[0]) == {"NET"}
