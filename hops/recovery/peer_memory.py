"""Peer memory: after every iteration each node has its state in the memory of others; who fails loads it from them.

``stall`` is what training waits for that which does not fit beside it. Where a whole group of nodes is lost, the last durable
checkpoint is loaded.
"""

from hops.recovery import QUEUE, Machine, Memory, State, recovery


@recovery("peer_memory", source="Wang et al. 2023, Gemini (SOSP), placement in groups; init as for restart, fetch assumed")
def peer_memory(
    *, copies: int = 2, every: int = 1, stall: float = 0.0, queue: float = 0.0, init: float = 17.0, fetch: float = 10.0, load: float = 183.0
) -> Machine:
    start = State("queue", queue, QUEUE), State("init", init)
    return Machine((*start, State("load", load)), Memory((*start, State("fetch", fetch)), "peers", copies, every, stall))
