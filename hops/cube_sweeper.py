"""``hydra/sweeper=cube``: one multirun becomes one plan, evaluated in this process and written as one cube.

Hydra's own sweeper composes every job anew (about 50 ms, twice). Here Hydra composes once per tuple of group choices;
values of other keys are set on copies of that.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hops.config import SweepsSearchPath, plain, register_options, yaml

if TYPE_CHECKING:  # Hydra scans this file at every start, also for --help: what evaluates is imported where it is used
    from hops.plan import Axis, Plan
    from hops.scenario import Scenario

NOT_SCENARIO = ("executor", "timeline")  # how to run and what to show: no result depends on them, so they are no axes


class CubeSweeper(Sweeper):
    """Hands the plan of a multirun to the task function's ``run_plan(plan, hydra_config, folder)``."""

    # subclass of Sweeper, not BasicSweeper: Hydra's plugin scan re-imports that module, and super() then fails
    def __init__(self, params: Mapping[str, Any] | None = None, strict: bool = False) -> None:
        self.params, self.strict = dict(params or {}), strict

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

        plan = plan_sweep(self.loader, compose, overrides, strict=self.strict)
        return self.task_function.run_plan(plan, self.config)


def register() -> None:
    """Make Hydra know the sweeper, ``sweeps/`` and the doors' options. Safe to repeat."""
    register_options()
    node = {"_target_": "hops.cube_sweeper.CubeSweeper", "params": {}, "strict": False}
    ConfigStore.instance().store(group="hydra/sweeper", name="cube", node=node, provider="hops")
    plugins: Any = Plugins.instance()
    plugins.register(CubeSweeper)
    plugins.register(SweepsSearchPath)
    inner = getattr(Plugins, "is_in_toplevel_plugins_module", None)  # Hydra 1.3 instantiates hydra_plugins.* only; 1.4 drops the check
    if inner is not None:
        plugins.is_in_toplevel_plugins_module = lambda target: target.startswith("hops.") or inner(target)


def plan_sweep(
    loader: ConfigLoaderImpl, compose: Callable[[Sequence[str]], DictConfig], overrides: Sequence[str], strict: bool = False
) -> "Plan":
    """Turn overrides, sweeps among them, into a `Plan`; every value is checked here, before anything is evaluated.

    ``compose`` composes a config from overrides without sweeps. Raises ``ValueError`` and Hydra's own exceptions.
    """
    from hops.plan import label, short_names

    parser = OverridesParser.create(config_loader=loader)
    last: dict[str, Override] = {override.get_key_element(): override for override in parser.parse_overrides(list(overrides))}
    fixed = [str(override.input_line) for override in last.values() if not override.is_sweep_override()]
    swept = [_axis(loader, parser, override) for override in last.values() if override.is_sweep_override()]
    axes = [axis._replace(name=name) for axis, name in zip(swept, short_names([axis.key for axis in swept]), strict=True)]

    probe = compose(fixed + [f"{axis.key}={label(axis.values[0])}" for axis in axes if axis.group])
    every = "${" in yaml(probe)  # a key that refers to another: then Hydra itself composes every value
    composed = [i for i, axis in enumerate(axes) if axis.group or every]
    set_here = [(i, axis.key.split(".")) for i, axis in enumerate(axes) if i not in composed]
    configs = {
        choice: plain(compose(fixed + [f"{axes[i].key}={label(value)}" for i, value in zip(composed, choice, strict=True)]))
        for choice in itertools.product(*(axes[i].values for i in composed))
    }
    scenarios = []
    for values in itertools.product(*(axis.values for axis in axes)):
        config = configs[tuple(values[i] for i in composed)]
        for i, path in set_here:
            config = _with(config, path, values[i], axes[i].key)
        scenarios.append(_scenario(config))
    return _plan(probe, tuple(axes), tuple(scenarios), tuple(overrides), strict)


def one_cell(config: DictConfig) -> "Plan":
    """The plan of a single run."""
    return _plan(config, (), (_scenario(plain(config)),), tuple(config.hydra.overrides.task))


def _plan(
    config: DictConfig, axes: "tuple[Axis, ...]", scenarios: "tuple[Scenario, ...]", overrides: tuple[str, ...], strict: bool = False
) -> "Plan":
    from hops.executor import Executor
    from hops.plan import Plan

    executor = Executor(**plain(config)["executor"])
    return Plan(axes, scenarios, executor, strict, yaml(config), overrides, tuple(_notes(config, axes)))


def _scenario(config: Mapping[str, Any]) -> "Scenario":
    from hops.scenario import Scenario

    return Scenario.from_config({key: value for key, value in config.items() if key not in NOT_SCENARIO})


def _axis(loader: ConfigLoaderImpl, parser: OverridesParser, override: Override) -> "Axis":
    from hops.plan import Axis, label
    from hops.scenario import DOORS

    key = override.get_key_element().lstrip("+")
    if not override.is_discrete_sweep():
        raise ValueError(f"{key}=interval(...) has no discrete points, so it cannot be an axis (try range or a list)")
    if key.split(".")[0] in NOT_SCENARIO:
        raise ValueError(f"{key} cannot be an axis: no result depends on it")
    found = list(override.sweep_iterator())
    group = bool(loader.get_group_options(override.key_or_group))
    if group:
        aliases = DOORS[key].aliases if key in DOORS and isinstance(override.value(), Glob) else {}
        found = [str(value) for value in found if value not in aliases]  # glob(*) means every schedule once
    else:
        found = [value if isinstance(value, (bool, int, float)) else _value(parser, value) for value in found]
    if not found:
        raise ValueError(f"{override.input_line} names no value: an axis needs at least one")
    values = tuple(_hashable(value) for value in found)
    twice = [value for value, n in Counter(map(label, values)).items() if n > 1]
    if twice:
        raise ValueError(f"{key} lists {twice[0]} twice; each value of an axis may stand once")
    return Axis(name=key, key=key, values=values, group=group)


def _value(parser: OverridesParser, element: Any) -> Any:
    return parser.parse_override(f"key={Override._get_value_element_as_str(element)}").value()


def _hashable(value: Any) -> Any:
    return tuple(_hashable(each) for each in value) if isinstance(value, list) else value


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
    return notes
