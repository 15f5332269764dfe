"""Cubes: dimensions, gaps, provenance, files that are whole or absent."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import hops
from hops import cube as cube_module
from hops import executor, sweep
from hops.cube import attribute_text, check_file, open_cube, write_cube
from hops.plan import prepare_plan
from hops.recipes import plan_of_words
from hops.variables import VARIABLES, attributes

SMALL = ("microbatches=6", "draws=20")


@pytest.fixture(scope="module")
def cube():
    return hops.sweep_cube("topology=dgx,pcie", "schedule=1f1b,zb", "pp=2,4", "microbatches=6", "draws=20")


def test_cube__dims_in_the_order_typed(cube):
    assert cube["iteration_time"].dims == ("topology", "schedule", "pp", "quantile")
    assert cube["busy_time"].dims == ("topology", "schedule", "pp", "rank")
    assert cube["iteration_time_standard_error"].dims == ("topology", "schedule", "pp")
    assert cube["schedule"].values.tolist() == ["1f1b", "zb"]
    assert cube["pp"].attrs["hydra_key"] == "pp"
    assert cube.sizes["rank"] == 4
    assert np.isnan(cube["busy_time"].sel(pp=2, rank=3)).all()
    assert bool(cube["evaluated"].all())


def test_cube__a_cell_is_the_cell_alone(cube):
    cell = hops.simulate("topology=pcie", "schedule=zb", "pp=4", *SMALL)
    found = cube.sel(topology="pcie", schedule="zb", pp=4)
    for name in ("iteration_time", "throughput", "mfu"):
        assert (found[name].values == np.quantile(cell[name].values, cube["quantile"].values)).all()
        assert float(found[f"{name}_mean"]) == float(cell[name].values.mean())
        assert float(found[f"{name}_std"]) == cell[name].values.std(ddof=1)
    for name in ("busy_time", "busy_time_std", "exposed_communication", "utilization", "peak_in_flight"):
        assert (found[name].values == cell[name].values).all()


def test_cube__every_variable_says_what_it_is(cube):
    for name in cube.data_vars:
        if name not in ("evaluated", "fits", "shared_links"):
            assert cube[name].attrs == attributes(str(name))
            assert {"long_name", "units"} <= set(cube[name].attrs)
    assert {name for name in VARIABLES if name in cube} == {name for name, each in VARIABLES.items() if not each.per.startswith("trial")}


def test_cube__provenance_recreates_it(cube):
    assert cube.attrs["overrides"].splitlines() == ["topology=dgx,pcie", "schedule=1f1b,zb", "pp=2,4", "microbatches=6", "draws=20"]
    assert "hidden: 6144" in cube.attrs["config"]
    assert cube.attrs["seed"] == "0"
    assert {"hops_version", "numba_version", "created_utc", "python"} <= set(cube.attrs)
    again = hops.sweep_cube(*cube.attrs["overrides"].splitlines())
    assert again.drop_attrs().identical(cube.drop_attrs())


def test_cube__round_trips_through_its_file(cube, tmp_path):
    write_cube(cube, tmp_path / "cube.nc")
    back = hops.open_cube(tmp_path)
    for name in cube.variables:
        assert (back[name].values == cube[name].values).all() or np.array_equal(back[name].values, cube[name].values, equal_nan=True)
        assert back[name].dims == cube[name].dims
    assert back.attrs == cube.attrs
    assert back["evaluated"].dtype == bool
    assert xr.open_dataset(tmp_path / "cube.nc").sel(schedule="zb", topology="dgx").sizes["pp"] == 2


def test_cube__cells_that_do_not_fit_are_masked_with_a_reason(capsys):
    cube = hops.sweep_cube("pp=64,4,49,2", "draws=5", "microbatches=4")
    assert cube["evaluated"].values.tolist() == [False, True, False, True]
    assert np.isnan(cube["iteration_time"].sel(pp=[64, 49])).all()
    for pp in (4, 2):
        alone = hops.simulate(f"pp={pp}", "draws=5", "microbatches=4")
        assert float(cube["iteration_time_mean"].sel(pp=pp)) == float(alone["iteration_time"].mean())
        assert (cube["busy_time"].sel(pp=pp)[:pp].values == alone["busy_time"].values).all()
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "2 of 4 cells left out, for instance: the model has 48 layers, too few for 64 stages (try pp=48 or fewer)",
    ]


def test_cube__no_cell_left_is_refused():
    with pytest.raises(ValueError, match="no cell of the sweep can be evaluated"):
        hops.sweep_cube("pp=49,64")
    with pytest.raises(ValueError, match="the model has 48 layers, too few for 64 stages"):
        hops.simulate("pp=64")


def test_cube__explicit_times_and_transformers_side_by_side():
    """A metric that only some cells have (mfu) is NaN in the others, whichever batch comes first."""
    for order in ("explicit,gpt_22b", "gpt_22b,explicit"):
        cube = hops.sweep_cube(f"model={order}", "latency=none,lognormal", *SMALL)
        assert cube["mfu"].sel(model="explicit").isnull().all()
        assert cube["mfu"].sel(model="gpt_22b").notnull().all()
        assert (cube["iteration_time_std"].sel(latency="none") == 0).all()
        assert (cube["iteration_time_std"].sel(latency="lognormal") > 0).all()


def test_axes__names_labels_and_types():
    cube = hops.sweep_cube("model=explicit", "model.forward=1e-3,[1e-3,2e-3]", "pp=2", "topology.nodes=null,1", "seed=0,4294967295", *SMALL)
    assert cube["iteration_time"].dims == ("forward", "nodes", "seed", "quantile")
    assert cube["forward"].values.tolist() == ["0.001", "[0.001,0.002]"]
    assert cube["nodes"].values.tolist() == ["null", "1"]
    assert cube["seed"].values.tolist() == [0.0, 4294967295.0]
    assert cube["forward"].attrs["hydra_key"] == "model.forward"


def test_axes__short_names_that_collide_are_written_out():
    cube = hops.sweep_cube("latency=none,lognormal", "topology=uniform", "topology.latency=0,1e-3", *SMALL)
    assert cube["iteration_time"].dims == ("latency", "topology_latency", "quantile")


def test_attributes__as_netcdf_3_takes_them():
    assert attribute_text({"a": ["x", "y"], "b": None, "seed": 2**40}) == {"a": "x\ny", "seed": str(2**40)}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "no cube at"),
        (lambda path: path.write_bytes(b"not a cube"), "is not a readable netCDF file"),
        (lambda path: xr.Dataset({"x": 1.0}).to_netcdf(path, engine="scipy"), "is no HOPS cube; this version reads format 1"),
        (lambda path: xr.Dataset(attrs={"hops_format": "99"}).to_netcdf(path, engine="scipy"), "is a HOPS cube of format 99"),
    ],
)
def test_open_cube__refuses_what_is_none(tmp_path, make, sentence):
    make(tmp_path / "cube.nc")
    with pytest.raises(ValueError, match=sentence):
        hops.open_cube(tmp_path)


def test_open_cube__refuses_a_truncated_file(cube, tmp_path):
    write_cube(cube, tmp_path / "cube.nc")
    whole = (tmp_path / "cube.nc").read_bytes()
    for length in (10, 200, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cube.nc").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="is not a readable netCDF file"):
            hops.open_cube(tmp_path)


def test_write__a_failure_leaves_the_old_file_and_no_other(cube, tmp_path, monkeypatch):
    path = tmp_path / "cube.nc"
    write_cube(cube, path)
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_cube(cube.assign_attrs(title="new"), path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["cube.nc"]


WRITER = """
import os, sys, numpy as np, xarray as xr
from pathlib import Path
from hops.cube import FORMAT, write_cube
big = xr.Dataset({"x": ("n", np.full(12_500_000, 7.0))}, attrs={"hops_format": FORMAT})  # 100 MB
print("ready", flush=True)
for path in sys.stdin:
    child = os.fork()
    if not child:
        while True:
            write_cube(big, Path(path.strip()))
    print(child, flush=True)
    os.waitpid(child, 0)
