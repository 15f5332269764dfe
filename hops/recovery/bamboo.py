"""Bamboo: every node can do the work of the next one too, and does when that fails; iterations are slower until another has joined.

The node before one that fails has its weights and optimizer states. Where that has failed too, all load the last durable checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hops.checks import positive
from hops.recovery import NEIGHBOURS, QUEUE, Elastic, Machine, Plan, State, recovery


@dataclass(frozen=True)
class TakenOver:
    """The same work on fewer nodes, some of which do twice as much."""

    slowdown: float
    overhead: float

    def __call__(self, scenario: Any, missing: int, gpus: int) -> Sequence[Plan]:
        """The scenario, slower; of nodes that are all but half gone none is left to take over."""
        redundancy = 1 + self.overhead
        if missing == 0:
            return [Plan((scenario,), slowdown=redundancy)]
        n = scenario.layout.n_gpus
        return [Plan((scenario,), n_gpus=gpus, slowdown=redundancy * self.slowdown)] if 2 * gpus >= n else []


@recovery(
    "bamboo",
    source="Thorpe et al. 2023, Bamboo (NSDI): its simulator takes 20 s to take over (BERT, GPT-2), 45 s for a new "
    "node, 30 s from a checkpoint, and iterations 1.5 times as long, as cited; what redundancy always costs is not cited",
)
def bamboo(
    *, slowdown: float = 1.5, overhead: float = 0.0, pause: float = 20.0, rejoin: float = 45.0, join: float = 20.0, rendezvous: float = 30.0
) -> Machine:
    """See above; ``pause`` to take over, ``rejoin`` to make a node, ``join`` to take it in, ``rendezvous`` from a checkpoint."""
    if positive("recovery.slowdown", slowdown) < 1:
        raise ValueError(f"recovery.slowdown must be a factor of at least 1; got {slowdown!r}")
    plans = TakenOver(float(slowdown), positive("recovery.overhead", overhead, zero=True))
    states = State("queue", 0.0, QUEUE), State("rendezvous", rendezvous)
    return Machine(
        states, elastic=Elastic(plans, "node", (State("pause", pause),), (State("join", join),), rejoin, NEIGHBOURS, renews=False)
    )
