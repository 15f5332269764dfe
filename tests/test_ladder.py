"""What a slow job does about it: the detector and the ski rental by hand, the division by brute force, runs beside the slow twin."""

import json
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_runs import outcomes, same
from test_weather import KINDS, SENDS, SMALL, STOP, check, equal, spells_of

import hops
from hops import course as columns
from hops.ladder import GROUND, Rung, balanced, evicts, rebalances, seen, steps_of
from hops.recovery import RECOVERIES, Ladder
from hops.runs import failures_of
from hops.scripts import script_text

STEPS = steps_of(Ladder(0.1, 3, rebalance=50e-9, evict=200e-9), 100)
LADDER = ("recovery=straggler_ladder", "recovery.rebalance=0.1", "recovery.evict=0.8")
SLOW = {"slow": KINDS["slow"] | {"mean": 25.0, "duration": 6.0}, "rail": KINDS["rail"] | {"mean": 9.0}, "flap": KINDS["flap"]}


def climbed(*ticks, balance=()):
    rung = GROUND._replace(balance=balance)
    for each in ticks:
        rung = seen(rung, each, STEPS)
    return rung


@pytest.mark.parametrize(
    ("ticks", "n_slow", "loss"),
    [
        ((111, 111), 2, 0),
        ((111, 111, 110, 111), 1, 0),  # 10 % more is not slow, and they must follow each other
        ((111, 111, 111), 3, 0),  # what was lost before it is known does not count
        ((111, 111, 111, 120, 90, 105), 3, 25),  # from then on everything does, but nothing is won back
    ],
)
def test_seen(ticks, n_slow, loss):
    assert climbed(*ticks) == Rung(n_slow, loss)


@pytest.mark.parametrize(
    ("ticks", "balance", "steps"),
    [
        ((300, 300), (), (False, False)),
        ((300, 300, 300), (), (False, False)),
        ((300, 300, 300, 149), (), (False, False)),
        ((300, 300, 300, 150), (), (True, False)),
        ((300, 300, 300, 150), (3, 5), (False, False)),  # once
        ((300, 300, 300, 150, 249), (3, 5), (False, False)),
        ((300, 300, 300, 150, 250), (3, 5), (False, True)),
    ],
)
def test_steps__are_taken_when_as_much_is_lost_as_they_cost(ticks, balance, steps):
    rung = climbed(*ticks, balance=balance)
    assert (rebalances(rung, STEPS), evicts(rung, STEPS)) == steps


def test_evict__costs_what_the_way_back_does_where_nothing_else_is_said():
    assert RECOVERIES["straggler_ladder"].make(teardown=1, queue=2, init=3, load=4).ladder.evict == 10
    assert RECOVERIES["straggler_ladder"].make(evict=5).ladder.evict == 5


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(0, 6))
def test_balanced__no_division_is_faster(times, more):
    total = len(times) + more
    found = balanced(times, total)
    ways = (way for way in product(range(1, more + 2), repeat=len(times)) if sum(way) == total)
    assert sum(found) == total
    assert min(found) >= 1
    assert max(m * t for m, t in zip(found, times, strict=True)) == min(max(m * t for m, t in zip(way, times, strict=True)) for way in ways)


def words(tier, law="exponential"):
    kinds = [f"+failure.faults.{name}={json.dumps(SLOW[name] | {'law': law, 'age': 'fresh'}).replace(chr(34), '')}" for name in SLOW]
    return *SMALL, *LADDER, STOP, *kinds, f"run.tier={tier}", "failure.timeout=0.6", "microbatches=8", SENDS


@pytest.mark.parametrize("tier", ["resampled", "exact"])
def test_run__equals_the_twin(tier):
    """Slow GPUs, for longer than their node's eviction costs, links that nobody can replace, stalls, failures."""
    case, _, runs = outcomes(*words(tier), "run.iterations=80", "trials=4")
    check(case, runs, spells_of(case))
    assert runs.results[:, columns.N_REBALANCED].sum() > 2
    assert runs.results[:, columns.N_FAILURES].sum() > runs.results[:, columns.N_REBALANCED].sum()


