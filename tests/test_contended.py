"""Contention through the whole path, from config to metrics: none of it where no link is shared, the event loop's where one is."""

import numpy as np
import pytest
import twin
import twin_events
from conftest import scenario
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_parallel import BIDIRECTIONAL, exchanges, with_numbers
from test_kernels import TABLE

import hops
from hops.contended import evaluate_contended, make_times
from hops.executor import Executor, evaluate, joined, law_rows, stacked
from hops.graph import unfolded
from hops.kernels import N_LIMBS, N_METRICS
from hops.scenario import Scenario
from hops.simulation import prepare
from hops.trace import timeline_frame
from hops.workspace import workspace

NOISE = {"op": {"law": "lognormal", "cv": 0.3}}
NUMBERS = ("n_buckets", "ring", "update", "reduce", "gather", "slow", "host")


def crossing(pp=8, dp=1, **changes):
    """A cell whose messages take some tenths of a forward and meet: neighbours are on two servers, each with a network card for four."""
    topology = {"name": "pcie", "order": [8 * (i % 2) + i // 2 for i in range(pp * dp)]}
    made = {"topology": topology, "p2p": "channel", "model__per": "stage", "model__p2p_bytes": 1e10} | changes
    return prepare(scenario(pp=pp, dp=dp, **made))


def all_of(cases, executor=None, keep=True):
    """Every metric of cases of one shape, all draws: name -> (cases, ...)."""
    (found,) = evaluate(cases, executor or Executor(threads=1), keep)
    return found.per_draw | found.per_rank


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name] == b[name]).all() | np.isnan(a[name]).all(), name


@settings(max_examples=40)
@given(exchanges(), st.sampled_from(["planned", "fifo", "fair"]))
def test_contention__without_shared_links_changes_no_bit(drawn, contention):
    """Noise, replicas, exchange that overlaps, hosts: all of them as in the kernel."""
    check_no_bit_changes(*drawn, contention)


@settings(max_examples=30)
@given(exchanges(BIDIRECTIONAL), st.sampled_from(["fifo", "fair"]), st.sampled_from([True, True, False]))
def test_contention__of_two_pipelines_that_reduce_together_changes_no_bit(drawn, contention, overlap):
    made, numbers = drawn
    check_no_bit_changes({**made, "overlap_grad_reduce": overlap}, numbers, contention)


def check_no_bit_changes(made, numbers, contention):
    made = {**made, "p2p": "channel" if made["p2p"] == "latency" else made["p2p"]}
    plain, asked = (prepare(Scenario.from_config({**made, "contention": word})) for word in ("none", contention))
    if not plain.weights.overlap.any():  # nothing runs beside an exchange
        numbers = {**numbers, "slow": 0 * numbers["slow"]}
    plain, asked = (with_numbers(case, numbers) for case in (plain, asked))
    assert asked.by_events == (contention != "planned")
    assert asked.contention == "none"
    found, wanted = all_of([asked]), all_of([plain])
    if plain.n_lanes < asked.n_lanes:  # one of several equal replicas: shares of sums may differ in the last bit
        for name in ("bubble_ratio", "bubble_fraction", "utilization", "busy_time", "exposed_communication"):
            assert found.pop(name) == pytest.approx(wanted.pop(name), rel=1e-14, abs=1e-14)
    same(found, wanted)


