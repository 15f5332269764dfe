"""Restart: all ranks stop, start again and load the last checkpoint; what was trained since is done again.

``queue`` is the time to get a node for the one that failed, 0 where one stands by in the allocation.
"""

from hops.recovery import QUEUE, Machine, State, recovery


@recovery("restart", source="a cold start of 16K GPUs takes 200 s, of which NCCL 17: FT-HSDP (arXiv:2602.00277), fig. 2, as cited")
def restart(*, teardown: float = 0.0, queue: float = 0.0, init: float = 17.0, load: float = 183.0) -> Machine:
    return Machine((State("teardown", teardown), State("queue", queue, QUEUE), State("init", init), State("load", load)))
