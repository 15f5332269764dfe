"""What a cube says of its cells: labels, values, draws, and the words that make them. Unknown names are refused with the nearest."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from hops.checks import nearest, no_such
from hops.plan import label
from hops.variables import VARIABLES
from hops.weights import Floats
from hops.where import where as condition

type Asked = xr.DataArray | str | None  # which cells count: see `asked`

MOST_LABELS = 20  # that a sentence lists
OVER_TIME = ("throughput", "tokens_per_second", "mfu", "hfu", "flops_per_gpu")  # a constant of the cell over iteration_time


def axes_of(cube: xr.Dataset) -> list[Hashable]:
    """Dims of a cube's axes."""
    if "evaluated" not in cube:
        raise ValueError("a comparison needs a cube (hops.sweep_cube, hops.open_cube); this is one cell with its draws")
    return list(cube["evaluated"].dims)


def labels_of(cube: xr.Dataset) -> dict[str, xr.DataArray]:
    """Labels of the axes by name; axes that advance together share a dim."""
    axes = axes_of(cube)
    return {str(name): coord for name, coord in cube.coords.items() if len(coord.dims) == 1 and coord.dims[0] in axes}


def position(cube: xr.Dataset, axis: str, label: Any) -> tuple[Hashable, int]:
    """Dim and position of a label of an axis; ``ValueError`` names the nearest."""
    known = labels_of(cube)
    if axis not in known:
        raise no_such("axis of this cube", axis, known)
    values = known[axis].values.tolist()
    same = type(label) is bool  # True is no 1
    found = [i for i, value in enumerate(values) if (value == label and (type(value) is bool) == same) or str(value) == str(label)]
    if len(found) == 1:
        return known[axis].dims[0], found[0]
    if found:
        raise ValueError(f"{axis}={label} stands {len(found)} times along {known[axis].dims[0]} (name another of its axes)")
    if len(values) <= MOST_LABELS:
        raise no_such(f"label of {axis}", label, map(str, values))
    if isinstance(label, (int, float)) and all(isinstance(value, (int, float)) for value in values):
        close: Any = min(values, key=lambda value: abs(value - label))
    else:
        close = nearest(label, map(str, values)) or values[0]
    raise ValueError(f"no label of {axis} named {str(label)!r}; did you mean {str(close)!r}? (it has {len(values)} labels)")


def asked(cube: xr.Dataset, where: Asked) -> NDArray[np.bool_]:
    """Cells that were evaluated and that ``where`` asks for: True and False over axes, or words (``fits and pp < 16``).

    Words may be of axes, and of all that a cube has one of a cell: ``fits``, ``headroom``, ``mfu_mean``.
    """
    axes, evaluated = axes_of(cube), cube["evaluated"]
    if where is None:
        return np.asarray(evaluated.values)
    if isinstance(where, xr.DataArray):
        if where.dtype != bool or not set(where.dims) <= set(axes):
            over = ", ".join(map(str, axes))
            raise ValueError(f"where must be True or False over axes of the cube ({over}); got {where.dtype} over {where.dims}")
        for dim in where.dims:
            if where.sizes[dim] != cube.sizes[dim] or (dim in where.coords and not where[dim].equals(cube[dim])):
                raise ValueError(f"where has other labels of {dim} than the cube (build it from the same cube, such as cube.fits)")
        return np.asarray((where & evaluated).transpose(*axes).values)
    if not isinstance(where, str):
        raise ValueError(f"where must be words such as 'fits and pp < 16', or True and False over the axes; got {where!r}")
    of_cells = [str(name) for name in cube.data_vars if set(cube[name].dims) <= set(axes) and not str(name).endswith(("_std", "_error"))]
    names = [*labels_of(cube), *of_cells]
    test = condition(where, names, "where")
    used = {name: cube[name].broadcast_like(evaluated).transpose(*axes).values for name in names if name in where}
    found = np.zeros(evaluated.shape, bool)
    for cell in map(tuple, np.argwhere(evaluated.values)):
        found[cell] = test({name: values[cell].item() if hasattr(values[cell], "item") else values[cell] for name, values in used.items()})
    return found


def direction(metric: str) -> int:
    """1 where one wants the most of a metric, -1 where the least; ``ValueError`` where nobody can say."""
    if not VARIABLES[metric].best:
        raise ValueError(f"whether more of {metric} is better, or less, nobody can say ({VARIABLES[metric].long_name})")
    return 1 if VARIABLES[metric].best == "most" else -1


def quantile_of(statistic: str | float) -> float | None:
    """The quantile that "p95", "median" or 0.95 means; None: the mean."""
    if statistic == "mean":
        return None
    text = "p50" if statistic == "median" else statistic
    try:
        q = float(text[1:]) / 100 if isinstance(text, str) and text.startswith("p") else float(text)
    except (TypeError, ValueError):
        q = float("nan")
    if isinstance(statistic, bool) or not 0 <= q <= 1:
        raise ValueError(f"statistic must be mean, a quantile such as p95, or a number from 0 to 1 such as 0.95; got {statistic!r}")
    return q