@pytest.mark.parametrize("discipline", ["fifo", "fair"])
@pytest.mark.parametrize(("schedule", "vpp", "pp"), [("1f1b", None, 8), ("zb_h1", None, 8), ("interleaved", 2, 4)])
def test_contention__is_the_twin(schedule, vpp, pp, discipline):
    """From the program: who waits for whom, whom a message meets; noise of ops. What shares fairly is rounded (see the loop's twin)."""
    case = crossing(schedule__name=schedule, vpp=vpp, pp=pp, microbatches=8, contention=discipline, latency=NOISE, draws=2)
    cluster, layout, program, last = case.weights.cluster, case.scenario.layout, case.program, case.program.n_stages - 1
    home = {op.stage: rank for rank, ops in enumerate(program.ranks) for op in ops}
    for draw in range(2):
        waits, ticks, links, rate = {}, {}, {}, {}
        channels = {}
        for rank, op in program.order:
            stage, kind, k = op
            backward = kind != "F"
            source = stage + 1 if backward else stage - 1
            bits = twin.random_bits(0, draw, twin.op_identity(stage, backward, k))
            node = (1, stage, backward * 2 + (kind == "W"), k)
            before = [other for other in waits if other[0] == 1 and home[other[1]] == rank][-1:]
            needed = [(before[0], 0)] if before else []
            if kind in "BI":
                needed.append(((1, stage, 0, k), 0))
            if kind != "W" and 0 <= source <= last:
                path = cluster.between(layout.gpu(home[source]), layout.gpu(rank))
                needed.append(((2, source, backward * 2, k), twin.ticks(path.latency)))
            waits[node], links[node] = needed, set()
            ticks[node] = twin.ticks({"F": 1.0, "B": 2.0, "I": 1.0, "W": 1.0}[kind], [TABLE.factor(bits)])
            goal = stage - 1 if backward else stage + 1
            if kind != "W" and 0 <= goal <= last:
                path = cluster.between(layout.gpu(rank), layout.gpu(home[goal]))
                message, channel = (2, stage, backward * 2, k), (rank, home[goal])
                waits[message] = [(node, 0), *((each, 0) for each in channels.get(channel, []))]
                ticks[message], links[message] = twin.ticks(1e10 / path.bandwidth), {link.name for link in path.links}
                rate[message] = path.bandwidth
                channels[channel] = [message]
        bandwidth = {link.name: link.bandwidth for lane in case.weights.traffic.sent for each in lane for link in each.links}
        when = twin_events.fifo(waits, ticks, links) if discipline == "fifo" else twin_events.fair(waits, ticks, links, rate, bandwidth)
        late = sum(when[node][1] - when[node][0] > ticks[node] or when[node][0] > 0 for node in rate)
        allowed = 0 if discipline == "fifo" else late  # ticks
        found = {name: values[0][draw] if values.ndim == 2 else values[0][:, draw] for name, values in all_of([case]).items()}
        assert abs(round(float(found["makespan"]) * 1e9) - max(end for _, end in when.values())) <= allowed
        for rank in range(pp):
            ended = waited = busy = 0
            for op in program.ranks[rank]:
                stage, kind, k = op
                backward = kind != "F"
                node, source = (1, stage, backward * 2 + (kind == "W"), k), stage + 1 if backward else stage - 1
                makers = [(1, stage, 0, k)] if kind in "BI" else []
                makers += [(1, source, backward * 2, k)] if kind != "W" and 0 <= source <= last else []
                waited += when[node][0] - max([ended, *(when[maker][1] for maker in makers)])
                ended = when[node][1]
                busy += ticks[node]
            assert round(found["busy_time"][rank] * 1e9) == busy
            assert abs(round(found["exposed_communication"][rank] * 1e9) - waited) <= allowed


@pytest.mark.parametrize(
    ("schedule", "vpp", "pp"), [("1f1b", None, 8), ("zb_h2", None, 8), ("interleaved", 2, 4), ("gpipe", None, 8), ("pipedream", None, 8)]
)
def test_contention__planned_without_noise_is_fifo(schedule, vpp, pp):
    size = {"schedule__name": schedule, "vpp": vpp, "pp": pp, "microbatches": 12, "model__p2p_bytes": 3e10}
    none, planned, fifo = (all_of([crossing(contention=word, **size)]) for word in ("none", "planned", "fifo"))
    same(planned, fifo)
    assert fifo["makespan"] > none["makespan"]


@pytest.mark.parametrize("contention", ["planned", "fifo", "fair"])
def test_contention__tiles_and_threads_change_no_bit(contention):
    cases = [crossing(contention=contention, latency=NOISE, microbatches=4, draws=350, seed=seed) for seed in (1, 2)]
    wanted = all_of(cases)
    for executor in (Executor(threads=2, tile=1), Executor(threads=2, tile=300)):
        same(all_of(cases, executor), wanted)
    means = all_of(cases, Executor(threads=2), keep=False)
    assert means["busy_time"] == pytest.approx(wanted["busy_time"].mean(axis=-1), rel=1e-12)
    assert means["exposed_communication"] == pytest.approx(wanted["exposed_communication"].mean(axis=-1), rel=1e-12)
    if contention == "planned":
        return
    graph, (law, tables) = unfolded(cases[0].structure.graph), law_rows(cases[:1])
    for width in (1, 7):  # draws that are held at once
        per_draw, moments = np.empty((N_METRICS, 1, 20), np.int64), np.zeros((1, 3, 8, N_LIMBS), np.int64)
        joint = joined(cases[0], graph)
        times, space = make_times(width, 1, graph, joint), workspace(graph, graph.rank.size, 0)
        nobody = np.empty((3, 0, 8, 20), np.int64)
        evaluate_contended(graph, joint, stacked(cases[:1]), law, tables, 250, times, space, per_draw, moments, nobody)
        assert (per_draw[0, 0] / 1e9 == wanted["makespan"][0, 250:270]).all()


