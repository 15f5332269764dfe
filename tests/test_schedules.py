"""The standing test of the door of schedules: every record is held to what it claims, over odd and degenerate sizes."""

import re
from pathlib import Path

import numpy as np
import pytest
import twin
from conftest import ORDERS, run_ticks, scenario
from hypothesis import given, settings
from hypothesis import strategies as st

import hops
from hops.checks import Infeasible
from hops.lowering import P2P
from hops.programs import KINDS, Fused, Op, Program, members
from hops.schedules import SCHEDULES, Constraint, Schedule, Times
from hops.simulation import prepare

SIZES = [
    (1, 1),
    (1, 5),
    (2, 1),
    (2, 2),
    (2, 3),
    (2, 7),
    (3, 2),
    (3, 9),
    (4, 1),
    (4, 3),
    (4, 8),
    (4, 9),
    (5, 23),
    (8, 3),
    (8, 16),
    (8, 32),
    (7, 20),
]
TIMES = Times(f=1000, i=990, w=700, hop=1)
UNIT = Times(f=1, i=1, w=1, hop=0)
GOLDEN = Path(__file__).parent / "golden"
CHUNKS = (2, 3)  # for schedules that have them


def variants():
    """(name, vpp, pp, m) of every schedule at every size, and whether its record accepts them."""
    for name in ORDERS:
        record = SCHEDULES[name]
        for vpp in (record.default_vpp,) if record.fixed_vpp else CHUNKS if record.default_vpp else (None,):
            for pp, m in SIZES:
                sizes = record.sizes(pp, m, vpp)
                yield (name, vpp, pp, m), all(constraint.holds(*sizes) for constraint in record.constraints)


ACCEPTED = [variant for variant, accepted in variants() if accepted]
# sizes at which every law of messages meets the twin: one rank, one microbatch, fewer than ranks, steady phases even and odd
FEW = {(1, 1), (2, 1), (2, 2), (2, 3), (2, 7), (3, 9), (4, 3), (4, 8), (8, 3)}
REFUSED = [variant for variant, accepted in variants() if not accepted]
every_schedule = pytest.mark.parametrize("name", ORDERS)
every_variant = pytest.mark.parametrize(("name", "vpp", "pp", "m"), ACCEPTED)


def uniform(name, pp, m, vpp, times=TIMES, **changes):
    """A case with uniform stage times, in ticks."""
    model = {"family": "explicit", "per": "stage", "p2p_bytes": 0.0}
    model |= {"forward": times.f * 1e-9, "backward_input": times.i * 1e-9, "backward_weight": times.w * 1e-9}
    topology = {"name": "uniform", "latency": times.hop * 1e-9, "bandwidth": float("inf")}
    given = {"schedule": {"name": name}, "pp": pp, "microbatches": m, "vpp": vpp, "model": model, "topology": topology}
    return prepare(scenario(**given | changes))


def bubbles(name, pp, m, vpp=None, times=UNIT):
    """Makespan and span less the time that a rank computes."""
    case = uniform(name, pp, m, vpp, times)
    ticks, _ = run_ticks(case)
    busy = m * case.program.n_stages // pp * (times.f + times.b)
    return ticks[0, 0] - busy, ticks[1, 0] - busy


@every_variant
def test_program__is_complete_and_runs(name, vpp, pp, m):
    program = hops.program(name, pp=pp, microbatches=m, vpp=vpp)
    ops = [op for rank in program.ops for op in rank]
    assert len(ops) == len(set(ops)) == program.n_ops
    for stage in range(program.n_stages):
        for k in range(program.microbatches):
            kinds = {kind for kind in KINDS if Op(stage, kind, k) in set(ops)}
            assert kinds in ({"F", "B"}, {"F", "I", "W"})
    assert program.microbatches == SCHEDULES[name].units(pp, m, {})
    assert program.pp == pp
    assert program.n_stages == pp * (vpp or 1)
    order = [op for _, unit in program.order for op in members(unit)]
    assert sorted(order) == sorted(ops)


