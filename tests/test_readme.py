"""README: its commands run, its snippets run, and the output it shows is the output they give."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hops import sweep
from hops.__main__ import main as report
from hops.schedules import SCHEDULES
from hops.schedules.chimera import SCALINGS

README = Path(__file__).parents[1] / "README.md"
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
    """In this process, and with smaller numbers: the main job, and the one whose picture README shows, have processes of their own.

    Where text follows, it is part of what the last command prints.
    """
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
    language, shown = [*BLOCKS, ("", "")][i + 1]
    if language == "text" and words != folder[2]:
        assert shown in said


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
