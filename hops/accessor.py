"""``dataset.hops``: what HOPS can say about a Dataset of its own. Registered when one is first made or opened."""

from typing import Any

import numpy as np
import xarray as xr

from hops.checks import no_such
from hops.choices import Best, best, pareto
from hops.comparisons import compare, speedup
from hops.lookup import Asked, words_of
from hops.metrics import quantile_interval
from hops.terminal import comparison_table, cube_table


@xr.register_dataset_accessor("hops")  # type: ignore[no-untyped-call]
class HopsAccessor:
    """``dataset.hops``: what HOPS can say about a Dataset of its own."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def table(self) -> str:
        """One line a cell, as the terminal shows it; needs a cube, or what `compare` made of one."""
        if "variance_reduction" in self._dataset:
            return comparison_table(self._dataset)
        if "evaluated" not in self._dataset:
            raise ValueError("a table needs a cube (hops.sweep_cube, hops.open_cube); this is one cell with its draws")
        return cube_table(self._dataset)

    def interval(self, metric: str = "iteration_time", q: float = 0.5, confidence: float = 0.95) -> tuple[float, float]:
        """Distribution-free interval of quantile ``q`` of a metric [its unit]; needs a cell (dim ``draw``)."""
        if not 0 <= q <= 1 or not 0 < confidence < 1:
            raise ValueError(f"q and confidence must lie between 0 and 1, such as 0.95; got q={q!r}, confidence={confidence!r}")
        known = {str(name).removesuffix("_draws"): name for name in self._dataset if self._dataset[name].dims == ("draw",)}
        if not known:
            raise ValueError(
                f"an interval is of one cell with its draws; of a cube pick one by .sel(...), or read {metric}_low and {metric}_high"
            )
        if metric not in known:
            raise no_such("metric with a draw dimension", metric, known)
        draws = self._dataset[known[metric]].values
        return quantile_interval(draws[~np.isnan(draws)], q, confidence)

    def compare(self, axis: str, reference: Any, metric: str = "iteration_time", confidence: float = 0.95) -> xr.Dataset:
        """Cells against those of a label of an axis, in pairs of draws; see `hops.comparisons.compare`."""
        return compare(self._dataset, axis, reference, metric, confidence)

    def best(self, metric: str = "iteration_time", statistic: str | float = "mean", where: Asked = None) -> Best:
        """The best cell by the mean or a quantile (``"p95"``, 0.95) of a metric; see `hops.choices.best`."""
        return best(self._dataset, metric, statistic, where)

    def speedup(self, axis: str, reference: Any, statistic: str | float = "mean") -> xr.DataArray:
        """Iteration time at a label of an axis over that of every cell; see `hops.comparisons.speedup`."""
        return speedup(self._dataset, axis, reference, statistic)

    def pareto(self, *metrics: str, statistic: str | float = "mean", where: Asked = None) -> xr.DataArray:
        """Which cells no other beats in one metric without losing in another; see `hops.choices.pareto`."""
        return pareto(self._dataset, *metrics, statistic=statistic, where=where)

    def words(self, **labels: Any) -> tuple[str, ...]:
        """The strings of the command line that make one cell of a cube: ``hops.timeline(*cube.hops.words(schedule="zb"), draw=7)``."""
        if "evaluated" not in self._dataset:
            raise ValueError("cells need a cube (hops.sweep_cube, hops.open_cube); this is one cell with its draws")
        return words_of(self._dataset, **labels)
