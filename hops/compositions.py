"""Configs of every tuple of group choices, with as few of Hydra's compositions (40 ms each) as possible.

Ten options in each of three groups are 1,000 tuples, but 29 compositions: what an option changes is found by composing it
alone, and where no two groups change the same key, or choose the same third group, the changes are put together. One
more composition, of the last options of all groups, is compared with that; if it differs, Hydra composes every tuple.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hops.config import OPEN, plain

type Choices = tuple[Any, ...]
type Path = tuple[str, ...]
type Config = dict[str, Any]

GONE = object()  # a key that an option does not have
CHOSEN = "hydra.runtime.choices"  # where a config keeps, while it is compared, what was chosen in every group


def composed(compose: Callable[[Choices], DictConfig], wanted: Sequence[Choices]) -> tuple[dict[Choices, Config], bool]:
    """Configs of all ``wanted`` tuples of choices, and whether a key in them is written in terms of another (``${...}``)."""
    wanted = list(dict.fromkeys(wanted))
    options = [list(dict.fromkeys(column)) for column in zip(*wanted, strict=True)]
    first, last = wanted[0], tuple(column[-1] for column in options)
    alone = [(*first[:i], value, *first[i + 1 :]) for i, column in enumerate(options) for value in column[1:]]
    if len(wanted) == math.prod(map(len, options)) and 2 + len(alone) < len(wanted):
        made = {choice: compose(choice) for choice in (first, *alone, last)}
        if not _refers(made.values()):
            found = _put_together({choice: {**plain(config), CHOSEN: _chosen(config)} for choice, config in made.items()}, options)
            if found is not None:
                return {choice: {key: config[key] for key in config if key != CHOSEN} for choice, config in found.items()}, False
    made = {choice: compose(choice) for choice in wanted}
    return {choice: plain(config) for choice, config in made.items()}, _refers(made.values())


def _refers(configs: Iterable[DictConfig]) -> bool:
    return any("${" in repr(plain(config, resolve=False)) for config in configs)


def _chosen(config: DictConfig) -> Config:
    """What was chosen in every group, also in those that the choice of another picks (``pair: ${schedule}_${topology}``)."""
    return dict(OmegaConf.select(config, "hydra.runtime.choices") or {})


def _put_together(known: dict[Choices, Config], options: Sequence[Sequence[Any]]) -> dict[Choices, Config] | None:
    """All tuples of ``options`` from those that differ from the first in one option; None if that does not give the last one."""
    first, last = tuple(column[0] for column in options), tuple(column[-1] for column in options)
    base = known[first]
    changes = [{value: changed(base, known[*first[:i], value, *first[i + 1 :]]) for value in column} for i, column in enumerate(options)]
    touched = [{path[:n] for each in column.values() for path in each for n in range(1, len(path) + 1)} for column in changes]
    whole = [{path for each in column.values() for path in each} for column in changes]
    for i, j in itertools.permutations(range(len(options)), 2):
        if whole[i] & touched[j]:  # one changes what, or what contains what, the other changes
            return None

    def config(choices: Choices) -> Config:
        found = base
        for column, choice in zip(changes, choices, strict=True):
            for path, value in column[choice].items():
                found = with_value(found, path, value)
        return found

    return {choices: config(choices) for choices in itertools.product(*options)} if config(last) == known[last] else None


def changed(before: Config, after: Config) -> dict[Path, Any]:
    """What must be set in ``before`` to make it ``after``; `GONE` for a key to take away."""
    found: dict[Path, Any] = {}
    for key in {**before, **after}:
        old, new = before.get(key, GONE), after.get(key, GONE)
        if isinstance(old, dict) and isinstance(new, dict):
            found |= {(key, *path): value for path, value in changed(old, new).items()}
        elif type(old) is not type(new) or old != new:
            found[key,] = new
    return found


def has(config: Mapping[str, Any], key: str) -> bool:
    """Whether there can be a value at ``key``, dots between its parts: an empty (null) section and an open one take any."""
    if key.rpartition(".")[0] in OPEN:
        key = key.rpartition(".")[0]
    found: Any = config
    for part in key.split("."):
        if found is None:
            return True
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = found[part]
    return True


def with_value(config: Config, path: Sequence[str], value: Any) -> Config:
    """Copy of ``config`` with ``value`` at ``path`` (`GONE` takes it away), sharing all else."""
    head, *rest = path
    if value is GONE and not rest:
        return {key: old for key, old in config.items() if key != head}
    return {**config, head: with_value(config.get(head) or {}, rest, value) if rest else value}
