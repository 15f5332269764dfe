"""Scenarios: every value of a config is checked, and a refusal names the key, what was found and what works."""

import math

import numpy as np
import pytest
from conftest import config, scenario

from hops.checks import Infeasible
from hops.executor import make_executor
from hops.scenario import Scenario
from hops.sections import Choice
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
        ({"cp": 0}, "cp must be a whole number of at least 1; got 0"),
        ({"ep": 2.5}, "ep must be a whole number of at least 1; got 2.5"),
        ({"etp": 0}, "etp must be a whole number of at least 1; got 0"),
        ({"cp_comm": "ring"}, r"no cp_comm named 'ring' \(known: a2a, all_gather, p2p\)"),
        ({"cp_balance": "zigzak"}, "no cp_balance named 'zigzak'; did you mean 'zigzag'"),
        ({"p2p": "chanel"}, r"no p2p named 'chanel'; did you mean 'channel'\?"),
        ({"p2p": "torch", "recv": "late"}, r"no recv named 'late' \(known: defer, early\)"),
        ({"p2p": "channel", "recv": "defer"}, r"recv=defer is for p2p=torch, .*; got p2p=channel \(leave recv=early\)"),
        ({"barrier": 1}, "barrier must be true or false; got 1"),
        ({"gpu": 8}, r"no key named 'gpu'; did you mean 'gpus'\?"),
        ({"gpus": 0}, "gpus must be a whole number of at least 1; got 0"),
        ({"gpus": 10, "dp": None}, r"gpus=10 are no multiple of pp x tp x cp = 4 \(try gpus=8 or 12\)"),
        ({"gpus": 8, "dp": 1}, r"gpus=8 and pp x tp x cp = 4 make dp=2, but dp=1 is given too \(leave one of them out\)"),
        ({"global_batch_size": 0}, "global_batch_size must be a whole number of at least 1; got 0"),
        (
            {"global_batch_size": 9, "microbatch_size": 4, "microbatches": None},
            r"no multiple of dp x microbatch_size = 4 \(try .*=8 or 12",
        ),
        ({"global_batch_size": 9, "microbatches": 8}, "global_batch_size=9 makes microbatches=9, but microbatches=8 is given too"),
        ({"schedule__name": "gpip"}, r"no schedule named 'gpip'; did you mean 'gpipe'\?"),
        ({"schedule__depth": 2}, r"schedule.depth has no meaning for 1f1b \(it takes no parameters\)"),
        ({"topology__name": "ring"}, "no topology named 'ring'"),
        ({"topology__speed": 2}, r"topology.speed has no meaning for uniform \(it takes latency, bandwidth, gpu, order, overrides\)"),
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
        ({"latency__ops": {"law": "none"}}, r"latency.ops has no meaning for latency \(it takes op, rank, microbatch, link, host, per\)"),
        ({"latency__rank": {"law": "lognormal", "cv": 5}}, "latency.rank.cv must be at most 1"),
        ({"run__iterations": 0}, "run.iterations must be a whole number of at least 1; got 0"),
        ({"run__days": math.nan}, "run.days must be a finite number above 0; got nan"),
        ({"run": {"days": 1, "iterations": 5}}, "run.iterations=5 and run.days=1 are both given"),
        ({"run__hours": 1}, r"run.hours has no meaning for run \(it takes iterations, days, tier, engine\)"),
        ({"run__tier": "exakt"}, "no run.tier named 'exakt'"),
        ({"trials": 0}, "trials must be a whole number from 1 to"),
        ({"failure__faults": {"gpu": {"mean": 1e6}}}, r"failures come in a training run, and none is asked for \(set run.days or run.iter"),
        ({"failure__faults": {"gpu": {"mean": -1.0}}}, "failure.faults.gpu.mean must be a number above 0; got -1.0"),
        ({"failure__faults": {"gpu": {"mean": math.nan}}}, "failure.faults.gpu.mean must be a number above 0; got nan"),
        ({"failure__faults": {"gpu": {}}}, "failure.faults.gpu.mean is not set: the mean time between failures of one node"),
        ({"failure__faults": {"gpu": 3}}, "failure.faults.gpu must be a section of keys; got 3"),
        ({"failure__faults": {"gpu": {"mean": 1, "mtbf": 2}}}, "failure.faults.gpu.mtbf has no meaning for a fault"),
        (
            {"failure__faults": {"gpu": {"mean": 1.0, "law": "weibull"}}},
            r"gpu.shape \(k: below 1 the young fail more\) must be a number from",
        ),
        ({"failure__faults": {"gpu": {"mean": 1.0, "shape": 2}}}, "gpu.shape has no meaning for law exponential; got 2"),
        ({"failure__faults": {"gpu": {"mean": 1.0, "age": "old"}}}, "no failure.faults.gpu.age named 'old'"),
        ({"failure__faults": {"gpu": {"mean": 1.0, "detection": -1}}}, "failure.faults.gpu.detection must be a number at least 0; got -1"),
        ({"failure__rate": -1}, "failure.rate must be a finite number at least 0; got -1"),
        ({"recovery__name": "pray"}, "no recovery named 'pray'"),
        ({"recovery__load": -1}, "recovery.load must be a finite number at least 0; got -1"),
        ({"checkpoint__interval": "yung"}, "no checkpoint.interval named 'yung'; did you mean 'young'"),
        ({"checkpoint__interval": 0}, "checkpoint.interval must be a number above 0; got 0"),
        ({"checkpoint__cost": math.nan}, "checkpoint.cost must be a finite number at least 0; got nan"),
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


