"""From overrides to axes: which keys are swept over which values, and which of them advance together."""

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, RangeSweep
from omegaconf import ListConfig

from hops.checks import AUTO, no_such
from hops.plan import MOST_CELLS, Axis, Dim, label, short_names
from hops.scenario import DOORS, NOT_SCENARIO
from hops.sections import hashable


class Fixed(NamedTuple):
    """A key with one value; ``plain`` if that can be set without Hydra, as it is neither a group nor refers to other keys."""

    name: str
    value: Any
    line: str  # as it was typed
    plain: bool


class Asked(NamedTuple):
    """What a list of overrides asks for."""

    fixed: tuple[Fixed, ...]
    axes: tuple[Axis, ...]
    typed: frozenset[str]  # keys and groups, of both


def parse(loader: ConfigLoaderImpl, overrides: Sequence[str]) -> Asked:
    """Read overrides; of a key given twice the last one counts. ``ValueError``, or Hydra's own exceptions."""
    if not all(isinstance(override, str) for override in overrides):
        raise ValueError(f"overrides are strings such as 'pp=4', one an argument; got {tuple(overrides)!r}")
    parser = OverridesParser.create(config_loader=loader)
    # to Hydra model=gpt_22b (a choice) and model={layers: 24} (values) are two things, and both count
    last = {(each.get_key_element(), isinstance(each.value(), dict)): each for each in parser.parse_overrides(list(overrides))}
    fixed = tuple(_fixed(loader, override) for override in last.values() if not override.is_sweep_override())
    swept = [_axis(loader, parser, override) for override in last.values() if override.is_sweep_override()]
    axes = tuple(axis._replace(name=name) for axis, name in zip(swept, short_names([axis.key for axis in swept]), strict=True))
    return Asked(fixed, axes, frozenset(override.key_or_group for override in last.values()))


def zipped(axes: Sequence[Axis], wanted: Any, fixed: Collection[str] = ()) -> tuple[Dim, ...]:
    """Dims of a sweep: ``wanted`` (``hydra.sweeper.zip``) lists lists of axes, by key or short name, that advance together.

    Keys that are ``fixed`` may stand in it too: their one value goes with all others.
    """
    groups: list[Any] = list(wanted) if isinstance(wanted, (list, tuple, ListConfig)) else [wanted] if wanted is not None else []
    if groups and all(isinstance(each, str) for each in groups):
        groups = [groups]  # [pp,microbatches] for [[pp,microbatches]]
    dims: dict[str, Dim] = {axis.key: (axis,) for axis in axes}
    seen: set[str] = set()
    for group in groups:
        named = group if isinstance(group, (list, tuple, ListConfig)) else [group]
        dim = tuple(_find(axes, name) for name in named if name not in fixed)
        for axis in dim:
            if axis.key in seen:
                raise ValueError(f"hydra.sweeper.zip={label(list(groups))}: {axis.key} may stand in it once")
            seen.add(axis.key)
            dims[axis.key] = dim
        if len({len(axis.values) for axis in dim}) > 1:
            lengths = ", ".join(f"{axis.key} has {len(axis.values)} values" for axis in dim)
            raise ValueError(f"hydra.sweeper.zip: what advances together must have equally many values, but {lengths}")
    found = tuple(dims[axis.key] for axis in axes if dims[axis.key][0].key == axis.key)
    for dim in found:
        rows = Counter(zip(*(map(_identity, axis.values) for axis in dim), strict=True))
        twice = [", ".join(map(str, row)) for row, n in rows.items() if n > 1]
        if twice:
            names, value = " with ".join(axis.key for axis in dim), "value of an axis" if len(dim) == 1 else "combination"
            raise ValueError(f"{names} lists {twice[0]} twice; each {value} may stand once")
    return found


def cells_of(dims: Sequence[Dim]) -> Iterator[dict[str, Any]]:
    """Values of all axes in every cell, by key, row-major."""
    n_cells = math.prod(len(dim[0].values) for dim in dims)
    if n_cells > MOST_CELLS:
        raise ValueError(f"the sweep has {n_cells} cells or more; at most {MOST_CELLS} fit into one cube")
    keys = [axis.key for dim in dims for axis in dim]
    for row in itertools.product(*(list(zip(*(axis.values for axis in dim), strict=True)) for dim in dims)):
        yield dict(zip(keys, itertools.chain(*row), strict=True))


def _find(axes: Sequence[Axis], name: Any) -> Axis:
    for axis in axes:
        if name in (axis.key, axis.name):
            return axis
    raise no_such("axis of this sweep (hydra.sweeper.zip)", name, [axis.key for axis in axes])


def _fixed(loader: ConfigLoaderImpl, override: Override) -> Fixed:
    key, line, group = override.get_key_element(), str(override.input_line), bool(loader.get_group_options(override.key_or_group))
    by_hydra = (
        group
        or key != override.key_or_group  # added, deleted, or in another package
        or isinstance(override.value(), dict)  # of which some keys may keep their values
        or key.endswith(".name")  # of an option, to be checked against the choice
        or "${" in line
    )
    return Fixed(key, override.value(), line, not by_hydra)


def _axis(loader: ConfigLoaderImpl, parser: OverridesParser, override: Override) -> Axis:
    key = override.get_key_element().lstrip("+")
    if not override.is_discrete_sweep():
        raise ValueError(f"{key}=interval(...) has no discrete points, so it cannot be an axis (try range or a list)")
    if key in ("target_error", "target_quantile"):
        raise ValueError(f"{key} cannot be an axis: it is one for all cells")
    if key.split(".")[0] in NOT_SCENARIO:
        raise ValueError(f"{key} cannot be an axis: no result depends on it")
    elements = list(itertools.islice(override.sweep_iterator(), MOST_CELLS + 1))
    group = bool(loader.get_group_options(override.key_or_group))
    if isinstance(override.value(), RangeSweep):  # 0.05, 0.1, 0.15000000000000002: nobody means, or can select, the last
        elements = [float(f"{value:.12g}") if isinstance(value, float) else value for value in elements]
    values = [value if isinstance(value, (bool, int, float)) else _value(parser, value) for value in elements]
    if any(isinstance(value, dict) for value in values):
        raise ValueError(f"{key} sweeps over whole sections; sweep over their keys, or over options of a group")
    if key == "draws" and AUTO in values:
        raise ValueError("draws=auto cannot be a value of an axis: it finds a number for every cell (try draws=auto alone)")
    if group:
        aliases = DOORS[key].aliases if key in DOORS and isinstance(override.value(), Glob) else {}
        values = [str(value) for value in values if value not in aliases]  # glob(*) means every schedule once
    if not values:
        raise ValueError(f"{override.input_line} names no value: an axis needs at least one")
    return Axis(name=key, key=key, values=tuple(map(hashable, values)), group=group, typed=override.get_key_element())


def _value(parser: OverridesParser, element: Any) -> Any:
    return parser.parse_override(f"key={Override._get_value_element_as_str(element)}").value()


def _identity(value: Any) -> Any:
    """Equal for values that a user would not tell apart as labels: 4 and 4.0, but not 1 and true."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else label(value)
