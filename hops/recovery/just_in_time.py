"""Just in time: a checkpoint is written when something has failed, by those that hold the same state; nothing but the iteration is lost.

Where no replica with the same weights and optimizer states survives, the last durable checkpoint is loaded.
"""

from hops.recovery import QUEUE, Machine, Memory, State, recovery


@recovery("just_in_time", source="Gupta et al. 2024, Just-In-Time Checkpointing (EuroSys), as cited; times as for restart, save assumed")
def just_in_time(*, save: float = 10.0, queue: float = 0.0, init: float = 17.0, load: float = 183.0) -> Machine:
    start = State("queue", queue, QUEUE), State("init", init), State("load", load)
    return Machine(start, Memory((State("save", save), *start), "replicas"))
