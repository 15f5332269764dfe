"""Pictures of one iteration. Figures are made without pyplot, so nothing global is touched."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hops.files import replacing

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's colours, told apart by all common kinds of colour vision
COLOURS = {"F": "#56B4E9", "B": "#E69F00", "I": "#E69F00", "W": "#009E73", "REDUCE_GRAD": "#CC79A7", "UNSHARD": "#0072B2"}
WORDS = {"F": "forward", "B": "backward", "I": "backward for input", "W": "backward for weight"}
WORDS |= {"REDUCE_GRAD": "replicas reduce gradients", "UNSHARD": "replicas gather weights"}
BUBBLE, WIRE, HATCH = "#E8E8E8", "#555555", "///"
ENDINGS = (".png", ".svg")
MOST_RANKS, EACH = 24, 8  # of more ranks as many of the first, the middle and the last
MOST_TEXTS = 400  # numbers that are text; 1,000 took 0.5 s to draw, as glyphs in one collection a number 0.05


class Message(NamedTuple):
    """One transfer: sent [s] from a rank, arrived [s] at another."""

    source: int
    sent: float
    goal: int
    arrived: float


def picture_file(key: str, name: str) -> str:
    """Return ``name`` if a picture can be written under it."""
    if not name.lower().endswith(ENDINGS):
        raise ValueError(f"{key} must end in {' or '.join(ENDINGS)}; got {name!r}")
    return name


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a PNG or SVG, by the ending; the same figure makes the same file, and text in an SVG is text."""
    import matplotlib

    stamp = {"Date": None} if path.suffix.lower() == ".svg" else {}
    with matplotlib.rc_context({"svg.hashsalt": "hops", "svg.fonttype": "none"}), replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower(), metadata=stamp)


