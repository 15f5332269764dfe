"""What makes an answer of a question: claims that can fail, two sentences, one picture; and the page of all of them.

A question is a YAML of this folder, whose first line asks it; its answer is a function of `answers.py` with the same name. It
takes the question's cube, and all figures that it prints come from there.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

import hops
from hops.comparisons import paired

HERE = Path(__file__).parent
RESOLVED = 3.0  # standard errors that an effect must be away from nothing

# Okabe & Ito's colours, told apart by all common kinds of colour vision, without their yellow, which is too pale for a line
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE, GREY = "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#777777"
OF_SCHEDULE = {"gpipe": GREY, "1f1b": BLACK, "interleaved": ORANGE, "zb_h1": GREEN, "zb_h2": SKY, "zb_2p": SKY}
OF_SCHEDULE |= {"zb_v": PURPLE, "v_half": BLUE, "v_min": RED}
NAMES = {"gpipe": "GPipe", "1f1b": "1F1B", "interleaved": "interleaved", "zb_h1": "ZB-H1", "zb_h2": "ZB-H2", "zb_2p": "ZB-2p"}
NAMES |= {"zb_v": "ZB-V", "v_half": "V-Half", "v_min": "V-Min"}


class Claim(NamedTuple):
    """``effect`` (any shape) is above nothing, by more than `RESOLVED` times its ``error``; the unit is that of both."""

    words: str
    effect: Any
    error: Any = 0.0

    @property
    def holds(self) -> bool:
        resolved = np.asarray(self.effect) > RESOLVED * np.asarray(self.error)
        return resolved.size > 0 and bool(resolved.all())


class Answer(NamedTuple):
    """What a question's cube says."""

    claims: Sequence[Claim]
    sentences: tuple[str, str]
    picture: Figure


class Share(NamedTuple):
    """A share and its standard error [%]."""

    value: xr.DataArray
    error: xr.DataArray

    def sel(self, **where: Any) -> "Share":
        return Share(self.value.sel(**where), self.error.sel(**where))

    def isel(self, **where: Any) -> "Share":
        return Share(self.value.isel(**where), self.error.isel(**where))


ANSWERS: dict[str, Callable[[xr.Dataset], Answer]] = {}


def answers(function: Callable[[xr.Dataset], Answer]) -> Callable[[xr.Dataset], Answer]:
    """Register the answer to the question of the same name."""
    ANSWERS[function.__name__] = function
    return function


def cube_of(name: str) -> xr.Dataset:
    """Evaluate a question as it stands."""
    return hops.sweep_cube(f"+experiment={name}")


def less(ours: xr.DataArray, rival: xr.DataArray) -> Share:
    """By how much the mean of ``ours`` is below that of its ``rival`` [% of the rival's], in pairs of draws."""

    def share(a: Any, b: Any) -> tuple[Any, Any]:
        found = paired(a, b)
        return 100 * (1 - found.ratio), 100 * np.where(found.n == 1, 0.0, found.ratio_error)  # one draw, without noise, says it all

    return Share(*xr.apply_ufunc(share, ours, rival, input_core_dims=[["draw"], ["draw"]], output_core_dims=[[], []]))


def falling(share: Share, along: str) -> tuple[xr.DataArray, xr.DataArray]:
    """What each value along a dimension is above the next one, and its standard error [%]."""
    n = share.value.sizes[along]
    (high, low), (a, b) = ([each.isel({along: at}) for at in (slice(n - 1), slice(1, n))] for each in share)
    return high - low.values, np.hypot(a, b.values)


def more(ours: xr.DataArray, rival: xr.DataArray) -> Share:
    """By how much the mean share ``ours`` is above its ``rival``'s [points], in pairs of trials of a training run."""

    def points(a: Any, b: Any) -> tuple[Any, Any]:
        found = paired(a, b)
        return 100 * found.difference, 100 * found.difference_error

    return Share(*xr.apply_ufunc(points, ours, rival, input_core_dims=[["trial"], ["trial"]], output_core_dims=[[], []]))


def capacity(cube: xr.Dataset) -> float:
    """Memory of a GPU [GB]: what the fullest of any cell holds, and what it has left."""
    return float(np.ravel(cube["peak_memory"].max("rank") + cube["headroom"])[0] / 1e9)


