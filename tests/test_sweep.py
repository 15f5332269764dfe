"""The command line: what lands on disk, what a user's mistakes get, and what Hydra users expect to keep working."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import hops
from hops import __main__, sweep
from hops.config import compose, make_loader
from hops.cube_sweeper import plan_sweep, register
from hops.schedules import SCHEDULES

SMALL = ["microbatches=6", "draws=20", "pp=2"]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_main_job__one_cube_and_a_table(command, tmp_path):
    code, out, err = command("-m", "schedule=1f1b,zb", "topology=dgx,pcie", *SMALL, "hydra.sweep.dir=results/main")
    assert (code, err) == (0, "")
    assert files(tmp_path) == [
        f"results/main/{name}" for name in (".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "cube.nc")
    ]
    lines = out.splitlines()
    assert lines[0].split("  ")[0] == "schedule"
    assert [line.split()[:2] for line in lines[1:5]] == [[s, t] for s in ("1f1b", "zb") for t in ("dgx", "pcie")]
    assert "note: schedule=zb is short for zb_h1" in lines
    assert max(map(len, lines)) <= 100
    cube = hops.open_cube("results/main")
    assert cube["iteration_time"].dims == ("schedule", "topology", "quantile")
    assert cube["iteration_time"].equals(hops.sweep_cube("schedule=1f1b,zb", "topology=dgx,pcie", *SMALL)["iteration_time"])


def test_sweep__without_m_is_one_cell(command):
    code, out, _ = command(*SMALL, "hydra.sweep.dir=results/one")
    assert code == 0
    assert "written: results/one/cube.nc" in out
    assert hops.open_cube("results/one")["iteration_time"].dims == ("quantile",)


def test_sweep__runs_at_the_same_time_do_not_meet(tmp_path):
    words = [sys.executable, "-m", "hops.sweep", "-m", "pp=2,3", "microbatches=3", "draws=5", "hydra.sweep.dir=results/same"]
    runs = [subprocess.Popen([*words, f"seed={seed}"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) for seed in range(2)]
    written = {re.search(r"written: (\S+)/cube.nc", run.communicate()[0])[1] for run in runs}
    assert written == {"results/same", "results/same-2"}
    assert {hops.open_cube(tmp_path / folder).attrs["seed"] for folder in written} == {"0", "1"}
    for folder in written:
        assert f"seed={hops.open_cube(tmp_path / folder).attrs['seed']}" in (tmp_path / folder / ".hydra/overrides.yaml").read_text()


def test_sweep__never_overwrites(command):
    for expected in ("results/x/cube.nc", "results/x-2/cube.nc", "results/x-3/cube.nc"):
        _, out, _ = command(*SMALL, "hydra.sweep.dir=results/x")
        assert f"written: {expected}" in out


def test_one_cell__reports_in_25_lines_and_writes_nothing(command, tmp_path):
    code, out, err = command("schedule=zb", *SMALL, main=__main__.main)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) <= 25
    for words in (
        "zb is short for zb_h1",
        "p50",
        "p95",
        "p99",
        "interval",
        "samples/s",
        "MFU",
        "bubble",
        "exposed communication",
        "tightest rank",
        "times: FLOPs",
    ):
        assert words in out
    assert files(tmp_path) == []


def test_one_cell__says_what_its_dataset_says(command):
    words = ["topology=pcie", "pp=16", "microbatches=8", "draws=300", "model.recompute=full", "schedule=zb"]
    _, out, _ = command(*words, main=__main__.main)
    cell = hops.simulate(*words)
    times = cell["iteration_time"].values
    assert len(out.splitlines()) <= 25
    assert max(map(len, out.splitlines())) <= 100
    for q in (0.5, 0.95, 0.99):
        low, high = (f"{end:.5g} s" if np.isfinite(end) else "too few draws for a bound" for end in cell.hops.interval(q=q))
        assert re.search(rf"p{100 * q:.0f} +{np.quantile(times, q):.5g} s +95 % interval \[{low}, {high}\]", out)
    assert re.search(rf"mean +{times.mean():.5g} s", out)
    assert f"{float(cell['throughput'].mean()):.4g} samples/s" in out
    assert f"{100 * float(cell['mfu'].mean()):.2f} % (HFU {100 * float(cell['hfu'].mean()):.2f} %" in out
    assert f"{100 * float(cell['bubble_fraction'].mean()):.2f} % of all ranks' time" in out
    rank = int(cell["busy_time"].values.argmax())
    assert re.search(rf"tightest rank +{rank}: busy {float(cell['busy_time'][rank]) * 1e3:.5g} ms", out)
    assert rank > 0
    size, latency, bandwidth = 2048 * 6144 * 2, 6.1e-6, 39e9  # the socket link is slower than the fabric for so large a message
    assert "slowest path between stages: SYS" in out
    assert f"takes {(latency + size / bandwidth) * 1e6:.5g} us" in out


def test_one_cell__without_noise_says_that_it_is_one_draw(command):
    _, out, _ = command("latency=none", *SMALL, main=__main__.main)
    assert "latency=none: nothing varies, so one draw was evaluated" in out


def test_one_cell__draws_its_timeline(command):
    _, out, _ = command("latency=none", "timeline=true", "pp=3", "microbatches=4", main=__main__.main)
    picture = out.splitlines()[-5:]
    assert [line[:8] for line in picture[:3]] == ["rank 0 |", "rank 1 |", "rank 2 |"]
    assert max(map(len, picture)) <= 100


MISTAKES = [
    (["schedule=1f1b1"], r"Could not find 'schedule/1f1b1'[\s\S]*1f1b\n[\s\S]*gpipe[\s\S]*did you mean '1f1b'\?"),
    (["topology=dgxx"], r"Could not find 'topology/dgxx'[\s\S]*did you mean 'dgx'\?"),
    (["latency=lognorm"], r"Could not find 'latency/lognorm'[\s\S]*did you mean 'lognormal'\?"),
    (
        ["latency.op.law=gauss"],
        r"no latency law named 'gauss'.* \(known: empirical, gamma, heavy_tail, lognormal, normal, scipy, weibull\)",
    ),
    (["microbatchs=4"], r"Could not override 'microbatchs'[\s\S]*did you mean 'microbatches'\?"),
    (["schedule.depth=2"], "Key 'depth' is not in struct"),
    (["+foo=1"], "no key named 'foo'"),
    (["microbatches=0"], "microbatches must be a whole number from 1 to 1048576; got 0"),
    (["pp=-2"], "pp must be a whole number from 1 to 2048; got -2"),
    (["pp=64"], "the model has 48 layers, too few for 64 stages"),
    (["model=explicit", "model.forward=nan"], "model.forward must be a finite number above 0; got nan"),
    (["model=explicit", "model.forward=-1"], "model.forward must be a finite number above 0; got -1"),
    (["model=explicit", "model.backward_input=0"], "model.backward_input must be a finite number above 0; got 0"),
    (["model=explicit", "model.backward_weight=inf"], "model.backward_weight must be a finite number above 0; got inf"),
    (["cp=3"], "cp=3 cuts a sequence into 6 blocks"),
    (["topology.nodes=1", "pp=9"], "dgx has 8 devices; the job needs 9"),
    (["topology.order=5"], "topology.order must be a list of device numbers"),
    (["latency.op=5"], "latency.op must be a section of keys; got 5"),
    (["~seed"], "seed must not be left out of the config"),
    (["~schedule"], "schedule must not be left out of the config"),
    (["+executor.foo=1"], "no key of executor named 'foo'"),
    (["executor.name=dask"], "no executor named 'dask'"),
    (["schedule.name=gpipe"], "schedule=1f1b and schedule.name=gpipe differ; choose one option with schedule=<name>"),
    (["microbatches=1048577"], "microbatches must be a whole number from 1 to 1048576"),
    (["draws=8e9", "pp=1", "microbatches=1"], r"draws=8000000000 need about 1.6e\+03 GB"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
@pytest.mark.parametrize("main", [sweep.main, __main__.main], ids=["sweep", "cell"])
def test_mistakes__get_a_sentence_and_exit_code_1_and_leave_nothing(command, tmp_path, words, sentence, main):
    code, out, err = command(*words, main=main)
    assert code == 1
    assert out == ""
    assert re.search(sentence, err)
    assert "Traceback" not in err
    assert "Error executing job" not in err
    assert list(tmp_path.iterdir()) == []


SWEPT_MISTAKES = [
    (["schedule=1f1b,zzz"], "Could not find 'schedule/zzz'"),
    (["latency.op.cv=interval(0,1)"], r"latency.op.cv=interval\(...\) has no discrete points, so it cannot be an axis"),
    (["microbatches=4,0"], "microbatches must be a whole number from 1 to 1048576; got 0"),
    (["microbatches=4,abc"], "microbatches must be a whole number from 1 to 1048576; got 'abc'"),
    (["model=explicit", "model.forward=1e-3,nan"], "model.forward must be a finite number above 0; got nan"),
    (["cp_comm=p2p,ring"], "no cp_comm named .ring."),
    (["microbatchs=4,8"], r"microbatchs is not a key of this config"),
    (["pp=49,64"], "no cell of the sweep can be evaluated"),
    (["pp=4,64", "hydra.sweeper.strict=true"], "the model has 48 layers, too few for 64 stages"),
    (["seed=1,1"], "seed lists 1 twice"),
    (["executor.threads=1,2"], "executor.threads cannot be an axis"),
    (["schedule=glob(nothing*)"], "names no value"),
    (["pp=4,4.0"], "pp lists 4 twice"),
    (["seed=range(0,100000000)"], "the sweep has 1048577 cells or more; at most 1048576 fit into one cube"),
    (["model={family:explicit},{family:transformer}"], "model sweeps over whole sections"),
    (["topology=uniform", "topology.latency=1,true"], "topology.latency must be a finite number at least 0; got True"),
    (["schedule=zb,1f1b", "schedule.name=gpipe"], "schedule=zb and schedule.name=gpipe differ"),
]


@pytest.mark.parametrize(("words", "sentence"), SWEPT_MISTAKES, ids=[" ".join(words) for words, _ in SWEPT_MISTAKES])
def test_mistakes__in_a_sweep_are_found_before_anything_is_evaluated(command, tmp_path, monkeypatch, words, sentence):
    monkeypatch.setattr("hops.kernels.evaluate", lambda *_: pytest.fail("evaluated"))
    code, out, err = command("-m", *words)
    assert (code, out) == (1, "")
    assert re.search(sentence, err)
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_results__a_folder_that_cannot_be_written_is_found_before_evaluating(command, tmp_path, monkeypatch):
    (tmp_path / "results").write_text("a file, not a folder")
    monkeypatch.setattr("hops.kernels.evaluate", lambda *_: pytest.fail("evaluated"))
    code, out, err = command("-m", "schedule=1f1b,zb", *SMALL)
    assert (code, out) == (1, "")
    assert re.search(r"cannot write results to results/\S+: .+ \(choose another hydra.sweep.dir\)", err)


def test_results__a_full_disk_is_a_sentence(command, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xarray.Dataset.to_netcdf", full)
    code, _, err = command("-m", "schedule=1f1b,zb", *SMALL, "hydra.sweep.dir=results/x")
    assert code == 1
    assert "cannot write results/x/cube.nc: No space left on device (choose another hydra.sweep.dir)" in err
    assert files(tmp_path) == []


def test_interrupt__while_writing_leaves_no_cube(command, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    code, out, err = command("-m", "schedule=1f1b,zb", *SMALL, "hydra.sweep.dir=results/x")
    assert (code, out) == (130, "")
    assert err == "interrupted: no cube was written\n"
    assert files(tmp_path) == []


def test_interrupt__while_the_report_is_made_says_what_there_is(command, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hops.report.write_report", interrupted)
    code, _, err = command("-m", "schedule=1f1b,zb", *SMALL, "hydra.sweep.dir=results/x", "report=true")
    assert code == 130
    assert err == "interrupted: results/x/cube.nc is written, its report is not (python -m hops.report results/x writes it)\n"


def test_interrupt__of_numba_which_fails_in_its_own_way_is_an_interrupt(command, tmp_path, monkeypatch):
    def loading(*_, **__):
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("no compiled object yet")

    monkeypatch.setattr("hops.cube.evaluate", loading)
    code, _, err = command("-m", "schedule=1f1b,zb", *SMALL, "hydra.sweep.dir=results/x")
    assert (code, err) == (130, "interrupted\n")
    assert files(tmp_path) == []


def listen_to_ctrl_c():
    """A shell starts background jobs, and all that these start, with SIGINT ignored: the child here must not be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupt__ctrl_c_while_evaluating_stops_soon(tmp_path):
    hops.sweep_cube("seed=1,2", "draws=2")  # a compilation, of which there is none left to do now, cannot be interrupted
    words = [sys.executable, "-m", "hops.sweep", "-m", "seed=range(0,3000)", "draws=100000", "hydra.sweep.dir=results/x"]
    process = subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listen_to_ctrl_c
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "results/x/.hydra/overrides.yaml").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert (out, err) == ("", "interrupted: no cube was written\n")
    assert not (tmp_path / "results/x").exists()


