"""Traffic on the same links: what replicas and ranks exchange meets messages in the event loop; by hand, and against a slow twin."""

from dataclasses import replace

import numpy as np
import pytest
import twin
import twin_events
from conftest import scenario
from test_kernels import TABLE

from hops.executor import Executor, evaluate, joined
from hops.graph import unfolded, unshard_index
from hops.lanes import Lane
from hops.layout import Layout
from hops.simulation import prepare
from hops.trace import timeline_frame
from hops.traffic import Flow, around, partners

NOISE = {"op": {"law": "lognormal", "cv": 0.3}}
DISCIPLINES = ("fifo", "fair")
MODEL = {
    "family": "transformer", "layers": 4, "hidden": 512, "heads": 8, "kv_heads": 8, "ffn_hidden": 2048, "gated": False, "vocabulary": 1000,
    "sequence": 1024, "recompute": "none", "efficiency": 0.5, "bytes_per_value": 2, "experts": 1, "active_experts": 1,
}  # fmt: skip
EXPERTS = {**MODEL, "experts": 4, "active_experts": 2}


def made(**changes):
    """Two ranks of two replicas, each GPU in a node of its own: all traffic passes its network card."""
    topology = {"name": "dgx", "order": [0, 8, 16, 24]}
    size = {"pp": 2, "dp": 2, "microbatches": 3, "topology": topology, "p2p": "channel", "model": MODEL, "draws": 2}
    return prepare(scenario(**size | changes))


def all_of(case):
    (found,) = evaluate([case], Executor(threads=1), True)
    return found.per_draw | found.per_rank


def of_draw(case, draw):
    return {name: values[0][draw] if values.ndim == 2 else values[0][:, draw] for name, values in all_of(case).items()}


