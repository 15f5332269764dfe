"""Scenarios: every value of a config is checked, and a refusal names the key, what was found and what works."""

import math

import pytest
from conftest import config, scenario

from hops.checks import Infeasible
from hops.executor import make_executor
from hops.scenario import Choice, Scenario
from hops.simulation import prepare


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pp": 0}, "pp must be a whole number from 1 to 2048; got 0"),
        ({"microbatches": -3}, "microbatches must be a whole number from 1 to 1048576; got -3"),
        ({"microbatches": 2.5}, "microbatches must be a whole number from 1 to 1048576; got 2.5"),
        ({"microbatches": math.nan}, "microbatches must be a whole number from 1 to 1048576; got nan"),
        ({"microbatches": math.inf}, "microbatches must be a whole number from 1 to 1048576; got inf"),
        ({"draws": 0}, "draws must be a whole number from 1 to"),
        ({"draws": None}, "draws must be a whole number from 1 to .*; got None"),
        ({"seed": 2**32}, "seed must be a whole number from 0 to 4294967295; got 4294967296"),
        ({"seed": "x"}, "seed must be a whole number from 0"),
        ({"tp": 2}, "tp=2 is not modelled yet; only tp=1 works"),
        ({"dp": 4}, "dp=4 is not modelled yet"),
        ({"p2p": "chanel"}, r"no p2p named 'chanel'; did you mean 'channel'\?"),
        ({"barrier": 1}, "barrier must be true or false; got 1"),
        ({"gpu": 8}, r"no key named 'gpu'; did you mean 'gpus'\?"),
        ({"gpus": 0}, "gpus must be a whole number of at least 1; got 0"),
        ({"gpus": 10, "dp": None}, r"gpus=10 are no multiple of pp=4 \(try gpus=8 or 12\)"),
        ({"gpus": 8, "dp": None}, r"gpus=8 and pp=4 make dp=2, which is not modelled yet; only dp=1 works \(try pp=8\)"),
        ({"gpus": 8, "dp": 1}, r"gpus=8 and pp=4 make dp=2, but dp=1 is given too \(leave one of them out\)"),
        ({"global_batch_size": 0}, "global_batch_size must be a whole number of at least 1; got 0"),
        (
            {"global_batch_size": 9, "microbatch_size": 4, "microbatches": None},
            r"no multiple of dp x microbatch_size = 4 \(try .*=8 or 12",
        ),
        ({"global_batch_size": 9, "microbatches": 8}, "global_batch_size=9 makes microbatches=9, but microbatches=8 is given too"),
        ({"schedule__name": "gpip"}, r"no schedule named 'gpip'; did you mean 'gpipe'\?"),
        ({"schedule__depth": 2}, r"schedule.depth has no meaning for 1f1b \(it takes no parameters\)"),
        ({"topology__name": "ring"}, "no topology named 'ring'"),
        ({"topology__speed": 2}, r"topology.speed has no meaning for uniform \(it takes latency, bandwidth, gpu, order\)"),
        ({"model__family": "cnn"}, r"no model.family named 'cnn' \(known: explicit, transformer\)"),
        ({"model__layers": 2}, "model.layers has no meaning for explicit"),
        ({"model__forward": None}, "model.forward is not set"),
        ({"latency__op": {"law": "lognormall"}}, r"no latency law named 'lognormall'; did you mean 'lognormal'\?"),
        ({"latency__op": {"law": "lognormal", "cv": -0.1}}, "latency.op.cv must be a finite number at least 0; got -0.1"),
        ({"latency__op": {"law": "lognormal", "cv": 2}}, "latency.op.cv must be at most 1 for law lognormal; got 2"),
        ({"latency__op": {"law": "lognormal", "alpha": 2}}, "latency.op.alpha has no meaning for law lognormal"),
        ({"latency__op": {"law": "heavy_tail", "alpha": 1.2}}, "latency.op.alpha must be from 1.5 to 100 for law heavy_tail; got 1.2"),
        ({"latency": 5}, "latency must be a section of keys; got 5"),
        ({"latency__op": 5}, "latency.op must be a section of keys; got 5"),
        ({"model__forward": {"a": 1}}, "model.forward must be a value or a list; got a section"),
        ({"seed": 10**400}, "seed must be a whole number from 0 to"),
        ({"pp": 4096}, "pp must be a whole number from 1 to 2048; got 4096"),
        ({"microbatches": 2**20 + 1}, "microbatches must be a whole number from 1 to 1048576; got 1048577"),
        ({"latency__ops": {"law": "none"}}, r"latency.ops has no meaning for latency \(it takes op, rank, microbatch, link\)"),
        ({"latency__rank": {"law": "lognormal", "cv": 5}}, "latency.rank.cv must be at most 1"),
        ({"latency__link": 3}, "latency.link must be a section of keys; got 3"),
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
    with pytest.raises(ValueError, match="stage 0 computes F in 1e-10 s, less than the 1 ns that the clock counts"):
        prepare(scenario(model__forward=1e-10))
    with pytest.raises(ValueError, match="beyond the 2.62 ns"):
        prepare(scenario(model__forward=1e9))
    with pytest.raises(ValueError, match="beyond the 2.62 ns"):
        prepare(scenario(topology__latency=1e9))


