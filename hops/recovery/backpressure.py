"""Backpressure: what stands still is waited for, however long it takes, and nothing is given up; failures are as with a restart.

Microbatches wait in front of a link or a GPU that stands still, and those behind them in front of them: how many stages that reaches is a
matter of the room between stages (the key ``queue``).
"""

from dataclasses import replace

from hops.recovery import Machine, recovery
from hops.recovery.restart import restart


@recovery("backpressure", source="a timeout longer than any flap: MegaScale (NSDI 2024) raises NCCL's, as cited; blocking queues: textbook")
def backpressure(*, teardown: float = 0.0, queue: float = 0.0, init: float = 17.0, load: float = 183.0) -> Machine:
    return replace(restart(teardown=teardown, queue=queue, init=init, load=load), waits=True)
