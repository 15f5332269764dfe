"""Pictures of training runs: what the job did over days, and what failed."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hops.plots import patches, time_unit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# training in blues, what stops it in warm colours (Okabe & Ito's, but for the light blue of what is useful)
COLOURS = {
    "useful": "#B8DDF2",
    "replay": "#0072B2",
    "wasted": "#999999",
    "checkpoint": "#F0E442",
    "detection": "#E69F00",
    "queue": "#CC79A7",
    "recovery": "#D55E00",
}
WORDS = {
    "useful": "training that counts",
    "replay": "training done again",
    "wasted": "training that was lost",
    "queue": "waiting for nodes",
}
MARKS = {"fail_stop": ("v", "#000000", "failure"), "slow": ("s", "#009E73", "GPU slow"), "bandwidth": ("D", "#0072B2", "link slow")}
MARKS |= {"stall": ("X", "#D55E00", "stands still")}
MOST_NAMED = 12  # failures whose unit is written beside their mark
ZOOMED = 60  # spans of time other than training and checkpoints, beyond which the worst stretch gets a picture of its own
MOST_SPANS = 400  # that a strip shows one by one; of more their shares in columns
COLUMNS, FINE = 300, 1200  # of the whole run, and of the stretch that is shown closer
CLOSER = 8  # failures in that, or so


def shares(frame: "pd.DataFrame", start: float, end: float, n: int) -> NDArray[np.float64]:
    """What the job did in each of ``n`` equal parts of a stretch of time: shares (`COLOURS`, n), from ``hops.run_timeline``."""
    edges = np.linspace(start, end, n + 1)
    found = np.zeros((len(COLOURS), n))
    for k, state in enumerate(COLOURS):
        own = frame[frame["state"] == state]
        begins, lengths = own["start"].to_numpy(), (own["end"] - own["start"]).to_numpy()
        # time in this state until each edge: whole spans before it, and a part of the one that it lies in
        at = np.searchsorted(begins, edges, side="right") - 1
        whole = np.append(0.0, np.cumsum(lengths))
        until = np.where(at < 0, 0.0, whole[at] + np.minimum(edges - np.append(begins, 0.0)[at], np.append(lengths, 0.0)[at]))
        found[k] = np.diff(until)
    return found / max((end - start) / n, 1e-300)


def run_figure(frame: "pd.DataFrame", failures: "pd.DataFrame", title: str) -> "Figure":
    """Draw a training run: a strip of what the job did, where a column of many spans is divided by their shares, and failures above.

    ``frame`` as from ``hops.run_timeline``, ``failures`` as from ``hops.run_failures``. A run with more interruptions than can be
    told apart has a second strip with the stretch around its worst hour; an elastic one a curve of the units that it lacks.
    """
    from matplotlib.figure import Figure

    end = float(frame["end"].iloc[-1])
    n_stops = int((~frame["state"].isin(["useful", "checkpoint"])).sum())
    elastic = bool(frame["missing"].any())
    heights = [1.0, *([0.6] if elastic else []), *([1.0] if n_stops > ZOOMED else [])]
    figure = Figure(figsize=(14.0, 1.6 + 1.5 * sum(heights)), dpi=120, layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(len(heights), 1, height_ratios=heights)))
    panels[0].set_title(title)
    draw_strip(panels[0], frame, failures, 0.0, end, COLUMNS)
    if elastic:
        draw_missing(panels[1], frame)
    if n_stops > ZOOMED:
        a, b = worst_stretch(frame, max(10, len(failures) // CLOSER))
        draw_strip(panels[-1], frame, failures, a, b, FINE)
        unit, size = time_unit(end)
        panels[-1].set_title(f"closer: {a / size:.4g} to {b / size:.4g} {unit}, the stretch with most time that is not useful", fontsize=10)
    figure.legend(handles=legend(frame, failures), loc="outside lower center", ncols=6, frameon=False)
    return figure


def draw_strip(axes: "Axes", frame: "pd.DataFrame", failures: "pd.DataFrame", start: float, end: float, columns: int) -> None:
    """A strip of what the job did between two times [s], with what failed above it; ``columns`` of shares where it did too much."""
    unit, size = time_unit(float(frame["end"].iloc[-1]))
    seen = frame[(frame["end"] > start) & (frame["start"] < end)]
    if len(seen) <= MOST_SPANS:
        for state, own in seen.groupby("state"):
            bars = list(zip(own["start"] / size, (own["end"] - own["start"]) / size, strict=True))
            axes.broken_barh(bars, (0, 1), color=COLOURS[str(state)], linewidth=0)
    else:
        found, edges = shares(frame, start, end, columns), np.linspace(start, end, columns + 1) / size
        tops = np.cumsum(found, axis=0)
        for k, colour in enumerate(COLOURS.values()):
            if found[k].any():
                axes.stairs(tops[k], edges, baseline=tops[k] - found[k], fill=True, color=colour, linewidth=0)
    hit = failures[(failures["time"] >= start) & (failures["time"] <= end)]
    for i, (kind, own) in enumerate(hit.groupby("kind")):
        marker, colour, _ = MARKS[str(kind)]
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.4} if len(own) < 200 else {"markeredgewidth": 0.0}
        high = np.full(len(own), 1.12 + 0.16 * i)
        if kind != "fail_stop":  # which the strip shows
            axes.hlines(high, own["time"] / size, np.minimum(own["until"], end) / size, colors=colour, linewidth=3)
        axes.plot(own["time"] / size, high, marker, color=colour, markersize=7 if len(own) < 100 else 4, clip_on=False, **edge)
    if len(hit) <= MOST_NAMED:
        ends = [-np.inf] * 3  # of what is written in each of three lines, in shares of the width
        for time, words in zip(hit["time"], hit["unit"], strict=True):
            at = (time - start) / (end - start)
            line = next((i for i, taken in enumerate(ends) if at > taken), None)
            if line is not None:
                ends[line] = at + 0.012 + 0.0065 * len(words)
                axes.text(time / size, 1.6 + 0.2 * line, words, fontsize=8, ha="left" if at < 0.9 else "right", va="center")
    axes.set(xlim=(start / size, end / size), ylim=(0, 2.2 if len(hit) <= MOST_NAMED else 1.5), xlabel=f"time [{unit}]")
    axes.set_yticks([0, 0.5, 1], ["0", "50", "100"])
    axes.set_ylabel("share of time [%]")
    axes.spines[["top", "right"]].set_visible(False)


def draw_missing(axes: "Axes", frame: "pd.DataFrame") -> None:
    """How many units an elastic job's plan is short of."""
    unit, size = time_unit(float(frame["end"].iloc[-1]))
    edges = np.append(frame["start"], frame["end"].iloc[-1]) / size
    axes.stairs(frame["missing"].to_numpy(), edges, fill=True, color="#777777")
    most = int(frame["missing"].max())
    axes.set(xlim=(0, edges[-1]), ylim=(0, most + 0.5), xlabel=f"time [{unit}]", ylabel="units\nmissing")
    axes.set_yticks(range(0, most + 1, max(1, most // 4)))
    axes.spines[["top", "right"]].set_visible(False)


def worst_stretch(frame: "pd.DataFrame", n: int) -> tuple[float, float]:
    """Of ``n`` equal parts of a run the one with least useful time: from when until when [s]."""
    end = float(frame["end"].iloc[-1])
    useful = shares(frame, 0.0, end, n)[list(COLOURS).index("useful")]
    k = int(useful.argmin())
    return k * end / n, (k + 1) * end / n


def raster_figure(frames: Sequence["pd.DataFrame"], title: str) -> "Figure":
    """Draw many trials of a run: a row a trial, each column in the colour of what took most of its time besides useful training.

    ``frames`` as from ``hops.run_timeline``, up to some 50.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    end = max(float(frame["end"].iloc[-1]) for frame in frames)
    unit, size = time_unit(end)
    n = 700  # columns: two pixels each
    picture = np.full((len(frames), n), np.nan)
    for row, frame in enumerate(frames):
        found = shares(frame, 0.0, end, n)
        there = found.sum(axis=0) > 0.5
        found[0] *= 0.02  # a stop of a fiftieth of a column shows
        picture[row, there] = found.argmax(axis=0)[there]
    height = 1.7 + min(0.16 * len(frames), 8.0)
    figure = Figure(figsize=(14.0, max(height, 2.2)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    colours = ListedColormap(list(COLOURS.values()))
    axes.imshow(
        picture, cmap=colours, vmin=-0.5, vmax=len(COLOURS) - 0.5, aspect="auto", interpolation="nearest",
        extent=(0.0, end / size, len(frames) - 0.5, -0.5),
    )  # fmt: skip
    axes.set(xlabel=f"time [{unit}]", ylabel="trial", title=title)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    seen = {state for frame in frames for state in frame["state"].unique()}
    named = {WORDS.get(state, state): colour for state, colour in COLOURS.items() if state in seen}
    figure.legend(handles=patches(named), loc="outside lower center", ncols=7, frameon=False)
    return figure


def legend(frame: "pd.DataFrame", failures: "pd.DataFrame") -> list[object]:
    """Entries for the states and the kinds of failures that there are."""
    from matplotlib.lines import Line2D

    seen: Mapping[str, str] = {WORDS.get(state, state): colour for state, colour in COLOURS.items() if (frame["state"] == state).any()}
    marks = [(mark, int((failures["kind"] == kind).sum())) for kind, mark in MARKS.items()]
    lines = [
        Line2D([], [], linestyle="none", marker=marker, color=colour, markersize=7, label=f"{word} ({n})")
        for (marker, colour, word), n in marks
        if n
    ]
    return [*patches(seen), *lines]
