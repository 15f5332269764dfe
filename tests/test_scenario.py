"""Scenarios: every value of a config is checked, and a refusal names the key, what was found and what works."""

import math

import pytest
from conftest import config, scenario

from hops.checks import Infeasible
from hops.executor import Executor, evaluate
from hops.scenario import Choice, Scenario
from hops.simulation import prepare


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pp": 0}, "pp must be a whole number of at least 1; got 0"),
        ({"microbatches": -3}, "microbatches must be a whole number of at least 1; got -3"),
        ({"microbatches": 2.5}, "microbatches must be a whole number of at least 1; got 2.5"),
        ({"microbatches": math.nan}, "microbatches must be a whole number of at least 1; got nan"),
        ({"microbatches": math.inf}, "microbatches must be a whole number of at least 1; got inf"),
        ({"draws": 0}, "draws must be a whole number from 1 to"),
        ({"draws": None}, "draws must be a whole number from 1 to .*; got None"),
        ({"seed": 2**32}, "seed must be a whole number from 0 to 4294967295; got 4294967296"),
        ({"seed": "x"}, "seed must be a whole number from 0"),
        ({"tp": 2}, "tp=2 is not modelled yet; only tp=1 works"),
        ({"dp": 4}, "dp=4 is not modelled yet"),
        ({"p2p": "chanel"}, r"no p2p named 'chanel'; did you mean 'channel'\?"),
        ({"barrier": 1}, "barrier must be true or false; got 1"),
        ({"gpus": 8}, "no key named 'gpus'"),
        ({"schedule__name": "gpip"}, r"no schedule named 'gpip'; did you mean 'gpipe'\?"),
        ({"schedule__depth": 2}, r"schedule.depth has no meaning for 1f1b \(it takes no parameters\)"),
        ({"topology__name": "ring"}, "no topology named 'ring'"),
        ({"topology__speed": 2}, r"topology.speed has no meaning for uniform \(it takes latency, bandwidth, gpu, order\)"),
        ({"model__family": "cnn"}, r"no model.family named 'cnn' \(known: explicit, transformer\)"),
        ({"model__layers": 2}, "model.layers has no meaning for explicit"),
        ({"model__forward": None}, "model.forward is not set"),
        ({"latency__op": {"law": "lognormall"}}, r"no latency law named 'lognormall'; did you mean 'lognormal'\?"),
        ({"latency__op": {"law": "lognormal", "cv": -0.1}}, "latency.op.cv must be a finite number above 0; got -0.1"),
        ({"latency__op": {"law": "lognormal", "cv": 2}}, "latency.op.cv must be at most 1 for law lognormal; got 2"),
        ({"latency__op": {"law": "lognormal", "alpha": 2}}, "latency.op.alpha has no meaning for law lognormal"),
        ({"latency__op": {"law": "none", "cv": 0.1}}, "latency.op has cv but no law"),
        ({"latency__ops": {"law": "none"}}, "latency.ops has no meaning"),
    ],
)
def test_bad_input__is_refused_by_name(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        scenario(**changes)


def test_counts__whole_floats_are_counts():
    made = scenario(latency__op={"law": "lognormal"}, draws=1e3, microbatches=8.0)
    assert (made.draws, made.microbatches) == (1000, 8)
    assert type(made.draws) is int


def test_draws__one_when_nothing_varies():
    assert scenario(draws=500).draws == 1


def test_latency__parameters_default():
    made = scenario(latency__op={"law": "lognormal", "cv": None})
    assert made.latency.op == Choice("lognormal", (("cv", 0.05),))


def test_sections__one_and_true_are_different_questions():
    """Sections are remembered by value, and Python holds 1 == True: the check must not be skipped for the second."""
    flat = {"family": "explicit", "per": "rank", "p2p_bytes": 0, "forward": 1, "backward_input": 1, "backward_weight": 1}
    assert Scenario.from_config(config(model=flat)).model.forward == 1.0
    with pytest.raises(ValueError, match="model.forward must be a finite number above 0; got True"):
        Scenario.from_config(config(model={**flat, "forward": True}))


def test_prepare__refuses_times_that_the_clock_cannot_count():
    with pytest.raises(ValueError, match="stage 0 computes F in 1e-10 s; the clock counts whole ns"):
        prepare(scenario(model__forward=1e-10))
    with pytest.raises(ValueError, match="beyond the 2.62 ns"):
        prepare(scenario(model__forward=1e9))
    with pytest.raises(ValueError, match="beyond the 2.62 ns"):
        prepare(scenario(topology__latency=1e9))


def test_prepare__stages_beyond_the_noise_address_are_infeasible():
    with pytest.raises(Infeasible, match="stage 2048 does not fit the noise address"):
        prepare(scenario(pp=2049, microbatches=1))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [({"threads": 0}, "executor.threads must be"), ({"tile": 0}, "executor.tile must be"), ({"tile": 2**21}, "from 1 to 1048576")],
)
def test_executor__refuses(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        Executor(**values)


def test_prepare__a_message_that_never_ends_is_refused():
    with pytest.raises(ValueError, match="times add up to inf s"):
        prepare(scenario(model__p2p_bytes=1e300, topology__bandwidth=1e-300))


def test_evaluate__more_draws_than_memory_holds_are_refused():
    case = prepare(scenario(draws=2**33, latency__op={"law": "lognormal"}))
    with pytest.raises(ValueError, match="draws=8589934592 need about 1.72e.03 GB for the metrics of one cell"):
        next(evaluate([case], Executor()))
