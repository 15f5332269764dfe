"""The kernel against the twin with ``==``, its independence of threads and tiles, and the laws that any pipeline obeys."""

import math
import time
from threading import get_ident

import numpy as np
import pytest
import twin
from conftest import FLUSHED, ORDERS, config, run_ticks, scenario
from hypothesis import given, settings
from hypothesis import strategies as st

from hops import kernels
from hops.checks import Infeasible
from hops.distributions import LAWS, TERMS
from hops.executor import Executor, evaluate
from hops.lowering import P2P
from hops.metrics import rank_metrics
from hops.paths import PATH_CLASSES
from hops.posts import RECV
from hops.programs import members
from hops.scenario import Scenario
from hops.schedules import SCHEDULES
from hops.simulation import prepare
from hops.team import Team

CV = (("cv", 0.3),)

UNLIKE = ("default_vpp", "plans", "constraints")
sizes = st.tuples(st.integers(1, 5), st.integers(1, 9))
# schedules with one chunk a rank that take any sizes, and whose order is the same whatever the times
unchunked = st.sampled_from([name for name in sorted(ORDERS) if all(getattr(SCHEDULES[name], key) in (None, ()) for key in UNLIKE)])


def accepted():
    """Every schedule with small sizes that it accepts: [(name, [(pp, microbatches, vpp)])]."""
    for name in sorted(ORDERS):
        record = SCHEDULES[name]
        chunks = (record.default_vpp,) if record.fixed_vpp or record.default_vpp is None else (2, 3, 4)
        every = [(pp, m, vpp) for pp in range(1, 6) for m in range(1, 13) for vpp in chunks]
        works = [each for each in every if all(c.holds(*record.sizes(*each)) for c in record.constraints)]
        yield name, [each for each in works if each[0] * each[1] * (each[2] or 1) <= 72]


SMALL = list(accepted())


CHIMERAS = ({}, {"scaling": "forward_doubling"}, {"scaling": "backward_halving"}, {"pipelines": 4})


def times(n):
    return st.lists(st.floats(2e-6, 2.0), min_size=n, max_size=n)


def params(name, pp, m):
    """Keywords of a schedule that change how it is evaluated."""
    if SCHEDULES[name].steady:
        return st.fixed_dictionaries({"batches": st.integers(1, 3)})
    works = [each for each in CHIMERAS if all(c.holds(pp, m, **each) for c in SCHEDULES[name].constraints)] if name == "chimera" else [{}]
    return st.sampled_from(works)


@st.composite
def cells(draw, names=ORDERS):
    """Any schedule and size, a time of its own for every stage and kind, any link, with or without noise."""
    name, accepts = draw(st.sampled_from([each for each in SMALL if each[0] in names]))
    pp, m, vpp = draw(st.sampled_from(accepts))
    model = {"family": "explicit", "per": "stage", "p2p_bytes": draw(st.floats(0, 1e8))}
    model |= {key: draw(times(pp * (vpp or 1))) for key in ("forward", "backward_input", "backward_weight")}
    made = config(
        schedule={"name": name} | draw(params(name, pp, m)),
        vpp=vpp,
        model=model,
        topology={"name": "uniform", "latency": draw(st.floats(0, 0.5)), "bandwidth": draw(st.sampled_from([1e8, 5e9, math.inf]))},
        latency={term: draw(st.sampled_from([{"law": "none"}, {"law": "lognormal", "cv": 0.3}])) for term in TERMS},
        pp=pp,
        microbatches=m,
        p2p=draw(st.sampled_from(P2P)),
        draws=5,
        seed=draw(st.integers(0, 2**32 - 1)),
    )
    try:
        prepare(Scenario.from_config(made))
    except Infeasible:  # ranks that block would wait for each other
        made["p2p"] = "torch"
    return made | {"recv": draw(st.sampled_from(RECV)) if made["p2p"] == "torch" else "early"}


def parts_of(made):
    """Parts of a microbatch, and of a sequence: halves of a microbatch of Chimera's are samples, which do not look back at each other."""
    given = {key: value for key, value in made["schedule"].items() if key != "name"}
    record = SCHEDULES[made["schedule"]["name"]]
    n = record.parts(**given) if record.parts else 1
    return n, n if record.name == "seq1f1b" else 1