def slow(case, draw, discipline):
    """Start and end of all that runs in a draw, written from the meaning: {node: (start, end)}, ticks alone, links.

    Nodes: (0, lane, op, piece, "compute"), (1, lane, message), (2, "reduce" | "gather", stage, number), (3, lane, op, piece).
    """
    s, w, program = case.scenario, case.weights, case.program
    cluster, layout, costs, n_lanes = w.cluster, s.layout, w.costs, case.n_lanes
    per_lane, last = layout.dp // n_lanes, program.n_stages - 1
    home = {op.stage: rank for rank, ops in enumerate(program.ranks) for op in ops}
    waits, ticks, links, rate = {}, {}, {}, {}
    final, parts = {}, {}  # nodes in which ops end; in which their pieces end

    def crossing(pairs, size, seconds):
        """Links of paths that carry ``size`` bytes each, and the rate of the fullest."""
        names = [link.name for a, b in pairs for link in cluster.between(a, b).links]
        return set(names), max([names.count(name) for name in names], default=0) * size / seconds

    def gpus(lane, rank):
        return [layout.gpu(rank, replica) for replica in range(lane * per_lane, (lane + 1) * per_lane)]

    def bucket(what, stage, number, before, each, size):
        rank, node = home[stage], (2, what, stage, number)
        members = [layout.gpu(rank, replica) for replica in range(layout.dp)]
        pairs = list(zip(members, members[1:] + members[:1], strict=True))
        n = len(members)
        links[node], rate[node] = crossing(pairs, (n - 1) / n * size * costs.parameters[stage] / w.n_buckets[stage], each[stage] / 1e9)
        waits[node], ticks[node] = before, int(each[stage] + 0.5)
        return node

    gathered, reducing = {}, {}
    if s.data_parallel.overlap_param_gather:
        for ops in program.ranks:
            before = []
            for stage in dict.fromkeys(op.stage for op in ops if op.kind == "F"):
                for number in range(w.n_buckets[stage]):
                    before = [(bucket("gather", stage, number, before, w.gather, 2), 0)]
                    gathered.setdefault(stage, []).append(before[0][0])
    for lane in range(n_lanes):
        channel, previous = {}, {}
        work = w.work[w.variant[lane]]
        for rank, op in program.order:
            stage, kind, k = op
            backward = kind != "F"
            source, goal = (stage + 1, stage - 1) if backward else (stage - 1, stage + 1)
            factor = TABLE.factor(twin.random_bits(s.seed, draw, twin.op_identity(stage, backward, k), replica=lane)) if case.noisy else 1.0
            taken = int(work[4 * stage + "FBIW".index(kind)] * factor + 0.5)
            before = [(previous[rank], 0)] if rank in previous else []
            if kind in "BI":
                before.append((final[lane, stage, "F", k], 0))
            if kind != "W" and 0 <= source <= last:
                path = cluster.between(gpus(lane, home[source])[0], gpus(lane, rank)[0])
                before.append(((1, lane, source, backward, k), int(path.latency * 1e9 + 0.5)))
            rest = program.ranks[rank][program.ranks[rank].index(op) + 1 :]
            ends = kind in "BW" and not any(o.stage == stage and o.kind in "BW" for o in rest) and s.data_parallel.overlap_grad_reduce
            opens = kind == "F" and k == 0 and s.data_parallel.overlap_param_gather
            n = max(1, int(w.n_buckets[stage])) if ends or opens else 1
            exchange = {"F": costs.forward_exchange, "B": costs.backward_exchange, "I": costs.backward_exchange}.get(kind)
            alone = {"F": costs.forward, "B": costs.backward, "I": costs.backward_input}.get(kind)
            share = exchange[stage][2] / alone[stage] if exchange else 0.0
            done = 0
            for i in range(n):
                upto = -(-taken * (i + 1) // n) if ends else taken * (i + 1) // n
                node = (0, lane, op, i)
                waits[node] = before + ([(gathered[stage][i], 0)] if opens and stage in gathered else [])
                ticks[node], links[node] = upto - done, set()
                before = [(node, 0)]
                if share:
                    ticks[node] = int((upto - done) * (1 - share))
                    flow, size = (3, lane, op, i), costs.p2p_bytes / layout.ep
                    pairs = [(a, layout.gpu(rank, b)) for a in gpus(lane, rank) for b in range(layout.dp) if layout.gpu(rank, b) != a]
                    seconds = cluster.between(*pairs[0]).latency + (layout.ep - 1) * size / cluster.between(*pairs[0]).bandwidth
                    links[flow], rate[flow] = crossing(pairs, size, seconds)
                    waits[flow], ticks[flow] = before, upto - done - ticks[node]
                    before = [(flow, 0)]
                parts[lane, stage, kind, k, i] = before[0][0]
                done = upto
            final[lane, stage, kind, k] = previous[rank] = before[0][0]
            if ends:
                reducing[rank, stage] = (kind, k, n)
            if kind != "W" and 0 <= goal <= last:
                pairs = list(zip(gpus(lane, rank), gpus(lane, home[goal]), strict=True))
                message = (1, lane, stage, backward, k)
                seconds = costs.p2p_bytes / cluster.between(*pairs[0]).bandwidth
                links[message], rate[message] = crossing(pairs, costs.p2p_bytes, seconds)
                waits[message] = [(final[lane, stage, kind, k], 0), *channel.get((rank, goal), [])]
                ticks[message] = int(seconds * 1e9 + 0.5)
                channel[rank, goal] = [(message, 0)]
    for rank, ops in enumerate(program.ranks):
        before = [] if s.data_parallel.overlap_grad_reduce else [(final[lane, *ops[-1]], 0) for lane in range(n_lanes)]
        order = list(dict.fromkeys(o.stage for o in ops[::-1] if o.kind in "BW"))[::-1]
        for stage in order:
            for number in range(w.n_buckets[stage]):
                ready = []
                if s.data_parallel.overlap_grad_reduce:
                    kind, k, _ = reducing[rank, stage]
                    ready = [(parts[lane, stage, kind, k, number], 0) for lane in range(n_lanes)]
                before = [(bucket("reduce", stage, number, before + ready, w.reduce, 4), 0)]
    bandwidth = {link.name: link.bandwidth for a in range(4) for b in range(4) for link in cluster.between(a, b).links}
    when = twin_events.fifo(waits, ticks, links) if discipline == "fifo" else twin_events.fair(waits, ticks, links, rate, bandwidth)
    return when, ticks, links, waits


CASES = {
    "gradients": {"overlap_grad_reduce": True, "bucket_size": 3 * 10**6},
    "gradients at the end": {},
    "weights": {"overlap_grad_reduce": True, "overlap_param_gather": True, "bucket_size": 3 * 10**6},
    "experts in lock-step": {"model": EXPERTS, "ep": 2, "latency": {}},
    "experts": {"model": EXPERTS, "ep": 2, "ep_coupling": "independent"},
    "all": {
        "model": EXPERTS, "ep": 2, "ep_coupling": "independent", "overlap_grad_reduce": True, "overlap_param_gather": True,
        "bucket_size": 2 * 10**6,
    },
    "all, zero bubble": {
        "model": EXPERTS, "ep": 2, "ep_coupling": "independent", "overlap_grad_reduce": True, "schedule": {"name": "zb_h1"},
    },
}  # fmt: skip


@pytest.mark.parametrize("discipline", DISCIPLINES)
@pytest.mark.parametrize("name", CASES)
def test_traffic__is_the_twin(name, discipline):
    """Buckets, exchanges of experts and messages on the same cards. What shares fairly is rounded (see the loop's twin)."""
    case = made(contention=discipline, **({"latency": NOISE} | CASES[name]))
    hindered = 0
    for draw in range(2 if case.noisy else 1):
        when, ticks, links, waits = slow(case, draw, discipline)
        found, program, n_lanes = of_draw(case, draw), case.program, case.n_lanes
        met = sum(when[node][1] - when[node][0] > ticks[node] or when[node][0] > 0 for node in ticks if links[node])
        allowed = 0 if discipline == "fifo" else met  # ticks
        due = {node: max([0, *(when[before][1] + delay for before, delay in waits[node])]) + ticks[node] for node in ticks if links[node]}
        hindered += sum(when[node][1] > end + 1 for node, end in due.items())
        ended = max(end for (kind, *_), (_, end) in when.items() if kind in (0, 3))
        assert abs(round(float(found["makespan"]) * 1e9) - ended) <= allowed
        w, after = case.weights, []
        for rank, ops in enumerate(program.ranks):
            gathers = 0 if case.scenario.data_parallel.overlap_param_gather else 1
            stages = {op.stage for op in ops}
            after.append(int(w.update[rank]) + gathers * sum(int(w.n_buckets[s]) * int(w.gather[s] + 0.5) for s in stages))
            busy = 0
            for lane in range(n_lanes):
                for op in ops:
                    pieces = [node for node in when if node[0] in (0, 3) and node[1:3] == (lane, op)]
                    busy += sum(when[node][1] - when[node][0] for node in pieces)
                    exchanged = [node for node in pieces if node[0] == 3]
                    busy += sum(when[node][0] - when[0, *node[1:]][1] for node in exchanged)
            assert abs(found["busy_time"][rank] * 1e9 * n_lanes - busy) <= 0.5 + allowed * len(ops) * n_lanes
        done = max(end for (kind, *_), (_, end) in when.items() if kind != 1)
        assert abs(round(float(found["iteration_time"]) * 1e9) - done - max(after)) <= allowed
    assert hindered


def by_hand(discipline, bucket):
    """1F1B p=2 m=1 of two replicas, forward 1 s, backward 2 s; rank 1 sends a message and ``bucket`` seconds of gradients."""
    model = {"family": "explicit", "forward": 1.0, "backward_input": 1.0, "backward_weight": 1.0, "per": "stage", "p2p_bytes": 5e9}
    case = made(contention=discipline, microbatches=1, model=model, overlap_grad_reduce=True, draws=1, latency={})
    cluster, rate = case.weights.cluster, case.weights.cluster.between(2, 3).bandwidth
    flow = Flow(around(cluster, [(2, 3)], bucket * rate), bucket)
    moved = case.weights.traffic._replace(reduce=((), (flow,)))
    numbers = {"traffic": moved, "n_buckets": np.array([0, 1]), "reduce": np.array([0.0, bucket * 1e9]), "gather": np.zeros(2)}
    return case._replace(weights=case.weights._replace(**numbers)), 5e9 / rate, cluster.between(0, 2).latency


@pytest.mark.parametrize(
    ("discipline", "bucket", "late", "longer"),
    [("fifo", 0.5, 0.0, 0.1), ("fair", 0.5, 0.1, 0.1), ("fifo", 0.04, 0.0, 0.1), ("fair", 0.04, 0.04, 0.04)],
)
def test_bucket__and_a_message_meet_by_hand(discipline, bucket, late, longer):
    """Both are ready as the last backward of rank 1 ends, at F + message + F + B = 4.1 s (and the latency of a hop).

    First come first served the message, of the lower number, goes first: the bucket waits for 0.1 s. In fair shares both go at
    half their pace until the shorter has ended: the longer is late by the shorter, and the shorter by itself.
    """
    case, message, latency = by_hand(discipline, bucket)
    assert message == pytest.approx(0.1, abs=0.01)
    frame = timeline_frame(case).set_index("op")
    scale = message / 0.1
    case, message, latency = by_hand(discipline, bucket * scale)
    frame = timeline_frame(case).set_index("op")
    begin = 1 + message + latency + 1 + 2
    assert frame.loc["1B0", "end"] == pytest.approx(begin, abs=2e-9)
    assert frame.loc["0B0", "start"] == pytest.approx(begin + message + latency + late * scale, abs=4e-9)
    assert frame.loc["1REDUCE_GRAD", "end"] == pytest.approx(begin + (bucket + longer) * scale, abs=4e-9)
    assert all_of(case)["makespan"][0, 0] == pytest.approx(begin + message + latency + late * scale + 2, abs=4e-9)


@pytest.mark.parametrize(("discipline", "late"), [("fifo", 0.1), ("fair", 0.1)])
def test_exchange__and_a_message_meet_by_hand(discipline, late):
    """Forwards of rank 0 exchange in their last 0.2 s; messages take 0.9 s.

    The message of F0 leaves at 1 s. F1 exchanges from 1.8 s on: first come first served it waits until 1.9 s and ends at 2.1 s; in fair
    shares the last 0.1 s of the message take 0.2 s, and so does half of the exchange, whose rest takes 0.1 s more: 2.1 s again.
    """
    model = {"family": "explicit", "forward": 1.0, "backward_input": 1.0, "backward_weight": 1.0, "per": "stage", "p2p_bytes": 1.0}
    probe = made(microbatches=2, model=model, latency={}, dp=1, topology={"name": "dgx", "order": [0, 8]})
    rate, hop = probe.weights.cluster.between(0, 1).bandwidth, probe.weights.cluster.between(0, 1).latency
    config = {"microbatches": 2, "model": {**model, "p2p_bytes": 0.9 * rate}, "latency": {}, "dp": 1, "draws": 1}
    case = made(**config, topology={"name": "dgx", "order": [0, 8]}, contention=discipline)
    (link,) = [link for link in case.weights.cluster.between(0, 1).links if link.name == "NIC 0 out"]
    nothing, flow = Flow({}, 0.0), Flow({link: rate}, 1.0)
    share = np.zeros((2, 3, 3))
    share[0, :, 2] = 0.2, 0.1, 0.0
    moved = case.weights.traffic._replace(inside=((((nothing, nothing, flow), (nothing,) * 3)),), share=share)
    case = case._replace(weights=case.weights._replace(traffic=moved))
    frame = timeline_frame(case).set_index("op")
    assert frame.loc["0F0", "end"] == pytest.approx(1.0, abs=1e-9)
    assert frame.loc["0F1", "end"] == pytest.approx(2 + late, abs=4e-9)
    assert frame.loc["1F0", "start"] == pytest.approx(1.9 + hop + (0.0 if discipline == "fifo" else 0.1), abs=4e-9)
    assert all_of(case)["busy_time"][0][0, 0] == pytest.approx(6 + late, abs=1e-8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["ignored", "ignored", "fifo", "fair"]),  # gradients leave by the card of messages
        ({"dp": 1, "topology": {"name": "dgx", "order": [0, 8]}}, ["none"] * 4),
        ({"dp": 1, "tp": 8, "topology": {"name": "dgx"}}, ["none"] * 4),  # tensors stay inside their node
        ({"dp": 1, "cp": 8, "topology": {"name": "dgx"}, "cp_comm": "all_gather"}, ["ignored", "ignored", "fifo", "fair"]),
        ({"pp": 1, "topology": {"name": "dgx", "order": [0, 8]}}, ["none"] * 4),  # gradients alone
        ({"pp": 1, "topology": {"name": "dgx", "order": [0, 8]}, "model": EXPERTS, "ep": 2}, ["ignored", "ignored", "fifo", "fair"]),
        ({"zero": 3, "pp": 1, "topology": {"name": "dgx", "order": [0, 8]}}, ["ignored", "ignored", "fifo", "fair"]),
    ],
)
def test_contention__the_cell_says_whether_any_traffic_meets(changes, words):
    cases = [made(contention=word, **changes) for word in ("none", "planned", "fifo", "fair")]
    assert [case.contention for case in cases] == words
    for case in cases[2:]:
        assert bool(joined(case, unfolded(case.structure.graph)).links.use.size) == (words[0] != "none")
        if words[0] == "none":
            assert (all_of(case)["iteration_time"] == all_of(cases[0])["iteration_time"]).all()


