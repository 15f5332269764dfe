"""The door of schedules: one file here is a complete contribution.

A schedule is a function ``(pp, microbatches, **parameters) -> Program`` under the `schedule` decorator, which states
beside the code where the order comes from, which sizes it accepts and why, and what its paper claims, so that the
standing test (``tests/test_schedules.py``) can hold the code to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from hops.checks import Infeasible, count
from hops.programs import Op, Program
from hops.registry import Registry, keywords, open_door

__all__ = ["SCHEDULES", "Constraint", "Op", "Program", "Schedule", "Times", "program", "schedule"]


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


class Constraint(NamedTuple):
    """Which sizes a schedule accepts, and the reason in words that complete "<schedule> needs ..."."""

    holds: Callable[[int, int], bool]  # (pp, microbatches)
    needs: str


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One schedule: how to write it, and what is claimed of it. Closed forms are exact where `exact_when` says."""

    name: str
    build: Callable[..., Program]
    source: str
    aliases: tuple[str, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    makespan: Callable[[int, int, Times], int] | None = None
    span: Callable[[int, int, Times], int] | None = None
    exact_when: Callable[[int, int], bool] = lambda p, m: False
    in_flight: Callable[[int, int, int], int] | None = None  # (pp, microbatches, rank) -> activations at the worst moment
    messages: Callable[[int, int], int] | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        """Keywords that the builder takes besides the sizes, with their defaults."""
        return keywords(self.build)

    def check(self, pp: int, microbatches: int) -> None:
        """Raise `Infeasible` with the reason and the nearest microbatch counts that work."""
        for constraint in self.constraints:
            if not constraint.holds(pp, microbatches):
                below = next((m for m in range(microbatches - 1, 0, -1) if constraint.holds(pp, m)), None)
                above = next((m for m in range(microbatches + 1, 2 * microbatches + 4 * pp) if constraint.holds(pp, m)), None)
                near = " or ".join(str(m) for m in (below, above) if m is not None)
                hint = f" (try microbatches={near})" if near else ""
                raise Infeasible(f"{self.name} needs {constraint.needs}; got pp={pp} and microbatches={microbatches}{hint}")


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
    pp, microbatches = count("pp", pp), count("microbatches", microbatches)
    if vpp not in (None, 1):
        raise Infeasible(f"{record.name} has one chunk a rank; got vpp={vpp} (leave vpp=null)")
    for key in params:
        if key not in record.parameters:
            known = ", ".join(record.parameters) or "none"
            raise ValueError(f"{record.name} has no parameter {key!r} (known: {known})")
    record.check(pp, microbatches)
    return record.build(pp, microbatches, **params).validate()


open_door(__name__, __path__)
