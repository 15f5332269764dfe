"""Scripts: the failures of a run as a file, one JSON object a line, to be read by eye, edited and replayed to the same bits.

    {"trial": 0, "t_ns": 86400000000000, "fault": "node", "nodes": [3], "detection_ns": 30000000000, "repair_ns": 7200000000000}

``nodes`` are places in the job, 0 for the node of its first GPU; a line without ``trial`` is of every trial. What slows the job and
does not stop it has a ``kind`` (slow, bandwidth, stall), a ``magnitude`` (the speed that is left), a ``duration_ns``, and may be of a
``device`` of the cluster or of a ``link`` in place of nodes:

    {"t_ns": 5000000000, "fault": "flap", "kind": "stall", "link": "NIC 3", "magnitude": 0, "duration_ns": 1500000000}
"""

import json
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from hops.checks import count, no_such, one_of, speed_of

KEYS = ("trial", "t_ns", "fault", "nodes", "detection_ns", "repair_ns")
SLOWING = ("kind", "device", "link", "magnitude", "duration_ns")  # of what does not stop the job
KINDS = ("fail_stop", "slow", "bandwidth", "stall")
LONGEST = 2**61  # ns, 73 years


class Line(NamedTuple):
    """One failure, in ticks."""

    tick: int
    nodes: tuple[int, ...]
    detection: int
    repair: int
    fault: str = "script"
    kind: str = KINDS[0]
    speed: Fraction = Fraction(0)  # and these of what does not stop the job
    duration: int = 0
    device: int | None = None
    link: str | None = None


type Script = tuple[tuple[Line, ...], ...]  # one a trial; one alone is of every trial


def read_script(path: str) -> Script:
    """Read and check a script; ``ValueError`` names the line."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read failure.script={path}: {error}") from error
    found: dict[int | None, list[Line]] = {}
    for number, words in enumerate(text.splitlines(), 1):
        if words.strip():
            trial, line = _line(f"{path}, line {number}", words)
            lines = found.setdefault(trial, [])
            if lines and line.tick < lines[-1].tick:
                raise ValueError(f"{path}, line {number}: t_ns={line.tick} comes after {lines[-1].tick}; lines of a trial must be in order")
            lines.append(line)
    if not found:
        raise ValueError(f'{path} has no failures (one JSON object a line, such as {{"t_ns": 3600000000000, "nodes": [0]}})')
    if None in found and len(found) > 1:
        raise ValueError(f"{path}: some lines have a trial and some have none; either all or none of them")
    if None in found:
        return (tuple(found[None]),)
    return tuple(tuple(found.get(trial, ())) for trial in range(1 + max(trial for trial in found if trial is not None)))


def _line(where: str, words: str) -> tuple[int | None, Line]:
    try:
        given: Any = json.loads(words)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not a JSON object: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{where} is not a JSON object: {words[:60]}")
    for key in given:
        if key not in KEYS + SLOWING:
            raise no_such(f"key of {where}", key, KEYS + SLOWING)
    if "t_ns" not in given:
        raise ValueError(f"{where} has no t_ns, the time of the failure [ns]")
    nodes = given.get("nodes", [0])
    if not isinstance(nodes, list) or not nodes:
        raise ValueError(f"{where}: nodes must list places in the job, such as [0]; got {nodes!r}")
    trial, kind = given.get("trial"), one_of(f"{where}: kind", given.get("kind", KINDS[0]), KINDS)
    slowing = {key: given[key] for key in SLOWING if key != "kind" and key in given}
    if kind == KINDS[0] and slowing:
        raise ValueError(f"{where}: {', '.join(slowing)} of a failure that stops the job (try kind: slow, bandwidth or stall)")
    if kind != KINDS[0] and ("duration_ns" not in given or sum(key in given for key in ("nodes", "device", "link")) != 1):
        raise ValueError(f"{where}: kind {kind} needs duration_ns, and one of nodes, device and link")
    if kind == "bandwidth" and "link" not in given:
        raise ValueError(f"{where}: only a link has bandwidth (try kind: slow)")
    speed = Fraction(0)
    if kind in ("slow", "bandwidth"):
        speed = speed_of(f"{where}: magnitude", given.get("magnitude", 0), 1)
        if not speed:
            raise ValueError(f"{where}: kind {kind} needs a magnitude, the speed that is left (of a stall it is 0)")
    return None if trial is None else count(f"{where}: trial", trial, least=0, most=2**20), Line(
        count(f"{where}: t_ns", given["t_ns"], least=0, most=LONGEST),
        tuple(count(f"{where}: a node", node, least=0) for node in nodes),
        count(f"{where}: detection_ns", given.get("detection_ns", 0), least=0, most=LONGEST * 2),
        count(f"{where}: repair_ns", given.get("repair_ns", 0), least=0, most=LONGEST * 2),
        str(given.get("fault", "script")),
        kind,
        speed,
        count(f"{where}: duration_ns", given.get("duration_ns", 0), least=0, most=LONGEST),
        None if "device" not in given else count(f"{where}: device", given["device"], least=0),
        None if "link" not in given else str(given["link"]),
    )


def script_text(trials: Iterable[Sequence[Line]]) -> str:
    """The failures of all trials as a script."""
    lines = []
    for trial, each in enumerate(trials):
        for line in each:
            values = (trial, line.tick, line.fault, list(line.nodes), line.detection, line.repair)
            told = dict(zip(KEYS, values, strict=True))
            if line.kind != KINDS[0]:
                told |= {"kind": line.kind, "magnitude": float(line.speed), "duration_ns": line.duration}
                told |= {key: value for key, value in (("device", line.device), ("link", line.link)) if value is not None}
                told = {key: value for key, value in told.items() if (key != "nodes" or line.nodes) and key != "detection_ns"}
            lines.append(json.dumps(told))
    return "\n".join(lines) + "\n"