@every_variant
def test_program__round_trips_as_text_and_csv(name, vpp, pp, m, tmp_path):
    program = hops.program(name, pp=pp, microbatches=m, vpp=vpp)
    assert Program.parse(str(program), name, program.placement) == program
    program.to_csv(tmp_path / "order.csv")
    assert Program.from_csv(tmp_path / "order.csv", name, program.placement) == program


@every_variant
def test_claims__hold_exactly(name, vpp, pp, m):
    record, program = SCHEDULES[name], hops.program(name, pp=pp, microbatches=m, vpp=vpp)
    sizes = record.sizes(pp, m, vpp)
    if record.in_flight is not None:
        assert program.in_flight == tuple(record.in_flight(*sizes, rank) for rank in range(pp))
    if record.messages is not None:
        graph = uniform(name, pp, m, vpp, p2p="channel").structure.graph
        assert np.count_nonzero(graph.rank < 0) == record.messages(*sizes)
    if record.exact_when(*sizes):
        ticks, _ = run_ticks(uniform(name, pp, m, vpp))
        if record.makespan is not None:
            assert ticks[0, 0] == record.makespan(*sizes, TIMES)
        if record.span is not None:
            assert ticks[1, 0] == record.span(*sizes, TIMES)
        if record.period is not None:
            assert ticks[1, 0] == record.steady(*sizes).batches * record.period(*sizes, TIMES)
    if record.unit_bubble is not None and record.unit_when(*sizes):
        assert bubbles(name, pp, m, vpp)[1] == record.unit_bubble(*sizes)


@every_schedule
def test_file__runs_the_order_of_every_schedule(name, tmp_path):
    """As `Program.to_csv` writes it: the same placement is found, and the same times come out."""
    record, path = SCHEDULES[name], str(tmp_path / "order.csv")
    case = uniform(name, 4, 8, record.default_vpp, p2p="channel")
    program = case.program
    program.to_csv(path)
    units = SCHEDULES[name].units(4, 8, {})
    again = hops.program("file", pp=4, microbatches=units, path=path)
    assert (again.ranks, again.stage_ranks, again.placement) == (program.ranks, program.stage_ranks, program.placement)
    if units != 8:  # the file does not say that a microbatch is a part of one, or which are measured
        return
    ticks, _ = run_ticks(case)
    read, _ = run_ticks(uniform("file", 4, 8, None, p2p="channel", schedule={"name": "file", "path": path}))
    assert read.tolist() == ticks.tolist()


def test_file__is_read_again_when_it_has_changed(tmp_path):
    path = tmp_path / "order.csv"
    scenario = ("schedule=file", f"schedule.path={path}", "pp=1", "microbatches=2", "model=explicit", "latency=none")
    path.write_text("0F0,0F1,0B0,0B1\n")
    first = hops.simulate(*scenario)
    path.write_text("0F0,0B0,0F1,0B1\n")
    second = hops.simulate(*scenario)
    assert [int(each.peak_in_flight.max()) for each in (first, second)] == [2, 1]
    assert first.attrs["orders"].startswith(f"{path}: blake2b ")
    assert first.attrs["orders"] != second.attrs["orders"]


def test_file__a_sentence_names_it(tmp_path):
    path = tmp_path / "dead.csv"
    path.write_text("0B0,0F0\n")
    with pytest.raises(ValueError, match=r"dead.csv' deadlocks"):
        hops.program("file", pp=1, microbatches=1, path=str(path))


