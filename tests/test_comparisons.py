"""Comparisons of cells: pairs of draws by hand, what their intervals cover, what pairing is worth, and who is best."""

import numpy as np
import pytest

import hops
from hops import cube as cube_module
from hops.choices import quantile_gaps
from hops.comparisons import paired
from hops.metrics import quantile_interval, student

UNIT = ("model=explicit", "model.forward=1", "model.backward_input=1", "model.backward_weight=1", "model.per=stage")
WIRE = ("topology=uniform", "topology.bandwidth=inf", "p2p=latency")
SMALL = ("microbatches=6", "draws=40")


@pytest.fixture(scope="module")
def cube():
    return hops.sweep_cube("schedule=1f1b,gpipe,zb_h1", "pp=2,4", "topology=dgx", *SMALL)


@pytest.fixture(scope="module")
def weather():
    """Times (2, 64,000) of a slow first and a slow second stage; a block of them is an independent sample."""
    swept = "model.forward=[1.3,1,1],[1,1.3,1]"
    words = (*UNIT, *WIRE, "latency.op.cv=0.3", "pp=3", "microbatches=4", "topology.latency=0.1", "draws=64000")
    return hops.sweep_cube(*words, swept)["iteration_time_draws"].values


def test_compare__by_hand(cube):
    found = cube.hops.compare("schedule", "1f1b").sel(schedule="zb_h1", pp=4)
    one, two = (hops.simulate(f"schedule={name}", "pp=4", *SMALL)["iteration_time"].values for name in ("1f1b", "zb_h1"))
    error = (two - one).std(ddof=1) / np.sqrt(40)
    t = 2.0226909  # Student's t of 39 degrees of freedom, 97.5 %
    assert float(found["difference"]) == pytest.approx((two - one).mean(), rel=1e-12)
    assert float(found["difference_standard_error"]) == pytest.approx(error, rel=1e-12)
    assert float(found["difference_low"]) == pytest.approx((two - one).mean() - t * error, rel=1e-8)
    assert float(found["difference_high"]) == pytest.approx((two - one).mean() + t * error, rel=1e-8)
    ratio = two.mean() / one.mean()
    of_ratio = np.sqrt(((two - ratio * one) ** 2).sum() / 39 / 40) / one.mean()
    assert float(found["ratio"]) == pytest.approx(ratio, rel=1e-12)
    assert float(found["ratio_standard_error"]) == pytest.approx(of_ratio, rel=1e-9)
    assert float(found["ratio_high"]) == pytest.approx(ratio + t * of_ratio, rel=1e-9)
    gain = (one.var(ddof=1) + two.var(ddof=1)) / (two - one).var(ddof=1)
    assert float(found["variance_reduction"]) == pytest.approx(gain, rel=1e-9)
    assert bool(found["resolved"])
    assert int(found["n_pairs"]) == 40
    assert np.isnan(found["draws_needed"])


def test_compare__the_reference_is_equal_to_itself(cube):
    found = cube.hops.compare("schedule", "1f1b").sel(schedule="1f1b")
    assert found["difference"].values.tolist() == [0.0, 0.0]
    assert found["ratio_low"].values.tolist() == found["ratio_high"].values.tolist() == [1.0, 1.0]
    assert not found["resolved"].any()
    assert np.isnan(found["draws_needed"]).all()


def test_compare__constants_over_the_iteration_time_are_those_of_kept_draws(cube):
    kept = hops.sweep_cube("schedule=1f1b,gpipe,zb_h1", "pp=2,4", "topology=dgx", "output.keep=draws", *SMALL)
    for metric in ("iteration_time", "throughput", "tokens_per_second", "mfu", "hfu", "flops_per_gpu"):
        ours, theirs = (each.hops.compare("pp", 2, metric) for each in (cube, kept))
        for name in theirs.data_vars:
            np.testing.assert_allclose(ours[name].values, theirs[name].values, rtol=1e-9, atol=1e-12, err_msg=f"{metric}: {name}")
        assert ours["difference"].attrs["units"] == cube[metric].attrs["units"]
    assert kept.hops.compare("pp", 2, "busy_time").sizes == {"schedule": 3, "pp": 2, "rank": 4}
    bubble = kept.hops.compare("schedule", "1f1b", "bubble_fraction").sel(schedule="zb_h1")
    assert (bubble["difference_high"] < 0).all()


