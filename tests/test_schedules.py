"""The standing test of the door of schedules: every record is held to what it claims, over odd and degenerate sizes."""

import re
from pathlib import Path

import numpy as np
import pytest
import twin
from conftest import run_ticks, scenario

import hops
from hops.checks import Infeasible
from hops.programs import KINDS, Op, Program
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
GOLDEN = Path(__file__).parent / "golden"
CHUNKS = (2, 3)  # for schedules that have them


def variants():
    """(name, vpp, pp, m) of every schedule at every size, and whether its record accepts them."""
    for name, record in SCHEDULES.items():
        for vpp in (record.default_vpp,) if record.fixed_vpp else CHUNKS if record.default_vpp else (None,):
            for pp, m in SIZES:
                sizes = record.sizes(pp, m, vpp)
                yield (name, vpp, pp, m), all(constraint.holds(*sizes) for constraint in record.constraints)


ACCEPTED = [variant for variant, accepted in variants() if accepted]
REFUSED = [variant for variant, accepted in variants() if not accepted]
every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_variant = pytest.mark.parametrize(("name", "vpp", "pp", "m"), ACCEPTED)


def uniform(name, pp, m, vpp, times=TIMES, **changes):
    """A case with uniform stage times, in ticks."""
    model = {"family": "explicit", "per": "stage", "p2p_bytes": 0.0}
    model |= {"forward": times.f * 1e-9, "backward_input": times.i * 1e-9, "backward_weight": times.w * 1e-9}
    topology = {"name": "uniform", "latency": times.hop * 1e-9, "bandwidth": float("inf")}
    return prepare(scenario(schedule__name=name, pp=pp, microbatches=m, vpp=vpp, model=model, topology=topology, **changes))


@every_variant
def test_program__is_complete_and_runs(name, vpp, pp, m):
    program = hops.program(name, pp=pp, microbatches=m, vpp=vpp)
    ops = [op for rank in program.ranks for op in rank]
    assert len(ops) == len(set(ops)) == program.n_ops
    for stage in range(program.n_stages):
        for k in range(m):
            kinds = {kind for kind in KINDS if Op(stage, kind, k) in set(ops)}
            assert kinds in ({"F", "B"}, {"F", "I", "W"})
    assert program.microbatches == m
    assert program.pp == pp
    assert program.n_stages == pp * (vpp or 1)
    order = [op for _, op in program.order]
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
        if record.unit_bubble is not None:
            case = uniform(name, pp, m, vpp, Times(1000, 1000, 1000, 0))
            assert run_ticks(case)[0][1, 0] == 1000 * (3 * m * (vpp or 1) + record.unit_bubble(*sizes))


@every_schedule
def test_claims__are_exact_at_three_sizes_of_the_grid_or_more(name):
    record = SCHEDULES[name]
    assert record.source
    assert record.makespan or record.span or record.unit_bubble
    exact = [variant for variant in ACCEPTED if variant[0] == name and record.exact_when(*record.sizes(*variant[2:], variant[1]))]
    assert len(exact) >= 3


@pytest.mark.parametrize(("name", "vpp", "pp", "m"), REFUSED)
def test_refusal__names_the_reason_and_sizes_that_work(name, vpp, pp, m):
    with pytest.raises(Infeasible) as refused:
        hops.program(name, pp=pp, microbatches=m, vpp=vpp)
    assert re.match(rf"{name} needs .+; got pp={pp} and microbatches={m} ", str(refused.value))
    for size in re.search(r"\(try microbatches=(.*)\)", str(refused.value))[1].split(" or "):
        assert hops.program(name, pp=pp, microbatches=int(size), vpp=vpp).microbatches == int(size)


@every_variant
@pytest.mark.parametrize("p2p", ["latency", "channel", "blocking", "rendezvous"])
def test_kernel__equals_the_twin(name, vpp, pp, m, p2p):
    case = uniform(name, pp, m, vpp, p2p=p2p)
    program = case.program
    seconds = {(s, "F"): TIMES.f * 1e-9 for s in range(program.n_stages)}
    for s in range(program.n_stages):
        i, w = TIMES.i * 1e-9, TIMES.w * 1e-9
        seconds |= {(s, "I"): i, (s, "W"): w, (s, "B"): i + w}
    pairs = [(a, b) for a in range(pp) for b in range(pp)]
    when, busy, exposed = twin.simulate(program, seconds, dict.fromkeys(pairs, TIMES.hop * 1e-9), dict.fromkeys(pairs, 0.0), p2p=p2p)
    ticks, moments = run_ticks(case)
    assert tuple(ticks[:4, 0]) == twin.metrics(program, when, busy)
    total = (moments[:, :, 0] << 42) + (moments[:, :, 1] << 21) + moments[:, :, 2]
    assert list(total[0]) == busy
    assert list(total[1]) == exposed


def test_golden__every_schedule_has_one():
    assert {path.name for path in GOLDEN.iterdir()} == {f"{name}_p4_m8.txt" for name in SCHEDULES}


@every_schedule
def test_golden__is_what_the_paper_draws(name):
    assert str(hops.program(name, pp=4, microbatches=8)) + "\n" == (GOLDEN / f"{name}_p4_m8.txt").read_text()


def test_names__unknown_gets_the_nearest():
    with pytest.raises(ValueError, match=r"no schedule named '1f1b1'; did you mean '1f1b'\? \(known: 1F1B, "):
        hops.program("1f1b1", pp=2, microbatches=2)


@pytest.mark.parametrize(
    ("torch", "ours"), [("1F1B", "1f1b"), ("GPipe", "gpipe"), ("Interleaved1F1B", "interleaved"), ("LoopedBFS", "looped_bfs")]
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
    with pytest.raises(Infeasible, match="got pp=4 and microbatches=9"):
        hops.program("interleaved", pp=4, microbatches=9, group_size=3)


def test_looped_bfs__backward_order_changes_the_order_and_not_the_makespan():
    reverse, forward = (hops.program("looped_bfs", pp=2, microbatches=3, backward_order=order) for order in ("reverse", "forward"))
    assert str(reverse).splitlines()[0].endswith("2B2 2B1 2B0 0B2 0B1 0B0")
    assert str(forward).splitlines()[0].endswith("2B0 2B1 2B2 0B0 0B1 0B2")
    spans = [run_ticks(uniform("looped_bfs", 4, 9, 2, schedule__backward_order=order))[0][0, 0] for order in ("reverse", "forward")]
    assert spans[0] == spans[1]
    with pytest.raises(ValueError, match=r"no schedule.backward_order named 'fifo' \(known: forward, reverse\)"):
        hops.program("looped_bfs", pp=2, microbatches=3, backward_order="fifo")


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
