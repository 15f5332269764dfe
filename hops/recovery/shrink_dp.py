"""Shrink: the job goes on with the replicas that are left, and takes a replica back when its node has been repaired.

A replica (of shared optimizer states as many together as hold them all) is lost as a whole; its other nodes stand idle. With
``keep_global_batch`` those that are left train on its microbatches as well, so that iterations take longer; else on fewer samples.
The iteration under way is done again; ``redo`` is what that takes besides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hops.checks import flag
from hops.recovery import QUEUE, UNITS, Elastic, Machine, Plan, State, recovery


@dataclass(frozen=True)
class Shrunk:
    """Plans for fewer replicas."""

    keep_global_batch: bool

    def __call__(self, scenario: Any, missing: int, gpus: int) -> Sequence[Plan]:
        """The scenario with fewer replicas, the slowest with its share of the microbatches, or the next multiple of pp."""
        dp = scenario.dp - missing
        if dp < 1:
            return []
        if missing == 0 or not self.keep_global_batch:
            return [Plan((replace(scenario, dp=dp),))]
        total = scenario.microbatches * scenario.dp
        share, samples = -(-total // dp), total * scenario.microbatch_size
        shares = dict.fromkeys((share, -(-share // scenario.pp) * scenario.pp))
        return [Plan((replace(scenario, dp=dp, microbatches=each),), samples=samples) for each in shares]


@recovery(
    "shrink_dp",
    source="FT-HSDP (arXiv:2602.00277), as cited: it stalls 3 minutes, of which 60 s are a timeout and 20 s a step done again, and 100 s "
    "when a replica joins, which gets ready in about 7 minutes; a restart takes 600 s at 64K GPUs, of which NCCL 100",
)
def shrink_dp(
    *,
    keep_global_batch: bool = False,
    reconfigure: float = 100.0,
    redo: float = 0.0,
    rejoin: float = 420.0,
    join: float = 100.0,
    queue: float = 0.0,
    init: float = 17.0,
    load: float = 183.0,
) -> Machine:
    """See above; ``queue``, ``init`` and ``load`` are for when no replica is left that has all."""
    elastic = Elastic(
        Shrunk(flag("recovery.keep_global_batch", keep_global_batch)),
        "replica",
        (State("reconfigure", reconfigure), State("redo", redo)),
        (State("join", join),),
        rejoin,
        UNITS,
    )
    return Machine((State("queue", queue, QUEUE), State("init", init), State("load", load)), elastic=elastic)
