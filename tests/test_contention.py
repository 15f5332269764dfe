"""Shared links: the order planned for the kernel is the event loop's without noise; replicas side by side."""

from itertools import pairwise

import numpy as np
import pytest
from conftest import FLUSHED, run_ticks, scenario
from hypothesis import given
from hypothesis import strategies as st
from test_kernels import cells

from hops.contention import planned, share_links
from hops.events import DISCIPLINES, run
from hops.graph import transfer_index
from hops.joint import side_by_side
from hops.programs import Op, members
from hops.scenario import Scenario
from hops.schedules import SCHEDULES
from hops.simulation import prepare
from hops.trace import node_ticks
from hops.traffic import Traffic


def nics(case, per_nic):
    """Links of a cell whose ranks share network cards, ``per_nic`` each, one link out and one in: crossed, rate, bandwidth."""
    ranks = case.structure.stage_ranks
    n_stages, n_nics = len(ranks), -(-case.scenario.pp // per_nic)
    crossed = [()] * case.weights.work.shape[1]
    for stage, here in enumerate(ranks):
        for backward, there in ((False, stage + 1), (True, stage - 1)):
            if 0 <= there < n_stages:
                crossed[transfer_index(n_stages, stage, backward)] = (here // per_nic, n_nics + ranks[there] // per_nic)
    return crossed, [1e9] * len(crossed), [1e9] * (2 * n_nics)


def joint(graph, n_replicas):
    """Edges of replicas side by side, which exchange nothing."""
    nothing = np.zeros(graph.opening.size, np.int64)
    made = side_by_side(graph, n_replicas, nothing, np.array([True, True]), Traffic(((),) * n_replicas), 0.0, "fifo")
    return made.indptr, made.pred


def trace(case, graph, draw):
    """Start, finish, lags of another graph than the case's own."""
    return node_ticks(case, draw, graph)[:3]


def exact(case, links, draw, discipline="fifo"):
    graph = case.structure.graph
    start, finish, lag = node_ticks(case, draw)[:3]
    return run(graph.indptr, graph.pred, lag[graph.lag], finish - start, links, discipline)


def sequence(links, order):
    """Who passes each link, in order."""
    return [
        [node for node in order.tolist() if link in links.use[links.indptr[node] : links.indptr[node + 1]]]
        for link in set(links.use.tolist())
    ]


sharing = cells().filter(lambda made: made["p2p"] != "latency")
in_turn = sharing.filter(lambda made: made["p2p"] not in ("megatron", "torch"))  # a message waits for the one before it at most
sizes = st.integers(1, 4)  # ranks a network card


@given(sharing, sizes)
def test_planned__is_the_event_loop_while_the_order_stands(made, per_nic):
    case = prepare(Scenario.from_config(made))
    links = share_links(case.structure.graph, *nics(case, per_nic))
    calm = case._replace(tables=(None,) * 4)
    plan = planned(case.structure.graph, case.weights.work[0], case.weights.lag[0], links)
    nominal = exact(calm, links, 0)
    where = nominal.order if links.use.size else np.arange(nominal.order.size)
    for each, draw in [(calm, 0)] + [(case, draw) for draw in range(3)]:
        found = exact(each, links, draw)
        if sequence(links, found.order) == sequence(links, nominal.order):
            start, finish, _ = trace(each, plan, draw)
            assert (start == found.start[where]).all()
            assert (finish == found.finish[where]).all()
        else:
            assert each is case


@given(sharing, sizes)
def test_planned__where_they_meet_is_the_event_loop_without_noise(made, per_nic):
    case = prepare(Scenario.from_config(made))._replace(tables=(None,) * 4)
    links = share_links(case.structure.graph, *nics(case, per_nic))
    plan = planned(case.structure.graph, case.weights.work[0], case.weights.lag[0], links, everywhere=False)
    found = exact(case, links, 0)
    where = found.order if links.use.size else np.arange(found.order.size)
    assert (trace(case, plan, 0)[1] == found.finish[where]).all()


# in an iteration every microbatch passes whole, so that `makers_of` knows whose results an op takes
WHOLE = [name for name in FLUSHED if SCHEDULES[name].parts is None or SCHEDULES[name].parts() == 1]


@given(cells(WHOLE).filter(lambda made: made["p2p"] != "latency"), sizes, st.booleans())
def test_planned__the_kernel_reduces_it_as_any_graph(made, per_nic, everywhere):
    """Rows of finish times and factors, firsts, lasts and origins: metrics of the kernel are those of the traced timeline."""
    case = prepare(Scenario.from_config(made))
    links = share_links(case.structure.graph, *nics(case, per_nic))
    plan = planned(case.structure.graph, case.weights.work[0], case.weights.lag[0], links, everywhere)
    start, finish, _ = trace(case, plan, 0)
    program = case.program
    written = [op for _, unit in program.order for op in members(unit)]
    own = {written[op]: (start[i], finish[i]) for i, op in enumerate(plan.op) if op >= 0}
    when = {op: (own[both[0]][0], own[both[-1]][1]) for _, unit in program.order for both in [members(unit)] for op in both}
    exposed, busy, spans = [], [], []
    for rank in program.ranks:
        ended, waited = 0, 0
        for unit in rank:
            both = members(unit)
            makers = [when[made][1] for op in both for made in makers_of(op, program.n_stages, when) if made not in both]
            waited += when[both[0]][0] - max([ended, *makers])
            ended = when[both[0]][1]
        exposed.append(waited)
        busy.append(sum(own[op][1] - own[op][0] for unit in rank for op in members(unit)))
        spans.append(ended - when[members(rank[0])[0]][0])
    ticks, moments = run_ticks(case, n=1, graph=plan)
    assert tuple(ticks[:4, 0]) == (max(end for _, end in when.values()), max(spans), sum(busy), max(busy))
    total = (moments[:, :, 0] << 42) + (moments[:, :, 1] << 21) + moments[:, :, 2]
    assert list(total[0]) == busy
    assert list(total[1]) == exposed


def makers_of(op, n_stages, when):
    """Ops whose results ``op`` takes."""
    stage, kind, k = op
    found = [Op(stage - 1, "F", k)] if kind == "F" else [Op(stage, "F", k)]
    if kind == "W":
        found = [Op(stage, "I", k)]
    elif kind != "F":
        found += [Op(stage + 1, other, k) for other in "BI"]
    return [made for made in found if made in when]


def test_planned__own_times_of_the_kernel_do_not_change():
    """The same noise meets the same ops in another order of nodes, I and W of zero-bubble included."""
    case = prepare(scenario(schedule__name="zb_h2", p2p="channel", latency__op={"law": "lognormal", "cv": 0.3}, **HEAVY))
    links = share_links(case.structure.graph, *nics(case, 4))
    plan = planned(case.structure.graph, case.weights.work[0], case.weights.lag[0], links)
    assert plan.op[plan.op >= 0].tolist() != list(range(case.program.n_ops))
    for draw in range(3):
        start, finish, _ = node_ticks(case, draw)[:3]
        there, ended, _ = trace(case, plan, draw)
        ops = np.flatnonzero(plan.op >= 0)
        own = np.flatnonzero(case.structure.graph.op >= 0)
        assert ((ended - there)[ops] == (finish - start)[own][plan.op[ops]]).all()


@given(in_turn, sizes)
def test_planned__keeps_the_order_with_no_edge_too_many(made, per_nic):
    case = prepare(Scenario.from_config({**made, "microbatches": min(made["microbatches"], 2 * made["pp"])}))
    links = share_links(case.structure.graph, *nics(case, per_nic))
    plan = planned(case.structure.graph, case.weights.work[0], case.weights.lag[0], links)
    before = [plan.pred[plan.indptr[i] : plan.indptr[i + 1]].tolist() for i in range(plan.rank.size)]
    behind = []  # of every node, itself and all that it follows
    for i, each in enumerate(before):
        assert all(b < i for b in each)
        behind.append({i}.union(*(behind[b] for b in each)))
    order = exact(case._replace(tables=(None,) * 4), links, 0).order if links.use.size else np.arange(plan.rank.size)
    place = np.argsort(order)
    for users in sequence(links, order):
        assert all(place[a] in behind[place[b]] for a, b in pairwise(users))
    crosses = [links.indptr[node] < links.indptr[node + 1] for node in order]
    for i, each in enumerate(before):
        for at, b in enumerate(each):
            if crosses[i] and crosses[b]:
                assert not any(b in behind[other] for rest, other in enumerate(each) if rest != at)


HEAVY = {"model__per": "stage", "topology__bandwidth": 1e9, "model__p2p_bytes": 1e8}  # a message takes a tenth of a forward, 1 s


@pytest.mark.parametrize(
    ("cv", "everywhere", "mean", "p99"),
    [(0.05, True, 0.016, 0.025), (0.05, False, 0.005, 0.010), (0.3, True, 0.056, 0.090), (0.3, False, 0.020, 0.045)],
)
def test_planned__how_far_from_the_event_loop(cv, everywhere, mean, p99):
    """1F1B p=8 m=32, a network card for four ranks: |makespan planned / exact - 1| over 200 draws of seed 0 stays below mean, p99."""
    case = prepare(scenario(pp=8, microbatches=32, p2p="channel", latency__op={"law": "lognormal", "cv": cv}, **HEAVY))
    links = share_links(case.structure.graph, *nics(case, 4))
    plan = planned(case.structure.graph, case.weights.work[0], case.weights.lag[0], links, everywhere)
    ticks, _ = run_ticks(case, n=200, graph=plan)
    apart = np.abs(ticks[0] / [exact(case, links, draw).finish.max() for draw in range(200)] - 1)
    print(f"cv {cv}, everywhere {everywhere}: mean {apart.mean():.4f}, p99 {np.quantile(apart, 0.99):.4f}")
    assert mean / 2 < apart.mean() < mean
    assert np.quantile(apart, 0.99) < p99


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_loop__never_goes_back_in_time(discipline):
    """Enough transfers at once that the ends move about in the agenda: 1F1B p=8 m=32, a network card for four ranks."""
    case = prepare(
        scenario(pp=8, microbatches=32, p2p="channel", latency__op={"law": "lognormal", "cv": 0.3}, **{**HEAVY, "model__p2p_bytes": 1e9})
    )
    links = share_links(case.structure.graph, *nics(case, 4))
    for draw in range(3):
        found = exact(case, links, draw, discipline)
        assert (np.diff(found.start[found.order]) >= 0).all()
        assert (found.finish >= found.start).all()


@given(sharing, sizes, st.integers(1, 3), st.sampled_from(DISCIPLINES))
def test_joint__replicas_with_links_of_their_own_are_single_runs(made, per_nic, n_replicas, discipline):
    case = prepare(Scenario.from_config(made))
    graph, (crossed, rate, bandwidth) = case.structure.graph, nics(case, per_nic)
    draws = [node_ticks(case, draw)[:3] for draw in range(n_replicas)]
    apart = [[link + replica * len(bandwidth) for link in each] for replica in range(n_replicas) for each in crossed]
    links = share_links(graph, apart, rate * n_replicas, bandwidth * n_replicas)
    delay = np.concatenate([lag[graph.lag] for _, _, lag in draws])
    ticks = np.concatenate([finish - start for start, finish, _ in draws])
    together = run(*joint(graph, n_replicas), delay, ticks, links, discipline)
    alone = [exact(case, share_links(graph, crossed, rate, bandwidth), draw, discipline) for draw in range(n_replicas)]
    assert (together.start == np.concatenate([each.start for each in alone])).all()
    assert (together.finish == np.concatenate([each.finish for each in alone])).all()


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_joint__replicas_on_the_same_links_wait_for_each_other(discipline):
    """Two replicas of two ranks: the first two messages meet on the card, so one is late by a message, or both are."""
    case = prepare(scenario(pp=2, microbatches=1, p2p="channel", **HEAVY))
    graph, (crossed, rate, bandwidth) = case.structure.graph, nics(case, 1)
    links = share_links(graph, crossed * 2, rate * 2, bandwidth)
    start, finish, lag = node_ticks(case, 0)[:3]
    found = run(*joint(graph, 2), np.tile(lag[graph.lag], 2), np.tile(finish - start, 2), links, discipline)
    late = (found.finish.reshape(2, -1) - finish).tolist()
    message = 100_000_000
    first = {"fifo": [0, message], "fair": [message, message]}[discipline]
    back = {"fifo": [0, message], "fair": [2 * message, 2 * message]}[discipline]
    assert [[each[1] for each in late], [each[-1] for each in late]] == [first, back]


def test_share_links__only_what_several_cross():
    """Two stages: link 0 only forwards, link 1 both ways, link 2 nobody."""
    case = prepare(scenario(pp=2, microbatches=1, p2p="channel"))
    graph, crossed, rate = case.structure.graph, [()] * 14, [1.0] * 14
    crossed[transfer_index(2, 0, False)], crossed[transfer_index(2, 1, True)] = (1, 0), (1, 1)
    rate[transfer_index(2, 0, False)] = 7.0
    links = share_links(graph, crossed, rate, [7.0, 8.0, 9.0])
    sends = np.flatnonzero(graph.rank < 0).tolist()
    uses = {i: links.use[links.indptr[i] : links.indptr[i + 1]].tolist() for i in range(graph.rank.size)}
    assert uses == {i: [1] if i in sends else [] for i in range(graph.rank.size)}
    assert links.rate[sends].tolist() == [7.0, 1.0]
    assert links.bandwidth.tolist() == [7.0, 8.0, 9.0]
    nobody = share_links(graph, [()] * 14, rate, [])
    assert not nobody.use.size
    assert planned(graph, case.weights.work[0], case.weights.lag[0], nobody) is graph