def test_hydra__cfg_help_and_info_keep_working(command, tmp_path):
    code, out, _ = command("--cfg", "job", "schedule=zb")
    assert code == 0
    assert "name: zb_h1" in out
    code, out, _ = command("--help")
    assert re.search(r"schedule: .*eager_1f1b, file, gpipe, hanayo", out)
    assert "python -m hops.sweep -m" in out
    code, out, _ = command("--info", "searchpath")
    assert "hops-sweeps" in out
    assert files(tmp_path) == []


def test_hydra__a_users_own_preset_in_config_dir(command, tmp_path):
    (tmp_path / "my" / "topology").mkdir(parents=True)
    (tmp_path / "my" / "topology" / "mine.yaml").write_text("name: uniform\nlatency: 1.0e-3\nbandwidth: .inf\ngpu: a100\norder: null\n")
    code, _, _ = command("--config-dir", "my", "-m", "topology=mine,dgx", *SMALL, "hydra.sweep.dir=results/x")
    assert code == 0
    assert hops.open_cube("results/x")["topology"].values.tolist() == ["mine", "dgx"]


def test_hydra__its_own_sweeper_is_an_escape(command, tmp_path):
    code, out, _ = command("-m", "hydra/sweeper=basic", "pp=2,3", "microbatches=4", "draws=5", "hydra.sweep.subdir=.", main=__main__.main)
    assert code == 0
    assert out.count("iteration time") == 2


