"""Traffic: what groups of GPUs send besides the messages of the pipeline, and over which links. Gradients, weights, exchanges of ops.

A group sends over all of its paths at the same time, as a `Flow`: it has one rate, that of the link that is fullest on average
over the time that it takes alone, latencies and all. So a link that carries less of it counts as carrying as much.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.cluster import Cluster
from hops.collectives import groups
from hops.costs import Costs
from hops.data_parallel import GRADIENT, WEIGHT, DataParallel
from hops.lanes import Lane, Rings, holding, shard_groups
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
    inside: tuple[tuple[tuple[Flow, ...], ...], ...] = ()  # (lanes, r) of exchanges of ops: tensor, context, expert
    share: NDArray[np.float64] = np.zeros((0, 3, 3))  # (s, 3, 3) of an op's time: of F, B, I those exchanges that nothing hides


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
            ranks = holding(rank, stage_ranks, costs.pipelines)
            sharing, alike = shard_groups(layout, data_parallel, kind, ranks)
            n, part = max(1, data_parallel.buckets(size, shard.n * replicate.n)), (shard.n - 1) / shard.n
            within.append(Flow(around(cluster, sharing, part * GRADIENT * size), n * shard.gather(GRADIENT * size / n)))
            sent = 2 * (replicate.n - 1) / replicate.n * GRADIENT * size / shard.n
            among.append(Flow(around(cluster, alike, sent), n * replicate.all_reduce(GRADIENT * size / n / shard.n)))
            seconds = n * shard.gather(WEIGHT * size / n)
            if not data_parallel.unshards:
                own = {*layout.members(rank)} if len(ranks) > 1 else None  # the others' part is counted with them
                whole.append(Flow(around(cluster, sharing, part * WEIGHT * size, own), seconds))
                continue
            for (lane, _), found in zip(seen, of_lanes, strict=True):
                gpus = {gpu for replica in lane.replicas for gpu in layout.gpus(rank, replica)}
                found.append(Flow(around(cluster, sharing, part * WEIGHT * size, gpus), seconds))
        reduce.append(tuple(flow for flow in (together(within), together(among)) if flow.links))
        gather.append(tuple(flow for flow in (together(whole),) if flow.links))
        for found, flows in zip(unshard, of_lanes, strict=True):
            found.append(together(flows))
    share = exposed(costs)
    inside = [[within_rank(cluster, layout, rank, lane, costs.p2p_bytes) for rank in range(layout.pp)] for lane, _ in seen if share.any()]
    return Traffic(
        tuple(sent for _, sent in seen), tuple(reduce), tuple(gather), tuple(map(tuple, unshard)), tuple(map(tuple, inside)), share
    )


def exposed(costs: Costs) -> NDArray[np.float64]:
    """Shares (s, 3, 3) of the times of F, B, I in which a rank's groups exchange and nothing is computed: tensor, context, expert."""
    if costs.forward_exchange is None or costs.backward_exchange is None:
        return np.zeros((costs.n_stages, 3, 3))
    exchange = np.array([costs.forward_exchange, costs.backward_exchange, costs.backward_exchange])  # (3, s, 3)
    return np.moveaxis(exchange / np.array([costs.forward, costs.backward, costs.backward_input])[:, :, None], 0, 1)


def within_rank(cluster: Cluster, layout: Layout, rank: int, lane: Lane, size: float) -> tuple[Flow, ...]:
    """What the groups of ``rank`` exchange in a lane: tensor, context, expert. At the rate of messages of ``size`` bytes.

    That is what a step of a tensor's ring sends; other messages are larger or smaller, and pay less or more for latency.
    """
    if not size:
        return (Flow({}, 0.0),) * 3
    shards, context, expert, expert_shards, _ = groups(cluster, layout, rank)
    there = context.crowd.all_to_all(size) if context.comm == "a2a" else context.ring.step(size)
    seconds = (shards.step(size), there, expert.all_to_all(size) + expert_shards.gather(size * expert_shards.n))
    found = []
    for pairs, each in zip(partners(layout, rank, lane), seconds, strict=True):
        links: Counter[Link] = Counter()
        for a, b, part in pairs:
            links.update(dict.fromkeys(cluster.between(a, b).links, part * size))
        found.append(Flow(links, each))
    return tuple(found)


