"""Exchange among replicas: what it costs, what hides it, and that the kernel does what the twin says. Hosts and overlap too."""

import math

import numpy as np
import pytest
import twin
from conftest import FLUSHED, config, run_ticks, scenario
from hypothesis import given
from hypothesis import strategies as st
from test_kernels import TABLE, cells, parts_of

import hops
from hops.checks import Infeasible
from hops.collectives import ALONE, Ring
from hops.data_parallel import DataParallel, exchange
from hops.distributions import LAWS, TERMS
from hops.hardware import GPUS
from hops.overheads import dilated
from hops.paths import PATH_CLASSES
from hops.programs import Fused, members
from hops.scenario import Scenario
from hops.schedules import SCHEDULES
from hops.simulation import prepare

NET = PATH_CLASSES.index("NET")
BIDIRECTIONAL = ("chimera", "dualpipe")  # their ranks hold several stages each, which others hold too


def test_exchange__by_hand():
    """A billion parameters on an H100: 30 bytes each through memory; over four replicas a quarter of that, and two exchanges."""
    assert exchange(1e9, 0, GPUS["h100"], ALONE, ALONE) == (0, 0, pytest.approx(30e9 / 3350e9))
    four = Ring(4, 0.0, 50e9)
    adam = pytest.approx(30e9 / 4 / 3350e9)
    assert exchange(1e9, 1, GPUS["h100"], four, ALONE) == (pytest.approx(0.75 * 4e9 / 50e9), pytest.approx(0.75 * 2e9 / 50e9), adam)


def test_exchange__of_every_bucket_pays_the_latency_of_every_step():
    slow = Ring(4, 1e-3, math.inf)
    assert exchange(1e9, 7, GPUS["h100"], slow, ALONE)[:2] == (pytest.approx(7 * 3e-3), pytest.approx(7 * 3e-3))


def test_exchange__groups_scatter_within_and_reduce_among_themselves():
    """HSDP: of 4 GB of gradients 3/4 within a group of four, and twice 7/8 of the quarter among eight groups."""
    within, among = Ring(4, 0.0, 300e9), Ring(8, 0.0, 50e9)
    reduce, gather, adam = exchange(1e9, 1, GPUS["h100"], within, among)
    assert reduce == pytest.approx(0.75 * 4e9 / 300e9 + 2 * 7 / 8 * 1e9 / 50e9)
    assert gather == pytest.approx(0.75 * 2e9 / 300e9)
    assert adam == pytest.approx(30e9 / 4 / 3350e9)


def test_buckets__are_megatrons():
    lazy, eager = DataParallel(), DataParallel(overlap_grad_reduce=True)
    assert [lazy.buckets(1e9, 8), lazy.buckets(1e9, 1), lazy.buckets(0, 8)] == [1, 0, 0]
    assert [eager.buckets(1e9, 8), eager.buckets(1e9, 100), eager.buckets(1.0, 8)] == [25, 10, 1]
    assert DataParallel(overlap_grad_reduce=True, bucket_size=3e8).buckets(1e9, 8) == 4


def pieces(draw, n_stages):
    return [draw(st.lists(st.just(draw(st.integers(1, 10**9))), max_size=3)) for _ in range(n_stages)]


@st.composite
def exchanges(draw, names=FLUSHED):
    """Any cell, replicas of it, and for every stage pieces of gradients and weights; hosts, and ops that a reduction slows."""
    made = draw(cells(names))
    made |= {"dp": draw(st.integers(1, 3)), "overlap_grad_reduce": draw(st.booleans())}
    made |= {"overlap_param_gather": draw(st.booleans()) and SCHEDULES[made["schedule"]["name"]].routes is None}
    pipelines = made["schedule"].get("pipelines", 2) if made["schedule"]["name"] in BIDIRECTIONAL else 1
    made |= {"zero": draw(st.sampled_from([1, 2])) if made["overlap_grad_reduce"] and pipelines == 1 else 1}
    n_stages = len(made["model"]["forward"])
    n_pieces = [draw(st.integers(0, 3)) for _ in range(n_stages)]
    numbers = {
        "n_buckets": np.array(n_pieces),
        "ring": np.full(n_stages, NET),
        "update": np.array([draw(st.integers(0, 10**9)) for _ in range(made["pp"])]),
    }
    for name, size in (("reduce", n_stages), ("gather", n_stages), ("slow", 4 * n_stages), ("host", 4 * n_stages)):
        numbers[name] = np.array(
            [draw(st.sampled_from([0.0, 1e7, 123456789.25, 9e8])) for _ in range(size)]
        )  # no half ticks: the twin takes seconds
    return made, {name: values if name == "update" else np.tile(values, pipelines) for name, values in numbers.items()}


