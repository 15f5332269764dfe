"""Traces for chrome://tracing and ui.perfetto.dev: ops, transfers and exchanges of one draw, what ranks hold, states of a training run.

The format is the Trace Event Format (docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU): times in us, here
whole ns; ``X`` is a slice, ``s``, ``t`` and ``f`` are ends and the middle of an arrow, ``C`` is a counter, ``M`` names a track.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hops.diary import STATES
from hops.files import replacing
from hops.histories import History, unit_of
from hops.programs import members
from hops.simulation import Case
from hops.trace import Trace, exchanges, held, node_ticks, op_ticks, timeline_frame, transfers
from hops.weights import TICKS

type Event = dict[str, Any]

NS = 1000  # of a us
RANKS, LINKS, REPLICAS, ITERATION, JOB = PROCESSES = ("ranks", "links", "replicas", "iteration", "job")


class Slice(NamedTuple):
    """A stretch of time on a track, in ticks."""

    begin: int
    end: int
    process: str
    track: str  # of the process; what overlaps is spread over several of that name
    name: str
    args: Mapping[str, Any]
    arrow: int = -1  # of which it is the middle


class Arrow(NamedTuple):
    """From an op to one that waits for it: ranks, and ticks within their slices."""

    source: int
    sent: int
    goal: int
    needed: int


def write_trace(path: Path, case: Case, draw: int = 0, history: History | None = None) -> None:
    """Write `trace_events` into a file that is whole or not there."""
    text = json.dumps(
        {
            "displayTimeUnit": "ms",
            "traceEvents": trace_events(case, draw, history),
            "otherData": {"schedule": case.scenario.schedule.name, "cluster": case.weights.cluster.name, "draw": draw},
        },
        separators=(",", ":"),
    )
    with replacing(path) as file:
        file.write_text(text)


def trace_events(case: Case, draw: int = 0, history: History | None = None) -> list[Event]:
    """One draw as events; and what a trial did and met, if a ``history`` is given."""
    frame = timeline_frame(case, draw)  # which refuses a draw that there is not
    found = node_ticks(case, draw)
    slices = [*_units(case, found), *_replicas(case, found), *_end(case, found)]
    wires, arrows = _links(case, found)
    slices += wires
    if history is not None:
        slices += _job(history)
    tracks, events = _laid_out(slices)
    ranks = [tracks[RANKS, f"rank {rank}"] for rank in range(case.structure.graph.n_ranks)]
    for i, arrow in enumerate(arrows):
        same = {"cat": "transfer", "name": "transfer", "id": i}
        events.append({"ph": "s", **same, **dict(zip(("pid", "tid"), ranks[arrow.source], strict=True)), "ts": arrow.sent / NS})
        events.append({"ph": "f", "bp": "e", **same, **dict(zip(("pid", "tid"), ranks[arrow.goal], strict=True)), "ts": arrow.needed / NS})
    sizes = case.weights.costs.activations
    unit = "chunks" if sizes is None else "bytes"
    rows = held(frame, [1.0] * len(case.structure.stage_ranks) if sizes is None else sizes)
    for row in rows.itertuples():
        pid, _ = ranks[row.rank]
        events.append({
            "ph": "C", "pid": pid, "tid": 0, "name": f"activations of rank {row.rank}", "ts": round(row.time * TICKS) / NS,
            "args": {unit: round(max(row.activations, 0.0), 3)},
        })  # fmt: skip
    if history is not None:
        pid, tid = tracks[JOB, "state"]
        events += [
            {"ph": "i", "s": "p", "pid": pid, "tid": tid, "cat": "failure", "name": f"{line.fault}: {unit_of(line)}", "ts": line.tick / NS,
             "args": {"kind": line.kind, "known after [s]": line.detection / TICKS, "repaired after [s]": line.repair / TICKS}}
            for line in history.failures
        ]  # fmt: skip
    return events


def _units(case: Case, found: Trace) -> Iterable[Slice]:
    starts, ends = (each.tolist() for each in op_ticks(case, found))
    at = 0
    for rank, unit in case.program.order:
        ops = members(unit)
        args = {key: [getattr(op, key) for op in ops] if len(ops) > 1 else getattr(ops[0], key) for key in ("stage", "kind", "microbatch")}
        yield Slice(starts[at], ends[at], RANKS, f"rank {rank}", str(unit), args)
        at += len(ops)


def _links(case: Case, found: Trace) -> tuple[list[Slice], list[Arrow]]:
    """Transfers on the links between pairs of ranks, and arrows that go through them; one that takes no time is only an arrow."""
    rank, size = case.structure.graph.rank, case.weights.costs.p2p_bytes
    names = _names(case)
    slices, arrows = list[Slice](), list[Arrow]()
    for i, each in enumerate(transfers(case, found)):
        source, goal, sent = int(rank[each.sender]), int(rank[each.receiver]), int(found.finish[each.sender])
        args = {"bytes": size, "waited [us]": (each.begun - sent) / NS, "for": names[each.receiver]}
        if each.arrived > each.begun:
            slices.append(Slice(each.begun, each.arrived, LINKS, f"{source} to {goal}", names[each.sender], args, i))
        arrows.append(Arrow(source, sent - 1, goal, int(found.start[each.receiver])))
    return slices, arrows


def _names(case: Case) -> dict[int, str]:
    """Op of each node that computes one."""
    ops = [str(op) for _, unit in case.program.order for op in members(unit)]
    return {node: ops[op] for node, op in enumerate(case.structure.graph.op.tolist()) if op >= 0}


def _replicas(case: Case, found: Trace) -> Iterable[Slice]:
    for each in exchanges(case, found):
        begin, end = round(each.start * TICKS), round(each.end * TICKS)
        yield Slice(begin, end, REPLICAS, f"rank {each.rank}", f"{each.stage}{each.kind}", {"kind": each.kind, "stage": each.stage})


def _end(case: Case, found: Trace) -> Iterable[Slice]:
    """The iteration as a whole, and on every rank its update."""
    graph, ends, update = case.structure.graph, found.latest.tolist(), case.update.tolist()
    if graph.endless:  # it has no end of its own, and updates are in its ops
        yield Slice(0, int(found.finish.max()), ITERATION, "iteration", "batches", {})
        return
    begins = [max(ends)] * len(ends) if case.scenario.barrier else ends
    over = found.step if case.scenario.barrier else max(map(sum, zip(begins, update, strict=True)))
    yield Slice(0, max(ends), ITERATION, "iteration", "pipeline and gradients", {})
    if over > max(ends):
        yield Slice(max(ends), over, ITERATION, "iteration", "optimizer and weights", {})
    for rank, (begin, ticks) in enumerate(zip(begins, update, strict=True)):
        if ticks:
            yield Slice(begin, min(begin + ticks, over), RANKS, f"rank {rank}", "optimizer", {"kind": "optimizer"})


def _job(history: History) -> Iterable[Slice]:
    for begin, end, what in zip(*(each.tolist() for each in history.states), strict=True):
        yield Slice(begin, end, JOB, "state", STATES[what], {"trial": history.trial})
    for begin, end, missing in zip(*(each.tolist() for each in history.smaller), strict=True):
        if missing:
            yield Slice(begin, end, JOB, "smaller", f"{missing} missing", {"units": missing})


def _laid_out(slices: Iterable[Slice]) -> tuple[dict[tuple[str, str], tuple[int, int]], list[Event]]:
    """Slices as events, and process and thread of every track; of those that overlap each is on a thread of its own."""
    by_track: dict[tuple[str, str], list[Slice]] = {}
    for each in slices:
        by_track.setdefault((each.process, each.track), []).append(each)
    tracks, events, last = dict[tuple[str, str], tuple[int, int]](), list[Event](), dict[str, int]()
    order = {key: (PROCESSES.index(key[0]), [int(word) for word in key[1].split() if word.isdigit()]) for key in by_track}
    for process, track in sorted(by_track, key=lambda key: order[key]):
        pid, lanes = PROCESSES.index(process) + 1, list[int]()  # when each thread of the track is free
        first = last.get(process, 0) + 1
        tracks[process, track] = pid, first
        for each in sorted(by_track[process, track], key=lambda each: each[:2]):
            lane = next((lane for lane, free in enumerate(lanes) if free <= each.begin), len(lanes))
            lanes[lane : lane + 1] = [each.end]
            place = {"pid": pid, "tid": first + lane, "cat": process, "name": each.name, "ts": each.begin / NS}
            events.append({"ph": "X", **place, "dur": (each.end - each.begin) / NS, "args": each.args})
            if each.arrow >= 0:
                events.append({"ph": "t", **place, "cat": "transfer", "name": "transfer", "id": each.arrow})
        last[process] = first + len(lanes) - 1
        for lane in range(len(lanes)):
            names = {"thread_name": {"name": track}, "thread_sort_index": {"sort_index": first + lane}}
            events += [{"ph": "M", "pid": pid, "tid": first + lane, "name": name, "args": args} for name, args in names.items()]
    for process in last:
        pid = PROCESSES.index(process) + 1
        names = {"process_name": {"name": process}, "process_sort_index": {"sort_index": pid}}
        events += [{"ph": "M", "pid": pid, "tid": 0, "name": name, "args": args} for name, args in names.items()]
    return tracks, events
