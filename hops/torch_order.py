"""Orders as torch.distributed.pipelining writes them once communication is in: SEND and RECV, UNSHARD, RESHARD, REDUCE_GRAD.

One comma-separated line a rank, each action ``<stage><TYPE><microbatch>`` (``0SEND_F3``, ``2UNSHARD``). `Program.from_csv` reads both
this and the form of computation only. Source: torch/distributed/pipelining/schedules.py, _add_unshard_reshard,
_add_reduce_grad, _add_send_recv [from memory; benchmarks/torch_bridge.py compares with torch itself].
"""

from collections.abc import Iterable
from pathlib import Path

from hops.lowering import unshards
from hops.posts import with_messages
from hops.programs import Program, Unit, members

type Action = Unit | str


def lowered(program: Program, sharded: bool = True) -> tuple[tuple[str, ...], ...]:
    """Actions of every rank, as torch prints them; ``sharded``: with those of weights that replicas share."""
    ranks: list[list[Action]] = [[*_with_weights(units)] if sharded else [*units] for units in program.ranks]
    return tuple(tuple(map(str, rank)) for rank in with_messages(program, ranks))


def to_csv(program: Program, path: str | Path | None = None, sharded: bool = True) -> str:
    """Return (and, with ``path``, write) one line a rank."""
    text = "".join(",".join(rank) + "\n" for rank in lowered(program, sharded))
    if path is not None:
        Path(path).write_text(text)
    return text


def _with_weights(units: tuple[Unit, ...]) -> Iterable[Action]:
    """Put before every unit what is gathered for it and, before that, what is given up; after a stage's last backward its reduction."""
    held: list[int] = []
    last = {op.stage: op for unit in units for op in members(unit) if op.kind in "BW"}
    for unit, (soon, wanted) in zip(units, unshards(units), strict=True):
        yield from (f"{stage}RESHARD" for stage in held if stage not in soon)
        yield from (f"{stage}UNSHARD" for stage in wanted)
        held = [stage for stage in held if stage in soon] + wanted
        yield unit
        yield from (f"{op.stage}REDUCE_GRAD" for op in members(unit) if last.get(op.stage) == op)
    yield from (f"{stage}RESHARD" for stage in held)
