"""Graphs: who waits for whom, as flat arrays for the kernel. Still no time.

Nodes are the ops in an order in which each follows what it needs and, with ``channel``, the transfers between
ranks. Times come later as two small vectors that the nodes and edges index, so one graph serves every cell of a
sweep that has its program.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.jit import kernel
from hops.programs import KINDS

NO_LAG = 0
INPUT, WEIGHT = KINDS.index("I"), KINDS.index("W")


type Ints = NDArray[np.int32]


class Graph(NamedTuple):
    """o = nodes in topological order, e = edges; arrays are read-only and go into the kernel as they are.

    Where a schedule runs several pipelines, each has stages of its own here: the seats of `hops.programs.Program.first_seats`.
    """

    rank: NDArray[np.int32]  # (o,) rank that the node occupies; -1: a transfer on its channel
    work: NDArray[np.int32]  # (o,) index into the work vector (`work_index`, `transfer_index`)
    identity: NDArray[np.uint32]  # (o,) noise address; of a message that of what makes it
    op: NDArray[np.int32]  # (o,) place among the ops of ``program.order``; -1: a transfer
    stage: NDArray[np.int32]  # (o,) of an op; -1: a transfer
    kind: NDArray[np.int32]  # (o,) of an op, index into `KINDS`; -1: a transfer
    factor: NDArray[np.int32]  # (o,) row of the factors that the node multiplies by; -1: none
    fresh: NDArray[np.bool_]  # (o,) the factor is drawn here (W takes over the one of its I)
    counted: NDArray[np.bool_]  # (o,) op that is measured: all of them, or of a schedule without a flush those of some batches
    first: NDArray[np.bool_]  # (o,) first op of its rank that is counted; or that before it, at whose end measuring begins
    last: NDArray[np.bool_]  # (o,) last op of its rank that is counted
    opens: NDArray[np.int32]  # (o,) stage of which this is the first forward; -1: of none
    milestone: NDArray[np.int32]  # (o,) number of the gradient reduction that waits for this op; -1: none
    slot: NDArray[np.int32]  # (o,) row of the finish times; a row is used again once its last reader has run
    indptr: NDArray[np.int32]  # (o+1,) edges of node i are indptr[i]:indptr[i+1]
    pred: NDArray[np.int32]  # (e,) node that is waited for
    lag: NDArray[np.int32]  # (e,) index into the lag vector (`lag_index`, `NO_LAG`)
    origin: NDArray[np.int32]  # (e,) node whose end the wait would be for if transfers took no time
    opening: NDArray[np.int32]  # (s,) stages rank by rank, in the order in which they run first
    openings: NDArray[np.int32]  # (r+1,) those of rank r are opening[openings[r]:openings[r+1]]
    reduced: NDArray[np.int32]  # (k,) stage whose gradients a milestone reduces; of several pipelines those of one, for all of them
    reducing: NDArray[np.int32]  # (x,) milestones rank by rank, in program order; ranks with the same stages in that of the first
    reductions: NDArray[np.int32]  # (r+1,) those of rank r are reducing[reductions[r]:reductions[r+1]]
    pairs: NDArray[np.int32]  # (f, 2) stages whose forward and backward, in this order, run as one unit
    n_ranks: int
    n_slots: int
    n_factors: int
    n_microbatches: int
    pipelines: int
    parts: int  # in which a microbatch passes
    endless: bool  # not all ops are counted: there is no flush


def work_index(stage: int, kind: str) -> int:
    """Place of an op's duration in the work vector."""
    return 4 * stage + KINDS.index(kind)


def transfer_index(n_stages: int, stage: int, backward: bool) -> int:
    """Place of a channel occupation, message of ``stage`` in a direction, in the work vector."""
    return 4 * n_stages + 2 * stage + backward


def unshard_index(n_stages: int, stage: int) -> int:
    """Place of the time that it takes to gather the weights of ``stage`` in the work vector."""
    return 6 * n_stages + stage


def n_works(n_stages: int, n_pairs: int) -> int:
    """Length of the work vector."""
    return 7 * n_stages + 2 * n_pairs


def fused_index(n_stages: int, pair: int, kind: str) -> int:
    """Place of what one half of a fused pair of stages takes, ``kind`` F or B, in the work vector."""
    return 7 * n_stages + 2 * pair + (kind == "B")


def lag_index(stage: int, backward: bool) -> int:
    """Place of the delay of a message of ``stage`` in the lag vector of length ``1 + 3 n_stages``; place 0 is no delay."""
    return 1 + 2 * stage + backward


