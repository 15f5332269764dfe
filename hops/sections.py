"""Sections of the config as values that can be remembered: hashable, and with the types, as 1, 1.0 and true are different questions."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple


class Choice(NamedTuple):
    """A name from a door with its parameters, sorted by key.

    Lists and sections in them are tuples; ``types`` are theirs, one a parameter: choices are keys of what is remembered, and
    ``true`` must not find what 1 left there.
    """

    name: str
    params: tuple[tuple[str, Any], ...] = ()
    types: Any = ()
    version: str = ""  # of a file that a parameter names

    @property
    def kwargs(self) -> dict[str, Any]:
        """The parameters as a builder takes them, sections as dicts again."""
        if not self.types:
            return dict(self.params)
        return {key: _thawed(kind, value) for (key, value), kind in zip(self.params, self.types, strict=True)}


type Frozen = tuple[tuple[str, Any, Any], ...]  # (key, type, value)


def section_of(name: str, config: Mapping[str, Any]) -> Frozen:
    if not isinstance(config[name], Mapping):
        raise ValueError(f"{name} must be a section of keys; got {config[name]!r}")
    return frozen(config[name])


def frozen(section: Mapping[str, Any]) -> Frozen:
    """A config section as a hashable value; with the types, as 1, 1.0 and true are equal but different questions."""
    return tuple((key, type_of(section[key]), hashable(section[key])) for key in sorted(section, key=str))


def type_of(value: Any) -> Any:
    return tuple(map(type_of, value)) if isinstance(value, (list, tuple)) else type(value)


def hashable(value: Any) -> Any:
    """A config value with tuples for lists and sections."""
    if isinstance(value, Mapping):
        return frozen(value)
    return tuple(map(hashable, value)) if isinstance(value, (list, tuple)) else value


def is_section(value: Any) -> bool:
    """Whether `hashable` made the value from a section."""
    return isinstance(value, tuple) and all(
        isinstance(each, tuple) and len(each) == 3 and isinstance(each[0], str) and isinstance(each[1], (type, tuple)) for each in value
    )


def _thawed(kind: Any, value: Any) -> Any:
    """A config value from what `type_of` and `hashable` made of it; lists stay tuples."""
    if isinstance(kind, tuple):
        return tuple(map(_thawed, kind, value))
    return {key: _thawed(inner, each) for key, inner, each in value} if kind is dict else value


def values_of(noun: str, section: Frozen, sections: tuple[str, ...] = ()) -> dict[str, Any]:
    for key, kind, value in section:
        if (kind is dict) != (key in sections) and value is not None:
            wanted = "a section of keys" if key in sections else "a value or a list"
            found = "a section" if kind is dict else repr(value)
            raise ValueError(f"{noun}.{key} must be {wanted}; got {found}")
    return {key: value for key, _, value in section}


remember = lru_cache(maxsize=65536)  # the sections of a sweep repeat from cell to cell: each is checked once


def check_keys(noun: str, name: str, values: Iterable[str], known: Iterable[str]) -> None:
    for key in values:
        if key not in known:
            raise ValueError(f"{noun}.{key} has no meaning for {name} (it takes {', '.join(known) or 'no parameters'})")
