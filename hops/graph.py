"""Lowering: a program becomes a graph of who waits for whom, as flat arrays for the kernel. Still no time.

Nodes are the ops in an order in which each follows what it needs and, with ``channel``, the transfers between
ranks. Times come later as two small vectors that the nodes and edges index, so one graph serves every cell of a
sweep that has its program.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.data_parallel import MOST_UNSHARDED
from hops.noise import op_identity
from hops.programs import KINDS, Op, Program, Unit, members

NO_LAG = 0


type Ints = NDArray[np.int32]


class Graph(NamedTuple):
    """o = nodes in topological order, e = edges; arrays are read-only and go into the kernel as they are."""

    rank: NDArray[np.int32]  # (o,) rank that the node occupies; -1: a transfer on its channel
    work: NDArray[np.int32]  # (o,) index into the work vector (`work_index`, `transfer_index`)
    identity: NDArray[np.uint32]  # (o,) noise address
    op: NDArray[np.int32]  # (o,) place in ``program.order``; -1: a transfer
    stage: NDArray[np.int32]  # (o,) of an op; -1: a transfer
    kind: NDArray[np.int32]  # (o,) of an op, index into `KINDS`; -1: a transfer
    factor: NDArray[np.int32]  # (o,) row of the factors that the node multiplies by; -1: none
    fresh: NDArray[np.bool_]  # (o,) the factor is drawn here (W takes over the one of its I)
    first: NDArray[np.bool_]  # (o,) first op of its rank
    last: NDArray[np.bool_]  # (o,) last op of its rank
    opens: NDArray[np.int32]  # (o,) stage of which this is the first forward; -1: of none
    milestone: NDArray[np.int32]  # (o,) number of the gradient reduction that waits for this op; -1: none
    slot: NDArray[np.int32]  # (o,) row of the finish times; a row is used again once its last reader has run
    indptr: NDArray[np.int32]  # (o+1,) edges of node i are indptr[i]:indptr[i+1]
    pred: NDArray[np.int32]  # (e,) node that is waited for
    lag: NDArray[np.int32]  # (e,) index into the lag vector (`lag_index`, `NO_LAG`)
    origin: NDArray[np.int32]  # (e,) node whose end the wait would be for if transfers took no time
    opening: NDArray[np.int32]  # (s,) stages rank by rank, in the order in which they run first
    openings: NDArray[np.int32]  # (r+1,) those of rank r are opening[openings[r]:openings[r+1]]
    reduced: NDArray[np.int32]  # (k,) stage whose gradients a milestone reduces; rank by rank, in program order
    reductions: NDArray[np.int32]  # (r+1,) milestones of rank r are reductions[r]:reductions[r+1]
    pairs: NDArray[np.int32]  # (f, 2) stages whose forward and backward, in this order, run as one unit
    n_ranks: int
    n_slots: int
    n_factors: int
    n_microbatches: int


def work_index(stage: int, kind: str) -> int:
    """Place of an op's duration in the work vector of length ``7 n_stages``, and two more a pair of stages that are fused."""
    return 4 * stage + KINDS.index(kind)


def transfer_index(n_stages: int, stage: int, backward: bool) -> int:
    """Place of a channel occupation, message of ``stage`` in a direction, in the work vector."""
    return 4 * n_stages + 2 * stage + backward


def unshard_index(n_stages: int, stage: int) -> int:
    """Place of the time that it takes to gather the weights of ``stage`` in the work vector."""
    return 6 * n_stages + stage


def fused_index(n_stages: int, pair: int, kind: str) -> int:
    """Place of what one half of a fused pair of stages takes, ``kind`` F or B, in the work vector."""
    return 7 * n_stages + 2 * pair + (kind == "B")


def lag_index(stage: int, backward: bool) -> int:
    """Place of the delay of a message of ``stage`` in the lag vector of length ``1 + 3 n_stages``; place 0 is no delay."""
    return 1 + 2 * stage + backward


def unshard_lag(n_stages: int, stage: int) -> int:
    """Place of an UNSHARD in the lag vector; links of transfers have the same places, one behind those of the work vector."""
    return 1 + 2 * n_stages + stage


