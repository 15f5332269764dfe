"""Traces: what the format asks for, and that what is in them is what was evaluated."""

import json
from collections import Counter, defaultdict
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from conftest import run_ticks, scenario

import hops
from hops import kernels
from hops.lowering import P2P
from hops.perfetto import PROCESSES, write_trace
from hops.plan import prepare_plan
from hops.programs import members
from hops.recipes import plan_of_words
from hops.simulation import prepare
from hops.trace import messages, node_ticks, timeline_frame

SIZES = {"pp": 4, "microbatches": 8}
LONG = 2.5  # s: longer than an op, so that messages are under way side by side
NAMES = ("1f1b", "zb_h1", "interleaved", "dualpipe", "1f1b_overlap", "chimera", "hanayo", "gpipe", "seq1f1b", "v_min")
REPLICAS = ("model=gpt_22b", "topology=dgx", "pp=4", "tp=2", "dp=4", "microbatches=4", "bucket_size=1.5e9", "draws=3")
WAY = ("checkpoint.cost=0.1", "recovery.init=0.2", "recovery.load=0.3")


def ticks(us):
    """Whole ns; what is written has at most three decimals."""
    found = Fraction(repr(us)) * 1000
    assert found.denominator == 1
    return int(found)


def read(path):
    """The events of a file by their phase, after they have been held to the rules of the format."""
    written = json.loads(path.read_text())
    assert set(written) == {"displayTimeUnit", "traceEvents", "otherData"}
    events = defaultdict(list)
    for event in written["traceEvents"]:
        events[event["ph"]].append(event)
        assert type(event["pid"]) is int
        assert type(event["tid"]) is int
        assert event["ph"] == "M" or ticks(event["ts"]) >= 0
    assert set(events) <= set("MXstfCi")
    named = {(event["pid"], event["tid"]) for event in events["M"] if event["name"] == "thread_name"}
    assert len(named) == sum(event["name"] == "thread_name" for event in events["M"])
    processes = [event["pid"] for event in events["M"] if event["name"] == "process_name"]
    assert len(set(processes)) == len(processes)
    tracks = defaultdict(list)
    for event in events["X"]:
        assert (event["pid"], event["tid"]) in named
        assert event["pid"] in processes
        begin = ticks(event["ts"])
        assert ticks(event["dur"]) >= 0
        tracks[event["pid"], event["tid"]].append((begin, begin + ticks(event["dur"])))
    for track in tracks.values():
        track.sort()
        assert all(end <= begin for (_, end), (begin, _) in pairwise(track))
    check_arrows(events, tracks)
    return events


def check_arrows(events, tracks):
    """Each has one begin, one end, in that order, and each of these lies in a slice of its track."""
    ends = {event["id"]: event for event in events["f"]}
    assert len(ends) == len(events["f"]) == len(events["s"])
    middles = {event["id"]: event for event in events["t"]}
    assert len(middles) == len(events["t"])
    assert set(middles) <= set(ends)
    for begin in events["s"]:
        end = ends[begin["id"]]
        assert (begin["cat"], begin["name"], end["bp"]) == (end["cat"], end["name"], "e")
        chain = [begin, *([middles[begin["id"]]] if begin["id"] in middles else []), end]
        times = [ticks(each["ts"]) for each in chain]
        assert times == sorted(times)
        for each, at in zip(chain, times, strict=True):
            assert any(a <= at < b for a, b in tracks[each["pid"], each["tid"]])


def process(events, name):
    return next((event["pid"] for event in events["M"] if event["name"] == "process_name" and event["args"]["name"] == name), None)


def slices(events, name):
    return [event for event in events["X"] if event["pid"] == process(events, name)]


def end_of(events):
    return max(ticks(event["ts"]) + ticks(event["dur"]) for event in events["X"])


def traced(path, case, draw=0):
    write_trace(path / "trace.json", case, draw)
    assert [each.name for each in path.iterdir()] == ["trace.json"]
    return read(path / "trace.json")


@pytest.mark.parametrize("p2p", P2P)
@pytest.mark.parametrize("name", NAMES)
def test_trace__keeps_the_rules_and_has_every_op_and_message(name, p2p, tmp_path):
    case = prepare(scenario(**SIZES, schedule__name=name, p2p=p2p, topology__latency=LONG, model__p2p_bytes=1e6, vpp=None))
    events = traced(tmp_path, case)
    frame = timeline_frame(case)
    found = Counter()
    for event in slices(events, "ranks"):
        if event["args"]["kind"] != "optimizer":
            args = {key: np.atleast_1d(value).tolist() for key, value in event["args"].items()}
            names = [(stage, kind, k) for stage, kind, k in zip(args["stage"], args["kind"], args["microbatch"], strict=True)]
            found.update((*each, ticks(event["ts"]), ticks(event["dur"])) for each in names)
    seconds = [(op.stage, op.kind, op.microbatch, round(op.start * 1e9), round(op.end * 1e9)) for op in frame.itertuples()]
    assert found == Counter((*op, begin, end - begin) for *op, begin, end in seconds)
    assert len(events["s"]) == len(messages(case))
    assert all(event["args"]["bytes"] == case.weights.costs.p2p_bytes for event in slices(events, "links"))
    assert Counter(event["args"]["for"] for event in slices(events, "links")).total() == len(messages(case))
    assert end_of(events) == int(run_ticks(case, n=1)[0][kernels.STEP, 0])


