"""The event loop: equal to the kernel where nothing is shared, to its own slow twin where links are."""

import math
from itertools import pairwise

import numpy as np
import pytest
import twin_events
from hypothesis import given
from hypothesis import strategies as st
from test_kernels import cells

from hops.events import DISCIPLINES, run
from hops.links import Links
from hops.scenario import Scenario
from hops.simulation import prepare
from hops.trace import node_ticks


def csr(lists):
    return np.cumsum([0, *map(len, lists)]).astype(np.int32), np.array([value for each in lists for value in each], np.int32)


def made_links(links, rate, bandwidth):
    return Links(*csr([sorted(each) for each in links]), np.array(rate, float), np.array(bandwidth, float))


def no_links(n):
    return made_links([()] * n, [1.0] * n, [])


def run_dicts(waits, ticks, links, rate, bandwidth, discipline):
    """The loop, asked as the twin is: {node: (start, end)}."""
    indptr, pred = csr([[before for before, _ in each] for each in waits.values()])
    delay = np.array([delay for each in waits.values() for _, delay in each], np.int64)
    numbers = made_links(links.values(), list(rate.values()), list(bandwidth.values()))
    made = run(indptr, pred, delay, np.array(list(ticks.values()), np.int64), numbers, discipline)
    return dict(enumerate(zip(made.start.tolist(), made.finish.tolist(), strict=True)))


@st.composite
def shares(draw, most):
    """Small graphs of nodes, some of which cross links: waits, ticks, links, rate, bandwidth."""
    n, n_links = draw(st.integers(1, 10)), draw(st.integers(1, 4))
    length = st.integers(0, most)
    waits = {i: draw(st.lists(st.tuples(st.integers(0, i - 1), length), max_size=2)) if i else [] for i in range(n)}
    ticks = {i: draw(length) for i in range(n)}
    links = {i: draw(st.sets(st.integers(0, n_links - 1), max_size=3)) for i in range(n)}
    bandwidth = {link: draw(st.sampled_from([1e9, 2.5e9, 7.77e8, 1e11 / 3, math.inf])) for link in range(n_links)}
    rate = {i: min([draw(st.sampled_from([5e8, 5e10])), *(bandwidth[link] for link in links[i])]) for i in range(n)}
    return waits, ticks, links, rate, bandwidth


@given(cells(), st.sampled_from(DISCIPLINES))
def test_loop__without_links_is_the_kernel(made, discipline):
    case = prepare(Scenario.from_config(made))
    graph = case.structure.graph
    for draw in range(2 if case.noisy else 1):
        start, finish, lag = node_ticks(case, draw)[:3]
        found = run(graph.indptr, graph.pred, lag[graph.lag], finish - start, no_links(start.size), discipline)
        assert (found.start == start).all()
        assert (found.finish == finish).all()


@given(shares(most=5) | shares(most=10**9))
def test_fifo__is_the_twin(made):
    waits, ticks, links, *_ = made
    assert run_dicts(*made, "fifo") == twin_events.fifo(waits, ticks, links)


@given(shares(most=5) | shares(most=10**6))
def test_fair__is_the_twin_within_a_tick_a_transfer(made):
    """The twin divides exactly; shares rounded down to 2^-40 can move an end to the next tick, and those who share with it."""
    found, twin = run_dicts(*made, "fair"), twin_events.fair(*made)
    off = [abs(a - b) for node in twin for a, b in zip(found[node], twin[node], strict=True)]
    assert max(off) <= sum(map(bool, made[2].values()))


@given(shares(most=10**6))
def test_loop__a_transfer_alone_takes_its_ticks(made):
    waits, ticks, links, rate, bandwidth = made
    apart = {node: {node} if each else set() for node, each in links.items()}
    own = {node: rate[node] for node in links}
    free = run_dicts(waits, ticks, dict.fromkeys(links, ()), rate, bandwidth, "fifo")
    for discipline in DISCIPLINES:
        assert run_dicts(waits, ticks, apart, rate, own, discipline) == free
        assert run_dicts(waits, ticks, links, rate, dict.fromkeys(bandwidth, math.inf), "fair") == free


