"""Planning: the times, hops and memory that model and cluster give a schedule whose order depends on them; without noise.

What the user set stays: an order planned on other times than it runs with is a question of its own. A sweep over noise plans
once, one over latencies of links once for each.
"""

from functools import lru_cache
from typing import Any

from hops.checks import Infeasible
from hops.costs import Costs
from hops.graph import lag_index, transfer_index, work_index
from hops.lanes import n_holders, sharers
from hops.memory import IN_TRANSIT, Allowances, kept_shares, peak_memory
from hops.noise import MICROBATCH_BITS
from hops.scenario import Scenario
from hops.schedules import SCHEDULES
from hops.sections import Choice, type_of
from hops.weights import TICKS, Question, Weights, question, weights

FITS = "fits"  # memory_limit: what the devices have room for
MOST = 2.0**MICROBATCH_BITS  # microbatches that a rank without layers has room for
PASSES = {"forward": "F", "backward_input": "I", "backward_weight": "W"}


def schedule_for(s: Scenario) -> Choice:
    """The schedule of ``s``; one that plans is told what its user left open."""
    record = SCHEDULES[s.schedule.name]
    if record.plans is None:
        return s.schedule
    stage_ranks, pipelines = record.planned_seats(s.pp, s.microbatches, s.vpp, s.schedule.kwargs)
    shared_by = sharers(s.layout, s.data_parallel, n_holders(stage_ranks, pipelines))
    return _told(s.schedule, question(s, stage_ranks, pipelines=pipelines), shared_by, s.memory)


@lru_cache(maxsize=4096, typed=True)
def _told(schedule: Choice, asked: Question, shared_by: tuple[int, int], allowances: Allowances) -> Choice:
    numbers, given = weights(asked), SCHEDULES[schedule.name].parameters | schedule.kwargs
    found: dict[str, Any] = {key: _seconds(numbers, kind) for key, kind in PASSES.items()}
    found |= {"hop": _hops(numbers), "memory": _memory(numbers.costs, asked.stage_ranks)}
    if given.get("memory_limit") == FITS:
        if given["memory"] is not None:
            raise ValueError(f"schedule.memory_limit={FITS} is found in microbatches (leave schedule.memory=null)")
        found["memory_limit"] = _room(schedule.name, numbers, asked, shared_by, allowances)
    told = {key: found.get(key) if value in (None, FITS) else value for key, value in given.items()}
    return Choice(schedule.name, tuple(told.items()), tuple(map(type_of, told.values())))


def _seconds(numbers: Weights, kind: str) -> tuple[float, ...]:
    """Of a pass through every stage on the slowest replica."""
    slowest = numbers.work.max(axis=0)
    return tuple(round(slowest[work_index(stage, kind)]) / TICKS for stage in range(numbers.costs.n_stages))


def _hops(numbers: Weights) -> tuple[float, ...]:
    """Of a message over every boundary of stages, there or back, whichever takes longer [s]."""
    n, work, lag = numbers.costs.n_stages, numbers.work.max(axis=0), numbers.lag.max(axis=0)
    there, back = (
        [work[transfer_index(n, stage, backward)] + lag[lag_index(stage, backward)] for stage in range(n)] for backward in (False, True)
    )
    return tuple(round(max(pair)) / TICKS for pair in zip(there[:-1], back[1:], strict=True))


def _memory(costs: Costs, stage_ranks: tuple[int, ...]) -> tuple[tuple[float, ...], ...] | None:
    """What passes through every stage add, where a microbatch on its rank is 1; None where the model is explicit times."""
    if costs.activations is None:
        return None
    per_chunk, shares = (max(stage_ranks) + 1) / len(stage_ranks), kept_shares(costs, stage_ranks)
    changes = [(per_chunk, per_chunk * (shares[rank] - 1), -per_chunk * shares[rank]) for rank in stage_ranks]
    return tuple(zip(*changes, strict=True))


def _room(name: str, numbers: Weights, asked: Question, shared_by: tuple[int, int], allowances: Allowances) -> tuple[float, ...]:
    """Microbatches whose activations a GPU of every rank has room for, beside all else that it holds."""
    n_ranks, found = len(numbers.room), []
    n_chunks = len(asked.stage_ranks) // n_ranks

    def total(n: int) -> list[float]:
        """Bytes of every rank with ``n`` chunk activations."""
        held = peak_memory(numbers.costs, asked.stage_ranks, (n,) * n_ranks, *shared_by, asked.data_parallel.zero, allowances)
        if held is None:
            raise ValueError(f"schedule.memory_limit={FITS} needs a model that says what activations take; this one has explicit times")
        return [each.total for each in held]

    # from as many on as are in transit one more takes as much as the next
    for rank, (room, few, more) in enumerate(zip(numbers.room, total(IN_TRANSIT), total(IN_TRANSIT + 1), strict=True)):
        n = min(IN_TRANSIT + (room - few) / (more - few), MOST) if more > few else MOST
        if n < 1:
            takes = f"{few / 1e9:.4g} GB with {IN_TRANSIT} chunk activations"
            raise Infeasible(f"{name} with memory_limit={FITS} finds no room on rank {rank}: it holds {takes}, of {room / 1e9:g} GB")
        found.append(n / n_chunks)
    return tuple(found)