def test_trace__transfers_are_between_who_sends_and_who_waits(tmp_path):
    """Under a channel a message waits for the one before it: the slice begins when it gets the channel, and the arrow earlier."""
    case = prepare(scenario(**SIZES, schedule__name="gpipe", p2p="channel", topology__bandwidth=1e6, model__p2p_bytes=3e6))
    events = traced(tmp_path, case)
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events["M"] if e["name"] == "thread_name"}
    wires, ops = slices(events, "links"), {event["name"]: event for event in slices(events, "ranks")}
    assert len(wires) == 2 * 8 * 3
    waited = 0
    for wire in wires:
        source, goal = ops[wire["name"]], ops[wire["args"]["for"]]
        assert threads[wire["pid"], wire["tid"]] == f"{source['tid'] - 1} to {goal['tid'] - 1}"
        sent = ticks(source["ts"]) + ticks(source["dur"])
        assert ticks(wire["ts"]) - sent == ticks(wire["args"]["waited [us]"]) >= 0
        assert ticks(wire["dur"]) == 3_000_000_000
        assert ticks(goal["ts"]) >= ticks(wire["ts"]) + ticks(wire["dur"])
        waited += ticks(wire["ts"]) > sent
    assert waited > 10
    (arrows,) = {len(events[phase]) for phase in "stf"}
    assert arrows == len(wires)


@pytest.mark.parametrize("more", [(), ("overlap_grad_reduce=true", "overlap_param_gather=true"), ("zero=3",), ("barrier=false",)])
def test_trace__has_replicas_exchanges_and_ends_with_the_update(more, tmp_path):
    (case,) = prepare_plan(plan_of_words((*REPLICAS, *more), sweep=False)).cases
    events = traced(tmp_path, case, draw=2)
    kinds = {event["args"]["kind"] for event in slices(events, "replicas")}
    assert kinds == {"REDUCE_GRAD", *(["UNSHARD"] if len(more) == 2 or more == ("zero=3",) else [])}
    updates = [event for event in slices(events, "ranks") if event["name"] == "optimizer"]
    assert [ticks(event["dur"]) for event in updates] == case.update.tolist()
    begins = {ticks(event["ts"]) for event in updates}
    found = node_ticks(case, 2)
    if more == ("barrier=false",):
        assert begins == set(found.latest.tolist())
        assert len(begins) == 4
    else:
        assert begins == {int(found.latest.max())}
        assert end_of(events) == int(run_ticks(case, first=2, n=1)[0][kernels.STEP, 0])


def test_trace__without_a_flush_ends_with_the_last_op(tmp_path):
    case = prepare(scenario(**SIZES, schedule__name="pipedream"))
    events = traced(tmp_path, case)
    assert end_of(events) == round(timeline_frame(case)["end"].max() * 1e9)


def test_memory__counts_what_a_rank_holds(tmp_path):
    """Bytes where the model has them, else chunks; the peak is what is in flight."""
    case = prepare(scenario(**SIZES, schedule__name="interleaved", vpp=2))
    peaks = Counter()
    for event in traced(tmp_path, case)["C"]:
        (held,) = event["args"].values()
        peaks[event["name"]] = max(peaks[event["name"]], held)
    assert peaks == {f"activations of rank {rank}": n for rank, n in enumerate(case.program.in_flight)}
    (case,) = prepare_plan(plan_of_words((*REPLICAS[:3], "latency=none", "microbatches=4"), sweep=False)).cases
    rows = hops.memory_timeline(*REPLICAS[:3], "latency=none", "microbatches=4")
    events = traced(tmp_path, case)["C"]
    assert [event["args"]["bytes"] for event in events] == [round(max(held, 0.0), 3) for held in rows["activations"]]
    assert [ticks(event["ts"]) for event in events] == [round(time * 1e9) for time in rows["time"]]


def test_job__is_a_track_of_its_own(tmp_path):
    words = ("model=explicit", "pp=2", "microbatches=4", "draws=50", "topology.nodes=2", "run.iterations=300", "trials=3", *WAY)
    fault = "+failure.faults.gpu={scope: device, mean: 20.0, detection: 0.5, repair: 4.0}"
    hops.write_trace(tmp_path / "trace.json", *words, fault, draw=4, trial=2)
    events = read(tmp_path / "trace.json")
    frame, failures = (find(*words, fault, trial=2) for find in (hops.run_timeline, hops.run_failures))
    states = slices(events, "job")
    assert [event["name"] for event in states] == frame["state"].tolist()
    assert end_of(events) == round(frame["end"].iloc[-1] * 1e9)
    assert [ticks(event["ts"]) for event in events["i"]] == [round(time * 1e9) for time in failures["time"]]
    assert len(failures) > 3
    assert [event["name"] for event in events["i"]] == [f"gpu: {unit}" for unit in failures["unit"]]
    assert {each["pid"] for each in events["X"]} < set(range(1, len(PROCESSES) + 1))


def test_write__leaves_no_half_file(tmp_path):
    case = prepare(scenario(**SIZES))
    with pytest.raises(ValueError, match="draw must be a whole number from 0 to"):
        write_trace(tmp_path / "trace.json", case, 10**6)
    with pytest.raises(OSError, match="no"):
        write_trace(tmp_path / "no" / "trace.json", case)
    assert not list(tmp_path.iterdir())
    assert sum(len(members(unit)) for _, unit in case.program.order) == len(timeline_frame(case))
