"""The critical path: every tick of every draw is booked once, to what the slow twin of this file says by walking back over the timeline."""

import numpy as np
import pytest
from conftest import FLUSHED, scenario

import hops
from hops import kernels
from hops.attribution import KINDS, attributed
from hops.checks import Infeasible
from hops.executor import Executor, evaluate
from hops.graph import unfolded
from hops.noise import LANES
from hops.recipes import plan_of_words
from hops.simulation import prepare
from hops.trace import node_ticks

SERIAL = Executor(threads=1)
NOISE = {"op": {"law": "lognormal", "cv": 0.3}, "rank": {"law": "gamma", "cv": 0.1}, "link": {"law": "lognormal", "cv": 0.5}}
TRANSFORMER = (
    ("schedule=zb", "dp=4"),
    ("schedule=zb_h2", "barrier=false", "dp=2"),
    ("schedule=interleaved", "vpp=2", "dp=2", "overlap_grad_reduce=true", "overlap_param_gather=true"),
    ("schedule=dualpipe", "dp=2", "overlap_grad_reduce=true", "barrier=false", "microbatches=16"),
    ("schedule=chimera", "dp=2", "overlap_grad_reduce=true", "topology=pcie"),
    ("schedule=pipedream_2bw",),
    ("schedule=pipedream", "host.forward=1e-3"),
    ("zero=3", "dp=4", "overlap_grad_reduce=true"),
    ("zero=2", "dp=4", "overlap_grad_reduce=true"),
    ("host.forward=1e-3", "host.backward_input=1e-2", "latency.host.law=lognormal", "latency.host.cv=0.5"),
    ("p2p=torch", "schedule=zb_v"),
    ("p2p=megatron",),
    ("p2p=rendezvous", "queue=2"),
    ("retry.loss=1e-2", "latency.link.law=lognormal", "latency.link.cv=0.2"),
    ("contention=planned", "topology=pcie", "dp=2"),
    ("latency=none", "dp=2"),
)


def cell(*words):
    return prepare(plan_of_words(words, sweep=False).scenarios[0])


def iterations(case):
    (outcome,) = evaluate([case], SERIAL)
    return outcome.ticks[kernels.STEP if case.scenario.barrier else kernels.OWN_STEP, 0]


def walk(case, draw):
    """Ticks of one draw by what it waits for: from the last end back, over the edges of the nodes; dicts and a loop."""
    graph, found = unfolded(case.structure.graph), node_ticks(case, draw)
    n_seats = graph.opening.size
    ops = [node for node in range(graph.rank.size) if graph.rank[node] >= 0]
    node = max(ops, key=lambda node: (found.finish[node], -graph.rank[node]))  # the lowest rank of those that end last
    book = {("optimizer", -1): int(case.update.max())}
    while True:
        rank, work = int(graph.rank[node]), int(graph.work[node])
        who = ("compute", rank) if rank >= 0 else ("message", work - 4 * n_seats)
        book[who] = book.get(who, 0) + int(found.finish[node] - found.start[node])
        if found.start[node] == 0:
            return book
        for edge in range(graph.indptr[node], graph.indptr[node + 1]):
            before, lag = int(graph.pred[edge]), int(graph.lag[edge])
            if found.finish[before] + found.lag[lag] == found.start[node]:
                break
        else:
            raise AssertionError("nothing ends when this begins")
        if lag:
            book["message", lag - 1] = book.get(("message", lag - 1), 0) + int(found.lag[lag])
        node = before


@pytest.mark.parametrize(("p2p", "latency"), [("latency", NOISE), ("channel", NOISE), ("blocking", {"op": {"law": "none"}})])
@pytest.mark.parametrize("name", FLUSHED)
def test_attributed__is_the_walk_back_over_the_timeline(name, p2p, latency):
    """Of one replica, where an iteration ends with an op and the optimizer. Without noise many ops end at one tick."""
    vpp = {"interleaved": 2, "hanayo": 2}.get(name)
    topology = {"name": "uniform", "latency": 0.01, "bandwidth": 1e9}
    size = {"pp": 4, "microbatches": 8, "vpp": vpp, "p2p": p2p, "draws": 3}
    case = prepare(scenario(schedule__name=name, latency=latency, topology=topology, model__p2p_bytes=5e6, **size))
    found = attributed(case, SERIAL)
    assert (found.ticks.sum(axis=0) == iterations(case)).all()
    for draw in range(found.ticks.shape[1]):
        book = walk(case, draw)
        for kind in ("compute", "optimizer"):
            theirs = {rank: ticks for (what, rank), ticks in book.items() if what == kind and ticks}
            ours = {part.rank: int(n) for part, n in zip(found.parts, found.ticks[:, draw], strict=True) if part.kind == kind and n}
            assert ours == theirs
        under_way = sum(ticks for (what, _), ticks in book.items() if what == "message")
        assert under_way == sum(int(n) for part, n in zip(found.parts, found.ticks[:, draw], strict=True) if part.kind == "link")


@pytest.mark.parametrize("words", TRANSFORMER, ids=" ".join)
def test_attributed__adds_up_to_every_iteration(words):
    """With all that iterations can wait for; replicas are evaluated again only where the path passes them."""
    case = cell(*words, "draws=20", "pp=4", *(["microbatches=8"] if "microbatches=16" not in words else []))
    found = attributed(case, SERIAL)
    assert (found.ticks.sum(axis=0) == iterations(case)).all()
    assert (found.ticks >= 0).all()


