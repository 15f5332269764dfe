"""Table: an elastic job whose speed was measured, with all of its nodes, with one less, and so on; in place of what HOPS would find.

``samples_per_second`` lists it; 0, or no value, where the job cannot go on: it waits for repairs then, and loads the last durable
checkpoint. ``get_from=checkpoint``: it loads that whenever a node fails.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hops.checks import count, one_of, positive
from hops.recovery import QUEUE, UNITS, Elastic, Machine, Plan, State, recovery


@dataclass(frozen=True)
class Measured:
    """Plans whose iterations take as long as their samples at the rate that was measured."""

    samples_per_second: tuple[float, ...]
    samples: int | None

    def __call__(self, scenario: Any, missing: int, gpus: int) -> Sequence[Plan]:
        """The measurement for so many nodes less."""
        rate = self.samples_per_second[missing] if missing < len(self.samples_per_second) else 0.0
        samples = scenario.microbatches * scenario.microbatch_size * scenario.dp if self.samples is None else self.samples
        return [Plan(seconds=samples / rate, samples=samples, n_gpus=gpus)] if rate else []


@recovery("table", source="measurements of the user's own; what else it takes as Oobleck on BERT-large: Jang et al. 2023 (SOSP), as cited")
def table(
    *,
    samples_per_second: Any = (1.0, 0.9),
    samples: int | None = None,
    get_from: str = "peers",
    reconfigure: float = 2.0,
    rejoin: float = 0.0,
    join: float = 2.0,
    queue: float = 0.0,
    init: float = 17.0,
    load: float = 183.0,
) -> Machine:
    """See above; ``samples`` of an iteration, null: those of the scenario; ``queue``, ``init`` and ``load`` are those of a restart."""
    key = "recovery.samples_per_second"
    if not isinstance(samples_per_second, (list, tuple)) or len(samples_per_second) < 2:
        raise ValueError(f"{key} must list samples/s of all nodes, of one less and so on, such as [368,362]; got {samples_per_second!r}")
    rates = tuple(positive(key, rate, zero=i > 0) for i, rate in enumerate(samples_per_second))
    measured = Measured(rates, None if samples is None else count("recovery.samples", samples))
    peers = one_of("recovery.get_from", get_from, ("peers", "checkpoint")) == "peers"
    start = State("queue", queue, QUEUE), State("init", init), State("load", load)
    there, back = ((State("reconfigure", reconfigure),), (State("join", join),)) if peers else (start, start)
    return Machine(start, elastic=Elastic(measured, "node", there, back, rejoin, UNITS if peers else None))
