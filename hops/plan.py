"""A plan: what one run asks for, as axes and one scenario a cell, in the order of the cube; and which cells can be built."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hops.checks import AUTO, Infeasible, positive
from hops.executor import Executor, check_memory
from hops.scenario import Scenario
from hops.sections import is_section
from hops.simulation import Case, prepare

# names of dims and variables that an axis must not take
TAKEN = {"draw", "rank", "quantile", "trial", "bucket", "shared_links", "evaluated"}
MOST_CELLS = 1 << 20  # a cell that differs by its seed takes 0.9 kB before it is evaluated (tracemalloc, 20,000 cells)


class Axis(NamedTuple):
    """One key that is swept; ``key`` is the full config key, ``group`` says that the values are option names."""

    name: str
    key: str
    values: tuple[Any, ...]
    group: bool
    typed: str = ""  # the key with the + that may stand before it


# axes that advance together: one, or several by hydra.sweeper.zip
type Dim = tuple[Axis, ...]
# a scenario; or why its sizes do not come out; or None, where hydra.sweeper.where does not ask for the cell
type Cells = tuple[Scenario | Infeasible | None, ...]


class Target(NamedTuple):
    """The error of the iteration time at which a cell has enough draws (``draws=auto``), as a share of it.

    Of its mean the standard error; with a ``quantile`` half the distribution-free 95 % interval of that.
    """

    error: float
    quantile: float | None = None


def make_target(draws: Any, error: Any, quantile: Any) -> Target | None:
    """Check the config keys; None where ``draws`` is a number, and they play no part."""
    found = Target(positive("target_error", error))
    if quantile is not None:
        if isinstance(quantile, bool) or not isinstance(quantile, (int, float)) or not 0 < quantile < 1:
            raise ValueError(f"target_quantile must be null or a number between 0 and 1, such as 0.99; got {quantile!r}")
        found = found._replace(quantile=float(quantile))
    return found if draws == AUTO else None


@dataclass(frozen=True)
class Plan:
    """All cells of a run, row-major over the dims; a plan without dims is one cell."""

    dims: tuple[Dim, ...]
    scenarios: Cells
    executor: Executor
    quantiles: tuple[float, ...]  # over the draws, increasing
    keep_draws: bool = False  # every draw of every metric, not only their quantiles
    strict: bool = False  # refuse the whole sweep if a cell is infeasible
    config: str = ""  # composed YAML of the first cell
    overrides: tuple[str, ...] = ()
    config_name: str = "config"  # what they override
    config_dirs: tuple[str, ...] = ()  # where that, and options of the user's own, were looked for besides
    notes: tuple[str, ...] = ()  # what the user should be told, a line each
    target: Target | None = None  # the cells' draws are to be found (`hops.settle`)

    @property
    def axes(self) -> tuple[Axis, ...]:
        return tuple(axis for dim in self.dims for axis in dim)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(dim[0].values) for dim in self.dims)

    def __post_init__(self) -> None:
        if len(self.scenarios) != math.prod(self.shape):
            raise ValueError(f"a plan of shape {self.shape} needs {math.prod(self.shape)} scenarios; got {len(self.scenarios)}")


def check_quantiles(values: Any) -> tuple[float, ...]:
    """Quantiles in increasing order, each once; the median must be among them, as tables and comparisons start from it."""
    numbers = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else []
    if not numbers or not all(isinstance(q, (int, float)) and not isinstance(q, bool) and 0 <= q <= 1 for q in numbers):
        raise ValueError(f"output.quantiles must list numbers from 0 to 1, such as [0.05,0.5,0.95]; got {values}")
    if 0.5 not in numbers:
        raise ValueError(f"output.quantiles must include 0.5, the median; got {numbers}")
    return tuple(sorted({float(q) for q in numbers}))


@dataclass(frozen=True)
class Prepared:
    """A plan whose cells have been built: those that can be evaluated, and why the others cannot."""

    plan: Plan
    cells: tuple[int, ...]  # positions in the plan, one a case
    cases: tuple[Case, ...]
    skipped: tuple[str, ...]  # what the user should be told of cells that were left out, a line a reason


def prepare_plan(plan: Plan) -> Prepared:
    """Build every cell; raises `Infeasible` for a single cell, for a strict sweep, and when no cell is left."""
    built: dict[int, Case] = {}
    reasons: dict[str, list[str]] = {}  # sentences by what they say when sizes are left out
    for i, scenario in enumerate(plan.scenarios):
        try:
            if isinstance(scenario, Infeasible):
                raise scenario
            if scenario is not None:
                built[i] = prepare(scenario)
        except Infeasible as reason:
            if plan.strict or not plan.axes:
                raise
            reasons.setdefault(re.sub(r"\d+", "#", str(reason)), []).append(str(reason))
    check_memory(plan.keep_draws, [(case.scenario.draws, case.scenario.pp) for case in built.values()])
    n_cells = len(plan.scenarios)
    skipped = [
        f"{len(each)} of {n_cells} cells left out{', for instance' if len(set(each)) > 1 else ''}: {each[0]}" for each in reasons.values()
    ]
    if not built:
        why = skipped or ["hydra.sweeper.where asks for none"]
        raise Infeasible("no cell of the sweep can be evaluated:\n  " + "\n  ".join(why))
    return Prepared(plan, tuple(built), tuple(built.values()), tuple(skipped))


def short_names(keys: Sequence[str]) -> list[str]:
    """Dimension names: the last part of each key (with the one before a number) where unique and free, else all, with underscores."""
    last = [re.split(r"\.(?!\d+$)", key)[-1].replace(".", "_").split("@")[0].split("/")[-1] for key in keys]
    return [
        name if last.count(name) == 1 and name not in TAKEN else key.replace(".", "_").replace("/", "_").replace("@", "_")
        for key, name in zip(keys, last, strict=True)
    ]


def dim_names(dims: Sequence[Dim]) -> list[str]:
    """Names of the dimensions: that of the axis, or of all that advance together; unlike any other axis."""
    taken = {axis.name for dim in dims for axis in dim} | TAKEN
    names = ["_".join(axis.name for axis in dim) for dim in dims]
    return [name if len(dim) == 1 or name not in taken else f"{name}_zip" for dim, name in zip(dims, names, strict=True)]


def label(value: Any) -> str:
    """A value as one would type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if value and is_section(value):
        return f"{{{','.join(f'{key}:{label(each)}' for key, _, each in value)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(label, value))}]"
    return str(value)