def plan(*overrides):
    register()
    loader = make_loader()
    return plan_sweep(loader, lambda chosen: compose(loader, chosen), overrides)


def test_plan__range_choice_glob_and_lists():
    made = plan(
        "microbatches=range(4,13,4)", "seed=choice(3,1)", "schedule=glob(*)", "model=explicit", "model.forward=[1e-3,2e-3],2e-3", "pp=2"
    )
    assert [axis.name for axis in made.axes] == ["microbatches", "seed", "schedule", "forward"]
    assert made.axes[0].values == (4, 8, 12)
    assert made.axes[1].values == (3, 1)
    assert made.axes[2].values == tuple(sorted(SCHEDULES))  # every schedule once: aliases are left out
    assert made.axes[3].values == ((0.001, 0.002), 0.002)
    assert made.shape == (3, 2, len(SCHEDULES), 2)
    last = made.scenarios[-1]
    assert (last.microbatches, last.seed, last.schedule.name, last.model.forward) == (12, 1, "zb_v_auto", 0.002)


def test_plan__composes_once_per_tuple_of_group_choices():
    register()
    loader, composed = make_loader(), []

    def counting(chosen):
        composed.append(tuple(chosen))
        return compose(loader, chosen)

    made = plan_sweep(loader, counting, ["schedule=1f1b,zb", "topology=dgx,pcie", "seed=range(0,500)"])
    assert len(made.scenarios) == 2000
    assert len(composed) == 4


