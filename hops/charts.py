"""The pictures of a report, for a slide: one figure each, of one cell or over the axes, from the numbers of `hops.report_data`."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from hops.run_plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's colours, told apart by all common kinds of colour vision
BLUE, SKY, ORANGE, GREEN, PINK, RED, GREY, EMPTY = "#0072B2", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#9AA3AD", "#E3E6EA"
MOST_LABELLED = 12  # columns of a heat map whose cells have room for their numbers


def charts(data: dict[str, Any], title: str) -> Iterator[tuple[str, "Figure"]]:
    """Name and figure of every picture that there are numbers for; those of one cell are of the best."""
    cell = data["best"]
    at, why = data["evaluated"].index(cell), data.get("why")
    if why is not None and cell in why["cells"]:
        of = why["cells"].index(cell)
        yield "waterfall", _waterfall(why["steps"], why["waterfalls"][of], why["mfu"][of], title)
        if of < len(why["savings"]) and why["savings"][of]:
            yield "savings", _savings(why["savings"][of], title)
    if data["draws"] is not None and len(data["draws"]["histograms"][at]) > 3:
        yield "distribution", _distribution(data["draws"]["histograms"][at], data["numbers"], cell, title)
        yield "tail", _tail(data["draws"]["quantiles"], data["draws"]["tails"][at], title)
    yield "ranks", _ranks(data["ranks"]["busy"][at], title)
    if data["ranks"].get("memory", [[]])[at if "memory" in data["ranks"] else 0]:
        yield "memory", _memory(data["ranks"]["memory"][at], (why or {}).get("room", {}).get(cell, ()), title)
    if data["ledger"] is not None:
        yield "ledger", _ledger(data["ledger"]["buckets"], data["ledger"]["shares"][at], title)
    if cell in data.get("raster", {}):
        yield "raster", _raster(data["raster"][cell], title)
    if any(len(axis["labels"]) > 1 for axis in data["axes"]):
        yield "heat", _heat(data)


def _axes(title: str, xlabel: str, ylabel: str, height: float = 3.8) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), dpi=100)
    axes = figure.add_axes((0.2, 0.17, 0.76, 0.7))
    axes.set_title(title, fontsize=10, loc="left")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _bars(axes: "Axes", names: Sequence[str], left: Sequence[float], widths: Sequence[float], colours: Sequence[str]) -> None:
    axes.barh(range(len(names)), widths, left=left, color=colours, height=0.7)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()


def _waterfall(steps: Sequence[str], times: Sequence[float], mfu: Sequence[float | None], title: str) -> "Figure":
    has = mfu[0] is not None
    ends = list(accumulate(times))
    kept = [k for k, time in enumerate(times) if time or k == 0]
    figure, axes = _axes(f"{title}\nfrom ideal FLOPs to the p95 of the iteration", "time [s]", "", 1.6 + 0.28 * len(kept))
    colour = [GREEN, SKY, SKY, SKY, GREY, *[ORANGE] * (len(steps) - 7), PINK, PINK]
    names = [steps[k] if k or has else "compute" for k in kept]
    _bars(axes, names, [ends[k] - times[k] for k in kept], [times[k] for k in kept], [colour[k] for k in kept])
    for row, k in enumerate(kept):
        words = f" {times[k]:.3g} s" + (f", MFU {100 * mfu[k]:.1f} %" if has and mfu[k] is not None else "")  # type: ignore[operator]
        axes.text(max(ends[k], ends[k] - times[k]), row, words, va="center", fontsize=8)
    axes.set_xlim(0, 1.3 * max(ends))
    return figure


def _savings(rows: Sequence[Sequence[Any]], title: str) -> "Figure":
    figure, axes = _axes(f"{title}\nwhat an iteration would save, with 95 % intervals over pairs of draws", "saved [s]", "")
    means, low, high = (np.array([row[k] for row in rows], float) for k in (2, 4, 5))
    axes.barh(range(len(rows)), means, color=GREEN, height=0.6, xerr=np.abs([means - low, high - means]), ecolor="black", capsize=2)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.invert_yaxis()
    return figure


def _distribution(histogram: Sequence[float], numbers: dict[str, list[float]], cell: int, title: str) -> "Figure":
    low, high, *counts = histogram
    figure, axes = _axes(f"{title}\n{sum(counts):.0f} draws", "iteration time [s]", "draws")
    axes.stairs(counts, np.linspace(low, high, len(counts) + 1), fill=True, color=SKY)
    for q in ("0.5", "0.95", "0.99"):
        value = numbers.get(f"iteration_time@{q}", {cell: None})[cell]
        if value is not None:
            axes.axvline(value, color="black", linestyle=":", linewidth=1)
            axes.text(value, axes.get_ylim()[1], f"p{100 * float(q):g}", ha="center", va="bottom", fontsize=8)
            axes.title.set_y(1.04)
    return figure


def _tail(quantiles: Sequence[float], values: Sequence[float], title: str) -> "Figure":
    figure, axes = _axes(f"{title}\nthe tail", "draws that are slower [%]", "slower than the median [%]")
    odds = [100 * (1 - q) for q in quantiles[: len(values)]]
    axes.plot(odds, [100 * (value / values[0] - 1) for value in values], marker="o", color=BLUE)
    axes.set_xscale("log")
    axes.invert_xaxis()
    shown = [x for x in (50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1) if x >= min(odds) * 0.999]
    axes.set_xticks(shown, [f"{x:g}" for x in shown])
    axes.minorticks_off()
    axes.grid(axis="y", alpha=0.3)
    return figure


def _ranks(busy: Sequence[float], title: str) -> "Figure":
    from matplotlib.ticker import MaxNLocator

    figure, axes = _axes(f"{title}\nutilisation and bubble", "pipeline rank", "share of the makespan [%]")
    ranks = range(len(busy))
    axes.bar(ranks, busy, color=SKY, label="busy")
    axes.bar(ranks, [100 - each for each in busy], bottom=busy, color=EMPTY, label="bubble")
    axes.set(ylim=(0, 100))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(ncols=2, loc="lower right", fontsize=8)
    return figure


def _memory(held: Sequence[float], room: Sequence[float], title: str) -> "Figure":
    from matplotlib.ticker import MaxNLocator

    figure, axes = _axes(f"{title}\npeak memory of a GPU of each rank", "pipeline rank", "memory [GB]")
    axes.bar(
        range(len(held)), held, color=[ORANGE if k < len(room) and each > room[k] else SKY for k, each in enumerate(held)], label="peak"
    )
    if len(room):
        axes.hlines(room, np.arange(len(room)) - 0.45, np.arange(len(room)) + 0.45, color=RED, linewidth=2, label="capacity")
    axes.set_ylim(0, 1.25 * max(*held, *room))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(ncols=2, loc="upper right", fontsize=8)
    return figure


def _ledger(buckets: Sequence[str], shares: Sequence[float], title: str) -> "Figure":
    figure, axes = _axes(f"{title}\nwhere the time of the GPUs went", "share of GPUs x wall time [%]", "")
    kept = [(name, share) for name, share in zip(buckets, shares, strict=True) if share]
    _bars(axes, [name for name, _ in kept], [0.0] * len(kept), [share for _, share in kept], [BLUE] * len(kept))
    for row, (_, share) in enumerate(kept):
        axes.text(share, row, f" {share:.3g} %", va="center", fontsize=8)
    axes.set_xlim(0, 1.15 * max(share for _, share in kept))
    return figure


def _raster(found: dict[str, Any], title: str) -> "Figure":
    n = len(found["trials"])
    figure, axes = _axes(
        f"{title}\nwhat every trial did besides training that counts", f"wall clock [{found['unit']}]", "trial", 2.2 + 0.07 * n
    )
    for k, state in enumerate(found["states"]):
        spans = [(row, a, b) for row, trial in enumerate(found["trials"]) for a, b, what in trial if what == k]
        if spans and state != "useful":
            rows, starts, ends = zip(*spans, strict=True)
            axes.barh(rows, np.subtract(ends, starts), left=starts, height=0.85, color=COLOURS[state], label=state)
    axes.set(xlim=(0, found["end"]), ylim=(n - 0.5, -0.5))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(ncols=6, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.18 * 3.8 / figure.get_figheight()))
    return figure


def _heat(data: dict[str, Any]) -> "Figure":
    """The two longest axes; the others stay where the best cell has them."""
    sizes = [len(axis["labels"]) for axis in data["axes"]]
    longest = sorted(range(len(sizes)), key=lambda k: (-sizes[k], k))[:2]
    column, row = longest[0], longest[1] if len(longest) > 1 and sizes[longest[1]] > 1 else None
    metric = next((each for each in data["heat"] if len(set(each["values"])) > 2), data["heat"][0])  # more than null and one value
    values = np.array([np.nan if value is None else value for value in metric["values"]]).reshape(sizes)
    index = list(np.unravel_index(data["best"], sizes))
    keep = [slice(None) if k in (column, row) else int(index[k]) for k in range(len(sizes))]
    shown = values[tuple(keep)]
    shown = shown[None] if row is None else shown.T if column < row else shown
    others = ", ".join(f"{axis['name']}={axis['labels'][index[k]]}" for k, axis in enumerate(data["axes"]) if k not in (column, row))
    rows = [""] if row is None else data["axes"][row]["labels"]
    title = f"{metric['title']} [{metric['unit']}]" + (f"; {others}" if others else "")
    figure, axes = _axes(
        title, data["axes"][column]["title"], "" if row is None else data["axes"][row]["title"], 1.9 + 0.28 * min(len(rows), 30)
    )
    image = axes.imshow(shown, aspect="auto", cmap="cividis")
    axes.set_xticks(range(sizes[column]), data["axes"][column]["labels"], rotation=0 if sizes[column] <= MOST_LABELLED else 60, fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    if sizes[column] <= MOST_LABELLED:
        middle = (np.nanmin(shown) + np.nanmax(shown)) / 2
        for (y, x), value in np.ndenumerate(shown):
            if np.isfinite(value):
                axes.text(x, y, f"{value:.4g}", ha="center", va="center", fontsize=8, color="white" if value <= middle else "black")
    figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    return figure
