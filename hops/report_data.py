"""What a report shows of a cube, as plain numbers: those that the cube has, and why iterations take as long, which is evaluated anew."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from hops.attribution import attributed
from hops.causes import STEPS, waterfalls
from hops.checks import Infeasible
from hops.executor import Executor
from hops.histories import cell_histories, states_frame
from hops.lookup import cell_draws
from hops.plan import Prepared, label
from hops.plots import time_unit
from hops.run_plots import COLOURS, shares
from hops.savings import candidates, savings_of
from hops.simulation import Case
from hops.weights import TICKS, Floats

N_BINS = 40  # of a histogram
TAIL = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)  # quantiles of the picture of tails
MOST_DRAWS = 256  # that the critical path is followed in, and savings are estimated from
# nodes times draws that a report evaluates anew for paths, and for savings: some 1 s of one core each; the best cells come first
MOST_WORK, MOST_SAVED, EACH = 5e8, 5e8, 3e5  # EACH: what an evaluation takes however small
MOST_SAVINGS = 6  # a cell
MOST_RASTERS, MOST_TRIALS, N_COLUMNS = 6, 30, 240  # cells and trials whose states are shown, and in how many parts of the time
LEAST = 0.02  # share of such a part from which on it counts as something else than training
# what a heat map can show: variable, title, unit, factor
HEAT = (
    ("goodput_fraction_mean", "goodput, of that without failures", "%", 100.0),
    ("throughput_mean", "throughput", "samples/s", 1.0),
    ("iteration_time", "iteration time, median", "s", 1.0),
    ("mfu_mean", "MFU", "%", 100.0),
    ("bubble_fraction_mean", "bubble", "%", 100.0),
    ("peak_memory", "fullest GPU", "GB", 1e-9),
    ("ettr_mean", "ETTR", "%", 100.0),
)


def report_data(cube: xr.Dataset, prepared: Prepared | None) -> dict[str, Any]:
    """All numbers of a report; cells row-major. Without ``prepared`` those that need the cells anew are left out."""
    dims = [str(dim) for dim in cube["evaluated"].dims]
    evaluated = cube["evaluated"].values.ravel()
    cells = np.flatnonzero(evaluated)
    numbers = {name: _flat(cube, name) for name in _headline(cube)}
    best = _best(cube, cells)
    data: dict[str, Any] = {
        "axes": [_axis(cube, dim) for dim in dims],
        "evaluated": cells.tolist(),
        "best": best,
        "numbers": {name: _numbers(values) for name, values in numbers.items()},
        "heat": [
            {"title": title, "unit": unit, "values": _numbers(factor * _flat(cube, name))}
            for name, title, unit, factor in HEAT
            if name in cube
        ],
        "draws": _draws(cube, cells),
        "ranks": _ranks(cube, cells),
        "ledger": _ledger(cube, cells),
        "attributes": {
            key: str(cube.attrs[key]) for key in ("created_utc", "hops_version", "git_sha", "overrides", "notes") if key in cube.attrs
        },
    }
    if prepared is not None:
        data["why"] = _why(cube, prepared, best)
        data["raster"] = _rasters(prepared, data["why"]["cells"][:MOST_RASTERS])
    return data


def _headline(cube: xr.Dataset) -> list[str]:
    """Variables of the table: one number a cell."""
    names = [
        "iteration_time_mean",
        "iteration_time_standard_error",
        "throughput_mean",
        "mfu_mean",
        "bubble_fraction_mean",
        "tokens_per_second_mean",
    ]
    names += [
        "goodput_fraction_mean",
        "goodput_fraction_standard_error",
        "ettr_mean",
        "n_failures_mean",
        "headroom",
        "fits",
        "peak_memory",
        "n_draws",
    ]
    found = [name for name in names if name in cube]
    if "quantile" in cube["iteration_time"].dims:
        found += [
            f"{name}@{q:g}"
            for name in ("iteration_time", "iteration_time_low", "iteration_time_high")
            if name in cube
            for q in (0.5, 0.95, 0.99)
            if q in cube["quantile"]
        ]
    else:
        found += [f"iteration_time@{q:g}" for q in (0.5, 0.95, 0.99)]
    return found


def _flat(cube: xr.Dataset, name: str) -> Floats:
    """A value a cell, row-major: of a quantile that is asked for, or the median; of ranks the largest."""
    name, _, q = name.partition("@")
    values = cube[name]
    if "draw" in values.dims:
        values = values.quantile(float(q or 0.5), "draw")
    if "quantile" in values.dims:
        values = values.sel(quantile=float(q or 0.5))
    if "rank" in values.dims:
        values = values.max("rank")
    found: Floats = values.values.astype(float).ravel()
    return found


def _best(cube: xr.Dataset, cells: np.ndarray[Any, Any]) -> int:
    """The cell to open with: most goodput, else throughput, of those that fit if any do."""
    name = "goodput_mean" if "goodput_mean" in cube else "throughput_mean"
    values = _flat(cube, name)[cells]
    if "fits" in cube and cube["fits"].values.any():
        values = np.where(cube["fits"].values.ravel()[cells], values, -np.inf)
    return int(cells[int(np.nanargmax(np.where(np.isfinite(values), values, -np.inf)))])


def _axis(cube: xr.Dataset, dim: str) -> dict[str, Any]:
    """Name and labels of an axis; where several keys advance together all of them."""
    coords = {str(name): coord.values.tolist() for name, coord in cube.coords.items() if coord.dims == (dim,)}
    labels = [" ".join(label(each) for each in together) for together in zip(*coords.values(), strict=True)]
    units = {name: cube.coords[name].attrs.get("units", "1") for name in coords}
    return {
        "name": ", ".join(coords),
        "title": ", ".join(name if units[name] == "1" else f"{name} [{units[name]}]" for name in coords),
        "labels": labels,
    }


def _numbers(values: Iterable[float], digits: int = 6) -> list[float | None]:
    """As JSON has them: five or six digits, null for what is not a number."""
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in np.asarray(values, float).tolist()]


def _draws(cube: xr.Dataset, cells: np.ndarray[Any, Any]) -> dict[str, Any] | None:
    """Histograms over one range for all cells would show nothing of most: each has its own. And the quantiles of the tail."""
    histograms, tails = [], []
    for cell in cells:
        draws = cell_draws(cube, cell)
        if draws is None:
            return None
        draws = draws[np.isfinite(draws)]
        low, high = float(draws.min()), float(draws.max())
        counts = np.histogram(draws, N_BINS, (low, high))[0] if high > low else np.array([draws.size])
        histograms.append([*_numbers([low, high]), *counts.tolist()])
        known = [q for q in TAIL if draws.size * (1 - q) >= 1 - 1e-9]
        tails.append(_numbers(np.quantile(draws, known)) if high > low else [])
    return {"histograms": histograms, "tails": tails, "quantiles": list(TAIL)}


def _ranks(cube: xr.Dataset, cells: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Per rank and cell: share of the makespan that is busy, that messages expose, and memory [GB]."""

    def rows(name: str, factor: float = 1.0) -> list[list[float | None]]:
        values = cube[name]
        values = values.mean("draw") if "draw" in values.dims else values
        flat = factor * values.values.reshape(-1, cube.sizes["rank"])[cells]
        return [_numbers(row[~np.isnan(row)], 4) for row in flat]

    found: dict[str, Any] = {"busy": rows("utilization", 100.0), "exposed": rows("exposed_communication")}
    return found | ({"memory": rows("peak_memory", 1e-9)} if "peak_memory" in cube else {})