def test_traffic__empty_messages_wait_for_nobody():
    case, *_ = by_hand("fifo", 0.5)
    empty = case._replace(weights=case.weights._replace(costs=replace(case.weights.costs, p2p_bytes=0.0)))
    graph = unfolded(case.structure.graph)
    assert joined(case, graph).links.use.size
    assert not joined(empty, graph).links.use.size


def test_unshard__shares_its_card_at_the_rate_that_it_has_alone():
    """A shard group of two GPUs: each sends half of a stage's weights, 2 bytes each, to the other."""
    case = made(zero=3, contention="fair", draws=1, latency={})
    graph, costs, w = unfolded(case.structure.graph), case.weights.costs, case.weights
    links, n_found = joined(case, graph).links, 0
    for node, work in enumerate(graph.work.tolist()):
        if unshard_index(2, 0) <= work < unshard_index(2, 2):
            stage = work - unshard_index(2, 0)
            assert links.indptr[node] < links.indptr[node + 1]
            assert links.rate[node] == pytest.approx(costs.parameters[stage] / (w.work[0, work] / 1e9))
            n_found += 1
    assert n_found == 2
    assert timeline_frame(case)["end"].max() > timeline_frame(made(zero=3, draws=1, latency={}))["end"].max()


def test_partners__send_to_the_next_of_a_ring_or_to_all_of_a_group():
    """Two replicas of tp=2 and ep=4 with etp=1: GPUs 0-3 are one rank's, 0 and 1 a replica."""
    layout = Layout(pp=1, dp=2, tp=2, ep=4, etp=1)
    tensor, context, expert = (list(each) for each in partners(layout, 0, Lane((0,))))
    assert tensor == [(0, 1, 1.0), (1, 0, 1.0)]
    assert context == []
    assert sorted(expert) == [(a, b, 0.25) for a in (0, 1) for b in range(4) if a != b]
    ring, direct = (Layout(pp=1, cp=4, cp_comm=word) for word in ("p2p", "a2a"))
    assert list(list(partners(ring, 0, Lane((0,))))[1]) == [(0, 1, 1.0), (1, 2, 1.0), (2, 3, 1.0), (3, 0, 1.0)]
    assert len(list(list(partners(direct, 0, Lane((0,))))[1])) == 12
    both = [list(each) for each in partners(Layout(pp=1, dp=4, ep=2, etp=2, tp=1), 0, Lane((0, 1, 2, 3)))][2]
    assert {(a, b) for a, b, part in both if part == 1.0} == {(0, 1), (1, 0), (2, 3), (3, 2)}
    assert {(a, b) for a, b, part in both if part == 0.5} == {(0, 2), (2, 0), (1, 3), (3, 1)}
