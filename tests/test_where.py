"""Which cells a sweep asks for: expressions over the axes, and the refusal of everything else."""

import pytest

import hops
from hops.where import where

SMALL = ("microbatches=6", "draws=5")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("schedule == 'zb'", True),
        ("schedule != 'zb' or pp <= 2", False),
        ("not pp > 4 and schedule in ('zb', '1f1b')", True),
        ("microbatches % pp == 0", True),
        ("2 * pp <= microbatches - 1", False),
        ("2 < pp < 5", True),
        ("nodes == None", True),
    ],
)
def test_where__is_python_over_the_axes(expression, expected):
    values = {"schedule": "zb", "pp": 4, "microbatches": 8, "nodes": None}
    assert where(expression, list(values))(values) is expected


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("chunkz == 1", r"no axis named 'chunkz'; did you mean 'chunks'\? \(known: chunks, pp\)"),
        ("pp.real == 1", "Attribute is not allowed"),
        ("print(pp)", "Call is not allowed"),
        ("[p for p in (1, 2)]", "ListComp is not allowed"),
        ("pp ==", "is not an expression"),
        ("pp < 'a'", "fails for {'pp': 4, 'chunks': 2}: '<' not supported"),
        ("pp / (chunks - 2) > 1", "division by zero"),
    ],
)
def test_where__refuses_what_is_no_comparison(expression, sentence):
    with pytest.raises(ValueError, match=sentence):
        where(expression, ["pp", "chunks"])({"pp": 4, "chunks": 2})


def test_sweep__cells_that_are_not_asked_for_are_nan_without_a_word(capsys):
    condition = "hydra.sweeper.where=\"(schedule == 'interleaved') == (vpp == 2)\""
    cube = hops.sweep_cube("schedule=1f1b,interleaved", "vpp=null,2", "pp=2", *SMALL, condition)
    assert cube["evaluated"].values.tolist() == [[True, False], [False, True]]
    assert cube["iteration_time_mean"].notnull().values.tolist() == cube["evaluated"].values.tolist()
    assert capsys.readouterr().err == ""


def test_sweep__asking_for_nothing_is_refused():
    with pytest.raises(ValueError, match="no cell of the sweep can be evaluated:\n  hydra.sweeper.where asks for none"):
        hops.sweep_cube("pp=2,4", *SMALL, "hydra.sweeper.where='pp > 8'")
    with pytest.raises(ValueError, match="no axis named 'schedule'"):
        hops.sweep_cube("pp=2,4", *SMALL, "hydra.sweeper.where='schedule == 1'")


def test_sweep__strict_from_python_too():
    with pytest.raises(ValueError, match="too few for 64 stages"):
        hops.sweep_cube("pp=2,64", *SMALL, "hydra.sweeper.strict=true")
