"""Iterations under disturbances: longest path == event loop == twin, for any speeds; what a failure cuts off; the user's key."""

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import twin
import twin_events
from conftest import FLUSHED, config, run_ticks, scenario
from hypothesis import given, settings
from hypothesis import strategies as st
from test_contended import crossing
from test_data_parallel import BIDIRECTIONAL, evaluated, exchanges, with_numbers
from test_events import csr, made_links, shares

import hops
from hops.__main__ import main
from hops.checks import Infeasible
from hops.disturbed import disturbed_iterations, drifted_ticks, executed_ticks, make_bench
from hops.events import run_events
from hops.executor import evaluate_iterations
from hops.impact import speeds_of
from hops.joint import Resources
from hops.kernels import OWN_STEP, STEP
from hops.scenario import Scenario
from hops.simulation import prepare
from hops.speeds import NEVER, make_speeds, stopped
from hops.trace import timeline_frame

RATES = [Fraction(0), *(Fraction(i, 10) for i in range(1, 11)), Fraction(1, 1000), Fraction(3, 2), Fraction(7)]
ONE = ((0, 10**9, Fraction(1)), (10**9, NEVER, Fraction(1)))
TWINNED = ("latency", "channel", "blocking", "rendezvous")


@st.composite
def spells(draw, most=3 * 10**10):
    """Pieces of time of one resource: [(from, until, speed)]."""
    edges = sorted(draw(st.sets(st.integers(0, most), max_size=5)))
    pairs = list(zip(edges[::2], edges[1::2], strict=False))
    found = [(begin, end, draw(st.sampled_from(RATES))) for begin, end in pairs]
    if draw(st.booleans()) and edges:
        found.append((edges[-1], NEVER, draw(st.sampled_from(RATES[1:]))))
    return found


def names(resources):
    """Resource by what the twin calls it, of each lane."""
    seats, ends = range(resources.n_seats), (False, True)
    for lane in range(resources.n_lanes):
        found = {("rank", r): resources.rank(lane, r) for r in range(resources.n_ranks)}
        found |= {("send", seat, back): resources.channel(lane, seat, back) for seat in seats for back in ends}
        found |= {("lag", seat, back): resources.delay(lane, seat, back) for seat in seats for back in ends}
        yield found | {("ring", seat): resources.ring(seat) for seat in seats}


def speeds_from(resources, given):
    """Speeds of {resource: spells}."""
    rows = {resource: [(a, b, v.numerator, v.denominator) for a, b, v in each] for resource, each in given.items()}
    return make_speeds(resources.n, rows)


def drawn_speeds(data, resources):
    touched = data.draw(st.lists(st.integers(0, resources.n - 1), unique=True, max_size=6))
    return {resource: data.draw(spells()) for resource in touched}


def both(case, given, draw=0):
    """(iteration, busy, exposed) of one draw by the longest path, which must be the event loop's."""
    by_path, by_loop = make_bench(case, loop=False), make_bench(case, loop=True)
    speeds = speeds_from(by_path.resources, given)
    found = disturbed_iterations(by_path, 0, draw, 1, speeds)
    assert (found == disturbed_iterations(by_loop, 0, draw, 1, speeds)).all()
    return found[:, 0].tolist()


def resources_of(case):
    graph = case.structure.graph
    return Resources(case.weights.variant.size, graph.n_ranks, graph.opening.size)


@given(st.one_of(exchanges(), exchanges(BIDIRECTIONAL)), st.data())
def test_undisturbed__is_the_kernel(drawn, data):
    """Noise, replicas, exchange that overlaps, hosts; also where a resource has the speed that it has anyway."""
    case = with_numbers(prepare(Scenario.from_config(drawn[0])), drawn[1])
    resources = resources_of(case)
    given = data.draw(st.sampled_from([{}, {key: list(ONE) for key in range(resources.n)}]))
    ticks, moments = run_ticks(case, n=1)
    step, *sums = both(case, given)
    assert step == ticks[STEP if case.scenario.barrier else OWN_STEP, 0]
    times = resources.n_lanes // case.n_lanes  # without noise the kernel evaluates one of equal replicas
    total = (moments[:2, :, 0] << 42) + (moments[:2, :, 1] << 21) + moments[:2, :, 2]
    busy, exposed = (total.sum(axis=1) * times).tolist()
    assert sums == [busy, at_most_idle(case, step, busy, exposed)]