def partners(layout: Layout, rank: int, lane: Lane) -> Iterator[Iterator[tuple[int, int, float]]]:
    """GPUs of a lane's rank and those that they send to: in tensor, context, expert groups; with the part of a message that goes there."""
    yield (
        (layout.gpu(rank, replica, i, context), layout.gpu(rank, replica, (i + 1) % layout.tp, context), 1.0)
        for replica, context, i in product(lane.replicas, range(layout.cp), range(layout.tp if layout.tp > 1 else 0))
    )
    direct = layout.cp_comm == "a2a"
    yield (
        (layout.gpu(rank, replica, shard, i), layout.gpu(rank, replica, shard, (i + step) % layout.cp), 1 / layout.cp if direct else 1.0)
        for replica, shard, i in product(lane.replicas, range(layout.tp), range(layout.cp))
        for step in range(1, layout.cp if direct else min(2, layout.cp))
    )
    yield _expert_partners(layout, rank, lane)


def _expert_partners(layout: Layout, rank: int, lane: Lane) -> Iterator[tuple[int, int, float]]:
    if layout.ep == layout.n_expert_shards == 1:
        return
    members = layout.members(rank)
    place, apart = {gpu: i for i, gpu in enumerate(members)}, layout.expert_strides
    for gpu in (gpu for replica in lane.replicas for gpu in layout.gpus(rank, replica)):
        for word, n, steps, part in (
            ("ep", layout.ep, layout.ep, 1 / layout.ep),
            ("tp", layout.n_expert_shards, 2, layout.n_expert_shards - 1.0),
        ):
            at = place[gpu] // apart[word] % n
            for step in range(1, min(steps, n)):
                yield gpu, members[place[gpu] + ((at + step) % n - at) * apart[word]], part


def meets(
    cluster: Cluster,
    layout: Layout,
    data_parallel: DataParallel,
    costs: Costs,
    stage_ranks: Sequence[int],
    seen: Sequence[tuple[Lane, tuple[Message, ...]]],
) -> bool:
    """Whether there is a link that not only one of these crosses: messages from one rank of a lane to another, gradients, a rank's ops."""
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
    """Who crosses which link, bit by bit: where any two meet, some of the first lane mostly do, or one of it meets gradients."""
    yield from _of_lane(cluster, layout, costs, stage_ranks, 0, *seen[0])
    for stage, rank in enumerate(stage_ranks):
        ranks = holding(rank, stage_ranks, costs.pipelines)
        for kind, held in enumerate((costs.parameters, costs.expert_parameters)):
            if held and held[stage]:
                for each in shard_groups(layout, data_parallel, kind, ranks):
                    for path in _rounds(cluster, each):
                        for link in path.links:
                            yield ranks[0], link
                            if data_parallel.unshards:
                                yield (rank, "unshard"), link
    for i, lane in enumerate(seen[1:], start=1):
        yield from _of_lane(cluster, layout, costs, stage_ranks, i, *lane)


def _of_lane(
    cluster: Cluster, layout: Layout, costs: Costs, stage_ranks: Sequence[int], i: int, lane: Lane, sent: tuple[Message, ...]
) -> Iterator[tuple[Hashable, Link]]:
    for message in sent if costs.p2p_bytes else ():
        yield from (((i, *message.ranks), link) for link in message.links)
    shares = exposed(costs)
    for rank in range(layout.pp) if shares.any() else ():
        for kind, pairs in enumerate(partners(layout, rank, lane)):
            if shares[[stage for stage, home in enumerate(stage_ranks) if home == rank], :, kind].any():
                yield from (((i, rank, "ops"), link) for a, b, _ in pairs for link in cluster.between(a, b).links)


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