def with_numbers(case, numbers):
    """The case with the numbers in it; halves of a fused unit have those of the ops that they are."""
    kinds = [4 * stage + kind for pair in case.structure.graph.pairs for stage, kind in zip(pair, (0, 1), strict=True)]
    of_ops = {name: np.r_[numbers[name], np.zeros(3 * len(numbers["reduce"])), numbers[name][kinds]] for name in ("slow", "host")}
    return case._replace(weights=case.weights._replace(**numbers | of_ops))


def evaluated(made, numbers):
    """The case with the numbers in it, and the twin's answer for a draw of one of its replicas."""
    case = with_numbers(prepare(Scenario.from_config(made)), numbers)
    model, program, (n_parts, in_turn) = made["model"], case.program, parts_of(made)
    on = {term for term in TERMS if made["latency"].get(term, {"law": "none"})["law"] != "none"}

    def number(draw, replica, term, identity):
        return TABLE.factor(twin.random_bits(made["seed"], draw, identity, term, 0 if term == "link" else replica))

    def congestion(draw):
        return number(draw, 0, "link", NET) if "link" in on else 1.0

    def parts(name, draw):
        return {
            s: [twin.ticks(numbers[name][s] / 1e9, [congestion(draw)])] * n
            for s, n in enumerate(numbers["n_buckets"].tolist())
        }  # fmt: skip

    def released(draw):
        there = {}
        for r, rank in enumerate(program.ops):
            end = 0
            for stage in dict.fromkeys(op.stage for op in rank if op.kind == "F"):
                for taken in parts("gather", draw)[stage]:
                    end += taken
                    there.setdefault((r, stage), []).append(end)
        return there

    def closing(rank, i):
        op = rank[i]
        return op.kind in "BW" and (made["zero"] == 2 or not any(o.stage == op.stage and o.kind in "BW" for o in rank[i + 1 :]))

    seconds = {}
    for s in range(program.n_stages):
        f, i, w = (model[key][s] / n_parts for key in ("forward", "backward_input", "backward_weight"))
        seconds |= {(s, "F"): f, (s, "B"): i + w, (s, "I"): i, (s, "W"): w}
    units = {op: unit for rank in program.ranks for unit in rank for op in members(unit)}
    for rank in program.ops:
        for at, op in enumerate(rank):
            opens = made["overlap_param_gather"] and op.kind == "F" and not any(o[:2] == (op.stage, "F") for o in rank[:at])
            if opens or closing(rank, at):
                own = (units[op], op.kind) if isinstance(units[op], Fused) else op
                seconds[own] = (seconds[op[:2]] * 1e9 + numbers["slow"][4 * op.stage + "FBIW".index(op.kind)]) / 1e9
    pairs = [(a, b) for a in range(made["pp"]) for b in range(made["pp"])]
    latency, transfer = made["topology"]["latency"], model["p2p_bytes"] / n_parts / made["topology"]["bandwidth"]

    def run(draw, replica, advance=twin.passing):
        def factors(op, rank):
            identities = {
                "op": twin.op_identity(op.stage, op.kind != "F", op.microbatch),
                "rank": rank,
                "microbatch": op.microbatch // n_parts,
            }
            return [number(draw, replica, term, identity) for term, identity in identities.items() if term in on]

        def issue(op):
            base = numbers["host"][4 * op.stage + "FBIW".index(op.kind)]
            identity = twin.op_identity(op.stage, op.kind != "F", op.microbatch)
            return twin.ticks(base / 1e9, [number(draw, replica, "host", identity)] if "host" in on else [])

        return twin.simulate(
            program, seconds, dict.fromkeys(pairs, latency), dict.fromkeys(pairs, transfer), made["p2p"], factors, congestion(draw),
            issue, released(draw) if made["overlap_param_gather"] else None, recv=made["recv"], n_parts=in_turn, advance=advance,
        )  # fmt: skip

    def step(draw, replicas, advances=()):
        gather = {} if made["overlap_param_gather"] else parts("gather", draw)
        overlap, each = made["overlap_grad_reduce"], made["zero"] == 2
        return twin.step(program, replicas, numbers["update"].tolist(), parts("reduce", draw), gather, overlap, each, advances)

    return case, run, step


