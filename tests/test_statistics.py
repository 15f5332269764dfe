"""What a cube says of its own accuracy: standard errors, intervals of quantiles, and draws until an error is below a target."""

import numpy as np
import pytest

import hops
from hops import settle
from hops.__main__ import main
from hops.metrics import interval_ranks, quantile_ends, quantile_interval, student
from hops.plan import Target
from hops.settle import errors
from hops.variables import VARIABLES, attributes

UNIT = ("model=explicit", "model.forward=1", "model.backward_input=1", "model.backward_weight=1", "p2p=latency", "topology=uniform")
TINY = ("pp=2", "microbatches=4", "latency.op.cv=0.3")


@pytest.fixture(scope="module")
def samples():
    """1,000 samples of 64 iteration times each: blocks of one run."""
    return hops.simulate(*UNIT, *TINY, "draws=64000")["iteration_time"].values.reshape(1000, 64)


def test_interval_of_a_mean__covers_what_it_promises(samples):
    half = student(np.array(64)) * samples.std(axis=1, ddof=1) / 8
    inside = np.abs(samples.mean(axis=1) - samples.mean()) <= half
    print(f"mean: covers {inside.mean():.1%}")
    assert 0.93 <= inside.mean() <= 0.97


@pytest.mark.parametrize("q", [0.4, 0.5, 0.9])
def test_interval_of_a_quantile__covers_what_it_promises(samples, q):
    from scipy.special import bdtr

    low, high = quantile_ends(np.sort(samples, axis=1), (q,))
    truth = np.quantile(samples, q)
    inside = (low[:, 0] <= truth) & (truth <= high[:, 0])
    lower, upper = interval_ranks(64, q)
    exact = float(bdtr(upper - 1, 64, q) - bdtr(lower - 1, 64, q))
    print(f"{q} quantile: covers {inside.mean():.1%}, exactly {exact:.1%} (order statistics come in steps)")
    assert 0.95 <= exact <= 0.97
    assert 0.93 <= inside.mean() <= 0.97 + 0.013  # two standard errors of what is counted above what is exact


def test_quantile_ends__are_those_of_every_cell_alone(samples):
    low, high = quantile_ends(np.sort(samples[:5], axis=1), (0.01, 0.5, 0.9))
    for cell in range(5):
        alone = [quantile_interval(samples[cell], q) for q in (0.01, 0.5, 0.9)]
        assert alone == list(zip(low[cell], high[cell], strict=True))
    assert np.isneginf(low[:, 0]).all()  # of 64 draws none bounds the 0.01 quantile from below


def test_cube__quantiles_have_intervals():
    cube = hops.sweep_cube("latency=lognormal,none", "pp=2,4,64", "microbatches=6", "draws=50")
    cell = hops.simulate("pp=4", "microbatches=6", "draws=50")
    for q in cube["quantile"].values:
        ends = [float(cube[f"iteration_time_{end}"].sel(latency="lognormal", pp=4, quantile=q)) for end in ("low", "high")]
        assert tuple(ends) == cell.hops.interval("iteration_time", q)
    certain = cube.sel(latency="none", pp=2)
    assert (certain["iteration_time_low"] == certain["iteration_time"]).all()
    assert (certain["iteration_time_high"] == certain["iteration_time"]).all()
    assert np.isnan(cube["iteration_time_low"].sel(pp=64)).all()
    assert cube["iteration_time_low"].attrs == attributes("iteration_time_low")
    assert cube["iteration_time_low"].attrs["units"] == "s"
    assert cube["n_draws"].sel(pp=4).values.tolist() == [50, 1]
    assert np.isnan(cube["n_draws"].sel(pp=64)).all()
    one = cube.sel(latency="lognormal", pp=2)
    assert one.hops.interval("iteration_time", 0.5) == hops.simulate("pp=2", "microbatches=6", "draws=50").hops.interval()