@every_schedule
@settings(max_examples=30)
@given(st.data())
def test_any_size__is_written_or_refused(name, data):
    """What a constraint lets pass is complete and ends; what it does not is refused before anything is written."""
    record = SCHEDULES[name]
    pp, m, vpp = (data.draw(st.integers(1, most)) for most in (9, 25, 5))
    vpp = None if record.default_vpp is None else record.default_vpp if record.fixed_vpp else vpp
    try:
        program = hops.program(name, pp=pp, microbatches=m, vpp=vpp)
    except Infeasible:
        assert vpp == 1 or not all(constraint.holds(*record.sizes(pp, m, vpp)) for constraint in record.constraints)
        return
    units = record.units(pp, m, {})
    assert (program.pp, program.microbatches, program.n_stages) == (pp, units, pp * (vpp or 1))
    assert program.n_ops == program.n_stages * units * 2 + sum(op.kind == "W" for ops in program.ops for op in ops)
    if record.in_flight is not None:
        assert program.in_flight == tuple(record.in_flight(*record.sizes(pp, m, vpp), rank) for rank in range(pp))
    if record.messages is not None:
        homes, last = program.stage_ranks, program.n_stages - 1
        ahead = sum(op.kind in "FBI" and op.stage < last and homes[op.stage] != homes[op.stage + 1] for ops in program.ops for op in ops)
        assert ahead == record.messages(*record.sizes(pp, m, vpp))


@every_schedule
def test_claims__are_exact_at_three_sizes_of_the_grid_or_more(name):
    record = SCHEDULES[name]
    assert record.source
    assert record.messages
    claims = ((record.makespan or record.span or record.period, record.exact_when), (record.unit_bubble, record.unit_when))
    sizes = [record.sizes(pp, m, vpp) for other, vpp, pp, m in ACCEPTED if other == name]
    exact = [sum(map(when, *zip(*sizes, strict=True))) for claim, when in claims if claim is not None]
    assert exact
    assert min(exact) >= 3


@pytest.mark.parametrize(("name", "vpp", "pp", "m"), REFUSED)
def test_refusal__names_the_reason_and_sizes_that_work(name, vpp, pp, m):
    with pytest.raises(Infeasible) as refused:
        hops.program(name, pp=pp, microbatches=m, vpp=vpp)
    assert re.match(rf"{name} needs .+; got (pp={pp} and microbatches={m}|vpp={vpp}) ", str(refused.value))
    key, sizes = re.search(r"\(try (microbatches|vpp|pp)=(.*)\)", str(refused.value)).groups()
    for size in sizes.split(" or "):
        advised = {"pp": pp, "microbatches": m, "vpp": vpp, key: int(size)}
        try:
            assert hops.program(name, **advised).n_ops
        except Infeasible as other:  # with other ranks, microbatches that are no obstacle at these may be one
            if key != "pp" or "(try microbatches=" not in str(other):
                raise


@pytest.mark.parametrize(
    ("p2p", "recv", "name", "vpp", "pp", "m"),
    [
        (p2p, recv, *variant)
        for p2p, recv in (*((p2p, "early") for p2p in P2P), ("torch", "defer"))
        for variant in ACCEPTED
        if (variant[2] * variant[3] <= 140 if p2p in ("latency", "channel") else variant[2:] in FEW)  # larger: steady phases again
    ],
)
def test_kernel__equals_the_twin(name, vpp, pp, m, p2p, recv):
    try:
        case = uniform(name, pp, m, vpp, p2p=p2p, recv=recv)
    except Infeasible:
        assert p2p == "megatron"
        assert name in ("zb_1p", "zb_2p", "zb_auto")
        return
    program = case.program
    n = SCHEDULES[name].parts() if SCHEDULES[name].parts else 1
    seconds = {(s, "F"): TIMES.f * 1e-9 / n for s in range(program.n_stages)}
    for s in range(program.n_stages):
        i, w = TIMES.i * 1e-9 / n, TIMES.w * 1e-9 / n
        seconds |= {(s, "I"): i, (s, "W"): w, (s, "B"): i + w}
    fused = {unit for rank in program.ranks for unit in rank if isinstance(unit, Fused)}
    seconds |= {(unit, kind): seconds[0, kind] for unit in fused for kind in "FB"}
    pairs, steady = [(a, b) for a in range(pp) for b in range(pp)], (m, 1) if SCHEDULES[name].steady else None
    when, busy, exposed = twin.simulate(
        program, seconds, dict.fromkeys(pairs, TIMES.hop * 1e-9), dict.fromkeys(pairs, 0.0), p2p=p2p, recv=recv, n_parts=n, steady=steady
    )
    ticks, moments = run_ticks(case)
    assert tuple(ticks[:4, 0]) == twin.metrics(program, when, busy)
    total = (moments[:, :, 0] << 42) + (moments[:, :, 1] << 21) + moments[:, :, 2]
    assert list(total[0]) == busy
    assert list(total[1]) == exposed