def empirical(**given):
    return scenario(latency__op={"law": "empirical", **given})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must hold at least 2 numbers, all above 0 and finite; got 0 values"),
        ("1 2 0", "got 3 values from 0 to 2"),
        ("1 nan", "all above 0 and finite"),
        ("1e300 1e300", "got 2 values from 1e[+]300 to 1e[+]300"),
        ("# times\n1 fast", "cannot be read as numbers: could not convert string to float: 'fast'"),
    ],
)
def test_empirical__a_sample_that_cannot_be_meant(tmp_path, text, sentence):
    file = tmp_path / "sample.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        empirical(file=str(file))


def test_empirical__lists_columns_and_npy_are_the_same_sample(tmp_path):
    (tmp_path / "plain.txt").write_text("# ms\n3, 1\n2  # the last\n")
    (tmp_path / "table.csv").write_text("\ufeffms,op\n1.0,F\n,B\n2,F\n3,F\n")  # with the mark that Excel writes
    np.save(tmp_path / "saved.npy", [[2e-3], [1e-3], [3e-3]])
    files = [{"file": "plain.txt"}, {"file": "table.csv", "column": "ms"}, {"file": "saved.npy"}]
    digests = {empirical(**{**given, "file": str(tmp_path / given["file"])}).latency.op.kwargs["digest"] for given in files}
    assert len(digests) == 1  # seconds, milliseconds: only ratios count
    for column, sentence in (("s", r"has no column 's' \(its first line reads ms, op\)"), (None, "could not convert")):
        with pytest.raises(ValueError, match=sentence):
            empirical(file=str(tmp_path / "table.csv"), column=column)
    with pytest.raises(ValueError, match=r"latency.op.file is not set"):
        empirical()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "latency.op.distribution is not set"),
        ({"distribution": "gama"}, "has no continuous law named 'gama'; did you mean 'gamma'?"),
        ({"distribution": "poisson"}, "has no continuous law named 'poisson'"),
        ({"distribution": "gamma"}, r"gamma\(\): it takes a, loc, scale"),
        ({"distribution": "gamma", "parameters": {"a": 2, "b": 3}}, r"gamma\(a=2, b=3\): it takes a, loc, scale"),
        ({"distribution": "norm"}, "must have a support from 0 on and a finite mean; got a support from -inf"),
        ({"distribution": "pareto", "parameters": {"b": 1}}, "a mean of inf"),
        ({"distribution": "loguniform", "parameters": {"a": 1e-9, "b": 1}}, "bends too sharply for a table"),
        ({"distribution": "gamma", "parameters": {"a": [1, 2]}}, r"latency.op.parameters.a must be a number; got \(1, 2\)"),
        ({"distribution": "gamma", "parameters": {"a": True}}, "latency.op.parameters.a must be a number; got True"),
        ({"distribution": "gamma", "parameters": 3}, "latency.op.parameters must be a section of keys; got 3"),
    ],
)
def test_scipy__a_law_that_cannot_be_meant(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        scenario(latency__op={"law": "scipy", **given})


def test_scipy__a_law_whose_quantiles_take_too_long_is_refused(monkeypatch):
    monkeypatch.setattr("hops.distributions.scipy_stats.SLOWEST", 0.0)
    with pytest.raises(ValueError, match=r"gamma\(a=7\) is too slow: a quantile takes .* ms, and a table needs 8,000 of them"):
        scenario(latency__op={"law": "scipy", "distribution": "gamma", "parameters": {"a": 7}})


def test_empirical__files_that_are_no_sample_are_refused(tmp_path):
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "long.csv").write_text("ms\n" + "1" * 200_000)
    np.save(tmp_path / "saved.npy", [1.0, 2.0])
    for file, column in (("empty.npy", None), ("long.csv", "ms"), ("saved.npy", "ms"), ("absent.txt", None)):
        with pytest.raises(ValueError, match=f"{file} cannot be read as numbers"):
            empirical(file=str(tmp_path / file), column=column)
