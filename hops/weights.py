"""Weights: what the nodes and edges of a graph cost on a cluster, in ticks. Compute, messages, exchange among replicas."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import batched
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.cluster import Cluster
from hops.collectives import Beside, groups
from hops.costs import Costs, in_parts, side_by_side
from hops.data_parallel import DataParallel
from hops.efficiency import Efficiency
from hops.events import DISCIPLINES
from hops.graph import fused_index, lag_index, transfer_index, unshard_lag, work_index
from hops.lanes import Lane, Rings, holding, lanes, rank_rings, stage_exchanges
from hops.layout import Layout
from hops.memory import offloaded
from hops.messages import Message, messages, shared
from hops.models import Model, stage_costs
from hops.nodes import Gpu
from hops.overheads import Host, Slowdown, dilated
from hops.programs import KINDS
from hops.replicas import alike
from hops.scenario import Scenario
from hops.sections import Choice
from hops.topologies import TOPOLOGIES
from hops.traffic import Traffic, meets, traffic
from hops.transformer import Transformer

TICKS = 1e9  # a second
MOST_COMPARED = 8  # lanes whose messages are compared to tell whether any meet; those of other nodes are alike

type Floats = NDArray[np.float64]
type Ints = NDArray[np.int64]


class Question(NamedTuple):
    """What the weights of a scenario depend on."""

    topology: Choice
    model: Model
    efficiency: Efficiency | None
    stage_ranks: tuple[int, ...]
    microbatch_size: int
    p2p: str
    layout: Layout
    data_parallel: DataParallel
    host: Host
    slowdown: Slowdown
    contention: str
    offload: float
    pairs: tuple[tuple[int, int], ...]  # stages whose forward and backward run as one unit
    pipelines: int
    parts: int  # in which a microbatch passes


def question(s: Scenario, stage_ranks: tuple[int, ...], pairs: Iterable[Iterable[int]] = (), pipelines: int = 1) -> Question:
    """What the weights of ``s`` depend on; ``pairs``: stages whose forward and backward its schedule fuses.

    Of several ``pipelines`` each has stages of its own, see `hops.programs.Program.first_seats`.
    """
    fused = tuple((int(forward), int(backward)) for forward, backward in pairs)
    return Question(
        s.topology, s.model, s.efficiency, stage_ranks, s.microbatch_size, s.p2p, s.layout, s.data_parallel,
        s.host, s.slowdown, s.contention, s.memory.offload, fused, pipelines, s.parts,
    )  # fmt: skip


class Weights(NamedTuple):
    """What cells with the same model, topology and stages share; arrays are read-only. v = variants of lanes, s = stages."""

    cluster: Cluster
    costs: Costs  # of the type of the job's first GPU
    room: tuple[float, ...]  # memory of the smallest GPU of each rank [bytes]
    peak_flops: float  # of all GPUs together [FLOP/s]
    work: Floats  # (v, 7 s + 2 pairs) ticks, not rounded yet
    lag: Ints  # (v, 1 + 3 s) ticks
    link: Ints  # (v, 1 + 3 s) class of the path that a lag stands for, index into `PATH_CLASSES`
    host: Floats  # (7 s + 2 pairs,) ticks to issue an op
    variant: Ints  # (lanes,) which variant a lane is: replicas on other devices may be faster or nearer
    n_buckets: Ints  # (s,) pieces in which a stage's gradients are reduced
    reduce: Floats  # (s,) ticks of one
    gather: Floats  # (s,) ticks to gather as many weights
    ring: Ints  # (s,) class of the narrowest path of these
    slow: Floats  # (7 s + 2 pairs,) ticks that an exchange of replicas adds to an op that it runs beside
    update: Ints  # (ranks,) ticks of the optimizer, and of what else ends an iteration
    overlap: NDArray[np.bool_]  # (2,) gradients are reduced when ready; weights gathered before a stage's first forward
    traffic: Traffic  # of all lanes; messages of the first one alone where the event loop is not asked
    meet: tuple[bool, bool]  # whether messages of the first lane share links, and any messages or gradients; empty ones never do


@lru_cache(maxsize=4096, typed=True)
def weights(asked: Question) -> Weights:
    """Durations and delays of every stage, in ticks; `Infeasible` for sizes that model or cluster cannot serve."""
    layout, data_parallel, stage_ranks = asked.layout, asked.data_parallel, asked.stage_ranks
    cluster = _cluster(asked.topology, layout.n_gpus)
    by_type = _costs(cluster, asked)
    costs, n_stages, together = by_type[cluster.gpu], len(stage_ranks), lanes(layout, data_parallel)

    has_weights, has_experts = costs.parameters is not None, any(costs.expert_parameters or ())
    holders = tuple(holding(rank, stage_ranks, asked.pipelines) for rank in range(layout.pp))
    among = _rings(asked.topology, layout, data_parallel, has_experts, holders) if has_weights else {}
    exchanges, rings, n_buckets = stage_exchanges(cluster, layout, costs, stage_ranks, data_parallel, among)
    whole = np.maximum(n_buckets, 1)
    reduce, gather = (np.array([getattr(each, name) for each in exchanges]) * TICKS / whole for name in ("reduce", "gather"))
    update = np.full(layout.pp, costs.overhead * TICKS)
    np.add.at(update, list(stage_ranks), [each.update * TICKS for each in exchanges])
    unshard, gather = (gather * n_buckets, np.zeros(n_stages)) if data_parallel.unshards else (np.zeros(n_stages), gather)

    like = alike(cluster, layout)
    known: dict[tuple[int, ...], tuple[Floats, Floats, Ints]] = {}
    computed = _compute(cluster, layout, by_type, stage_ranks, together)
    halves = _fused(by_type[cluster.gpu], asked.pairs, asked.slowdown.ep)
    variants: dict[bytes, tuple[int, Floats, Floats, Ints]] = {}
    variant = []
    beside = asked.p2p in ("channel", "rendezvous", "torch") or (asked.p2p == "megatron" and n_stages > layout.pp)  # messages and compute
    for compute, lane in zip(computed, together, strict=True):
        kind = (like[lane.replicas[0]],) if lane.n == 1 else lane.replicas
        if kind not in known:
            known[kind] = _transfers(_sent(asked.topology, layout, stage_ranks, kind), costs.p2p_bytes, n_stages, asked.p2p)
        transfer, lag, link = known[kind]
        work = np.concatenate([compute, transfer, unshard, np.zeros(2 * len(asked.pairs))])
        if beside and asked.slowdown.p2p > 1:
            _slow_beside_messages(work, n_stages, asked.slowdown.p2p)
        for i, ((forward, backward), share) in enumerate(zip(asked.pairs, halves, strict=True)):
            work[fused_index(n_stages, i, "F")] = share * work[work_index(forward, "F")]
            work[fused_index(n_stages, i, "B")] = share * work[work_index(backward, "B")]
        link = np.concatenate([link[: unshard_lag(n_stages, 0)], rings])
        key = work.tobytes() + lag.tobytes() + link.tobytes()
        variant.append(variants.setdefault(key, (len(variants), work, lag, link))[0])
    seen = together if asked.contention in DISCIPLINES else together[:MOST_COMPARED]
    sent = [_sent(asked.topology, layout, stage_ranks, lane.replicas) for lane in seen]
    within, anywhere = _meet(asked.topology, layout, stage_ranks, tuple(lane.replicas for lane in seen if costs.p2p_bytes))
    among_lanes = list(zip(seen, sent, strict=True))
    meet = within, anywhere or meets(cluster, layout, data_parallel, costs, stage_ranks, among_lanes[:MOST_COMPARED])
    moved = Traffic((sent[0],))
    if asked.contention in DISCIPLINES:
        moved = traffic(cluster, layout, data_parallel, costs, stage_ranks, among, among_lanes)
    works, lags, links = (np.stack([each[i] for each in variants.values()]) for i in (1, 2, 3))

    n_layers = costs.layers or (1,) * n_stages
    issue = np.array([n * asked.host.seconds(kind) * TICKS for n in n_layers for kind in KINDS])
    slow = _slow_beside_exchange(computed[0], reduce * n_buckets, gather * n_buckets, data_parallel, asked.slowdown.dp)
    check_clock(max(works.sum(), lags.sum(), update.max(), issue.sum(), float(n_buckets @ (reduce + gather))))
    members = [{cluster.device(gpu) for gpu in layout.members(rank)} if len(by_type) > 1 else {cluster.gpu} for rank in range(layout.pp)]
    found = Weights(
        cluster=cluster,
        costs=costs,
        room=tuple(min(gpu.memory for gpu in each) for each in members),
        peak_flops=_peak_flops(cluster, layout, len(by_type) > 1),
        work=works,
        lag=lags.astype(np.int64),
        link=links.astype(np.int64),
        host=_of_halves(issue, n_stages, asked.pairs),
        variant=np.array(variant),
        n_buckets=n_buckets,
        reduce=reduce,
        gather=gather,
        ring=rings,
        slow=_of_halves(slow, n_stages, asked.pairs),
        update=np.floor(update + 0.5).astype(np.int64),
        overlap=np.array([data_parallel.overlap_grad_reduce, data_parallel.overlap_param_gather]),
        traffic=moved,
        meet=meet,
    )
    for array in found:
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return found


@lru_cache(maxsize=64, typed=True)
def _cluster(topology: Choice, n_gpus: int) -> Cluster:
    params = {key: None if key == "order" and isinstance(value, str) else value for key, value in topology.kwargs.items()}
    return TOPOLOGIES[topology.name].build(n_gpus, **params)


@lru_cache(maxsize=256, typed=True)
def _rings(topology: Choice, layout: Layout, data_parallel: DataParallel, experts: bool, holders: tuple[tuple[int, ...], ...]) -> Rings:
    """`rank_rings`, remembered: layouts repeat in a sweep."""
    return rank_rings(_cluster(topology, layout.n_gpus), layout, data_parallel, experts, holders)


@lru_cache(maxsize=1024, typed=True)
def _sent(topology: Choice, layout: Layout, stage_ranks: tuple[int, ...], replicas: tuple[int, ...]) -> tuple[Message, ...]:
    """`messages`, remembered."""
    return tuple(messages(_cluster(topology, layout.n_gpus), layout, stage_ranks, replicas))


def _costs(cluster: Cluster, asked: Question) -> dict[Gpu, Costs]:
    """Costs by type of GPU, the first GPU's first.

    All have the layers on the same stages, as that one balances them; and so have all pipelines, as the first does, for they hold the
    same weights.
    """
    layout, model = asked.layout, asked.model
    slowdown = asked.slowdown
    beside = Beside(slowdown.tp if layout.tp_comm_overlap else None, slowdown.ep if layout.ep_comm_overlap else None)
    shared = tuple(groups(cluster, layout, rank)._replace(beside=beside) for rank in range(layout.pp))
    found: dict[Gpu, Costs] = {}
    types = dict.fromkeys(kind.gpu for kind, _ in cluster.nodes)
    for gpu in (cluster.gpu, *(each for each in types if each != cluster.gpu)):
        pipelines = []
        for ranks in batched(asked.stage_ranks, len(asked.stage_ranks) // asked.pipelines, strict=True):
            here = sorted(set(ranks))  # a route passes not all ranks
            own = tuple(shared[rank] for rank in here)
            made = stage_costs(model, gpu, tuple(map(here.index, ranks)), asked.microbatch_size, own, asked.efficiency)
            if isinstance(model, Transformer) and made.partition is not None and len(types) * asked.pipelines > 1:
                model = replace(model, layout=made.partition)
            pipelines.append(made)
        found[gpu] = offloaded(in_parts(side_by_side(pipelines, asked.stage_ranks), asked.parts), gpu, asked.offload)
    return found


def _compute(
    cluster: Cluster, layout: Layout, by_type: dict[Gpu, Costs], stage_ranks: Sequence[int], together: Sequence[Lane]
) -> list[Floats]:
    """Compute times (4 s,) of every lane [ticks]: of the slowest of the GPUs that go in lock-step."""
    times = {
        gpu: np.array([costs.forward, costs.backward, costs.backward_input, costs.backward_weight], float) * TICKS
        for gpu, costs in by_type.items()
    }  # (4, s)
    if len(times) == 1 and not cluster.speeds:
        return [times[cluster.gpu].T.ravel()] * len(together)
    found = []
    for lane in together:
        slowest = []
        for stage, rank in enumerate(stage_ranks):
            gpus = (gpu for replica in lane.replicas for gpu in layout.gpus(rank, replica))
            kinds = {(cluster.device(gpu), cluster.speed(gpu)) for gpu in gpus}
            slowest.append(np.array([times[gpu][:, stage] / speed for gpu, speed in kinds]).max(axis=0))
        found.append(np.concatenate(slowest))
    return found


def _fused(costs: Costs, pairs: Sequence[tuple[int, int]], slowdown: float) -> list[float]:
    """Of every pair of stages the time of a fused unit over the sum of its halves."""
    return [costs.fused(f, b, slowdown) / (costs.forward[f] + costs.backward[b]) for f, b in pairs]


def _of_halves(ops: Floats, n_stages: int, pairs: Sequence[tuple[int, int]]) -> Floats:
    """Ticks by op (4 s,) as a vector of the works' length: nothing for transfers; halves of a unit as the ops that they are."""
    halves = [ops[work_index(stage, kind)] for forward, backward in pairs for stage, kind in ((forward, "F"), (backward, "B"))]
    return np.concatenate([ops, np.zeros(3 * n_stages), halves])


