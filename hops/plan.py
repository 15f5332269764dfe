"""A plan: what one run asks for, as axes and one scenario a cell, in the order of the cube."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hops.scenario import Scenario
from hops.simulation import Executor

# names of dims and variables that an axis must not take
TAKEN = {"draw", "rank", "quantile", "evaluated"}


class Axis(NamedTuple):
    """One dimension of the cube; ``key`` is the full config key, ``group`` says that the values are option names."""

    name: str
    key: str
    values: tuple[Any, ...]
    group: bool


@dataclass(frozen=True)
class Plan:
    """All cells of a run, row-major over the axes; a plan without axes is one cell."""

    axes: tuple[Axis, ...]
    scenarios: tuple[Scenario, ...]
    executor: Executor
    strict: bool = False  # refuse the whole sweep if a cell is infeasible
    config: str = ""  # composed YAML of the first cell
    overrides: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what the user should be told, a line each

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(axis.values) for axis in self.axes)

    def __post_init__(self) -> None:
        if len(self.scenarios) != math.prod(self.shape):
            raise ValueError(f"a plan of shape {self.shape} needs {math.prod(self.shape)} scenarios; got {len(self.scenarios)}")


def short_names(keys: Sequence[str]) -> list[str]:
    """Dimension names: the last part of each key where that is unique and free, else the whole key with underscores."""
    last = [key.split(".")[-1].split("@")[0].split("/")[-1] for key in keys]
    return [
        name if last.count(name) == 1 and name not in TAKEN else key.replace(".", "_").replace("/", "_").replace("@", "_")
        for key, name in zip(keys, last, strict=True)
    ]


def label(value: Any) -> str:
    """A value as one would type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(label, value))}]"
    return str(value)
