"""Traffic: what groups of GPUs send besides the messages of the pipeline, and over which links. Gradients, weights, exchanges of ops.

A group sends over all of its paths at the same time, as a `Flow`: it has one rate, that of the link that is fullest on average
over the time that it takes alone, latencies and all. So a link that carries less of it counts as carrying as much.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from hops.cluster import Cluster
from hops.costs import Costs
from hops.data_parallel import GRADIENT, WEIGHT, DataParallel
from hops.lanes import Lane, Rings, shard_groups
from hops.layout import Layout
from hops.messages import Message
from hops.paths import Link, Path


class Flow(NamedTuple):
    """Bytes that cross each link, and the seconds that all of them take alone."""

    links: Mapping[Link, float]
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes a second on its fullest link; never more than its narrowest has."""
        most = max(self.links.values(), default=0.0)
        return min([most / self.seconds if self.seconds else 1.0, *(link.rate(most) for link in self.links)])


class Traffic(NamedTuple):
    """What shares links with the messages of the lanes ``sent``; s = stages. Empty where nothing is exchanged."""

    sent: tuple[tuple[Message, ...], ...]  # of every lane
    reduce: tuple[tuple[Flow, ...], ...] = ()  # (s,) one after the other: within shard groups, then among them
    gather: tuple[tuple[Flow, ...], ...] = ()  # (s,) of new weights
    unshard: tuple[tuple[Flow, ...], ...] = ()  # (lanes, s) of weights that a lane gathers within the iteration


def traffic(
    cluster: Cluster,
    layout: Layout,
    data_parallel: DataParallel,
    costs: Costs,
    stage_ranks: Sequence[int],
    rings: Rings,
    seen: Sequence[tuple[Lane, tuple[Message, ...]]],
) -> Traffic:
    """What lanes ``seen``, with their messages, send; ``rings`` as of `rank_rings`."""
    reduce, gather = [], []
    unshard: list[list[Flow]] = [[] for _ in seen]
    for stage, rank in enumerate(stage_ranks):
        within, among, whole = ([], [], [])  # type: tuple[list[Flow], list[Flow], list[Flow]]
        of_lanes: list[list[Flow]] = [[] for _ in seen]
        for kind, held in enumerate((costs.parameters, costs.expert_parameters)):
            size = held[stage] if held else 0.0
            if not size:
                continue
            shard, replicate = rings[kind, rank]
            sharing, alike = shard_groups(layout, data_parallel, kind, rank)
            n, part = max(1, data_parallel.buckets(size, shard.n * replicate.n)), (shard.n - 1) / shard.n
            within.append(Flow(around(cluster, sharing, part * GRADIENT * size), n * shard.gather(GRADIENT * size / n)))
            sent = 2 * (replicate.n - 1) / replicate.n * GRADIENT * size / shard.n
            among.append(Flow(around(cluster, alike, sent), n * replicate.all_reduce(GRADIENT * size / n / shard.n)))
            seconds = n * shard.gather(WEIGHT * size / n)
            if not data_parallel.unshards:
                whole.append(Flow(around(cluster, sharing, part * WEIGHT * size), seconds))
                continue
            for (lane, _), found in zip(seen, of_lanes, strict=True):
                gpus = {gpu for replica in lane.replicas for gpu in layout.gpus(rank, replica)}
                found.append(Flow(around(cluster, sharing, part * WEIGHT * size, gpus), seconds))
        reduce.append(tuple(flow for flow in (together(within), together(among)) if flow.links))
        gather.append(tuple(flow for flow in (together(whole),) if flow.links))
        for found, flows in zip(unshard, of_lanes, strict=True):
            found.append(together(flows))
    return Traffic(tuple(sent for _, sent in seen), tuple(reduce), tuple(gather), tuple(map(tuple, unshard)))


def meets(
    cluster: Cluster,
    layout: Layout,
    data_parallel: DataParallel,
    costs: Costs,
    stage_ranks: Sequence[int],
    seen: Sequence[tuple[Lane, tuple[Message, ...]]],
) -> bool:
    """Whether there is a link that not only one of these crosses: messages from one rank of a lane to another, gradients of a rank."""
    users: dict[Link, Hashable] = {}
    return any(users.setdefault(link, user) != user for user, link in _crossing(cluster, layout, data_parallel, costs, stage_ranks, seen))


def _crossing(
    cluster: Cluster,
    layout: Layout,
    data_parallel: DataParallel,
    costs: Costs,
    stage_ranks: Sequence[int],
    seen: Sequence[tuple[Lane, tuple[Message, ...]]],
) -> Iterator[tuple[Hashable, Link]]:
    """Who crosses which link, bit by bit: in most cells the second to ask meets the first."""
    for i, (_, sent) in enumerate(seen if costs.p2p_bytes else ()):
        for message in sent:
            yield from (((i, *message.ranks), link) for link in message.links)
    for stage, rank in enumerate(stage_ranks):
        for kind, held in enumerate((costs.parameters, costs.expert_parameters)):
            if held and held[stage]:
                for groups in shard_groups(layout, data_parallel, kind, rank):
                    for path in _rounds(cluster, groups):
                        for link in path.links:
                            yield rank, link
                            if data_parallel.unshards:
                                yield (rank, "unshard"), link


def around(cluster: Cluster, groups: Iterable[Sequence[int]], size: float, gpus: set[int] | None = None) -> dict[Link, float]:
    """Bytes on every link when each GPU of ``groups`` (of these only ``gpus``) sends ``size`` bytes to the next of its group."""
    crossing = Counter(link for path in _rounds(cluster, groups, gpus) for link in path.links)
    return {link: n * size for link, n in crossing.items()}


def _rounds(cluster: Cluster, groups: Iterable[Sequence[int]], gpus: set[int] | None = None) -> Iterator[Path]:
    for group in groups:
        for a, b in zip(group, [*group[1:], group[0]], strict=True):
            if a != b and (gpus is None or a in gpus):
                yield cluster.between(a, b)


def together(flows: Sequence[Flow]) -> Flow:
    """One flow in place of several that follow each other."""
    links: Counter[Link] = Counter()
    for flow in flows:
        links.update(flow.links)
    return Flow(links, sum(flow.seconds for flow in flows))