def lower(program: Program, p2p: str, reduce_each: bool = False, unshard: bool = False) -> Graph:
    """Lower ``program``; how messages travel is ``p2p``.

    ``latency``: a delay on an edge. ``channel``: a node of its own, which waits for the message before it on its ordered
    pair of ranks, in the sender's program order, and occupies the channel as long as its work says; the delay
    follows. ``blocking``: as channel, and the sender runs nothing until the message has arrived. ``rendezvous``: a node of
    its own that begins when both sides have posted, the sender by computing, the receiver by having nothing left to do
    before the op that needs the message; so a receiver takes one message at a time, and channels need no order.

    Milestones are the ops that make gradients ready to be reduced: the last backward of each stage (B, or W), or with
    ``reduce_each`` every one. With ``unshard`` a stage's weights are gathered before it runs, by an UNSHARD node on a
    channel of the rank's own, and given up (RESHARD, which takes no time) when others are needed sooner.

    A fused unit is two nodes, one after the other, each with the noise of its own op: the first waits for the inputs of both, and
    both outputs leave after the second.
    """
    nodes, n_stages = _Nodes(), program.n_stages
    ahead = [[wanted for _, wanted in unshards(units)] if unshard else [] for units in program.ranks]
    step_of = [0] * program.pp
    gathered: dict[int, Edge] = {}  # stage -> the edge that waits for its weights
    if any(ahead):
        start = nodes.add(-1, None, transfer_index(n_stages, n_stages - 1, backward=False))  # a message that nobody sends takes no time
    sent: dict[tuple[int, bool, int], Edge] = {}  # (stage, backward, microbatch) -> the edge that waits for its message
    pairs: dict[tuple[int, int], int] = {}
    free: dict[int, tuple[Edge, ...]] = {}  # what the next unit of a rank waits for besides its inputs
    for here, unit in program.order:
        both = members(unit)
        arrivals = []
        for stage, kind, k in both:
            source = stage + 1 if kind != "F" else stage - 1
            arrival = sent.get((source, kind != "F", k)) if kind != "W" else None
            if arrival is not None and p2p == "rendezvous":
                transfer = nodes.add(-1, None, transfer_index(n_stages, source, kind != "F"), *free.get(here, ()), arrival)
                arrival = Edge(transfer, lag_index(source, kind != "F"), arrival.origin)
            arrivals.append(arrival)
        if unshard:
            for wanted in ahead[here][step_of[here]]:
                issued = free.get(here, (Edge(start, NO_LAG, start),))
                node = nodes.add(-1, None, unshard_index(n_stages, wanted), nodes.last.get((here, here)), *issued)
                nodes.last[here, here] = Edge(node, NO_LAG, node)
                gathered[wanted] = Edge(node, unshard_lag(n_stages, wanted), issued[0].origin)
            step_of[here] += 1
        weights = (gathered.pop(stage, None) for stage in dict.fromkeys(op.stage for op in both))
        waits: list[Edge | None] = [*free.get(here, ()), *arrivals, *weights]
        for op in both:
            work = work_index(op.stage, op.kind)
            if len(both) > 1:
                pair = pairs.setdefault((both[0].stage, both[1].stage), len(pairs))
                work = fused_index(n_stages, pair, op.kind)
            node = nodes.add(here, op, work, *waits)
            waits = [done := Edge(node, NO_LAG, node)]
        free[here] = (done,)
        messages = []
        for stage, kind, k in both:
            backward = kind != "F"
            goal = stage - 1 if backward else stage + 1
            there = program.rank_of(goal) if kind != "W" and 0 <= goal < n_stages else here
            if there != here:  # on the same rank the order of the rank says it all
                message = done
                if p2p == "latency":
                    message = Edge(node, lag_index(stage, backward), node)
                elif p2p in ("channel", "blocking"):
                    transfer = nodes.add(-1, None, transfer_index(n_stages, stage, backward), nodes.last.get((here, there)), done)
                    nodes.last[here, there] = Edge(transfer, NO_LAG, transfer)
                    message = Edge(transfer, lag_index(stage, backward), node)
                sent[stage, backward, k] = message
                messages.append(message)
        if p2p == "blocking" and messages:
            free[here] = tuple(messages)

    return finish_graph(
        rank=np.array(nodes.rank, np.int32),
        work=np.array(nodes.work, np.int32),
        identity=np.array([op_identity(op.stage, op.kind != "F", op.microbatch) if op else 0 for op in nodes.op], np.uint32),
        op=np.cumsum([op is not None for op in nodes.op], dtype=np.int32) - 1,
        stage=np.array([op.stage if op else -1 for op in nodes.op], np.int32),
        kind=np.array([KINDS.index(op.kind) if op else -1 for op in nodes.op], np.int32),
        pairs=np.array(list(pairs), np.int32).reshape(-1, 2),
        indptr=np.array(nodes.indptr, np.int32),
        pred=np.array(nodes.pred, np.int32),
        lag=np.array(nodes.lag, np.int32),
        origin=np.array(nodes.origin, np.int32),
        n_ranks=program.pp,
        n_microbatches=program.microbatches,
        reduce_each=reduce_each,
    )


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
    n_ranks: int,
    n_microbatches: int,
    reduce_each: bool,
) -> Graph:
    """Add to nodes in topological order what follows from their order: first and last ops, rows of finish times and factors."""
    slot, n_slots = _reuse(indptr.tolist(), pred.tolist(), origin.tolist())
    factor, fresh = _factors(kind.tolist(), identity.tolist())
    first, last = np.zeros(rank.size, bool), np.zeros(rank.size, bool)
    for r in range(n_ranks):
        first[np.flatnonzero(rank == r)[:1]] = last[np.flatnonzero(rank == r)[-1:]] = True
    forwards = np.flatnonzero(kind == KINDS.index("F"))
    opens, opening, openings = _marks(rank, stage, forwards[np.unique(stage[forwards], return_index=True)[1]], n_ranks)
    backwards = np.flatnonzero((kind == KINDS.index("B")) | (kind == KINDS.index("W")))[::-1]
    ends = backwards if reduce_each else backwards[np.unique(stage[backwards], return_index=True)[1]]
    milestone, reduced, reductions = _marks(rank, stage, ends, n_ranks)
    graph = Graph(
        rank=rank,
        work=work,
        identity=identity,
        op=np.where(rank >= 0, op, np.int32(-1)),
        stage=stage,
        kind=kind,
        factor=np.array(factor, np.int32),
        fresh=np.array(fresh, np.bool_),
        first=first,
        last=last,
        opens=np.where(opens >= 0, opening[opens], np.int32(-1)),
        milestone=milestone,
        slot=np.array(slot, np.int32),
        indptr=indptr,
        pred=pred,
        lag=lag,
        origin=origin,
        opening=opening,
        openings=openings,
        reduced=reduced,
        reductions=reductions,
        pairs=pairs,
        n_ranks=n_ranks,
        n_slots=n_slots,
        n_factors=max(factor) + 1,
        n_microbatches=n_microbatches,
    )
    for array in graph:
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    return graph


