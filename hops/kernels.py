"""The kernel: sampled durations and longest paths of one graph, window by window of 256 draws. int64 ticks of 1 ns.

o = nodes in topological order, d = lanes (draws of a window, innermost), r = ranks, c = cells, n = draws. Plain loops
over scalars; noise is made where it is used; metrics are reduced in the window in integers, so no order of
evaluation, tile or thread can change a bit.
"""

import numpy as np

from hops.jit import kernel
from hops.noise import LANES, LINK_STREAM, MICROBATCH_BITS, MICROBATCH_STREAM, OP_STREAM, RANK_STREAM, draw_factors
from hops.workspace import N_LINKS, workspace

MAKESPAN, SPAN, TOTAL_BUSY, MOST_BUSY, STEP, OWN_STEP = range(6)  # rows of `per_draw`; the last two with what follows the pipeline
BUSY, EXPOSED, UTILIZATION = range(3)  # rows of `moments` and `per_rank`
ONE = 1 << 40  # a utilization of 1 in `moments`, fixed point
LIMB = 21  # moments are sums over limbs of 21 bits: exact for values below 2^63 and up to MOST_DRAWS draws a call
N_LIMBS = 9
MOST_DRAWS = 1 << 20

OP, RANK, MICROBATCH, LINK = range(4)  # terms of the noise, columns of `law`


@kernel
def draw_shared(graph, lag, link, law, tables, seed, replica, window, lo, hi, space):  # type: ignore[no-untyped-def]
    """Draw what a window draws once: factors of ranks, link classes and microbatches into ``space.shared``, and the lags.

    Replicas have ranks and microbatches of their own; the links are the same for all.
    """
    n, n_ranks = hi - lo, graph.n_ranks
    for term, stream, first, count in (
        (RANK, RANK_STREAM, 0, n_ranks),
        (LINK, LINK_STREAM, n_ranks, N_LINKS),
        (MICROBATCH, MICROBATCH_STREAM, n_ranks + N_LINKS, graph.n_microbatches),
    ):
        if law[term] >= 0:
            for i in range(count):
                draw_factors(
                    window, lo, hi, i, 0 if term == LINK else replica, stream, seed, 0, tables[law[term]],
                    space.words, space.bits, space.distance, space.pattern, space.cell, space.shared, first + i,
                )  # fmt: skip
    for i in range(lag.size):
        if law[LINK] >= 0:
            row = n_ranks + link[i]
            for d in range(n):
                space.lag[i, d] = np.int64(lag[i] * space.shared[row, d] + 0.5)
        else:
            for d in range(n):
                space.lag[i, d] = lag[i]