def at_most_idle(case, step, busy, exposed):
    """As `hops.executor.pool_of` has it."""
    return min(exposed, case.scenario.pp * case.weights.variant.size * step - busy)


def test_undisturbed__trials_are_those_of_runs():
    case = prepare(scenario(latency__op={"law": "lognormal", "cv": 0.3}, latency__rank={"law": "lognormal", "cv": 0.3}, dp=2))
    bench = make_bench(case)
    for trial, first in ((0, 0), (3, 250), (2**22 - 1, 10**6)):
        wanted = evaluate_iterations(case, trial, first, 9)
        assert (disturbed_iterations(bench, trial, first, 9, bench.speeds) == wanted).all()
        assert (disturbed_iterations(bench, trial, first + 5, 1, bench.speeds)[:, 0] == wanted[:, 5]).all()
    assert len({disturbed_iterations(bench, trial, 0, 1, bench.speeds)[0, 0] for trial in range(5)}) == 5


@settings(max_examples=60)
@given(exchanges([name for name in FLUSHED if name not in BIDIRECTIONAL]), st.sampled_from(TWINNED), st.data())
def test_disturbed__is_the_twin(drawn, p2p, data):
    made, numbers = drawn
    made = {**made, "overlap_grad_reduce": False, "overlap_param_gather": False, "zero": 1, "recv": "early", "p2p": p2p}
    made["barrier"] = data.draw(st.booleans())
    try:
        case, run, step = evaluated(made, numbers)
    except Infeasible:  # ranks that block would wait for each other
        return
    resources = resources_of(case)
    given = drawn_speeds(data, resources)
    advances = [twin.disturbed({who: given.get(number, []) for who, number in each.items()}) for each in names(resources)]
    runs = [run(0, replica, advance) for replica, advance in enumerate(advances)]
    found = both(case, given)
    assert found[0] == step(0, [when for when, *_ in runs], advances)[0 if made["barrier"] else 1]
    assert found[1] == sum(sum(busy) for _, busy, _ in runs)
    assert found[2] == at_most_idle(case, *found[:2], sum(sum(exposed) for *_, exposed in runs))


@settings(max_examples=40)
@given(st.one_of(exchanges(), exchanges(BIDIRECTIONAL)), st.data())
def test_disturbed__path_is_the_loop(drawn, data):
    """Exchange that overlaps, messages that both sides post, two pipelines: all that the twin leaves out."""
    case = with_numbers(prepare(Scenario.from_config(drawn[0])), drawn[1])
    both(case, drawn_speeds(data, resources_of(case)))


@settings(max_examples=30)
@given(exchanges(), st.integers(0, 10**10), st.integers(1, 10**10), st.integers(1, 10**10), st.data())
def test_stall__that_is_longer_ends_later(drawn, at, short, more, data):
    """And by no more than it is longer."""
    case = with_numbers(prepare(Scenario.from_config(drawn[0])), drawn[1])
    resource = data.draw(st.integers(0, resources_of(case).n - 1))
    bench = make_bench(case)

    def step(duration):
        given = {resource: [(at, at + duration, Fraction(0))]} if duration else {}
        return disturbed_iterations(bench, 0, 0, 1, speeds_from(bench.resources, given))[0, 0]

    a, b, c = step(0), step(short), step(short + more)
    if case.scenario.barrier:
        assert a <= b <= a + short
        assert b <= c <= b + more


@settings(max_examples=20)
@given(exchanges(), st.sampled_from([1, 7, 1000]))
def test_everything_slower__is_slower_by_the_same(drawn, times):
    made, numbers = drawn
    numbers = {**numbers, "host": numbers["host"] * 0}
    case = with_numbers(prepare(Scenario.from_config(made)), numbers)
    given = {key: [(0, NEVER, Fraction(1, times))] for key in range(resources_of(case).n)}
    assert both(case, given) == [times * each for each in both(case, {})]


