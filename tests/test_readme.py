"""README: its commands run, its snippets run, and the output it shows is the output they give."""

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import hops
from hops import sweep
from hops.__main__ import main as report
from hops.schedules import SCHEDULES
from hops.schedules.chimera import SCALINGS

README = Path(__file__).parents[1] / "README.md"
SWEEPS = Path(__file__).parents[1] / "sweeps"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
SMALLER = {"run.days=1": "run.days=0.05", "trials=20": "trials=2", "microbatches=range(8,33,8)": "microbatches=range(8,17,8)"}
STAMP = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(-\d+)?")


def run(words, folder):
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "error"})
    assert done.returncode == 0, done.stderr
    return done.stdout


def commands(text):
    """The ``uv run python ...`` lines of a block, to be run by this Python; the test command is what runs now."""
    lines = [line for line in text.splitlines() if line.startswith("uv run ") and "pytest" not in line]
    return [[sys.executable, *shlex.split(line, comments=True)[3:]] for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the main job, the first command of README, has run; what it printed, its words."""
    place = tmp_path_factory.mktemp("readme")
    first = next(words for language, text in BLOCKS if language == "sh" for words in commands(text))
    return place, run(first, place), first


def test_main_job__prints_what_readme_shows(folder):
    shown = next(text for language, text in BLOCKS if language == "text" and text.startswith("schedule"))
    assert STAMP.sub("<run>", folder[1]) == STAMP.sub("<run>", shown)


def test_schedules__all_are_in_the_table():
    (table,) = re.findall(r"^\| stages of a rank .*?\n\n", README.read_text(), re.MULTILINE | re.DOTALL)
    planned = set(SCHEDULES["zb_auto"].parameters)
    parameters = {key for record in SCHEDULES.values() for key in record.parameters} - planned
    words = set(re.findall(r"\w+", table))
    assert words >= {*SCHEDULES, *parameters, *SCALINGS}


@pytest.mark.parametrize("i", [i for i, (language, _) in enumerate(BLOCKS) if language == "sh"])
def test_commands__run(i, folder, command, tmp_path):
    """In this process, and with smaller numbers: the main job, and the one whose picture README shows, have processes of their own."""
    (script,) = [text for language, text in BLOCKS if language == "bash"]
    (tmp_path / "run.sh").write_text(script)
    (cluster,) = [text for language, text in BLOCKS if language == "yaml"]
    (tmp_path / "my" / "topology").mkdir(parents=True)
    (tmp_path / "my" / "topology" / "mine.yaml").write_text(cluster)
    for words in commands(BLOCKS[i][1]):
        if words != folder[2]:  # that has run
            _, _, module, *overrides = [SMALLER.get(word, word) for word in words]
            code, said, error = command(*overrides, main={"hops": report, "hops.sweep": sweep.main}[module])
            assert code == 0, error
            assert said


@pytest.mark.parametrize("i", [i for i, (language, _) in enumerate(BLOCKS) if language == "python"])
def test_snippets__run_and_print_what_readme_shows(i, folder):
    place, *_ = folder
    (made,) = [path for path in (place / "results").iterdir() if (path / "cube.nc").exists()]
    printed = run([sys.executable, "-c", BLOCKS[i][1].replace("<run>", made.name)], place)
    following = BLOCKS[i + 1] if i + 1 < len(BLOCKS) else ("", "")
    if "print(" in BLOCKS[i][1]:
        assert following[0] == "text"
        assert printed == following[1]


def test_timeline__is_the_one_that_the_command_below_it_prints(tmp_path):
    language, picture = BLOCKS[0]
    assert language == "text"
    command = re.search(r"^\(`uv run (python -m hops .*)`; it also draws$", README.read_text(), re.MULTILINE)
    assert command
    printed = run([sys.executable, *command[1].split()[1:]], tmp_path)
    assert printed.endswith("\n\n" + picture)


def test_schedule__shown_whole_is_the_one_in_the_house():
    shown = next(text for language, text in BLOCKS if "gpipe_again" in text)
    real = (README.parent / "hops" / "schedules" / "gpipe.py").read_text()
    for line in ("makespan=", "exact_when=", "in_flight=", "messages="):
        claim = re.search(rf"^    {line}.*$", shown, re.MULTILINE)
        assert claim
        assert claim[0] in real


def test_sweeps__every_question_is_listed_and_runs():
    """Small; the answers below are those of the questions as they stand."""
    listed = (SWEEPS / "README.md").read_text()
    for path in SWEEPS.glob("*.yaml"):
        question = path.read_text().splitlines()[0].removeprefix("# ")
        assert f"| `{path.stem}` | {question} |" in listed
        assert hops.sweep_cube(f"+experiment={path.stem}", "draws=10", "trials=2")["evaluated"].any()


def test_sweeps__the_answer_of_schedule_by_microbatches_holds(command, tmp_path):
    """The figures of sweeps/README.md; standard errors are below 0.05 %."""
    code, _, error = command("-cn", "schedule_by_microbatches", "hydra.sweep.dir=results/x")
    assert code == 0, error
    time = hops.open_cube(tmp_path / "results/x")["iteration_time"].sel(quantile=0.5)
    saved = 1 - time.sel(schedule="zb_h1") / time.sel(schedule="1f1b")
    assert (saved > 0).all()
    assert [round(100 * float(saved.sel(microbatches=m))) for m in (8, 64)] == [28, 6]
    assert (abs(time.sel(schedule="zb_h2") / time.sel(schedule="zb_h1") - 1) < 5e-3).all()
    held = hops.open_cube(tmp_path / "results/x")["peak_in_flight"].max("rank").sel(microbatches=64)
    assert float(held.sel(schedule="zb_h2") / held.sel(schedule="zb_h1")) == 15 / 8
    fits = hops.open_cube(tmp_path / "results/x")["fits"]
    assert fits.sel(schedule=["1f1b", "zb_h1"]).all()
    assert not fits.sel(schedule=["gpipe", "zb_h2"], microbatches=[16, 32, 64]).any()


def test_sweeps__the_answer_of_noise_until_zero_bubble_loses_holds():
    """Standard errors of the shares are below 0.3 points, and both schedules meet the same noise."""
    time = hops.sweep_cube("+experiment=noise_until_zero_bubble_loses")["iteration_time_mean"]
    saved = 100 * (1 - time.sel(schedule="zb_h1") / time.sel(schedule="1f1b"))
    per_op, per_rank = saved.sel(latency_rank_cv=0), saved.sel(latency_op_cv=0)
    assert saved.min() > 0
    assert int(saved.count()) == 7
    assert (np.diff(per_op) > 0).all()
    assert (np.diff(per_rank) < 0).all()
    figures = [float(each) for each in (per_op[0], per_op[-1], per_rank[-1])]
    assert figures == pytest.approx([10.8, 18.4, 3.1], abs=0.06)


def test_sweeps__the_answer_of_checkpoint_interval_holds():
    """Exact means, without noise."""
    kept = 100 * hops.sweep_cube("+experiment=checkpoint_interval")["goodput_fraction_mean"]
    assert (kept.max("interval") == kept.sel(interval="optimal")).all()
    assert float((kept.sel(interval="optimal") - kept.sel(interval=["young", "daly"])).max()) < 0.01
    for cost, interval, figure in ((10, "480", 93.9), (10, "120", 90.1), (10, "3840", 81.8), (60, "960", 88.0), (60, "optimal", 88.1)):
        assert float(kept.sel(cost=cost, interval=interval)) == pytest.approx(figure, abs=0.05)


def test_sweeps__the_answer_of_goodput_vs_scale_holds():
    """Standard errors are below 0.3 points."""
    cube = hops.sweep_cube("+experiment=goodput_vs_scale")
    kept = 100 * cube["goodput_fraction_mean"]
    assert (np.diff(kept, axis=0) < 0).all()
    assert (kept.sel(recovery="peer_memory") > kept.sel(recovery="restart")).all()
    figures = [round(float(kept.sel(recovery=name)[i])) for name in ("restart", "peer_memory") for i in (0, -1)]
    assert figures == [98, 75, 99, 90]
    assert float(cube["goodput_fraction_standard_error"].max()) < 0.003


def test_sweeps__the_answer_of_which_recovery_holds():
    """Standard errors are below 0.4 points."""
    cube = hops.sweep_cube("+experiment=which_recovery")
    kept = 100 * cube["goodput_fraction_mean"]
    order = [kept.sel(recovery=name) for name in ("peer_memory", "just_in_time", "restart", "shrink_dp")]
    for more, less in pairwise(order):
        assert (more > less).all()
    assert float(abs(kept.sel(recovery="spare", rate=1) - kept.sel(recovery="restart", rate=1))) < 0.05
    assert (kept.sel(recovery="spare", rate=[10, 30]) < kept.sel(recovery="restart", rate=[10, 30])).all()
    figures = {"peer_memory": (97.4, 88.1, 75.6), "shrink_dp": (88.4, 36.6, 6.7), "spare": (93.9, 56.9, 0.7)}
    for name, found in figures.items():
        assert kept.sel(recovery=name).values == pytest.approx(np.array(found), abs=0.06), name


def test_sweeps__the_answer_of_nvlink_or_pcie_holds():
    time = hops.sweep_cube("+experiment=nvlink_or_pcie")["iteration_time_mean"]
    saved = 100 * (1 - time[0] / time[1])
    assert float(saved.min()) > 0
    for schedule, p2p, figure in (("1f1b", "channel", 0.2), ("1f1b", "blocking", 0.5), ("interleaved", "blocking", 1.3)):
        assert float(saved.sel(schedule=schedule, p2p=p2p)) == pytest.approx(figure, abs=0.05)
    sharded = hops.sweep_cube("+experiment=nvlink_or_pcie", "tp=8")["iteration_time_mean"].sel(schedule="1f1b", p2p="channel")
    assert 100 * (1 - float(sharded[0] / sharded[1])) == pytest.approx(54, abs=0.5)


def test_sweeps__the_answer_of_when_zb_loses_holds():
    cube = hops.sweep_cube("+experiment=when_zb_loses").rename(recompute_recompute_repeat_split_overhead="backward")
    time = cube["iteration_time_mean"]
    saved = 100 * (1 - time / time.sel(schedule="1f1b"))
    whole, overhead, full, again = (saved.isel(backward=i) for i in range(4))
    assert (again["recompute_repeat"], overhead["split_overhead"]) == (True, 0.1)
    alone = {"bandwidth": 50e9, "p2p": "channel"}
    for case, figures in ((again, (-6.5, -13.7)), (overhead, (5.2, -4.9)), (whole, (10.8, 2.2))):
        line = case.sel(schedule="zb_h1", **alone)
        assert (np.diff(line) < 0).all()
        assert [float(line.sel(sequence=n)) for n in (2048, 131072)] == pytest.approx(figures, abs=0.05)
    for case in (whole, full):
        assert float(case.sel(schedule="zb_h1").min()) > 0
    slow = whole.sel(sequence=2048, bandwidth=1.41e9)
    for schedule, figures in (("zb_h1", (19.5, 7.9)), ("zb_v", (21.1, -13.3))):
        assert [float(slow.sel(schedule=schedule, p2p=p2p)) for p2p in ("channel", "blocking")] == pytest.approx(figures, abs=0.05)
    fits = cube["fits"].sel(sequence=[32768, 131072]).any(["schedule", "bandwidth", "p2p"])
    assert fits.transpose("sequence", "backward").values.tolist() == [[False, False, True, True], [False] * 4]


def test_sweeps__the_answer_of_replan_or_not_holds():
    """Both orders meet the same noise: standard errors of the shares are below 0.03 points."""
    time = hops.sweep_cube("+experiment=replan_or_not")["iteration_time_mean"]
    blind, told = (time.isel(forward_backward_input_backward_weight=i) for i in range(2))
    saved = 100 * (1 - told / blind)
    assert saved.sel(barrier=False).values == pytest.approx(np.array([[0, 0.2], [0.7, 0.4]]), abs=0.05)
    assert float(saved.sel(barrier=True).max()) <= 0
    assert float(saved.sel(barrier=True).min()) == pytest.approx(-2.4, abs=0.05)