def test_compare__draws_needed_would_resolve_it():
    words = ("schedule=1f1b,gpipe", "pp=4", "topology=dgx", "microbatches=6")
    few, many = (hops.sweep_cube(*words, f"draws={n}").hops.compare("schedule", "1f1b").sel(schedule="gpipe") for n in (5, 500))
    assert not few["resolved"]
    half, difference = float(few["difference_high"] - few["difference"]), float(few["difference"])
    assert 5 < float(few["draws_needed"]) == np.ceil(5 * (half / difference) ** 2) < 500
    assert bool(many["resolved"])


def test_compare__a_cell_without_noise_goes_with_all_draws_of_another():
    cube = hops.sweep_cube("latency=none,lognormal", "pp=2,4", "schedule=1f1b,gpipe", *SMALL)
    found = cube.hops.compare("latency", "none").sel(latency="lognormal", schedule="1f1b", pp=2)
    draws = hops.simulate("pp=2", *SMALL)["iteration_time"].values
    certain = float(cube["iteration_time_mean"][0, 0, 0])
    assert int(found["n_pairs"]) == 40
    assert float(found["difference"]) == pytest.approx(draws.mean() - certain, rel=1e-9)
    assert float(found["difference_standard_error"]) == pytest.approx(draws.std(ddof=1) / np.sqrt(40), rel=1e-9)
    both = cube.hops.compare("schedule", "gpipe").sel(latency="none", schedule="1f1b")
    assert (both["difference_standard_error"] == 0).all()
    assert (both["difference_low"] == both["difference"]).all()
    assert (both["resolved"] == (both["difference"] != 0)).all()
    alone = hops.sweep_cube("latency=none", "pp=2,4", *SMALL).hops.compare("pp", 4)
    assert alone["resolved"].values.tolist() == [True, False]


def test_compare__one_draw_resolves_nothing():
    found = hops.sweep_cube("pp=2,4", "microbatches=6", "draws=1").hops.compare("pp", 2)
    assert np.isnan(found["difference_standard_error"].sel(pp=4))
    assert not found["resolved"].any()


def test_compare__pairs_are_the_draws_that_both_have():
    cube = hops.sweep_cube("draws=10,40", "pp=2,4,64", "microbatches=6")
    found = cube.hops.compare("draws", 40)
    assert found["n_pairs"].sel(pp=2).values.tolist() == [10, 40]
    assert float(found["difference"].sel(pp=4, draws=10)) == 0.0  # draws are addressed: the first ten are the same
    assert np.isnan(found["difference"].sel(pp=64)).all()
    assert not found["resolved"].sel(pp=64).any()
    assert np.isnan(cube.hops.compare("pp", 64)["ratio"]).all()


def test_compare__axes_that_advance_together():
    cube = hops.sweep_cube("pp=2,4", "microbatches=4,8", "hydra.sweeper.zip=[pp,microbatches]", "draws=20")
    found = cube.hops.compare("microbatches", 8)
    assert found["ratio"].dims == ("pp_microbatches",)
    assert found["ratio"].values[1] == 1.0
    assert found["pp"].values.tolist() == [2, 4]
    assert cube.hops.best().labels == {"pp": 2, "microbatches": 4}
    assert len(found.hops.table().splitlines()) == 5


def test_compare__trials_of_training_runs_are_pairs():
    run = ("run.iterations=200", "failure=llama3", "trials=30", "checkpoint.interval=60", *SMALL, "pp=2")
    cube = hops.sweep_cube("checkpoint.cost=1,10", *run)
    assert cube["goodput_fraction_trials"].dims == ("cost", "trial")
    found = cube.hops.compare("cost", 1.0, "goodput_fraction")
    trials = [hops.simulate(f"checkpoint.cost={cost}", *run)["goodput_fraction"].values for cost in (1, 10)]
    assert float(found["difference"].sel(cost=10)) == pytest.approx((trials[1] - trials[0]).mean(), rel=1e-9)
    assert bool(found["resolved"].sel(cost=10))
    assert int(found["n_pairs"].sel(cost=10)) == 30
    assert cube.hops.best("goodput_fraction").labels == {"cost": 1}


