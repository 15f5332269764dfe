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
BUBBLE, WIRE = "#E8E8E8", "#555555"


class Message(NamedTuple):
    """One transfer: sent [s] from a rank, arrived [s] at another."""

    source: int
    sent: float
    goal: int
    arrived: float


def timeline_figure(frame: "pd.DataFrame", messages: Sequence[Message], title: str) -> "Figure":
    """Draw a timeline: a row a rank, ops by kind with their microbatch where it fits, bubbles grey, transfers as lines.

    ``frame`` as from ``hops.timeline``; messages that take less than a thousandth of the picture's width are left out.
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

    def bars(rows: "pd.DataFrame") -> list[list[tuple[float, float]]]:
        corners = zip(rows["start"], rows["end"], rows["rank"], rows["microbatch"], strict=True)
        tops = [(a, b, r + (0.3 if k < 0 else -0.42), r + 0.42) for a, b, r, k in corners]  # exchanges below, on a thin bar
        return [[(a, top), (b, top), (b, low), (a, low)] for a, b, top, low in tops]

    kinds = [kind for kind in COLOURS if (frame["kind"] == kind).any()]
    for kind in kinds:
        rim = "none" if kind in ("REDUCE_GRAD", "UNSHARD") else "white"  # buckets are too thin for one
        axes.add_collection(PolyCollection(bars(frame[frame["kind"] == kind]), facecolors=COLOURS[kind], edgecolors=rim, linewidths=0.4))
    seen = [m for m in messages if m.arrived - m.sent > end / 1000]
    axes.add_collection(LineCollection([[(m.sent, m.source), (m.arrived, m.goal)] for m in seen], colors=WIRE, linewidths=0.5))

    size = min(8.0, 72 * row * 0.55)  # points
    for op in frame[frame["microbatch"] >= 0].itertuples():
        fits = (op.end - op.start) / end * (width - 1.2) * 72 > 0.68 * size * len(str(op.microbatch))
        if fits and size > 4:
            axes.text((op.start + op.end) / 2, op.rank, str(op.microbatch), ha="center", va="center", fontsize=size, clip_on=True)

    axes.set(xlim=(0, end), ylim=(n_ranks - 0.5, -0.5), xlabel="time [s]", ylabel="rank", title=title)
    step = max(1, n_ranks // 16)
    axes.set_yticks(range(0, n_ranks, step))
    handles = [Patch(color=COLOURS[kind], label=WORDS[kind]) for kind in kinds] + [Patch(color=BUBBLE, label="bubble")]
    if seen:
        handles.append(Patch(color=WIRE, label="transfer"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure
