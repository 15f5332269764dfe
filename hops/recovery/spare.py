"""Spare: nodes stand by, and one takes the place of each that fails; what is repaired joins them.

All ranks stop, as with a restart, but nobody queues unless more nodes are away than stood by.
"""

from hops.recovery import Machine, State, recovery


@recovery(
    "spare", source="warm standby: ByteRobust (SOSP 2025), as cited; a cold start takes 200 s, of which NCCL 17: FT-HSDP (arXiv:2602.00277)"
)
def spare(*, spares: int = 8, teardown: float = 0.0, wake: float = 0.0, init: float = 17.0, load: float = 183.0) -> Machine:
    states = State("teardown", teardown), State("wake", wake, acquires=True), State("init", init), State("load", load)
    return Machine(states, spares=spares)