def twin_of(made, draw, replica=0, advance=twin.passing):
    """The twin's answer for a config: when, busy, exposed."""
    model, pp = made["model"], made["pp"]
    program = prepare(Scenario.from_config(made)).program
    seconds, record = {}, SCHEDULES[made["schedule"]["name"]]
    (n, in_turn), steady = parts_of(made), (made["microbatches"], made["schedule"]["batches"]) if record.steady else None
    for s in range(program.n_stages):
        f, i, w = (model[key][s] / n for key in ("forward", "backward_input", "backward_weight"))
        seconds |= {(s, "F"): f, (s, "B"): i + w, (s, "I"): i, (s, "W"): w}
    pairs = [(a, b) for a in range(pp) for b in range(pp)]
    latency = dict.fromkeys(pairs, made["topology"]["latency"])
    transfer = dict.fromkeys(pairs, model["p2p_bytes"] / n / made["topology"]["bandwidth"])

    on = {term for term in TERMS if made["latency"][term]["law"] != "none"}

    def number(term, identity):
        # the links are the same for all replicas
        return TABLE.factor(twin.random_bits(made["seed"], draw, identity, term, 0 if term == "link" else replica))

    def factors(op, rank):
        identities = {"op": twin.op_identity(op.stage, op.kind != "F", op.microbatch), "rank": rank, "microbatch": op.microbatch // n}
        return [number(term, identity) for term, identity in identities.items() if term in on]

    congestion = number("link", PATH_CLASSES.index("NET")) if "link" in on else 1.0
    return program, twin.simulate(
        program, seconds, latency, transfer, made["p2p"], factors, congestion, recv=made["recv"], n_parts=in_turn, steady=steady,
        lost=lambda message: twin.timeouts(
            made["seed"], draw, twin.op_identity(*message), replica, made["retry"]["loss"],
            [twin.ticks(made["retry"]["timeout"] * made["retry"]["backoff"] ** a) for a in range(made["retry"]["retries"] + 1)],
        ) if made["retry"] else 0,
        advance=advance, queue=made["queue"] and n * made["queue"], free_at=made["queue_free_at"],
    )  # fmt: skip


TABLE = twin.Table(lambda u: LAWS["lognormal"].ppf(u, cv=0.3))


def check_twin(case, made, draw):
    """The kernel finds in a draw what the twin does; what comes after the pipeline, and the twin's program and timeline."""
    program, (when, busy, exposed) = twin_of(made, draw)
    ticks, moments = run_ticks(case, first=draw, n=1)
    assert tuple(ticks[:4, 0]) == twin.metrics(program, when, busy)
    assert ticks[6, 0] == sum(exposed)
    total = (moments[:, :, 0] << 42) + (moments[:, :, 1] << 21) + moments[:, :, 2]
    assert list(total[0]) == busy
    assert list(total[1]) == exposed
    return tuple(ticks[4:6, 0]), program, when


@given(cells())
def test_kernel__equals_the_twin(made):
    case = prepare(Scenario.from_config(made))
    for draw in range(2 if case.noisy else 1):
        steps, program, when = check_twin(case, made, draw)
        assert steps == twin.step(program, [when], [0] * program.pp)


@given(cells())
def test_noiseless__equals_the_twin_and_the_kernel_of_draws(made):
    made = {**made, "latency": {term: {"law": "none"} for term in TERMS}}
    case = prepare(Scenario.from_config(made))
    program, (when, busy, exposed) = twin_of(made, 0)
    ((_, found),) = outcome([case])
    makespan, span, *_ = twin.metrics(program, when, busy)
    second = 1e9 * made["schedule"].get("batches", 1)  # of a batch
    assert (found["makespan"][0, 0], found["span"][0, 0]) == (makespan / second, span / second)
    assert found["busy_time"][0].tolist() == [ticks / second for ticks in busy]
    assert found["exposed_communication"][0].tolist() == [ticks / second for ticks in exposed]
    ticks, moments = run_ticks(case)
    assert found["makespan"][0, 0] == ticks[0, 0] / second
    assert found["utilization"][0].tolist() == rank_metrics(moments[None], 1, np.ones(1, np.int64))["utilization"][0].tolist()


@pytest.mark.parametrize("p2p", P2P)
def test_noiseless__cells_side_by_side_are_the_cells_alone(p2p):
    """More cells than lanes, each with its own times and hop; a few of them alone, and through the kernel of draws."""
    cases = [
        prepare(scenario(model__forward=1 + i / 64, model__backward_weight=0.5 + i % 7, topology__latency=i % 11 / 8, p2p=p2p, draws=1))
        for i in range(300)
    ]
    ((_, together),) = outcome(cases)
    for i in (0, 255, 256, 299):
        ((_, alone),) = outcome([cases[i]])
        assert all(together[name][i].tolist() == alone[name][0].tolist() or name.endswith("_std") for name in together)
        ticks, _ = run_ticks(cases[i])
        assert [together[name][i, 0] for name in ("makespan", "span")] == (ticks[:2, 0] / 1e9).tolist()


@settings(max_examples=60)
@given(cells(FLUSHED), st.integers(2, 4))
def test_replicas__the_step_waits_for_the_slowest_of_separate_simulations(made, dp):
    made = {**made, "dp": dp, "draws": 3}
    case = prepare(Scenario.from_config(made))
    update = np.arange(made["pp"], dtype=np.int64)[::-1] * 1_000_003
    case = case._replace(weights=case.weights._replace(update=update))
    for draw in range(2 if case.noisy else 1):
        program, runs = prepare(Scenario.from_config(made)).program, [twin_of(made, draw, replica)[1] for replica in range(case.n_lanes)]
        each = [twin.metrics(program, when, busy) for when, busy, _ in runs]
        ticks, moments = run_ticks(case, first=draw, n=1)
        assert ticks[0, 0] == max(makespan for makespan, *_ in each)
        assert ticks[1, 0] == max(span for _, span, *_ in each)
        assert ticks[2, 0] == sum(total for *_, total, _ in each)
        assert ticks[3, 0] == max(most for *_, most in each)
        assert tuple(ticks[4:6, 0]) == twin.step(program, [when for when, *_ in runs], update.tolist())
        total = (moments[:, :, 0] << 42) + (moments[:, :, 1] << 21) + moments[:, :, 2]
        assert list(total[0]) == [sum(busy[rank] for _, busy, _ in runs) for rank in range(made["pp"])]
        assert list(total[1]) == [sum(exposed[rank] for *_, exposed in runs) for rank in range(made["pp"])]
    ((_, found),) = outcome([case])
    assert found["iteration_time"][0].tolist() == (run_ticks(case)[0][4] / 1e9).tolist()


def test_replicas__the_first_is_the_pipeline_alone_and_more_only_wait_longer():
    one, _ = run_ticks(noisy(draws=50))
    four, _ = run_ticks(noisy(draws=50, dp=4))
    assert (four[4] >= one[4]).all()
    assert (four[4] > one[4]).any()
    assert (run_ticks(noisy(draws=50, dp=1))[0] == one).all()


def test_kept_draws__are_those_that_the_moments_sum_up():
    case = noisy(draws=300)
    (found,) = evaluate([case], Executor(tile=64), keep_draws=True)
    (summed,) = evaluate([case], Executor())
    for name, values in found.per_rank.items():
        assert values.shape == (1, 4, 300)
        assert values.mean(axis=-1) == pytest.approx(summed.per_rank[name], rel=1e-12)
        assert values.std(axis=-1, ddof=1) == pytest.approx(summed.per_rank[f"{name}_std"], rel=1e-9)
    ticks, _ = run_ticks(case)
    assert (np.rint(found.per_rank["busy_time"][0] * 1e9).sum(axis=0) == ticks[2]).all()


@settings(max_examples=60)
@given(cells())
def test_trace__is_the_twins_timeline(made):
    from hops.trace import node_ticks, op_ticks

    case = prepare(Scenario.from_config(made))
    program, (when, _, _) = twin_of(made, 0)
    start, end = op_ticks(case, node_ticks(case, 0))
    ops = [op for _, unit in program.order for op in members(unit)]
    assert {op: (int(a), int(b)) for op, a, b in zip(ops, start, end, strict=True)} == when


def noisy(**changes):
    every = {term: {"law": "lognormal", "cv": 0.3} for term in TERMS}
    return prepare(scenario(**{"latency": every, "topology__latency": 0.01, **changes}))


@pytest.mark.parametrize("term", TERMS)
def test_terms__each_varies_what_it_names(term):
    """One rank, two microbatches: who shares a factor with whom, seen in the busy time of 4,000 draws."""
    model = {"family": "explicit", "per": "stage", "p2p_bytes": 0.0, "forward": 1.0, "backward_input": 1.0, "backward_weight": 1.0}
    latency = {term: {"law": "lognormal", "cv": 0.1}}
    case = prepare(scenario(pp=1, microbatches=2, model=model, latency=latency, draws=4000))
    ticks, _ = run_ticks(case)
    spread = ticks[0].std() / ticks[0].mean()
    # F 1 and B 2 twice: each on its own; all together; the two of a microbatch together; none
    expected = {"op": (2 * (1 + 4)) ** 0.5 / 6, "rank": 1.0, "microbatch": (2 * 9) ** 0.5 / 6, "link": 0.0, "host": 0.0}[term] * 0.1
    assert spread == pytest.approx(expected, rel=0.06)  # 5 standard errors of a deviation over 4,000 draws


@pytest.mark.parametrize("schedule", ["1f1b", "zb_h1"])
@pytest.mark.parametrize("split", [(1, 2, 3), (7, 14, 21, 300), (64, 128, 192, 256, 320), (255, 257), (399,)])
def test_kernel__any_subset_of_draws_is_the_same_bits(schedule, split):
    case = noisy(schedule__name=schedule, draws=400, microbatches=5)
    whole, moments = run_ticks(case)
    parts, part_moments = run_ticks(case, split=split)
    assert (whole == parts).all()
    assert (moments == part_moments).all()
    alone, _ = run_ticks(case, first=321, n=1)
    assert (alone[:, 0] == whole[:, 321]).all()


def outcome(cases, **executor):
    found = sorted(evaluate(cases, Executor(**executor)), key=lambda o: o.cells)
    return [(o.cells, {**o.per_draw, **o.per_rank}) for o in found]


def same(a, b):
    return all(
        x[0] == y[0] and x[1].keys() == y[1].keys() and all((x[1][k] == y[1][k]).all() for k in x[1]) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("tile", [1, 7, 64, 4096])
def test_evaluate__same_bits_for_any_threads_and_tile(threads, tile):
    sizes = (70, 333) if tile < 4096 else (70, 5000)  # more draws than a tile, and fewer
    cases = [noisy(schedule__name=s, draws=n, seed=seed, microbatches=3) for s in ("1f1b", "zb_h2") for n in sizes for seed in (0, 5)]
    assert same(outcome(cases, threads=threads, tile=tile), outcome(cases, threads=1, tile=1000))


def test_evaluate__same_bits_for_any_batch(monkeypatch):
    cases = [noisy(draws=20, seed=seed) for seed in range(13)]
    (whole,) = outcome(cases)
    monkeypatch.setattr("hops.executor.BATCH_DRAWS", 100)
    parts = outcome(cases)
    assert [cells for cells, _ in parts] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12]]
    for cells, values in parts:
        assert all((values[name] == whole[1][name][cells]).all() for name in values)