def test_plan__equals_full_composition():
    """10 random cells of a mixed sweep: what the plan holds is what Hydra composes for that cell alone."""
    words = {
        "schedule": ["gpipe", "zb"],
        "topology.gpu": ["a100", "h100"],
        "model": ["gpt_22b", "llama3_70b"],
        "latency.op.cv": ["0.1", "0.2"],
        "pp": ["4", "8"],
    }
    made = plan(*(f"{key}={','.join(values)}" for key, values in words.items()))
    rng = np.random.Generator(np.random.PCG64(2))
    for flat in rng.integers(0, len(made.scenarios), 10):
        at = np.unravel_index(flat, made.shape)
        alone = plan(*(f"{key}={values[i]}" for (key, values), i in zip(words.items(), at, strict=True)))
        assert alone.scenarios == (made.scenarios[flat],)


@pytest.mark.parametrize("models", ["square", "gpt_22b,square", "square,gpt_22b"])
def test_plan__a_value_that_others_refer_to_is_composed(tmp_path, command, models):
    """Whichever option comes first: its own references count, not those of the first option."""
    (tmp_path / "my" / "model").mkdir(parents=True)
    (tmp_path / "my" / "model" / "square.yaml").write_text("defaults: [gpt_22b]\nffn_hidden: ${.hidden}\n")
    words = ["--config-dir", "my", "-m", f"model={models}", "model.hidden=4096,8192", "draws=5", "hydra.sweep.dir=results/x"]
    code, _, err = command(*words)
    assert code == 0, err
    cube = hops.open_cube("results/x")
    if "," in models:
        cube = cube.sel(model="square")
    ratio = float(cube["iteration_time_mean"].sel(hidden=8192) / cube["iteration_time_mean"].sel(hidden=4096))
    assert ratio > 3.2  # 3.4 if ffn_hidden follows, 2.5 if it keeps a value that was not swept