def ops(case, draw=0):
    """(lane 0, rank, start, end) of all ops in ticks."""
    frame = timeline_frame(case, draw)
    return [(r, round(a * 1e9), round(b * 1e9)) for r, a, b in zip(frame["rank"], frame["start"], frame["end"], strict=True)]


@pytest.mark.parametrize("schedule", ["1f1b", "zb_h1", "gpipe"])
def test_cut__at_every_end(schedule):
    """What has been executed is what had begun, up to the failure: at the end of every op, a tick before and a tick after."""
    case = prepare(scenario(schedule__name=schedule, pp=3, microbatches=4, latency__op={"law": "lognormal", "cv": 0.3}))
    benches = [make_bench(case, loop) for loop in (False, True)]
    for end in [0, *(end for *_, end in ops(case))]:
        for at in range(max(0, end - 1), end + 2):
            wanted = [[sum(max(0, min(at, b) - a) for r, a, b in ops(case) if r == rank) for rank in range(3)]]
            for bench in benches:
                assert executed_ticks(bench, 0, 0, bench.speeds, at).tolist() == wanted
    everything = executed_ticks(benches[0], 0, 0, benches[0].speeds, NEVER)
    assert everything.sum() == disturbed_iterations(benches[0], 0, 0, 1, benches[0].speeds)[1, 0]


@pytest.mark.parametrize("p2p", TWINNED)
def test_drift__survivors_run_until_they_wait(p2p):
    """The dead rank's ops never end; others go on as long as they need nothing of it."""
    made = config(pp=3, microbatches=3, p2p=p2p, model__p2p_bytes=1e8, topology__bandwidth=1e9, topology__latency=0.01)
    case = prepare(Scenario.from_config(made))
    benches = [make_bench(case, loop) for loop in (False, True)]
    zero = benches[0].speeds
    pairs = [(a, b) for a in range(3) for b in range(3)]
    seconds = {(s, kind): t for s in range(3) for kind, t in zip("FBIW", (1.0, 2.0, 1.0, 1.0), strict=True)}
    for end in {end for *_, end in ops(case)}:
        for at in (end - 1, end, end + 1):
            for dead in range(3):
                advance = twin.disturbed({("rank", dead): [(at, 1 << 70, Fraction(0))]})
                when, *_ = twin.simulate(case.program, seconds, dict.fromkeys(pairs, 0.01), dict.fromkeys(pairs, 0.1), p2p, advance=advance)
                for delay in (0, 1, 10**9, 10**11):
                    wanted = [
                        sum(max(0, min(at + delay, when[op][1]) - when[op][0]) for op in rank) if r != dead else None
                        for r, rank in enumerate(case.program.ranks)
                    ]
                    wanted[dead] = sum(max(0, min(at, when[op][1]) - when[op][0]) for op in case.program.ranks[dead])
                    for bench in benches:
                        found = drifted_ticks(bench, 0, 0, zero, {(0, dead): at}, at + delay)[0]
                        assert found.tolist() == wanted


def test_stopped__ends_what_was_before():
    speeds = make_speeds(3, {0: [(0, 10, 1, 2), (20, NEVER, 3, 1)], 1: [(5, 8, 0, 1)]})
    found = stopped(speeds, [0, 2], 7)
    rows = [list(zip(found.begin, found.end, found.num, found.den, strict=True))[a:b] for a, b in pairwise(found.indptr)]
    assert rows == [[(0, 7, 1, 2), (7, NEVER, 0, 1)], [(5, 8, 0, 1)], [(7, NEVER, 0, 1)]]


def test_standstill__for_ever_is_refused():
    bench = make_bench(prepare(scenario()))
    with pytest.raises(ValueError, match="stands still for ever: such an iteration never ends"):
        disturbed_iterations(bench, 0, 0, 1, stopped(bench.speeds, [0], 5))


@pytest.mark.parametrize("piece", [(0, 10, 1, 1001), (0, 10, -1, 1), (10, 10, 1, 2), (-1, 5, 1, 2), (0, 10, 1, 0)])
def test_speeds__that_no_number_holds_are_refused(piece):
    with pytest.raises(ValueError, match="pieces must follow each other"):
        make_speeds(1, {0: [piece]})
    with pytest.raises(ValueError, match="pieces must follow each other"):
        make_speeds(1, {0: [(0, 10, 1, 2), (9, 12, 1, 2)]})
    with pytest.raises(ValueError, match="speeds of resource 1; there are 1"):
        make_speeds(1, {1: [(0, 10, 1, 2)]})


