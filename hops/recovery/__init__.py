"""The door of recovery strategies: one file here is a complete contribution.

A strategy is a function ``(*, ...) -> Machine`` under the `recovery` decorator: which states a job passes from the moment
a failure is known until it trains again, how long each takes, and from where it goes on. Its keywords are the keys of the
config group, with their defaults. The engine (``hops.episodes``) walks the states; a failure in one begins the episode anew.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hops.checks import count, positive
from hops.registry import Registry, keywords, open_door

__all__ = ["QUEUE", "RECOVERIES", "RECOVERY", "Machine", "Memory", "Recovery", "State", "recovery"]

RECOVERY, QUEUE = "recovery", "queue"  # buckets of the ledger that a state's time is booked to


@dataclass(frozen=True)
class State:
    """One state on the way back: ``seconds`` in it, and the bucket that they are booked to.

    One that ``acquires`` begins when there is a spare for every node that failed; the wait for them is booked as queue.
    """

    name: str
    seconds: float
    bucket: str = RECOVERY
    acquires: bool = False

    def __post_init__(self) -> None:
        positive(f"recovery.{self.name}", self.seconds, zero=True)


@dataclass(frozen=True)
class Memory:
    """Copies of the training state in the memory of other nodes, after ``every`` so many iterations; each stops training for ``cost``.

    ``holders`` says who has them: "peers", every one of a group of ``copies`` neighbouring nodes (Gemini), or "replicas", the GPUs
    that hold the same weights and optimizer states anyway. They help where no such group is lost as a whole.
    """

    states: tuple[State, ...]
    holders: str
    copies: int = 2
    every: int = 1
    cost: float = 0.0

    def __post_init__(self) -> None:
        count("recovery.copies", self.copies, least=2)
        count("recovery.every", self.every)
        positive("recovery.stall", self.cost, zero=True)


@dataclass(frozen=True)
class Machine:
    """How a job recovers. ``states`` begin when the failure is known; then training goes on from the last durable checkpoint.

    With ``memory`` it goes on from there instead, by the states of that, wherever a copy of everything has survived. ``spares`` are
    nodes that stand by; what is repaired becomes one of them.
    """

    states: tuple[State, ...]
    memory: Memory | None = None
    spares: int = 0

    def __post_init__(self) -> None:
        count("recovery.spares", self.spares, least=0, most=255)


@dataclass(frozen=True)
class Recovery:
    """One strategy: how to make its machine, and where it comes from."""

    name: str
    make: Callable[..., Machine]
    source: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Keys of the config group with their defaults."""
        return keywords(self.make)


RECOVERIES: Registry[Recovery] = Registry("recovery")


def recovery(name: str, *, source: str) -> Callable[[Callable[..., Machine]], Callable[..., Machine]]:
    """Register the decorated builder under ``name``."""

    def register(make: Callable[..., Machine]) -> Callable[..., Machine]:
        RECOVERIES.add(name, Recovery(name, make, source))
        return make

    return register


open_door(__name__, __path__)
