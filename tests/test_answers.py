"""The gallery: every claim holds in its cube, can fail, and the page says exactly what its command would write."""

import re
import struct
from collections.abc import Iterator

import gallery
import numpy as np
import pytest
import xarray as xr
from answers import ANSWERS, main
from gallery import Claim, cube_of, falling, less, more, page, png, question_of, section

TOLD = ("iteration_time_draws", "headroom", "goodput_fraction_trials", "goodput_fraction_mean")  # what claims are of
QUESTIONS = sorted(path.stem for path in gallery.HERE.glob("*.yaml"))


@pytest.fixture(scope="module", params=QUESTIONS)
def asked(request: pytest.FixtureRequest) -> tuple[str, xr.Dataset]:
    return request.param, cube_of(request.param)


def others(cube: xr.Dataset) -> Iterator[xr.Dataset]:
    """The cube with effects turned round, none, or larger; with GPUs that are full or empty; with cells in each other's places."""
    told = [name for name in TOLD if name in cube]
    yield cube.assign({name: 1 / cube[name] for name in told})
    yield cube.assign({name: cube[name] * 0 + 1 for name in told})
    yield cube.assign({name: cube[name] ** 4 for name in told})
    for room in (-1e9, 1e9):
        yield cube.assign(headroom=cube["headroom"] * 0 + room)
    for dim in cube["evaluated"].dims:
        n = cube.sizes[dim]
        for order in (range(n)[::-1], *(np.roll(range(n), i) for i in range(1, n))):
            yield cube.assign({name: cube[name].isel({dim: list(order)}).drop_vars(list(cube.coords), errors="ignore") for name in told})


def test_answers__one_a_question_and_the_page_has_them_all():
    assert sorted(ANSWERS) == QUESTIONS
    assert 8 <= len(QUESTIONS) <= 12
    listed = re.findall(r"^## (.*)$", (gallery.HERE / "README.md").read_text(), re.MULTILINE)
    assert listed == [question_of(name) for name in ANSWERS]
    assert all(each.endswith("?") for each in listed)


def test_answer__holds_and_is_what_the_page_says(asked):
    name, cube = asked
    answer = ANSWERS[name](cube)
    assert [claim.words for claim in answer.claims if not claim.holds] == []
    assert section(name, cube, answer) in (gallery.HERE / "README.md").read_text()
    for sentence in answer.sentences:
        assert re.fullmatch(r"[^.]([^.]|\.\d)*\.", sentence), "one sentence, with no full stop but its own"
        assert "nan" not in sentence


def test_answer__every_claim_can_fail(asked):
    """Each is broken by the same cube with another effect in it."""
    name, cube = asked
    claims = {claim.words for claim in ANSWERS[name](cube).claims}
    assert claims
    for other in others(cube):
        claims &= {claim.words for claim in ANSWERS[name](other).claims if claim.holds}
        if not claims:
            break
    assert claims == set()


def test_picture__has_names_on_its_axes_and_is_stored(asked):
    name, cube = asked
    figure = ANSWERS[name](cube).picture
    assert all(axes.get_xlabel() for axes in figure.axes)
    assert figure.axes[0].get_ylabel()
    assert (figure.get_size_inches() * figure.dpi).tolist() == [800, 450]
    stored = (gallery.HERE / "pictures" / f"{name}.png").read_bytes()
    assert len(stored) < 60_000
    assert struct.unpack(">II", stored[16:24]) == (800, 450)


def test_picture__is_the_same_every_time():
    cube = cube_of("replan_or_not")
    assert png(ANSWERS["replan_or_not"](cube).picture) == png(ANSWERS["replan_or_not"](cube).picture)


def test_page__is_its_head_a_table_of_contents_and_the_sections():
    stored = (gallery.HERE / "README.md").read_text()
    sections = re.split(r"(?m)^(?=## )", stored)[1:]
    ends = [each.removesuffix("\n") if i < len(sections) - 1 else each for i, each in enumerate(sections)]
    assert stored == page(dict(zip(ANSWERS, ends, strict=True)))
    for name in ANSWERS:
        assert f"](#{gallery.anchor(question_of(name))}) (`{name}`)" in stored


def test_claim__needs_three_standard_errors_and_something_to_say():
    assert Claim("", [4.0, 3.5], [1.0, 1.0]).holds
    assert not Claim("", [4.0, 2.9], [1.0, 1.0]).holds
    assert not Claim("", 0.0).holds
    assert not Claim("", np.nan).holds
    assert not Claim("", np.array([])).holds


def test_less__pairs_draws():
    rng = np.random.default_rng(0)
    weather = rng.normal(10, 1, 400)
    rival = xr.DataArray(weather, dims="draw")
    ours = xr.DataArray(0.9 * weather + rng.normal(0, 0.01, 400), dims="draw")
    value, error = less(ours, rival)
    assert float(value) == pytest.approx(10, abs=0.03)
    assert float(error) == pytest.approx(100 * 0.01 / 10 / 20, rel=0.15)  # without pairs 0.7, 140 times as much
    gain = more(xr.DataArray([0.5, 0.7], dims="trial"), xr.DataArray([0.4, 0.5], dims="trial"))
    assert (float(gain.value), float(gain.error)) == pytest.approx((15, 5))


def test_falling__is_each_value_less_the_next():
    share = gallery.Share(xr.DataArray([3.0, 1.0, 2.0], dims="x"), xr.DataArray([0.3, 0.4, 0.0], dims="x"))
    effect, error = falling(share, "x")
    assert effect.values.tolist() == [2.0, -1.0]
    assert error.values.tolist() == [0.5, 0.4]


def test_command__refuses_a_claim_that_does_not_hold_and_a_name_that_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr("answers.HERE", tmp_path)
    monkeypatch.setattr("sys.argv", ["answers.py", "when_zb_wins"])
    with pytest.raises(SystemExit, match="no question named 'when_zb_wins'; did you mean 'when_zb_loses'"):
        main()
    cube = cube_of("when_zb_loses")
    monkeypatch.setattr("answers.cube_of", lambda name: cube.assign(iteration_time_draws=1 / cube["iteration_time_draws"]))
    monkeypatch.setattr("sys.argv", ["answers.py", "when_zb_loses"])
    with pytest.raises(SystemExit, match="when_zb_loses: its cube does not say that"):
        main()
    assert not list(tmp_path.iterdir())