def question_of(name: str) -> str:
    """The first line of a question's file."""
    return (HERE / f"{name}.yaml").read_text().splitlines()[0].removeprefix("# ")


def setting(name: str, cube: xr.Dataset) -> str:
    """What a question was evaluated on, in the words of the command line."""
    asked = yaml.safe_load((HERE / f"{name}.yaml").read_text())
    chosen = {"schedule": "1f1b", "model": "gpt_22b", "topology": "dgx", "latency": "lognormal", "failure": "none"}
    for each in asked["defaults"]:
        if isinstance(each, dict):
            chosen |= {key.removeprefix("override "): value for key, value in each.items()}
    config = yaml.safe_load(cube.attrs["config"])
    swept = asked["hydra"]["sweeper"]["params"]
    size = ("gpus",) if config["gpus"] or "gpus" in swept else ("dp",)
    chosen |= {key: config[key] for key in ("pp", "tp", *size, "microbatches")}
    words = [f"{key}={value}" for key, value in chosen.items() if key not in swept and value != "none"]
    runs = "trial" in cube.dims
    n = cube.sizes["trial" if runs else "draw"]
    exact = runs and config["run"]["tier"] == "analytic"
    drawn = "exact means" if exact else f"{n} sampled {'runs' if runs else 'iterations'} a cell" if n > 1 else "without noise"
    return f"`{' '.join(words)}`, {drawn}"


def section(name: str, cube: xr.Dataset, answer: Answer) -> str:
    """A question's part of the page."""
    asked, first, second = question_of(name), *answer.sentences
    return (
        f"## {asked}\n\n![{asked}](pictures/{name}.png)\n\n{first} {second}\n\n"
        f"`uv run python -m hops.sweep -cn {name}` (on {setting(name, cube)})\n"
    )


def page(sections: dict[str, str]) -> str:
    """The whole of ``README.md``."""
    contents = "\n".join(f"* [{question_of(name)}](#{anchor(question_of(name))}) (`{name}`)" for name in sections)
    return "\n".join([HEAD, contents, "", *sections.values()])


HEAD = """# Questions

One file a question; its first line is the question. `uv run python -m hops.sweep -cn <name>` evaluates it (or `-m
+experiment=<name>`, on top of any other config). What a question does not sweep can be overridden behind it (`pp=16`), and
what it sweeps given other values or one. About a job of your own: `-m from=run.sh +experiment=<name>`.

This page and its pictures are written by `uv run python sweeps/answers.py` (or with the names of some questions), which refuses
if a claim that an answer rests on does not hold in its cube by three standard errors. What is compared met the same noise.
"""


def anchor(heading: str) -> str:
    """What GitHub makes of a heading."""
    return "".join(each for each in heading.lower().replace(" ", "-") if each.isalnum() or each == "-")


def canvas(x: str, y: str, **limits: Any) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, ``x`` and ``y`` named with their units."""
    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    return figure, framed(figure.add_subplot(), x, y, **limits)


def framed(axes: Axes, x: str, y: str, **more: Any) -> Axes:
    """Name both axes, draw a faint grid, and leave out the frame's upper and right side."""
    axes.set(**more)
    axes.set_xlabel(x, fontsize=12)
    axes.set_ylabel(y, fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def line(axes: Axes, share: Share, along: str, label: str, colour: str, **style: Any) -> None:
    """A line of a share along a dimension, with bars of two standard errors, which are mostly too short to be seen."""
    x, style = share.value[along], {"marker": "o", "markersize": 6, "linewidth": 2, **style}
    axes.plot(x, share.value, label=label or None, color=colour, **style)
    axes.errorbar(x, share.value, 2 * share.error, fmt="none", ecolor=colour, capsize=3)


def numbered(axes: Axes, values: Any) -> None:
    """A logarithmic x axis with just these values on it."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(values, [f"{value:,g}" for value in values])
    axes.xaxis.minorticks_off()


def png(figure: Figure) -> bytes:
    """The picture in 64 colours, a third of the size of all; written anew it has nothing in it but pixels, so it is the same every time."""
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", facecolor="white")
    Image.open(drawn).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return small.getvalue()