@given(shares(most=50) | shares(most=10**6), st.data())
def test_fifo__disturbed_is_the_twin(made, data):
    """Nodes and delays that are stretched, while transfers wait in line for their links."""
    waits, ticks, links, rate, bandwidth = made
    indptr, pred = csr([[before for before, _ in each] for each in waits.values()])
    edges = [(node, i) for node, each in waits.items() for i in range(len(each))]
    who = [*ticks, *edges]
    given = {each: data.draw(spells(4 * max([1, *ticks.values()]))) for each in who if data.draw(st.booleans())}
    rows = {who.index(each): [(a, b, v.numerator, v.denominator) for a, b, v in found] for each, found in given.items()}
    n, numbers = len(ticks), made_links(links.values(), list(rate.values()), list(bandwidth.values()))
    start, finish, order = (np.empty(n, np.int64) for _ in range(3))
    delay = np.array([delay for each in waits.values() for _, delay in each], np.int64)
    run_events(
        indptr, pred, delay, np.array(list(ticks.values())), np.zeros(n, np.int64), numbers, False,
        make_speeds(len(who), rows), np.arange(n), n + np.arange(len(edges)), start, finish, order,
    )  # fmt: skip
    pass_ = twin.disturbed(given)
    assert dict(enumerate(zip(start.tolist(), finish.tolist(), strict=True))) == twin_events.fifo(waits, ticks, links, pass_)


def disturbed(*items, case=crossing, **changes):
    """Makespan [s] of a cell with disturbances."""
    return timeline_frame(case(disturbance=list(items), **changes))["end"].max()


def plain_case(**changes):
    return prepare(scenario(**changes))


def test_key__a_rank_its_node_and_its_gpus_are_the_same():
    """pcie has eight GPUs a node; ranks 0 and 2 are on the first: `crossing` places neighbours on two servers."""
    slow = {"start": 1.5, "duration": 3.0, "speed": 0.5}
    ranks = [disturbed({"rank": [0, 2, 4, 6], **slow}), disturbed({"node": 0, **slow}), disturbed({"device": [0, 1, 2, 3], **slow})]
    assert ranks[0] == ranks[1] == ranks[2] > disturbed()
    assert disturbed({"node": 1, **slow}) == disturbed({"rank": [1, 3, 5, 7], **slow})


def test_key__a_rank_is_as_slow_as_its_slowest_gpu():
    """And no faster than all of them."""
    made = {"case": plain_case, "pp": 2, "tp": 2, "model": dict(TRANSFORMER), "topology": {"name": "dgx"}}
    half = disturbed({"rank": 1, "speed": 0.5}, **made)
    assert disturbed({"device": 2, "speed": 0.5}, **made) == half
    assert disturbed({"device": [2, 3], "speed": 0.5}, {"device": 3, "speed": 0.8}, **made) > half
    assert disturbed({"device": 2, "speed": 0.5}, {"device": 3, "speed": 0.5}, **made) == half
    assert disturbed({"device": 2, "speed": 2}, **made) == disturbed(**made) > disturbed({"rank": [0, 1], "speed": 2}, **made)


TRANSFORMER = {"family": "transformer", "layers": 8, "hidden": 1024, "heads": 8, "kv_heads": 8, "ffn_hidden": 4096, "gated": False}
TRANSFORMER |= {"experts": 1, "active_experts": 1, "vocabulary": 1000, "sequence": 512, "recompute": "none", "efficiency": 0.5}
TRANSFORMER |= {"bytes_per_value": 2}


def test_key__of_one_replica():
    made = {"case": plain_case, "dp": 3, "pp": 2}
    all_slow = disturbed({"rank": 1, "speed": 0.5}, **made)
    for replica in range(3):
        case = prepare(scenario(disturbance=[{"rank": 1, "replica": replica, "speed": 0.5}], dp=3, pp=2))
        bench = make_bench(case)
        assert disturbed_iterations(bench, 0, 0, 1, bench.speeds)[0, 0] == round(all_slow * 1e9)
        healthy = make_speeds(bench.resources.n, {})
        assert (executed_ticks(bench, 0, 0, bench.speeds, 1 << 60) != executed_ticks(bench, 0, 0, healthy, 1 << 60)).nonzero() == (
            [replica],
            [1],
        )