def test_attributed__does_not_depend_on_threads_and_tiles_nor_on_how_many_draws_are_asked_for():
    case = cell("schedule=zb", "dp=2", f"draws={3 * LANES}", "pp=4", "microbatches=8")
    whole, cut = attributed(case, SERIAL), attributed(case, Executor(threads=2, tile=LANES))
    assert (whole.ticks == cut.ticks).all()
    assert (whole.crossed == cut.crossed).all()
    few = attributed(case, SERIAL, 7)
    assert (few.ticks == whole.ticks[:, :7]).all()


def test_attributed__of_a_slow_rank_and_a_slow_link():
    """Rank 1 of 3 computes all the time after it has begun; with a link that takes longer than all computing, that is it."""
    slow = prepare(scenario(pp=3, microbatches=50, model__forward=[1.0, 3.0, 1.0], model__backward_input=1.0, model__backward_weight=1.0))
    time = {str(part): int(ticks[0]) for part, ticks in zip(*attributed(slow, SERIAL)[:2], strict=True)}
    assert time["compute 1"] > 0.95 * sum(time.values())  # but for the first forward and the last backward of others
    wan = prepare(scenario(pp=2, microbatches=1, topology={"name": "uniform", "latency": 100.0, "bandwidth": float("inf")}))
    time = {str(part): int(ticks[0]) for part, ticks in zip(*attributed(wan, SERIAL)[:2], strict=True)}
    assert [time["link 0>1 NET"], time["link 1>0 NET"]] == [100 * 10**9] * 2


def test_attributed__replicas_that_are_late_are_on_the_path():
    """Every replica has noise of its own: the path passes the ops of whichever comes last to the reduction of gradients."""
    case = cell("dp=4", "draws=50", "pp=2", "microbatches=4", "latency.op.cv=0.3")
    found = attributed(case, SERIAL)
    reduced = found.ticks[[part.kind for part in found.parts].index("reduce")]
    assert set(reduced.tolist()) <= {int(np.floor(each + 0.5)) for each in case.weights.reduce}  # nobody waits for it longer than it takes


def test_attributed__an_iteration_that_begins_while_a_message_is_under_way():
    """Own time of rank 1 of 2, from its first forward at 4 s on; its second waits from 4.2 to 5 s for a message sent at 2 s."""
    times = {"model__forward": [1.0, 0.1], "model__backward_input": 0.1, "model__backward_weight": [0.1, 100.0]}
    topology = {"name": "uniform", "latency": 3.0, "bandwidth": float("inf")}
    size = {"pp": 2, "microbatches": 2, "p2p": "latency", "schedule__name": "zb_h1", "barrier": False}
    found = attributed(prepare(scenario(topology=topology, **times, **size)), SERIAL)
    time = {str(part): int(ticks[0]) / 1e9 for part, ticks in zip(*found[:2], strict=True) if ticks[0]}
    assert time == {"compute 1": 200.2, "link 0>1 NET": 1.0}


def test_attributed__refuses_what_events_decide():
    for words, why in (
        (("contention=fifo", "topology=pcie"), "contention=fifo"),
        (("disturbance=[{rank: 1, speed: 0.5}]",), "disturbance"),
    ):
        with pytest.raises(Infeasible, match=f"longest path, which {why} does not have"):
            attributed(cell(*words, "draws=2"), SERIAL)


def test_critical_path__names_parts_and_ops():
    found = hops.critical_path("schedule=dualpipe", "pp=4", "microbatches=8", "draws=10", "tp=2")
    assert np.allclose(found["critical_time"].sum("part"), found["iteration_time"])
    assert 0.5 < float(found["criticality"].max()) <= 1
    assert float(found["criticality"].min()) == 0
    assert found.sizes["op"] == hops.program("dualpipe", pp=4, microbatches=8).n_ops
    assert set(found["kind"].values) <= {"compute", "link", "optimizer", "reduce", "gather"}
    assert float(found["criticality"].sel(op="3B7").max()) > 0


def test_attributed__a_reduction_that_is_over_before_the_next_gradients_is_not_waited_for():
    """Buckets that travel faster than they come: only the last is on the path, behind the op that it is of."""
    fast = ("topology=uniform", "topology.latency=0", "topology.bandwidth=1e12", "latency=none")
    case = cell(*fast, "dp=2", "overlap_grad_reduce=true", "pp=2", "microbatches=4", "bucket_size=1e8")
    assert case.weights.n_buckets.min() > 2
    found = attributed(case, SERIAL)
    (reduced,) = (int(n) for part, n in zip(found.parts, found.ticks[:, 0], strict=True) if part.kind == "reduce")
    assert reduced in {int(np.floor(each + 0.5)) for each in case.weights.reduce}


def test_attributed__the_optimizer_is_that_of_the_rank_whose_update_takes_longest():
    case = cell("model.layout='Et*4|t*30|t*10|t*4L'", "pp=4", "microbatches=8", "draws=5")
    assert int(case.update.argmax()) == 1
    found = attributed(case, SERIAL)
    assert (found.ticks.sum(axis=0) == iterations(case)).all()
    (updated,) = (ticks for part, ticks in zip(found.parts, found.ticks, strict=True) if part.kind == "optimizer")
    assert set(updated.tolist()) == {int(case.update.max())}


def test_attributed__the_first_op_waits_until_its_host_has_issued_its_first_layer():
    found = attributed(cell("host.forward=1e-2", "host.backward_input=1e-2", "pp=4", "microbatches=8", "draws=5"), SERIAL)
    time = {kind: sum(ticks for part, ticks in zip(*found[:2], strict=True) if part.kind == kind) for kind in KINDS}
    assert (time["host"] == 10**7).all()  # later ones are issued while their rank computes, which is as slow as its host
    assert (time["gather"] == 0).all()
