"""Comparisons: cells of a cube against one of them, draw by draw, as all met the same weather (common random numbers).

A random number is a function of its address, so draw 7 of one cell and of another have met the same noise as far as they have the
same ops. The difference of a pair varies less than either, and its mean is known better. ... = cells, n = draws, or trials.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from hops.lookup import draws_of, position, quantile_of, value_of
from hops.metrics import student
from hops.variables import VARIABLES
from hops.weights import Floats

NEEDS = {  # variable of a comparison: long_name
    "mean": "mean of the cell",
    "difference": "mean of the cell less that of the reference, over the same draws",
    "ratio": "mean of the cell over that of the reference, over the same draws",
    "resolved": "neither the interval of the difference contains 0 nor that of the ratio 1",
    "n_pairs": "draws that both have",
    "draws_needed": "draws at which the difference found would be resolved; NaN where it is, or where there is none to find",
    "variance_reduction": "variance of the difference of as many independent draws, over that of the pairs",
}

ENDS = {"standard_error": "standard error", "low": "lower end of its interval", "high": "upper end of its interval"}


class Paired(NamedTuple):
    """What pairs of draws tell, each (...,)."""

    n: NDArray[np.int64]
    mean: Floats  # of the first
    difference: Floats  # of means: first less second
    difference_error: Floats
    ratio: Floats  # of means: first over second
    ratio_error: Floats
    gain: Floats  # variance of as many independent draws over that of the pairs


def paired(a: Floats, b: Floats, certain: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None) -> Paired:
    """Compare draws ``a`` and ``b`` (..., n) in pairs; of what is NaN in either there is none.

    Cells that are ``certain`` (...,) have one draw, which goes with all of the other's. The ratio's error is by the delta method: that
    of a - ratio x b, over the mean of b.
    """
    if certain is not None:
        a, b = (np.where(sure[..., None], each[..., :1], each) for sure, each in zip(certain, (a, b), strict=True))
    both = ~(np.isnan(a) | np.isnan(b))
    n = both.sum(axis=-1)

    def mean(values: Floats) -> Floats:
        found: Floats = np.where(both, values, 0.0).sum(axis=-1) / n
        return found

    def variance(values: Floats, around: Floats) -> Floats:
        found: Floats = np.where(both, (values - around[..., None]) ** 2, 0.0).sum(axis=-1) / (n - 1)
        return found

    with np.errstate(divide="ignore", invalid="ignore"):
        mean_a, mean_b, difference = mean(a), mean(b), mean(a - b)
        spread, ratio = variance(a - b, difference), mean_a / mean_b
        rest = a - ratio[..., None] * b
        errors = np.sqrt(spread / n), np.sqrt(variance(rest, mean(rest)) / n) / np.abs(mean_b)
        gain = (variance(a, mean_a) + variance(b, mean_b)) / spread
        if certain is not None:  # one pair, which says it all
            errors = tuple(np.where(certain[0] & certain[1] & (n > 0), 0.0, each) for each in errors)  # type: ignore[assignment]
    return Paired(n, mean_a, difference, errors[0], ratio, errors[1], gain)


def compare(cube: xr.Dataset, axis: str, reference: Any, metric: str = "iteration_time", confidence: float = 0.95) -> xr.Dataset:
    """Compare all cells with those of label ``reference`` along ``axis`` in pairs of draws; dims of the axes (of the ranks too).

    ``difference`` [unit of the metric] and ``ratio`` of means, each with ``_standard_error`` and the ends ``_low`` and ``_high`` of an
    interval by Student's t (of the ratio by the delta method), ``resolved``, and the rest of `NEEDS`. Of ``goodput_fraction`` and
    other metrics of training runs the pairs are trials, and a mean is that of the trials' own values. Raises ``ValueError`` for a
    name that the cube does not have.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, such as 0.95; got {confidence!r}")
    dim, at = position(cube, axis, reference)
    draws, certain = draws_of(cube, metric)
    others = draws.isel({dim: [at]})
    sure = certain.broadcast_like(draws.isel(draw=0)).transpose(*draws.dims[:-1]).values
    along = draws.dims.index(dim)
    found = paired(draws.values, others.values, (sure, np.take(sure, [at], axis=along)))
    t = student(found.n, confidence)
    t = np.where(found.difference_error == 0, 0.0, t)  # also of a single pair that says it all
    dims = draws.dims[:-1]
    variables: dict[str, NDArray[Any]] = {"mean": found.mean}
    for name, value, error in (("difference", found.difference, found.difference_error), ("ratio", found.ratio, found.ratio_error)):
        ends = {"standard_error": error, "low": value - t * error, "high": value + t * error}
        variables |= {name: value} | {f"{name}_{end}": values for end, values in ends.items()}

    def excludes(name: str, same: float) -> NDArray[np.bool_]:
        return np.asarray((variables[f"{name}_low"] > same) | (variables[f"{name}_high"] < same))

    resolved = excludes("difference", 0.0) & excludes("ratio", 1.0)
    itself = np.zeros(found.n.shape, bool)
    itself[(slice(None),) * along + (at,)] = True
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.ceil(found.n * (t * found.difference_error / found.difference) ** 2)
    unclear = ~resolved & ~itself & (found.difference_error > 0)
    variables["resolved"] = resolved
    variables["n_pairs"] = found.n
    variables["draws_needed"] = np.where(unclear, np.maximum(needed, found.n + 1), np.nan)
    variables["variance_reduction"] = np.where(itself, np.nan, found.gain)
    units = {"difference": VARIABLES[metric].units, "mean": VARIABLES[metric].units, "resolved": ""}
    data = {name: (dims, values, _attributes(name, units)) for name, values in variables.items()}
    coords = {name: coord for name, coord in draws.coords.items() if set(coord.dims) <= set(dims)}
    how = f"{100 * confidence:g} % by Student's t over pairs; of the ratio by the delta method"
    attrs = {"metric": metric, "axis": axis, "reference": str(reference), "interval": how}
    return xr.Dataset(data, coords, attrs | ({"notes": cube.attrs["notes"]} if "notes" in cube.attrs else {}))


def speedup(cube: xr.Dataset, axis: str, reference: Any, statistic: str | float = "mean") -> xr.DataArray:
    """Iteration time at label ``reference`` of an axis over that of every cell, dims of the axes: above 1 is faster than it."""
    dim, at = position(cube, axis, reference)
    times = value_of(cube, "iteration_time", quantile_of(statistic))
    found: xr.DataArray = times.isel({dim: at}, drop=True) / times
    told = {"long_name": f"speedup over {axis}={reference}, {statistic} of iteration_time", "units": "1"}
    return found.transpose(*times.dims).rename("speedup").assign_attrs(told)


def _attributes(name: str, units: Mapping[str, str]) -> dict[str, str]:
    base = name.split("_")[0] if name.startswith(("difference_", "ratio_")) else name
    unit, end = units.get(base, "1"), ENDS.get(name.removeprefix(f"{base}_"))
    return {"long_name": NEEDS[base] + (f": {end}" if end else "")} | ({"units": unit} if unit else {})
