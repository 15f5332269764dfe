"""Joint graphs: replicas of a graph side by side, with what they exchange, for the event loop.

a = activities: the nodes of all replicas, then what replicas exchange bucket by bucket. An activity runs in pieces where others wait
for its beginning or it for theirs: the last backward of a stage, whose first layers' gradients are reduced before its
last ones' are there, or the first forward, whose layers need their weights one after the other. x = pieces: the first of
every activity, then the further ones; e = edges.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import pairwise, product
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.contention import occupied
from hops.edges import sort
from hops.events import DISCIPLINES
from hops.graph import Graph, lag_index, n_works, transfer_index, unshard_index, unshard_lag, work_index
from hops.jit import kernel
from hops.links import Links
from hops.paths import Link
from hops.speeds import Speeds, make_speeds
from hops.traffic import Traffic
from hops.window import GATHER, REDUCE

type Ints = NDArray[np.int64]


class Joint(NamedTuple):
    """Who waits for whom, and who crosses which links; see above."""

    indptr: NDArray[np.int32]  # (x+1,)
    pred: NDArray[np.int32]  # (e,) piece
    delay: Ints  # (e,) the edge of the replicas that has it, counted on from one to the next; -1: there is none
    activity: Ints  # (x,) whose piece it is
    bounds: Ints  # (x, 3) it goes from 1/n to 2/n of that, where these are its entries 0, 1 and n, 2
    rounding: Ints  # (x,) up or down, n - 1 or 0: a gradient is there when whole ticks have passed, a weight is needed when they begin
    share: NDArray[np.float64]  # (x, 2) from where to where of what is between these bounds
    further: Ints  # (a+1,) activity i has the pieces further[i]:further[i+1] besides piece i
    links: Links
    fair: bool
    loop: bool  # by the event loop; else along the longest path, which knows no links
    order: Ints  # (x,) a topological order
    place: Ints  # (x,) resource that does its work, see `Resources`; -1: nothing that could be disturbed
    via: Ints  # (e,) resource that its delay passes
    lag: Ints  # (edges of the replicas,) the same by `delay`
    speeds: Speeds  # of all resources


class Resources(NamedTuple):
    """What works at a speed of its own, by number: ranks, channels of the messages of a seat in a direction, their delays, rings.

    First the ranks of all lanes, then channels, then delays, then what replicas exchange of each seat's weights.
    """

    n_lanes: int
    n_ranks: int
    n_seats: int

    def rank(self, lane: int, rank: int) -> int:
        return lane * self.n_ranks + rank

    def channel(self, lane: int, seat: int, backward: bool) -> int:
        return self.n_lanes * self.n_ranks + 2 * (lane * self.n_seats + seat) + backward

    def delay(self, lane: int, seat: int, backward: bool) -> int:
        return self.channel(self.n_lanes + lane, seat, backward)

    def ring(self, seat: int) -> int:
        return self.channel(2 * self.n_lanes, 0, False) + seat

    def of(self, lane: int) -> list[int]:
        """All of a lane: its ranks, channels and delays."""
        ways = [(seat, backward) for seat in range(self.n_seats) for backward in (False, True)]
        ranks = [self.rank(lane, rank) for rank in range(self.n_ranks)]
        return [*ranks, *(self.channel(lane, *way) for way in ways), *(self.delay(lane, *way) for way in ways)]

    @property
    def n(self) -> int:
        return self.ring(self.n_seats)


class Kinds(NamedTuple):
    """How activities divide into flows that follow each other; k = kinds: works of all replicas, reductions, gathers by stage."""

    until: NDArray[np.float64]  # (k, f) share of its time when each has ended, 1 from the last on
    flow: Ints  # (k, f) number of the flow; -1: it crosses nothing that others cross
    n_flows: Ints  # (k,)


def side_by_side(
    graph: Graph, n_replicas: int, n_buckets: Ints, overlap: NDArray[np.bool_], moved: Traffic, size: float, discipline: str
) -> Joint:
    """Join replicas; n_buckets (s,), overlap (2,) as in `Work`; ``size``: bytes of a message. Every resource at its full speed."""
    kinds, crossed, rate, bandwidth = meetings(graph, n_replicas, moved, size)
    n_nodes, n_stages, n_own = graph.rank.size, graph.opening.size, n_works(graph.opening.size, len(graph.pairs))
    reduced = np.repeat(graph.reduced, n_buckets[graph.reduced])
    gathered = np.repeat(graph.opening, n_buckets[graph.opening] if overlap[GATHER] else 0)
    kind = np.concatenate(
        [
            *(graph.work + n_own * replica for replica in range(n_replicas)),
            n_own * n_replicas + reduced,
            n_own * n_replicas + n_stages + gathered,
        ]
    )
    n, n_first = kind.size, n_nodes * n_replicas

    parts, rounding = np.ones(n_nodes, np.int64), np.zeros(n_nodes, np.int64)
    if overlap[REDUCE]:
        ends = graph.milestone >= 0
        parts[ends] = np.maximum(n_buckets[graph.reduced[graph.milestone[ends]]], 1)
        rounding[ends] = parts[ends] - 1
    if overlap[GATHER]:
        parts[graph.opens >= 0] = np.maximum(n_buckets[graph.opens[graph.opens >= 0]], 1)
    parts, rounding = (np.concatenate([np.tile(each, n_replicas), np.full(n - n_first, one)]) for each, one in ((parts, 1), (rounding, 0)))
    n_flows = kinds.n_flows[kind]
    n_pieces = parts * n_flows
    further = n + np.concatenate([[0], np.cumsum(n_pieces - 1)])
    activity = np.concatenate([np.arange(n), np.repeat(np.arange(n), n_pieces - 1)])
    step = np.arange(further[-1]) - np.where(np.arange(further[-1]) < n, activity, further[activity] - 1)

    def piece(of: Ints, at: Ints | int) -> Ints:
        """The piece ``at`` of activities, -1 their last."""
        at = np.where(np.asarray(at) < 0, n_pieces[of] - 1, at)
        return np.where(at == 0, of, further[of] + at - 1)

    goal = [np.repeat(np.arange(n_first), np.tile(np.diff(graph.indptr), n_replicas)), np.arange(n, further[-1])]
    pred = [
        piece((graph.pred + n_nodes * np.arange(n_replicas)[:, None]).ravel(), -1),
        np.where(step[n:] == 1, activity[n:], np.arange(n, further[-1]) - 1),
    ]
    for after, before in _exchange_edges(graph, n_nodes * np.arange(n_replicas), n_first, n_buckets, overlap, n_flows, piece):
        goal.append(np.broadcast_to(after, np.broadcast_shapes(after.shape, before.shape)))
        pred.append(np.broadcast_to(before, goal[-1].shape))

    goals = np.concatenate(goal)
    order = np.argsort(goals, kind="stable")
    delay = np.full(goals.size, -1)
    delay[: n_replicas * graph.pred.size] = np.arange(n_replicas * graph.pred.size)
    at, flow = np.divmod(step, n_flows[activity])
    until = kinds.until[kind[activity], flow]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(goals, minlength=further[-1]))]).astype(np.int32)
    sources, sequence = np.concatenate(pred)[order].astype(np.int32), np.empty(further[-1], np.int64)
    sort(indptr, sources, sequence)
    resources = Resources(n_replicas, graph.n_ranks, n_stages)
    place, lag = _resources(graph, resources, np.concatenate([reduced, gathered]))
    return Joint(
        indptr=indptr,
        pred=sources,
        delay=delay[order],
        activity=activity,
        bounds=np.stack([at, at + 1, parts[activity]], axis=1),
        rounding=rounding[activity],
        share=np.stack([np.where(flow > 0, kinds.until[kind[activity], flow - 1], 0.0), until], axis=1),
        further=further,
        links=occupied(kinds.flow[kind[activity], flow], crossed, rate, bandwidth),
        fair=discipline == "fair",
        loop=discipline in DISCIPLINES,
        order=sequence,
        place=place[activity],
        via=np.append(lag, -1)[delay[order]],
        lag=lag,
        speeds=make_speeds(resources.n, {}),
    )


def _resources(graph: Graph, resources: Resources, buckets: Ints) -> tuple[Ints, Ints]:
    """Resources of all activities, those of ``buckets`` being seats; and of all edges of the replicas."""
    n_seats, lanes = resources.n_seats, np.arange(resources.n_lanes)[:, None]
    message, weights = graph.work - transfer_index(n_seats, 0, False), graph.work - unshard_index(n_seats, 0)
    sends, gathers = (graph.rank < 0) & (weights < 0), (graph.rank < 0) & (weights >= 0)
    place = graph.rank + resources.n_ranks * lanes
    place = np.where(sends, resources.channel(0, 0, False) + message + 2 * n_seats * lanes, place)
    place = np.where(gathers, resources.ring(0) + weights, place)
    delayed = (graph.lag >= lag_index(0, False)) & (graph.lag < unshard_lag(n_seats, 0))
    lag = np.where(delayed, resources.delay(0, 0, False) + graph.lag - lag_index(0, False) + 2 * n_seats * lanes, -1)
    return np.concatenate([place.ravel(), resources.ring(0) + buckets]), lag.ravel()


def _exchange_edges(
    graph: Graph,
    replicas: Ints,
    bucket: int,
    n_buckets: Ints,
    overlap: NDArray[np.bool_],
    n_flows: Ints,
    piece: Callable[[Ints, Ints | int], Ints],
) -> Iterator[tuple[Ints, Ints]]:
    """Pieces that wait, and for which, of what ``replicas``, whose nodes begin there, exchange: activities from ``bucket`` on.

    Ranks that hold the same stages reduce bucket by bucket what all replicas have; each gathers, from the beginning on, what all of
    these wait for.
    """
    ending: dict[int, list[int]] = {}
    for node in np.flatnonzero(graph.milestone >= 0).tolist():
        ending.setdefault(int(graph.milestone[node]), []).append(node)
    final = dict(zip(graph.rank[graph.last].tolist(), np.flatnonzero(graph.last).tolist(), strict=True))
    opening = {stage: node for node, stage in enumerate(graph.opens.tolist()) if stage >= 0}
    by_rank = [graph.reducing[a:b].tolist() for a, b in pairwise(graph.reductions)]
    for milestones in dict.fromkeys(map(tuple, by_rank)):
        lasts = [final[rank] for rank, each in enumerate(by_rank) if tuple(each) == milestones]
        before = np.empty(0, np.int64) if overlap[REDUCE] else piece(np.add.outer(lasts, replicas).ravel(), -1)
        for milestone in milestones:
            op = np.add.outer(ending[milestone], replicas).ravel()
            for part in range(n_buckets[graph.reduced[milestone]]):
                here = np.array([bucket])
                yield here, before
                if overlap[REDUCE]:
                    yield here, piece(op, (part + 1) * n_flows[op] - 1)
                before, bucket = piece(here, -1), bucket + 1
    for rank in range(graph.n_ranks if overlap[GATHER] else 0):
        before = np.empty(0, np.int64)
        for stage in graph.opening[graph.openings[rank] : graph.openings[rank + 1]].tolist():
            op = replicas + opening[stage]
            for part in range(n_buckets[stage]):
                here = np.array([bucket])
                yield here, before
                before, bucket = piece(here, -1), bucket + 1
                yield piece(op, part * n_flows[op]), before


def meetings(graph: Graph, n_replicas: int, moved: Traffic, size: float) -> tuple[Kinds, list[list[int]], list[float], list[float]]:
    """Flows of all kinds of activities: how these divide into them; of each the links that others cross too, and its rate; bandwidths."""
    n_stages, n_own = graph.opening.size, n_works(graph.opening.size, len(graph.pairs))
    home = dict(zip(graph.opening.tolist(), np.repeat(np.arange(graph.n_ranks), np.diff(graph.openings)).tolist(), strict=True))
    flows: list[tuple[Hashable, Mapping[Link, float], float]] = []  # who sends, what, at which rate
    chains: dict[int, list[tuple[float, int]]] = {}  # kind: until which share of its time, which flow
    for replica in range(n_replicas):
        for message in moved.sent[replica] if size else ():
            at = n_own * replica + transfer_index(n_stages, message.stage, message.backward)
            chains[at] = [(1.0, len(flows))]
            flows.append(((replica, *message.ranks), {link: n * size for link, n in message.links.items()}, message.rate(size)))
        for stage, flow in enumerate(moved.unshard[replica] if moved.unshard else ()):
            at = n_own * replica + unshard_index(n_stages, stage)
            chains[at] = [(1.0, len(flows))]
            flows.append(((replica, home[stage], "weights"), flow.links, flow.rate))
    n_others = len(flows)
    for replica, ranks in enumerate(moved.inside):
        flows += [((replica, rank, "ops"), flow.links, flow.rate) for rank, each in enumerate(ranks) for flow in each]
    for i, each in enumerate((moved.reduce, moved.gather)):
        for stage, phases in enumerate(each):
            at = n_own * n_replicas + n_stages * i + stage
            shares = np.cumsum([flow.seconds for flow in phases]) / (sum(flow.seconds for flow in phases) or 1.0)
            chains[at] = [(share, len(flows) + j) for j, share in enumerate(shares.tolist())]
            flows += [(home[stage], flow.links, flow.rate) for flow in phases]
    users: dict[Link, set[Hashable]] = {}
    crossing: dict[Link, list[int]] = {}
    widest: dict[Link, float] = {}
    for number, (user, links, _) in enumerate(flows):
        for link, n in links.items():
            users.setdefault(link, set()).add(user)
            crossing.setdefault(link, []).append(number)
            widest[link] = max(widest.get(link, 0.0), link.rate(n))
    narrowest: dict[tuple[int, ...], float] = {}  # links that the same flows cross, as those of a rank's GPUs: one of them says it all
    for link in users:
        if len(users[link]) > 1:
            same = tuple(crossing[link])
            narrowest[same] = min(narrowest.get(same, inf), widest[link])
    crossed: list[list[int]] = [[] for _ in flows]
    for i, same in enumerate(narrowest):
        for number in same:
            crossed[number].append(i)
    for replica, stage, (i, kind) in product(range(len(moved.inside)), range(n_stages), enumerate("FBI")):
        first = n_others + 3 * (graph.n_ranks * replica + home[stage])
        parts = [(share, first + j) for j, share in enumerate(moved.share[stage, i].tolist()) if share and crossed[first + j]]
        left = np.cumsum([share for share, _ in parts[::-1]])[::-1].tolist()
        if parts:  # it computes first
            chains[n_own * replica + work_index(stage, kind)] = [
                (1 - rest, number) for rest, number in zip([*left, 0.0], [-1, *(number for _, number in parts)], strict=True)
            ]
    most = max([1, *map(len, chains.values())])
    kinds = Kinds(*(np.full((n_own * n_replicas + 2 * n_stages, *wide), fill) for wide, fill in (((most,), 1.0), ((most,), -1), ((), 1))))
    for at, chain in chains.items():
        for i, (share, number) in enumerate(chain):
            kinds.until[at, i] = share if i < len(chain) - 1 else 1.0
            kinds.flow[at, i] = number
        kinds.n_flows[at] = max(1, len(chain))
    return kinds, crossed, [rate for *_, rate in flows], list(narrowest.values())


@kernel
def cut(joint, ticks, pieces):  # type: ignore[no-untyped-def]
    """Ticks of all ``pieces`` (x,) where those of activities are ``ticks`` (a,)."""
    for x in range(pieces.size):
        whole, n = ticks[joint.activity[x]], joint.bounds[x, 2]
        begin = (whole * joint.bounds[x, 0] + joint.rounding[x]) // n
        end = (whole * joint.bounds[x, 1] + joint.rounding[x]) // n
        first = np.int64((end - begin) * joint.share[x, 0])
        last = end - begin if joint.share[x, 1] == 1.0 else np.int64((end - begin) * joint.share[x, 1])
        pieces[x] = last - first