def test_plan__plus_and_quotes_keep_working(tmp_path, command):
    (tmp_path / "my" / "experiment").mkdir(parents=True)
    for name, size in (("small", 3), ("large", 6)):
        (tmp_path / "my" / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\nmicrobatches: {size}\n")
    words = ["--config-dir", "my", "-m", "+experiment=small,large", "schedule='1f1b','zb'", "pp=2", "draws=5", "hydra.sweep.dir=results/x"]
    code, _, err = command(*words)
    assert code == 0, err
    cube = hops.open_cube("results/x")
    assert cube["iteration_time"].dims == ("experiment", "schedule", "quantile")
    ratio = cube["throughput_mean"] * cube["iteration_time_mean"]
    assert ratio.sel(experiment="large", schedule="zb") == pytest.approx(6, rel=1e-2)


def test_plan__a_default_gives_way_to_what_is_derived_and_a_typed_size_does_not():
    assert plan("global_batch_size=64").scenarios[0].microbatches == 64
    assert plan("global_batch_size=64", "microbatches=64").scenarios[0].microbatches == 64
    with pytest.raises(ValueError, match="global_batch_size=64 makes microbatches=64, but microbatches=32 is given too"):
        hops.simulate("global_batch_size=64", "microbatches=32")
    cube = hops.sweep_cube("global_batch_size=48", "microbatch_size=1,5,2", "pp=2", "draws=5")
    assert cube["evaluated"].values.tolist() == [True, False, True]
    samples = cube["throughput_mean"] * cube["iteration_time_mean"]
    assert samples.sel(microbatch_size=2) == pytest.approx(48, rel=1e-2)
    assert hops.sweep_cube("gpus=8", "pp=3,4,8", "draws=5")["evaluated"].values.tolist() == [False, True, True]


def test_plan__warns_that_times_per_rank_do_not_shrink_with_pp():
    warning = "model.per=rank: a rank's times stay as pp varies, so the model grows with it (per=model keeps it)"
    assert warning in plan("model=explicit", "pp=2,4").notes
    assert warning not in plan("model=explicit", "pp=2,4", "model.per=model").notes
    assert warning not in plan("model=explicit", "pp=4").notes


def test_plan__range_values_are_what_one_would_type():
    assert plan("latency.op.cv=range(0.05,0.25,0.05)").axes[0].values == (0.05, 0.1, 0.15, 0.2)


def test_preset__a_yaml_mistake_is_a_sentence(tmp_path, command):
    (tmp_path / "my" / "model").mkdir(parents=True)
    (tmp_path / "my" / "model" / "broken.yaml").write_text("layers: [32\n")
    code, out, err = command("--config-dir", "my", "model=broken", main=__main__.main)
    assert (code, out) == (1, "")
    assert re.search(r"broken.yaml", err)
    assert "Traceback" not in err


def test_python__mistakes_are_value_errors_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"Could not find 'schedule/1f1bb'[\s\S]*did you mean '1f1b'\?"):
        hops.simulate("schedule=1f1bb")
    with pytest.raises(ValueError, match=r"overrides are strings such as 'pp=4', one an argument; got \(\['pp=2'\],\)"):
        hops.sweep_cube(["pp=2"])


