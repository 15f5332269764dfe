"""Scripts: the failures of a run as a file, one JSON object a line, to be read by eye, edited and replayed to the same bits.

    {"trial": 0, "t_ns": 86400000000000, "fault": "node", "nodes": [3], "detection_ns": 30000000000, "repair_ns": 7200000000000}

``nodes`` are places in the job, 0 for the node of its first GPU; a line without ``trial`` is of every trial.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hops.checks import count, no_such

KEYS = ("trial", "t_ns", "fault", "nodes", "detection_ns", "repair_ns")
LONGEST = 2**61  # ns, 73 years


class Line(NamedTuple):
    """One failure, in ticks."""

    tick: int
    nodes: tuple[int, ...]
    detection: int
    repair: int
    fault: str = "script"


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
        if key not in KEYS:
            raise no_such(f"key of {where}", key, KEYS)
    if "t_ns" not in given:
        raise ValueError(f"{where} has no t_ns, the time of the failure [ns]")
    nodes = given.get("nodes", [0])
    if not isinstance(nodes, list) or not nodes:
        raise ValueError(f"{where}: nodes must list places in the job, such as [0]; got {nodes!r}")
    trial = given.get("trial")
    return None if trial is None else count(f"{where}: trial", trial, least=0, most=2**20), Line(
        count(f"{where}: t_ns", given["t_ns"], least=0, most=LONGEST),
        tuple(count(f"{where}: a node", node, least=0) for node in nodes),
        count(f"{where}: detection_ns", given.get("detection_ns", 0), least=0, most=LONGEST * 2),
        count(f"{where}: repair_ns", given.get("repair_ns", 0), least=0, most=LONGEST * 2),
        str(given.get("fault", "script")),
    )


def script_text(trials: Iterable[Sequence[Line]]) -> str:
    """The failures of all trials as a script."""
    lines = []
    for trial, each in enumerate(trials):
        for line in each:
            values = (trial, line.tick, line.fault, list(line.nodes), line.detection, line.repair)
            lines.append(json.dumps(dict(zip(KEYS, values, strict=True))))
    return "\n".join(lines) + "\n"