def test_cube__every_estimate_has_its_standard_error():
    run = ("run.iterations=50", "failure=llama3", "trials=8", "checkpoint.interval=60")
    cube = hops.sweep_cube("pp=2,4", "microbatches=6", "draws=50", *run)
    estimates = [name for name, each in VARIABLES.items() if each.per not in ("rank", "cell") and name in cube]
    assert {"iteration_time", "busy_time", "goodput_fraction", "ledger"} <= set(estimates)
    for name in estimates:
        error = cube[f"{name}_standard_error"]
        n = 8 if VARIABLES[name].per.startswith("trial") else 50
        if VARIABLES[name].per != "trial":  # a ratio's is by the delta method
            np.testing.assert_allclose(error.values, cube[f"{name}_std"].values / np.sqrt(n), rtol=1e-12)
        assert error.attrs["units"] == VARIABLES[name].units
    busy = hops.simulate("pp=2", "microbatches=6", "draws=50", "output.keep=draws")["busy_time"].values
    np.testing.assert_allclose(cube["busy_time_standard_error"].sel(pp=2)[:2], busy.std(axis=0, ddof=1) / np.sqrt(50), rtol=1e-6)
    spent = hops.simulate("pp=2", "microbatches=6", "draws=50", *run)["ledger"].values
    np.testing.assert_allclose(cube["ledger_standard_error"].sel(pp=2), spent.std(axis=0, ddof=1) / np.sqrt(8), rtol=1e-12)
    each = np.sort(cube["goodput_fraction_trials"].sel(pp=2).values)
    assert (cube["goodput_fraction_low"].sel(pp=2).values == quantile_ends(each[None], cube["quantile"].values)[0][0]).all()


@pytest.mark.parametrize("dp", [1, 2])  # by the kernel of what is plain, and by the other
def test_cube__what_does_not_vary_has_no_error(dp):
    cube = hops.sweep_cube("latency=none,lognormal", "pp=2", "microbatches=6", "draws=1", f"dp={dp}")
    for name in ("iteration_time", "mfu", "busy_time", "exposed_communication", "utilization"):
        for suffix in ("_std", "_standard_error"):
            assert (cube[name + suffix].sel(latency="none") == 0).all(), name + suffix
            assert np.isnan(cube[name + suffix].sel(latency="lognormal")).all(), name + suffix  # one draw of what varies


def test_best__every_variable_says_what_one_wants():
    assert {each.best for each in VARIABLES.values()} == {"least", "most", ""}
    assert [name for name in ("throughput", "mfu", "goodput_fraction", "ettr", "headroom", "mtbf") if VARIABLES[name].best != "most"] == []
    assert [name for name in ("iteration_time", "bubble_fraction", "peak_memory", "mttr") if VARIABLES[name].best != "least"] == []


# draws=auto

AUTO = ("draws=auto", "microbatches=6", "latency.op.cv=0.3")