def test_evaluate__every_cell_has_its_own_law():
    levels = (0.05, 0.3, 0.1)
    cases = [prepare(scenario(latency__op={"law": "lognormal", "cv": cv}, draws=200, pp=1)) for cv in levels]
    ((_, together),) = outcome(cases)
    for i, case in enumerate(cases):
        ((_, alone),) = outcome([case])
        assert (together["makespan"][i] == alone["makespan"][0]).all()
    assert together["makespan"].std(axis=1).argsort().tolist() == [0, 2, 1]


def test_evaluate__cells_do_not_see_each_other():
    cases = [noisy(seed=seed, model__forward=1.0 + seed) for seed in range(5)] + [prepare(scenario())]
    together = outcome(cases)
    alone = outcome(cases[3:4])
    position = together[0][0].index(3)
    assert (together[0][1]["makespan"][position] == alone[0][1]["makespan"][0]).all()


def makespan(**changes):
    ticks, _ = run_ticks(prepare(scenario(**changes)))
    return int(ticks[0, 0])


@given(sizes, unchunked, st.integers(2, 9))
def test_law__scaling_all_times_scales_the_makespan(size, schedule, factor):
    def at(scale):
        model = {"family": "explicit", "per": "stage", "p2p_bytes": 0.0}
        model |= {"forward": 1e-6 * scale, "backward_input": 2e-6 * scale, "backward_weight": 1e-6 * scale}
        latency = {"name": "uniform", "latency": 0.5e-6 * scale, "bandwidth": math.inf}
        return makespan(schedule__name=schedule, pp=size[0], microbatches=size[1], model=model, topology=latency)

    assert at(factor) == factor * at(1)