def test_golden__every_schedule_has_one():
    assert {path.name for path in GOLDEN.iterdir()} == {f"{name}_p4_m8.txt" for name in ORDERS}


@every_schedule
def test_golden__is_what_the_paper_draws(name):
    assert str(hops.program(name, pp=4, microbatches=8)) + "\n" == (GOLDEN / f"{name}_p4_m8.txt").read_text()


def test_names__unknown_gets_the_nearest():
    with pytest.raises(ValueError, match=r"no schedule named '1f1b1'; did you mean '1f1b'\? \(known: 1F1B, "):
        hops.program("1f1b1", pp=2, microbatches=2)


@pytest.mark.parametrize(
    ("torch", "ours"),
    [
        ("1F1B", "1f1b"),
        ("GPipe", "gpipe"),
        ("Interleaved1F1B", "interleaved"),
        ("LoopedBFS", "looped_bfs"),
        ("InterleavedZeroBubble", "interleaved_zb"),
        ("ZBVZeroBubble", "zb_v"),
    ],
)
def test_names__torch_class_strings_are_aliases(torch, ours):
    assert SCHEDULES.canonical(torch) == ours


def test_chunks__default_refusals_and_free_choice():
    assert hops.program("interleaved", pp=2, microbatches=4).n_stages == 4
    assert hops.program("interleaved", pp=2, microbatches=4, vpp=5).n_stages == 10
    with pytest.raises(Infeasible, match=r"interleaved has at least 2 chunks a rank; got vpp=1 \(try vpp=2\)"):
        hops.program("interleaved", pp=2, microbatches=4, vpp=1)


def test_interleaved__refuses_short_groups_with_the_nearest_sizes():
    with pytest.raises(
        Infeasible,
        match=r"interleaved needs microbatches divisible by group_size .* got pp=4 and microbatches=9 \(try microbatches=8 or 12\)",
    ):
        hops.program("interleaved", pp=4, microbatches=9)
    with pytest.raises(Infeasible, match=r"\(try microbatches=4\)"):
        hops.program("interleaved", pp=4, microbatches=3)
    assert hops.program("interleaved", pp=4, microbatches=9, group_size=9).microbatches == 9
    assert hops.program("interleaved", pp=4, microbatches=14, group_size=5).microbatches == 14
    with pytest.raises(Infeasible, match="got pp=4 and microbatches=9 with group_size=3"):
        hops.program("interleaved", pp=4, microbatches=9, group_size=3)


@pytest.mark.parametrize("name", ["interleaved", "interleaved_overlap"])
@pytest.mark.parametrize("broken", [0, 2.5, "x", True])
def test_group_size__is_a_whole_number(name, broken):
    with pytest.raises(ValueError, match="schedule.group_size must be a whole number of at least 1; got"):
        hops.program(name, pp=2, microbatches=8, group_size=broken)
    assert hops.program(name, pp=2, microbatches=8, group_size=4.0) == hops.program(name, pp=2, microbatches=8, group_size=4)


def test_interleaved__groups_as_torch_makes_them():
    def firsts(pp, m):
        return [str(op) for op in hops.program("interleaved", pp=pp, microbatches=m, grouping="torch").ranks[0] if op.kind == "F"]

    assert firsts(4, 10)[:10] == ["0F0", "0F1", "0F2", "0F3", "0F4", "4F0", "4F1", "4F2", "4F3", "4F4"]
    assert firsts(4, 3) == ["0F0", "0F1", "0F2", "4F0", "4F1", "4F2"]
    assert hops.program("interleaved", pp=4, microbatches=12, grouping="torch") == hops.program("interleaved", pp=4, microbatches=12)
    with pytest.raises(Infeasible, match=r"interleaved needs groups of equal size.* and microbatches=9 with grouping=torch \(try"):
        hops.program("interleaved", pp=4, microbatches=9, grouping="torch")
    with pytest.raises(ValueError, match="group_size=5 says what grouping=torch decides itself"):
        hops.program("interleaved", pp=4, microbatches=10, grouping="torch", group_size=5)
    with pytest.raises(ValueError, match="no schedule.grouping named 'sail'"):
        hops.program("interleaved", pp=4, microbatches=8, grouping="sail")


