"""Retry: messages on a link that stands still are sent again, until all tries have timed out; then the link is dead, and they take another.

The timeouts are those of the keys ``retry``. What is left of the bandwidth is ``bandwidth``, from ``reroute`` seconds after the link's
death until it works again; with none left its node fails the moment the link is dead. Failures are as with a restart.
"""

from dataclasses import replace

from hops.recovery import Detour, Machine, recovery
from hops.recovery.restart import restart


@recovery("retry", source="7 of 8 NICs are left: R2CCL, as cited; timeouts: NCCL's over InfiniBand, see the keys retry")
def retry(
    *,
    bandwidth: float = 0.875,
    reroute: float = 0.0,
    teardown: float = 0.0,
    queue: float = 0.0,
    init: float = 17.0,
    load: float = 183.0,
) -> Machine:
    return replace(restart(teardown=teardown, queue=queue, init=init, load=load), detour=Detour(bandwidth, reroute))