@given(sizes, unchunked, st.data())
def test_law__lengthening_an_op_never_shortens_the_makespan(size, schedule, data):
    pp, m = size
    forward = data.draw(times(pp))
    longer = list(forward)
    longer[data.draw(st.integers(0, pp - 1))] *= 1.5

    def at(values):
        model = {"family": "explicit", "per": "stage", "p2p_bytes": 0.0, "forward": values, "backward_input": 0.3, "backward_weight": 0.2}
        return makespan(schedule__name=schedule, pp=pp, microbatches=m, model=model)

    assert at(longer) >= at(forward)


@settings(max_examples=60)
@given(cells())
def test_law__no_rank_is_busy_longer_than_the_makespan(made):
    case = prepare(Scenario.from_config(made))
    ticks, _ = run_ticks(case)
    makespan, span, total, most, step, own_step, _ = ticks
    assert (step == makespan).all()
    assert (own_step == span).all()
    assert (most <= span).all()
    assert (span <= makespan).all()
    assert (total <= case.scenario.pp * makespan).all()


def test_law__mean_makespan_is_at_least_the_makespan_of_means():
    """Jensen; 400 draws at cv 0.3 lie far above, so the seed does not matter."""
    ticks, _ = run_ticks(noisy(draws=400))
    calm, _ = run_ticks(prepare(scenario(topology__latency=0.01)))
    assert ticks[0].mean() > calm[0, 0]


