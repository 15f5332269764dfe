"""``hydra/sweeper=cube``: one multirun becomes one plan, evaluated in this process and written as one cube.

Hydra's own sweeper composes every job anew (about 40 ms, twice). Here Hydra composes once per tuple of group choices;
values of other keys are set on copies of that.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hops.config import SweepsSearchPath, plain, register_options, yaml

if TYPE_CHECKING:  # Hydra scans this file at every start, also for --help: what evaluates is imported where it is used
    from hops.axes import Asked
    from hops.checks import Infeasible
    from hops.plan import Axis, Cells, Dim, Plan
    from hops.scenario import Scenario


class CubeSweeper(Sweeper):
    """Hands the plan of a multirun to the task function's ``run_plan(plan, config)``."""

    # subclass of Sweeper, not BasicSweeper: Hydra's plugin scan re-imports that module, and super() then fails
    # the others are read from the composed config, so that Python callers can set them as well
    def __init__(self, params: Mapping[str, Any] | None = None, **_: Any) -> None:
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
    node = {"_target_": "hops.cube_sweeper.CubeSweeper", "params": {}, "strict": False, "where": None, "zip": []}
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
    from hops.axes import cells_of, parse
    from hops.scenario import forget_files, share_laws

    forget_files()
    asked = parse(loader, overrides)
    first, dims, config_of = _configs(asked, compose)
    is_wanted = _condition(asked, OmegaConf.select(first, "hydra.sweeper.where"))
    made = share_laws([config_of(values) if is_wanted(values) else None for values in cells_of(dims)])
    example = next((config for config in made if isinstance(config, dict)), {})
    scenarios = tuple(_scenario(config, asked.typed) if isinstance(config, dict) else config for config in made)
    return _plan(first, dims, scenarios, tuple(overrides), OmegaConf.to_yaml(OmegaConf.create(example)))