@given(shares(most=10**6))
def test_loop__order_is_topological_and_by_start(made):
    waits, ticks, links, rate, bandwidth = made
    indptr, pred = csr([[before for before, _ in each] for each in waits.values()])
    delay = np.array([delay for each in waits.values() for _, delay in each], np.int64)
    numbers = made_links(links.values(), list(rate.values()), list(bandwidth.values()))
    for discipline in DISCIPLINES:
        found = run(indptr, pred, delay, np.array(list(ticks.values()), np.int64), numbers, discipline)
        place = np.argsort(found.order)
        assert sorted(found.order.tolist()) == list(range(len(waits)))
        assert all(place[before] < place[node] for node, each in waits.items() for before, _ in each)
        assert (np.diff(found.start[found.order]) >= 0).all()


@given(shares(most=1000))
def test_fifo__no_two_transfers_overlap_on_a_link(made):
    found, links = run_dicts(*made, "fifo"), made[2]
    for link in made[4]:
        spans = sorted(found[node] for node in links if link in links[node])
        assert all(b[0] >= a[1] for a, b in pairwise(spans))


@given(shares(most=10**6))
def test_fair__no_link_carries_more_than_its_bandwidth(made):
    """Whatever began and ended inside any interval fitted into it, up to the half tick that each end is rounded."""
    found, (_, ticks, links, rate, bandwidth) = run_dicts(*made, "fair"), made
    for link in made[4]:
        crossing = [node for node in links if link in links[node]]
        for a in {found[node][0] for node in crossing}:
            for b in {found[node][1] for node in crossing}:
                inside = [node for node in crossing if a <= found[node][0] and found[node][1] <= b]
                carried = sum(ticks[node] * rate[node] for node in inside)
                assert carried <= bandwidth[link] * (b - a + len(links)) or not inside


def test_fair__three_equal_transfers_take_three_times_as_long():
    alone = (
        {i: [] for i in range(3)},
        dict.fromkeys(range(3), 1_000_001),
        {i: {0} for i in range(3)},
        dict.fromkeys(range(3), 1e9),
        {0: 1e9},
    )
    assert run_dicts(*alone, "fair") == dict.fromkeys(range(3), (0, 3_000_003))
    assert run_dicts(*alone, "fifo") == {i: (i * 1_000_001, (i + 1) * 1_000_001) for i in range(3)}


def test_fair__the_narrow_leave_the_rest_to_the_wide():
    """Link 10, top rates 2, 10, 10 GB/s: shares 2, 4, 4; when the first ends, at its own pace, 5 and 5."""
    ticks, rate = {0: 100, 1: 100, 2: 100}, {0: 2e9, 1: 10e9, 2: 10e9}
    found = run_dicts({i: [] for i in range(3)}, ticks, {i: {0} for i in range(3)}, rate, {0: 10e9}, "fair")
    assert found == {0: (0, 100), 1: (0, 220), 2: (0, 220)}  # 60 of 100 left, at half speed


def test_fair__whoever_is_held_up_elsewhere_leaves_room():
    """Max-min over two links: A and B on link 0 (6 GB/s), B and C on link 1 (2 GB/s): B and C get 1, A the other 5."""
    rate, bandwidth = {0: 6e9, 1: 2e9, 2: 2e9}, {0: 6e9, 1: 2e9}
    links = {0: {0}, 1: {0, 1}, 2: {1}}
    found = run_dicts({i: [] for i in range(3)}, {0: 50, 1: 100, 2: 100}, links, rate, bandwidth, "fair")
    assert found == {0: (0, 60), 1: (0, 200), 2: (0, 200)}


def test_fifo__who_waits_holds_back_those_behind_it():
    """1 waits for link 0; 2 needs only link 1, which is free, but came after 1, which needs it too."""
    links = {0: {0}, 1: {0, 1}, 2: {1}}
    found = run_dicts({0: [], 1: [], 2: []}, {0: 10, 1: 5, 2: 1}, links, dict.fromkeys(links, 1.0), {0: 1.0, 1: 1.0}, "fifo")
    assert found == {0: (0, 10), 1: (10, 15), 2: (15, 16)}


def test_fair__years_long_transfers_do_not_overflow():
    links, rate = {0: {0}, 1: {0}}, {0: 1e9, 1: 1e9}
    found = run_dicts({0: [], 1: []}, {0: 2**59, 1: 2**59}, links, rate, {0: 1e9}, "fair")
    assert found == {0: (0, 2**60), 1: (0, 2**60)}


def test_run__names_the_disciplines():
    with pytest.raises(ValueError, match="no discipline named 'fifa'; did you mean 'fifo'"):
        run(*csr([[]]), np.zeros(0, np.int64), np.zeros(1, np.int64), no_links(1), "fifa")