@settings(max_examples=60)
@given(cells(FLUSHED))
def test_law__the_reversed_graph_has_the_same_makespan(made):
    """Longest path forwards and backwards: the latest start of every op, counted from the end, gives the same length."""
    case = prepare(Scenario.from_config(made))
    graph, work, lag = case.structure.graph, case.weights.work[0], case.weights.lag[0]
    tail = [0] * graph.rank.size
    longest = 0
    for node in reversed(range(graph.rank.size)):
        duration = int(work[graph.work[node]] + 0.5)
        if graph.rank[node] >= 0:
            longest = max(longest, tail[node] + duration)
        for edge in range(graph.indptr[node], graph.indptr[node + 1]):
            through = tail[node] + duration + int(lag[graph.lag[edge]])
            if graph.rank[node] >= 0 or tail[node] > 0:
                tail[graph.pred[edge]] = max(tail[graph.pred[edge]], through)
    calm, _ = run_ticks(case._replace(tables=(None,) * 5), n=1)
    assert calm[0, 0] == longest


@settings(max_examples=60)
@given(cells())
def test_law__channel_with_infinite_bandwidth_is_latency(made):
    made = {**made, "topology": {**made["topology"], "bandwidth": math.inf}}
    a, a_moments = run_ticks(prepare(Scenario.from_config({**made, "p2p": "latency", "recv": "early"})))
    b, b_moments = run_ticks(prepare(Scenario.from_config({**made, "p2p": "channel", "recv": "early"})))
    assert (a == b).all()
    assert (a_moments == b_moments).all()


