"""A cluster of one's own, in one YAML file: kinds of nodes, the hops that their messages cross, and the network between them.

``hops``: by name, ``latency`` [s] (0), ``bandwidth`` [bytes/s] (no limit), ``shared_by`` (how many GPUs in a node, or nodes in
the network, use one instance; null: its traffic never meets) and ``rails`` (1); or, in place of latency and bandwidth, a ``table`` of
measured pairs of bytes and seconds: see `hops.tables`. ``kinds``: by name, ``gpu`` (a name, or a
section with the fields of `Gpu`), ``gpus`` of a node, its ``levels`` from the inside out, and the hops ``out`` to the
network. ``nodes``: pairs of a kind and how many nodes of it (null, once: as many as needed). ``network``: levels from the nodes
outwards. A level has a ``name``, a ``size`` (GPUs, in the network nodes; null: all), NCCL's word for its paths as
``class``, the hops ``up`` to it and ``across`` it, and ``rails``: see `Level`. An example: ``conf/topology/custom_example.yaml``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from math import inf
from typing import Any

from hops.checks import Infeasible, count, no_such, one_of, positive
from hops.hardware import GPUS
from hops.nodes import Gpu
from hops.paths import PATH_CLASSES
from hops.tables import make_table
from hops.topologies import Cluster, Hop, Level, Node, node_runs, topology

NONE: Mapping[str, Any] = {}


@topology("custom", source="the file that describes it")
def custom(
    n_devices: int,
    *,
    nodes: Sequence[Any] | None = None,
    kinds: Mapping[str, Any] = NONE,
    hops: Mapping[str, Any] = NONE,
    network: Sequence[Any] = (),
) -> Cluster:
    if nodes is None or not kinds:
        missing = "nodes" if nodes is None else "kinds"
        raise Infeasible(f"topology.{missing} is not set; custom needs nodes and kinds (see conf/topology/custom_example.yaml)")
    known_hops = {str(name): _hop(f"topology.hops.{name}", str(name), hop) for name, hop in _keys("topology.hops", hops).items()}
    known_kinds = {
        str(name): _kind(f"topology.kinds.{name}", str(name), kind, known_hops) for name, kind in _keys("topology.kinds", kinds).items()
    }
    levels = _levels("topology.network", network, known_hops, inf)
    return Cluster("custom", node_runs(n_devices, nodes, known_kinds), levels)


def _hop(prefix: str, name: str, section: Any) -> Hop:
    given = _keys(prefix, section, ("latency", "bandwidth", "shared_by", "rails", "table"))
    shared_by = given.get("shared_by")
    return Hop(
        name,
        positive(f"{prefix}.latency", given.get("latency", 0.0), zero=True),
        positive(f"{prefix}.bandwidth", given.get("bandwidth", inf), infinite=True),
        None if shared_by is None else count(f"{prefix}.shared_by", shared_by),
        count(f"{prefix}.rails", given.get("rails", 1)),
        () if given.get("table") is None else make_table(f"{prefix}.table", given["table"]),
    )


def _kind(prefix: str, name: str, section: Any, hops: Mapping[str, Hop]) -> Node:
    given = _keys(prefix, section, ("gpu", "gpus", "levels", "out"), needed=("gpu", "gpus"))
    n_gpus = count(f"{prefix}.gpus", given["gpus"])
    levels = _levels(f"{prefix}.levels", given.get("levels", ()), hops, n_gpus)
    return Node(name, _gpu(f"{prefix}.gpu", given["gpu"]), n_gpus, levels, _named(f"{prefix}.out", given.get("out", ()), hops))


def _gpu(prefix: str, given: Any) -> Gpu:
    if not isinstance(given, Mapping):
        return GPUS[one_of(prefix, given, list(GPUS))]
    needed = [field.name for field in fields(Gpu) if field.default is MISSING]
    values = _keys(prefix, given, [field.name for field in fields(Gpu)], needed)
    numbers = {key: positive(f"{prefix}.{key}", value) for key, value in values.items() if key != "name" and value is not None}
    return Gpu(str(values["name"]), **numbers)


def _levels(prefix: str, sections: Any, hops: Mapping[str, Hop], everyone: float) -> tuple[Level, ...]:
    return tuple(_level(f"{prefix}[{i}]", section, hops, everyone) for i, section in enumerate(_list(prefix, sections, "levels")))


def _level(prefix: str, section: Any, hops: Mapping[str, Hop], everyone: float) -> Level:
    given = _keys(prefix, section, ("name", "size", "class", "up", "across", "rails"), needed=("name", "size", "class"))
    return Level(
        str(given["name"]),
        everyone if given["size"] is None else count(f"{prefix}.size", given["size"]),
        one_of(f"{prefix}.class", given["class"], PATH_CLASSES[1:]),
        _named(f"{prefix}.up", given.get("up", ()), hops),
        _named(f"{prefix}.across", given.get("across", ()), hops),
        count(f"{prefix}.rails", given.get("rails", 1)),
    )


def _named(prefix: str, names: Any, hops: Mapping[str, Hop]) -> tuple[Hop, ...]:
    return tuple(hops[one_of(f"hop of {prefix}", name, list(hops))] for name in _list(prefix, names, "names of hops"))


def _list(prefix: str, found: Any, of: str) -> Sequence[Any]:
    if not isinstance(found, (list, tuple)):
        raise ValueError(f"{prefix} must be a list of {of}; got {found!r}")
    return found


def _keys(prefix: str, section: Any, known: Sequence[str] = (), needed: Sequence[str] = ()) -> Mapping[str, Any]:
    """The section, if it is one and has no key but ``known`` ones (none known: any) and all ``needed`` ones."""
    if not isinstance(section, Mapping):
        raise ValueError(f"{prefix} must be a section of keys; got {section!r}")
    for key in section:
        if known and key not in known:
            raise no_such(f"key of {prefix}", key, known)
    missing = [key for key in needed if key not in section]
    if missing:
        raise ValueError(f"{prefix}.{missing[0]} is not set ({prefix} needs {', '.join(needed)})")
    return section
