"""Weights: what the nodes and edges of a graph cost on a cluster, in ticks. Compute, messages, exchange among replicas."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.checks import Infeasible
from hops.cluster import PATH_CLASSES, Cluster
from hops.collectives import ALONE, Ring, ring
from hops.costs import Costs, Model, stage_costs
from hops.data_parallel import DataParallel, Exchange, exchange
from hops.efficiency import Efficiency
from hops.graph import lag_index, transfer_index, unshard_index, unshard_lag, work_index
from hops.layout import Layout
from hops.overheads import Host, Slowdown, dilated
from hops.programs import KINDS
from hops.scenario import Choice
from hops.topologies import TOPOLOGIES

TICKS = 1e9  # a second

type Floats = NDArray[np.float64]
type Ints = NDArray[np.int64]


class Weights(NamedTuple):
    """What cells with the same model, topology and stages share; arrays are read-only. v = variants of lanes, s = stages."""

    cluster: Cluster
    costs: Costs
    work: Floats  # (v, 7 s) ticks, not rounded yet
    lag: Ints  # (v, 1 + 3 s) ticks
    link: Ints  # (v, 1 + 3 s) class of the path that a lag stands for, index into `PATH_CLASSES`
    host: Floats  # (4 s,) ticks to issue an op
    variant: Ints  # (lanes,) which variant a lane is: replicas on other devices may be faster or nearer
    n_buckets: Ints  # (s,) pieces in which a stage's gradients are reduced
    reduce: Floats  # (s,) ticks of one
    gather: Floats  # (s,) ticks to gather as many weights
    ring: Ints  # (s,) class of the narrowest path of these
    slow: Floats  # (4 s,) ticks that an exchange of replicas adds to an op that it runs beside
    update: Ints  # (ranks,) ticks of the optimizer, and of what else ends an iteration
    overlap: NDArray[np.bool_]  # (2,) gradients are reduced when ready; weights gathered before a stage's first forward


class Lane(NamedTuple):
    """Replicas that go in lock-step: evaluated as one, as slow as the slowest of them."""

    replicas: tuple[int, ...]


def lanes(layout: Layout, data_parallel: DataParallel) -> list[Lane]:
    """Replicas that have noise of their own; with ZeRO 3 those of a shard group wait for each other at every stage."""
    n = shard_size(layout, data_parallel) if data_parallel.unshards else 1
    return [Lane(tuple(range(at, at + n))) for at in range(0, layout.dp, n)]


def shard_size(layout: Layout, data_parallel: DataParallel) -> int:
    """Replicas that share optimizer states; a group that does not divide dp is an `Infeasible`."""
    n = data_parallel.shard or layout.dp
    if layout.dp % n:
        raise Infeasible(f"dp_shard={n} does not divide dp={layout.dp}")
    return n


@lru_cache(maxsize=4096, typed=True)
def weights(
    topology: Choice,
    model: Model,
    efficiency: Efficiency | None,
    stage_ranks: tuple[int, ...],
    microbatch_size: int,
    p2p: str,
    layout: Layout,
    data_parallel: DataParallel,
    host: Host,
    slowdown: Slowdown,
) -> Weights:
    """Durations and delays of every stage, in ticks; `Infeasible` for sizes that model or cluster cannot serve."""
    devices = {key: None if key == "order" and isinstance(value, str) else value for key, value in topology.params}
    cluster: Cluster = TOPOLOGIES[topology.name].build(layout.n_gpus, **devices)
    shards = tuple(ring(cluster, layout.shards(rank)) for rank in range(layout.pp))
    costs = stage_costs(model, cluster.gpu, stage_ranks, microbatch_size, shards, efficiency)
    groups = lanes(layout, data_parallel)

    exchanges, rings, n_buckets = _exchanges(cluster, layout, costs, stage_ranks, data_parallel)
    n_stages, whole = costs.n_stages, np.maximum(n_buckets, 1)
    reduce, gather = (np.array([getattr(each, name) for each in exchanges]) * TICKS / whole for name in ("reduce", "gather"))
    update = np.full(layout.pp, costs.overhead * TICKS)
    np.add.at(update, list(stage_ranks), [each.update * TICKS for each in exchanges])

    base = np.zeros(7 * n_stages)
    for stage in range(n_stages):
        f, i, w = costs.forward[stage], costs.backward_input[stage], costs.backward_weight[stage]
        for kind, seconds in (("F", f), ("B", i + w), ("I", i), ("W", w)):
            base[work_index(stage, kind)] = seconds * TICKS
        if data_parallel.unshards:
            base[unshard_index(n_stages, stage)] = gather[stage] * n_buckets[stage]
    if data_parallel.unshards:
        gather = np.zeros(n_stages)

    variants: dict[bytes, tuple[int, Floats, Ints, Ints]] = {}
    variant = []
    for lane in groups:
        made = [_messages(cluster, layout, costs, stage_ranks, replica, p2p) for replica in lane.replicas]
        transfer, lag, link = (np.max(each, axis=0) for each in zip(*made, strict=True))
        work = base.copy()
        work[4 * n_stages : 6 * n_stages] = transfer
        if p2p in ("channel", "rendezvous"):
            _slow_beside_messages(work, n_stages, slowdown.p2p)
        link[unshard_lag(n_stages, 0) :] = rings
        key = work.tobytes() + lag.tobytes() + link.tobytes()
        variant.append(variants.setdefault(key, (len(variants), work, lag, link))[0])
    works, lags, links = (np.stack([each[i] for each in variants.values()]) for i in (1, 2, 3))

    slow = np.zeros(4 * n_stages)
    for stage in range(n_stages):
        for kind, ticks, on in (
            ("F", gather[stage], data_parallel.overlap_param_gather),
            ("B", reduce[stage], data_parallel.overlap_grad_reduce),
            ("W", reduce[stage], data_parallel.overlap_grad_reduce),
        ):
            alone = base[work_index(stage, kind)]
            slow[work_index(stage, kind)] = dilated(alone, min(ticks * n_buckets[stage], alone), slowdown.dp) - alone if on else 0
    n_layers = costs.layers or (1,) * n_stages
    issue = np.array([n * host.seconds(kind) * TICKS for n in n_layers for kind in KINDS])
    check_clock(max(works.sum(), lags.sum(), update.max(), issue.sum(), float(n_buckets @ (reduce + gather))))
    found = Weights(
        cluster,
        costs,
        works,
        lags.astype(np.int64),
        links.astype(np.int64),
        issue,
        np.array(variant),
        n_buckets,
        reduce,
        gather,
        rings,
        slow,
        np.floor(update + 0.5).astype(np.int64),
        np.array([data_parallel.overlap_grad_reduce, data_parallel.overlap_param_gather]),
    )
    for array in found[2:]:
        array.flags.writeable = False
    return found


def _messages(
    cluster: Cluster, layout: Layout, costs: Costs, stage_ranks: Sequence[int], replica: int, p2p: str
) -> tuple[Floats, Floats, Ints]:
    """Of every message of a replica the occupation of its channel (2 s,) [ticks]; and as (1 + 3 s,) its delay [ticks] and link class."""
    n_stages = len(stage_ranks)
    occupied, lag, link = np.zeros(2 * n_stages), np.zeros(1 + 3 * n_stages), np.zeros(1 + 3 * n_stages, np.int64)
    for stage, here in enumerate(stage_ranks):
        for backward, neighbour in ((False, stage + 1), (True, stage - 1)):
            if not 0 <= neighbour < n_stages or stage_ranks[neighbour] == here:
                continue
            path = cluster.between(layout.gpu(here, replica), layout.gpu(stage_ranks[neighbour], replica))
            time, at = costs.p2p_bytes / path.bandwidth * TICKS, lag_index(stage, backward)
            link[at] = PATH_CLASSES.index(path.path_class)
            lag[at] = np.floor(path.latency * TICKS + 0.5)
            if p2p == "latency":
                lag[at] += np.floor(time + 0.5)
            else:
                occupied[transfer_index(0, stage, backward)] = time
    return occupied, lag, link


def _slow_beside_messages(work: Floats, n_stages: int, factor: float) -> None:
    """Stretch the compute times in ``work`` by the messages that pass meanwhile: a stage's own of that direction, and those to it."""
    transfer = work[4 * n_stages : 6 * n_stages].reshape(n_stages, 2)
    for stage in range(n_stages):
        for backward, kinds, source in ((0, "F", stage - 1), (1, "BI", stage + 1)):
            active = max(transfer[stage, backward], transfer[source, backward] if 0 <= source < n_stages else 0.0)
            for kind in kinds:
                work[work_index(stage, kind)] = dilated(work[work_index(stage, kind)], active, factor)


