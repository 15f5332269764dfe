"""``hydra/sweeper=cube``: one multirun becomes one plan, evaluated in this process and written as one cube.

Hydra's own sweeper composes every job anew (about 50 ms, twice). Here Hydra composes once per tuple of group choices;
values of other keys are set on copies of that.
"""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hops.config import SweepsSearchPath, plain, register_options, yaml

if TYPE_CHECKING:  # Hydra scans this file at every start, also for --help: what evaluates is imported where it is used
    from hops.checks import Infeasible
    from hops.plan import Axis, Cells, Plan
    from hops.scenario import Scenario

NOT_SCENARIO = ("executor", "output", "timeline")  # how to run and what to show: no result depends on them, so they are no axes


class CubeSweeper(Sweeper):
    """Hands the plan of a multirun to the task function's ``run_plan(plan, config)``."""

    # subclass of Sweeper, not BasicSweeper: Hydra's plugin scan re-imports that module, and super() then fails
    # `strict` and `where` are read from the composed config, so that Python callers can set them as well
    def __init__(self, params: Mapping[str, Any] | None = None, strict: bool = False, where: str | None = None) -> None:
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader: Any = hydra_context.config_loader
        self.task_function: Any = task_function
        self.config: Any = config

    def sweep(self, arguments: list[str]) -> Any:
        setup_globals()
        overrides = [f"{key}={value}" for key, value in self.params.items()] + list(arguments)

        def compose(chosen: Sequence[str]) -> DictConfig:
            config: DictConfig = self.loader.load_sweep_config(self.config, list(chosen))
            return config

        plan = plan_sweep(self.loader, compose, overrides)
        return self.task_function.run_plan(plan, self.config)


def register() -> None:
    """Make Hydra know the sweeper, ``sweeps/`` and the doors' options. Safe to repeat."""
    register_options()
    node = {"_target_": "hops.cube_sweeper.CubeSweeper", "params": {}, "strict": False, "where": None}
    ConfigStore.instance().store(group="hydra/sweeper", name="cube", node=node, provider="hops")
    plugins: Any = Plugins.instance()
    plugins.register(CubeSweeper)
    plugins.register(SweepsSearchPath)
    inner = getattr(Plugins, "is_in_toplevel_plugins_module", None)  # Hydra 1.3 instantiates hydra_plugins.* only; 1.4 drops the check
    if inner is not None:
        plugins.is_in_toplevel_plugins_module = lambda target: target.startswith("hops.") or inner(target)


def plan_sweep(loader: ConfigLoaderImpl, compose: Callable[[Sequence[str]], DictConfig], overrides: Sequence[str]) -> "Plan":
    """Turn overrides, sweeps among them, into a `Plan`; every value is checked here, before anything is evaluated.

    ``compose`` composes a config from overrides without sweeps. Raises ``ValueError`` and Hydra's own exceptions.
    """
    from hops.plan import MOST_CELLS, label, short_names
    from hops.scenario import forget_files
    from hops.where import where

    forget_files()

    if not all(isinstance(override, str) for override in overrides):
        raise ValueError(f"overrides are strings such as 'pp=4', one an argument; got {overrides!r}")
    parser = OverridesParser.create(config_loader=loader)
    last: dict[str, Override] = {override.get_key_element(): override for override in parser.parse_overrides(list(overrides))}
    fixed = [str(override.input_line) for override in last.values() if not override.is_sweep_override()]
    swept = [_axis(loader, parser, override) for override in last.values() if override.is_sweep_override()]
    axes = [axis._replace(name=name) for axis, name in zip(swept, short_names([axis.key for axis in swept]), strict=True)]
    n_cells = math.prod(len(axis.values) for axis in axes)
    if n_cells > MOST_CELLS:
        raise ValueError(f"the sweep has {n_cells} cells or more; at most {MOST_CELLS} fit into one cube")

    def compose_axes(which: Sequence[int]) -> dict[tuple[Any, ...], DictConfig]:
        choices = itertools.product(*(axes[i].values for i in which))
        return {c: compose(fixed + [f"{axes[i].typed}={label(v)}" for i, v in zip(which, c, strict=True)]) for c in choices}

    which = [i for i, axis in enumerate(axes) if axis.group or axis.typed != axis.key]
    composed = compose_axes(which)
    if any("${" in yaml(config) for config in composed.values()):  # a key refers to another: Hydra itself composes every value
        which = list(range(len(axes)))
        composed = compose_axes(which)
    for config in composed.values():
        _check_names(config)
    configs = {choice: plain(config) for choice, config in composed.items()}
    set_here = [(i, axis.key.split(".")) for i, axis in enumerate(axes) if i not in which]
    first = next(iter(composed.values()))
    condition = OmegaConf.select(first, "hydra.sweeper.where")
    asked = where(str(condition), [axis.name for axis in axes]) if condition is not None else None
    typed = {override.key_or_group for override in last.values()}
    scenarios: list[Scenario | Infeasible | None] = []
    for values in itertools.product(*(axis.values for axis in axes)):
        if asked and not asked({axis.name: value for axis, value in zip(axes, values, strict=True)}):
            scenarios.append(None)
            continue
        cell = configs[tuple(values[i] for i in which)]
        for i, path in set_here:
            cell = _with(cell, path, values[i], axes[i].key)
        scenarios.append(_scenario(cell, typed))
    return _plan(first, tuple(axes), tuple(scenarios), tuple(overrides))