def test_prepare__more_passes_than_memory_holds_are_infeasible():
    with pytest.raises(Infeasible, match="pp=2048 and microbatches=1024 make 2097152 passes .* at most 1048576"):
        prepare(scenario(pp=2048, microbatches=1024))


def test_prepare__times_too_short_for_noise_in_whole_ns_are_refused():
    prepare(scenario(model__forward=1e-8))
    with pytest.raises(ValueError, match="stage 0 computes F in 1e-08 s, less than 1e-6 s, as noise is rounded to whole ns"):
        prepare(scenario(model__forward=1e-8, latency__op={"law": "lognormal", "cv": 1.0}))


def test_prepare__noise_counts_when_times_are_added_up():
    year = 365.25 * 86400.0
    prepare(scenario(pp=1, microbatches=1, model__forward=40 * year))
    with pytest.raises(ValueError, match="beyond the 2.62 ns"):
        prepare(scenario(pp=1, microbatches=1, model__forward=40 * year, latency__op={"law": "lognormal", "cv": 1.0}))


def test_config__nothing_may_be_left_out():
    incomplete = config()
    del incomplete["seed"], incomplete["model"]
    with pytest.raises(ValueError, match="model, seed must not be left out of the config"):
        Scenario.from_config(incomplete)


def test_choices__one_and_true_are_different_questions():
    prepare(scenario(topology__latency=1))
    with pytest.raises(ValueError, match="topology.latency must be a finite number at least 0; got True"):
        prepare(scenario(topology__latency=True))


def test_latency__a_cv_of_zero_is_no_noise():
    assert scenario(latency__op={"law": "lognormal", "cv": 0}).latency.op is None


def test_latency__a_law_of_none_ignores_parameters():
    assert scenario(latency__op={"law": "none", "cv": 0.1}).latency.op is None


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"threads": 0}, "executor.threads must be"),
        ({"tile": 0}, "executor.tile must be"),
        ({"tile": 2**21}, "from 1 to 1048576"),
        ({"name": "dask"}, r"no executor named 'dask' \(known: local\)"),
        ({"tiles": 7}, r"no key of executor named 'tiles'; did you mean 'tile'\?"),
    ],
)
def test_executor__refuses(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_executor(values)


def test_prepare__a_message_that_never_ends_is_refused():
    with pytest.raises(ValueError, match="times add up to inf s"):
        prepare(scenario(model__p2p_bytes=1e300, topology__bandwidth=1e-300))


def test_sizes__are_derived_and_may_be_given_twice_where_they_agree():
    assert scenario(global_batch_size=24, microbatch_size=2, microbatches=None).microbatches == 12
    assert scenario(global_batch_size=24, microbatch_size=2, microbatches=12).microbatches == 12
    assert scenario(gpus=4, dp=None) == scenario() == scenario(gpus=4)
