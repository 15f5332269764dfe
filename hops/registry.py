"""Named records: what every door is a table of."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from hops.checks import no_such


class Registry[Record](Mapping[str, Record]):
    """Records by name; an alias finds its record, iteration and length see canonical names only."""

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self.aliases: dict[str, str] = {}
        self._records: dict[str, Record] = {}

    def add(self, name: str, record: Record, aliases: Iterable[str] = ()) -> None:
        """Register ``record``; a name that is taken is a ``ValueError``."""
        for each in (name, *aliases):
            if each in self._records or each in self.aliases:
                raise ValueError(f"{self.noun} {each!r} is registered twice")
        self._records[name] = record
        self.aliases.update(dict.fromkeys(aliases, name))

    def canonical(self, name: str) -> str:
        """Return the name itself, or the name an alias stands for; unknown names are a ``ValueError``."""
        found = self.aliases.get(name, name)
        if found not in self._records:
            raise no_such(self.noun, name, [*self._records, *self.aliases])
        return found

    def __getitem__(self, name: str) -> Record:
        return self._records[self.canonical(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._records or name in self.aliases

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


def open_door(package: str, path: Iterable[str]) -> None:
    """Import every file of a door, so that each registers what it defines."""
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


def keywords(build: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only parameters of a builder with their defaults: the keys of its config group."""
    return {p.name: p.default for p in inspect.signature(build).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY}
