"""Impact: which of a cell's resources a disturbance slows, and from when to when.

A rank is as slow as the slowest of its GPUs, a message as the slowest of its links, an exchange of replicas as the slowest of its
phases. What an op exchanges (tensor, context, expert) is part of it, and knows no links here: only its GPUs' speed counts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from math import inf, prod

from hops.checks import Infeasible
from hops.cluster import Cluster
from hops.disturbances import Disturbance
from hops.joint import Resources
from hops.lanes import Lane, holding, lanes, rank_rings
from hops.messages import Message, messages
from hops.overrides import find_link
from hops.paths import PATH_CLASSES, Link
from hops.simulation import Case
from hops.speeds import NEVER, Piece, Speeds, countable, make_speeds
from hops.traffic import Flow, traffic
from hops.weights import TICKS

type Active = frozenset[int]  # which disturbances, by number
type Law = Callable[[Active], Fraction]  # the speed of a resource while these are active


def speeds_of(case: Case, disturbances: Sequence[Disturbance]) -> Speeds:
    """Speeds of the resources of a case; `Infeasible` for what its cluster or layout does not have."""
    s, w, stage_ranks = case.scenario, case.weights, case.structure.stage_ranks
    together = lanes(s.layout, s.data_parallel)
    resources = Resources(len(together), s.pp, len(stage_ranks))
    _check(case, disturbances)
    links = {i: _links(w.cluster, each) for i, each in enumerate(disturbances) if each.scope == "link"}
    laws: dict[int, tuple[Active, Law]] = {}
    for n, lane in enumerate(together):
        for rank in range(s.pp):
            laws[resources.rank(n, rank)] = _of_rank(case, disturbances, lane, rank)
        for message in messages(w.cluster, s.layout, stage_ranks, lane.replicas) if links else ():
            there = message.stage, message.backward
            for channel, resource in ((True, resources.channel(n, *there)), (False, resources.delay(n, *there))):
                laws[resource] = _of_message(case, disturbances, links, message, channel)
    for seat, flows in enumerate(_exchanges(case, together) if links else ()):
        laws[resources.ring(seat)] = _of_ring(disturbances, links, flows, PATH_CLASSES[w.ring[seat]])
    return make_speeds(
        resources.n, {resource: _pieces(disturbances, touching, law) for resource, (touching, law) in laws.items() if touching}
    )


def _pieces(disturbances: Sequence[Disturbance], touching: Active, law: Law) -> list[Piece]:
    """Pieces of time in which the same disturbances are active, neighbours of one speed together; none of speed 1."""
    spans = {i: _ticks(disturbances[i]) for i in touching}
    edges = sorted({edge for span in spans.values() for edge in span})
    found: list[Piece] = []
    for begin, end in pairwise(edges):
        exact = law(frozenset(i for i, (first, last) in spans.items() if first <= begin and end <= last))
        speed = countable(exact)
        if found and found[-1][1:] == (begin, speed.numerator, speed.denominator):
            found[-1] = (found[-1][0], end, *found[-1][2:])
        elif speed != 1:
            found.append((begin, end, speed.numerator, speed.denominator))
    return found


def _ticks(each: Disturbance) -> tuple[int, int]:
    begin = int(each.start * TICKS + 0.5)
    end = NEVER if each.duration == inf else begin + int(each.duration * TICKS + 0.5)
    if max(begin, end if each.duration < inf else 0) >= NEVER >> 1:
        raise ValueError(f"disturbance: {each}: beyond the 73 years that its clock can count")
    return begin, end


def _of_rank(case: Case, disturbances: Sequence[Disturbance], lane: Lane, rank: int) -> tuple[Active, Law]:
    layout, cluster = case.scenario.layout, case.weights.cluster
    of_gpus = set[Active]()
    for replica in lane.replicas:
        for gpu in layout.gpus(rank, replica):
            device = cluster.order[gpu]
            names = {"device": device, "node": cluster.node(device), "rank": rank}
            touching = (i for i, each in enumerate(disturbances) if names.get(each.scope) in each.which and each.replica in (None, replica))
            of_gpus.add(frozenset(touching))

    def law(active: Active) -> Fraction:
        return min(prod([disturbances[i].speed for i in own & active], start=Fraction(1)) for own in of_gpus)

    return frozenset[int]().union(*of_gpus), law


def _of_message(
    case: Case, disturbances: Sequence[Disturbance], links: Mapping[int, frozenset[str]], message: Message, channel: bool
) -> tuple[Active, Law]:
    """Speed of the channel of a message, or of its delay, which knows no bandwidth unless it is all that there is."""
    size, latency = case.weights.costs.p2p_bytes, 0.0
    wire = message.seconds(size)
    if case.scenario.p2p == "latency":  # both are one delay
        channel, latency = True, message.latency
    crossed = {link: link.seconds(n * size) for link, n in message.links.items()}
    return _of_links(disturbances, links, crossed, PATH_CLASSES[message.path_class], wire if channel else 0.0, latency)


def _of_ring(
    disturbances: Sequence[Disturbance], links: Mapping[int, frozenset[str]], flows: Sequence[Flow], path_class: str
) -> tuple[Active, Law]:
    found = [
        _of_links(disturbances, links, {link: link.seconds(n) for link, n in flow.links.items()}, path_class, flow.seconds, 0.0)
        for flow in flows
    ]
    return frozenset[int]().union(*(each for each, _ in found)), lambda active: min(law(active) for _, law in found)


def _of_links(
    disturbances: Sequence[Disturbance],
    links: Mapping[int, frozenset[str]],
    crossed: Mapping[Link, float],
    path_class: str,
    wire: float,
    rest: float,
) -> tuple[Active, Law]:
    """Of what takes ``wire`` seconds over links that it has ``crossed`` in so many seconds each, and ``rest`` besides.

    Of a class of paths all is the link that limits.
    """
    parts = {(frozenset(i for i, names in links.items() if not names.isdisjoint(_names(link))), alone) for link, alone in crossed.items()}
    parts.add((frozenset(i for i, names in links.items() if path_class in names), wire))
    total = wire + rest

    def law(active: Active) -> Fraction:
        slowest = Fraction(1)
        for touching, alone in parts:
            here = [disturbances[i] for i in touching & active]
            speed = prod([each.speed for each in here if not each.bandwidth], start=Fraction(1))
            left = prod([each.speed for each in here if each.bandwidth], start=Fraction(1))
            if left == 0 and total > 0:
                speed = left
            elif left < 1 and total > 0:
                speed *= Fraction(total / (max(wire, alone / float(left)) + rest))
            slowest = min(slowest, speed)
        return slowest

    return frozenset[int]().union(*(touching for touching, _ in parts)), law


def _names(link: Link) -> tuple[str, ...]:
    return link.name, link.name.removesuffix(" out").removesuffix(" in"), link.hop


def _links(cluster: Cluster, each: Disturbance) -> frozenset[str]:
    """Names of links as `_names` has them, or classes of paths."""
    found = set[str]()
    for asked in map(str, each.which):
        if asked.upper() in PATH_CLASSES:
            found.add(asked.upper())
            continue
        try:
            found.add(find_link(cluster, "disturbance.link", asked))
        except ValueError as error:
            raise type(error)(f"{error}, or classes of paths ({', '.join(PATH_CLASSES)})") from None
    return frozenset(found)


def _check(case: Case, disturbances: Sequence[Disturbance]) -> None:
    """Refuse numbers that the cluster or the layout does not have."""
    s, cluster = case.scenario, case.weights.cluster
    sizes = {"device": cluster.n_devices, "node": sum(n for _, n in cluster.nodes), "rank": s.pp, "replica": s.dp}
    for each in disturbances:
        asked = {each.scope: each.which, "replica": () if each.replica is None else (each.replica,)}
        for noun, numbers in asked.items():
            for number in numbers if noun != "link" else ():
                if int(number) >= sizes[noun]:
                    raise Infeasible(f"disturbance: no {noun} {number} (there are {noun}s 0 to {sizes[noun] - 1})")


def _exchanges(case: Case, together: Sequence[Lane]) -> Iterable[Sequence[Flow]]:
    """What replicas exchange of every seat's weights, phase by phase."""
    s, w, stage_ranks = case.scenario, case.weights, case.structure.stage_ranks
    if w.costs.parameters is None:
        return ()
    holders = [holding(rank, stage_ranks, w.costs.pipelines) for rank in range(s.pp)]
    rings = rank_rings(w.cluster, s.layout, s.data_parallel, any(w.costs.expert_parameters or ()), holders)
    moved = traffic(w.cluster, s.layout, s.data_parallel, w.costs, stage_ranks, rings, [(lane, ()) for lane in together])
    unshard = zip(*moved.unshard, strict=True) if moved.unshard and moved.unshard[0] else [()] * len(stage_ranks)
    return [(*a, *b, *c) for a, b, c in zip(moved.reduce, moved.gather, unshard, strict=True)]
