"""Empirical: a measured sample, from a file; factors, seconds or milliseconds alike, as only their ratio to their mean counts.

The quantile function interpolates the order statistics at (i - 1/2) / n, which keeps the sample's mean. The engine's
table agrees with it at the table's own knots, at most 1/256 of probability apart, and is straight in between.
"""

import csv
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from hops.checks import Infeasible
from hops.distributions import law

LARGEST = 1e100  # beyond it a sum of them overflows


def _check(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Read the sample; its digest becomes a parameter, so that what is remembered for a file ends when the file changes."""
    file, column = values.get("file"), values.get("column")
    if file is None:
        raise Infeasible(f"{prefix}.file is not set; law empirical needs a file of numbers, or of columns and {prefix}.column")
    file, column = str(file), None if column is None else str(column)
    digest = blake2b(_read(prefix, file, column).tobytes(), digest_size=8).hexdigest()
    return {"file": file, "column": column, "digest": digest}


def _read(prefix: str, file: str, column: str | None) -> Any:
    """Values of the file in increasing order, divided by their mean."""
    import numpy as np

    try:
        if file.endswith(".npy"):
            if column is not None:
                raise ValueError(f"an array has no column {column!r}")
            words = np.load(file).ravel().tolist()
        elif column is None:
            lines = Path(file).read_text("utf-8-sig").splitlines()
            words = " ".join(line.partition("#")[0] for line in lines).replace(",", " ").split()
        else:
            with Path(file).open(newline="", encoding="utf-8-sig") as rows:
                table = csv.DictReader(rows)
                if column not in (table.fieldnames or ()):
                    raise ValueError(f"has no column {column!r} (its first line reads {', '.join(table.fieldnames or ())})")
                words = [row[column] for row in table if row[column]]  # a cell left empty was not measured
        values = np.sort(np.array(words, float))
    except (OSError, EOFError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"{prefix}.file={file} cannot be read as numbers: {getattr(error, 'strerror', None) or error}") from error
    if values.size < 2 or not values[0] > 0 or not values[-1] < LARGEST:
        found = f"{values.size} values" + (f" from {values[0]:g} to {values[-1]:g}" if values.size else "")
        raise ValueError(f"{prefix}.file={file} must hold at least 2 numbers, all above 0 and finite; got {found}")
    return values / values.mean()


@lru_cache(maxsize=16)
def _sample(file: str, column: str | None, digest: str) -> Any:
    return _read("law empirical", file, column)


def _variance(**sample: Any) -> float:
    x = _sample(**sample)
    between = (x[:-1] ** 2 + x[:-1] * x[1:] + x[1:] ** 2).sum() / 3  # of straight lines between order statistics
    return float((between + (x[0] ** 2 + x[-1] ** 2) / 2) / x.size - 1)


@law("empirical", check=_check, variance=_variance, support="from the smallest to the largest value", source="the user's file")
def empirical(u, *, file: str | None = None, column: str | None = None, **read):  # type: ignore[no-untyped-def]
    import numpy as np

    x = _sample(file=file, column=column, **read)
    return np.interp(u, (np.arange(x.size) + 0.5) / x.size, x)
