"""Repeat with HOPS the fit behind conf/efficiency/a100_megatron.yaml: `HOPS_DATA=<folder> uv run python benchmarks/calibrate.py`.

Least squares (soft L1) of log ratios of iteration times, over the rows that the file names: a random half of vTrain's and, weighted as
much as these together, 18 published times. It starts with every number a tenth off and prints what it finds beside the frozen
numbers, which it does not touch. `--rows 90` takes fewer of vTrain's.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.optimize import least_squares

from hops.config import folder

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "published"))
from test_iteration_times import KORTHIKANTI, NARAYANAN, iteration_time, vtrain, vtrain_times

PUBLISHED = [(row[:9], how, time) for row in KORTHIKANTI for how, time in zip(("full", "selective"), row[9:], strict=True)]
PUBLISHED += [(row[:9], "full", row[9]) for row in NARAYANAN]


def log_ratios(law: Sequence[str], rows: list[list[float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logarithms of ours over theirs: vTrain's rows, and the published times."""
    ours, theirs = vtrain_times(rows, *law)
    return np.log(ours / theirs), np.array([np.log(iteration_time(*row, how, *law) / time) for row, how, time in PUBLISHED])


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, help="of vTrain's half at most")
    fitted, other = vtrain(os.environ["HOPS_DATA"])
    fitted = fitted[: parser.parse_args().rows]
    frozen = yaml.safe_load((folder("conf") / "efficiency" / "a100_megatron.yaml").read_text())
    names = [name for name, value in frozen.items() if isinstance(value, float | int)]
    frozen_values = np.array([float(frozen[name]) for name in names])

    def words(scale: NDArray[np.float64]) -> list[str]:
        return [f"efficiency.{name}={value!r}" for name, value in zip(names, (scale * frozen_values).tolist(), strict=True)]

    def residuals(scale: NDArray[np.float64]) -> NDArray[np.float64]:
        measured, published = log_ratios(words(scale), fitted)
        return np.concatenate([measured, published * np.sqrt(measured.size / published.size)])

    start = np.where(np.arange(len(names)) % 2, 1.1, 0.9)
    most = np.where(np.isin(names, ["peak_share", "attention_share"]), 1 / frozen_values, np.inf)
    fit = least_squares(
        residuals, start, loss="soft_l1", f_scale=0.05, diff_step=1e-3, xtol=1e-4, ftol=1e-5, bounds=(1e-3, most), verbose=2
    )
    for name, value, scale in zip(names, frozen_values, fit.x, strict=True):
        print(f"{name:18} frozen {value:<9.4g} found {scale * value:<9.4g} ({100 * (scale - 1):+.1f} %)")
    for title, scale in (("frozen", np.ones(len(names))), ("found", fit.x)):
        ours, theirs = vtrain_times(other, *words(scale))
        print(f"{title}: mean error on vTrain's other half {100 * np.abs(ours / theirs - 1).mean():.2f} %")


if __name__ == "__main__":
    main()
