"""The natural path on one page: scenario -> program -> graph, and scenario -> cluster, costs -> durations in ticks.

`prepare` walks it for one cell and refuses what cannot work; ``executor.evaluate`` takes the cases through the kernel
and ``metrics`` says what its ticks mean. Every arrow is a function of frozen values, remembered where cells of a
sweep ask the same again.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.chaos import chaos_of
from hops.checks import FINEST, Infeasible
from hops.contention import meeting, planned
from hops.distributions import TERMS
from hops.events import DISCIPLINES
from hops.garbage import without_garbage_collection
from hops.graph import Graph, n_works
from hops.hazards import Hazards, hazards
from hops.lanes import lanes, n_holders, sharers
from hops.lowering import lower
from hops.memo import remembered
from hops.memory import Memory, check_room, fullest, peak_memory
from hops.noise import extreme_factors, quantile_table
from hops.planning import schedule_for
from hops.programs import KINDS, Program
from hops.queues import with_queues
from hops.scenario import Scenario
from hops.schedules import SCHEDULES, program
from hops.sections import Choice
from hops.spells import slowing
from hops.weights import TICKS, Floats, Question, Weights, check_clock, question, weights

MOST_PASSES = 1 << 20  # of a microbatch through a stage; lowering takes 2.1 kB each at its peak (ZB-H1, tracemalloc), so about 2 GB


class Structure(NamedTuple):
    """What cells with the same schedule and sizes share. Not the program: it is 1.6 times as large as the graph."""

    graph: Graph
    stage_ranks: tuple[int, ...]  # of several pipelines of every seat, see `Program.first_seats`
    in_flight: tuple[float, ...]
    holdings: tuple[tuple[tuple[int, int], ...], ...]
    n_works: NDArray[np.int64]  # how often each work and each lag occurs
    n_lags: NDArray[np.int64]


class Case(NamedTuple):
    """One cell, ready to be evaluated."""

    scenario: Scenario
    weights: Weights
    tables: tuple[Floats | None, ...]  # one a term of `Latency`; None: the term is off
    hazards: Hazards | None = None  # what can fail in a training run, if one is asked for

    @property
    def structure(self) -> Structure:
        """Asked for anew each time: a case does not hold it, or thousands of sizes would fill the memory."""
        return structure(*self.shape)

    @property
    def noisy(self) -> bool:
        return any(table is not None for table in self.tables) or self.lossy

    @property
    def lossy(self) -> bool:
        """Whether messages can get lost."""
        return self.scenario.hindrances.retry.loss > 0

    @property
    def plain(self) -> bool:
        """Whether nothing but the graph, once, and a constant after it make the iteration."""
        w = self.weights
        waits = w.costs.pipelines > 1 and w.n_buckets.any()  # ranks for each other's gradients
        return not (self.noisy or len(w.work) > 1 or w.overlap.any() or w.host.any() or waits or self.by_draws)

    @property
    def by_events(self) -> bool:
        """Whether the event loop evaluates the case."""
        return self.scenario.contention in DISCIPLINES

    @property
    def by_draws(self) -> bool:
        """Whether it is evaluated draw by draw, all replicas together (`hops.contended`)."""
        return self.by_events or bool(self.scenario.hindrances.disturbances)

    @property
    def n_lanes(self) -> int:
        """Pipelines to evaluate; without noise replicas on equal devices are all alike."""
        return self.weights.variant.size if self.noisy or len(self.weights.work) > 1 or self.by_draws else 1

    @property
    def n_batches(self) -> int:
        """Batches that the kernel's ticks are of: one, or those that are measured where there is no flush."""
        return 1 if self.scenario.steady is None else self.scenario.steady.batches

    @property
    def update(self) -> NDArray[np.int64]:
        """Ticks (ranks,) of the optimizer, and of what else ends an iteration, in all of these batches."""
        w, s = self.weights, self.scenario
        often = s.microbatches - 1 if SCHEDULES[s.schedule.name].updates_each else 0
        return self.n_batches * (w.update + often * (w.update - int(np.floor(w.costs.overhead * TICKS + 0.5))))

    @property
    def program(self) -> Program:
        """The program, written out anew."""
        schedule, pp, vpp, microbatches, *_ = self.shape
        return program(schedule.name, pp, microbatches, vpp, **schedule.kwargs)

    @property
    def memory(self) -> tuple[Memory, ...] | None:
        """What a GPU of each rank holds at most; None where the model is explicit times."""
        built, s, costs = self.structure, self.scenario, self.weights.costs
        held = fullest(costs, built.stage_ranks, built.holdings)
        shared_by = sharers(s.layout, s.data_parallel, n_holders(built.stage_ranks, costs.pipelines))
        versions = SCHEDULES[s.schedule.name].weight_versions
        copies = [1 if versions is None else versions(s.pp, s.microbatches, rank) for rank in range(s.pp)]
        return peak_memory(costs, built.stage_ranks, held, *shared_by, s.data_parallel.zero, s.memory, copies)

    @property
    def shape(self) -> tuple[Any, ...]:
        """What the structure depends on: the arguments of `structure`."""
        return shape(self.scenario)

    @property
    def contention(self) -> str:
        """What becomes of traffic that meets on a link: as asked, "ignored", or "none" as none does.

        An order can be planned for messages of one lane (`hops.contention`): those of others, and all other traffic, are ignored.
        """
        asked, (within, anywhere) = self.scenario.contention, self.weights.meet
        if not anywhere:
            return "none"
        return "ignored" if asked == "none" or (asked == "planned" and not within) else asked