class Edge(NamedTuple):
    """A wait for ``pred`` and then ``lag``; ``origin``: see `Graph`."""

    pred: int
    lag: int
    origin: int


class _Nodes:
    """Nodes in the making; ``last`` is what the next node of a channel (a pair of ranks) waits for."""

    def __init__(self) -> None:
        self.rank, self.work, self.op = list[int](), list[int](), list[Op | None]()
        self.indptr, self.pred, self.lag, self.origin = [0], list[int](), list[int](), list[int]()
        self.last: dict[tuple[int, int], Edge] = {}

    def add(self, rank: int, op: Op | None, work: int, *edges: Edge | None) -> int:
        """Append a node (of a transfer: rank -1, no op) that waits for ``edges``; returns its number."""
        self.rank.append(rank)
        self.work.append(work)
        self.op.append(op)
        for edge in edges:
            if edge is not None:
                self.pred.append(edge.pred)
                self.lag.append(edge.lag)
                self.origin.append(edge.origin)
        self.indptr.append(len(self.pred))
        return len(self.rank) - 1


def unshards(units: Sequence[Unit]) -> list[tuple[list[int], list[int]]]:
    """Before each unit of a rank, the stages that it and the next ones need, and those of them to gather.

    The next `MOST_UNSHARDED` different ones are kept, others given up.
    """
    upcoming: list[list[int]] = []
    soon: list[int] = []
    for unit in reversed(units):
        soon = list(dict.fromkeys([*(op.stage for op in members(unit)), *soon]))[:MOST_UNSHARDED]
        upcoming.append(soon)
    found: list[tuple[list[int], list[int]]] = []
    here: list[int] = []
    for soon in reversed(upcoming):
        found.append((soon, [stage for stage in soon if stage not in here]))
        here = soon
    return found


def _marks(rank: Ints, stage: Ints, chosen: NDArray[np.int64], n_ranks: int) -> tuple[Ints, Ints, Ints]:
    """Number the nodes ``chosen``, rank by rank, in program order.

    Returns the numbers (o,), -1 elsewhere; their stages (k,); where each rank's begin (r+1,).
    """
    ordered = chosen[np.lexsort((chosen, rank[chosen]))]
    number = np.full(rank.size, -1, np.int32)
    number[ordered] = np.arange(ordered.size)
    return number, stage[ordered], np.searchsorted(rank[ordered], np.arange(n_ranks + 1)).astype(np.int32)


def _reuse(indptr: list[int], pred: list[int], origin: list[int]) -> tuple[list[int], int]:
    """Give each node a row for its finish time; rows whose last reader has run serve again, so the live ones fit the cache."""
    n = len(indptr) - 1
    last_reader = list(range(n))
    for node in range(n):
        for edge in range(indptr[node], indptr[node + 1]):
            last_reader[pred[edge]] = last_reader[origin[edge]] = node
    leaving: list[list[int]] = [[] for _ in range(n)]
    for node, reader in enumerate(last_reader):
        leaving[reader].append(node)
    slot, free, n_slots = [0] * n, list[int](), 0
    for node in range(n):
        free.extend(slot[gone] for gone in leaving[node] if gone != node)
        if free:
            slot[node] = free.pop()
        else:
            slot[node], n_slots = n_slots, n_slots + 1
        if last_reader[node] == node:
            free.append(slot[node])
    return slot, n_slots


def _factors(kinds: list[int], identity: list[int]) -> tuple[list[int], list[bool]]:
    """Give each op a row of factors; row 0 is used at once, the row of an I is kept until its W, of the same identity, has run."""
    row: list[int] = []
    fresh: list[bool] = []
    kept: dict[int, int] = {}
    free, n_rows = list[int](), 1
    for index, name in zip(kinds, identity, strict=True):
        kind = KINDS[index] if index >= 0 else None
        if kind is None:
            row.append(-1)
        elif kind == "W":
            row.append(kept.pop(name))
            free.append(row[-1])
        elif kind == "I":
            if not free:
                free.append(n_rows)
                n_rows += 1
            row.append(free.pop())
            kept[name] = row[-1]
        else:
            row.append(0)
        fresh.append(kind not in (None, "W"))
    return row, fresh