def test_python__one_cell_refuses_a_sweep():
    with pytest.raises(ValueError, match="schedule is swept, but this evaluates one cell"):
        hops.simulate("schedule=1f1b,zb")


def test_python__leaves_the_hydra_of_a_notebook_alone():
    from hydra import initialize
    from hydra.core.global_hydra import GlobalHydra

    with initialize(version_base="1.3", config_path=None):
        theirs = GlobalHydra.instance().hydra
        hops.simulate(*SMALL)
        assert GlobalHydra.instance().hydra is theirs


def test_timeline__columns_and_draw():
    frame = hops.timeline(*SMALL, "schedule=zb", draw=3)
    assert list(frame.columns) == ["rank", "op", "stage", "kind", "microbatch", "start", "end"]
    assert len(frame) == 2 * 6 * 3
    cell = hops.simulate(*SMALL, "schedule=zb")
    assert frame["end"].max() == float(cell["makespan"][3])
    assert (frame["end"] > frame["start"]).all()
    with pytest.raises(ValueError, match="draw must be a whole number from 0 to 19; got 20"):
        hops.timeline(*SMALL, draw=20)


def test_python__a_sample_that_changed_is_read_anew(tmp_path):
    file = tmp_path / "sample.txt"
    words = ("latency=empirical", f"latency.op.file={file}", "draws=50", "microbatches=2", "pp=2")
    file.write_text("1 1.1")
    before = hops.simulate(*words)
    file.write_text("1 9")
    after = hops.simulate(*words)
    assert float(after.iteration_time.std()) > 5 * float(before.iteration_time.std())
    assert before.attrs["samples"].startswith(f"{file}: blake2b ")
    assert before.attrs["samples"] != after.attrs["samples"]


def test_zip__axes_advance_together_in_one_dim(command, tmp_path):
    words = ["-m", "pp=2,4", "microbatches=4,8", "schedule=1f1b,zb", "draws=5", "hydra.sweep.dir=results/x"]
    code, out, err = command(*words, "hydra.sweeper.zip=[[pp,microbatches]]")
    assert code == 0, err
    assert out.splitlines()[0].split()[:3] == ["pp", "microbatches", "schedule"]
    cube = hops.open_cube("results/x")
    assert cube["iteration_time"].dims == ("pp_microbatches", "schedule", "quantile")
    assert cube["pp"].dims == cube["microbatches"].dims == ("pp_microbatches",)
    assert cube["microbatches"].attrs["hydra_key"] == "microbatches"
    alone = hops.simulate("pp=4", "microbatches=8", "schedule=zb", "draws=5")
    found = cube.swap_dims(pp_microbatches="pp").sel(pp=4, schedule="zb")
    assert float(found["iteration_time_mean"]) == float(alone["iteration_time"].mean())
    flat = hops.sweep_cube("pp=2,4", "microbatches=4,8", "schedule=1f1b,zb", "draws=5", "hydra.sweeper.zip=[pp,microbatches]")
    assert flat.drop_attrs().equals(cube.drop_attrs())


def test_zip__options_of_groups_advance_together_too():
    words = ("schedule=1f1b,zb", "topology=dgx,pcie", "pp=2", "draws=5")
    cube = hops.sweep_cube(*words, "hydra.sweeper.zip=[[topology,schedule]]")
    every = hops.sweep_cube(*words)
    assert dict(cube["evaluated"].sizes) == {"topology_schedule": 2}
    for i, name in enumerate(("1f1b", "zb")):
        one, all_ = cube.isel(topology_schedule=i), every.sel(schedule=name, topology=["dgx", "pcie"][i])
        assert (one["iteration_time"].values == all_["iteration_time"].values).all()


