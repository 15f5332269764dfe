"""The report: a page that holds all it shows, says what the cube says, and stands up to whatever a cube may have."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest

import hops
from hops import report
from hops.__main__ import main as cell_main
from hops.cube import cube_dataset
from hops.plan import prepare_plan
from hops.recipes import plan_of, plan_of_words
from hops.report_data import report_data

SMALL = ("pp=2", "microbatches=4", "draws=40")


def made(path, *words):
    """A report of a sweep: its data, its page and the names of its pictures."""
    prepared = prepare_plan(plan_of_words((*SMALL, *words), sweep=True))
    written = report.write_report(cube_dataset(prepared), prepared, path, "name")
    page = written[0].read_text()
    return (
        json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1]),
        page,
        {each.stem for each in written},
    )


def test_page__holds_all_that_it_shows(tmp_path):
    data, page, pictures = made(tmp_path, "schedule=1f1b,zb", "topology=dgx,pcie")
    assert not re.search(r"https?:|src=|href=|@import|url\(|fetch\(|XMLHttp", page)
    axes = [
        {"name": "schedule", "title": "schedule", "labels": ["1f1b", "zb"]},
        {"name": "topology", "title": "topology", "labels": ["dgx", "pcie"]},
    ]
    assert data["axes"] == axes
    assert pictures == {"report", "waterfall", "savings", "distribution", "tail", "ranks", "memory", "heat"}
    assert all((tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in pictures - {"report"})
    assert not list(tmp_path.glob(".*"))  # nothing half-written


def test_data__is_that_of_the_cube(tmp_path):
    words = ("schedule=1f1b,zb", "microbatches=4,6", "pp=2,3")
    data, _, _ = made(tmp_path, *words)
    cube = hops.sweep_cube(*SMALL, *words)
    for name, q in (("iteration_time@0.95", 0.95), ("iteration_time_low@0.5", 0.5)):
        assert data["numbers"][name] == pytest.approx(cube[name.partition("@")[0]].sel(quantile=q).values.ravel(), rel=1e-5)
    assert data["numbers"]["throughput_mean"] == pytest.approx(cube["throughput_mean"].values.ravel(), rel=1e-5)
    assert data["best"] == int(cube["throughput_mean"].values.argmax())
    n_ranks = np.isfinite(cube["busy_time"]).sum("rank").values.ravel()  # those that a cell does not have are not shown
    assert [len(row) for row in data["ranks"]["busy"]] == n_ranks.tolist()
    assert [sum(each[2:]) for each in data["draws"]["histograms"]] == [40] * 8
    why = data["why"]
    assert sorted(why["cells"]) == list(range(8))
    for cell, steps, path in zip(why["cells"], why["waterfalls"], why["paths"], strict=True):
        assert sum(steps) == pytest.approx(data["numbers"]["iteration_time@0.95"][cell], rel=1e-4)
        assert sum(path.values()) == pytest.approx(100, abs=0.1)


def test_page__opens_with_the_fastest_cell_that_fits(tmp_path):
    words = ("model.recompute=none,full", "pp=8", "microbatches=8", "draws=3")
    cube = hops.sweep_cube(*words)
    assert (cube["fits"].values.tolist(), int(cube["throughput_mean"].values.argmax())) == ([False, True], 0)
    assert made(tmp_path, *words)[0]["best"] == 1
    assert made(tmp_path, *words[1:], "model.recompute=none", "seed=0,1")[0]["best"] in (0, 1)  # none fits


def test_data__of_training_runs_has_ledger_and_raster(tmp_path):
    run = ("failure=llama3", "failure.rate=500", "run.days=0.5", "trials=5", "dp=8", "recovery=restart,peer_memory")
    data, _, pictures = made(tmp_path, *run)
    assert pictures >= {"ledger", "raster"}
    cube = hops.sweep_cube(*SMALL, *run)
    assert data["best"] == int(np.nanargmax(cube["goodput_mean"].values))
    assert [sum(row) for row in data["ledger"]["shares"]] == pytest.approx([100, 100], abs=0.05)
    for cell in ("0", "1"):
        raster = data["raster"][cell]
        assert len(raster["trials"]) == 5
        for spans in raster["trials"]:
            ends = [each[:2] for each in spans]
            assert ends[0][0] == 0
            assert all(a[1] == b[0] for a, b in pairwise(ends))
        states = {raster["states"][what] for spans in raster["trials"] for *_, what in spans}
        assert states >= {"useful", "recovery"}


def test_page__survives_any_label(tmp_path):
    """Text of a label that would end the script, or the tag that it stands in."""
    prepared = prepare_plan(plan_of_words((*SMALL, "schedule=1f1b,zb"), sweep=True))
    cube = cube_dataset(prepared).assign_coords(
        schedule=("schedule", np.array(["</script><b>", "&\"'"], object), {"hydra_key": "schedule"})
    )
    page = report.write_report(cube, prepared, tmp_path, "<i>&")[0].read_text()
    assert page.count("</script>") == 2
    assert "<h1>&lt;i&gt;&amp;</h1>" in page


@pytest.mark.parametrize(
    "words",
    [
        (),  # one cell, no axes
        ("latency=none", "schedule=1f1b,zb"),  # one draw
        ("model=explicit", "pp=1", "microbatches=1", "draws=1"),  # no memory, no FLOPs, one of everything
        ("pp=2,4", "schedule=dualpipe,1f1b", "microbatches=5"),  # cells that are left out
        ("output.keep=draws", "seed=0,1"),
        ("contention=fifo", "topology=pcie", "dp=2", "draws=3"),  # no critical path
        ("failure=llama3", "run.days=0.1", "run.tier=analytic"),
    ],
    ids=" ".join,
)
def test_report__of_anything(words, tmp_path):
    data, _, pictures = made(tmp_path, *words)
    assert data["evaluated"]
    assert "ranks" in pictures


def test_recipe__of_a_file_makes_the_same_cells(command, tmp_path):
    """Also of a question, and with options from a folder of the user's."""
    (tmp_path / "my" / "model").mkdir(parents=True)
    (tmp_path / "my" / "model" / "mine.yaml").write_text("defaults: [explicit, _self_]\nforward: 0.5\n")
    code, _, error = command("--config-dir", "my", "-m", *SMALL, "model=mine,explicit", "hydra.sweep.dir=results/a")
    assert code == 0, error
    few = ("draws=3", "microbatches=8,16", "topology.bandwidth=50e9", "pp=2")  # a question of a model that its file changes
    code, _, error = command("-cn", "when_interleaving_pays", *few, "hydra.sweep.dir=results/b")
    assert code == 0, error
    for name in ("a", "b"):
        cube = hops.open_cube(tmp_path / "results" / name)
        again = cube_dataset(prepare_plan(plan_of(cube)))
        assert again["iteration_time_draws"].identical(cube["iteration_time_draws"])
        assert report.prepared_again(cube)[1] == ""
    words = cube.hops.words(vpp=3, microbatches=16)
    cell = cube["iteration_time_draws"].sel(microbatches=16).isel(schedule_vpp=2)
    assert hops.simulate(*words)["iteration_time"].values.tolist() == cell.values.tolist()