def test_engine__event_is_hybrid_to_the_bit():
    hybrid, event = (outcomes(*words("exact"), *more)[2] for more in ((), ("run.engine=event",)))
    equal(hybrid, event)
    assert hybrid.results[:, columns.EXECUTED].sum() > 0


def test_trials__depend_neither_on_threads_nor_on_each_other():
    many = hops.simulate(*words("resampled"), "trials=4", "executor.threads=2")
    same(many, hops.simulate(*words("resampled"), "trials=4", "executor.threads=1"))
    same(many.isel(trial=slice(0, 2)), hops.simulate(*words("resampled"), "trials=2"))


def test_script__replays_to_the_same_bits(tmp_path):
    _, _, runs = outcomes(*words("exact"))
    (tmp_path / "f.jsonl").write_text(script_text(failures_of(runs)))
    again = [each for each in words("exact") if not each.startswith("+failure")]
    _, _, replayed = outcomes(*again, "failure=file", f"failure.script={tmp_path}/f.jsonl")
    equal(runs, replayed)


def spell(path, seconds, device=8, **more):
    """A GPU of the second node is slow from 5 s on."""
    line = {"t_ns": 5 * 10**9, "kind": "slow", "device": device, "magnitude": 0.4, "duration_ns": round(seconds * 1e9), **more}
    (path / "f.jsonl").write_text(json.dumps(line))
    return (*SMALL, "microbatches=8", "run.iterations=200", "failure=file", f"failure.script={path}/f.jsonl")


def test_long__is_mitigated(tmp_path):
    """Each step by itself is better than to wait, and both are; what is slow ends with the eviction."""
    job = spell(tmp_path, 100)
    waits, divides, evicts, both = (
        hops.simulate(*job, *more)
        for more in ((), (*LADDER, "recovery.evict=1e9"), (*LADDER, "recovery.rebalance=1e9"), LADDER)
    )  # fmt: skip
    assert float(divides["goodput_mean"]) > 1.3 * float(waits["goodput_mean"])
    assert float(evicts["goodput_mean"]) > 1.3 * float(divides["goodput_mean"])
    assert float(both["goodput_mean"]) > 1.3 * float(divides["goodput_mean"])
    steps = [[float(each[name][0]) for name in ("n_rebalanced", "n_interruptions")] for each in (waits, divides, evicts, both)]
    assert steps == [[0, 0], [1, 0], [0, 1], [1, 1]]


def test_short__is_ignored(tmp_path):
    """Two iterations are slow, and the third is as ever: to the bit what a restart does."""
    job = spell(tmp_path, 1.0)
    found = hops.simulate(*job, *LADDER, "recovery.rebalance=0", "recovery.evict=0")
    same(hops.simulate(*job), found)
    assert (found["slowed_time"] > 0).all()


@pytest.mark.parametrize("sizes", [("dp=1", "topology.order=[0,8]"), ("zero=3", "model=gpt_22b", "tp=1")])
def test_one_lane__only_evicts(sizes, tmp_path):
    """With one replica, or replicas in lock-step, nothing can be divided anew."""
    found = hops.simulate(*spell(tmp_path, 1e4, magnitude=0.2), *LADDER, *sizes, "trials=1", "run.iterations=40")
    assert float(found["n_rebalanced"][0]) == 0
    assert float(found["n_interruptions"][0]) == 1


def test_what_is_of_no_node__is_not_evicted():
    rail = "+failure.faults.rail={kind: bandwidth, scope: NET, bandwidth: 0.001, mean: 4.0, duration: 30.0, age: fresh}"
    found = hops.simulate(*SMALL, *LADDER, rail, SENDS, "recovery.evict=0", "run.iterations=160", "trials=3")
    assert (found["n_failures"] == 0).all()
    assert (found["slowed_time"] > 0.5).all()


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("recovery.threshold=0", "recovery.threshold must be"),
        ("recovery.patience=0", "recovery.patience must be"),
        ("recovery.rebalance=-1", "recovery.rebalance must be"),
        ("recovery.evict=nan", "recovery.evict must be"),
    ],
)
def test_bad_input__is_refused(override, sentence):
    with pytest.raises(ValueError, match=sentence):
        hops.simulate(*SMALL, *LADDER, override)
