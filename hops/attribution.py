"""Attribution: what an iteration waits for along its critical path, draw by draw; every tick is booked to one part."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.checks import Infeasible
from hops.critical import attribute
from hops.executor import Executor, law_rows, stacked
from hops.graph import lag_index, unfolded
from hops.noise import LANES
from hops.paths import PATH_CLASSES
from hops.simulation import Case
from hops.team import Team
from hops.window import GATHER
from hops.workspace import workspace

KINDS = {
    "compute": "a rank computes",
    "host": "a host issues",
    "link": "a message is under way, or waits for the one before it",
    "reduce": "replicas reduce gradients",
    "gather": "replicas gather weights",
    "optimizer": "weights are updated, and what else ends an iteration",
}


class Part(NamedTuple):
    """What ticks are booked to: ``rank`` computes or issues, or sends on a link of class ``path`` to ``goal``; -1 and "": nobody."""

    kind: str
    rank: int = -1
    goal: int = -1
    path: str = ""

    def __str__(self) -> str:
        where = f" {self.rank}>{self.goal} {self.path}" if self.kind == "link" else f" {self.rank}" if self.rank >= 0 else ""
        return self.kind + where


class Attribution(NamedTuple):
    """Parts, k of them, and the ticks of every draw by them; ``crossed``: in how many draws a node was on the critical path."""

    parts: tuple[Part, ...]
    ticks: NDArray[np.int64]  # (k, n): adds up to the iteration
    crossed: NDArray[np.int64]  # (o,)


def attributed(case: Case, executor: Executor, n_draws: int | None = None) -> Attribution:
    """Follow the critical path of the first ``n_draws`` draws, None: all; of one if nothing varies.

    `Infeasible` where events decide who waits for whom.
    """
    if case.by_draws:
        what = f"contention={case.scenario.contention}" if case.by_events else "disturbance"
        raise Infeasible(f"what is waited for is found along the longest path, which {what} does not have (try without)")
    graph, cells, (law, tables) = unfolded(case.structure.graph), stacked([case]), law_rows([case])
    n_draws = min(n_draws or case.scenario.draws, case.scenario.draws if case.noisy else 1)
    of_rows, parts = _parts(case)
    book = np.zeros((len(of_rows), n_draws), np.int64)
    crossed = np.zeros((-(-n_draws // LANES), graph.rank.size), np.int64)
    recorded = graph.rank.size if case.weights.host.any() or case.weights.overlap[GATHER] else 0
    barrier = case.scenario.barrier and not graph.endless

    def task(first: int, end: int) -> None:
        rows = np.empty((len(of_rows), end - first), np.int64)
        space = workspace(graph, recorded, int(cells.n_buckets.max()))
        attribute(graph, cells, law, tables, first, barrier, space, rows, crossed[first // LANES])
        book[:, first:end] = rows

    size = max(LANES, executor.tile // LANES * LANES)
    if n_draws <= size:
        task(0, n_draws)
    else:
        with Team.of(executor.threads) as team:
            team.run(task, [(first, min(first + size, n_draws)) for first in range(0, n_draws, size)])
    ticks = np.zeros((len(parts), n_draws), np.int64)
    np.add.at(ticks, of_rows, book)
    return Attribution(parts, ticks, crossed.sum(axis=0))


def _parts(case: Case) -> tuple[list[int], tuple[Part, ...]]:
    """Of every row that the kernel books to the part that it belongs to, and the parts; messages that take the same way are one."""
    w, ranks = case.weights, case.structure.stage_ranks
    n_seats, n_ranks = len(ranks), case.scenario.pp
    rows = [Part("compute", rank) for rank in range(n_ranks)] + [Part("host", rank) for rank in range(n_ranks)]
    rows += [Part("reduce"), Part("gather"), Part("optimizer")]  # `hops.critical.N_FIXED`
    rows.append(Part("compute", 0))  # no delay at all: nothing is ever booked to it
    n_stages = n_seats // w.costs.pipelines
    for seat, rank in enumerate(ranks):
        for backward in (False, True):
            goal = seat % n_stages + (-1 if backward else 1)  # in its pipeline; beyond the ends there is nobody
            there = ranks[seat - seat % n_stages + goal] if 0 <= goal < n_stages else rank
            rows.append(Part("link", rank, there, PATH_CLASSES[int(w.link[0, lag_index(seat, backward)])]))
    rows += [Part("gather")] * n_seats
    places = {part: i for i, part in enumerate(dict.fromkeys(rows))}
    return [places[part] for part in rows], tuple(places)
