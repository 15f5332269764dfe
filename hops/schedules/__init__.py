"""The door of schedules: one file here is a complete contribution.

A schedule is a function ``(pp, microbatches, **parameters) -> Program`` under the `schedule` decorator, which states
beside the code where the order comes from, which sizes it accepts and why, and what its paper claims, so that the
standing test (``tests/test_schedules.py``) can hold the code to it. Schedules with several chunks a rank
(``default_vpp``) take ``vpp`` as a third size, and so do all their claims.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from hops.checks import Infeasible, count
from hops.placements import PLACEMENTS
from hops.programs import Doubled, Fused, Op, Program, Unit
from hops.registry import Registry, keywords, open_door
from hops.routes import Routes

__all__ = [
    "SCHEDULES", "Constraint", "Doubled", "Fused", "Op", "Program", "Schedule", "Steady", "Times", "Unit",
    "alternate", "program", "schedule",
]  # fmt: skip


class Times(NamedTuple):
    """Uniform stage times that closed forms speak of; any one unit (the tests use ticks)."""

    f: int  # forward
    i: int  # backward for input
    w: int  # backward for weight
    hop: int  # one transfer, as pure latency

    @property
    def b(self) -> int:
        """Full backward."""
        return self.i + self.w


class Steady(NamedTuple):
    """What is measured of a schedule without a flush: whole batches, with the pipeline full.

    A rank takes for them from the end of its last backward before them to that of its last backward of them.
    """

    before: int  # batches that fill the pipeline
    batches: int  # that follow, and are measured
    microbatches: int  # in all, with those that are under way when these batches end

    def window(self, microbatches: int) -> tuple[int, int]:
        """The first and the last but one of the measured microbatches, of batches of ``microbatches``."""
        return self.before * microbatches, (self.before + self.batches) * microbatches


class Constraint(NamedTuple):
    """Which sizes a schedule accepts, and the reason in words that complete "<schedule> needs ..."."""

    holds: Callable[..., bool]  # (*sizes, **parameters)
    needs: str


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One schedule: how to write it, and what is claimed of it. Closed forms are exact where `exact_when` says.

    ``sizes`` are (pp, microbatches), with ``default_vpp`` (pp, microbatches, vpp).
    """

    name: str
    build: Callable[..., Program]
    source: str
    aliases: tuple[str, ...] = ()
    default_vpp: int | None = None  # chunks a rank where vpp=null; None: always one
    fixed_vpp: bool = False  # no other number of chunks is possible
    plans: str | None = None  # placement of a schedule whose order depends on times and memory, see `hops.nominal`; None: on sizes only
    routes: Callable[..., Routes] | None = None  # (*sizes, **parameters) through pipelines side by side; None: ranks are those of one
    steady: Callable[..., Steady] | None = None  # (*sizes, **parameters); None: a batch ends with a flush
    updates_each: bool = False  # weights are updated after every microbatch, not once a batch
    weight_versions: Callable[..., int] | None = None  # (*sizes, rank) -> copies of its weights that a rank keeps; None: one
    parts: Callable[..., int] | None = None  # (**parameters) -> parts in which a microbatch passes a stage; None: it passes whole
    version: Callable[..., str] = lambda **parameters: ""  # (**parameters) -> of a file that they name
    constraints: tuple[Constraint, ...] = ()
    makespan: Callable[..., int] | None = None  # (*sizes, Times)
    span: Callable[..., int] | None = None  # (*sizes, Times)
    period: Callable[..., int] | None = None  # (*sizes, Times) -> steady time of a batch
    exact_when: Callable[..., bool] = lambda *sizes: False  # (*sizes)
    unit_bubble: Callable[..., int] | None = None  # (*sizes) -> span less busy time where F, I and W of a chunk take 1, hops 0
    unit_when: Callable[..., bool] = lambda *sizes: False  # (*sizes): where that is exact
    in_flight: Callable[..., int] | None = None  # (*sizes, rank) -> chunk activations at the worst moment, or `parts` of them
    messages: Callable[..., int] | None = None  # (*sizes)

    @property
    def parameters(self) -> dict[str, Any]:
        """Keywords that the builder takes besides the sizes, with their defaults."""
        return keywords(self.build)

    def sizes(self, pp: int, microbatches: int, vpp: int | None) -> tuple[int, ...]:
        """Sizes as the builder and the claims take them; chunks that the schedule cannot have are an `Infeasible`."""
        if self.default_vpp is None:
            if vpp not in (None, 1):
                raise Infeasible(f"{self.name} has one chunk a rank; got vpp={vpp} (leave vpp=null)")
            return pp, microbatches
        chunks = self.default_vpp if vpp is None else vpp
        if self.fixed_vpp and chunks != self.default_vpp:
            raise Infeasible(f"{self.name} has {self.default_vpp} chunks a rank; got vpp={vpp} (leave vpp=null)")
        if chunks < 2:
            raise Infeasible(f"{self.name} has at least 2 chunks a rank; got vpp={vpp} (try vpp=2)")
        return pp, microbatches, chunks

    def units(self, pp: int, microbatches: int, params: dict[str, Any]) -> int:
        """Microbatches as the program counts them: their parts, or those of all batches that run into each other."""
        if self.steady is not None:
            return self.steady(pp, microbatches, **params).microbatches
        return microbatches * (1 if self.parts is None else self.parts(**params))

    def n_stages(self, pp: int, microbatches: int, vpp: int | None, params: dict[str, Any]) -> int:
        """Stages that a microbatch passes."""
        _, _, *chunks = self.sizes(pp, microbatches, vpp)
        if self.routes is None:
            return pp * (chunks or [1])[0]
        self.check(pp, microbatches, vpp, params)
        return self.routes(pp, microbatches, **params).n_stages

    def planned_seats(self, pp: int, microbatches: int, vpp: int | None, params: dict[str, Any]) -> tuple[tuple[int, ...], int]:
        """Rank of every stage, or seat, that its order is planned for, and how many pipelines these are."""
        n_stages = self.n_stages(pp, microbatches, vpp, params)
        if self.routes is not None:
            routes = self.routes(pp, microbatches, **params)
            return routes.seats, len(routes.ranks)
        if self.plans is None:
            raise ValueError(f"the order of {self.name} depends on sizes only")
        return tuple(PLACEMENTS[self.plans](pp, stage) for stage in range(n_stages)), 1

    def check(self, pp: int, microbatches: int, vpp: int | None, params: dict[str, Any]) -> None:
        """Raise `Infeasible` with the reason and the nearest sizes that work: microbatches, or else chunks, or else ranks."""
        _, _, *chunks = self.sizes(pp, microbatches, vpp)
        for constraint in self.constraints:

            def works(m: int, *chunks: int, holds: Callable[..., bool] = constraint.holds) -> bool:
                return holds(pp, m, *chunks, **params)

            if not works(microbatches, *chunks):
                below = next((m for m in range(microbatches - 1, 0, -1) if works(m, *chunks)), None)
                above = next((m for m in range(microbatches + 1, 2 * microbatches + 4 * pp) if works(m, *chunks)), None)
                near = " or ".join(f"{m}" for m in (below, above) if m is not None)
                found, hint = f"pp={pp} and microbatches={microbatches}", f" (try microbatches={near})" if near else ""
                for v in chunks if not near else ():
                    near = " or ".join(f"{n}" for n in (v - 1, v + 1) if n > 1 and works(microbatches, n))
                    found, hint = (f"vpp={v}", f" (try vpp={near})") if near else (found, hint)
                if not near:
                    reaches = range(pp - 1, 0, -1), range(pp + 1, 2 * pp + 1)
                    nearest = (next((n for n in ns if constraint.holds(n, microbatches, *chunks, **params)), None) for ns in reaches)
                    others = [n for n in nearest if n is not None]
                    hint = f" (try pp={' or '.join(map(str, others))})" if others else ""
                given = ", ".join(f"{key}={value}" for key, value in params.items() if value != self.parameters[key])
                raise Infeasible(f"{self.name} needs {constraint.needs}; got {found}{f' with {given}' if given else ''}{hint}")


