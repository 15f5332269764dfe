"""The kernel for cells without noise: cells of one graph side by side in the lanes, instead of draws of one cell.

o = nodes in topological order, w = works, l = lags, c = cells, d = lanes, r = ranks. Every duration is rounded once a
cell and not once an op, and busy time is a count times a duration. ns per op and cell, one core (Zen 5), 1F1B with
p2p=latency, p=8 m=32 and p=16 m=128: 0.35 and 0.40; windows of 256 cells 0.45 and 0.37, of 64 0.60 and 0.57. With 256: waits
and exposed communication in loops of their own 0.58 and 0.46 (against 0.49 and 0.33 in the same run), work and lag with the
cells first 0.56 and 0.46; slices of the arrays, whose cells numba does not know to be next to each other, 0.60.
"""

import numpy as np

from hops.jit import kernel
from hops.kernels import BUSY, EXPOSED, MAKESPAN, MOST_BUSY, ONE, OWN_STEP, SPAN, STEP, TOTAL_BUSY, TOTAL_EXPOSED, UTILIZATION

WINDOW = 512  # cells side by side


@kernel
def evaluate_noiseless(graph, work, lag, drain, after, begin, end, per_draw, per_rank):  # type: ignore[no-untyped-def]
    """Evaluate cells begin <= . < end: work (w, c) float ticks, lag (l, c) ticks -> per_draw (7, c), per_rank (3, r, c) ticks.

    drain (r, c) ticks follow a rank's last op; the longest of after (r, c) ticks follows the last of all.
    Replicas are all alike without noise, so this is one of them.
    """
    n_ranks, n_works, n_lags = graph.n_ranks, work.shape[0], lag.shape[0]
    ticks, delay = np.empty((n_works, WINDOW), np.int64), np.empty((n_lags, WINDOW), np.int64)
    finish, start = np.empty((graph.n_slots, WINDOW), np.int64), np.empty(WINDOW, np.int64)
    unhindered = np.empty(WINDOW, np.int64)  # start if transfers took no time
    first, last = np.empty((n_ranks, WINDOW), np.int64), np.empty((n_ranks, WINDOW), np.int64)
    busy, exposed = np.empty((n_ranks, WINDOW), np.int64), np.empty((n_ranks, WINDOW), np.int64)
    makespan, span, longest = np.empty(WINDOW, np.int64), np.empty(WINDOW, np.int64), np.empty(WINDOW, np.int64)
    n_times, home, used = np.zeros(n_works, np.int64), np.zeros(n_works, np.int64), np.zeros(n_works, np.bool_)
    for node in range(graph.rank.size):
        used[graph.work[node]] = True
        if graph.counted[node]:
            n_times[graph.work[node]] += 1
            home[graph.work[node]] = graph.rank[node]

    for at in range(begin, end, WINDOW):
        n = min(WINDOW, end - at)
        busy[:] = 0
        exposed[:] = 0
        makespan[:] = 0
        span[:] = 0
        for i in range(n_works):
            if used[i]:
                for d in range(n):
                    ticks[i, d] = np.int64(work[i, at + d] + 0.5)
                for d in range(n):
                    busy[home[i], d] += n_times[i] * ticks[i, d]
        for i in range(n_lags):
            for d in range(n):
                delay[i, d] = lag[i, at + d]

        for node in range(graph.rank.size):
            rank, mine, out = graph.rank[node], graph.work[node], graph.slot[node]
            edges, n_edges = graph.indptr[node], graph.indptr[node + 1] - graph.indptr[node]
            if n_edges == 1 and graph.lag[edges] == 0:
                before = graph.slot[graph.pred[edges]]
                for d in range(n):
                    start[d] = finish[before, d]
            elif n_edges == 2 and graph.lag[edges] == 0:
                a, b = graph.slot[graph.pred[edges]], graph.slot[graph.pred[edges + 1]]
                b_lag, b_origin = graph.lag[edges + 1], graph.slot[graph.origin[edges + 1]]
                if graph.counted[node]:
                    for d in range(n):
                        start[d] = max(finish[a, d], finish[b, d] + delay[b_lag, d])
                        exposed[rank, d] += start[d] - max(finish[a, d], finish[b_origin, d])
                else:
                    for d in range(n):
                        start[d] = max(finish[a, d], finish[b, d] + delay[b_lag, d])
            else:
                for d in range(n):
                    start[d] = unhindered[d] = 0
                for edge in range(edges, edges + n_edges):
                    before, at_lag, origin = graph.slot[graph.pred[edge]], graph.lag[edge], graph.slot[graph.origin[edge]]
                    for d in range(n):
                        start[d] = max(start[d], finish[before, d] + delay[at_lag, d])
                        unhindered[d] = max(unhindered[d], finish[origin, d])
                if graph.counted[node]:
                    for d in range(n):
                        exposed[rank, d] += start[d] - unhindered[d]
            for d in range(n):
                finish[out, d] = start[d] + ticks[mine, d]
            if rank >= 0:
                if graph.first[node]:
                    for d in range(n):
                        first[rank, d] = start[d] if graph.counted[node] else finish[out, d]
                if graph.last[node]:
                    for d in range(n):
                        last[rank, d] = finish[out, d]
                        span[d] = max(span[d], finish[out, d] - first[rank, d])
                        makespan[d] = max(makespan[d], finish[out, d] - (first[rank, d] if graph.endless else 0))

        for d in range(n):
            per_draw[MAKESPAN, at + d], per_draw[SPAN, at + d] = makespan[d], span[d]
            per_draw[TOTAL_BUSY, at + d] = per_draw[MOST_BUSY, at + d] = per_draw[TOTAL_EXPOSED, at + d] = 0
            per_draw[STEP, at + d] = per_draw[OWN_STEP, at + d] = 0
        for rank in range(n_ranks):
            for d in range(n):
                per_rank[BUSY, rank, at + d], per_rank[EXPOSED, rank, at + d] = busy[rank, d], exposed[rank, d]
            for d in range(n):
                ended, rest = last[rank, d] + drain[rank, at + d], after[rank, at + d]
                per_draw[STEP, at + d] = max(per_draw[STEP, at + d], ended)
                per_draw[OWN_STEP, at + d] = max(per_draw[OWN_STEP, at + d], ended + rest - first[rank, d])
                longest[d] = rest if rank == 0 else max(longest[d], rest)
            for d in range(n):
                per_draw[TOTAL_BUSY, at + d] += busy[rank, d]
                per_draw[TOTAL_EXPOSED, at + d] += exposed[rank, d]
                per_draw[MOST_BUSY, at + d] = max(per_draw[MOST_BUSY, at + d], busy[rank, d])
            for d in range(n):
                per_rank[UTILIZATION, rank, at + d] = np.int64(busy[rank, d] / max(makespan[d], 1) * ONE + 0.5)
        for d in range(n):
            per_draw[STEP, at + d] = per_draw[OWN_STEP, at + d] if graph.endless else per_draw[STEP, at + d] + longest[d]