def value_of(cube: xr.Dataset, metric: str, q: float | None) -> xr.DataArray:
    """Mean (None) or quantile of a metric in every cell, dims of the axes; of a rank's metric that of the worst rank."""
    axes, known = axes_of(cube), [name for name in VARIABLES if name in cube and name != "ledger"]
    if metric not in known:
        raise no_such("metric", metric, known)
    kept = next((dim for dim in ("draw", "trial") if dim in cube[metric].dims), None)
    if q is None or VARIABLES[metric].per in ("rank", "cell"):
        found = cube[f"{metric}_mean"] if f"{metric}_mean" in cube else cube[metric].mean(kept) if kept else cube[metric]
    elif "quantile" in cube[metric].dims and np.isclose(cube["quantile"], q, rtol=0, atol=1e-12).any():
        found = cube[metric].isel(quantile=int(np.abs(cube["quantile"].values - q).argmin()), drop=True)
    elif metric in compared(cube):
        draws = draws_of(cube, metric)[0]
        of_trials = VARIABLES[metric].per == "trial"  # values that occur, as `hops.ledger.over_trials`
        found = draws.quantile(q, "draw", method="inverted_cdf" if of_trials else "linear", skipna=True).drop_vars("quantile")
    else:
        have = ", ".join(f"{each:g}" for each in cube["quantile"].values) if "quantile" in cube[metric].dims else "only its mean"
        raise ValueError(f"the cube has no {q:g} quantile of {metric} (it has {have}; try output.quantiles=[0.5,{q:g}])")
    if "rank" in found.dims:
        found = found.max("rank") if direction(metric) < 0 else found.min("rank")
    return found.transpose(*axes)


def draws_of(cube: xr.Dataset, metric: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Every draw of a metric, dims of the axes, perhaps ``rank``, then ``draw``; and which cells do not vary, so that one draw is all.

    What is a constant over the iteration time is found from its draws and its own mean.
    """
    axes, known = axes_of(cube), compared(cube)
    if metric not in known:
        if metric in VARIABLES and metric in cube:
            have = f"it has those of {', '.join(known)}" if known else "nor those of iteration_time"
            raise ValueError(f"the cube has no draws of {metric}, which pairs need; {have} (try output.keep=draws)")
        raise no_such("metric with draws", metric, known)
    name = known[metric]
    if metric in OVER_TIME and name != metric:
        times = cube[name]
        draws = (cube[f"{metric}_mean"] / (1 / times).mean("draw")) / times
    else:
        draws = cube[name].rename({"trial": "draw"}) if "trial" in cube[name].dims else cube[name]
    certain = cube["iteration_time_std"] == 0 if "draw" in cube[name].dims else xr.zeros_like(cube["evaluated"])
    rest = [dim for dim in draws.dims if dim not in (*axes, "draw")]
    draws = draws.transpose(*axes, *rest, "draw")
    return draws, certain & (draws.isel(dict.fromkeys(rest, 0)).count("draw") == 1)


def compared(cube: xr.Dataset) -> dict[str, str]:
    """Metrics whose draws a cube has, and the variables that hold them."""
    found = {str(name): str(name) for name in cube.data_vars if name in VARIABLES and {"draw", "trial"} & set(cube[name].dims)}
    found |= {name: f"{name}_{of}" for name in VARIABLES for of in ("draws", "trials") if f"{name}_{of}" in cube}
    if "iteration_time_draws" in cube:
        found |= {name: "iteration_time_draws" for name in OVER_TIME if f"{name}_mean" in cube}
    return {name: found[name] for name in VARIABLES if name in found and name != "ledger"}


def words_of(cube: xr.Dataset, **labels: Any) -> tuple[str, ...]:
    """The strings of the command line that make the cell with these labels, for `hops.simulate`, `hops.timeline` and others.

    A label for every axis that has more than one; ``ValueError`` names axes and labels that the cube does not have.
    """
    if "config_dirs" in cube.attrs:
        raise ValueError(f"its options come from {cube.attrs['config_dirs']}, where only the command line looks (--config-dir)")
    known, at = labels_of(cube), dict[Hashable, int]()
    for name, value in labels.items():
        dim, found = position(cube, name, value)
        if at.setdefault(dim, found) != found:
            raise ValueError(f"{', '.join(f'{name}={value}' for name, value in labels.items())}: no cell has all of these labels")
    for name, coord in known.items():
        if coord.size > 1 and coord.dims[0] not in at:
            raise ValueError(f"which {name}? (known: {', '.join(map(label, coord.values.tolist()))})")
    picked = [coord for coord in cube.coords.values() if not coord.dims and "hydra_key" in coord.attrs]  # by ``cube.sel(pp=8)``
    swept = {coord.attrs["hydra_key"]: label(coord.item()) for coord in picked}
    swept |= {coord.attrs["hydra_key"]: label(coord.values.tolist()[at.get(coord.dims[0], 0)]) for coord in known.values()}
    fixed = [each for each in cube.attrs["overrides"].splitlines() if each.partition("=")[0].lstrip("+") not in swept]
    name = cube.attrs.get("config_name", "config")
    return (*([] if name == "config" else [f"+experiment={name}"]), *fixed, *(f"{key}={value}" for key, value in swept.items()))


def cell_draws(cube: xr.Dataset, cell: int) -> Floats | None:
    """Iteration times [s] that ``cube`` keeps of a cell (its position, row-major), NaN beyond its draws; None: none."""
    name = "iteration_time" if "draw" in cube["iteration_time"].dims else "iteration_time_draws"
    if name not in cube:
        return None
    found: Floats = cube[name].values.reshape(-1, cube.sizes["draw"])[cell]
    return found