def _peak_flops(cluster: Cluster, layout: Layout, mixed: bool) -> float:
    if not mixed:
        return cluster.gpu.peak_flops * layout.n_gpus
    return sum(cluster.device(gpu).peak_flops for gpu in range(layout.n_gpus))


@lru_cache(maxsize=256, typed=True)
def _meet(topology: Choice, layout: Layout, stage_ranks: tuple[int, ...], seen: tuple[tuple[int, ...], ...]) -> tuple[bool, bool]:
    """Whether messages of the first lane share links, and messages of any."""
    sent = [_sent(topology, layout, stage_ranks, replicas) for replicas in seen]
    return bool(shared(sent[:1])), bool(shared(sent))


def _transfers(sent: Sequence[Message], size: float, n_stages: int, p2p: str) -> tuple[Floats, Floats, Ints]:
    """Of every message of a lane the occupation of its channel (2 s,) [ticks]; and as (1 + 3 s,) its delay [ticks] and link class."""
    occupied, lag, link = np.zeros(2 * n_stages), np.zeros(1 + 3 * n_stages), np.zeros(1 + 3 * n_stages, np.int64)
    for message in sent:
        time = message.seconds(size) * TICKS
        at = lag_index(message.stage, message.backward)
        link[at] = message.path_class
        lag[at] = np.floor(message.latency * TICKS + 0.5)
        if p2p == "latency":
            lag[at] += np.floor(time + 0.5)
        else:
            occupied[transfer_index(0, message.stage, message.backward)] = time
    return occupied, lag, link


