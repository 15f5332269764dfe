"""Orders as torch.distributed.pipelining writes them once communication is in: SEND and RECV, UNSHARD, RESHARD, REDUCE_GRAD.

One comma-separated line a rank, each action ``<stage><TYPE><microbatch>`` (``0SEND_F3``, ``2UNSHARD``). `Program.from_csv` reads both
this and the form of computation only. Source: torch/distributed/pipelining/schedules.py of torch 2.15, _add_unshard_reshard,
_add_reduce_grad, _add_send_recv, _add_wait_send; benchmarks/torch_bridge.py compares with torch itself.
"""

from collections.abc import Iterable
from pathlib import Path

from hops.lowering import unshards
from hops.posts import Post, with_messages
from hops.programs import Doubled, Program, Unit, members

type Action = Unit | str


def lowered(program: Program, sharded: bool = True, waits: bool = True) -> tuple[tuple[str, ...], ...]:
    """Actions of every rank, as torch prints them.

    ``sharded``: with those of weights that replicas share. ``waits``: as torch 2.15 wants it, which retires every SEND and
    REDUCE_GRAD by a WAIT of its own; torch 2.13 knows none. A doubled forward, which torch does not have, is a ``ValueError``.
    """
    doubled = next((unit for units in program.ranks for unit in units if isinstance(unit, Doubled)), None)
    if doubled is not None:
        raise ValueError(f"torch has no forward of two microbatches at once: {doubled}")
    ranks: list[list[Action]] = [[*_with_weights(units, waits)] if sharded else [*units] for units in program.ranks]
    found: Iterable[Iterable[Action]] = (
        [str(each) if isinstance(each, Post) else each for each in actions] for actions in with_messages(program, ranks)
    )
    if waits:
        found = map(_with_waits, found)
    return tuple(tuple(map(str, rank)) for rank in found)


def to_csv(program: Program, path: str | Path | None = None, sharded: bool = True, waits: bool = True) -> str:
    """Return (and, with ``path``, write) `lowered` as one comma-separated line a rank."""
    text = "".join(",".join(rank) + "\n" for rank in lowered(program, sharded, waits))
    if path is not None:
        Path(path).write_text(text)
    return text


def _with_weights(units: tuple[Unit, ...], waits: bool) -> Iterable[Action]:
    """Put before every unit what is gathered for it and, before that, what is given up; after a stage's last backward its reduction."""
    held: list[int] = []
    last = {op.stage: op for unit in units for op in members(unit) if op.kind in "BW"}
    for unit, (soon, wanted) in zip(units, unshards(units), strict=True):
        yield from (f"{stage}RESHARD" for stage in held if stage not in soon)
        yield from (f"{stage}UNSHARD" for stage in wanted)
        held = [stage for stage in held if stage in soon] + wanted
        yield unit
        for op in members(unit):
            if last.get(op.stage) == op:
                yield from (f"{op.stage}{action}" for action in ("REDUCE_GRAD", "WAIT_REDUCE_GRAD")[: 1 + waits])
    yield from (f"{stage}RESHARD" for stage in held)


def _with_waits(actions: Iterable[Action]) -> Iterable[Action]:
    """Wait for every SEND: for that of a forward after its stage's backward of the microbatch, for others at the end."""
    pending: dict[str, str] = {}
    for action in actions:
        yield action
        if isinstance(action, str):
            if "SEND" in action:
                pending[action] = action.replace("SEND", "WAIT_SEND")
            continue
        for stage, kind, k in members(action):
            if kind in "BI" and (sent := f"{stage}SEND_F{k}") in pending:
                yield pending.pop(sent)
    yield from pending.values()
