"""Messages that get lost: the twin's answer, no-ops, the mean that the formula gives, what a dead link is taken for."""

import numpy as np
import pytest
from conftest import FLUSHED, run_ticks, scenario
from hypothesis import given
from hypothesis import strategies as st
from test_disturbed import both
from test_kernels import cells, check_twin

import hops
from hops.executor import Executor, evaluate
from hops.retries import Retry
from hops.scenario import Scenario
from hops.simulation import prepare

LOSSES = st.fixed_dictionaries(
    {
        "loss": st.sampled_from([1e-9, 0.1, 0.5, 0.9]),
        "timeout": st.sampled_from([0.0, 1e-9, 0.3]),
        "backoff": st.sampled_from([1.0, 1.5, 2.0]),
        "retries": st.integers(0, 5),
    }
)


@given(cells(), st.sampled_from(["channel", "blocking", "rendezvous"]), LOSSES)
def test_loss__equals_the_twin(made, p2p, retry):
    made = {**made, "p2p": p2p, "recv": "early", "retry": retry}
    try:
        case = prepare(Scenario.from_config(made))
    except ValueError as error:
        assert "deadlocks" in str(error) or "wait" in str(error)  # noqa: PT017
        return
    for draw in (0, 3):
        check_twin(case, made, draw)


@given(cells(FLUSHED), LOSSES, st.sampled_from(["channel", "torch"]))
def test_loss__in_the_event_loop_is_the_kernels(made, retry, p2p):
    case = prepare(Scenario.from_config({**made, "p2p": p2p, "recv": "early", "retry": retry}))
    assert both(case, {}, draw=2)[0] == run_ticks(case, first=2, n=1)[0][4, 0]


@given(cells())
def test_loss__of_nothing_changes_no_bit(made):
    never = {"loss": 0.0, "timeout": 5.0, "retries": 3}
    without, case = (prepare(Scenario.from_config({**made, "retry": retry})) for retry in ({}, never))
    assert (run_ticks(case)[0] == run_ticks(without)[0]).all()
    assert case.structure is without.structure


def lossy(**changes):
    made = {"pp": 2, "microbatches": 1, "p2p": "channel", "topology__latency": 1e-3, "draws": 4000}
    return prepare(scenario(**made | changes))


def extra(case):
    """By how much the messages of each draw are late [s]: of two stages and one microbatch, there and back."""
    return (run_ticks(case)[0][0] - run_ticks(lossy())[0][0]) / 1e9


@pytest.mark.parametrize(("loss", "backoff"), [(0.05, 1.0), (0.3, 1.0), (0.2, 2.0)])
def test_loss__costs_what_the_formula_says(loss, backoff):
    """RTO p / (1 - p) a message; with backoff b the sum of p (p b)^a."""
    late = extra(lossy(retry={"loss": loss, "timeout": 0.01, "backoff": backoff, "retries": 30}))
    expected = 2 * 0.01 * loss / (1 - loss * backoff)
    error = late.std(ddof=1) / np.sqrt(late.size)
    print(f"ours {late.mean():.6f} s, formula {expected:.6f} s, standard error {error:.6f} s")
    assert abs(late.mean() - expected) < 4 * error


def test_loss__draws_do_not_depend_on_their_neighbours():
    case = lossy(retry={"loss": 0.4, "timeout": 0.01}, draws=700)
    whole = run_ticks(case)[0]
    assert (run_ticks(case, split=(1, 63, 64, 300))[0] == whole).all()
    for first in (0, 63, 65, 255, 256, 511):
        assert (run_ticks(case, first=first, n=2)[0] == whole[:, first : first + 2]).all()
    for executor in (Executor(threads=2, tile=1), Executor(threads=1, tile=300)):
        (found,) = evaluate([case], executor)
        assert (found.per_draw["makespan"][0] * 1e9).round().tolist() == whole[0].tolist()


def test_loss__of_all_tries_is_their_timeouts():
    """A dead link: the message goes another way at once, after 10 + 20 + 25 ms."""
    retry = {"loss": 1 - 2**-33, "timeout": 0.01, "backoff": 2.0, "max_timeout": 0.025, "retries": 2}
    assert np.unique(extra(lossy(retry=retry))).tolist() == [pytest.approx(2 * 0.055)]
    assert Retry(loss=0.5, retries=2).death == 0.125


def test_loss__of_infiniband_dies_after_eight_and_a_half_seconds():
    """RTO 1.0737 s (4.096 us x 2^18, NCCL 2.19) and seven retries."""
    assert Retry().ticks().sum() / 1e9 == pytest.approx(8.59, abs=0.01)


@pytest.mark.parametrize(
    ("retry", "words"),
    [
        ({"loss": 1.0}, "retry.loss must be a probability below 1"),
        ({"loss": -0.1}, "retry.loss must be a finite number at least 0"),
        ({"loss": float("nan")}, "retry.loss must be"),
        ({"timeout": -1}, "retry.timeout must be"),
        ({"backoff": 0.5}, "retry.backoff must be from 1 to 1000"),
        ({"retries": 64}, "retry.retries must be a whole number from 0 to 63"),
        ({"rto": 1}, "no key of retry named 'rto'"),
        ([1], "retry must be a section"),
    ],
)
def test_retry__refuses(retry, words):
    with pytest.raises(ValueError, match=words):
        scenario(retry=retry)


def test_retry__needs_messages_that_occupy():
    with pytest.raises(ValueError, match="p2p=latency has none"):
        scenario(retry={"loss": 0.1}, p2p="latency")
    with pytest.raises(ValueError, match="8 timeouts add up to 1.11e\\+13 s, beyond what the clock can count"):
        lossy(retry={"loss": 0.1, "timeout": 1e6, "backoff": 10.0})
    with pytest.raises(ValueError, match="beyond the 2\\^62 ns"):
        lossy(retry={"loss": 0.1, "timeout": 1e8}, microbatches=8)


def test_loss__is_an_axis():
    cube = hops.sweep_cube("retry.loss=0,0.01,0.1", "pp=2", "microbatches=4", "model=explicit", "latency=none", "draws=400")
    assert (np.diff(cube["iteration_time_mean"].values) > 0).all()
