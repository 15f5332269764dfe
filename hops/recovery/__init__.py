"""The door of recovery strategies: one file here is a complete contribution.

A strategy is a function ``(*, ...) -> Machine`` under the `recovery` decorator: which states a job passes from the moment
a failure is known until it trains again, how long each takes, and from where it goes on. Its keywords are the keys of the
config group, with their defaults. The engine (``hops.episodes``) walks the states; a failure in one begins the episode anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hops.checks import count, positive, speed_of
from hops.registry import Registry, keywords, open_door

__all__ = [
    "NEIGHBOURS", "QUEUE", "RECOVERIES", "RECOVERY", "REPLICAS", "UNITS", "Detour", "Elastic", "Ladder", "Machine", "Memory", "Plan",
    "Recovery", "State", "recovery",
]  # fmt: skip

RECOVERY, QUEUE = "recovery", "queue"  # buckets of the ledger that a state's time is booked to
UNITS, REPLICAS, NEIGHBOURS = "units", "replicas", "neighbours"  # who holds the states of those that failed


@dataclass(frozen=True)
class State:
    """One state on the way back: ``seconds`` in it, and the bucket that they are booked to.

    One that ``acquires`` begins when there is a spare for every node that failed; the wait for them is booked as queue. One that
    ``moves`` takes as long as well as the weights and optimizer states of a GPU on the narrowest link of the cluster.
    """

    name: str
    seconds: float
    bucket: str = RECOVERY
    acquires: bool = False
    moves: bool = False

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
class Plan:
    """How a job trains while some of its units are missing: ``cells``, scenarios side by side, an iteration as long as the slowest's.

    Or ``seconds`` of an iteration outright, without cells. ``samples`` of an iteration and ``n_gpus`` that have work: null, those of
    the cells. ``slowdown`` multiplies the time. ``redundant``: every state has another holder, so that one more failure can be survived.
    """

    cells: tuple[Any, ...] = ()
    seconds: float | None = None
    samples: int | None = None
    n_gpus: int | None = None
    slowdown: float = 1.0
    redundant: bool = True


@dataclass(frozen=True)
class Elastic:
    """How a job goes on with the units that are left: a failure of a node takes out the "node", or every "replica" that has a part there.

    ``plans(scenario, missing, gpus)`` are plans for a job without so many nodes or replicas, so that so many GPUs are left: the one
    with most samples a second counts; where there is none the job waits for repairs. When a failure is known the job passes the states
    of ``switch`` and trains by the new plan; the iteration under way is lost, and nothing else as long as others hold the states of
    who failed. ``holders`` says who does: "units", each holds them all; "replicas", those of the same weights and optimizer states;
    "neighbours", of a node the one before it; null: nobody, so that the job goes back to the last durable checkpoint by the states of
    the machine. With ``renews`` who is left makes new
    copies, else states have fewer holders until a node joins again. ``rejoin`` seconds after its repair, in which it gets ready
    beside training, a node takes its place: at the end of the iteration, by the states of ``join``.
    """

    plans: Callable[[Any, int, int], Sequence[Plan]]
    unit: str = "node"
    switch: tuple[State, ...] = ()
    join: tuple[State, ...] = ()
    rejoin: float = 0.0
    holders: str | None = REPLICAS
    renews: bool = True

    def __post_init__(self) -> None:
        positive("recovery.rejoin", self.rejoin, zero=True)


@dataclass(frozen=True)
class Detour:
    """Where messages go once a link that stands still is dead: another way with ``bandwidth`` of its own, found ``delay`` seconds later.

    With no bandwidth there is none, and the link's node fails.
    """

    bandwidth: float
    delay: float = 0.0

    def __post_init__(self) -> None:
        speed_of("recovery.bandwidth", self.bandwidth, 1)
        positive("recovery.reroute", self.delay, zero=True)


@dataclass(frozen=True)
class Ladder:
    """What a job does about being slow once it has lost so many seconds by it: ``rebalance`` its microbatches, ``evict`` a node.

    It takes itself to be slow when ``patience`` iterations in a row take longer than usual by the share ``threshold``.
    """

    threshold: float
    patience: int
    rebalance: float
    evict: float

    def __post_init__(self) -> None:
        positive("recovery.threshold", self.threshold)
        count("recovery.patience", self.patience)
        positive("recovery.rebalance", self.rebalance, zero=True)
        positive("recovery.evict", self.evict, zero=True)


@dataclass(frozen=True)
class Machine:
    """How a job recovers. ``states`` begin when the failure is known; then training goes on from the last durable checkpoint.

    With ``memory`` it goes on from there instead, by the states of that, wherever a copy of everything has survived. ``spares`` are
    nodes that stand by; what is repaired becomes one of them. An ``elastic`` job has neither, but goes on without who failed.
    What stands still is given up after ``failure.timeout``; or never, if the job ``waits``; a link with a ``detour`` when all tries of
    a message have timed out. What is slow for long makes it climb a ``ladder``.
    """

    states: tuple[State, ...]
    memory: Memory | None = None
    spares: int = 0
    elastic: Elastic | None = None
    waits: bool = False
    detour: Detour | None = None
    ladder: Ladder | None = None

    def __post_init__(self) -> None:
        count("recovery.spares", self.spares, least=0, most=255)
        if self.elastic is not None and (self.memory is not None or any(state.acquires for state in self.states)):
            raise ValueError("an elastic job has no spares, and no copies in memory but those of the units that are left")


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
