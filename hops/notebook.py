"""The Python surface: what a notebook asks, in the strings of the command line. Each refuses what is wrong before anything is evaluated."""

from typing import TYPE_CHECKING

from hops.sweep import prepared_cell

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from hops.savings import Straggling


def critical_path(*overrides: str) -> "xr.Dataset":
    """Where the time of every draw goes along its critical path; see `hops.insight.critical_dataset`."""
    from hops.insight import critical_dataset

    return critical_dataset(*prepared_cell(overrides))


def waterfall(*overrides: str) -> "pd.DataFrame":
    """From the FLOPs of the model to the p95 of the iteration; see `hops.insight.waterfall_frame`."""
    from hops.insight import waterfall_frame

    return waterfall_frame(*prepared_cell(overrides))


def what_if(*overrides: str, ideal: tuple[str, ...] | None = None) -> "pd.DataFrame":
    """What each ideal would save, None: all that matter, most first; see `hops.insight.savings_frame` and `hops.ideals.MEANING`."""
    from hops.insight import savings_frame

    return savings_frame(*prepared_cell(overrides), ideal)


def straggling(*overrides: str) -> "Straggling":
    """What slow ranks and noise cost: S = T / T_ideal, the share wasted, and S of each rank; see `hops.savings.Straggling`."""
    from hops import savings

    return savings.straggling(*prepared_cell(overrides))