def _ledger(cube: xr.Dataset, cells: np.ndarray[Any, Any]) -> dict[str, Any] | None:
    if "ledger" not in cube:
        return None
    spent = cube["ledger"].mean("trial") if "trial" in cube["ledger"].dims else cube["ledger"]
    values = spent.values.reshape(-1, cube.sizes["bucket"])[cells]
    return {"buckets": cube["bucket"].values.tolist(), "shares": [_numbers(100 * row / row.sum(), 4) for row in values]}


def _why(cube: xr.Dataset, prepared: Prepared, best: int) -> dict[str, Any]:
    """Waterfalls, critical paths and savings of as many cells as `MOST_WORK` allows, and memory of the GPUs; by position of the cell."""
    executor, at = prepared.plan.executor, dict(zip(prepared.cells, prepared.cases, strict=True))
    order = sorted(at, key=lambda cell: (cell != best, -float(np.nan_to_num(_flat(cube, "throughput_mean")[cell]))))
    cases = {cell: _fewer(at[cell]) for cell in order}
    sizes = [case.structure.graph.rank.size * case.n_lanes * case.scenario.draws + EACH for case in cases.values()]
    n_chosen = max(1, int(np.searchsorted(np.cumsum([2 * size for size in sizes]), MOST_WORK)))
    n_saved, work = 0, 0.0
    for case, size in zip(cases.values(), sizes, strict=True):
        work += size if size > MOST_SAVED else (1 + len(candidates(case))) * size
        if work > MOST_SAVED:
            break
        n_saved += 1
    cases = dict(list(cases.items())[:n_chosen])
    levels = [_levels(cube, cell, case) for cell, case in cases.items()]
    found = waterfalls(list(cases.values()), levels, executor)
    return {
        "cells": list(cases),
        "left_out": len(order) - n_chosen,
        "steps": list(STEPS),
        "waterfalls": [_numbers(each.seconds) for each in found],
        "mfu": [_numbers(each.mfu, 4) for each in found],
        "paths": [_path(case, executor) for case in cases.values()],
        "savings": [
            [[each.name, each.meaning, *_numbers(each[1:6], 4), *_numbers([100 * each.share], 3)] for each in row[:MOST_SAVINGS]]
            for row in savings_of(list(cases.values())[: min(n_saved, n_chosen)], executor)
        ],
        "room": {cell: _numbers([1e-9 * each for each in case.weights.room], 4) for cell, case in cases.items()},
        "titles": {cell: _title(case) for cell, case in cases.items()},
    }