def time_unit(end: float) -> tuple[str, float]:
    """Unit of a time axis that ends at ``end`` [s], and how long one is."""
    units = {"days": 86400.0, "h": 3600.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
    least = {"days": 2 * 86400.0, "h": 2 * 3600.0}
    return next(((unit, size) for unit, size in units.items() if end >= least.get(unit, size)), ("ns", 1e-9))


def goes_back(frame: "pd.DataFrame") -> "pd.Series[bool]":
    """Which rows of ``hops.timeline`` are of pipelines that go up the ranks: the second half of several."""
    pipeline = frame.get("pipeline", frame["microbatch"] * 0)
    return 2 * pipeline > pipeline.max()


def shown_ranks(n_ranks: int, every: bool = False) -> list[range]:
    """Ranks that a picture shows, from top to bottom: all, or of many the first, the middle and the last."""
    if every or n_ranks <= MOST_RANKS:
        return [range(n_ranks)]
    middle = (n_ranks - EACH) // 2
    return [range(EACH), range(middle, middle + EACH), range(n_ranks - EACH, n_ranks)]


def rows_of(ranks: Sequence[range]) -> dict[int, int]:
    """Row of each rank that is shown; a row is free between the first, the middle and the last."""
    return {rank: rank - each.start + sum(len(before) + 1 for before in ranks[:i]) for i, each in enumerate(ranks) for rank in each}


def timeline_figure(frame: "pd.DataFrame", messages: Sequence[Message], title: str, every: bool = False) -> "Figure":
    """Draw a timeline: a row a rank, ops by kind with their microbatch where it fits, bubbles grey, transfers as lines.

    Ops of one unit lie one above the other, those of pipelines that go up the ranks are hatched, those of a rank's later
    chunks paler. ``frame`` as from ``hops.timeline``; messages that take less than a thousandth of the picture's width are left
    out. Of more than `MOST_RANKS` ranks the first, the middle and the last are drawn, or ``every`` one.
    """
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.figure import Figure

    n_ranks, end = int(frame["rank"].max()) + 1, float(frame["end"].max())
    unit, size = time_unit(end)
    ranks = shown_ranks(n_ranks, every)
    rows = rows_of(ranks)
    n_rows = max(rows.values()) + 1
    row = 0.34 if n_rows <= MOST_RANKS + 2 else 0.16  # inches
    width, height = 14.0, 1.5 + row * n_rows
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for each in ranks:
        axes.broken_barh([(0, end / size)], (rows[each[0]] - 0.5, len(each)), color=BUBBLE)

    frame = frame[frame["rank"].isin(list(rows))]
    frame = frame.assign(row=frame["rank"].map(rows), start=frame["start"] / size, end=frame["end"] / size, back=goes_back(frame))
    frame = _heights(frame)
    frame = frame.assign(chunk=_chunks(frame))
    n_chunks = int(frame["chunk"].max()) + 1
    kinds = [kind for kind in COLOURS if (frame["kind"] == kind).any()]
    # ops of few points are too thin for a rim, which would hide them, and must not be moved to whole pixels: that made patterns
    thin = float((frame["end"] - frame["start"])[frame["microbatch"] >= 0].median()) * size / end * 72 * width < 3
    for (back, chunk), shade in frame.groupby(["back", "chunk"]):
        for kind in kinds:
            own = shade[shade["kind"] == kind]
            a, b, low, high = (own[name].to_numpy() for name in ("start", "end", "low", "high"))
            corners: Any = np.stack([a, high, b, high, b, low, a, low], axis=1).reshape(-1, 4, 2)
            rim = "none" if thin or kind in ("REDUCE_GRAD", "UNSHARD") else "white"  # buckets are too thin for one
            bars = PolyCollection(corners, facecolors=_paler(COLOURS[kind], chunk, n_chunks), edgecolors=rim, linewidths=0.4)
            bars.set_snap(False if thin else None)
            if back:
                bars.set_hatch(HATCH)
            axes.add_collection(bars)
    seen = [m for m in messages if m.arrived - m.sent > end / 1000 and m.source in rows and m.goal in rows]
    lines = [[(m.sent / size, rows[m.source]), (m.arrived / size, rows[m.goal])] for m in seen]
    axes.add_collection(LineCollection(lines, colors=WIRE, linewidths=0.5))
    _number(axes, frame[frame["microbatch"] >= 0], 72 * row, 72 * (width - 1.2) * size / end)

    axes.set(xlim=(0, end / size), ylim=(n_rows - 0.5, -0.5), xlabel=f"time [{unit}]", ylabel="rank", title=title)
    step = 1 if len(ranks) > 1 else max(1, n_ranks // 32)
    axes.set_yticks([rows[rank] for rank in rows if rank % step == 0], [str(rank) for rank in rows if rank % step == 0])
    for before, after in pairwise(ranks):
        words = f"ranks {before[-1] + 1} to {after[0] - 1} not shown"
        axes.text(
            0.5, rows[after[0]] - 1, words, transform=axes.get_yaxis_transform(), ha="center", va="center", fontsize=9, style="italic"
        )
    figure.legend(
        handles=_legend(kinds, n_chunks, bool(frame["back"].any()), bool(seen)), loc="outside lower center", ncols=8, frameon=False
    )
    return figure


def _chunks(frame: "pd.DataFrame") -> "pd.Series[int]":
    """Which of its rank's chunks of the model every op is of, from 0, in the order of the stages; exchanges: 0."""
    own = [name for name in ("rank", "pipeline") if name in frame]
    return (frame[frame["microbatch"] >= 0].groupby(own)["stage"].rank("dense") - 1).reindex(frame.index, fill_value=0).astype(int)


def _heights(frame: "pd.DataFrame") -> "pd.DataFrame":
    """With ``low`` and ``high`` [rows] of every bar: ops of one unit share the row, exchanges are a thin bar below."""
    ops = frame["microbatch"] >= 0
    units = frame[ops].groupby(["rank", "start"])["op"]
    low, high = frame["row"] + 0.3, frame["row"] + 0.42
    low, high = (
        edge.where(~ops, frame["row"] - 0.42 + 0.84 * (units.cumcount() + i) / units.transform("size"))
        for i, edge in enumerate((low, high))
    )
    return frame.assign(low=low, high=high)


def _number(axes: "Axes", ops: "pd.DataFrame", row: float, second: float) -> None:
    """Write microbatches onto their ops where they fit; a row has so many points, and so has a unit of time."""
    from matplotlib.collections import PathCollection
    from matplotlib.textpath import TextPath
    from matplotlib.transforms import Affine2D

    texts, wide = ops["microbatch"].astype(str), (ops["end"] - ops["start"]) * second
    longest = texts.str.len().max()
    # so small that the longest fits most ops: a picture with numbers up to 9 only looks wrong
    tall = np.minimum(min(8.0, row * 0.55, float(wide.quantile(0.1)) / (0.68 * longest)), row * 0.65 * (ops["high"] - ops["low"]))
    fits = (wide >= 0.68 * tall * texts.str.len()) & (tall > 4)
    if not fits.any():
        return
    texts, tall, x, y = texts[fits], tall[fits], ((ops["start"] + ops["end"]) / 2)[fits], ((ops["low"] + ops["high"]) / 2)[fits]
    if len(texts) <= MOST_TEXTS:
        for text, points, at, high in zip(texts, tall, x, y, strict=True):
            axes.text(at, high, text, ha="center", va="center", fontsize=points, clip_on=True).set_in_layout(False)
        return
    points = float(tall.min())
    to_pixels = axes.figure.dpi_scale_trans
    for text in texts.unique():
        written, own = TextPath((0, 0), text, size=points), texts == text
        box = written.get_extents()
        glyphs = written.transformed(Affine2D().translate(-(box.x0 + box.x1) / 2, -(box.y0 + box.y1) / 2).scale(1 / 72))
        offsets = np.stack([x[own], y[own]], axis=1)
        numbers = PathCollection([glyphs], offsets=offsets, offset_transform=axes.transData, facecolors="black", linewidths=0)
        numbers.set_transform(to_pixels)
        numbers.set_in_layout(False)
        axes.add_collection(numbers, autolim=False)


def _paler(colour: str, chunk: int, n_chunks: int) -> str:
    """The colour of a kind for one of a rank's chunks, numbered from the first stage on."""
    from matplotlib.colors import to_hex, to_rgb

    white = 0.6 * chunk / max(1, n_chunks - 1)
    red, green, blue = (part + (1 - part) * white for part in to_rgb(colour))
    return to_hex((red, green, blue))


def _legend(kinds: Sequence[str], n_chunks: int, back: bool, wires: bool) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    words = {WORDS[kind]: COLOURS[kind] for kind in kinds}
    if "B" in kinds and "I" in kinds:  # which have one colour
        words = {word: colour for word, colour in words.items() if word != WORDS["B"]}
        words = {f"{word}, or all of it" if word == WORDS["I"] else word: colour for word, colour in words.items()}
    handles: list[Any] = patches(words | {"bubble": BUBBLE})
    if n_chunks > 1:
        handles.append(Patch(facecolor=_paler(COLOURS[kinds[0]], 1, 2), label="paler: later chunks of the rank"))
    if back:
        handles.append(Patch(facecolor=BUBBLE, edgecolor="white", hatch=HATCH, label="from the last rank to the first"))
    if wires:
        handles.append(Line2D([], [], color=WIRE, linewidth=1, label="transfer"))
    return handles


def patches(colours: Mapping[str, str]) -> list[Any]:
    """Entries of a legend."""
    from matplotlib.patches import Patch

    return [Patch(color=colour, label=label) for label, colour in colours.items()]
