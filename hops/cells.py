"""Cells of a cube: the words that make one of them alone, and its draws."""

from typing import Any

import xarray as xr

from hops.checks import no_such
from hops.plan import label
from hops.weights import Floats


def words_of(cube: xr.Dataset, **labels: Any) -> tuple[str, ...]:
    """The strings of the command line that make the cell with these labels, for `hops.simulate`, `hops.timeline` and others.

    A label for every axis that has more than one; ``ValueError`` names axes and labels that the cube does not have.
    """
    if "config_dirs" in cube.attrs:
        raise ValueError(f"its options come from {cube.attrs['config_dirs']}, where only the command line looks (--config-dir)")
    axes = {str(name): coord for name, coord in cube.coords.items() if "hydra_key" in coord.attrs}
    at = dict[Any, int]()
    for name, value in labels.items():
        if name not in axes:
            raise no_such("axis of this cube", name, axes)
        known = [label(each) for each in axes[name].values.tolist()]
        if label(value) not in known:
            raise no_such(f"label of {name}", label(value), known)
        at[axes[name].dims[0]] = known.index(label(value))
    for name, coord in axes.items():
        if coord.size > 1 and coord.dims[0] not in at:
            raise ValueError(f"which {name}? (known: {', '.join(label(each) for each in coord.values.tolist())})")
    swept = {coord.attrs["hydra_key"]: label(coord.values.tolist()[at.get(coord.dims[0], 0)]) for coord in axes.values()}
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