def alternate(forward: list[Op], backward: list[Op], warmup: int) -> list[Op]:
    """The pattern of the 1F1B family: ``warmup`` forwards, then one forward and one backward in turn, then the other backwards."""
    warmup = min(warmup, len(forward))
    pairs = [op for pair in zip(forward[warmup:], backward, strict=False) for op in pair]
    return forward[:warmup] + pairs + backward[len(forward) - warmup :]


SCHEDULES: Registry[Schedule] = Registry("schedule")


def schedule(name: str, **claims: Any) -> Callable[[Callable[..., Program]], Callable[..., Program]]:
    """Register the decorated builder under ``name``; ``claims`` are the other fields of `Schedule`."""

    def register(build: Callable[..., Program]) -> Callable[..., Program]:
        record = Schedule(name=name, build=build, **claims)
        SCHEDULES.add(name, record, record.aliases)
        return build

    return register


def program(name: str, pp: int, microbatches: int, vpp: int | None = None, **params: Any) -> Program:
    """Write out schedule ``name`` for ``pp`` ranks and ``microbatches`` microbatches, validated.

    Raises ``ValueError`` for an unknown name or parameter and `Infeasible` for sizes that the schedule refuses.
    """
    record = SCHEDULES[name]
    pp, microbatches, vpp = count("pp", pp), count("microbatches", microbatches), None if vpp is None else count("vpp", vpp)
    for key in params:
        if key not in record.parameters:
            known = ", ".join(record.parameters) or "none"
            raise ValueError(f"{record.name} has no parameter {key!r} (known: {known})")
    record.check(pp, microbatches, vpp, params)
    return record.build(*record.sizes(pp, microbatches, vpp), **params).validate()


open_door(__name__, __path__)