def one_cell(config: DictConfig) -> "Plan":
    """The plan of a single run."""
    _check_names(config)
    overrides = tuple(config.hydra.overrides.task)
    typed = {override.partition("=")[0].lstrip("+") for override in overrides}
    return _plan(config, (), (_scenario(plain(config), typed),), overrides)


def _plan(config: DictConfig, axes: "tuple[Axis, ...]", scenarios: "Cells", overrides: tuple[str, ...]) -> "Plan":
    from hops.checks import one_of
    from hops.executor import make_executor
    from hops.plan import Plan, check_quantiles

    executor = make_executor(plain(config).get("executor", {}))
    quantiles = check_quantiles(OmegaConf.select(config, "output.quantiles"))
    keep = one_of("output.keep", OmegaConf.select(config, "output.keep"), ("quantiles", "draws"))
    strict = bool(OmegaConf.select(config, "hydra.sweeper.strict"))
    return Plan(axes, scenarios, executor, quantiles, keep == "draws", strict, yaml(config), overrides, tuple(_notes(config, axes)))


def _check_names(config: DictConfig) -> None:
    """Refuse a config whose option is called one thing and is another: its cells would carry the wrong label."""
    from hops.scenario import DOORS

    for group, door in DOORS.items():
        chosen, name = config.hydra.runtime.choices.get(group), OmegaConf.select(config, f"{group}.name")
        if chosen is not None and (not isinstance(chosen, str) or (chosen in door and name is not None and door.canonical(chosen) != name)):
            raise ValueError(f"{group}={chosen} and {group}.name={name} differ; choose one option with {group}=<name>")


def _scenario(config: Mapping[str, Any], typed: Collection[str]) -> "Scenario | Infeasible":
    """The scenario of a cell, or why its sizes do not come out; a default gives way to what is derived from a typed size."""
    from hops.checks import Infeasible
    from hops.scenario import DERIVED, Scenario

    ours = {key: value for key, value in config.items() if key not in NOT_SCENARIO}
    for key, derives in DERIVED.items():
        if ours.get(key) is not None and derives not in typed:
            ours[derives] = None
    try:
        return Scenario.from_config(ours)
    except Infeasible as reason:
        return reason


def _axis(loader: ConfigLoaderImpl, parser: OverridesParser, override: Override) -> "Axis":
    from hops.plan import MOST_CELLS, Axis
    from hops.scenario import DOORS, hashable

    key = override.get_key_element().lstrip("+")
    if not override.is_discrete_sweep():
        raise ValueError(f"{key}=interval(...) has no discrete points, so it cannot be an axis (try range or a list)")
    if key.split(".")[0] in NOT_SCENARIO:
        raise ValueError(f"{key} cannot be an axis: no result depends on it")
    elements = list(itertools.islice(override.sweep_iterator(), MOST_CELLS + 1))
    group = bool(loader.get_group_options(override.key_or_group))
    if isinstance(override.value(), RangeSweep):  # 0.05, 0.1, 0.15000000000000002: nobody means, or can select, the last
        elements = [float(f"{value:.12g}") if isinstance(value, float) else value for value in elements]
    values = [value if isinstance(value, (bool, int, float)) else _value(parser, value) for value in elements]
    if any(isinstance(value, dict) for value in values):
        raise ValueError(f"{key} sweeps over whole sections; sweep over their keys, or over options of a group")
    if group:
        aliases = DOORS[key].aliases if key in DOORS and isinstance(override.value(), Glob) else {}
        values = [str(value) for value in values if value not in aliases]  # glob(*) means every schedule once
    if not values:
        raise ValueError(f"{override.input_line} names no value: an axis needs at least one")
    twice = [value for value, n in Counter(map(_identity, values)).items() if n > 1]
    if twice:
        raise ValueError(f"{key} lists {twice[0]} twice; each value of an axis may stand once")
    return Axis(name=key, key=key, values=tuple(map(hashable, values)), group=group, typed=override.get_key_element())


def _value(parser: OverridesParser, element: Any) -> Any:
    return parser.parse_override(f"key={Override._get_value_element_as_str(element)}").value()


def _identity(value: Any) -> Any:
    """Equal for values that a user would not tell apart as labels: 4 and 4.0, but not 1 and true."""
    from hops.plan import label

    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else label(value)


def _with(config: dict[str, Any], path: Sequence[str], value: Any, key: str) -> dict[str, Any]:
    """Copy of ``config`` with ``value`` at ``path``, sharing all else."""
    head, *rest = path
    if head not in config or (rest and not isinstance(config[head], dict)):
        raise ValueError(f"{key} is not a key of this config (python -m hops --cfg job shows all)")
    return {**config, head: _with(config[head], rest, value, key) if rest else value}


def _notes(config: DictConfig, axes: "Sequence[Axis]") -> list[str]:
    from hops.scenario import DOORS

    notes = []
    for group, door in DOORS.items():
        swept = next((axis.values for axis in axes if axis.key == group), ())
        named = swept or (OmegaConf.select(config, f"hydra.runtime.choices.{group}"),)
        notes += [f"{group}={name} is short for {door.aliases[name]}" for name in named if name in door.aliases]
    if OmegaConf.select(config, "model.p2p_bytes") == 0 and not any(axis.key == "model.p2p_bytes" for axis in axes):
        notes.append("model.p2p_bytes=0: messages are empty, so bandwidths play no part")
    if OmegaConf.select(config, "model.per") == "rank" and any(axis.key == "pp" for axis in axes):
        notes.append("model.per=rank: a rank's times stay as pp varies, so the model grows with it (per=model keeps it)")
    return notes