def test_key__links_by_name_and_class():
    """A message of 10 GB over a card of 23.5e9 bytes/s; half its bandwidth doubles that, half its speed the latency as well."""
    made = {"pp": 2, "microbatches": 1, "topology": {"name": "pcie", "order": [0, 8]}}
    alone, path = disturbed(**made), crossing(**made).weights.cluster.between(0, 1)
    wire = 2 * path.seconds(1e10)
    assert path.bandwidth == min(link.bandwidth for link in path.links if link.hop == "NIC")
    assert disturbed({"link": "NIC", "bandwidth": 0.5}, **made) == pytest.approx(alone + wire, abs=1e-8)
    assert disturbed({"link": "net", "bandwidth": 0.5}, **made) == pytest.approx(alone + wire, abs=1e-8)
    for name in ("NIC", "nic", "NET"):
        assert disturbed({"link": name, "speed": 0.5}, **made) == pytest.approx(alone + wire + 2 * path.latency, abs=1e-8)
    assert disturbed({"link": "NIC 0 out", "bandwidth": 0.5}, **made) == pytest.approx(alone + wire / 2, abs=1e-8)
    assert disturbed({"link": "NIC 0 out", "bandwidth": 0.5}, {"link": "NIC 2", "bandwidth": 0.5}, **made) == pytest.approx(
        alone + wire, abs=1e-8
    )  # NIC 2 takes it in, and the answer out
    assert disturbed({"link": "NIC 1", "bandwidth": 0.5}, **made) == alone  # the other sockets'
    assert disturbed({"link": "PCIe switch", "bandwidth": 0.9}, **made) == alone  # it is not what limits
    assert disturbed({"link": "NIC", "start": 1.0, "duration": 0.5, "speed": 0}, **made) == pytest.approx(alone + 0.5, abs=1e-8)
    assert disturbed({"link": "NVL", "speed": 0.5}, **made) == alone


def test_key__rings_of_replicas_cross_links_too():
    made = {"pp": 1, "dp": 2, "microbatches": 1, "model": dict(TRANSFORMER), "topology": {"name": "pcie", "order": [0, 8]}}

    def step(*items):
        bench = make_bench(plain_case(disturbance=list(items), **made))
        return disturbed_iterations(bench, 0, 0, 1, bench.speeds)[0, 0]

    alone, numbers = step(), plain_case(**made).weights
    exchange = (numbers.n_buckets @ (numbers.reduce + numbers.gather)).item()
    assert step({"link": "NIC", "speed": 0.5}) == pytest.approx(alone + exchange, abs=4)
    assert step({"link": "NET", "speed": 0.5}) == pytest.approx(alone + exchange, abs=4)
    assert step({"link": "NIC", "bandwidth": 0.5}) == pytest.approx(alone + exchange, rel=5e-3)  # but for the latency
    assert step({"rank": 0, "speed": 0.5}) > alone