@given(st.one_of(exchanges(), exchanges(BIDIRECTIONAL)))
def test_exchange__equals_the_twin(drawn):
    case, run, step = evaluated(*drawn)
    for draw in range(2 if case.noisy else 1):
        runs = [run(draw, replica) for replica in range(case.n_lanes)]
        ticks, moments = run_ticks(case, first=draw, n=1)
        assert tuple(ticks[4:6, 0]) == step(draw, [when for when, *_ in runs])
        each = [twin.metrics(case.program, when, busy) for when, busy, _ in runs]
        assert ticks[0, 0] == max(makespan for makespan, *_ in each)
        assert ticks[1, 0] == max(span for _, span, *_ in each)
        total = (moments[:, :, 0] << 42) + (moments[:, :, 1] << 21) + moments[:, :, 2]
        assert list(total[0]) == [sum(busy[rank] for _, busy, _ in runs) for rank in range(case.program.pp)]
        assert list(total[1]) == [sum(exposed[rank] for *_, exposed in runs) for rank in range(case.program.pp)]


@given(cells([name for name in FLUSHED if name not in BIDIRECTIONAL]), st.data())
def test_unshard__equals_the_twin(made, data):
    """ZeRO 3: weights are gathered before a stage runs, three stages' at most; replicas of the group are one lane."""
    made |= {"zero": 3, "dp": 2}
    case = prepare(Scenario.from_config(made))
    n_stages, work = case.program.n_stages, case.weights.work.copy()
    work[:, 6 * n_stages : 7 * n_stages] = [data.draw(st.sampled_from([0.0, 1e7, 5e8])) for _ in range(n_stages)]
    link = case.weights.link.copy()
    link[:, 1 + 2 * n_stages :] = NET
    case = case._replace(weights=case.weights._replace(work=work, link=link))
    model, pp, (n, in_turn) = made["model"], made["pp"], parts_of(made)
    seconds = {}
    for s in range(n_stages):
        f, i, w = (model[key][s] / n for key in ("forward", "backward_input", "backward_weight"))
        seconds |= {(s, "F"): f, (s, "B"): i + w, (s, "I"): i, (s, "W"): w}
    pairs = [(a, b) for a in range(pp) for b in range(pp)]
    latency, transfer = made["topology"]["latency"], model["p2p_bytes"] / n / made["topology"]["bandwidth"]
    on = {term for term in TERMS if made["latency"].get(term, {"law": "none"})["law"] != "none"}

    def number(term, identity):
        law = {"op": PAIR, "rank": PAIR, "microbatch": PAIR, "link": TABLE}[term]
        return law.factor(twin.random_bits(made["seed"], 0, identity, term))

    def factors(op, rank):
        identities = {"op": twin.op_identity(op.stage, op.kind != "F", op.microbatch), "rank": rank, "microbatch": op.microbatch // n}
        return [number(term, identity) for term, identity in identities.items() if term in on]

    when, busy, exposed = twin.simulate(
        case.program, seconds, dict.fromkeys(pairs, latency), dict.fromkeys(pairs, transfer), made["p2p"], factors,
        number("link", NET) if "link" in on else 1.0, gather=dict(enumerate(work[0, 6 * n_stages : 7 * n_stages].tolist())),
        recv=made["recv"], n_parts=in_turn,
    )  # fmt: skip
    ticks, moments = run_ticks(case, n=1)
    assert case.n_lanes == 1
    assert tuple(ticks[:4, 0]) == twin.metrics(case.program, when, busy)
    total = (moments[:, :, 0] << 42) + (moments[:, :, 1] << 21) + moments[:, :, 2]
    assert list(total[1]) == exposed


class LargestOf:
    """The law of the larger of two draws, in units of the mean of one."""

    def __init__(self, table, ppf):
        self.table, self.mean = twin.Table(lambda u: ppf(np.exp(np.log(u) / 2))), table.mean

    def factor(self, bits):
        scaled = self.table.mean
        self.table.mean = self.mean
        found = self.table.factor(bits)
        self.table.mean = scaled
        return found


PAIR = LargestOf(TABLE, lambda u: LAWS["lognormal"].ppf(u, cv=0.3))


A100 = ("model=gpt_22b", "topology=dgx_a100", "latency=none", "pp=8", "tp=8", "dp=8", "microbatches=32", "model.vocabulary=400000")


def after(*overrides):
    """What follows the pipeline [s]."""
    cell = hops.simulate(*A100, *overrides)
    return float(cell["iteration_time"][0] - cell["makespan"][0])


def with_reductions(schedule, ticks):
    """Makespan and step [ticks] of four ranks, F = I = W = 1 s, whose stages reduce gradients for so many ticks."""
    case = prepare(scenario(schedule__name=schedule, overlap_grad_reduce=True))
    numbers = {"n_buckets": np.ones(4, np.int64), "reduce": np.array(ticks, float)}
    ticks, _ = run_ticks(case._replace(weights=case.weights._replace(**numbers)))
    return ticks[0, 0].item(), ticks[4, 0].item()


def test_reduce__hides_in_the_cooldown_of_1f1b_and_zb_h1_has_none():
    """1F1B: rank r ends r backwards before rank 0, so a reduction of 2 r seconds costs nothing; in ZB-H1 they all end late."""
    reductions = [2 * rank * 10**9 for rank in range(4)]
    makespan, step = with_reductions("1f1b", reductions)
    assert step == makespan
    for rank in range(4):
        longer = [each + (i == rank) for i, each in enumerate(reductions)]
        assert with_reductions("1f1b", longer) == (makespan, makespan + 1)
    makespan, step = with_reductions("zb_h1", reductions)
    assert step == makespan + reductions[-1]


def test_reduce__of_buckets_begins_under_the_last_backward():
    whole = after("overlap_grad_reduce=true", "bucket_size=1e12")
    pieces = [after("overlap_grad_reduce=true", f"bucket_size={size}") for size in (2e8, 5e7)]
    assert whole > pieces[0] > pieces[1]
    assert after() == pytest.approx(whole, rel=1e-6)


def test_gather__hides_in_the_warmup_of_later_ranks():
    """What the first rank waits for its first weights stays; with buckets it waits for the first of them only."""
    late, early = hops.simulate(*A100), hops.simulate(*A100, "overlap_param_gather=true", "bucket_size=5e7")
    assert float(early["iteration_time"][0]) < float(late["iteration_time"][0])
    assert float(early["makespan"][0]) > float(late["makespan"][0])
    waits = [float(cell["exposed_communication"][0]) for cell in (late, early)]
    assert waits[1] > waits[0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"zero": 4}, "zero must be a whole number from 0 to 3; got 4"),
        ({"zero": 2}, "zero=2 reduces gradients while the pipeline runs, so it needs overlap_grad_reduce=true"),
        ({"zero": 3, "overlap_param_gather": True}, "overlap_param_gather=true has no meaning with zero=3"),
        ({"bucket_size": 0}, "bucket_size must be a whole number of at least 1; got 0"),
        ({"overlap_grad_reduce": 1}, "overlap_grad_reduce must be true or false; got 1"),
        ({"overlap_slowdown": {"dp": 0.9}}, "overlap_slowdown.dp must be at least 1, which is overlap for free; got 0.9"),
        ({"overlap_slowdown": {"pp": 2}}, "no key of overlap_slowdown named 'pp'"),
        ({"host": {"forward": -1}}, "host.forward must be a finite number at least 0; got -1"),
        ({"cuda_graph": "yes"}, "cuda_graph must be true or false; got 'yes'"),
    ],
)
def test_refused__by_name(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        scenario(**changes)


def test_shard__that_does_not_divide_dp_is_refused():
    with pytest.raises(Infeasible, match="dp_shard=3 does not divide dp=8"):
        prepare(scenario(dp=8, dp_shard=3))


def test_dilated__by_hand():
    """Ten seconds of work beside four of communication at 1.5: in these four, 4 / 1.5 of the work are done."""
    assert dilated(10.0, 4.0, 1.5) == pytest.approx(4 + (10 - 4 / 1.5))
    assert dilated(10.0, 40.0, 1.5) == pytest.approx(15)
    assert dilated(10.0, 4.0, 1.0) == 10


def test_slowdown__stretches_passes_by_their_messages_and_last_backwards_by_reductions():
    model = {"family": "explicit", "forward": 1.0, "backward_input": 2.0, "backward_weight": 3.0, "per": "rank", "p2p_bytes": 1e9}
    slow = prepare(
        scenario(model=model, topology__bandwidth=2e9, p2p="channel", pp=3, overlap_slowdown={"p2p": 1.25}, overlap_grad_reduce=True)
    )
    times = slow.weights.work[0, :12].reshape(3, 4) / 1e9
    assert times.tolist() == [[1.1, 5.1, 2.1, 3.0]] * 3  # half a second of messages beside each pass, of which a fifth is lost
    for p2p, beside in (("torch", True), ("rendezvous", True), ("megatron", False), ("blocking", False)):  # these wait for their messages
        asked = scenario(model=model, topology__bandwidth=2e9, p2p=p2p, pp=3, overlap_slowdown={"p2p": 1.25}, overlap_grad_reduce=True)
        assert (prepare(asked).weights.work[0, :12] == slow.weights.work[0, :12]).all() == beside
    asked = {"schedule__name": "interleaved", "model": model, "topology__bandwidth": 2e9, "pp": 4, "overlap_slowdown": {"p2p": 1.25}}
    overlapped, channel = (prepare(scenario(**asked, p2p=p2p)).weights.work for p2p in ("megatron", "channel"))
    assert (overlapped == channel).all()
    (free,) = prepare(scenario(model=model, topology__bandwidth=2e9, pp=3, overlap_slowdown={"p2p": 1.25})).weights.work[:, :12] / 1e9
    assert free.tolist() == [1.0, 5.0, 2.0, 3.0] * 3  # p2p=latency: messages occupy nobody


def test_slowdown__of_reductions_lengthens_the_step():
    assert after("overlap_grad_reduce=true", "bucket_size=5e7") == after(
        "overlap_grad_reduce=true", "bucket_size=5e7", "overlap_slowdown.ep=3"
    )
    calm = hops.simulate(*A100, "overlap_grad_reduce=true", "bucket_size=5e7")
    slow = hops.simulate(*A100, "overlap_grad_reduce=true", "bucket_size=5e7", "overlap_slowdown.dp=1.3")
    assert float(slow["makespan"][0]) > float(calm["makespan"][0])


def test_host__bounds_the_rate_and_a_cuda_graph_lifts_it():
    """Four ops of a second of compute on one rank; a host of two seconds a layer and kind lets one start every two, or four."""
    model = {"family": "explicit", "forward": 1.0, "backward_input": 0.5, "backward_weight": 0.5, "per": "rank", "p2p_bytes": 0.0}
    host = {"forward": 2.0, "backward_input": 2.0, "backward_weight": 2.0}
    bound = prepare(scenario(pp=1, microbatches=2, model=model, host=host))
    assert run_ticks(bound)[0][0, 0] == (2 + 4 + 2 + 4 + 1) * 10**9  # F B F B: issued at 2, 6, 8, 12
    assert run_ticks(prepare(scenario(pp=1, microbatches=2, model=model, host=host, cuda_graph=True)))[0][0, 0] == 4 * 10**9


def test_replicas__on_slower_links_are_variants_and_the_step_waits_for_them():
    """Three replicas on nodes of 8: one of them crosses from node to node between its ranks."""
    words = ("model=explicit", "model.p2p_bytes=1e9", "latency=none", "pp=4", "dp=3", "topology.order=tp-cp-ep-pp-dp")
    case = prepare(Scenario.from_config(config(pp=4, dp=3, topology={"name": "dgx", "order": "tp-cp-ep-pp-dp"})))
    assert case.weights.variant.tolist() == [0, 0, 0]
    cell, crossing = hops.simulate(*words), hops.simulate(*words, "topology.order=[0,1,2,3,4,5,6,7,14,15,16,17]")
    assert float(crossing["iteration_time"][0]) > float(cell["iteration_time"][0])
    first = hops.simulate(*words, "topology.order=[14,15,16,17,0,1,2,3,4,5,6,7]")
    assert float(first["iteration_time"][0]) == float(crossing["iteration_time"][0])
