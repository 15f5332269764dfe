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

SMALL = ["microbatches=6", "draws=20", "pp=2"]


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run a command line in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words, main=sweep.main):
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr(sys, "argv", ["hops", *words])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


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


def test_sweep__never_overwrites(command):
    for expected in ("results/x/cube.nc", "results/x-2/cube.nc", "results/x-3/cube.nc"):
        _, out, _ = command(*SMALL, "hydra.sweep.dir=results/x")
        assert f"written: {expected}" in out


def test_one_cell__reports_in_25_lines_and_writes_nothing(command, tmp_path):
    code, out, err = command("schedule=zb", *SMALL, main=__main__.main)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) <= 25
    assert max(map(len, out.splitlines())) <= 110
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


def test_one_cell__without_noise_says_that_it_is_one_draw(command):
    _, out, _ = command("latency=none", *SMALL, main=__main__.main)
    assert "latency=none: nothing varies, so one draw was evaluated" in out


def test_one_cell__draws_its_timeline(command):
    _, out, _ = command("latency=none", "timeline=true", "pp=3", "microbatches=4", main=__main__.main)
    picture = out.splitlines()[-5:]
    assert [line[:8] for line in picture[:3]] == ["rank 0 |", "rank 1 |", "rank 2 |"]
    assert max(map(len, picture)) <= 100