@pytest.mark.parametrize(("pp", "m"), [(1, 1), (2, 3), (4, 3), (4, 10), (8, 16), (7, 21)])
def test_interleaved_zb__of_one_chunk_is_zb_h1(pp, m):
    assert SCHEDULES["interleaved_zb"].build(pp, m, 1).ranks == hops.program("zb_h1", pp=pp, microbatches=m).ranks


def test_hanayo__bubbles_of_a_greedy_list():
    def bubble(pp, waves):
        idle, _ = bubbles("hanayo", pp, pp, 2 * waves)
        return round(float(idle / (idle + 6 * pp * waves)), 3)

    assert [bubble(4, waves) for waves in (1, 2, 4)] == [0.333, 0.213, 0.119]  # the paper's formula: 0.400, 0.222, 0.118
    with pytest.raises(Infeasible, match=r"hanayo needs an even vpp, two chunks a wave; got vpp=5 \(try vpp=4 or 6\)"):
        hops.program("hanayo", pp=4, microbatches=8, vpp=5)


def test_looped_bfs__backward_order_changes_the_order():
    lifo, fifo = (hops.program("looped_bfs", pp=2, microbatches=3, backward_order=order) for order in ("lifo", "fifo"))
    assert str(lifo).splitlines()[0].endswith("2B2 2B1 2B0 0B2 0B1 0B0")
    assert str(fifo).splitlines()[0].endswith("2B0 2B1 2B2 0B0 0B1 0B2")
    assert hops.program("looped_bfs", pp=2, microbatches=3) == lifo


def test_gpipe__backward_order_changes_the_order():
    lifo, fifo = (hops.program("gpipe", pp=2, microbatches=3, backward_order=order) for order in ("lifo", "fifo"))
    assert str(lifo) == "rank 0: 0F0 0F1 0F2 0B2 0B1 0B0\nrank 1: 1F0 1F1 1F2 1B2 1B1 1B0"
    assert str(fifo) == "rank 0: 0F0 0F1 0F2 0B0 0B1 0B2\nrank 1: 1F0 1F1 1F2 1B0 1B1 1B2"
    assert hops.program("gpipe", pp=2, microbatches=3) == fifo


@pytest.mark.parametrize(("name", "vpp"), [("gpipe", None), ("looped_bfs", 2)])
def test_backward_order__does_not_change_the_makespan(name, vpp):
    ends = [run_ticks(uniform(name, 4, 9, vpp, schedule__backward_order=order))[0][0, 0] for order in ("lifo", "fifo")]
    assert ends[0] == ends[1]
    with pytest.raises(ValueError, match=r"no schedule.backward_order named 'reverse' \(known: fifo, lifo\)"):
        hops.program(name, pp=2, microbatches=3, vpp=vpp, backward_order="reverse")


def test_names__zb_is_short_for_zb_h1():
    assert hops.program("zb", pp=3, microbatches=5) == hops.program("zb_h1", pp=3, microbatches=5)
    assert SCHEDULES.canonical("zb") == "zb_h1"


@pytest.mark.parametrize(("key", "value"), [("pp", 0), ("pp", -1), ("microbatches", 0), ("microbatches", 2.5), ("pp", True), ("pp", "4")])
def test_counts__below_one_or_broken_are_refused(key, value):
    with pytest.raises(ValueError, match=f"{key} must be a whole number of at least 1; got"):
        hops.program("1f1b", **{"pp": 2, "microbatches": 2, key: value})


def test_parameters__unknown_are_refused():
    with pytest.raises(ValueError, match="1f1b has no parameter 'group_size'"):
        hops.program("1f1b", pp=2, microbatches=2, group_size=2)
    with pytest.raises(Infeasible, match="1f1b has one chunk a rank; got vpp=2"):
        hops.program("1f1b", pp=2, microbatches=2, vpp=2)


