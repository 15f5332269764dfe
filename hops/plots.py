"""Pictures. matplotlib's only home; figures are made without pyplot, so nothing global is touched."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Okabe & Ito's colours, told apart by all common kinds of colour vision
COLOURS = {"F": "#56B4E9", "B": "#E69F00", "I": "#E69F00", "W": "#009E73", "REDUCE_GRAD": "#CC79A7", "UNSHARD": "#0072B2"}
WORDS = {"F": "forward", "B": "backward", "I": "backward for input", "W": "backward for weight"}
WORDS |= {"REDUCE_GRAD": "replicas reduce gradients", "UNSHARD": "replicas gather weights"}
BUBBLE, WIRE, HATCH = "#E8E8E8", "#555555", "///"


class Message(NamedTuple):
    """One transfer: sent [s] from a rank, arrived [s] at another."""

    source: int
    sent: float
    goal: int
    arrived: float


def goes_back(frame: "pd.DataFrame") -> "pd.Series[bool]":
    """Which rows of ``hops.timeline`` are of pipelines that go up the ranks: the second half of several."""
    pipeline = frame.get("pipeline", frame["microbatch"] * 0)
    return 2 * pipeline > pipeline.max()


def timeline_figure(frame: "pd.DataFrame", messages: Sequence[Message], title: str) -> "Figure":
    """Draw a timeline: a row a rank, ops by kind with their microbatch where it fits, bubbles grey, transfers as lines.

    Ops of one unit lie one above the other, those of pipelines that go up the ranks are hatched. ``frame`` as from
    ``hops.timeline``; messages that take less than a thousandth of the picture's width are left out.
    """
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    n_ranks, end = int(frame["rank"].max()) + 1, float(frame["end"].max())
    row = 0.34 if n_ranks <= 16 else 0.16  # inches
    width, height = 14.0, 1.4 + row * n_ranks
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.broken_barh([(0, end)], (-0.5, n_ranks), color=BUBBLE)

    ops = frame["microbatch"] >= 0
    units = frame[ops].groupby(["rank", "start"])["op"]
    low, high = frame["rank"] + 0.3, frame["rank"] + 0.42  # exchanges below, on a thin bar
    low, high = (
        edge.where(~ops, frame["rank"] - 0.42 + 0.84 * (units.cumcount() + i) / units.transform("size"))
        for i, edge in enumerate((low, high))
    )
    frame = frame.assign(low=low, high=high, back=goes_back(frame))

    def bars(rows: "pd.DataFrame") -> list[list[tuple[float, float]]]:
        corners = zip(rows["start"], rows["end"], rows["low"], rows["high"], strict=True)
        return [[(a, top), (b, top), (b, low), (a, low)] for a, b, top, low in corners]

    kinds = [kind for kind in COLOURS if (frame["kind"] == kind).any()]
    for kind, back in ((kind, back) for kind in kinds for back in (False, True)):
        rim = "none" if kind in ("REDUCE_GRAD", "UNSHARD") else "white"  # buckets are too thin for one
        rows = frame[(frame["kind"] == kind) & (frame["back"] == back)]
        if len(rows):
            hatch = HATCH if back else None
            axes.add_collection(PolyCollection(bars(rows), facecolors=COLOURS[kind], edgecolors=rim, linewidths=0.4, hatch=hatch))
    seen = [m for m in messages if m.arrived - m.sent > end / 1000]
    axes.add_collection(LineCollection([[(m.sent, m.source), (m.arrived, m.goal)] for m in seen], colors=WIRE, linewidths=0.5))

    size = min(8.0, 72 * row * 0.55)  # points
    for op in frame[ops].itertuples():
        tall = min(size, 72 * row * 0.65 * (op.high - op.low))
        fits = (op.end - op.start) / end * (width - 1.2) * 72 > 0.68 * tall * len(str(op.microbatch))
        if fits and tall > 4:
            middle = (op.start + op.end) / 2, (op.low + op.high) / 2
            axes.text(*middle, str(op.microbatch), ha="center", va="center", fontsize=tall, clip_on=True)

    axes.set(xlim=(0, end), ylim=(n_ranks - 0.5, -0.5), xlabel="time [s]", ylabel="rank", title=title)
    step = max(1, n_ranks // 16)
    axes.set_yticks(range(0, n_ranks, step))
    handles = [Patch(color=COLOURS[kind], label=WORDS[kind]) for kind in kinds] + [Patch(color=BUBBLE, label="bubble")]
    if frame["back"].any():
        handles.append(Patch(facecolor=BUBBLE, edgecolor="white", hatch=HATCH, label="from the last rank to the first"))
    if seen:
        handles.append(Patch(color=WIRE, label="transfer"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure
