"""Shared links: the order planned for the kernel is the event loop's without noise; replicas side by side."""

import math

import numpy as np
import pytest
from conftest import config, scenario
from hypothesis import given
from hypothesis import strategies as st
from test_events import made_links, no_links
from test_kernels import cells

from hops import kernels
from hops.contention import joint, planned, share_links
from hops.events import run
from hops.executor import law_rows
from hops.graph import transfer_index
from hops.scenario import Scenario
from hops.simulation import prepare
from hops.trace import node_ticks


def nics(case, per_nic):
    """Links of a cell whose ranks share network cards, ``per_nic`` each, one link out and one in: crossed, rate, bandwidth."""
    ranks = case.structure.stage_ranks
    n_stages, n_nics = len(ranks), -(-case.scenario.pp // per_nic)
    crossed = [()] * (6 * n_stages)
    for stage, here in enumerate(ranks):
        for backward, there in ((False, stage + 1), (True, stage - 1)):
            if 0 <= there < n_stages:
                crossed[transfer_index(n_stages, stage, backward)] = (here // per_nic, n_nics + ranks[there] // per_nic)
    return crossed, [1e9] * len(crossed), [1e9] * (2 * n_nics)


def trace(case, graph, draw):
    """As `node_ticks`, of another graph."""
    start, finish = np.empty(graph.rank.size, np.int64), np.empty(graph.rank.size, np.int64)
    lag, (law, tables) = np.empty(case.weights.lag.size, np.int64), law_rows([case])
    weights = case.weights
    seed = np.uint32(case.scenario.seed)
    kernels.trace(graph, weights.work, weights.lag, weights.link, law[0], tables, seed, draw, start, finish, lag)
    return start, finish, lag


def exact(case, links, draw, discipline="fifo"):
    graph = case.structure.graph
    start, finish, lag = node_ticks(case, draw)
    return run(graph.indptr, graph.pred, lag[graph.lag], finish - start, links, discipline)


def sequence(links, order):
    """Who passes each link, in order."""
    return [
        [node for node in order.tolist() if link in links.use[links.indptr[node] : links.indptr[node + 1]]]
        for link in set(links.use.tolist())
    ]


sharing = cells().filter(lambda made: made["p2p"] != "latency")


@given(sharing, st.integers(2, 4))
def test_planned__is_the_event_loop_while_the_order_stands(made, per_nic):
    case = prepare(Scenario.from_config(made))
    graph = case.structure.graph
    links = share_links(graph, *nics(case, per_nic))
    calm = case._replace(tables=(None,) * 4)
    plan = planned(graph, case.weights.work, case.weights.lag, links)
    nominal = exact(calm, links, 0)
    where = nominal.order if links.use.size else np.arange(graph.rank.size)
    for each, draw in [(calm, 0)] + [(case, draw) for draw in range(3)]:
        found = exact(each, links, draw)
        if sequence(links, found.order) == sequence(links, nominal.order):
            start, finish, _ = trace(each, plan, draw)
            assert (start == found.start[where]).all()
            assert (finish == found.finish[where]).all()
        else:
            assert each is case