@pytest.mark.parametrize(
    ("zipped", "sentence"),
    [
        ("[[pp,microbatches]]", "equally many values, but pp has 2 values, microbatches has 3 values"),
        ("[[pp,micro]]", "no axis of this sweep .* named 'micro'"),
        ("[[pp],[pp]]", "pp may stand in it once"),
        ("[[topology.nodes,p2p]]", "topology.nodes with p2p lists 8, channel twice; each combination may stand once"),
        ("[[seed,pp]]", "no axis of this sweep .* named 'seed'"),
    ],
)
def test_zip__what_cannot_advance_together_is_refused(zipped, sentence):
    with pytest.raises(ValueError, match=sentence):
        hops.sweep_cube("pp=2,4", "microbatches=4,8,12", "topology.nodes=8,8", "p2p=channel,channel", f"hydra.sweeper.zip={zipped}")


def test_keys__that_only_one_option_has_mask_the_cells_of_the_others(capsys):
    cube = hops.sweep_cube("schedule=1f1b,interleaved", "schedule.group_size=4,8", "pp=4", "microbatches=8", "draws=5")
    assert cube["evaluated"].values.tolist() == [[False, False], [True, True]]
    assert "2 of 4 cells left out: schedule.group_size is not a key with schedule=1f1b" in capsys.readouterr().err
    fixed = hops.sweep_cube("schedule=1f1b,interleaved", "schedule.group_size=8", "pp=4", "microbatches=8", "draws=5")
    assert fixed["evaluated"].values.tolist() == [False, True]
    assert float(fixed["makespan_mean"][1]) == float(cube["makespan_mean"][1, 1])
    assert "group_size: 8" in fixed.attrs["config"]
    for words in (["schedule.group_sise=4,8"], ["schedule.group_sise=4"]):
        with pytest.raises(ValueError, match="schedule.group_sise is not a key of this config"):
            hops.sweep_cube("schedule=1f1b,interleaved", *words)


def test_keys__that_the_default_option_lacks_go_as_an_axis_of_one_value(command, monkeypatch):
    words = ["-m", "schedule=1f1b,interleaved", "pp=4", "microbatches=8", "draws=5"]
    monkeypatch.setattr(sys, "argv", ["hops-sweep", *words])
    code, _, err = command(*words, "schedule.group_size=8")
    assert code == 1
    assert "a key that only other options of schedule have goes as an axis of one value: choice(...)" in err
    code, out, _ = command(*words, "schedule.group_size=choice(8)")
    assert code == 0
    assert out.split()[0:2] == ["schedule", "group_size"]


def test_experiment__is_a_question_from_sweeps_however_it_is_asked(command):
    words = ["draws=5", "microbatches=8", "pp=2"]
    expected = hops.sweep_cube("schedule=gpipe,1f1b,zb_h1,zb_h2", *words).drop_attrs()
    assert hops.sweep_cube("+experiment=schedule_by_microbatches", *words).drop_attrs().equals(expected)
    for n, how in enumerate((["-cn", "schedule_by_microbatches"], ["+experiment=schedule_by_microbatches"])):
        for m, flag in enumerate(([], ["-m"])):
            code, _, err = command(*flag, *how, *words, f"hydra.sweep.dir=results/{n}{m}")
            assert code == 0, err
            assert hops.open_cube(f"results/{n}{m}").drop_attrs().equals(expected)


def test_sections__given_whole_keep_the_keys_that_they_do_not_name():
    """As Hydra merges them, also where the option of their group is swept."""
    small = ("pp=4", "microbatches=4", "draws=20")
    cube = hops.sweep_cube("latency=lognormal,gamma", "latency.op={cv: 0.2}", *small)
    alone = hops.simulate("latency=lognormal", "latency.op={cv: 0.2}", *small)
    assert float(cube["iteration_time_std"][0]) == alone["iteration_time"].values.std(ddof=1) > 0
    tall, whole = (
        hops.simulate("model=llama3_405b", "model={layers: 24}", *small),
        hops.simulate("model=llama3_405b", "model.layers=24", *small),
    )
    assert (tall["iteration_time"] == whole["iteration_time"]).all()
    both = hops.sweep_cube("model=gpt_22b,llama3_405b", "model={layers: 24}", *small)
    assert both["model"].values.tolist() == ["gpt_22b", "llama3_405b"]


