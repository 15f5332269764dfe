"""What replicas exchange in a window: gradients that are reduced when all have them, weights that are gathered. d = lanes."""

import numpy as np

from hops.jit import inner
from hops.window import GATHER, LINK, REDUCE


@inner
def exchange_ticks(base, ring, law, graph, n, space, ticks):  # type: ignore[no-untyped-def]
    """Ticks (d,) of an exchange among replicas that takes ``base`` ticks, with the noise of the links of class ``ring``."""
    if law[LINK] >= 0:
        for d in range(n):
            ticks[d] = np.int64(base * space.shared[graph.n_ranks + ring, d] + 0.5)
    else:
        for d in range(n):
            ticks[d] = np.int64(base + 0.5)


@inner
def release(graph, cells, c, law, n, space):  # type: ignore[no-untyped-def]
    """Gather the weights of all stages from the beginning of the iteration on, rank by rank in the order of their first forwards."""
    most_buckets, end = space.released.shape[0] // graph.opening.size, space.start
    for rank in range(graph.n_ranks):
        for d in range(n):
            end[d] = 0
        for i in range(graph.openings[rank], graph.openings[rank + 1]):
            stage = graph.opening[i]
            exchange_ticks(cells.gather[c, stage], cells.ring[c, stage], law, graph, n, space, space.ticks)
            for part in range(cells.n_buckets[c, stage]):
                for d in range(n):
                    end[d] += space.ticks[d]
                    space.released[stage * most_buckets + part, d] = end[d]


@inner
def synchronize(graph, cells, c, law, n, space):  # type: ignore[no-untyped-def]
    """Reduce gradients on each rank's channel, update, gather weights: fills ``space.step`` and ``space.own_step``."""
    reduce_gradients(graph, cells, c, law, n, space)
    update_weights(graph, cells, c, law, n, space)


@inner
def reduce_gradients(graph, cells, c, law, n, space):  # type: ignore[no-untyped-def]
    """Reduce gradients on each rank's channel: when, into ``ready`` and ``reduced``; ``latest`` is their end where that is later.

    Where nothing overlaps, gradients are there when all ranks that reduce them have ended.
    """
    most_buckets, end = space.released.shape[0] // graph.opening.size, space.start
    if not cells.overlap[c, REDUCE]:
        for rank in range(graph.n_ranks):
            for i in range(graph.reductions[rank], graph.reductions[rank + 1]):
                milestone = graph.reducing[i]
                for part in range(cells.n_buckets[c, graph.reduced[milestone]]):
                    at = milestone * most_buckets + part
                    for d in range(n):
                        space.ready[at, d] = max(space.ready[at, d], space.latest[rank, d])
    for rank in range(graph.n_ranks):
        for d in range(n):
            end[d] = 0
        for i in range(graph.reductions[rank], graph.reductions[rank + 1]):
            milestone = graph.reducing[i]
            stage = graph.reduced[milestone]
            exchange_ticks(cells.reduce[c, stage], cells.ring[c, stage], law, graph, n, space, space.ticks)
            for part in range(cells.n_buckets[c, stage]):
                at = milestone * most_buckets + part
                for d in range(n):
                    space.ready[at, d] = max(end[d], space.ready[at, d])  # from here on when its reduction begins
                    end[d] = space.ready[at, d] + space.ticks[d]
                    space.reduced[at, d] = end[d]
        for d in range(n):
            space.latest[rank, d] = max(end[d], space.latest[rank, d])


@inner
def update_weights(graph, cells, c, law, n, space):  # type: ignore[no-untyped-def]
    """Update and gather the weights of each rank, once its gradients are reduced: fills ``space.step`` and ``space.own_step``.

    Everybody's update waits for everybody's gradients (a clip by their global norm) in ``step``, not in ``own_step``;
    nobody waits for all where there is no flush.
    """
    after, latest = space.unhindered, space.most_after
    for d in range(n):
        space.step[d] = space.own_step[d] = latest[d] = 0
    for rank in range(graph.n_ranks):
        for d in range(n):
            after[d] = cells.update[c, rank]
        if not cells.overlap[c, GATHER]:
            for i in range(graph.openings[rank], graph.openings[rank + 1]):
                stage = graph.opening[i]
                exchange_ticks(cells.gather[c, stage], cells.ring[c, stage], law, graph, n, space, space.ticks)
                for d in range(n):
                    after[d] += cells.n_buckets[c, stage] * space.ticks[d]
        for d in range(n):
            space.step[d] = max(space.step[d], space.latest[rank, d])
            latest[d] = max(latest[d], after[d])
            space.own_step[d] = max(space.own_step[d], space.latest[rank, d] + after[d] - space.earliest[rank, d])
    for d in range(n):
        space.step[d] = space.own_step[d] if graph.endless else space.step[d] + latest[d]