def test_key__what_overlaps_multiplies():
    twice = disturbed({"rank": 0, "speed": 0.5}, {"rank": 0, "speed": 0.5, "start": 2.0})
    assert twice == disturbed({"rank": 0, "speed": 0.5, "duration": 2.0}, {"rank": 0, "speed": 0.25, "start": 2.0})
    case = crossing(disturbance=[{"rank": 0, "speed": 0.5}, {"rank": 0, "speed": 0.5, "start": 2.0, "duration": 1.0}])
    found = speeds_of(case, case.scenario.hindrances.disturbances)
    assert list(zip(found.begin, found.end, found.num, found.den, strict=True)) == [
        (0, 2 * 10**9, 1, 2), (2 * 10**9, 3 * 10**9, 1, 4), (3 * 10**9, NEVER, 1, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"rank": 9, "speed": 0.5}, "no rank 9 \\(there are ranks 0 to 7\\)"),
        ({"node": 1, "speed": 0.5, "rank": 1}, "needs one of device, node, rank, link"),
        ({"rank": 1}, "needs speed, or of a link its bandwidth"),
        ({"rank": 1, "bandwidth": 0.5}, "needs speed, or of a link its bandwidth"),
        ({"link": "NIC", "bandwidth": 0.5, "speed": 0.5}, "needs speed, or of a link its bandwidth"),
        ({"link": "NIC", "speed": 2}, "must be 0, or from 0.001 to 1; got 2"),
        ({"rank": 1, "speed": 1e-4}, "must be 0, or from 0.001 to 1000; got 0.0001"),
        ({"rank": 1, "speed": -1}, "must be a finite number at least 0"),
        ({"rank": 1, "speed": 0}, "needs a duration: what stands still for ever never ends"),
        ({"rank": 1, "speed": 0.5, "start": float("nan")}, "disturbance.start must be"),
        ({"rank": 1, "speed": 0.5, "duration": 0}, "disturbance.duration must be"),
        ({"rank": 1, "speed": 0.5, "duration": 1e12}, "beyond the 73 years"),
        ({"rank": 1.5, "speed": 0.5}, "disturbance.rank must be a whole number"),
        ({"rank": [], "speed": 0.5}, "disturbance.rank names nothing"),
        ({"rank": 1, "replica": 2, "speed": 0.5}, "no replica 2 \\(there are replicas 0 to 0\\)"),
        ({"node": 0, "replica": 0, "speed": 0.5}, "replica is of a rank; a node has none"),
        ({"link": "NIK 0", "speed": 0.5}, "no link 'NIK 0'; did you mean 'NIC 0'.*or classes of paths \\(LOC, NVL"),
        ({"link": 3, "speed": 0.5}, "takes names of links"),
        ({"gpu": 3, "speed": 0.5}, "no key of a disturbance named 'gpu'"),
        ("rank", "must list sections"),
    ],
)
def test_key__refuses(item, words):
    with pytest.raises(ValueError, match=words):
        disturbed(item)


def test_key__needs_a_list_a_flush_and_no_fair_shares():
    with pytest.raises(ValueError, match="disturbance must be a list of sections"):
        scenario(disturbance={"rank": 1, "speed": 0.5})
    with pytest.raises(ValueError, match="contention=fair divides links by rates of its own"):
        scenario(disturbance=[{"rank": 1, "speed": 0.5}], contention="fair", p2p="channel")
    with pytest.raises(Infeasible, match="pipedream has no flush"):
        prepare(scenario(disturbance=[{"rank": 1, "speed": 0.5}], schedule__name="pipedream"))


def test_key__in_a_line_of_traffic():
    """Two messages that meet on a card that stands still both wait for it."""
    fifo = {"contention": "fifo", "microbatches": 4}
    stalled = disturbed({"link": "NIC", "start": 2.0, "duration": 3.0, "speed": 0}, **fifo)
    assert disturbed(**fifo) < stalled <= disturbed(**fifo) + 3.0


def test_command__shows_what_a_disturbance_does(command):
    sizes = ("model=explicit", "pp=2", "microbatches=2", "draws=3", "topology=pcie")
    code, out, _ = command(*sizes, "disturbance=[{rank: 1, speed: 0.5}, {link: nic, start: 0.1, duration: 0.5, speed: 0}]", main=main)
    assert code == 0
    assert "disturbed: rank 1 has speed 0.5 from 0 s on\n" in out
    assert "disturbed: link nic stands still from 0.1 s on for 0.5 s\n" in out
    code, _, err = command(*sizes, "disturbance=[{rank: 7, speed: 0.5}]", main=main)
    assert (code, err.strip()) == (1, "disturbance: no rank 7 (there are ranks 0 to 1)")


def test_sweep__over_disturbances():
    cube = hops.sweep_cube("pp=2", "model=explicit", "microbatches=2", "latency=none", "disturbance=[],[{rank: 1, speed: 0.5}]")
    healthy, slow = cube["iteration_time_mean"].values
    assert slow > healthy
    assert cube["disturbance"].values.tolist() == ["[]", "[{rank:1,speed:0.5}]"]
