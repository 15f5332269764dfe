"""Scratch memory of the kernel: rows of LANES, allocated once a call and small enough for the first caches."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.jit import kernel
from hops.noise import BLOCKS, LANES

N_LINKS = 16  # classes of links at most


class Workspace(NamedTuple):
    """Scratch of one call; rows of LANES."""

    finish: NDArray[np.int64]  # (slots, d)
    factor: NDArray[np.float64]  # (factors, d) of ops
    shared: NDArray[np.float64]  # (ranks + links + microbatches, d) factors that a window draws once
    lag: NDArray[np.int64]  # (1 + 2 stages, d) delays, link noise included
    words: NDArray[np.uint32]  # (4, d / 4) random words, and the same memory as (d,)
    bits: NDArray[np.uint32]
    distance: NDArray[np.float64]  # (d,), and the same memory as integers
    pattern: NDArray[np.int64]
    cell: NDArray[np.int64]  # (d,)
    ticks: NDArray[np.int64]  # (d,)
    start: NDArray[np.int64]  # (d,)
    unhindered: NDArray[np.int64]  # (d,) start if transfers took no time
    first: NDArray[np.int64]  # (r, d) start of a rank's first op
    last: NDArray[np.int64]  # (r, d) end of a rank's last op
    busy: NDArray[np.int64]  # (r, d)
    exposed: NDArray[np.int64]  # (r, d)
    earliest: NDArray[np.int64]  # (r, d) of all replicas: first start
    latest: NDArray[np.int64]  # (r, d) last end
    all_busy: NDArray[np.int64]  # (r, d) sums
    all_exposed: NDArray[np.int64]  # (r, d)
    most: NDArray[np.int64]  # (d,) largest busy time
    makespan: NDArray[np.int64]  # (d,)
    span: NDArray[np.int64]  # (d,)


@kernel
def workspace(graph, n_slots, n_lags):  # type: ignore[no-untyped-def]
    """Allocate a `Workspace`."""
    n_ranks = graph.n_ranks
    words, distance = np.empty((4, BLOCKS), np.uint32), np.empty(LANES, np.float64)
    return Workspace(
        np.empty((n_slots, LANES), np.int64),
        np.empty((graph.n_factors, LANES), np.float64),
        np.empty((n_ranks + N_LINKS + graph.n_microbatches, LANES), np.float64),
        np.empty((n_lags, LANES), np.int64),
        words,
        words.reshape(-1),
        distance,
        distance.view(np.int64),
        np.empty(LANES, np.int64),
        np.empty(LANES, np.int64),
        np.empty(LANES, np.int64),
        np.empty(LANES, np.int64),
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
    )