def unshard_lag(n_stages: int, stage: int) -> int:
    """Place of an UNSHARD in the lag vector; links of transfers have the same places, one behind those of the work vector."""
    return 1 + 2 * n_stages + stage


def finish_graph(
    *,
    rank: NDArray[np.int32],
    work: NDArray[np.int32],
    identity: NDArray[np.uint32],
    op: NDArray[np.int32],
    stage: NDArray[np.int32],
    kind: NDArray[np.int32],
    pairs: NDArray[np.int32],
    indptr: NDArray[np.int32],
    pred: NDArray[np.int32],
    lag: NDArray[np.int32],
    origin: NDArray[np.int32],
    counted: NDArray[np.bool_],
    n_ranks: int,
    n_microbatches: int,
    pipelines: int,
    parts: int,
    reduce_each: bool,
) -> Graph:
    """Add to nodes in topological order what follows from their order: first and last ops, rows of finish times and factors."""
    slot = np.empty(rank.size, np.int32)
    n_slots = reuse(indptr, pred, origin, slot)
    factor, fresh = np.full(rank.size, -1, np.int32), np.zeros(rank.size, np.bool_)
    names, name = np.unique(identity, return_inverse=True)
    n_factors = keep_factors(kind, name, names.size, factor, fresh)
    first, last = np.zeros(rank.size, bool), np.zeros(rank.size, bool)
    for each in range(n_ranks):
        ops = np.flatnonzero(rank == each)
        measured = np.flatnonzero(counted[ops])
        first[ops[max(0, measured[0] - 1)]] = last[ops[measured[-1]]] = True
    forwards = np.flatnonzero(kind == KINDS.index("F"))
    opens, opening, openings = _marks(rank, stage, forwards[np.unique(stage[forwards], return_index=True)[1]], n_ranks)
    backwards = np.flatnonzero((kind == KINDS.index("B")) | (kind == KINDS.index("W")))[::-1]
    held = _held(rank, stage, pipelines)
    ends = backwards if reduce_each else backwards[np.unique(held[backwards], return_index=True)[1]]
    milestone, reduced, reductions = _marks(rank, held, ends, n_ranks)
    milestone, reduced, reducing = _joined(milestone, reduced, reductions, 1 + int(stage.max()), pipelines)
    graph = Graph(
        rank=rank,
        work=work,
        identity=identity,
        op=np.where(rank >= 0, op, np.int32(-1)),
        stage=stage,
        kind=kind,
        factor=factor,
        fresh=fresh,
        counted=counted,
        first=first,
        last=last,
        opens=np.where(opens >= 0, opening[opens], np.int32(-1)),
        milestone=milestone,
        slot=slot,
        indptr=indptr,
        pred=pred,
        lag=lag,
        origin=origin,
        opening=opening,
        openings=openings,
        reduced=reduced,
        reducing=reducing,
        reductions=reductions,
        pairs=pairs,
        n_ranks=n_ranks,
        n_slots=n_slots,
        n_factors=n_factors,
        n_microbatches=n_microbatches,
        pipelines=pipelines,
        parts=parts,
        endless=not counted[rank >= 0].all(),
    )
    for array in graph:
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return graph


def reordered(graph: Graph, order: NDArray[np.int64], edges: NDArray[np.int64]) -> Graph:
    """The graph with its nodes in ``order`` (o,), a topological one of other ``edges`` (e, 4: node, pred, lag, origin)."""
    place = np.empty(order.size, np.int64)
    place[order] = np.arange(order.size)
    goal, pred, lag, origin = (place[edges[:, 0]], place[edges[:, 1]], edges[:, 2], place[edges[:, 3]])
    by_goal = np.argsort(goal, kind="stable")
    return finish_graph(
        rank=graph.rank[order],
        work=graph.work[order],
        identity=graph.identity[order],
        op=graph.op[order],
        stage=graph.stage[order],
        kind=graph.kind[order],
        pairs=graph.pairs,
        indptr=np.concatenate([[0], np.cumsum(np.bincount(goal, minlength=order.size))]).astype(np.int32),
        pred=pred[by_goal].astype(np.int32),
        lag=lag[by_goal].astype(np.int32),
        origin=origin[by_goal].astype(np.int32),
        counted=graph.counted[order],
        n_ranks=graph.n_ranks,
        n_microbatches=graph.n_microbatches,
        pipelines=graph.pipelines,
        parts=graph.parts,
        reduce_each=graph.reduced.size > graph.opening.size,
    )