def test_constraint__names_the_reason_and_the_nearest_sizes():
    even = Schedule(
        name="even",
        build=lambda pp, microbatches: None,
        source="this test",
        constraints=(Constraint(lambda p, m: m % p == 0, "microbatches divisible by pp"),),
    )
    even.check(4, 8, None, {})
    with pytest.raises(
        Infeasible, match=r"even needs microbatches divisible by pp; got pp=4 and microbatches=9 \(try microbatches=8 or 12\)"
    ):
        even.check(4, 9, None, {})


def test_times__full_backward_is_both_halves():
    assert TIMES.b == TIMES.i + TIMES.w


@pytest.mark.parametrize(("pp", "m", "splits"), [(1, 3, 4), (2, 3, 4), (3, 7, 2), (4, 8, 1), (4, 9, 3), (5, 2, 4), (8, 1, 4), (8, 16, 5)])
def test_seq1f1b__any_number_of_parts(pp, m, splits):
    times, record = Times(f=1200, i=600, w=900, hop=1), SCHEDULES["seq1f1b"]
    case = uniform("seq1f1b", pp, m, None, times, schedule={"name": "seq1f1b", "splits": splits})
    ticks, _ = run_ticks(case)
    assert ticks[0, 0] == record.makespan(pp, m, times, splits)
    assert case.structure.in_flight == tuple(min(pp - 1 - rank + splits, m * splits) / splits for rank in range(pp))


def test_seq1f1b__messages_are_of_a_part():
    link = {"p2p": "channel", "topology__bandwidth": 1e9, "model__p2p_bytes": 8.0}
    whole, part = (prepare(scenario(schedule={"name": "seq1f1b", "splits": q}, **link)).weights.work[0, 16:24] for q in (1, 4))
    assert (whole.max(), part.max()) == (8, 2)


def test_seq1f1b__of_one_part_is_1f1b():
    assert hops.program("seq1f1b", pp=4, microbatches=9, splits=1).ranks == hops.program("1f1b", pp=4, microbatches=9).ranks
    for splits in (None, 0, 1.5):
        with pytest.raises(ValueError, match=f"schedule.splits must be a whole number of at least 1; got {splits}"):
            hops.program("seq1f1b", pp=4, microbatches=8, splits=splits)


def test_pipedream__goes_at_the_pace_of_its_slowest_rank():
    """Without hops: of unequal stages nothing but the slowest counts, wherever it stands, and batches do not."""
    for slow in range(4):
        model = {"family": "explicit", "per": "stage", "p2p_bytes": 0.0, "backward_input": 1e-6, "backward_weight": 1e-6}
        model["forward"] = [(5 + 2 * (rank == slow)) * 1e-6 for rank in range(4)]
        for m, batches in ((1, 7), (3, 4), (8, 1), (8, 4)):
            case = prepare(scenario(schedule={"name": "pipedream", "batches": batches}, model=model, pp=4, microbatches=m))
            ticks, _ = run_ticks(case)
            assert (ticks[[0, 1, 3, 5], 0] == batches * m * 9000).all()
            assert ticks[2, 0] == batches * m * (9000 + 3 * 7000)


def test_pipedream__2bw_is_the_same_order():
    one, other = (hops.program(name, pp=4, microbatches=8, batches=2) for name in ("pipedream", "pipedream_2bw"))
    assert one.ranks == other.ranks == hops.program("1f1b", pp=4, microbatches=3 * 8 + 3).ranks
    with pytest.raises(ValueError, match="schedule.batches must be a whole number of at least 1; got None"):
        hops.program("pipedream", pp=4, microbatches=8, batches=None)


@pytest.mark.parametrize("name", ["pipedream", "pipedream_2bw"])
def test_pipedream__refuses_replicas(name):
    with pytest.raises(Infeasible, match=f"{name} updates weights .* needs dp=1, cp=1 and ep=1; got dp=2, cp=1 and ep=1"):
        prepare(scenario(schedule__name=name, dp=2))