MISTAKES = [
    (["schedule=1f1b1"], r"Could not find 'schedule/1f1b1'[\s\S]*1f1b\n\s*gpipe[\s\S]*did you mean '1f1b'\?"),
    (["topology=dgxx"], r"Could not find 'topology/dgxx'[\s\S]*did you mean 'dgx'\?"),
    (["latency=lognorm"], r"Could not find 'latency/lognorm'[\s\S]*did you mean 'lognormal'\?"),
    (["latency.op.law=gauss"], r"no latency law named 'gauss' \(known: lognormal\)"),
    (["microbatchs=4"], r"Could not override 'microbatchs'[\s\S]*did you mean 'microbatches'\?"),
    (["schedule.depth=2"], "Key 'depth' is not in struct"),
    (["+foo=1"], "no key named 'foo'"),
    (["microbatches=0"], "microbatches must be a whole number of at least 1; got 0"),
    (["pp=-2"], "pp must be a whole number of at least 1; got -2"),
    (["pp=64"], "the model has 48 layers, too few for 64 stages"),
    (["model=explicit", "model.forward=nan"], "model.forward must be a finite number above 0; got nan"),
    (["model=explicit", "model.forward=-1"], "model.forward must be a finite number above 0; got -1"),
    (["model=explicit", "model.backward_input=0"], "model.backward_input must be a finite number above 0; got 0"),
    (["model=explicit", "model.backward_weight=inf"], "model.backward_weight must be a finite number above 0; got inf"),
    (["tp=2"], "tp=2 is not modelled yet"),
    (["topology.nodes=1", "pp=9"], "dgx has 8 devices; pp=9 needs 9"),
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
    (["microbatches=4,0"], "microbatches must be a whole number of at least 1; got 0"),
    (["microbatches=4,abc"], "microbatches must be a whole number of at least 1; got 'abc'"),
    (["model=explicit", "model.forward=1e-3,nan"], "model.forward must be a finite number above 0; got nan"),
    (["tp=1,2"], "tp=2 is not modelled yet"),
    (["microbatchs=4,8"], r"microbatchs is not a key of this config"),
    (["pp=49,64"], "no cell of the sweep can be evaluated"),
    (["pp=4,64", "hydra.sweeper.strict=true"], "the model has 48 layers, too few for 64 stages"),
    (["seed=1,1"], "seed lists 1 twice"),
    (["executor.threads=1,2"], "executor.threads cannot be an axis"),
    (["schedule=glob(nothing*)"], "names no value"),
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
    assert "results/x/cube.nc" not in files(tmp_path)


def test_interrupt__while_writing_leaves_no_cube(command, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    code, out, err = command("-m", "schedule=1f1b,zb", *SMALL, "hydra.sweep.dir=results/x")
    assert (code, out) == (130, "")
    assert err == "interrupted: no cube was written\n"
    assert not [name for name in files(tmp_path) if "cube.nc" in name]


def test_interrupt__ctrl_c_while_evaluating_stops_soon(tmp_path):
    words = [sys.executable, "-m", "hops.sweep", "-m", "seed=range(0,100000)", "draws=100000", "hydra.sweep.dir=results/x"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "results/x/.hydra/overrides.yaml").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (out, err) == ("", "interrupted: no cube was written\n")


def test_hydra__cfg_help_and_info_keep_working(command, tmp_path):
    code, out, _ = command("--cfg", "job", "schedule=zb")
    assert code == 0
    assert "name: zb_h1" in out
    code, out, _ = command("--help")
    assert "schedule: 1f1b, gpipe, zb, zb_h1, zb_h2" in out
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
    assert made.axes[2].values == ("1f1b", "gpipe", "zb_h1", "zb_h2")  # every schedule once: aliases are left out
    assert made.axes[3].values == ((0.001, 0.002), 0.002)
    assert made.shape == (3, 2, 4, 2)
    last = made.scenarios[-1]
    assert (last.microbatches, last.seed, last.schedule.name, last.model.forward) == (12, 1, "zb_h2", 0.002)


def test_plan__composes_once_per_tuple_of_group_choices():
    register()
    loader, composed = make_loader(), []

    def counting(chosen):
        composed.append(tuple(chosen))
        return compose(loader, chosen)

    made = plan_sweep(loader, counting, ["schedule=1f1b,zb", "topology=dgx,pcie", "seed=range(0,500)"])
    assert len(made.scenarios) == 2000
    assert len(composed) == 5  # four tuples, and one look at the first


def test_plan__equals_full_composition():
    """20 random cells of a mixed sweep: what the plan holds is what Hydra composes for that cell alone."""
    words = {
        "schedule": ["gpipe", "zb"],
        "topology.gpu": ["a100", "h100"],
        "model": ["gpt_22b", "llama3_70b"],
        "latency.op.cv": ["0.1", "0.2"],
        "pp": ["4", "8"],
    }
    made = plan(*(f"{key}={','.join(values)}" for key, values in words.items()))
    rng = np.random.Generator(np.random.PCG64(2))
    for flat in rng.integers(0, len(made.scenarios), 20):
        at = np.unravel_index(flat, made.shape)
        alone = plan(*(f"{key}={values[i]}" for (key, values), i in zip(words.items(), at, strict=True)))
        assert alone.scenarios == (made.scenarios[flat],)


def test_plan__a_value_that_others_refer_to_is_composed(tmp_path, monkeypatch, command):
    (tmp_path / "my" / "model").mkdir(parents=True)
    text = "defaults: [gpt_22b]\nffn_hidden: ${.hidden}\n"
    (tmp_path / "my" / "model" / "square.yaml").write_text(text)
    code, _, err = command("--config-dir", "my", "-m", "model=square", "model.hidden=4096,8192", "draws=5", "hydra.sweep.dir=results/x")
    assert code == 0, err
    cube = hops.open_cube("results/x")
    ratio = float(cube["iteration_time_mean"].sel(hidden=8192) / cube["iteration_time_mean"].sel(hidden=4096))
    assert ratio > 3.2  # 3.4 if ffn_hidden follows, 2.5 if it keeps the value of the first cell


def test_python__one_cell_refuses_a_sweep():
    with pytest.raises(ValueError, match="schedule has several values, but this evaluates one cell"):
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
    with pytest.raises(ValueError, match="draw must be from 0 to 19; got 20"):
        hops.timeline(*SMALL, draw=20)