@kernel
def run_window(graph, slot, work, lag, link, law, tables, seed, replica, window, lo, hi, space):  # type: ignore[no-untyped-def]
    """Evaluate draws lo <= . < hi of ``window`` for one cell as lanes 0 .. n-1; leaves its results in ``space``.

    work (6 stages,) float ticks; lag, link (1 + 2 stages,) ticks and link class; law (4,) rows of tables (laws, cells, 2)
    or -1; slot (o,) rows of ``space.finish``.

    ns per op and draw, one core (Zen 5), 1F1B p=8 m=32, p2p=latency: 1.94 in all; 0.58 of them remain with the noise off
    (longest path, busy time, waits, moments), so noise takes 1.36. Its loops timed alone (`draw_factors`) are Philox 0.26,
    and 0.77 for finding and interpolating the table's cell; the difference was not taken apart.
    """
    n = hi - lo
    space.busy[:] = 0
    space.exposed[:] = 0
    draw_shared(graph, lag, link, law, tables, seed, replica, window, lo, hi, space)
    finish, ticks, start, unhindered = space.finish, space.ticks, space.start, space.unhindered
    busy, exposed, first, delay, shared = space.busy, space.exposed, space.first, space.lag, space.shared
    n_transfers = work.size - (lag.size - 1)  # where the transfers' places in the work vector begin
    table = tables[max(law[OP], 0)]
    many = law[RANK] >= 0 or law[MICROBATCH] >= 0
    for node in range(graph.rank.size):
        base = work[graph.work[node]]
        row, rank = graph.factor[node], graph.rank[node]
        if rank >= 0 and (law[OP] >= 0 or many):
            if law[OP] >= 0 and graph.fresh[node]:
                draw_factors(
                    window, lo, hi, graph.identity[node], replica, OP_STREAM, seed, 0, table,
                    space.words, space.bits, space.distance, space.pattern, space.cell, space.factor, row,
                )  # fmt: skip
            if not many:
                for d in range(n):
                    ticks[d] = np.int64(base * space.factor[row, d] + 0.5)
            else:  # base x op x rank x microbatch, from the left; a term that is off multiplies by 1
                # the scratch row is free again: the op's own factor has been drawn
                product, at = space.distance, graph.n_ranks + N_LINKS + (graph.identity[node] & ((1 << MICROBATCH_BITS) - 1))
                for d in range(n):
                    product[d] = base * space.factor[row, d] if law[OP] >= 0 else base
                if law[RANK] >= 0:
                    for d in range(n):
                        product[d] *= shared[rank, d]
                if law[MICROBATCH] >= 0:
                    for d in range(n):
                        product[d] *= shared[at, d]
                for d in range(n):
                    ticks[d] = np.int64(product[d] + 0.5)
        elif rank < 0 and law[LINK] >= 0:
            at = graph.n_ranks + link[1 + graph.work[node] - n_transfers]
            for d in range(n):
                ticks[d] = np.int64(base * shared[at, d] + 0.5)
        else:
            fixed = np.int64(base + 0.5)
            for d in range(n):
                ticks[d] = fixed

        out, begin, n_edges = slot[node], graph.indptr[node], graph.indptr[node + 1] - graph.indptr[node]
        waits = False
        if n_edges == 1 and graph.lag[begin] == 0:
            before = slot[graph.pred[begin]]
            for d in range(n):
                start[d] = finish[before, d]
        elif n_edges == 2:
            waits = True
            a, a_lag, a_origin = slot[graph.pred[begin]], graph.lag[begin], slot[graph.origin[begin]]
            b, b_lag, b_origin = slot[graph.pred[begin + 1]], graph.lag[begin + 1], slot[graph.origin[begin + 1]]
            for d in range(n):
                start[d] = max(finish[a, d] + delay[a_lag, d], finish[b, d] + delay[b_lag, d])
                unhindered[d] = max(finish[a_origin, d], finish[b_origin, d])
        else:
            waits = True
            for d in range(n):
                start[d] = unhindered[d] = 0
            for edge in range(begin, begin + n_edges):
                before, at_lag, origin = slot[graph.pred[edge]], graph.lag[edge], slot[graph.origin[edge]]
                for d in range(n):
                    start[d] = max(start[d], finish[before, d] + delay[at_lag, d])
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
                    space.last[rank, d] = finish[out, d]


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
def run_replicas(graph, work, lag, link, law, tables, seed, n_replicas, window, lo, hi, space):  # type: ignore[no-untyped-def]
    """Evaluate all replicas of a window one after the other; leaves their sums and extremes in ``space``."""
    n = hi - lo
    space.all_busy[:] = 0
    space.all_exposed[:] = 0
    space.latest[:] = 0
    space.most[:] = 0
    space.makespan[:] = 0
    space.span[:] = 0
    for replica in range(n_replicas):
        run_window(graph, graph.slot, work, lag, link, law, tables, seed, replica, window, lo, hi, space)
        for rank in range(graph.n_ranks):
            for d in range(n):
                space.all_busy[rank, d] += space.busy[rank, d]
                space.all_exposed[rank, d] += space.exposed[rank, d]
            for d in range(n):
                space.most[d] = max(space.most[d], space.busy[rank, d])
                space.makespan[d] = max(space.makespan[d], space.last[rank, d])
                space.span[d] = max(space.span[d], space.last[rank, d] - space.first[rank, d])
            for d in range(n):
                space.latest[rank, d] = max(space.latest[rank, d], space.last[rank, d])
                before = space.first[rank, d] if replica == 0 else space.earliest[rank, d]
                space.earliest[rank, d] = min(before, space.first[rank, d])


