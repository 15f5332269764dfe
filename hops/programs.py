"""Programs: which operation each rank runs in which order. No time, no idle slots, no messages."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import NamedTuple, Self

from hops.placements import BIDIRECTIONAL, PLACEMENTS, n_pipelines, pipelines_of, seat_rank, unserved
from hops.sequence import KINDS as KINDS
from hops.sequence import Table, is_complete, makes, run, tabulate

# by how many chunk activations an operation changes what its rank holds: at all, whole, and only what W needs
_HELD, _WHOLE, _REST = {"F": 1, "B": -1, "I": 0, "W": -1}, {"F": 1, "B": -1, "I": -1, "W": 0}, {"F": 0, "B": 0, "I": 1, "W": -1}

_OP = re.compile(rf"(\d+)([{KINDS}])(\d+)")


class Op(NamedTuple):
    """One unit of work: microbatch ``microbatch`` passes ``stage`` in the sense of ``kind``; text ``2F0``."""

    stage: int
    kind: str
    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``2F0``; anything else is a ``ValueError``."""
        match = _OP.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not an operation; it reads <stage><kind><microbatch>, such as 2F0, kinds {KINDS}")
        return cls(int(match[1]), match[2], int(match[3]))


class Fused(NamedTuple):
    """A forward and a backward that a rank runs as one unit, each beside the other's communication; text ``(0F3;7B1)OVERLAP_F_B``.

    It begins when both have their inputs, and both outputs are there when it ends.
    """

    forward: Op
    backward: Op

    def __str__(self) -> str:
        return f"({self.forward};{self.backward})OVERLAP_F_B"


class Doubled(NamedTuple):
    """Forwards of two microbatches that a rank runs as one unit; text ``(0F0;0F1)DOUBLE_F``.

    It begins when both have their inputs, takes as long as both, and both outputs are there when it ends.
    """

    first: Op
    second: Op

    def __str__(self) -> str:
        return f"({self.first};{self.second})DOUBLE_F"


type Unit = Op | Fused | Doubled  # what a rank runs at a time

# what torch adds to an order of computation, see hops/torch_order.py
_ADDED = re.compile(r"\d+(UNSHARD|RESHARD|(WAIT_)?REDUCE_GRAD|((WAIT_)?SEND|RECV)_[FB]\d+)")

_TWO: dict[type[Fused] | type[Doubled], re.Pattern[str]] = {
    Fused: re.compile(r"\((\d+F\d+);(\d+B\d+)\)OVERLAP_F_B"),
    Doubled: re.compile(r"\((\d+F\d+);(\d+F\d+)\)DOUBLE_F"),
}


def parse_unit(text: str) -> Unit:
    """Read ``2F0``, ``(0F3;7B1)OVERLAP_F_B`` or ``(0F0;0F1)DOUBLE_F``; anything else is a ``ValueError``."""
    for kind, pattern in _TWO.items():
        if match := pattern.fullmatch(text):
            return kind(Op.parse(match[1]), Op.parse(match[2]))
    return Op.parse(text)


def members(unit: Unit) -> tuple[Op, ...]:
    """The operations of a unit."""
    return (unit,) if isinstance(unit, Op) else (unit[0], unit[1])


def _is_op(unit: Unit) -> bool:
    return type(unit) is Op