def test_compare__says_what_it_does_not_know(cube):
    for words, sentence in (
        (("schedul", "1f1b"), "no axis of this cube named 'schedul'; did you mean 'schedule'?"),
        (("schedule", "1f1"), "no label of schedule named '1f1'; did you mean '1f1b'?"),
        (("pp", 3), r"no label of pp named '3' \(known: 2, 4\)"),
        (("pp", 2, "iteration_tim"), "no metric with draws named 'iteration_tim'; did you mean 'iteration_time'?"),
        (("pp", 2, "bubble_fraction"), "the cube has no draws of bubble_fraction, which pairs need; it has those of iteration_time, "),
        (("pp", 2, "mfu", 95), "confidence must lie between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            cube.hops.compare(*words)
    with pytest.raises(ValueError, match="a comparison needs a cube"):
        hops.simulate(*SMALL).hops.compare("pp", 2)
    with pytest.raises(ValueError, match="no label of seed named 'True'"):  # is no 1
        hops.sweep_cube("seed=0,1", "pp=2", "latency=none").hops.compare("seed", True)
    many = hops.sweep_cube("microbatches=range(2,40)", "pp=2", "latency=none")
    with pytest.raises(ValueError, match=r"no label of microbatches named '41'; did you mean '39'\? \(it has 38 labels\)"):
        many.hops.compare("microbatches", 41)


def test_cube__too_large_to_keep_draws_says_so(monkeypatch):
    monkeypatch.setattr(cube_module, "MOST_KEPT", 79)
    cube = hops.sweep_cube("pp=2,4", *SMALL)
    assert "iteration_time_draws" not in cube
    assert "draw" not in cube.dims
    assert (
        "iteration_time_draws left out, so cells cannot be compared in pairs: 2 cells x 40 draws are more than the 79 "
        in cube.attrs["notes"]
    )
    with pytest.raises(ValueError, match=r"no draws of iteration_time, which pairs need; .* \(try output.keep=draws\)"):
        cube.hops.compare("pp", 2)
    best = cube.hops.best()
    assert best.labels == {"pp": 4}
    assert not best.paired
    monkeypatch.setattr(cube_module, "MOST_KEPT", 80)
    assert hops.sweep_cube("pp=2,4", *SMALL)["iteration_time_draws"].shape == (2, 40)


def test_table__of_a_comparison_fits_100_columns(cube):
    table = cube.hops.compare("schedule", "1f1b").hops.table()
    print(table)
    lines = table.splitlines()
    assert lines[2].split()[:5] == ["schedule", "pp", "ratio", "interval", "resolved"]
    assert len(lines) == 9
    axes = ("schedule=1f1b,zb_h1", "topology=dgx,pcie", "latency=none,lognormal", "model=gpt_22b,llama3_70b", "p2p=latency,channel")
    wide = hops.sweep_cube(*axes, "microbatch_size=1,2", "microbatches=4", "draws=3", "pp=2").hops.compare("p2p", "latency").hops.table()
    assert max(map(len, [*lines, *wide.splitlines()])) <= 100
    assert wide.splitlines()[2] == "the 20 of 64 cells with the least iteration_time"


# intervals: 1,000 samples of 64 draws each (of quantiles 250 of 256)


def test_interval_of_a_difference__covers_what_it_promises(weather):
    slow_first, slow_second = weather.reshape(2, 1000, 64)
    found = paired(slow_second, slow_first)
    half = student(found.n) * found.difference_error
    inside = np.abs(found.difference - (weather[1] - weather[0]).mean()) <= half
    print(f"paired difference: covers {inside.mean():.1%}")
    assert 0.93 <= inside.mean() <= 0.97


def test_interval_of_a_ratio__covers_what_it_promises(weather):
    slow_first, slow_second = weather.reshape(2, 1000, 64)
    found = paired(slow_second, slow_first)
    inside = np.abs(found.ratio - weather[1].mean() / weather[0].mean()) <= student(found.n) * found.ratio_error
    print(f"ratio of means: covers {inside.mean():.1%}")
    assert 0.93 <= inside.mean() <= 0.97


@pytest.mark.parametrize("q", [0.5, 0.9, 0.95])
def test_interval_of_a_difference_of_quantiles__covers_what_it_promises(weather, q):
    truth = np.subtract(*np.quantile(weather, q, axis=1)[::-1])
    ends = [quantile_gaps(block, (0,), q) for block in weather.reshape(2, 250, 256).swapaxes(0, 1)]
    inside = [low[1] <= truth <= high[1] for low, high in ends]
    print(f"difference of {q} quantiles: covers {np.mean(inside):.1%}")
    assert 0.93 <= np.mean(inside) <= 0.98  # of 250 samples


def test_quantile_gaps__with_few_draws_beyond_it_are_those_of_cells_that_do_not_pair(weather):
    block = weather[:, :64]  # 6 beyond the 0.9 quantile
    (low, high), ends = quantile_gaps(block, (0,), 0.9), [quantile_interval(each, 0.9) for each in block]
    assert (low[1], high[1]) == (ends[1][0] - ends[0][1], ends[1][1] - ends[0][0])
    paired, unpaired = quantile_gaps(block, (0,), 0.5), [quantile_interval(each, 0.5) for each in block]
    assert paired[1][1] - paired[0][1] < (unpaired[1][1] - unpaired[0][0]) / 2
    assert paired[0][0] == paired[1][0] == 0.0  # a cell differs from itself by nothing
    assert np.isinf(quantile_gaps(block, (0,), 0.999)).all(axis=0).any()


# pairing: p=8, m=32, an op's CV 9 %

EIGHT = (*WIRE, "pp=8", "microbatches=32", "latency.op.cv=0.09", "draws=1000")


def test_pairing__of_hop_latencies_cuts_the_variance_50_fold():
    found = hops.sweep_cube(*UNIT, *EIGHT, "topology.latency=0.1,0.15").hops.compare("latency", 0.1).sel(latency=0.15)
    gain = float(found["variance_reduction"])
    print(f"hop latency 0.10 against 0.15: pairing cuts the variance {gain:.0f}-fold")
    assert gain >= 50
    assert bool(found["resolved"])


def test_pairing__of_a_slow_stages_place_cuts_the_variance_5_fold():
    places = ",".join(str([slow if i == at else 1 for i in range(8)]).replace(" ", "") for slow in (1.1, 1.2) for at in (0, 3))
    cube = hops.sweep_cube(*UNIT, *EIGHT, "topology.latency=0.1", f"model.forward={places}")
    for slow in (1.1, 1.2):
        first, fourth = ([f"{slow}" if i == at else "1" for i in range(8)] for at in (0, 3))
        found = cube.hops.compare("forward", f"[{','.join(first)}]").sel(forward=f"[{','.join(fourth)}]")
        gain = float(found["variance_reduction"])
        print(f"a forward {slow} times as long on stage 0 or 3: pairing cuts the variance {gain:.1f}-fold")
        assert gain >= 5
        assert bool(found["resolved"])


def test_pairing__other_seeds_are_worth_nothing():
    found = hops.sweep_cube(*UNIT, *WIRE, "seed=0,1", "pp=2", "microbatches=4", "draws=2000").hops.compare("seed", 0).sel(seed=1)
    assert 0.9 < float(found["variance_reduction"]) < 1.1
    assert not found["resolved"]


# choices


def test_best__least_or_most_as_the_metric_wants(cube):
    times = cube["iteration_time_mean"].stack(cell=["schedule", "pp"])
    schedule, pp = times["cell"].values[int(times.values.argmin())]
    best = cube.hops.best()
    assert best.labels == {"schedule": schedule, "pp": pp}
    assert best.value == float(times.min()) == float(cube["iteration_time_mean"].isel(best.position))
    assert cube.hops.best("throughput").labels == best.labels
    assert cube.hops.best("mfu", "p95").value == float(cube["mfu"].sel(quantile=0.95).max())
    assert cube.hops.best("bubble_fraction", "median").value == float(cube["bubble_fraction"].sel(quantile=0.5).min())
    assert cube.hops.best("peak_memory").value == float(cube["peak_memory"].max("rank").min())
    assert cube.hops.best("utilization").value == float(cube["utilization"].min("rank").max())
    assert cube.hops.best("iteration_time", 0.8).value == float(cube["iteration_time_draws"].quantile(0.8, "draw").min())
    assert "all other cells are worse" in str(best)
    assert str(best).startswith(f"best mean of iteration_time: schedule={schedule} pp={pp}, ")


def test_best__ties_are_the_cells_that_pairs_cannot_tell_apart(cube):
    words = (*UNIT, *WIRE, "latency.op.cv=0.3", "pp=2", "topology.latency=0.1", "draws=50")
    close = hops.sweep_cube(*words, "seed=0,1,2,3", "microbatches=4,5")  # a seed is as good as another
    best = close.hops.best()
    assert best.labels["microbatches"] == 4
    resolved = close.hops.compare("seed", best.labels["seed"])["resolved"].sel(microbatches=4)
    ties = {tie["seed"] for tie in best.ties}
    assert ties == {seed for seed in range(4) if not resolved.sel(seed=seed)} - {best.labels["seed"]}
    assert len(ties) >= 2
    assert {tie["microbatches"] for tie in best.ties} == {4}
    for statistic in ("mean", "p50"):
        assert "cannot be told from it: seed=" in str(close.hops.best("throughput", statistic))
    assert len(close.hops.best("iteration_time", 0.99).ties) == 7  # 50 draws say nothing of a 0.99 quantile
    one = hops.sweep_cube("pp=2,4", "microbatches=6", "draws=1").hops
    assert [len(one.best("iteration_time", statistic).ties or ()) for statistic in ("mean", 0.5)] == [1, 1]
    assert cube.hops.best("bubble_fraction", "p95").ties is None
    assert "how sure that is cannot be said" in str(cube.hops.best("bubble_fraction", "p95"))
    assert hops.sweep_cube("pp=2,4", "schedule=1f1b,zb_h1", "latency=none", *SMALL).hops.best("iteration_time", "p95").ties == ()
    same = hops.sweep_cube("p2p=latency,channel", "topology=uniform", "topology.bandwidth=inf", "topology.latency=0", *UNIT, "pp=2", *SMALL)
    assert [len(same.hops.best("iteration_time", statistic).ties) for statistic in ("mean", 0.5, 0.99)] == [1, 1, 1]
    assert cube.hops.best("peak_in_flight").ties == ({"schedule": "zb_h1", "pp": 2},)  # exact, and equal


def test_best__where(cube):
    assert cube.hops.best(where="schedule == '1f1b' and pp < 4").labels == {"schedule": "1f1b", "pp": 2}
    assert cube.hops.best(where=cube["pp"] == 2).labels["pp"] == 2
    assert cube.hops.best(where=~cube["fits"]) == cube.hops.best(where="not fits")
    assert cube.hops.best("mfu", where="iteration_time_mean > 1.0e-9 and evaluated and n_draws == 40") == cube.hops.best("mfu")
    for where, sentence in (
        ("fit", "no axis named 'fit'; did you mean 'fits'?"),
        ("pp <", "where='pp <' is not an expression"),
        ("pp > 4", "no cell that where asks for has any iteration_time"),
        (cube["fits"].isel(pp=[0]), "where has other labels of pp than the cube"),
        (cube["iteration_time_mean"], "where must be True or False over axes of the cube .schedule, pp.; got float64"),
        (True, "where must be words such as 'fits and pp < 16'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            cube.hops.best(where=where)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("mfuu",), "no metric named 'mfuu'; did you mean 'mfu'?"),
        (("n_draws",), "whether more of n_draws is better, or less, nobody can say"),
        (("mfu", "average"), "statistic must be mean, a quantile such as p95, or a number from 0 to 1 such as 0.95; got 'average'"),
        (("mfu", 95), "statistic must be mean"),
        (("bubble_fraction", "p97"), r"no 0.97 quantile of bubble_fraction \(it has 0.01, .*; try output.quantiles=\[0.5,0.97\]\)"),
    ],
)
def test_best__says_what_it_cannot(cube, words, sentence):
    with pytest.raises(ValueError, match=sentence):
        cube.hops.best(*words)


def test_speedup__is_the_ratio_of_iteration_times(cube):
    found = cube.hops.speedup("schedule", "1f1b", "p95")
    assert found.dims == ("schedule", "pp")
    times = cube["iteration_time"].sel(quantile=0.95)
    assert (found.sel(schedule="zb_h1") == times.sel(schedule="1f1b") / times.sel(schedule="zb_h1")).all()
    assert (found.sel(schedule="1f1b") == 1).all()
    assert (cube.hops.speedup("pp", 2).sel(pp=4) > 1).all()


def test_pareto__no_cell_is_better_in_all(cube):
    found = cube.hops.pareto("iteration_time", "peak_memory")
    time, memory = cube["iteration_time_mean"].values.ravel(), cube["peak_memory"].max("rank").values.ravel()
    rows = list(zip(time, memory, strict=True))
    beaten = [any(t <= a and m <= b and (t, m) != (a, b) for t, m in rows) for a, b in rows]
    assert found.values.ravel().tolist() == [not each for each in beaten]
    assert 0 < int(found.sum()) < 6
    assert cube.hops.pareto("iteration_time", "throughput", where="pp == 2").sel(pp=4).sum() == 0
    with pytest.raises(ValueError, match="pareto needs two metrics or more"):
        cube.hops.pareto("mfu")


def test_best__of_few_draws_says_how_many_it_takes():
    cube = hops.sweep_cube("schedule=1f1b,zb", "pp=2", "microbatches=4", "draws=60")
    told = cube.hops.best("iteration_time", "p95")
    assert told.n_needed == 200
    assert str(told).endswith("a p95 of so few draws tells little (try draws=200)")
    assert cube.hops.best("iteration_time", "p75").n_needed == 0
    assert cube.hops.best("iteration_time").n_needed == 0


def test_table__of_a_single_cell():
    cube = hops.sweep_cube("schedule=1f1b,zb", "pp=2", "microbatches=4", "draws=60")
    one = cube.hops.compare("schedule", "1f1b").sel(schedule="zb")
    assert len(one.hops.table().splitlines()) == 4


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        (("iteration_time", "memory"), "no metric named 'memory'"),
        ((["iteration_time", "peak_memory"],), r"pareto needs two metrics or more, .*; got \['iteration_time', 'peak_memory'\]"),
    ],
)
def test_pareto__says_what_it_cannot(cube, metrics, sentence):
    with pytest.raises(ValueError, match=sentence):
        cube.hops.pareto(*metrics)


def test_words__of_a_part_of_a_cube_are_those_of_the_whole(cube):
    words = cube.hops.words(schedule="1f1b", pp=4)
    assert sorted(cube.sel(pp=4).hops.words(schedule="1f1b")) == sorted(words)
    assert sorted(cube.isel(pp=[1]).hops.words(schedule="1f1b")) == sorted(words)
    assert sorted(cube.sel(schedule="1f1b", pp=4).hops.words()) == sorted(words)


def test_interval__says_what_it_cannot(cube):
    with pytest.raises(ValueError, match="an interval is of one cell with its draws; of a cube pick one"):
        cube.hops.interval()
    with pytest.raises(ValueError, match="q and confidence must lie between 0 and 1, such as 0.95; got q=95"):
        hops.simulate("pp=2", *SMALL).hops.interval(q=95)
