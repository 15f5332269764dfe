"""Lanes: which replicas have noise of their own, which go in lock-step, and what those that hold the same weights exchange."""

from collections.abc import Sequence
from math import lcm
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.checks import Infeasible
from hops.cluster import Cluster
from hops.collectives import ALONE, Ring, ring
from hops.costs import Costs
from hops.data_parallel import DataParallel, Exchange, exchange
from hops.layout import Layout
from hops.paths import PATH_CLASSES


class Lane(NamedTuple):
    """Replicas that go in lock-step: evaluated as one, as slow as the slowest of them."""

    replicas: tuple[int, ...]

    @property
    def n(self) -> int:
        return len(self.replicas)


def lanes(layout: Layout, data_parallel: DataParallel) -> list[Lane]:
    """Replicas that have noise of their own, or wait for each other in every layer or stage.

    With ZeRO 3 those of a shard group gather weights from each other, and with ``ep_coupling="lockstep"`` those of an expert
    group tokens. The truth lies between lock-step and independence: who is late once may catch up before he is asked.
    """
    n = shard_size(layout, data_parallel) if data_parallel.unshards else 1
    if layout.ep_coupling == "lockstep":
        wanted = -(-layout.ep * layout.n_expert_shards // (layout.tp * layout.cp))
        n = lcm(n, next(size for size in range(wanted, layout.dp + 1) if layout.dp % size == 0))  # groups that overlap are one
    return [Lane(tuple(range(at, at + n))) for at in range(0, layout.dp, n)]


def shard_size(layout: Layout, data_parallel: DataParallel) -> int:
    """Replicas that share optimizer states; a group that does not divide dp is an `Infeasible`."""
    n = data_parallel.shard or layout.dp
    if layout.dp % n:
        raise Infeasible(f"dp_shard={n} does not divide dp={layout.dp}")
    return n


def sharers(layout: Layout, data_parallel: DataParallel, n_ranks: int = 1) -> tuple[int, int]:
    """GPUs that share the states of what they all hold: outside the experts, and of experts. Those of all ``n_ranks`` of a replica do."""
    n_groups = layout.dp // shard_size(layout, data_parallel)
    if layout.n_expert_replicas % n_groups:
        raise Infeasible(
            f"dp_shard={data_parallel.shard} makes {n_groups} groups of the {layout.n_expert_replicas} GPUs with the same experts"
        )
    return n_ranks * layout.n_replicas // n_groups, n_ranks * layout.n_expert_replicas // n_groups


type Gpus = tuple[int, ...]
type Rings = dict[tuple[int, int], tuple[Ring, Ring]]


def holding(rank: int, stage_ranks: Sequence[int], pipelines: int) -> tuple[int, ...]:
    """Ranks that hold the stages of ``rank``: itself, and of several pipelines one of each."""
    stage = stage_ranks.index(rank)
    return tuple(sorted({*stage_ranks[stage % (len(stage_ranks) // pipelines) :: len(stage_ranks) // pipelines]}))


def n_holders(stage_ranks: Sequence[int], pipelines: int) -> int:
    """Ranks of a replica that hold a stage at least."""
    return 1 if pipelines == 1 else min(len(holding(rank, stage_ranks, pipelines)) for rank in set(stage_ranks))


def rank_rings(
    cluster: Cluster, layout: Layout, data_parallel: DataParallel, experts: bool, holders: Sequence[Sequence[int]] | None = None
) -> Rings:
    """Rings of shard groups and among them by (0: outside the experts or 1: of them, rank); all of a rank at the same time.

    ``holders``: of every rank those that hold the same stages, if it is not the only one; these are in the same rings.
    """
    found: Rings = {}
    known: dict[tuple[int, tuple[int, ...]], tuple[Ring, Ring]] = {}  # of 127 ranks each anew took 33 s for 2,047
    for kind in range(1 + experts):
        for rank, ranks in enumerate(holders or [(rank,) for rank in range(layout.pp)]):
            key = kind, tuple(ranks)
            if key not in known:
                sharing, among = shard_groups(layout, data_parallel, kind, ranks)
                known[key] = ring(cluster, sharing[0], sharing[1:]), ring(cluster, among[0], among[1:])
            found[kind, rank] = known[key]
    return found


def shard_groups(layout: Layout, data_parallel: DataParallel, kind: int, ranks: Sequence[int]) -> tuple[list[Gpus], list[Gpus]]:
    """GPUs of ``ranks`` that share the states of what they all hold (kind as in `rank_rings`), and those with the same share."""
    groups = [(layout.replica_groups, layout.expert_replica_groups)[kind](rank) for rank in ranks]
    n = len(groups[0][0])
    own = n if data_parallel.zero == 0 else sharers(layout, data_parallel)[kind]  # of each rank in a group
    together = [tuple(gpu for at in range(0, n, own) for gpus in each for gpu in gpus[at : at + own]) for each in zip(*groups, strict=True)]
    size = 1 if data_parallel.zero == 0 else own * len(ranks)
    sharing = [gpus[at : at + size] for gpus in together for at in range(0, len(gpus), size)]
    return sharing, [gpus[at::size] for gpus in together for at in range(size)]


def stage_exchanges(
    cluster: Cluster, layout: Layout, costs: Costs, stage_ranks: Sequence[int], data_parallel: DataParallel, groups: Rings
) -> tuple[list[Exchange], NDArray[np.int64], NDArray[np.int64]]:
    """What replicas exchange for every stage [s], experts after the rest; class of the narrowest links, and number of buckets."""
    none = (0.0,) * len(stage_ranks)
    held = costs.parameters or none, costs.expert_parameters or none
    found, rings, n_buckets = [], [], []
    for stage, rank in enumerate(stage_ranks):
        total, n, narrowest = Exchange(0.0, 0.0, 0.0), 0, ALONE
        for kind, parameters in enumerate(held):
            if not parameters[stage]:
                continue
            shard, replicate = groups[kind, rank]
            pieces = data_parallel.buckets(parameters[stage], shard.n * replicate.n)
            total, n = total + exchange(parameters[stage], pieces, cluster.device(layout.gpu(rank)), shard, replicate), n + pieces
            narrowest = min(narrowest, shard, replicate, key=lambda each: each.rate)
        found.append(total)
        n_buckets.append(n)
        rings.append(PATH_CLASSES.index(narrowest.path_class))
    return found, np.array(rings), np.array(n_buckets)