def prepare(scenario: Scenario) -> Case:
    """Build all that one cell needs; ``ValueError`` for what cannot be meant, `Infeasible` for sizes that do not fit."""
    s = scenario
    record = SCHEDULES[s.schedule.name]
    passes = record.units(s.pp, s.microbatches, s.schedule.kwargs) * record.n_stages(s.pp, s.microbatches, s.vpp, s.schedule.kwargs)
    if passes > MOST_PASSES:
        sizes = f"pp={s.pp} and microbatches={s.microbatches}"
        raise Infeasible(f"{sizes} make {passes} passes of a microbatch through a stage; at most {MOST_PASSES} are possible")
    if record.routes is not None and s.data_parallel.overlap_param_gather:
        several = f"{record.name} lets a rank begin its stage with the microbatches of any pipeline"
        raise Infeasible(f"{several}, and which of them waits for its weights is not modelled (try overlap_param_gather=false)")
    if record.steady is not None and s.training is not None:
        raise Infeasible(
            f"{s.schedule.name} has no flush, so its iterations do not end one by one, and a failure cannot cut a single one "
            "(try a training run of another schedule, such as 1f1b)"
        )
    if record.steady is not None and max(s.layout.n_replicas, s.layout.n_expert_replicas) > 1:
        what = f"{record.name} updates weights while microbatches are under way, and what replicas exchange then is not modelled"
        sizes = f"dp={s.dp}, cp={s.cp} and ep={s.ep}"
        raise Infeasible(f"{what}: it needs dp=1, cp=1 and ep=1; got {sizes} (or try a schedule with a flush, such as 1f1b)")
    if record.steady is not None and s.hindrances.disturbances:
        what = "a disturbance begins so long after the iteration does"
        raise Infeasible(f"{what}, and {record.name} has no flush, hence no iterations (try a schedule with one, such as 1f1b)")
    delays = s.data_parallel.overlap_param_gather or any(map(s.host.seconds, KINDS))
    if s.hindrances.queue is not None and s.hindrances.free_at == "start" and delays:
        what = "queue_free_at=start takes an op to begin when its inputs are there, which hosts and overlap_param_gather may delay"
        raise Infeasible(f"{what} (try queue_free_at=finish)")
    # what goes in lock-step has the largest noise of all: replicas of one lane; and where noise is of a GPU, the GPUs of a rank
    together = lanes(s.layout, s.data_parallel)[0].n
    lock_step = dict.fromkeys(("op", "rank"), together * (s.tp * s.cp if s.latency.per == "gpu" else 1)) | {"microbatch": together}
    tables = tuple(
        None if term is None else quantile_table(term.name, term.params, lock_step.get(kind, 1))
        for kind, term in zip(TERMS, s.latency.terms, strict=True)
    )
    built = structure(*shape(s))
    if built.graph.pipelines > 1 and s.data_parallel.zero > 1:
        several = f"{s.schedule.name} holds every stage on {built.graph.pipelines} ranks, which microbatches pass at different times"
        raise Infeasible(f"{several}: zero={s.data_parallel.zero} cannot exchange among them within the iteration (try zero=1)")
    numbers = weights(question(s, built.stage_ranks, built.graph.pairs, built.graph.pipelines))
    check_ticks(numbers, noisy=any(table is not None and extreme_factors(table) != (1.0, 1.0) for table in tables[:3]))
    found = None if s.training is None else hazards(s.training, numbers.cluster, s.layout, s.data_parallel)
    if s.training is not None and found is not None:
        s.training.checkpoint.seconds(found.mtbf)  # an interval that cannot be is refused here
        chaos_of(s.training, found)
        slowed = slowing(s.training, numbers.cluster, s.layout) is not None
        if slowed and s.contention == "fair":
            raise ValueError("contention=fair divides links by rates of its own, which no fault can change (try contention=fifo)")
        if slowed and s.hindrances.disturbances:
            raise Infeasible("disturbance is of every iteration, and a fault that slows the job of some: both at once are not modelled")
    case = Case(s, numbers, tables, found)
    check_clock(most_ticks(case) * (FINEST if s.hindrances.disturbances else 1))
    shared_by = sharers(s.layout, s.data_parallel, n_holders(built.stage_ranks, built.graph.pipelines))
    check_room(numbers.costs, numbers.room, *shared_by, s.data_parallel.zero)
    return case