"""


def test_write__killed_at_any_moment_leaves_a_whole_file_or_none(tmp_path):
    """A writer of 100 MB cubes is killed at 12 random moments of its first or a later write; what stands at the path is whole."""
    rng = np.random.Generator(np.random.PCG64(1))
    stood, in_the_middle = [], []
    with subprocess.Popen([sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        for i in range(12):
            path = tmp_path / str(i) / "cube.nc"
            path.parent.mkdir()
            print(path, file=parent.stdin, flush=True)
            writer = int(parent.stdout.readline())
            while not list(path.parent.iterdir()) or (i >= 6 and not path.exists()):
                time.sleep(0.001)  # a temporary file stands there, or (from the seventh on) a first cube
            time.sleep(rng.uniform(0, 0.15))
            os.kill(writer, signal.SIGKILL)
            while Path(f"/proc/{writer}").exists():
                time.sleep(0.001)
            if path.exists():
                assert (hops.open_cube(path)["x"].values == 7.0).all()
            others = [each for each in path.parent.iterdir() if each != path]
            assert all(each.name.startswith(".cube.nc.tmp-") for each in others)
            stood.append(path.exists())
            in_the_middle.append(bool(others))
            shutil.rmtree(path.parent)
        parent.stdin.close()
    assert all(stood[6:])
    assert sum(in_the_middle) >= 6  # else this would prove little


def test_write__goes_through_a_temporary_name(cube, tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr(os, "replace", lambda a, b: moved.append((Path(a), Path(b), Path(b).exists())) or Path(a).rename(b))
    write_cube(cube, tmp_path / "cube.nc")
    ((source, goal, existed),) = moved
    assert source.parent == goal.parent
    assert source.name != goal.name
    assert not existed


def test_accessor__table_and_interval(cube):
    assert cube.hops.table().splitlines()[0].split()[:3] == ["topology", "schedule", "pp"]
    cell = hops.simulate(*SMALL)
    low, high = cell.hops.interval("iteration_time", 0.5)
    assert low < float(cell["iteration_time"].median()) < high
    with pytest.raises(ValueError, match="a table needs a cube"):
        cell.hops.table()
    with pytest.raises(ValueError, match=r"no metric with a draw dimension named 'iteration_tim'; did you mean 'iteration_time'\?"):
        cell.hops.interval("iteration_tim")


def test_table__long_sweeps_show_the_fastest():
    table = hops.sweep_cube("microbatches=range(2,40)", "pp=2", "latency=none").hops.table().splitlines()
    assert table[0] == "the 20 of 38 cells with the highest throughput; all are in the cube"
    assert len(table) == 23
    assert table[-1] == "note: * more memory than the GPU has"
    assert table[2].split()[0] == "39"


def test_table__fits_100_columns_however_many_axes():
    axes = ["schedule", "topology", "latency", "model", "p2p", "microbatch_size"]
    cube = hops.sweep_cube("schedule=1f1b,zb_h1", "topology=dgx,pcie", "latency=none,lognormal", "model=gpt_22b,llama3_70b",
                           "p2p=latency,channel", "microbatch_size=1,2", "microbatches=4", "draws=3", "pp=2")  # fmt: skip
    lines = cube.hops.table().splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[1].split()[:6] == axes


def test_statistics__a_metric_that_a_cell_does_not_have_has_no_deviation_either():
    cube = hops.sweep_cube("model=explicit,gpt_22b", "latency=none", *SMALL)
    for suffix in ("_mean", "_std", "_standard_error"):
        assert np.isnan(cube[f"mfu{suffix}"].sel(model="explicit"))
    assert float(cube["mfu_std"].sel(model="gpt_22b")) == 0.0


def test_axes__numbers_too_large_for_netcdf_3_become_text_before_anything_is_evaluated():
    cube = hops.sweep_cube(
        "model=explicit", "topology=uniform", "topology.bandwidth=inf", f"model.p2p_bytes=0,{2 * 10**19}", "pp=2", *SMALL
    )
    assert cube["p2p_bytes"].values.tolist() == ["0", "20000000000000000000"]


def test_provenance__says_that_a_new_file_is_not_of_the_commit(tmp_path, monkeypatch):
    from hops import cube as module

    here = tmp_path / "hops"
    here.mkdir()
    (here / "cube.py").write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(module, "__file__", str(here / "cube.py"))
    assert module._git()["git_dirty"] == "no"
    (here / "mine.py").write_text("a schedule of my own")
    assert module._git()["git_dirty"] == "yes"
    monkeypatch.setattr(module, "__file__", str(here / "mine.py"))
    assert module._git() == {}


def test_quantiles__are_those_asked_for():
    cube = hops.sweep_cube("pp=2,3", "output.quantiles=[0.999,0.5,0.1]", *SMALL)
    assert cube["quantile"].values.tolist() == [0.1, 0.5, 0.999]
    cell = hops.simulate("pp=3", *SMALL)
    assert (cube["iteration_time"].sel(pp=3).values == np.quantile(cell["iteration_time"].values, [0.1, 0.5, 0.999])).all()
    assert cube.hops.table().splitlines()[0].split()[1:5] == ["p50", "[s]", "p99.9", "[s]"]


@pytest.mark.parametrize("asked", ["[]", "0.5", "[0.5,1.5]", "[0.5,nan]", "[0.5,true]", "null", "[a]"])
def test_quantiles__refuses_what_is_none(asked):
    with pytest.raises(ValueError, match="output.quantiles must list numbers from 0 to 1"):
        hops.simulate(f"output.quantiles={asked}")
    with pytest.raises(ValueError, match="output.quantiles must include 0.5"):
        hops.simulate("output.quantiles=[0.9]")


def test_cube__kept_draws_are_those_of_the_cells_alone(tmp_path):
    words = ("microbatches=4", "draws=30", "output.keep=draws")
    cube = hops.sweep_cube("pp=2,3", "latency=none,lognormal", *words)
    assert cube["iteration_time"].dims == ("pp", "latency", "draw")
    assert cube["busy_time"].dims == ("pp", "latency", "draw", "rank")
    assert "quantile" not in cube.dims
    assert "busy_time_std" not in cube
    assert cube["busy_time"].attrs["long_name"] == "computing time of a rank in an iteration"
    for pp in (2, 3):
        cell = hops.simulate(f"pp={pp}", *words)
        mine = cube.sel(pp=pp, latency="lognormal")
        for name in ("iteration_time", "busy_time", "exposed_communication", "utilization"):
            ours = mine[name].isel(rank=slice(pp)) if "rank" in mine[name].dims else mine[name]
            assert (ours.values == cell[name].values).all()
        assert mine.hops.interval("iteration_time", 0.5) == cell.hops.interval("iteration_time", 0.5)
    certain = cube.sel(latency="none")
    assert (certain["iteration_time"].count("draw") == 1).all()  # nothing varies: one draw says it all
    assert np.isnan(cube["busy_time"].sel(pp=2).isel(rank=2)).all()
    quantiles = hops.sweep_cube("pp=2,3", "latency=none,lognormal", "microbatches=4", "draws=30")
    assert cube.hops.table() == quantiles.hops.table()
    write_cube(cube, tmp_path / "cube.nc")
    assert open_cube(tmp_path).drop_attrs().equals(cube.drop_attrs())


def test_file__that_cannot_hold_a_variable_is_refused_before_anything_is_evaluated(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hops-sweep", "-m", "pp=2,3", "microbatches=4", "draws=30", "output.keep=draws"])
    monkeypatch.setattr(cube_module, "MOST_BYTES", 1000)
    with pytest.raises(SystemExit):
        sweep.main()
    assert list(tmp_path.iterdir()) == []
    assert hops.sweep_cube("pp=2,3", "microbatches=4", "draws=30", "output.keep=draws").sizes["draw"] == 30  # no file, no limit
    with pytest.raises(ValueError, match="2 cells, 30 draws and 3 ranks make variables of .* GB; a netCDF file holds"):
        check_file(prepare_plan(plan_of_words(("pp=2,3", "microbatches=4", "draws=30", "output.keep=draws"), sweep=True)))


def test_memory__kept_draws_count_all_cells(monkeypatch):
    monkeypatch.setattr(executor, "KEPT_PER_RANK", 10**9)
    with pytest.raises(ValueError, match="draws=30 need about .* GB for output.keep=draws of 2 cells; this machine has"):
        hops.sweep_cube("pp=2,3", "microbatches=4", "draws=30", "output.keep=draws")
    assert hops.sweep_cube("pp=2,3", "microbatches=4", "draws=30").sizes["quantile"] == 5