def unfolded(graph: Graph) -> Graph:
    """The graph with a row for the finish time of every node, none used again."""
    slot = np.arange(graph.rank.size, dtype=np.int32)
    slot.flags.writeable = False
    return graph._replace(slot=slot, n_slots=slot.size)


def _marks(rank: Ints, stage: Ints, chosen: NDArray[np.int64], n_ranks: int) -> tuple[Ints, Ints, Ints]:
    """Number the nodes ``chosen``, rank by rank, in program order.

    Returns the numbers (o,), -1 elsewhere; their stages (k,); where each rank's begin (r+1,).
    """
    ordered = chosen[np.lexsort((chosen, rank[chosen]))]
    number = np.full(rank.size, -1, np.int32)
    number[ordered] = np.arange(ordered.size)
    return number, stage[ordered], np.searchsorted(rank[ordered], np.arange(n_ranks + 1)).astype(np.int32)


def _held(rank: Ints, stage: Ints, pipelines: int) -> Ints:
    """Of every node (o,) the seat whose weights it uses: the first that its rank has of a stage, as seats of a stage share them."""
    if pipelines == 1:
        return stage
    ops, n_stages = np.flatnonzero(rank >= 0), (1 + int(stage.max())) // pipelines
    _, which = np.unique(rank[ops].astype(np.int64) * n_stages + stage[ops] % n_stages, return_inverse=True)
    first = np.full(1 + int(which.max()), stage.max())
    np.minimum.at(first, which, stage[ops])
    found = stage.copy()
    found[ops] = first[which]
    return found


def _joined(milestone: Ints, reduced: Ints, reductions: Ints, n_seats: int, pipelines: int) -> tuple[Ints, Ints, Ints]:
    """One milestone for all pipelines, as whoever holds a stage reduces its gradients together, in one order.

    Returns the nodes' milestones (o,); the stage of each (k,); the milestones rank by rank (x,).
    """
    marks = np.arange(reduced.size, dtype=np.int32)
    if pipelines == 1:
        return milestone, reduced, marks
    _, first, stage = np.unique(reduced % (n_seats // pipelines), return_index=True, return_inverse=True)
    row = np.argsort(np.argsort(first))[stage].astype(np.int32)  # numbered as the first rank that has each comes to it
    rank = np.repeat(np.arange(reductions.size - 1), np.diff(reductions))
    return np.where(milestone >= 0, row[milestone], milestone), reduced[np.sort(first)], row[np.lexsort((row, rank))]


@kernel
def reuse(indptr, pred, origin, slot):  # type: ignore[no-untyped-def]
    """Give each node a row ``slot`` (o,) for its finish time; returns how many there are.

    Rows whose last reader has run serve again, so the live ones fit the cache.
    """
    n = slot.size
    last_reader = np.arange(n)
    for node in range(n):
        for edge in range(indptr[node], indptr[node + 1]):
            last_reader[pred[edge]] = last_reader[origin[edge]] = node
    leaves, following = np.full(n, -1), np.full(n, -1)  # the first of those that node is the last reader of, and the next of each
    for node in range(n - 1, -1, -1):
        following[node], leaves[last_reader[node]] = leaves[last_reader[node]], node
    free, n_free, n_slots = np.empty(n, np.int32), 0, 0
    for node in range(n):
        gone = leaves[node]
        while gone >= 0:
            if gone != node:
                free[n_free] = slot[gone]
                n_free += 1
            gone = following[gone]
        if n_free:
            n_free -= 1
            slot[node] = free[n_free]
        else:
            slot[node] = n_slots
            n_slots += 1
        if last_reader[node] == node:
            free[n_free] = slot[node]
            n_free += 1
    return n_slots


@kernel
def keep_factors(kind, name, n_names, factor, fresh):  # type: ignore[no-untyped-def]
    """Give each op a row ``factor`` (o,), ``fresh`` (o,) where it is drawn; returns how many rows there are.

    Row 0 is used at once; the row of an I is kept until its W, of the same ``name`` (o,), has run.
    """
    kept, free, n_free, n_rows = np.empty(n_names, np.int32), np.empty(kind.size, np.int32), 0, 1
    for node in range(kind.size):
        if kind[node] < 0:
            continue
        fresh[node], factor[node] = kind[node] != WEIGHT, 0
        if kind[node] == WEIGHT:
            factor[node] = free[n_free] = kept[name[node]]
            n_free += 1
        elif kind[node] == INPUT:
            if n_free == 0:
                free[0], n_free, n_rows = n_rows, 1, n_rows + 1
            n_free -= 1
            factor[node] = kept[name[node]] = free[n_free]
    return n_rows
