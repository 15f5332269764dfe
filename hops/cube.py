"""Cubes: from evaluated cells to a labelled Dataset, to a file, and back."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import hops.accessor  # noqa: F401 - dataset.hops
from hops.checks import Infeasible
from hops.countdown import Countdown
from hops.executor import evaluate
from hops.files import replacing
from hops.memory import headroom
from hops.metrics import statistics
from hops.netcdf import whole_length
from hops.plan import Axis, Plan, Prepared, dim_names, label
from hops.scenario import Scenario
from hops.settle import settled
from hops.variables import ALL, INTERVALS, KEY_UNITS, NONE, SOME, SUFFIXES, VARIABLES, attributes

FORMAT = "1"
MOST_BYTES = 2**31  # of a variable in netCDF 3
MOST_KEPT = 2**24  # draws of `INTERVALS`, of all cells, that a cube keeps to compare them in pairs: 134 MB
SHARED_LINKS = {
    "long_name": "what becomes of traffic that meets on links",
    "source": "none: none do; ignored; planned, fifo, fair: as config key contention says",
}
FITS = {"long_name": "peak memory of every rank fits its GPU; false where there is none to compare"}


def cell_dataset(prepared: Prepared) -> xr.Dataset:
    """Evaluate a plan of one cell; dims ``draw`` and ``rank``, of a training run ``trial`` and ``bucket`` too."""
    prepared = settled(prepared)
    kept = prepared.plan.keep_draws
    (outcome,) = evaluate(prepared.cases, prepared.plan.executor, kept)
    case = prepared.cases[0]
    data: dict[str, Any] = {name: ("draw", values[0], attributes(name)) for name, values in outcome.per_draw.items()}
    ranks = ("draw", "rank") if kept else ("rank",)
    data |= {name: (ranks, values[0].T, attributes(name, kept)) for name, values in outcome.per_rank.items()}
    data["peak_in_flight"] = ("rank", np.array(case.structure.in_flight, float), attributes("peak_in_flight"))
    held = case.memory
    if held is not None:
        left = headroom(held, case.weights.room)
        data["peak_memory"] = ("rank", np.array([memory.total for memory in held]), attributes("peak_memory"))
        data["headroom"] = ((), left, attributes("headroom"))
        data["fits"] = ((), left >= 0, FITS)
    coords = {"draw": _draws(case.scenario.draws), "rank": _ranks(case.scenario.pp)}
    if case.scenario.training is not None:
        from hops.run_variables import cell_variables, run_of  # 12 ms that nobody else needs

        added, more = cell_variables(run_of(prepared.cases, outcome, prepared.plan.executor))
        data, coords = data | added, coords | more
    return xr.Dataset(data, coords, provenance(prepared.plan) | {"contention": case.contention})


def cube_dataset(prepared: Prepared) -> xr.Dataset:
    """Evaluate all cells of a plan; dims: the axes in the order typed, then ``quantile`` or, if they are kept, ``draw``; ``rank``.

    Cells that were left out are NaN, with ``evaluated`` False; so are draws and ranks that a cell has fewer of than others.
    """
    prepared = settled(prepared)
    plan, cases = prepared.plan, prepared.cases
    axes, shape = dim_names(plan.dims), plan.shape
    # before anything is evaluated: a coordinate that cannot be written is found now
    coords: dict[str, Any] = {axis.name: _coordinate(axis, name) for dim, name in zip(plan.dims, axes, strict=True) for axis in dim}
    n_ranks, n_draws = max(case.scenario.pp for case in cases), max(case.scenario.draws for case in cases)
    coords["rank"] = _ranks(n_ranks)
    keep = keeps(plan, n_draws)
    coords |= ({} if plan.keep_draws else {"quantile": _quantiles(plan.quantiles)}) | ({} if keep == NONE else {"draw": _draws(n_draws)})
    sizes = {"rank": n_ranks, "draw": n_draws, "quantile": len(plan.quantiles)}
    columns: dict[str, tuple[tuple[str, ...], np.ndarray[Any, Any]]] = {}  # name -> dims besides the axes, values of all cells

    def put(name: str, dims: tuple[str, ...], cells: list[int], values: np.ndarray[Any, Any]) -> None:
        if name not in columns:
            columns[name] = dims, np.full((len(plan.scenarios), *(sizes[dim] for dim in dims)), np.nan)
        into: Any = ([prepared.cells[i] for i in cells], *map(slice, values.shape[1:]))
        columns[name][1][into] = values

    n_trials = max((case.scenario.training.trials for case in cases if case.scenario.training), default=0)
    if n_trials:
        from hops.run_variables import bucket_names, run_columns, runs_of, trial_numbers, trials_left  # 12 ms that nobody else needs

        keep_trials = keeps(plan, n_trials)
        coords |= {"bucket": bucket_names()} | ({} if keep_trials == NONE else {"trial": trial_numbers(n_trials)})
        sizes |= {"trial": n_trials, "bucket": len(coords["bucket"][1])}
    unfinished = list[str]()
    with trials_left(cases) if n_trials else Countdown("cells", len(cases)) as countdown:
        for outcome in evaluate(cases, plan.executor, plan.keep_draws):
            for i, runs in runs_of(cases, outcome, plan.executor, countdown) if n_trials else ():
                if isinstance(runs, Infeasible):
                    if plan.strict:
                        raise runs
                    unfinished.append(str(runs))
                    continue
                for name, dims, found in run_columns(runs, plan.quantiles, keep_trials):
                    put(name, dims, [i], found[None])
            batch = [cases[i] for i in outcome.cells]
            certain = np.array([not case.noisy for case in batch])
            for name, draws in outcome.per_draw.items():
                if name in INTERVALS and keep == SOME:
                    put(f"{name}_draws", ("draw",), outcome.cells, draws)
                for suffix, values in statistics(draws, plan.quantiles, certain, name in INTERVALS and keep != ALL).items():
                    if suffix:
                        put(name + suffix, ("quantile",) * (values.ndim - 1), outcome.cells, values)
                    elif plan.keep_draws:
                        put(name, ("draw",), outcome.cells, draws)
                    else:
                        put(name, ("quantile",), outcome.cells, values)
            for name, ranks in outcome.per_rank.items():
                dims = ("draw", "rank") if plan.keep_draws else ("rank",)
                put(name, dims, outcome.cells, ranks.swapaxes(1, -1) if plan.keep_draws else ranks)
            put("n_draws", (), outcome.cells, np.array([float(case.scenario.draws) for case in batch]))
            put("peak_in_flight", ("rank",), outcome.cells, np.array([case.structure.in_flight for case in batch], float))
            for i, case in zip(outcome.cells, batch, strict=True):
                held = case.memory
                if held is not None:
                    put("peak_memory", ("rank",), [i], np.array([[memory.total for memory in held]]))
                    put("headroom", (), [i], np.array([headroom(held, case.weights.room)]))
            if not n_trials:
                countdown.tick(len(outcome.cells))

    data: dict[str, Any] = {
        name: ([*axes, *dims], values.reshape(shape + values.shape[1:]), attributes(name, plan.keep_draws))
        for name, (dims, values) in columns.items()
    }
    evaluated = np.zeros(len(plan.scenarios), bool)
    evaluated[list(prepared.cells)] = True
    meaning = {"long_name": "cell was evaluated; others do not fit or were not asked for, and are NaN"}
    data["evaluated"] = (axes, evaluated.reshape(shape), meaning)
    words = np.full(len(plan.scenarios), "", object)
    words[list(prepared.cells)] = [case.contention for case in cases]
    data["shared_links"] = (axes, words.reshape(shape), SHARED_LINKS)
    if "headroom" in columns:
        data["fits"] = (axes, (columns["headroom"][1] >= 0).reshape(shape), FITS)
    order = [name + suffix for name in VARIABLES for suffix in ("", *SUFFIXES) if name + suffix in data]
    last = [name for name in ("fits", "shared_links", "evaluated") if name in data]
    word = {case.contention for case in cases}
    attrs = provenance(plan) | {"contention": word.pop() if len(word) == 1 else "mixed"}
    told = [f"{len(unfinished)} of {len(plan.scenarios)} cells without their training run: {unfinished[0]}"] if unfinished else []
    for name, of, n in (("iteration_time", "draws", n_draws), ("goodput_fraction", "trials", n_trials)):
        if n and keeps(plan, n) == NONE:
            needs = f"{len(plan.scenarios)} cells x {n} {of} are more than the {MOST_KEPT} that a cube keeps"
            told.append(f"{name}_{of} left out, so cells cannot be compared in pairs: {needs} (output.keep=draws keeps all)")
    if told:
        attrs["notes"] = "\n".join(filter(None, [attrs.get("notes"), *told]))
    return xr.Dataset({name: data[name] for name in [*order, *last]}, coords, attrs)


def keeps(plan: Plan, n: int) -> str:
    """Of which metrics a cube of ``plan`` keeps every one of ``n`` draws, or trials: see `hops.variables.SOME`."""
    return ALL if plan.keep_draws else SOME if len(plan.scenarios) * n <= MOST_KEPT else NONE


def _draws(n: int) -> tuple[str, Any, dict[str, str]]:
    return ("draw", np.arange(n), {"long_name": "sampled iteration"})


def _ranks(n: int) -> tuple[str, Any, dict[str, str]]:
    return ("rank", np.arange(n), {"long_name": "pipeline rank"})


def _quantiles(values: Sequence[float]) -> tuple[str, Any, dict[str, str]]:
    return ("quantile", np.array(values), {"long_name": "quantile over draws", "units": "1"})


def _coordinate(axis: Axis, dim: str) -> tuple[str, Any, dict[str, str]]:
    """Values of an axis as netCDF 3 takes them: numbers that int32 or float64 hold exactly, booleans, else text."""
    attrs = {"hydra_key": axis.key, "long_name": axis.key}
    kinds = {type(value) for value in axis.values}
    if axis.key in KEY_UNITS or kinds <= {int, float}:
        attrs["units"] = KEY_UNITS.get(axis.key, "1")
    if kinds == {bool}:
        return (dim, np.array(axis.values), attrs)
    if kinds == {int} and max(map(abs, axis.values)) < 2**31:
        return (dim, np.array(axis.values, np.int64), attrs)
    if kinds <= {int, float} and all(isinstance(value, float) or abs(value) <= 2**53 for value in axis.values):
        return (dim, np.array(axis.values, np.float64), attrs)
    return (dim, np.array([label(value) for value in axis.values], object), attrs)


def provenance(plan: Plan) -> dict[str, str]:
    """Attributes that recreate a result: version, source, composed config, overrides, seed, libraries. Text only (netCDF 3)."""
    cells = [scenario for scenario in plan.scenarios if isinstance(scenario, Scenario)]
    terms = [dict(term.params) for latency in {cell.latency for cell in cells} for term in latency.terms if term]
    found: dict[str, Any] = {
        "title": "HOPS result cube" if plan.axes else "HOPS result",
        "Conventions": "CF-1.11",
        "hops_format": FORMAT,
        "hops_version": version("hops"),
        **_git(),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": plan.config,
        "overrides": plan.overrides,
        "config_name": plan.config_name,
        "config_dirs": plan.config_dirs or None,
        "seed": "an axis" if any(axis.key == "seed" for axis in plan.axes) else cells[0].seed,
        "notes": plan.notes or None,
        "samples": sorted({f"{term['file']}: blake2b {term['digest']}" for term in terms if "digest" in term}) or None,
        "orders": sorted({f"{cell.schedule.kwargs['path']}: blake2b {cell.schedule.version}" for cell in cells if cell.schedule.version})
        or None,
        "python": platform.python_version(),
        **{f"{name}_version": version(name) for name in ("numpy", "numba", "xarray", "scipy", "hydra-core")},
    }
    return attribute_text(found)


def attribute_text(attrs: Mapping[str, Any]) -> dict[str, str]:
    """Attributes as netCDF 3 takes them: text; lists joined by newlines, None left out."""
    joined = {key: "\n".join(map(str, value)) if isinstance(value, (list, tuple)) else value for key, value in attrs.items()}
    return {key: str(value) for key, value in joined.items() if value is not None}


def _git() -> dict[str, str]:
    """Commit of the checkout that the package runs from, and whether package or presets differ from it; empty when installed."""
    root = Path(__file__).parents[1]

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if ask("ls-files", "--error-unmatch", str(Path(__file__))) is None:
        return {}
    sha, changed = ask("rev-parse", "HEAD"), ask("status", "--porcelain", "hops", "conf", "sweeps")
    return {"git_sha": sha, "git_dirty": "yes" if changed else "no"} if sha else {}


def check_file(prepared: Prepared) -> None:
    """Refuse a cube whose variables a file cannot hold."""
    n_draws, n_ranks = (max(getattr(case.scenario, key) for case in prepared.cases) for key in ("draws", "pp"))
    n_cells = len(prepared.plan.scenarios)
    largest = 8 * n_cells * n_ranks * (n_draws if prepared.plan.keep_draws else 1)
    if largest > MOST_BYTES:
        kept = f", {n_draws} draws" if prepared.plan.keep_draws else ""
        raise ValueError(
            f"{n_cells} cells{kept} and {n_ranks} ranks make variables of {largest / 1e9:.3g} GB; a netCDF file holds "
            f"{MOST_BYTES / 1e9:.3g} GB each (try fewer{' draws, or output.keep=quantiles' if kept else ' cells'})"
        )


def write_cube(dataset: xr.Dataset, path: Path) -> None:
    """Write netCDF: at no moment is there a file at ``path`` that is not whole (`hops.files.replacing`)."""
    with replacing(path) as temporary:
        dataset.to_netcdf(temporary, engine="scipy")


def open_cube(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a cube (a ``cube.nc``, or the folder that holds it) into memory and check it; ``ValueError`` says what is wrong."""
    file = Path(path)
    file = file / "cube.nc" if file.is_dir() else file
    if not file.exists():
        raise ValueError(f"no cube at {file} (a run writes results/<run>/cube.nc; did it use another hydra.sweep.dir?)")
    try:
        with file.open("rb") as opened:
            whole = whole_length(opened)
        if file.stat().st_size != whole:
            raise ValueError(f"it has {file.stat().st_size} bytes, and whole it has {whole} (was a copy or a download cut off?)")
        dataset = xr.load_dataset(file, engine="scipy")
    except (ValueError, TypeError, OSError, EOFError, KeyError, IndexError) as error:
        raise ValueError(f"{file} is not a readable netCDF file: {error}") from error
    found = dataset.attrs.get("hops_format")
    if found != FORMAT:
        raise ValueError(
            f"{file} is {'no HOPS cube' if found is None else f'a HOPS cube of format {found}'}; this version reads format {FORMAT}"
        )
    return dataset