def _fewer(case: Case) -> Case:
    return case._replace(scenario=replace(case.scenario, draws=min(case.scenario.draws, MOST_DRAWS), training=None))


def _levels(cube: xr.Dataset, cell: int, case: Case) -> tuple[int, int]:
    """Median and p95 of a cell's iterations [ticks, of all batches], from the draws of the cube."""
    times = [float(_flat(cube, f"iteration_time@{q}")[cell]) if _has(cube, q) else float("nan") for q in (0.5, 0.95)]
    times[1] = times[1] if np.isfinite(times[1]) else times[0]
    return int(times[0] * TICKS * case.n_batches + 0.5), int(times[1] * TICKS * case.n_batches + 0.5)


def _has(cube: xr.Dataset, q: float) -> bool:
    return "draw" in cube["iteration_time"].dims or q in cube["quantile"].values


def _path(case: Case, executor: Executor) -> dict[str, Any] | None:
    """Shares of the iteration [%] on the critical path: by rank that computes, by class of link, and the rest; None where there is none."""
    try:
        found = attributed(case, executor)
    except Infeasible:
        return None
    whole = found.ticks.sum()
    shares: dict[str, float] = {}
    for part, ticks in zip(found.parts, found.ticks.sum(axis=1), strict=True):
        name = {
            "compute": f"rank {part.rank}",
            "link": f"messages over {part.path}",
            "host": "hosts",
            "reduce": "reduce gradients",
            "gather": "gather weights",
        }.get(part.kind, part.kind)
        shares[name] = shares.get(name, 0.0) + 100 * float(ticks) / float(whole)
    return {name: value for name, value in zip(shares, _numbers([*shares.values()], 4), strict=True) if value}


def _title(case: Case) -> str:
    s = case.scenario
    sizes = f"pp={s.pp}, microbatches={s.microbatches}, microbatch_size={s.microbatch_size}, gpus={s.layout.n_gpus}"
    return f"{s.schedule.name} on {case.weights.cluster.name}: {sizes}"


def _rasters(prepared: Prepared, cells: Iterable[int]) -> dict[int, dict[str, Any]]:
    """States of some trials of training runs: spans (from, to, state) where something else than useful training took its share."""
    found = {}
    for cell in cells:
        case = prepared.cases[prepared.cells.index(cell)]
        training = case.scenario.training
        if training is None or training.run.tier == "analytic":
            continue
        frames = [states_frame(each) for each in cell_histories(case, prepared.plan.executor, range(min(training.trials, MOST_TRIALS)))]
        end = max(float(frame["end"].iloc[-1]) for frame in frames)
        unit, size = time_unit(end)
        trials = [_spans(shares(frame, 0.0, end, N_COLUMNS), end / size / N_COLUMNS) for frame in frames]
        found[cell] = {"states": list(COLOURS), "end": end / size, "unit": unit, "trials": trials}
    return found


def _spans(parts: Floats, width: float) -> list[list[float]]:
    """Of each part what took most time besides useful training, and spans of the same."""
    besides = parts.copy()
    besides[list(COLOURS).index("useful")] = 0
    state = np.where(besides.sum(axis=0) > LEAST, besides.argmax(axis=0), np.where(parts.sum(axis=0) > 0, 0, -1))
    cuts = [0, *(np.flatnonzero(np.diff(state)) + 1).tolist(), state.size]
    return [[*(float(f"{width * k:.5g}") for k in (a, b)), int(state[a])] for a, b in pairwise(cuts) if state[a] >= 0]
