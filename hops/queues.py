"""Queues of limited room between stages: backpressure, as edges of the graph.

What one stage hands to the next on another rank needs room there until it has been used. With room for Q microbatches the n-th unit
that fills a queue begins once the (n - Q)-th, in the order in which the other side uses them, has finished there (or begun): blocking
before service. Every pair of neighbours has a queue for each direction. Perros 1994, Queueing Networks with Blocking
(from memory).
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hops.checks import Infeasible
from hops.edges import sort
from hops.graph import NO_LAG, Graph, reordered
from hops.programs import Program, members

FREE_AT = ("finish", "start")


def with_queues(graph: Graph, program: Program, queue: int, free_at: str) -> Graph:
    """Let the ops of ``graph`` wait for room for what they make.

    Room is free at the start of an op when that op's inputs are there: hosts and weights that are gathered within the iteration must
    not hold it up. Where all wait for each other it is `Infeasible`; the error names the least queue that works.
    """
    ends = _ends(graph, program)
    goals = np.repeat(np.arange(graph.rank.size), np.diff(graph.indptr))
    own = np.stack([goals, graph.pred, graph.lag, graph.origin], axis=1)
    last = 2 if free_at == "finish" else 1

    def tried(queue: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All edges (e, 4), and nodes in order, as many as there is one of."""
        found = [(ends[maker][1], ends[user][last]) for maker, user in _room(program, ends, queue * graph.parts)]
        goal, pred = np.array(found, np.int64).reshape(-1, 2).T
        edges = np.concatenate([own, np.stack([goal, pred, np.full(goal.size, NO_LAG), pred], axis=1)])
        edges = edges[np.argsort(edges[:, 0], kind="stable")]
        order = np.empty(graph.rank.size, np.int64)
        indptr = np.searchsorted(edges[:, 0], np.arange(graph.rank.size + 1)).astype(np.int32)
        return edges, order[: sort(indptr, edges[:, 1].astype(np.int32), order)]

    edges, order = tried(queue)
    if len(edges) == len(own):
        return graph
    if order.size < graph.rank.size:
        low, high = queue, program.microbatches
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if tried(middle)[1].size == graph.rank.size else (middle, high)
        raise Infeasible(_deadlock(graph, program, queue, edges, order, high))
    if free_at == "start":
        edges = _starting(graph, own, _room(program, ends, queue * graph.parts), ends, order)
    return reordered(graph, order, edges)


def _ends(graph: Graph, program: Program) -> list[tuple[int, int, int]]:
    """Rank, first and last node of every unit of ``program.order``."""
    node = np.full(int(graph.op.max()) + 1, -1)
    node[graph.op[graph.op >= 0]] = np.flatnonzero(graph.op >= 0)
    found, at = [], 0
    for rank, unit in program.order:
        n = len(members(unit))
        found.append((rank, int(node[at]), int(node[at + n - 1])))
        at += n
    return found


def _room(program: Program, ends: Sequence[tuple[int, int, int]], room: int) -> Iterator[tuple[int, int]]:
    """Units of ``program.order`` that wait for room, and those that make it."""
    passing: dict[tuple[int, bool], list[int]] = {}  # units by seat and direction, as its rank runs them
    for i, (_, unit) in enumerate(program.order):
        for op in members(unit):
            if op.kind != "W":
                passing.setdefault((program.first_seats[op.microbatch] + op.stage, op.kind != "F"), []).append(i)
    for (seat, backward), makers in passing.items():
        goal = seat - 1 if backward else seat + 1
        users = passing.get((goal, backward), [])
        inside = goal // program.n_stages == seat // program.n_stages
        if inside and users and ends[users[0]][0] != ends[makers[0]][0]:
            yield from zip(makers[room:], users, strict=False)


def _starting(
    graph: Graph, own: NDArray[np.int64], room: Iterator[tuple[int, int]], ends: Sequence[tuple[int, int, int]], order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Edges that let nodes wait for starts: for the latest of what these wait for, which may be another start."""
    users: dict[int, list[int]] = {}
    for maker, user in room:
        users.setdefault(ends[maker][1], []).append(ends[user][1])
    started = {node for each in users.values() for node in each}
    waits: dict[int, list[tuple[int, ...]]] = {}
    for node in order.tolist():
        if node in users or node in started:
            each = [tuple(edge) for edge in own[graph.indptr[node] : graph.indptr[node + 1], 1:].tolist()]
            waits[node] = list(dict.fromkeys(each + [edge for user in users.get(node, ()) for edge in waits[user]]))
    more = [(node, *edge) for node in users for edge in waits[node][graph.indptr[node + 1] - graph.indptr[node] :]]
    edges = np.concatenate([own, np.array(more, np.int64).reshape(-1, 4)])
    return edges[np.argsort(edges[:, 0], kind="stable")]


def _deadlock(graph: Graph, program: Program, queue: int, edges: NDArray[np.int64], order: NDArray[np.int64], works: int) -> str:
    """Who waits for what, a line a rank, and the least queue that works."""
    done = np.zeros(graph.rank.size, bool)
    done[order] = True
    ops = [op for _, unit in program.order for op in members(unit)]
    lines = [f"schedule {program.name!r} deadlocks with queue={queue} (try queue={works}):"]
    for rank in range(graph.n_ranks):
        nodes = np.flatnonzero((graph.rank == rank) & ~done)
        if nodes.size:
            node = nodes[0]
            lacks = [int(origin) for goal, pred, _, origin in edges if goal == node and not done[pred] and graph.op[origin] >= 0]
            step = np.flatnonzero(graph.rank == rank).tolist().index(node)
            needs = " and ".join(dict.fromkeys(str(ops[graph.op[each]]) for each in lacks))
            lines.append(f"  rank {rank} waits at step {step}: {ops[graph.op[node]]} needs {needs}")
    return "\n".join(lines)
