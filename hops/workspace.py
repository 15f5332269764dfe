"""Scratch memory of the kernel: rows of LANES, allocated once a call and small enough for the first caches."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.jit import kernel
from hops.noise import BLOCKS, LANES

N_LINKS = 16  # classes of links at most


class Work(NamedTuple):
    """What the kernel needs of cells with one graph: c = cells, v = variants of replicas, s = stages, r = ranks."""

    work: NDArray[np.float64]  # (c, v, 7 s + 2 pairs) ticks
    lag: NDArray[np.int64]  # (c, v, 1 + 3 s) ticks
    link: NDArray[np.int64]  # (c, v, 1 + 3 s) class of the path that a lag stands for
    host: NDArray[np.float64]  # (c, 7 s + 2 pairs) ticks to issue an op
    variant: NDArray[np.int64]  # (c, replicas) which variant a replica is
    n_replicas: NDArray[np.int64]  # (c,)
    seed: NDArray[np.uint64]  # (c,) and the trial in the upper 32 bits
    n_buckets: NDArray[np.int64]  # (c, s) of a stage's gradients and weights
    reduce: NDArray[np.float64]  # (c, s) ticks to reduce a bucket
    gather: NDArray[np.float64]  # (c, s) ticks to gather a bucket of weights
    ring: NDArray[np.int64]  # (c, s) class of the slowest path of these
    slow: NDArray[np.float64]  # (c, 7 s + 2 pairs) ticks that an exchange of replicas adds to an op that it runs beside
    update: NDArray[np.int64]  # (c, r) ticks of the optimizer, and of what else ends an iteration
    loss: NDArray[np.int64]  # (c,) of 2^32 random numbers, those with which a try of a message is lost
    tries: NDArray[np.int64]  # (c,) of a message, all of them
    timeouts: NDArray[np.int64]  # (c, tries) ticks
    overlap: NDArray[np.bool_]  # (c, 2) a bucket is reduced when ready; weights are gathered before a stage's first forward


class Workspace(NamedTuple):
    """Scratch of one call; rows of LANES."""

    finish: NDArray[np.int64]  # (slots, d)
    factor: NDArray[np.float64]  # (factors, d) of ops
    shared: NDArray[np.float64]  # (ranks + links + microbatches + 1, d) factors that a window draws once; the last row is scratch
    lag: NDArray[np.int64]  # (1 + 3 stages, d) delays, link noise included
    words: NDArray[np.uint32]  # (4, d / 4) random words, and the same memory as (d,)
    bits: NDArray[np.uint32]
    distance: NDArray[np.float64]  # (d,), and the same memory as integers
    pattern: NDArray[np.int64]
    cell: NDArray[np.int64]  # (d,)
    ticks: NDArray[np.int64]  # (d,)
    start: NDArray[np.int64]  # (d,)
    unhindered: NDArray[np.int64]  # (d,) start if transfers took no time
    begun: NDArray[np.int64]  # (o, d) start of every node, where asked for
    hosted: NDArray[np.int64]  # (o, d) when its host has issued it
    issued: NDArray[np.int64]  # (r, d) until when the host of a rank has issued its ops
    ready: NDArray[np.int64]  # (buckets, d) when a bucket's gradients are there, in all replicas; then when its reduction begins
    reduced: NDArray[np.int64]  # (buckets, d) when it ends
    released: NDArray[np.int64]  # (buckets, d) when a bucket of weights has been gathered; buckets of stages, not of milestones
    first: NDArray[np.int64]  # (r, d) start of a rank's first op
    last: NDArray[np.int64]  # (r, d) end of a rank's last op
    busy: NDArray[np.int64]  # (r, d)
    exposed: NDArray[np.int64]  # (r, d)
    earliest: NDArray[np.int64]  # (r, d) of all replicas: first start
    latest: NDArray[np.int64]  # (r, d) last end; later that of its gradients' reduction
    all_busy: NDArray[np.int64]  # (r, d) sums
    all_exposed: NDArray[np.int64]  # (r, d)
    most: NDArray[np.int64]  # (d,) largest busy time
    most_after: NDArray[np.int64]  # (d,) longest that follows the reduction of gradients on any rank
    makespan: NDArray[np.int64]  # (d,)
    span: NDArray[np.int64]  # (d,)
    step: NDArray[np.int64]  # (d,) end of the iteration
    own_step: NDArray[np.int64]  # (d,) longest time from a rank's own beginning to its own end


@kernel
def workspace(graph, n_begun, n_buckets):  # type: ignore[no-untyped-def]
    """Allocate a `Workspace`; ``n_begun``: all nodes, or 0 where their starts are not asked for; at most ``n_buckets`` a stage."""
    n_ranks, n_stages, n_milestones = graph.n_ranks, graph.opening.size, graph.reduced.size
    words, distance = np.empty((4, BLOCKS), np.uint32), np.empty(LANES, np.float64)
    return Workspace(
        np.empty((graph.n_slots, LANES), np.int64),
        np.empty((graph.n_factors, LANES), np.float64),
        np.empty((n_ranks + N_LINKS + graph.n_microbatches + 1, LANES), np.float64),
        np.empty((1 + 3 * n_stages, LANES), np.int64),
        words,
        words.reshape(-1),
        distance,
        distance.view(np.int64),
        np.empty(LANES, np.int64),
        np.empty(LANES, np.int64),
        np.empty(LANES, np.int64),
        np.empty(LANES, np.int64),
        np.empty((n_begun, LANES), np.int64),
        np.zeros((n_begun, LANES), np.int64),
        np.empty((n_ranks, LANES), np.int64),
        np.empty((n_milestones * n_buckets, LANES), np.int64),
        np.empty((n_milestones * n_buckets, LANES), np.int64),
        np.empty((n_stages * n_buckets, LANES), np.int64),
        np.empty((n_ranks, LANES), np.int64),
        np.empty((n_ranks, LANES), np.int64),
        np.empty((n_ranks, LANES), np.int64),
        np.empty((n_ranks, LANES), np.int64),
        np.empty((n_ranks, LANES), np.int64),
        np.empty((n_ranks, LANES), np.int64),
        np.empty((n_ranks, LANES), np.int64),
        np.empty((n_ranks, LANES), np.int64),
        np.empty(LANES, np.int64),
        np.empty(LANES, np.int64),
        np.empty(LANES, np.int64),
        np.empty(LANES, np.int64),
        np.empty(LANES, np.int64),
        np.empty(LANES, np.int64),
    )