def _slow_beside_messages(work: Floats, n_stages: int, factor: float) -> None:
    """Stretch the compute times in ``work`` by the messages that pass meanwhile: a stage's own of that direction, and those to it."""
    transfer = work[4 * n_stages : 6 * n_stages].reshape(n_stages, 2)
    for stage in range(n_stages):
        for backward, kinds, source in ((0, "F", stage - 1), (1, "BI", stage + 1)):
            active = max(transfer[stage, backward], transfer[source, backward] if 0 <= source < n_stages else 0.0)
            for kind in kinds:
                work[work_index(stage, kind)] = dilated(work[work_index(stage, kind)], active, factor)


def _slow_beside_exchange(compute: Floats, reduce: Floats, gather: Floats, data_parallel: DataParallel, factor: float) -> Floats:
    """Ticks (4 s,) that an exchange adds to the op that it begins under (the last B or W) or that waits for it (the first F)."""
    slow = np.zeros(compute.size)
    for stage in range(reduce.size):
        for kind, ticks, on in (
            ("F", gather[stage], data_parallel.overlap_param_gather),
            ("B", reduce[stage], data_parallel.overlap_grad_reduce),
            ("W", reduce[stage], data_parallel.overlap_grad_reduce),
        ):
            alone = compute[work_index(stage, kind)]
            slow[work_index(stage, kind)] = dilated(alone, min(ticks, alone), factor) - alone if on else 0.0
    return slow


def check_clock(ticks: float) -> None:
    """Refuse times that int64 ticks cannot add up."""
    if not ticks < 2**62:
        raise ValueError(f"times add up to {ticks / TICKS:.3g} s, beyond the 2^62 ns (146 years) that the clock can count")