@kernel
def evaluate(graph, work, lag, link, law, tables, seed, n_replicas, tail, first_draw, per_draw, moments, per_rank):  # type: ignore[no-untyped-def]
    """Evaluate every cell of ``work`` for as many draws as ``per_draw`` has room for, from ``first_draw`` on.

    work (c, 6 stages) float ticks; lag, link (c, 1 + 2 stages) ticks and link class; law (c, 4) rows of tables
    (laws, cells, 2), -1 for a term that is off; seed, n_replicas (c,); tail (c, r) ticks that follow a rank's last op in
    all replicas. Results: per_draw (6, c, n) ticks; moments (c, 3, r, 9) added to, and per_rank (3, c, r, n) ticks, or of no
    cells where only the moments are asked for: both of sums over the replicas, utilization of their mean.
    """
    space = workspace(graph, graph.n_slots, lag.shape[1])
    n_draws = per_draw.shape[2]
    for c in range(work.shape[0]):
        for window in range(first_draw // LANES, (first_draw + n_draws - 1) // LANES + 1):
            lo = max(first_draw - window * LANES, 0)
            hi = min(first_draw + n_draws - window * LANES, LANES)
            run_replicas(graph, work[c], lag[c], link[c], law[c], tables, seed[c], n_replicas[c], window, lo, hi, space)
            n, at = hi - lo, window * LANES + lo - first_draw
            total = per_draw[TOTAL_BUSY, c, at : at + n]
            step, own_step = per_draw[STEP, c, at : at + n], per_draw[OWN_STEP, c, at : at + n]
            for d in range(n):
                per_draw[MAKESPAN, c, at + d], per_draw[SPAN, c, at + d] = space.makespan[d], space.span[d]
                per_draw[MOST_BUSY, c, at + d] = space.most[d]
                total[d] = step[d] = own_step[d] = 0
            for rank in range(graph.n_ranks):
                busy, exposed = space.all_busy[rank], space.all_exposed[rank]
                for d in range(n):
                    end = space.latest[rank, d] + tail[c, rank]
                    step[d] = max(step[d], end)
                    own_step[d] = max(own_step[d], end - space.earliest[rank, d])
                for d in range(n):
                    total[d] += busy[d]
                for d in range(n):
                    space.ticks[d] = np.int64(busy[d] / (max(space.makespan[d], 1) * n_replicas[c]) * ONE + 0.5)
                add_moments(busy, n, moments[c, BUSY, rank])
                add_moments(exposed, n, moments[c, EXPOSED, rank])
                add_moments(space.ticks, n, moments[c, UTILIZATION, rank])
                if per_rank.shape[1]:
                    for d in range(n):
                        per_rank[BUSY, c, rank, at + d] = busy[d]
                        per_rank[EXPOSED, c, rank, at + d] = exposed[d]
                        per_rank[UTILIZATION, c, rank, at + d] = space.ticks[d]


@kernel
def trace(graph, work, lag, link, law, tables, seed, draw, start, finish, lags):  # type: ignore[no-untyped-def]
    """Start and finish (o,) of every node and the lags (1 + 2 stages,) in one draw of replica 0 [ticks].

    The same window as in `evaluate`, with a row for every node.
    """
    n = graph.rank.size
    space = workspace(graph, n, lag.size)
    window, lane = draw // LANES, draw % LANES
    run_window(graph, np.arange(n), work, lag, link, law, tables, seed, 0, window, lane, lane + 1, space)
    for i in range(lag.size):
        lags[i] = space.lag[i, 0]
    for node in range(n):
        finish[node] = space.finish[node, 0]
        start[node] = 0
        for edge in range(graph.indptr[node], graph.indptr[node + 1]):
            start[node] = max(start[node], finish[graph.pred[edge]] + space.lag[graph.lag[edge], 0])