def _exchanges(
    cluster: Cluster, layout: Layout, costs: Costs, stage_ranks: Sequence[int], data_parallel: DataParallel
) -> tuple[list[Exchange], Ints, Ints]:
    """What replicas exchange for every stage [s], the class of the links of each, and the number of its buckets."""
    size = shard_size(layout, data_parallel)
    found, rings, n_buckets = [], [], []
    groups: dict[int, tuple[Ring, Ring]] = {}
    for stage, rank in enumerate(stage_ranks):
        if rank not in groups and data_parallel.zero == 0:
            groups[rank] = ALONE, ring(cluster, layout.replicas(rank))
        elif rank not in groups:
            among = layout.replicas(rank, n=layout.dp // size, step=size)
            groups[rank] = ring(cluster, layout.replicas(rank, n=size)), ring(cluster, among)
        shard, replicate = groups[rank]
        parameters = 0.0 if costs.parameters is None else costs.parameters[stage]
        n_buckets.append(data_parallel.buckets(parameters, layout.dp))
        found.append(exchange(parameters, n_buckets[-1], cluster.gpu, shard, replicate))
        rings.append(PATH_CLASSES.index(min(shard, replicate, key=lambda each: each.bandwidth).path_class))
    return found, np.array(rings), np.array(n_buckets)


def check_clock(ticks: float) -> None:
    """Refuse times that int64 ticks cannot add up."""
    if not ticks < 2**62:
        raise ValueError(f"times add up to {ticks / TICKS:.3g} s, beyond the 2^62 ns (146 years) that the clock can count")
