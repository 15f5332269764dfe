"""Overrides of a cluster: slow devices and degraded links, by their names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hops.checks import Infeasible, nearest, no_such, positive
from hops.cluster import Cluster

# factors on the speed of devices, by number, and on the bandwidth of links, by name: sections whose keys are the user's
OVERRIDES: dict[str, dict[Any, Any]] = {"speed": {}, "bandwidth": {}}


def with_overrides(cluster: Cluster, overrides: Any) -> Cluster:
    """The cluster with factors on devices and links, from the section ``topology.overrides``.

    A link is named as paths name it ("NIC 3 out"), with underscores for spaces where one likes; without direction both are
    meant ("NIC 3"), without number all ("NIC"). `Infeasible` for what this cluster does not have (another of a sweep may),
    ``ValueError`` for what none has.
    """
    sections = _section("topology.overrides", overrides)
    for key in sections:
        if key not in OVERRIDES:
            raise no_such("key of topology.overrides", key, OVERRIDES)
    return replace(
        cluster, speeds=_factors(cluster, sections, "speed", _device), bandwidths=_factors(cluster, sections, "bandwidth", find_link)
    )


def _section(key: str, found: Any) -> Mapping[Any, Any]:
    if found is not None and not isinstance(found, Mapping):
        raise ValueError(f"{key} must be a section of keys; got {found!r}")
    return found or {}


def _factors[Name](cluster: Cluster, sections: Mapping[Any, Any], key: str, find: Callable[[Cluster, str, str], Name]) -> dict[Name, float]:
    full, factors = f"topology.overrides.{key}", dict[Name, float]()
    for asked, value in _section(full, sections.get(key)).items():
        name = find(cluster, full, str(asked))
        if name in factors:
            raise ValueError(f"{full} names {name!r} twice")
        factors[name] = positive(f"{full}.{asked}", value)
    return factors


def _device(cluster: Cluster, key: str, asked: str) -> int:
    has = f"{cluster.name} has devices 0 to {cluster.n_devices - 1}"
    if not re.fullmatch(r"\d+", asked):
        raise ValueError(f"{key} takes the numbers of devices; got {asked!r} ({has})")
    if int(asked) >= cluster.n_devices:
        raise Infeasible(f"{key}: no device {asked} ({has})")
    return int(asked)


def find_link(cluster: Cluster, key: str, asked: str) -> str:
    """The name that links of paths have, or its beginning."""
    words = asked.replace("_", " ")
    for name, (_, between, n) in cluster.links.items():
        form = r"(| (\d+)-(\d+))" if between else r"(| (\d+)(?: out| in)?)"
        found = re.fullmatch(re.escape(name.replace("_", " ")) + form, words, re.IGNORECASE)
        if found is not None:
            numbers = [int(number) for number in found.groups()[1:] if number is not None]
            if any(number >= n for number in numbers):
                raise Infeasible(f"{key}: no link {asked!r} ({cluster.name} has {name} 0 to {n - 1})")
            if between and numbers and not _joined(cluster, name, *numbers):
                raise ValueError(f"{key}: no link {asked!r}: {numbers[0]} and {numbers[1]} are not the two ends of a {name}")
            return name + found[1].lower()
    known = {_example(name, between, n, words): name for name, (_, between, n) in cluster.links.items()}
    close = nearest(words, known)
    guess = f"; did you mean {close!r}?" if close else ""
    names = ", ".join(f"{name} 0 to {cluster.links[name].n - 1}" for name in known.values())
    raise Infeasible(f"{key}: no link {asked!r}{guess} ({cluster.name} has {names or 'no link that could be shared'})")


def _example(name: str, between: bool, n: int, words: str) -> str:
    """The link of this name that is most like ``words``."""
    number = min([*map(int, re.findall(r"\d+", words)), n - 1])
    direction = re.search(r" (in|out)$", words)
    return f"{name} {max(number, 1) - 1}-{max(number, 1)}" if between else f"{name} {number}{direction[0] if direction else ''}"


def _joined(cluster: Cluster, name: str, a: int, b: int) -> bool:
    try:
        path = cluster.path(cluster.member(name, a), cluster.member(name, b))
    except Infeasible:
        return False
    return f"{name} {a}-{b}" in [link.name for link in path.links]