def _configs(
    asked: "Asked", compose: Callable[[Sequence[str]], DictConfig]
) -> "tuple[DictConfig, tuple[Dim, ...], Callable[[Mapping[str, Any]], dict[str, Any] | Infeasible]]":
    """The first cell as Hydra composes it, the dims of the sweep, and what makes a cell's config from its values by key.

    Hydra composes the groups, and what is added or refers to other keys; the rest is set on copies of that: other axes, and
    keys with one value for all cells that only some options of a swept group may have, where Hydra would refuse all.
    """
    from hops.axes import cells_of, zipped
    from hops.compositions import composed
    from hops.plan import label

    swept = {axis.key for axis in asked.axes if axis.group}
    held = [key for key in asked.fixed if key.plain and key.name.split(".")[0] in swept]
    lines = [key.line for key in asked.fixed if key not in held]

    @cache
    def compose_with(axes: "tuple[Axis, ...]", values: tuple[Any, ...]) -> DictConfig:
        config = compose([*lines, *(f"{axis.typed}={label(value)}" for axis, value in zip(axes, values, strict=True))])
        _check_names(config)
        return config

    def pick(values: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(values[axis.key] for axis in by_hydra)

    by_hydra = tuple(axis for axis in asked.axes if axis.group or axis.typed != axis.key)
    first = compose_with(by_hydra, tuple(axis.values[0] for axis in by_hydra))
    dims = zipped(asked.axes, OmegaConf.select(first, "hydra.sweeper.zip"), [key.name for key in asked.fixed])
    configs, refers = composed(partial(compose_with, by_hydra), [pick(values) for values in cells_of(dims)])
    if refers and len(by_hydra) < len(asked.axes):  # a key is written in terms of another: Hydra itself composes every value
        by_hydra = asked.axes
        configs, _ = composed(partial(compose_with, by_hydra), [pick(values) for values in cells_of(dims)])
    constants = [(key.name, key.value) for key in held]
    set_here = [axis.key for axis in asked.axes if axis not in by_hydra]
    _check_keys([*(name for name, _ in constants), *set_here], configs.values())

    def config_of(values: Mapping[str, Any]) -> "dict[str, Any] | Infeasible":
        return _with_values(configs[pick(values)], [*constants, *((key, values[key]) for key in set_here)], values)

    return first, dims, config_of


def _condition(asked: "Asked", expression: Any) -> Callable[[Mapping[str, Any]], bool]:
    """``hydra.sweeper.where`` as a test of a cell's values by key; axes of a question that were given one value count too."""
    from hops.where import where

    if expression is None:
        return lambda values: True
    constants = {key.name.replace(".", "_"): key.value for key in asked.fixed}
    names = {name: axis.key for axis in asked.axes for name in (axis.key.replace(".", "_").replace("/", "_"), axis.name)}
    test = where(str(expression), [*constants, *names])
    return lambda values: test(constants | {name: values[key] for name, key in names.items()})


def one_cell(config: DictConfig) -> "Plan":
    """The plan of a single run."""
    _check_names(config)
    overrides = tuple(config.hydra.overrides.task)
    typed = {override.partition("=")[0].lstrip("+") for override in overrides}
    return _plan(config, (), (_scenario(plain(config), typed),), overrides, yaml(config))


def _check_keys(keys: Sequence[str], configs: "Iterable[Mapping[str, Any]]") -> None:
    """Refuse a key that no option has."""
    from hops.compositions import has

    for key in keys:
        if not any(has(config, key) for config in configs):
            raise ValueError(f"{key} is not a key of this config (python -m hops --cfg job shows all)")


def _with_values(config: dict[str, Any], here: "Sequence[tuple[str, Any]]", cell: Mapping[str, Any]) -> "dict[str, Any] | Infeasible":
    """The config of a cell; or why it has none, where a key exists with another option only."""
    from hops.checks import Infeasible
    from hops.compositions import has, with_value

    for key, value in here:
        if not has(config, key):
            head = key.split(".")[0]
            return Infeasible(f"{key} is not a key with {head}={cell[head]}" if head in cell else f"{key} is not a key of this cell")
        config = with_value(config, key.split("."), value)
    return config


def _plan(config: DictConfig, dims: "tuple[Dim, ...]", scenarios: "Cells", overrides: tuple[str, ...], text: str) -> "Plan":
    from hops.checks import one_of
    from hops.executor import make_executor
    from hops.plan import Plan, check_quantiles, make_target

    executor = make_executor(plain(config).get("executor", {}))
    quantiles = check_quantiles(OmegaConf.select(config, "output.quantiles"))
    keep = one_of("output.keep", OmegaConf.select(config, "output.keep"), ("quantiles", "draws"))
    strict = bool(OmegaConf.select(config, "hydra.sweeper.strict"))
    target = make_target(*(OmegaConf.select(config, key) for key in ("draws", "target_error", "target_quantile")))
    notes = _notes(config, [axis for dim in dims for axis in dim])
    if target is None and any(override.lstrip("+").startswith(("target_error=", "target_quantile=")) for override in overrides):
        notes.append("target_error and target_quantile play no part in a given number of draws (try draws=auto)")
    name, sources = OmegaConf.select(config, "hydra.job.config_name"), OmegaConf.select(config, "hydra.runtime.config_sources") or []
    theirs = tuple(str(Path(each.path).absolute()) for each in sources if each.provider == "command-line")
    given = (strict, text, overrides, name or "config", theirs, tuple(notes), target)
    return Plan(dims, scenarios, executor, quantiles, keep == "draws", *given)


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
    from hops.scenario import DERIVED, NOT_SCENARIO, Scenario

    ours = {key: value for key, value in config.items() if key not in NOT_SCENARIO}
    for key, derives in DERIVED.items():
        if ours.get(key) is not None and derives not in typed:
            ours[derives] = None
    try:
        return Scenario.from_config(ours)
    except Infeasible as reason:
        return reason


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