def most_ticks(case: Case) -> float:
    """More than any time that is added up in the case, without disturbances: busy time is summed over lanes."""
    numbers, built = case.weights, case.structure
    largest = math.prod(extreme_factors(table)[1] for table in case.tables if table is not None)
    pipeline = float((numbers.work @ built.n_works).max()) + float((numbers.lag.astype(float) @ built.n_lags).max())
    exchanged = float(numbers.n_buckets @ (numbers.reduce + numbers.gather)) * case.scenario.microbatches
    retried = float(case.scenario.hindrances.retry.ticks().sum()) * np.count_nonzero(built.graph.rank < 0) if case.lossy else 0.0
    issued = float(built.n_works[: numbers.host.size] @ numbers.host)
    return ((pipeline + exchanged + issued) * largest + retried) * case.n_lanes + float(case.update.max())


def shape(s: Scenario) -> tuple[Any, ...]:
    """What the structure of a scenario depends on: the arguments of `structure`."""
    unshards = s.data_parallel.unshards and max(s.layout.n_replicas, s.layout.n_expert_replicas) > 1  # cp shares weights too
    hindered = s.hindrances
    room = (hindered.queue, hindered.free_at) if hindered.queue is not None and hindered.queue < s.microbatches else None
    size = schedule_for(s), s.pp, s.vpp, s.microbatches, s.p2p, s.recv, s.data_parallel.reduces_each, unshards, room
    if s.contention != "planned":
        return *size, None
    built = structure(*size)
    return *size, question(s, built.stage_ranks, built.graph.pairs, built.graph.pipelines)


def _size(built: Structure) -> int:
    """Bytes of its arrays."""
    return sum(each.nbytes for each in built.graph if isinstance(each, np.ndarray))


@remembered(1 << 30, _size)  # a search that plans on the times of each of 1,000 cells takes 100 MB at p=8 and m=32, 1 GB at p=16 and m=128
@without_garbage_collection()  # no cycle holds ops; a sweep that made 1.1 million took 8.5 s with it, 4.9 without
def structure(
    schedule: Choice,
    pp: int,
    vpp: int | None,
    microbatches: int,
    p2p: str,
    recv: str,
    reduce_each: bool,
    unshard: bool,
    room: tuple[int, str] | None = None,
    planned_for: Question | None = None,
) -> Structure:
    """Graph of a schedule at a size; with the order in which messages pass shared links if it is planned for weights."""
    written = program(schedule.name, pp, microbatches, vpp, **schedule.kwargs)
    record = SCHEDULES[schedule.name]
    steady = None if record.steady is None else record.steady(pp, microbatches, **schedule.kwargs)
    parts = 1 if record.parts is None else record.parts(**schedule.kwargs)
    graph = _lowered(written, p2p, recv, reduce_each, unshard, None if steady is None else steady.window(microbatches), parts)
    if room is not None:
        graph = with_queues(graph, written, *room)
    if planned_for is not None:
        numbers = weights(planned_for)
        links = meeting(graph, numbers.traffic.sent, len(written.stage_ranks), numbers.costs.p2p_bytes)
        graph = planned(graph, numbers.work[0], numbers.lag[0], links, everywhere=False)
    n_stages = len(written.stage_ranks)
    return Structure(
        graph,
        written.stage_ranks,
        tuple(n / parts for n in written.in_flight),
        written.holdings,
        np.bincount(graph.work, minlength=n_works(n_stages, len(graph.pairs))),
        np.bincount(graph.lag, minlength=1 + 3 * n_stages),
    )


@lru_cache(maxsize=4)
def _lowered(written: Program, p2p: str, recv: str, reduce_each: bool, unshard: bool, window: tuple[int, int] | None, parts: int) -> Graph:
    """`lower`, remembered: schedules that plan often come to the same order from other times. Programs are large, so not many."""
    return lower(written, p2p, reduce_each, unshard, recv, window, parts)


def check_ticks(weights: Weights, noisy: bool) -> None:
    """Refuse compute times that whole ns cannot hold: below 1 ns, or with noise below 1 us, where rounding is 0.05 % of it."""
    times = weights.work[:, : 4 * weights.costs.n_stages].min(axis=0)
    at, least = int(times.argmin()), 1000 if noisy else 1
    if times[at] < least:
        stage, kind, seconds = at // 4, KINDS[at % 4], times[at] / TICKS
        needed = "1e-6 s, as noise is rounded to whole ns" if noisy else "the 1 ns that the clock counts"
        raise ValueError(f"stage {stage} computes {kind} in {seconds:.3g} s, less than {needed}")