@dataclass(frozen=True)
class Program:
    """A schedule written out: ``ranks[r]`` is the tuple of `Op`, or `Fused` pairs of them, that rank r runs, in order.

    ``str`` gives one line a rank and `parse` reads it back; `to_csv` and `from_csv` do the same in torch's
    compute-only form (one comma-separated line a rank).
    """

    name: str
    ranks: tuple[tuple[Unit, ...], ...]
    placement: str = "line"

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranks", tuple(tuple(rank) for rank in self.ranks))
        if not self.ranks or not any(self.ranks):
            raise ValueError(f"schedule {self.name!r} has no operations: a program needs at least one rank and one op")

    @property
    def pp(self) -> int:
        """Number of ranks."""
        return len(self.ranks)

    @cached_property
    def ops(self) -> tuple[tuple[Op, ...], ...]:
        """The operations of every rank, those of a unit one after the other."""
        return tuple(tuple(chain.from_iterable(map(members, rank))) if not all(map(_is_op, rank)) else rank for rank in self.ranks)  # type: ignore[misc]

    @cached_property
    def table(self) -> Table:
        """The operations as numbers, rank by rank; ``ValueError`` for one that no pass of a microbatch through a stage is."""
        stage, kind, microbatch = zip(*chain.from_iterable(self.ops), strict=True)
        if min(stage) < 0 or min(microbatch) < 0 or not set(kind) <= set(KINDS):
            strange = next(op for ops in self.ops for op in ops if min(op.stage, op.microbatch) < 0 or op.kind not in set(KINDS))
            raise ValueError(f"schedule {self.name!r} runs {strange}: stages and microbatches count from 0, kinds are {KINDS}")
        if max(*stage, *microbatch) >= len(stage):  # checked before there are arrays of so many
            strange = next(op for ops in self.ops for op in ops if max(op.stage, op.microbatch) >= len(stage))
            raise ValueError(f"schedule {self.name!r} runs {strange}, and has but {len(stage)} ops: some before it are not there")
        n_units = sum(map(len, self.ranks))
        widths = 1 if n_units == len(stage) else [len(members(unit)) for units in self.ranks for unit in units]
        return tabulate(list(map(len, self.ops)), stage, map(KINDS.index, kind), microbatch, n_units, widths)

    @cached_property
    def n_ops(self) -> int:
        """Number of operations on all ranks."""
        return int(self.table.rank.size)

    @cached_property
    def n_stages(self) -> int:
        """Number of stages, one more than the highest that occurs."""
        return 1 + int(self.table.stage.max())

    @cached_property
    def microbatches(self) -> int:
        """Number of microbatches, one more than the highest that occurs."""
        return 1 + int(self.table.microbatch.max())

    @property
    def pipelines(self) -> int:
        """Number of pipelines that run over the ranks at the same time."""
        return n_pipelines(self.placement)

    @cached_property
    def first_seats(self) -> tuple[int, ...]:
        """Seat of stage 0 for every microbatch.

        A seat is a stage of the pipeline that a microbatch passes: they are numbered in data-flow order, one pipeline after another.
        Of a single pipeline they are the stages.
        """
        return tuple(pipeline * self.n_stages for pipeline in pipelines_of(self.placement, self.microbatches))

    def rank_of(self, stage: int, microbatch: int) -> int:
        """Rank on which ``microbatch`` passes ``stage``."""
        return self.stage_ranks[self.first_seats[microbatch] + stage]

    @cached_property
    def stage_ranks(self) -> tuple[int, ...]:
        """Rank of every stage; of several pipelines, of every seat."""
        return tuple(seat_rank(self.placement, self.pp, seat) for seat in range(self.n_stages * self.pipelines))

    def __str__(self) -> str:
        return "\n".join(f"rank {r}: {' '.join(map(str, ops))}" for r, ops in enumerate(self.ranks))

    @classmethod
    def parse(cls, text: str, name: str = "parsed", placement: str = "line") -> Self:
        """Read what ``str(program)`` wrote; a malformed operation is a ``ValueError``."""
        lines = [line for line in text.splitlines() if line.strip()]
        for rank, line in enumerate(lines):
            if ":" not in line:
                raise ValueError(f"line {rank + 1} of program {name!r} must read 'rank {rank}: <ops>'; got {line!r}")
        return cls(name, _ranks(line.partition(":")[2].split() for line in lines), placement)

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return (and, with ``path``, write) one comma-separated line a rank."""
        text = "".join(",".join(map(str, ops)) + "\n" for ops in self.ranks)
        if path is not None:
            Path(path).write_text(text)
        return text

    @classmethod
    def from_csv(cls, path: str | Path, name: str | None = None, placement: str | None = None) -> Self:
        """Read a file of one comma-separated line a rank; empty cells (idle slots) and torch's communication are passed over.

        Without ``placement`` the one that fits is found: which rank holds each stage.
        """
        path = Path(path)
        try:
            lines = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
            cells = [[cell.strip() for cell in line.split(",")] for line in lines]
            ranks = _ranks([cell for cell in line if cell and not _ADDED.fullmatch(cell)] for line in cells)
        except ValueError as error:  # or bytes that are no text
            raise ValueError(f"{path} is not an order, one comma-separated line a rank: {error}") from None
        return cls(name or path.stem, ranks, placement or _placement(str(path), ranks))

    def validate(self) -> Self:
        """Check that each op stands exactly once, where its stage lives, and that nothing deadlocks.

        Returns the program itself; raises ``ValueError`` naming the ops, or every waiting rank and what it waits for.
        """
        self._check_complete()
        _ = self.sequence
        return self

    @cached_property
    def sequence(self) -> tuple[int, ...]:
        """Units, numbered rank by rank, such that each follows what it needs; a deadlock is a ``ValueError``."""
        found, missing = run(self.table, list(map(len, self.ranks)))
        if missing:
            raise ValueError(self._deadlock(len(found), missing))
        return tuple(found)

    @cached_property
    def order(self) -> tuple[tuple[int, Unit], ...]:
        """All ``(rank, unit)`` in such a sequence."""
        units = [(rank, unit) for rank, units in enumerate(self.ranks) for unit in units]
        return tuple(units[i] for i in self.sequence)

    @cached_property
    def in_flight(self) -> tuple[int, ...]:
        """Most chunk activations that each rank holds at once; a forward takes one, B or W frees it."""
        return tuple(max(accumulate(_HELD[op.kind] for op in ops)) for ops in self.ops)

    @cached_property
    def holdings(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """What each rank holds at the moments that may be its fullest: whole chunk activations, and those kept for W only.

        Moments that hold no more of either than another are left out; which is the fullest depends on what the two weigh.
        """
        found = []
        for ops in self.ops:
            whole, rest = accumulate(_WHOLE[op.kind] for op in ops), accumulate(_REST[op.kind] for op in ops)
            most = dict(sorted(set(zip(whole, rest, strict=True))))  # the largest rest of every whole
            kept: list[tuple[int, int]] = []
            for held in sorted(most, reverse=True):
                if not kept or most[held] > kept[-1][1]:
                    kept.append((held, most[held]))
            found.append(tuple(kept))
        return tuple(found)

    def _check_complete(self) -> None:
        if (amiss := unserved(self.placement, self.pp, self.n_stages, self.microbatches)) is not None:
            raise ValueError(f"schedule {self.name!r}: placement {self.placement!r} {amiss}")
        for rank, ops in enumerate(self.ops):
            if not ops:
                raise ValueError(f"schedule {self.name!r} gives rank {rank} of {self.pp} nothing to run")
        n_passes = 2 * self.n_stages * self.microbatches
        if n_passes > self.n_ops or not is_complete(self.table, self.stage_ranks, self.first_seats):
            self._explain()

    def _explain(self) -> None:
        """Say which operation is the first that is amiss."""
        seen: dict[tuple[int, str, int], int] = {}
        for rank, ops in enumerate(self.ops):
            for op in ops:
                if op in seen:
                    raise ValueError(f"schedule {self.name!r} runs {op} twice (ranks {seen[op]} and {rank})")
                home = self.rank_of(op.stage, op.microbatch)
                if home != rank:
                    raise ValueError(f"schedule {self.name!r} runs {op} on rank {rank}; placement {self.placement!r} has it on {home}")
                seen[op] = rank
        for stage in range(self.n_stages):
            for k in range(self.microbatches):
                full, split = (stage, "B", k) in seen, [kind for kind in "IW" if (stage, kind, k) in seen]
                if (stage, "F", k) not in seen:
                    raise ValueError(f"schedule {self.name!r} never runs {Op(stage, 'F', k)}")
                if full and split:
                    raise ValueError(f"schedule {self.name!r} runs {Op(stage, 'B', k)} and also {Op(stage, split[0], k)}: B is I + W")
                if not full and len(split) < 2:
                    absent = [str(Op(stage, kind, k)) for kind in "IW" if kind not in split]
                    raise ValueError(f"schedule {self.name!r} never runs {Op(stage, 'B', k)}, nor {' and '.join(absent)}")

    def _deadlock(self, n_done: int, missing: dict[int, list[int]]) -> str:
        """Who waits for what: units, and the operations that would make what they miss."""
        flat = [op for rank in self.ops for op in rank]
        makers = {made: op for made, op in zip(makes(self.table).tolist(), flat, strict=True) if op.kind != "W"}
        units = [(rank, step, unit) for rank, here in enumerate(self.ranks) for step, unit in enumerate(here)]
        lines = [f"schedule {self.name!r} deadlocks after {n_done} of {len(units)} ops:"]
        for at, lacks in missing.items():
            rank, step, unit = units[at]
            lines.append(f"  rank {rank} waits at step {step}: {unit} needs {' and '.join(str(makers[each]) for each in lacks)}")
        return "\n".join(lines)


def _placement(source: str, ranks: tuple[tuple[Unit, ...], ...]) -> str:
    """The placement that puts every op on the rank that runs it."""
    homes = {op: rank for rank, units in enumerate(ranks) for unit in units for op in members(unit)}
    pp = len(ranks)
    names = [*PLACEMENTS, BIDIRECTIONAL, *(f"{BIDIRECTIONAL}:{n}" for n in range(4, pp + 1, 2) if pp % n == 0)]
    for name in names:
        program = Program(source, ranks, name)
        if all(program.rank_of(op.stage, op.microbatch) == rank for op, rank in homes.items()):
            return name
    found = {op.stage: rank for op, rank in homes.items()}
    raise ValueError(f"{source} puts stages on ranks as no known placement does ({', '.join(names)}): {found}")


def _ranks(lines: Iterable[Iterable[str]]) -> tuple[tuple[Unit, ...], ...]:
    return tuple(tuple(parse_unit(text) for text in line) for line in lines)
