"""Spells: what slows a job for a while and does not stop it, in one trial: from when to when, in int64 ticks.

They follow the calendar, whatever the job does, so that they can be known ahead; all are addressed as lifetimes are (`hops.clocks`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from hops.checks import Infeasible, no_such, speed_of
from hops.cluster import Cluster
from hops.disturbances import Disturbance
from hops.faults import BANDWIDTH, DEVICE, JOB, NODE, SLOW, STALL, STOPS, Fault
from hops.hazards import Hazards, clockwork, components
from hops.injections import Injection
from hops.kernels import NEVER
from hops.layout import Layout
from hops.lifetimes import Lifetime
from hops.overrides import find_link
from hops.paths import PATH_CLASSES
from hops.scripts import Line
from hops.training import Training
from hops.weights import TICKS


class Part(NamedTuple):
    """Something that can be slow, and how slow it is then."""

    fault: str
    kind: str
    disturbance: Disturbance
    node: int  # in the job: the one that fails where this stands still for too long

    @property
    def replaceable(self) -> bool:
        """Whether it belongs to that node alone, so that another in its place does not have it."""
        first, *others = self.disturbance.which
        name = str(first).removesuffix(" out").removesuffix(" in")
        return not others and (self.disturbance.scope != "link" or name.rpartition(" ")[2].isdigit())


class Spell(NamedTuple):
    """A part is slow."""

    begin: int
    end: int
    part: int
    repair: int  # of its node, where it comes to that


class Spells(NamedTuple):
    """What can be slow in a run; c = parts."""

    parts: tuple[Part, ...]
    h: Hazards  # of parts in place of nodes; what it calls detection is how long a spell lasts
    script: tuple[tuple[Spell, ...], ...]  # of every trial, or of all; none: drawn
    timeout: tuple[int, ...]  # (c,) ticks of training that a part may stand still
    detour: tuple[int | None, ...]  # (c,) the part that is slow in place of one that stands still once this is dead
    dead: int  # ticks until then
    injected: tuple[tuple[Injection, int, int] | None, ...] = ()  # of every injection that slows: it, its first part, how many


def slowing(training: Training, cluster: Cluster, layout: Layout, tries: Sequence[float] = ()) -> Spells | None:
    """What can slow a run, if anything; ``tries`` are timeouts of a message [s]; ``ValueError`` for scopes that there are none of."""
    failures = training.failures
    if not failures.slows:
        return None
    if training.run.tier == "analytic":
        raise Infeasible("run.tier=analytic has no formula for what slows a job and does not stop it (try run.tier=resampled)")
    if training.machine.elastic is not None:
        raise Infeasible(
            "what slows a job (slow, bandwidth, stall) is not modelled for one that goes on with fewer nodes (try recovery=restart)"
        )
    nodes = list(cluster.job_nodes(layout.n_gpus))
    faults = [fault for fault in failures.faults if not fault.stops]
    parts, found = list[Part](), list[list[list[int]]]()
    for fault in faults:
        own = parts_of(fault, cluster, layout, nodes)
        found.append([[len(parts) + i] for i in range(len(own))])
        parts += own
    injected = list[tuple[Injection, int, int] | None]()
    for i, each in enumerate(failures.chaos):
        if each.stops:
            injected.append(None)
            continue
        asked = Fault(f"chaos{i}", each.what, each.scope, None, Lifetime(), Lifetime(), Lifetime(), speed=each.speed)
        own = parts_of(asked, cluster, layout, nodes, f"failure.chaos[{i}].scope")
        if each.who is not None and each.who >= len(own):
            raise ValueError(f"failure.chaos[{i}].who={each.who}; there are {len(own)} of {each.scope}, 0 to {len(own) - 1}")
        injected.append((each, len(parts), len(own)))
        parts += own
    script, known = list[tuple[Spell, ...]](), dict[Part, int]()
    known |= {part: i for i, part in enumerate(parts)} if failures.script else {}
    for lines in failures.script or ():
        spells = list[Spell]()
        for line in lines:
            if line.kind != STOPS:
                part = known.setdefault(_part(line, cluster, nodes), len(known))
                spells.append(Spell(line.tick, line.tick + max(1, line.duration), part, line.repair))
        script.append(tuple(spells))
    empty = np.zeros(0, np.int64)
    h = Hazards(
        **clockwork(faults, found, [(fault.duration, fault.repair) for fault in faults], failures.rate),
        script=np.zeros((0, 3), np.int64),
        script_first=np.zeros(1, np.int64),
        group=empty,
        group_node=empty,
        unit=empty,
        unit_node=empty,
        unit_size=1,
        node_size=empty,
        piece=1,
        n_nodes=len(parts),
        exposure=False,
    )
    found_parts = list(known) if script else parts
    return Spells(h=h, script=tuple(script), injected=tuple(injected), **_given_up(found_parts, training, sum(tries)))


def _given_up(parts: Sequence[Part], training: Training, tries: float) -> dict[str, Any]:
    """When each part is given up, and what takes the place of links that are."""
    machine, patience = training.machine, training.failures.timeout
    timeout = NEVER if machine.waits or patience is None else round(patience * TICKS)
    timeouts, detours, others = list[int](), list[int | None](), list[Part]()
    dead, delay = round(tries * TICKS) + 1, round(machine.detour.delay * TICKS) if machine.detour else 0
    for part in parts:
        of_link = machine.detour is not None and part.disturbance.scope == "link" and not part.disturbance.speed
        speed = speed_of("recovery.bandwidth", machine.detour.bandwidth, 1) if machine.detour and of_link else Fraction(0)
        timeouts.append(min(timeout, dead) if of_link and not speed else timeout)
        detours.append(len(parts) + len(others) if speed else None)
        if speed:
            others.append(part._replace(kind=BANDWIDTH, disturbance=replace(part.disturbance, speed=speed, bandwidth=True)))
    none = [None] * len(others)
    return {"parts": (*parts, *others), "timeout": (*timeouts, *[timeout] * len(others)), "detour": (*detours, *none), "dead": dead + delay}


def parts_of(fault: Fault, cluster: Cluster, layout: Layout, nodes: Sequence[int], key: str | None = None) -> list[Part]:
    """Everything of its scope, which is config ``key``, that belongs to the job."""
    key = key or f"failure.faults.{fault.name}.scope"
    place, scope = {node: i for i, node in enumerate(nodes)}, fault.scope.replace("_", " ").lower()
    links = {name.lower(): name for name in cluster.links}

    def part(of: str, which: tuple[int | str, ...], node: int) -> Part:
        return Part(fault.name, fault.kind, Disturbance(of, which, fault.speed, bandwidth=fault.kind == BANDWIDTH), node)

    if fault.kind != SLOW and scope in links:
        name = links[scope]
        _, between, n = cluster.links[name]
        if between:
            return [part("link", (name,), 0)]
        at = [cluster.node(cluster.member(name, i)) for i in range(n)]
        return [part("link", (f"{name} {i}",), place[node]) for i, node in enumerate(at) if node in place]
    if fault.kind != SLOW and scope.upper() in PATH_CLASSES:
        return [part("link", (scope.upper(),), 0)]
    if fault.kind == BANDWIDTH:
        raise no_such(key, fault.scope, [*links.values(), *PATH_CLASSES])
    if fault.scope == DEVICE:
        devices = [cluster.order[gpu] for gpu in range(layout.n_gpus)]
        return [part("device", (device,), place[cluster.node(device)]) for device in devices]
    levels = {level.name for level in cluster.network}
    if fault.kind == STALL and fault.size is None and fault.scope not in (NODE, JOB, *levels):
        raise no_such(key, fault.scope, [DEVICE, NODE, JOB, *levels, *links.values(), *PATH_CLASSES])
    return [part("node", tuple(group), place[group[0]]) for group in components(fault, cluster, layout, nodes)]


def _part(line: Line, cluster: Cluster, nodes: Sequence[int]) -> Part:
    """What a line of a script is of."""
    speed, bandwidth = line.speed, line.kind == BANDWIDTH
    if line.link is not None:
        name = line.link.upper() if line.link.upper() in PATH_CLASSES else find_link(cluster, "failure.script", line.link)
        return Part(line.fault, line.kind, Disturbance("link", (name,), speed, bandwidth=bandwidth), _home(cluster, nodes, name))
    if line.device is not None:
        if line.device >= cluster.n_devices:
            raise ValueError(f"failure.script slows device {line.device}; the cluster has devices 0 to {cluster.n_devices - 1}")
        node = cluster.node(line.device)
        return Part(line.fault, line.kind, Disturbance("device", (line.device,), speed), nodes.index(node) if node in nodes else 0)
    places = tuple(nodes[node] for node in line.nodes)  # which of them there are is known by now
    return Part(line.fault, line.kind, Disturbance("node", places, speed), line.nodes[0])


def _home(cluster: Cluster, nodes: Sequence[int], name: str) -> int:
    """The job's node that a link belongs to; of what is of none the first."""
    family, _, number = name.removesuffix(" out").removesuffix(" in").rpartition(" ")
    if family in cluster.links and number.isdigit():
        node = cluster.node(cluster.member(family, int(number)))
        return nodes.index(node) if node in nodes else 0
    return 0


def told(spells: Spells, found: Sequence[Spell], place: Mapping[int, int]) -> list[Line]:
    """Lines of a script that say so; ``place`` in the job of every node."""
    lines = []
    for spell in found:
        part = spells.parts[spell.part]
        which, of = part.disturbance.which, part.disturbance.scope
        nodes = tuple(place[int(node)] for node in which) if of == "node" else ()
        device, link = int(which[0]) if of == "device" else None, str(which[0]) if of == "link" else None
        speed, length = part.disturbance.speed, spell.end - spell.begin
        lines.append(Line(spell.begin, nodes, 0, spell.repair, part.fault, part.kind, speed, length, device, link))
    return lines