@pytest.mark.parametrize("contention", ["fifo", "fair"])
def test_contention__cells_in_one_batch_are_the_cells_alone(contention):
    """Other messages, seeds and numbers of replicas, with gradients that overlap in other numbers of buckets."""
    transformer = {"family": "transformer", "layers": 8, "hidden": 1024, "heads": 8, "kv_heads": 8, "ffn_hidden": 4096, "gated": False}
    transformer |= {"experts": 1, "active_experts": 1, "vocabulary": 1000, "sequence": 512, "recompute": "none", "efficiency": 0.5}
    transformer |= {"bytes_per_value": 2}
    cases = []
    for seed, dp, bucket_size, model in (
        (1, 2, 10**9, transformer),
        (2, 1, None, transformer),
        (3, 4, 10**6, {**transformer, "hidden": 512}),
    ):
        overlap = {"overlap_grad_reduce": True, "overlap_param_gather": dp > 1, "bucket_size": bucket_size}
        order = [8 * (i % 2) + i // 2 for i in range(4 * dp)]
        made = {"topology": {"name": "pcie", "order": order}, "model": model, "latency": NOISE, **overlap}
        cases.append(prepare(scenario(seed=seed, dp=dp, pp=4, p2p="channel", contention=contention, draws=9, **made)))
    together = all_of(cases)
    for i, case in enumerate(cases):
        same({name: values[i : i + 1] for name, values in together.items()}, all_of([case]))
    assert len({int(case.weights.n_buckets.max()) for case in cases}) == 3


def test_contention__replicas_meet_too():
    """Rank 0 of both replicas behind one card, rank 1 behind another: nobody meets within a replica."""
    order = {"name": "pcie", "order": [0, 1, 8, 9]}
    made = {"topology": order, "pp": 2, "dp": 2, "microbatches": 2}
    words = {word: crossing(contention=word, **made).contention for word in ("none", "planned", "fifo", "fair")}
    assert words == {"none": "ignored", "planned": "ignored", "fifo": "fifo", "fair": "fair"}
    none, planned, fifo, fair = (all_of([crossing(contention=word, **made)])["makespan"].item() for word in words)
    message = 1e10 / crossing(**made).weights.cluster.between(0, 2).bandwidth
    assert none == planned < fifo <= fair
    assert fifo == pytest.approx(none + message, rel=1e-6)  # the second to come is late by a message once: from then on they alternate


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["ignored", "planned", "fifo", "fair"]),
        ({"topology": {"name": "uniform"}}, ["none"] * 4),
        ({"topology": {"name": "uniform"}, "dp": 2}, ["none"] * 4),
        ({"model__p2p_bytes": 0.0}, ["none"] * 4),  # empty messages take no time on any link
        ({"pp": 1}, ["none"] * 4),
    ],
)
def test_contention__the_cell_says_what_becomes_of_it(changes, words):
    assert [crossing(contention=word, **changes).contention for word in ("none", "planned", "fifo", "fair")] == words


def test_contention__needs_messages_that_occupy():
    for word in ("planned", "fifo", "fair"):
        with pytest.raises(ValueError, match=f"contention={word} needs messages that occupy what they cross; p2p=latency has none"):
            scenario(contention=word, p2p="latency")
    with pytest.raises(ValueError, match="no contention named 'lifo'"):
        scenario(contention="lifo")


@pytest.mark.parametrize("contention", ["planned", "fifo", "fair"])
def test_timeline__shows_what_was_evaluated(contention):
    """Ends, waits for hosts, and what replicas exchange: all that the iteration consists of."""
    case = crossing(
        pp=4, dp=2, contention=contention, latency={**NOISE, "link": {"law": "lognormal", "cv": 0.3}}, draws=3,
        overlap_grad_reduce=True, host={"forward": 0.9},
    )  # fmt: skip
    numbers = {"n_buckets": np.array([2, 1, 3, 1]), "reduce": np.full(4, 3e8), "gather": np.zeros(4)}
    case = case._replace(weights=case.weights._replace(**numbers))
    found = all_of([case])
    for draw in range(3):
        frame = timeline_frame(case, draw)
        ops = frame[frame["microbatch"] >= 0]
        rest = frame[frame["kind"] == "REDUCE_GRAD"]
        assert len(rest) == 7
        assert max(rest["end"].max(), found["makespan"][0, draw]) == found["iteration_time"][0, draw]
        assert (ops.groupby("rank")["end"].shift().fillna(0) <= ops["start"]).all()
        assert ops["end"].max() <= found["makespan"][0, draw]
    alone = crossing(pp=4, contention=contention, latency=NOISE, draws=3)
    assert [timeline_frame(alone, draw)["end"].max() for draw in range(3)] == all_of([alone])["makespan"][0].tolist()


def test_result__says_what_became_of_shared_links(tmp_path):
    sizes = ("model=explicit", "model.p2p_bytes=1e8", "pp=6", "microbatches=6", "latency=none")
    assert hops.simulate(*sizes, "topology=pcie", "contention=fair").attrs["contention"] == "fair"
    cube = hops.sweep_cube(*sizes, "topology=uniform,pcie", "contention=none,fifo")
    assert cube.attrs["contention"] == "mixed"
    assert cube["shared_links"].dims == ("topology", "contention")
    assert cube["shared_links"].values.tolist() == [["none", "none"], ["ignored", "fifo"]]
    assert hops.sweep_cube(*sizes, "topology=uniform", "pp=2,3").attrs["contention"] == "none"
    cube.to_netcdf(tmp_path / "cube.nc", engine="scipy")
    assert hops.open_cube(tmp_path)["shared_links"].values.tolist() == cube["shared_links"].values.tolist()