def test_auto__a_cell_is_the_cell_whose_number_is_typed():
    cube = hops.sweep_cube("latency=none,lognormal", "pp=2,4,64", "target_error=0.002", *AUTO)
    n_draws = cube["n_draws"].sel(latency="lognormal")
    assert cube["n_draws"].sel(latency="none").values.tolist()[:2] == [1, 1]
    assert np.isnan(n_draws.sel(pp=64))
    assert len({int(n_draws.sel(pp=pp)) for pp in (2, 4)}) == 2  # each cell has its own number
    for pp in (2, 4):
        n = int(n_draws.sel(pp=pp))
        typed = hops.sweep_cube("latency=choice(lognormal)", f"pp=choice({pp})", "microbatches=6", "latency.op.cv=0.3", f"draws={n}")
        assert n in [256 * 2**k for k in range(12)]
        for name in typed.data_vars:
            ours = cube[name].sel(latency=["lognormal"], pp=[pp])
            cut = {dim: slice(typed.sizes[dim]) for dim in ("draw", "rank") if dim in ours.dims}
            assert np.array_equal(ours.isel(cut).values, typed[name].values, equal_nan=typed[name].dtype.kind == "f"), name
        alone = hops.simulate("latency=lognormal", f"pp={pp}", "target_error=0.002", *AUTO)
        assert alone.sizes["draw"] == n
        assert (alone["iteration_time"].values == cube["iteration_time_draws"].sel(latency="lognormal", pp=pp)[:n]).all()
        half = hops.simulate(f"pp={pp}", f"draws={n // 2}", "microbatches=6", "latency.op.cv=0.3")["iteration_time"].values
        assert alone["iteration_time"].values.std(ddof=1) / np.sqrt(n) / alone["iteration_time"].values.mean() <= 0.002
        assert half.std(ddof=1) / np.sqrt(n // 2) / half.mean() > 0.002  # fewer would not have done
    assert "draws=auto: 1024 to 2048 draws a cell, to bring the standard error of the mean to 0.2 % of it or less" in cube.attrs["notes"]


def test_auto__draws_that_are_tried_are_those_of_the_cell(monkeypatch):
    seen = []
    monkeypatch.setattr(settle, "errors", lambda times, target: seen.append(times) or errors(times, target))
    cell = hops.simulate("pp=2", "target_error=0.004", *AUTO)
    assert [times.shape[1] for times in seen] == [256, 512]
    assert (seen[-1][0] / 1e9 == cell["iteration_time"].values).all()


def test_auto__of_a_quantile_its_interval():
    cell = hops.simulate("pp=2", "target_quantile=0.99", "target_error=0.03", *AUTO)
    low, high = cell.hops.interval("iteration_time", 0.99)
    p99 = float(np.quantile(cell["iteration_time"].values, 0.99))
    assert (high - low) / 2 / p99 <= 0.03
    assert cell.sizes["draw"] > 256  # of which none bounds a 0.99 quantile
    few = np.array([[1.0, 2.0, 3.0]])
    assert errors(few, Target(0.1, 0.99))[0] == np.inf
    assert errors(few, Target(0.1))[0] == pytest.approx(1 / np.sqrt(3) / 2)


def test_auto__neither_threads_nor_tiles_nor_batches_matter(monkeypatch):
    words = ("pp=2,4", "seed=0,1,2", "target_error=0.004", *AUTO)
    cube = hops.sweep_cube(*words)
    other = hops.sweep_cube(*words, "executor.threads=1", "executor.tile=100")
    monkeypatch.setattr(settle, "BATCH_DRAWS", 600)  # a cell at a time, or two
    third = hops.sweep_cube(*words)
    assert len(np.unique(cube["n_draws"].values)) > 1
    assert cube.drop_attrs().identical(other.drop_attrs())
    assert cube.drop_attrs().identical(third.drop_attrs())


def test_auto__a_cell_that_does_not_settle_says_so(monkeypatch):
    monkeypatch.setattr(settle, "MOST_DRAWS", 1024)
    cube = hops.sweep_cube("pp=2,4", "target_error=0.002", *AUTO)
    assert cube["n_draws"].values.tolist() == [1024, 1024]
    assert "draws=auto: 1 of 2 cells do not come below target_error=0.002 in 1024 draws" in cube.attrs["notes"]


def test_auto__of_training_runs_and_of_iterations_without_a_barrier():
    words = ("pp=2", "schedule=zb_h1", "barrier=false", "target_error=0.004", "run.iterations=20", "trials=3", *AUTO)
    cell = hops.simulate(*words)
    times = cell["iteration_time"].values
    assert times.std(ddof=1) / np.sqrt(times.size) / times.mean() <= 0.004
    assert cell.sizes["trial"] == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("draws=autoo",), "draws must be a whole number of at least 1, or auto; got 'autoo'"),
        (("draws=0",), "draws must be a whole number"),
        (("draws=0", "latency=none"), "draws must be a whole number"),
        (("draws=auto,100",), "draws=auto cannot be a value of an axis"),
        (("draws=auto", "target_error=0.1,0.2"), "target_error cannot be an axis: it is one for all cells"),
        (("draws=auto", "target_error=0"), "target_error must be a finite number above 0; got 0"),
        (("target_error=-1",), "target_error must be a finite number above 0; got -1"),
        (("draws=auto", "target_quantile=1"), "target_quantile must be null or a number between 0 and 1, such as 0.99; got 1"),
        (("draws=auto", "target_quantile=true"), "target_quantile must be null or"),
    ],
)
def test_auto__refuses_what_cannot_be_meant(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        hops.sweep_cube(*words)


def test_auto__a_target_without_it_plays_no_part(command):
    code, out, _ = command("pp=2", "microbatches=4", "draws=20", "target_error=0.1", main=main)
    assert code == 0
    assert "play no part in a given number of draws (try draws=auto)" in " ".join(out.split())


def test_auto__at_the_command_line(command):
    code, out, _ = command("-m", "pp=2,4", "target_error=0.01", *AUTO)
    assert code == 0
    assert "draws=auto: 256 draws a cell" in out
    assert "/cube.nc" in out
