"""ReCycle: replicas take over the microbatches of a rank that is gone, those that hold its stage in turn; nothing moves, nobody restarts.

Backwards are decoupled, so that weight passes fill what gaps 1F1B leaves (``hops.schedules.rerouted``), with all microbatches in flight,
or twice as many as 1F1B has, or as many; or backwards stay whole: the fastest plan that fits memory counts. The iteration under way is done
again. Peers of a stage can stand for each other, and states can be copied, so which ranks are gone counts for less than how many: a
plan is for failures that are spread over pipelines and stages as evenly as can be. The last stage fails first, where it costs most: its
peers begin last. A stage that nobody holds ends it: then the job waits for a repair.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hops.checks import Infeasible, flag
from hops.recovery import QUEUE, REPLICAS, Elastic, Machine, Plan, State, recovery
from hops.schedules import SCHEDULES


def spread(n: int, pipelines: int, stages: int) -> tuple[tuple[int, int], ...]:
    """Pipelines and stages of ``n`` ranks that are gone, evenly over both: from the last stage on, each in another pipeline."""
    found = set[tuple[int, int]]()
    for i in range(n):
        stage = stages - 1 - i % stages
        turns = ((i + more) % pipelines for more in range(pipelines))
        found.add(next((pipeline, stage) for pipeline in turns if (pipeline, stage) not in found))
    return tuple(sorted(found))


@dataclass(frozen=True)
class Rerouted:
    """Plans without some ranks."""

    decoupled: bool

    def __call__(self, scenario: Any, missing: int, gpus: int) -> Sequence[Plan]:
        """The scenario with all its replicas as one program; `Infeasible` where it has no peers, or what they share is not modelled."""
        s = scenario
        check(s)
        if missing == 0:
            return [Plan((s,))]
        rank, total = s.tp * s.cp, s.layout.n_gpus
        gone = missing * -(-(total - gpus) // (missing * rank))
        if gone > s.pp * (s.dp - 1):
            return []
        failed = spread(gone, s.dp, s.pp)
        ways: list[dict[str, Any]] = [{}, {"rounds": 2}, {"rounds": 1}] if self.decoupled else []
        redundant = s.dp - -(-gone // s.pp) > 1
        cells = [rerouted(s, failed, way) for way in (*ways, {"decoupled": False})]
        return [Plan((cell,), redundant=redundant) for cell in cells]


def check(s: Any) -> None:
    """Refuse what cannot be rerouted, by name."""
    record, shared = SCHEDULES[s.schedule.name], s.data_parallel
    if s.dp == 1:
        raise Infeasible("recovery=recycle lets other replicas take over microbatches, and dp=1 has none (try dp=2 or more)")
    if record.default_vpp is not None or record.parts is not None or record.steady is not None:
        raise Infeasible(
            f"recovery=recycle reroutes pipelines of one stage a rank that end with a flush; {record.name} is none (try schedule=1f1b)"
        )
    if shared.zero:
        shard = shared.shard or "null"
        raise Infeasible(f"recovery=recycle needs replicas that hold all states; got zero={shared.zero} and dp_shard={shard} (try zero=0)")
    if s.ep > 1:
        raise Infeasible(f"recovery=recycle has no peers for experts that replicas share; got ep={s.ep} (try ep=1)")


def rerouted(s: Any, failed: tuple[tuple[int, int], ...], way: dict[str, Any]) -> Any:
    """The scenario whose ranks are those that are left of all replicas, each on the devices that it had."""
    params = tuple(sorted({"pipelines": s.dp, "failed": failed, **way}.items()))
    types = tuple(((int, int),) * len(failed) if key == "failed" else type(value) for key, value in params)
    schedule = s.schedule._replace(name="rerouted", params=params, types=types, version="")
    left = [(stage, pipeline) for stage in range(s.pp) for pipeline in range(s.dp) if (pipeline, stage) not in failed]
    given = s.topology.kwargs.get("order")
    devices = given if isinstance(given, (list, tuple)) else range(s.layout.n_gpus)
    gpus = [s.layout.gpu(stage, pipeline, i, j) for stage, pipeline in left for j in range(s.cp) for i in range(s.tp)]
    kept = {key: (kind, value) for (key, value), kind in zip(s.topology.params, s.topology.types, strict=True)}
    kept["order"] = (int,) * len(gpus), tuple(devices[gpu] for gpu in gpus)
    keys = tuple(sorted(kept))
    topology = s.topology._replace(params=tuple((key, kept[key][1]) for key in keys), types=tuple(kept[key][0] for key in keys))
    return replace(s, schedule=schedule, topology=topology, pp=len(left), dp=1, vpp=None, microbatches=s.dp * s.microbatches)


@recovery(
    "recycle",
    source="Gandhi et al. 2024, ReCycle (SOSP; arXiv:2405.14009, from memory): no restart, nothing moves, a plan is looked up; "
    "reroute and join are assumed",
)
def recycle(
    *,
    decoupled: bool = True,
    reroute: float = 1.0,
    rejoin: float = 0.0,
    join: float = 10.0,
    queue: float = 0.0,
    init: float = 17.0,
    load: float = 183.0,
) -> Machine:
    """See above; ``reroute`` to look up the plan, ``join`` to copy states to who joins.

    ``queue``, ``init`` and ``load`` are for when nobody is left who has a state.
    """
    plans = Rerouted(flag("recovery.decoupled", decoupled))
    elastic = Elastic(plans, "node", (State("reroute", reroute),), (State("join", join),), rejoin, REPLICAS, renews=False)
    return Machine((State("queue", queue, QUEUE), State("init", init), State("load", load)), elastic=elastic)