def test_blocking__the_sender_pays_and_says_so():
    """Two ranks, one microbatch: nothing overlaps, so blocking costs nothing; with two, rank 0 waits before its second forward."""

    def at(p2p, m):
        case = prepare(scenario(schedule__name="gpipe", pp=2, microbatches=m, topology__latency=0.25, p2p=p2p))
        ticks, moments = run_ticks(case)
        exposed = [(a << 42) + (b << 21) + c for a, b, c in moments[1, :, :3]]
        return int(ticks[0, 0]), int(ticks[2, 0]), exposed

    assert at("blocking", 1) == at("channel", 1)
    free, blocking = at("channel", 2), at("blocking", 2)
    assert free[1] == blocking[1]  # busy time does not count the wait
    assert blocking[0] > free[0]
    assert blocking[2][0] >= free[2][0] + 250_000_000


def test_rendezvous__the_receiver_pays_for_every_message():
    """GPipe on two ranks, two microbatches: rank 1 asks for F1 only after F0, rank 0 for B1 only after B0: four hops instead of two."""

    def makespan(p2p, hop):
        case = prepare(scenario(schedule__name="gpipe", pp=2, microbatches=2, topology__latency=hop, p2p=p2p))
        return int(run_ticks(case)[0][0, 0])

    compute = makespan("channel", 0.0)
    assert makespan("rendezvous", 0.0) == compute
    assert makespan("channel", 0.25) == compute + 2 * 250_000_000
    assert makespan("rendezvous", 0.25) == compute + 4 * 250_000_000


def test_law__common_weather_for_split_and_full_backward():
    """I, W and B of a microbatch share one factor, so without waiting 1F1B and zero-bubble are busy equally long."""
    full, _ = run_ticks(noisy(pp=1, schedule__name="1f1b", draws=50))
    split, _ = run_ticks(noisy(pp=1, schedule__name="zb_h1", draws=50))
    assert np.abs(full[2] - split[2]).max() <= 8  # B rounds once where I and W round twice, 8 microbatches


@given(st.lists(st.integers(0, 2**62 - 1), min_size=2, max_size=40))
def test_moments__are_exact(values):
    sums = np.zeros((1, 3, 1, kernels.N_LIMBS), np.int64)
    for row in range(3):
        kernels.add_moments(np.array(values, np.int64), len(values), sums[0, row, 0])
    found = rank_metrics(sums.astype(object), len(values), np.ones(1, np.int64))
    n, total, squares = len(values), sum(values), sum(v * v for v in values)
    assert found["busy_time"][0, 0] == total / n / 1e9
    assert found["busy_time_std"][0, 0] == math.sqrt((n * squares - total * total) / (n * (n - 1))) / 1e9


def test_arithmetic__compiled_equals_python():
    """No fused multiply-add, no reassociation: the products and sums that round are those of IEEE double, in the order written."""
    from hops.jit import kernel

    @kernel
    def duration(base, x, y):
        return np.int64(base * x * y + 0.5)

    @kernel
    def line(intercept, slope, w):
        return intercept + slope * w

    rng = np.random.Generator(np.random.PCG64(7))
    for base, x, y in rng.uniform(0.5, 2, (2000, 3)):
        assert duration(base * 1e9, x, y) == int(base * 1e9 * x * y + 0.5)
        assert line(base, x, y * 1e9) == base + x * (y * 1e9)


def test_team__after_an_error_nothing_new_begins():
    begun = []

    def task(i):
        begun.append(i)
        if i == 0:
            raise ZeroDivisionError
        time.sleep(0.01)

    with Team(2) as team, pytest.raises(ZeroDivisionError):
        team.run(task, [(i,) for i in range(1000)])
    assert len(begun) < 900

    def interrupted(main):
        time.sleep(0.01)
        raise KeyboardInterrupt if get_ident() == main else RuntimeError("a compilation cut short")

    with Team(2) as team, pytest.raises(KeyboardInterrupt):
        team.run(interrupted, [(get_ident(),)] * 2)
    done = []
    with Team(3) as team:
        team.run(done.append, [(i,) for i in range(1000)])
    assert sorted(done) == list(range(1000))