def test_words__ask_for_what_is_missing():
    cube = hops.sweep_cube(*SMALL, "schedule=1f1b,zb", "pp=2,3")
    for labels, sentence in (
        ({"pp": 2}, r"which schedule\? \(known: 1f1b, zb\)"),
        ({"pp": 2, "schedul": "zb"}, "no axis of this cube named 'schedul'; did you mean 'schedule'"),
        ({"pp": 2, "schedule": "zbb"}, "no label of schedule named 'zbb'; did you mean 'zb'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            cube.hops.words(**labels)
    with pytest.raises(ValueError, match="cells need a cube"):
        hops.simulate(*SMALL).hops.words()


def test_command__writes_beside_the_cube_and_says_what_is_wrong(command, tmp_path):
    code, said, error = command("-m", *SMALL, "schedule=1f1b,zb", "report=true", "hydra.sweep.dir=results/a")
    assert (code, error) == (0, "")
    assert "written: results/a/report.html" in said
    before = (tmp_path / "results/a/report.html").read_text()
    code, said, error = command("results/a", main=report.main)
    assert (code, error) == (0, "")
    assert said.splitlines()[0] == "written: results/a/report.html"
    assert (tmp_path / "results/a/report.html").read_text() == before
    for words, sentence in (
        (["results/b"], "no cube at results/b"),
        ([], "one result, please; got nothing"),
        (["a", "b"], "one result, please; got a b"),
        (["--hepl"], "one result, please"),
    ):
        code, _, error = command(*words, main=report.main)
        assert code == 1
        assert error.startswith(sentence)


def test_report__of_a_cube_that_comes_out_otherwise_now_shows_what_the_cube_has(tmp_path):
    cube = hops.sweep_cube(*SMALL, "schedule=1f1b,zb")
    assert report.prepared_again(cube)[1] == ""
    cube["iteration_time_draws"][:] *= 1.01
    prepared, reason = report.prepared_again(cube)
    assert prepared is None
    assert "another version made it" in reason
    assert {each.stem for each in report.write_report(cube, None, tmp_path, "x")} == {
        "report",
        "distribution",
        "tail",
        "ranks",
        "memory",
        "heat",
    }
    cube.attrs["overrides"] = "schedul=1f1b,zb"
    assert "cannot be made again: " in report.prepared_again(cube)[1]
    assert "schedul" in report_data(cube, None)["attributes"]["overrides"]


def test_command__refuses_before_anything_is_evaluated(command, tmp_path):
    (tmp_path / "report").touch()
    code, said, error = command(*SMALL, "report=true", main=cell_main)
    assert (code, said) == (1, "")
    assert error.startswith("report=true writes into a folder report, which cannot be made: File exists")
    for word in ("timeline=true", "trace=t.json", "program=order.csv", "output.failures=f.jsonl"):
        code, said, error = command("-m", *SMALL, "schedule=1f1b,zb", word)
        assert (code, said) == (1, "")
        assert "is of one cell (python -m hops)" in error
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_command__of_a_page_that_cannot_be_written_is_a_sentence(command, tmp_path):
    (tmp_path / "report" / "report.html").mkdir(parents=True)
    code, _, error = command(*SMALL, "report=true", main=cell_main)
    assert code == 1
    assert error.startswith("report/report.html: Is a directory")
