"""Rerouted: pipelines side by side, some of whose ranks are gone; who holds the same stage elsewhere runs their microbatches too.

``failed`` lists the pipeline and the stage of every rank that is gone. What a rank would have run is dealt out in turn to those that hold
its stage in the other ``pipelines``; with none gone these are pipelines of their own. Ranks are numbered stage by stage, and microbatches,
those of all pipelines together, pipeline by pipeline. Whoever is free runs a backward for which the gradient is there, else a forward, in
the order in which they come.

With ``decoupled`` a backward is two passes: the one for the input goes first, and weight passes fill the gaps and the end, so that
the L microbatches of a peer leave none: it is done L (f + b) after its first begins, if it may hold as many activations. ``rounds``
limits these to so many times those of 1F1B (null: no limit). Without, a backward is one pass, with as many activations as 1F1B has for
as many microbatches, and the gaps of 1F1B are left.
"""

from heapq import heapify, heappop, heappush
from typing import Any

from hops.checks import count, flag
from hops.nominal import nominal
from hops.routes import Place, Routes, named, reroute
from hops.schedules import Constraint, Op, Program, schedule


def places(failed: Any) -> tuple[Place, ...]:
    """Pipeline and stage of every rank that is gone, checked and in order."""
    pairs = failed if isinstance(failed, (list, tuple)) else (failed,)
    if any(not isinstance(pair, (list, tuple)) or len(pair) != 2 for pair in pairs):
        raise ValueError(f"schedule.failed must list pipeline and stage of every rank that is gone, such as [[2,3]]; got {failed!r}")
    found = sorted((count("schedule.failed: a pipeline", d, least=0), count("schedule.failed: a stage", s, least=0)) for d, s in pairs)
    if len(set(found)) < len(found):
        raise ValueError(f"schedule.failed names a rank twice: {failed!r}")
    return tuple(found)


def stages(pp: int, pipelines: int, failed: Any) -> int:
    """Of a pipeline; 0 where ranks do not come out."""
    n, rest = divmod(pp + len(places(failed)), count("schedule.pipelines", pipelines))
    return 0 if rest else n


def routes(pp: int, microbatches: int, pipelines: int = 1, failed: Any = (), **parameters: Any) -> Routes:
    return reroute(pipelines, stages(pp, pipelines, failed), microbatches // pipelines, places(failed))


@schedule(
    "rerouted",
    source="Gandhi et al. 2024, ReCycle (SOSP; arXiv:2405.14009, from memory): peers of a failed worker take over, backwards decoupled; "
    "the order is ours",
    plans="line",
    routes=routes,
    constraints=(
        Constraint(
            lambda p, m, pipelines=1, failed=(), **others: stages(p, pipelines, failed) > 0,
            "as many ranks as are left of pipelines with equal numbers of stages: pp + those that failed divisible by pipelines",
        ),
        Constraint(
            lambda p, m, pipelines=1, failed=(), **others: m % pipelines == 0,
            "microbatches divisible by pipelines, each of which has as many",
        ),
        Constraint(
            lambda p, m, pipelines=1, failed=(), **others: all(
                d < pipelines and s < stages(p, pipelines, failed) for d, s in places(failed)
            ),
            "failed to name ranks of its pipelines and stages, both counted from 0",
        ),
    ),
    makespan=lambda p, m, t: m * (t.f + t.b) + (p - 1) * (t.f + t.hop),  # of one pipeline: weight passes outlast the way back
    exact_when=lambda p, m: m >= 2 * p - 1,
    unit_bubble=lambda p, m: 0,
    unit_when=lambda p, m: m >= 2 * p - 1,
    messages=lambda p, m: 2 * m * (p - 1),
)
def rerouted(
    pp: int,
    microbatches: int,
    *,
    pipelines: int = 1,
    failed: Any = (),
    decoupled: bool = True,
    rounds: Any = None,
    forward: Any = None,
    backward_input: Any = None,
    backward_weight: Any = None,
    hop: Any = None,
) -> Program:
    """See `hops.nominal.nominal` for the times: of every stage of one route of microbatches after another (`hops.routes`)."""
    found, gone, split = routes(pp, microbatches, pipelines, failed), places(failed), flag("schedule.decoupled", decoupled)
    s, seats, each = found.n_stages, found.seats, microbatches // pipelines
    plan = nominal("rerouted", seats, forward, backward_input, backward_weight, hop)
    stage_of = {rank: seat % s for seat, rank in enumerate(seats)}
    loads = [0] * pp
    for route in found.route:
        for rank in found.ranks[route]:
            loads[rank] += 1
    most = microbatches if split and rounds is None else 1 if rounds is None else count("schedule.rounds", rounds)
    limit = [-(-most * (s - stage_of[rank]) * loads[rank] // each) for rank in range(pp)]

    kinds = "FIW" if split else "FB"
    took = dict(zip("FIW", (plan.forward, plan.backward_input, plan.backward_weight), strict=True))
    took["B"] = tuple(i + w for i, w in zip(plan.backward_input, plan.backward_weight, strict=True))
    ready: list[dict[str, list[tuple[int, int, int]]]] = [{kind: [] for kind in kinds} for _ in range(pp)]  # since when, which
    ranks: list[list[Op]] = [[] for _ in range(pp)]
    busy_until, held = [0] * pp, [0] * pp
    # what comes to a rank: (when, rank, kind, microbatch of its pipeline, microbatch of all); a kind of "" is the end of an op
    events = [(0, found.ranks[route][0], "F", k % each, k) for k, route in enumerate(found.route)]
    heapify(events)
    while events:
        now = events[0][0]
        awake = set()
        while events and events[0][0] == now:
            _, rank, kind, turn, k = heappop(events)
            awake.add(rank)
            if kind:
                heappush(ready[rank][kind], (now, turn, k))
        for rank in sorted(awake):
            waiting = ready[rank]
            full = held[rank] >= limit[rank]
            due = next((kind for kind in (kinds[1], *("F" * (not full)), *kinds[2:]) if waiting[kind]), None)
            if due is None or busy_until[rank] > now:
                continue
            _, turn, k = heappop(waiting[due])
            way, stage = found.route[k], stage_of[rank]
            seat = way * s + stage
            ends = busy_until[rank] = now + took[due][seat]
            ranks[rank].append(Op(stage, due, k))
            heappush(events, (ends, rank, "", 0, 0))
            if due == "F":
                held[rank] += 1
                there = (ends + plan.hop[seat], seats[seat + 1], "F") if stage < s - 1 else (ends, rank, kinds[1])
                heappush(events, (*there, turn, k))
                continue
            if due == kinds[-1]:
                held[rank] -= 1
            if due != "W" and stage:
                heappush(events, (ends + plan.hop[seat - 1], seats[seat - 1], kinds[1], turn, k))
            if due == "I":
                heappush(events, (ends, rank, "W", turn, k))
    alone = pipelines == 1
    return Program("rerouted", tuple(map(tuple, ranks)), "line" if alone else named(pipelines, s, each, gone))
