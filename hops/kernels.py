"""The kernel: sampled durations and longest paths of one graph, window by window of 256 draws. int64 ticks of 1 ns.

o = nodes in topological order, d = lanes (draws of a window, innermost), r = ranks, c = cells, n = draws. Plain loops
over scalars; noise is made where it is used; metrics are reduced in the window in integers, so no order of
evaluation, tile or thread can change a bit.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.jit import kernel
from hops.noise import BLOCKS, LANES, OP_STREAM, draw_factors

MAKESPAN, SPAN, TOTAL_BUSY, MOST_BUSY = range(4)  # rows of `per_draw`
BUSY, EXPOSED, UTILIZATION = range(3)  # rows of `moments`
ONE = 1 << 40  # a utilization of 1 in `moments`, fixed point
LIMB = 21  # moments are sums over limbs of 21 bits: exact for values below 2^63 and up to MOST_DRAWS draws a call
N_LIMBS = 9
MOST_DRAWS = 1 << 20


class Workspace(NamedTuple):
    """Scratch of one call; rows of LANES."""

    finish: NDArray[np.int64]  # (slots, d)
    factor: NDArray[np.float64]  # (factors, d)
    words: NDArray[np.uint32]  # (4, d / 4) random words, and the same memory as (d,)
    bits: NDArray[np.uint32]
    distance: NDArray[np.float64]  # (d,), and the same memory as integers
    pattern: NDArray[np.int64]
    cell: NDArray[np.int64]  # (d,)
    ticks: NDArray[np.int64]  # (d,)
    start: NDArray[np.int64]  # (d,)
    unhindered: NDArray[np.int64]  # (d,) start if transfers took no time
    first: NDArray[np.int64]  # (r, d) start of a rank's first op
    busy: NDArray[np.int64]  # (r, d)
    exposed: NDArray[np.int64]  # (r, d)
    makespan: NDArray[np.int64]  # (d,)
    span: NDArray[np.int64]  # (d,)


@kernel
def workspace(n_slots, n_factors, n_ranks):  # type: ignore[no-untyped-def]
    """Allocate a `Workspace`."""
    words, distance = np.empty((4, BLOCKS), np.uint32), np.empty(LANES, np.float64)
    return Workspace(
        np.empty((n_slots, LANES), np.int64),
        np.empty((n_factors, LANES), np.float64),
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
        np.empty(LANES, np.int64),
        np.empty(LANES, np.int64),
    )


@kernel
def run_window(graph, slot, work, lag, noisy, table, seed, window, lo, hi, space):  # type: ignore[no-untyped-def]
    """Evaluate draws lo <= . < hi of ``window`` for one cell as lanes 0 .. n-1; leaves its results in ``space``.

    work (6 stages,) float ticks; lag (1 + 2 stages,) ticks; table (cells, 2); slot (o,) rows of ``space.finish``.
    """
    n = hi - lo
    space.busy[:] = 0
    space.exposed[:] = 0
    space.makespan[:] = 0
    space.span[:] = 0
    finish, ticks, start, unhindered = space.finish, space.ticks, space.start, space.unhindered
    busy, exposed, first = space.busy, space.exposed, space.first
    for node in range(graph.rank.size):
        base = work[graph.work[node]]
        row = graph.factor[node]
        if noisy and row >= 0:
            if graph.fresh[node]:
                draw_factors(
                    window, lo, hi, graph.identity[node], OP_STREAM, seed, 0, table,
                    space.words, space.bits, space.distance, space.pattern, space.cell, space.factor, row,
                )  # fmt: skip
            for d in range(n):
                ticks[d] = np.int64(base * space.factor[row, d] + 0.5)
        else:
            fixed = np.int64(base + 0.5)
            for d in range(n):
                ticks[d] = fixed

        out, begin, n_edges = slot[node], graph.indptr[node], graph.indptr[node + 1] - graph.indptr[node]
        rank, waits = graph.rank[node], False
        if n_edges == 1 and graph.lag[begin] == 0:
            before = slot[graph.pred[begin]]
            for d in range(n):
                start[d] = finish[before, d]
        elif n_edges == 2:
            waits = True
            a, a_lag, a_origin = slot[graph.pred[begin]], lag[graph.lag[begin]], slot[graph.origin[begin]]
            b, b_lag, b_origin = slot[graph.pred[begin + 1]], lag[graph.lag[begin + 1]], slot[graph.origin[begin + 1]]
            for d in range(n):
                start[d] = max(finish[a, d] + a_lag, finish[b, d] + b_lag)
                unhindered[d] = max(finish[a_origin, d], finish[b_origin, d])
        else:
            waits = True
            for d in range(n):
                start[d] = unhindered[d] = 0
            for edge in range(begin, begin + n_edges):
                before, delay, origin = slot[graph.pred[edge]], lag[graph.lag[edge]], slot[graph.origin[edge]]
                for d in range(n):
                    start[d] = max(start[d], finish[before, d] + delay)
                    unhindered[d] = max(unhindered[d], finish[origin, d])

        for d in range(n):
            finish[out, d] = start[d] + ticks[d]
        if rank >= 0:
            for d in range(n):
                busy[rank, d] += ticks[d]
            if waits:
                for d in range(n):
                    exposed[rank, d] += start[d] - unhindered[d]
            if graph.first[node]:
                for d in range(n):
                    first[rank, d] = start[d]
            if graph.last[node]:
                for d in range(n):
                    space.makespan[d] = max(space.makespan[d], finish[out, d])
                    space.span[d] = max(space.span[d], finish[out, d] - first[rank, d])


@kernel
def add_moments(values, n, sums):  # type: ignore[no-untyped-def]
    """Add the first n of ``values`` (d,) >= 0 to ``sums`` (9,): limb sums a, b, c, then aa, ab, ac, bb, bc, cc, v = a 2^42 + b 2^21 + c."""
    mask = np.int64((1 << LIMB) - 1)
    sa = sb = sc = saa = sab = sac = sbb = sbc = scc = np.int64(0)
    for d in range(n):
        a, b, c = values[d] >> np.int64(2 * LIMB), values[d] >> np.int64(LIMB) & mask, values[d] & mask
        sa += a
        sb += b
        sc += c
        saa += a * a
        sab += a * b
        sac += a * c
        sbb += b * b
        sbc += b * c
        scc += c * c
    for i, total in enumerate((sa, sb, sc, saa, sab, sac, sbb, sbc, scc)):
        sums[i] += total


@kernel
def evaluate(graph, work, lag, law, tables, seed, first_draw, per_draw, moments):  # type: ignore[no-untyped-def]
    """Evaluate every cell of ``work`` for as many draws as ``per_draw`` has room for, from ``first_draw`` on.

    work (c, 6 stages) float ticks; lag (c, 1 + 2 stages) ticks; law (c,) row of ``tables`` or -1 for no noise; tables
    (laws, cells, 2); seed (c,); results: per_draw (4, c, n) ticks, moments (c, 3, r, 9) added to.
    """
    space = workspace(graph.n_slots, graph.n_factors, graph.n_ranks)
    n_draws = per_draw.shape[2]
    for c in range(work.shape[0]):
        noisy, table = law[c] >= 0, tables[max(law[c], 0)]
        for window in range(first_draw // LANES, (first_draw + n_draws - 1) // LANES + 1):
            lo = max(first_draw - window * LANES, 0)
            hi = min(first_draw + n_draws - window * LANES, LANES)
            run_window(graph, graph.slot, work[c], lag[c], noisy, table, seed[c], window, lo, hi, space)
            n, at = hi - lo, window * LANES + lo - first_draw
            makespan, span = per_draw[MAKESPAN, c, at : at + n], per_draw[SPAN, c, at : at + n]
            total, most = per_draw[TOTAL_BUSY, c, at : at + n], per_draw[MOST_BUSY, c, at : at + n]
            for d in range(n):
                makespan[d], span[d], total[d], most[d] = space.makespan[d], space.span[d], 0, 0
            for rank in range(graph.n_ranks):
                busy = space.busy[rank]
                for d in range(n):
                    total[d] += busy[d]
                    most[d] = max(most[d], busy[d])
                for d in range(n):
                    space.ticks[d] = np.int64(busy[d] / space.makespan[d] * ONE + 0.5)
                add_moments(busy, n, moments[c, BUSY, rank])
                add_moments(space.exposed[rank], n, moments[c, EXPOSED, rank])
                add_moments(space.ticks, n, moments[c, UTILIZATION, rank])


@kernel
def trace(graph, work, lag, noisy, table, seed, draw, start, finish):  # type: ignore[no-untyped-def]
    """Start and finish (o,) of every node in one draw [ticks]; the same window as `evaluate`, with a row for every node."""
    n = graph.rank.size
    space = workspace(n, graph.n_factors, graph.n_ranks)
    window, lane = draw // LANES, draw % LANES
    run_window(graph, np.arange(n), work, lag, noisy, table, seed, window, lane, lane + 1, space)
    for node in range(n):
        finish[node] = space.finish[node, 0]
        start[node] = 0
        for edge in range(graph.indptr[node], graph.indptr[node + 1]):
            start[node] = max(start[node], finish[graph.pred[edge]] + lag[graph.lag[edge]])
