"""Collectives: what a group of devices needs to exchange tensors. Ring algorithms as NCCL runs them for large messages.

Source: Patarasuk & Yuan 2009, bandwidth-optimal all-reduce; n - 1 steps of 1/n of the tensor, each a hop of the ring. An
all-to-all sends directly, as NCCL's grouped sends and receives do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import NamedTuple

from hops.cluster import Cluster
from hops.layout import Layout
from hops.paths import unique_routes
from hops.tables import Table, narrowest, wire_seconds


@dataclass(frozen=True)
class Ring:
    """``n`` devices; ``latency`` [s] and ``bandwidth`` [bytes/s] of the slowest path between neighbours, tables of hops with one."""

    n: int = 1
    latency: float = 0.0
    bandwidth: float = inf
    path_class: str = "LOC"  # of the narrowest path
    tables: tuple[Table, ...] = ()

    @property
    def rate(self) -> float:
        """Bandwidth that long messages get [bytes/s]."""
        return narrowest(self.bandwidth, self.tables)

    def step(self, size: float) -> float:
        """Seconds until every device has sent ``size`` bytes to the next."""
        return self.latency + wire_seconds(size, self.bandwidth, self.tables)

    def gather(self, size: float) -> float:
        """Seconds of an all-gather that makes ``size`` bytes on every device, or of a reduce-scatter of as many."""
        return (self.n - 1) * self.step(size / self.n)

    def all_reduce(self, size: float) -> float:
        """Seconds of an all-reduce of ``size`` bytes: a reduce-scatter and an all-gather."""
        return 2 * self.gather(size)


class Wires(NamedTuple):
    """Paths of one class from a device of a group to ``n_peers`` others: latency [s], bandwidth [bytes/s] and tables they share."""

    n_peers: int
    latency: float
    bandwidth: float
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Crowd:
    """``n`` devices that each send to all others, directly; one `Wires` a class of paths."""

    n: int = 1
    wires: tuple[Wires, ...] = ()

    def all_to_all(self, size: float) -> float:
        """Seconds until every device, which has ``size`` bytes, has sent 1/n of them to each other one.

        What goes to the peers of one class (NVL, NET) leaves one after another over the same wires; the classes have wires of
        their own and go at once, so the slowest of them counts.
        """
        times = [each.latency + wire_seconds(each.n_peers * size / self.n, each.bandwidth, each.tables) for each in self.wires]
        return max(times, default=0.0)


class Context(NamedTuple):
    """The devices that share a sequence, and how: ``comm`` is how keys and values reach the queries of another device.

    ``p2p``: a ring of blocks, each on its way while the one before it is computed with (Liu et al. 2023, ring attention,
    arXiv:2310.01889). ``all_gather``: all of them before the core (Grattafiori et al. 2024, section 3.3.2, arXiv:2407.21783).
    ``a2a``: an all-to-all trades parts of the sequence for heads, and one trades back (Jacobs et al. 2023, Ulysses,
    arXiv:2309.14509). ``balance``: with ``zigzag`` device i of n has blocks i and 2n - 1 - i of 2n, so that all see as much of the
    causal mask; with ``naive`` it has block i of n, and the last device sees most.
    """

    ring: Ring = Ring()
    crowd: Crowd = Crowd()
    comm: str = "p2p"
    balance: str = "zigzag"

    @property
    def causal_share(self) -> float:
        """The attention core of the busiest device over the mean.

        In units of a block of n by n, device i of n computes its i blocks to the left and half of its own, n / 2 on the mean
        and n - 1/2 on the last: (2 n - 1) / n times the mean.
        """
        return (2 * self.ring.n - 1) / self.ring.n if self.balance == "naive" and self.comm != "a2a" else 1.0


class Beside(NamedTuple):
    """How many times longer compute takes beside an exchange that runs at the same time; None: compute waits for the exchange."""

    tp: float | None = None
    ep: float | None = None


class Groups(NamedTuple):
    """Who shares the work of a pipeline rank."""

    tensor: Ring = Ring()
    context: Context = Context()
    expert: Crowd = Crowd()
    expert_tensor: Ring = Ring()
    beside: Beside = Beside()


ALONE = Ring()


def ring(cluster: Cluster, gpus: Sequence[int]) -> Ring:
    """The ring over ``gpus``, in the order given."""
    if len(gpus) <= 1:
        return ALONE
    routes = unique_routes(cluster.between(a, b) for a, b in pairwise([*gpus, gpus[0]]))
    slowest = min(routes, key=lambda route: route.rate)
    tables = tuple(dict.fromkeys(table for route in routes for table in route.tables))
    bandwidth = min(route.bandwidth for route in routes)
    return Ring(len(gpus), max(route.latency for route in routes), bandwidth, slowest.path_class, tables)


def crowd(cluster: Cluster, gpus: Sequence[int]) -> Crowd:
    """The crowd of ``gpus``; of each class of paths the slowest path, and the most peers that a device has over it."""
    slowest: dict[str, tuple[float, float, tuple[Table, ...]]] = {}
    peers: list[dict[str, int]] = [{} for _ in gpus]
    for i, a in enumerate(gpus):
        for j, b in enumerate(gpus[:i]):
            path = cluster.between(a, b)
            name, latency, bandwidth, tables = path.path_class, path.latency, path.bandwidth, path.route.tables
            worst = slowest.get(name, (0.0, inf, ()))
            slowest[name] = max(worst[0], latency), min(worst[1], bandwidth), tuple(dict.fromkeys(worst[2] + tables))
            peers[i][name] = peers[i].get(name, 0) + 1
            peers[j][name] = peers[j].get(name, 0) + 1
    return Crowd(len(gpus), tuple(Wires(max(each.get(name, 0) for each in peers), *slowest[name]) for name in sorted(slowest)))


def groups(cluster: Cluster, layout: Layout, rank: int) -> Groups:
    """The groups of the first GPU of ``rank``."""
    contexts = layout.contexts(rank)
    return Groups(
        ring(cluster, layout.shards(rank)),
        Context(
            ring(cluster, contexts),
            crowd(cluster, contexts) if layout.cp_comm == "a2a" else Crowd(len(contexts)),
            layout.cp_comm,
            layout.cp_balance,
        ),
        crowd(cluster, layout.experts(rank)),
        ring(cluster, layout.expert_shards(rank)),
    )
