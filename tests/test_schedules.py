"""The standing test of the door of schedules: every record is held to what it claims, over odd and degenerate sizes."""

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

every_schedule = pytest.mark.parametrize("name", SCHEDULES)
every_size = pytest.mark.parametrize(("pp", "m"), SIZES)


def write(name, pp, m):
    """The program, or a skip where the record refuses the size with a reason."""
    try:
        return hops.program(name, pp=pp, microbatches=m)
    except Infeasible as reason:
        pytest.skip(str(reason))


def uniform(name, pp, m, **changes):
    """A case with uniform stage times `TIMES`, in ticks."""
    model = {"family": "explicit", "per": "stage", "p2p_bytes": 0.0}
    model |= {"forward": TIMES.f * 1e-9, "backward_input": TIMES.i * 1e-9, "backward_weight": TIMES.w * 1e-9}
    topology = {"name": "uniform", "latency": TIMES.hop * 1e-9, "bandwidth": float("inf")}
    return prepare(scenario(schedule__name=name, pp=pp, microbatches=m, model=model, topology=topology, **changes))


@every_schedule
@every_size
def test_program__is_complete_and_runs(name, pp, m):
    program = write(name, pp, m)
    ops = [op for rank in program.ranks for op in rank]
    assert len(ops) == len(set(ops)) == program.n_ops
    for stage in range(program.n_stages):
        for k in range(m):
            kinds = {kind for kind in KINDS if Op(stage, kind, k) in set(ops)}
            assert kinds in ({"F", "B"}, {"F", "I", "W"})
    assert program.microbatches == m
    assert program.pp == pp
    order = [op for _, op in program.order]
    assert sorted(order) == sorted(ops)


@every_schedule
@every_size
def test_program__round_trips_as_text_and_csv(name, pp, m, tmp_path):
    program = write(name, pp, m)
    assert Program.parse(str(program), name, program.placement) == program
    program.to_csv(tmp_path / "order.csv")
    assert Program.from_csv(tmp_path / "order.csv", name, program.placement) == program


@every_schedule
@every_size
def test_claims__hold_exactly(name, pp, m):
    record, program = SCHEDULES[name], write(name, pp, m)
    if record.in_flight is not None:
        assert program.in_flight == tuple(record.in_flight(pp, m, rank) for rank in range(pp))
    if record.messages is not None:
        graph = uniform(name, pp, m, p2p="channel").structure.graph
        assert np.count_nonzero(graph.rank < 0) == record.messages(pp, m)
    if record.exact_when(pp, m):
        ticks, _ = run_ticks(uniform(name, pp, m))
        if record.makespan is not None:
            assert ticks[0, 0] == record.makespan(pp, m, TIMES)
        if record.span is not None:
            assert ticks[1, 0] == record.span(pp, m, TIMES)


@every_schedule
def test_claims__are_exact_somewhere_in_the_grid(name):
    record = SCHEDULES[name]
    assert record.source
    if record.makespan or record.span:
        assert sum(record.exact_when(pp, m) for pp, m in SIZES) >= 3


@every_schedule
@every_size
@pytest.mark.parametrize("p2p", ["latency", "channel"])
def test_kernel__equals_the_twin(name, pp, m, p2p):
    write(name, pp, m)
    case = uniform(name, pp, m, p2p=p2p)
    program = case.program
    seconds = {(s, "F"): TIMES.f * 1e-9 for s in range(program.n_stages)}
    for s in range(program.n_stages):
        i, w = TIMES.i * 1e-9, TIMES.w * 1e-9
        seconds |= {(s, "I"): i, (s, "W"): w, (s, "B"): i + w}
    pairs = [(a, b) for a in range(pp) for b in range(pp)]
    when, busy, exposed = twin.simulate(
        program, seconds, dict.fromkeys(pairs, TIMES.hop * 1e-9), dict.fromkeys(pairs, 0.0), channel=p2p == "channel"
    )
    ticks, moments = run_ticks(case)
    assert tuple(ticks[:, 0]) == twin.metrics(program, when, busy)
    total = (moments[:, :, 0] << 42) + (moments[:, :, 1] << 21) + moments[:, :, 2]
    assert list(total[0]) == busy
    assert list(total[1]) == exposed


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "zb_h1", "zb_h2"])
def test_golden__is_what_the_paper_draws(name):
    assert str(hops.program(name, pp=4, microbatches=8)) + "\n" == (GOLDEN / f"{name}_p4_m8.txt").read_text()


def test_names__unknown_gets_the_nearest():
    with pytest.raises(ValueError, match=r"no schedule named '1f1b1'; did you mean '1f1b'\? \(known: 1f1b, gpipe, zb, zb_h1, zb_h2\)"):
        hops.program("1f1b1", pp=2, microbatches=2)


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
    even.check(4, 8)
    with pytest.raises(
        Infeasible, match=r"even needs microbatches divisible by pp; got pp=4 and microbatches=9 \(try microbatches=8 or 12\)"
    ):
        even.check(4, 9)


def test_times__full_backward_is_both_halves():
    assert TIMES.b == TIMES.i + TIMES.w