def test_laws__a_parameter_of_one_law_means_nothing_to_the_others_of_a_sweep(tmp_path):
    (tmp_path / "sample.txt").write_text("1.0 1.1 1.3")
    file = f"latency.op.file={tmp_path}/sample.txt"
    small = ("pp=2", "microbatches=4", "draws=20")
    cube = hops.sweep_cube("latency=lognormal,empirical,none", file, "latency.op.cv=0.3", *small)
    assert bool(cube["evaluated"].all())
    for name, words in (("lognormal", ["latency.op.cv=0.3"]), ("empirical", [file])):
        alone = hops.simulate(f"latency={name}", *words, *small)
        assert float(cube["makespan_mean"].sel(latency=name)) == float(alone["makespan"].mean())
    by_law = hops.sweep_cube("latency.op.law=lognormal,empirical", file, *small)
    assert by_law["makespan_mean"].values[1] == cube["makespan_mean"].sel(latency="empirical").values
    masked = hops.sweep_cube("latency=glob(*)", "latency.op.cv=0.1", *small)
    assert masked["evaluated"].sel(latency=["gamma", "empirical"]).values.tolist() == [True, False]
    with pytest.raises(ValueError, match="latency.op.cv has no meaning for law empirical"):
        hops.simulate("latency=empirical", file, "latency.op.cv=0.1")
    shapes = hops.sweep_cube("latency=scipy", "latency.op.distribution=gamma", "latency.op.parameters.a=4,400", *small)
    assert float(shapes["makespan_std"][0]) > 5 * float(shapes["makespan_std"][1])


def test_questions__an_axis_can_be_given_one_value(command):
    code, out, err = command("-cn", "when_interleaving_pays", "vpp=2", "schedule=interleaved", "draws=5", "microbatches=8")
    assert code == 0, err
    assert out.splitlines()[0].split()[0] == "bandwidth"
    code, out, err = command("-cn", "noise_until_zero_bubble_loses", "latency.rank.cv=0", "draws=5", "microbatches=4")
    assert code == 0, err
    assert out.splitlines()[0].split()[:2] == ["schedule", "cv"]


def test_questions__with_defaults_of_their_own_are_the_same_by_either_name(tmp_path, monkeypatch):
    from hops import config

    text = "# What?\ndefaults: [config, override schedule: zb_h1, override latency: none, _self_]\nmodel: {efficiency: 5e-1}\n"
    (tmp_path / "mine.yaml").write_text(text + "hydra: {sweeper: {params: {pp: '2,4'}}}\n")
    monkeypatch.setattr(config, "folder", lambda name, real=config.folder: tmp_path if name == "sweeps" else real(name))
    cube = hops.sweep_cube("+experiment=mine", "microbatches=4")
    expected = hops.sweep_cube("pp=2,4", "schedule=zb_h1", "latency=none", "model.efficiency=0.5", "microbatches=4")
    assert cube.drop_attrs().equals(expected.drop_attrs())


def test_zip__its_dim_is_called_like_no_other_axis():
    words = ("topology=uniform,dgx", "latency=none,lognormal", "topology.latency=1e-6,2e-6", "draws=5", "microbatches=4")
    cube = hops.sweep_cube(*words, "hydra.sweeper.zip=[[topology,latency]]")
    assert cube["makespan_mean"].dims == ("topology_latency_zip", "topology_latency")
    assert cube["evaluated"].values.tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("words", ["seed=${model.layers}", "+extra=${schedule.name}${topology.name}"])
def test_plan__keys_that_refer_to_several_swept_groups_are_composed(words):
    axes = ("schedule=1f1b,zb", "topology=dgx,pcie", "model=gpt_22b,gpt_1t,gpt3_175b")
    if words.startswith("+"):
        with pytest.raises(ValueError, match="no key named 'extra'"):
            plan(*axes, words)
    else:
        made = plan(*axes, words)
        assert [made.scenarios[i].seed for i in (0, 1, 2)] == [48, 128, 96]


def test_term__that_is_null_is_off(command):
    code, out, _ = command("latency.op=null", "microbatches=4", main=__main__.main)
    assert code == 0
    assert "nothing varies" in out


def test_zip__a_value_may_stand_more_than_once_where_the_combination_does_not():
    cube = hops.sweep_cube("pp=2,2,4", "microbatches=4,8,8", "draws=2", "hydra.sweeper.zip=[[pp,microbatches]]")
    assert cube["pp"].values.tolist() == [2, 2, 4]
    assert bool(cube["evaluated"].all())
