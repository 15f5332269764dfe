"""Re-partition: whoever is left shares the whole model anew, in the number of ranks and replicas that trains fastest.

All batches stay as large as they were. What the new owners of a stage lack they get from who else holds it, in ``move`` seconds (null:
what a GPU holds, over the narrowest link of the cluster), or all load the last durable checkpoint (``get_from=checkpoint``).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hops.checks import one_of
from hops.recovery import QUEUE, REPLICAS, Elastic, Machine, Plan, State, recovery


@dataclass(frozen=True)
class Repartitioned:
    """Plans for all ranks up to twice as many as there were, each with as many replicas as there are GPUs for."""

    def __call__(self, scenario: Any, missing: int, gpus: int) -> Sequence[Plan]:
        """The scenario itself, or with other numbers of ranks, replicas and microbatches."""
        s = scenario
        if missing == 0:
            return [Plan((s,))]
        total, shard = s.microbatches * s.dp, 1 if s.data_parallel.zero == 0 else s.data_parallel.shard
        found = []
        for pp in range(1, 2 * s.pp + 1):
            dp = gpus // (pp * s.tp * s.cp)
            if dp:
                model = of_whole(s.model, s.pp) if pp != s.pp else s.model
                cell = replace(s, pp=pp, dp=dp, microbatches=-(-total // dp), model=model)
                found.append(Plan((cell,), samples=total * s.microbatch_size, redundant=shard is not None and dp > shard))
        return found


def of_whole(model: Any, n: int) -> Any:
    """A model whose explicit times are of ranks, given for ``n`` of them, with those of the whole."""
    if getattr(model, "per", None) != "rank":
        return model
    keys = [key for key in ("forward", "backward_input", "backward_weight", "overlapped") if getattr(model, key) is not None]
    given = {key: getattr(model, key) for key in keys}
    return replace(model, per="model", **{key: sum(each) if isinstance(each, tuple) else n * each for key, each in given.items()})


@recovery(
    "repartition",
    source="Athlur et al. 2022, Varuna (EuroSys), morphs from checkpoints; Parcae (NSDI 2024) migrates from peers; as cited. "
    "reconfigure is assumed",
)
def repartition(
    *,
    get_from: str = "peers",
    reconfigure: float = 20.0,
    move: float | None = None,
    rejoin: float = 0.0,
    queue: float = 0.0,
    init: float = 17.0,
    load: float = 183.0,
) -> Machine:
    """See above; ``queue``, ``init`` and ``load`` are for when all load the checkpoint. To join takes ``reconfigure`` and ``move`` too."""
    peers = one_of("recovery.get_from", get_from, ("peers", "checkpoint")) == "peers"
    start = State("queue", queue, QUEUE), State("init", init), State("load", load)
    change = State("reconfigure", reconfigure), State("move", 0.0 if move is None else move, moves=move is None)
    there = change if peers else start
    return Machine(start, elastic=Elastic(Repartitioned(), "node", there, there, rejoin, REPLICAS if peers else None))
