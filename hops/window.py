"""One window of one replica: sampled durations and the longest path of a graph, for up to 256 draws side by side.

o = nodes in topological order, d = lanes (draws of the window, innermost), r = ranks, s = stages. Plain loops over scalars;
noise is made where it is used.
"""

import numpy as np

from hops.jit import inner
from hops.noise import HOST_STREAM, LINK_STREAM, MICROBATCH_BITS, MICROBATCH_STREAM, OP_STREAM, RANK_STREAM, draw_factors
from hops.retries import add_timeouts
from hops.workspace import N_LINKS

OP, RANK, MICROBATCH, LINK, HOST = range(5)  # terms of the noise, columns of `law`
REDUCE, GATHER = range(2)  # columns of `overlap`


@inner
def draw_links(graph, seed, law, tables, window, lo, hi, space):  # type: ignore[no-untyped-def]
    """Draw what a window draws once for all replicas: factors of the link classes into ``space.shared``."""
    if law[LINK] >= 0:
        for i in range(N_LINKS):
            draw_factors(
                window, lo, hi, i, np.int64(0), np.int64(LINK_STREAM), seed, tables[law[LINK]],
                space.words, space.bits, space.distance, space.pattern, space.cell, space.shared, graph.n_ranks + i,
            )  # fmt: skip


@inner
def draw_shared(graph, lag, link, law, tables, seed, replica, window, lo, hi, space):  # type: ignore[no-untyped-def]
    """Draw what a window draws once a replica: factors of ranks and microbatches into ``space.shared``; and the lags."""
    n, n_ranks = hi - lo, graph.n_ranks
    for term, stream, first, count in (
        (RANK, RANK_STREAM, 0, n_ranks),
        (MICROBATCH, MICROBATCH_STREAM, n_ranks + N_LINKS, graph.n_microbatches),
    ):
        if law[term] >= 0:
            for i in range(count):
                draw_factors(
                    window, lo, hi, i, replica, stream, seed, tables[law[term]],
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


@inner
def issue(graph, node, base, law, tables, seed, replica, window, lo, hi, space):  # type: ignore[no-untyped-def]
    """Let the host of a rank issue the op of ``node``, which takes ``base`` ticks, after those before it."""
    rank = graph.rank[node]
    if law[HOST] >= 0:
        draw_factors(
            window, lo, hi, np.int64(graph.identity[node]), replica, np.int64(HOST_STREAM), seed, tables[law[HOST]],
            space.words, space.bits, space.distance, space.pattern, space.cell, space.shared, space.shared.shape[0] - 1,
        )  # fmt: skip
        for d in range(hi - lo):
            space.issued[rank, d] += np.int64(base * space.shared[space.shared.shape[0] - 1, d] + 0.5)
    else:
        for d in range(hi - lo):
            space.issued[rank, d] += np.int64(base + 0.5)


@inner
def run_window(graph, cells, c, law, tables, replica, window, lo, hi, space):  # type: ignore[no-untyped-def]
    """Evaluate draws lo <= . < hi of ``window`` for a replica of cell ``c`` as lanes 0 .. n-1; leaves its results in ``space``.

    cells: `Work`; law (5,) rows of tables (laws, cells, 2) or -1.

    ns per op and draw, one core (Zen 5), 1F1B p=8 m=32, p2p=latency: 1.94 in all; 0.58 of them remain with the noise off
    (longest path, busy time, waits, moments), so noise takes 1.36. Its loops timed alone (`draw_factors`) are Philox 0.26,
    and 0.77 for finding and interpolating the table's cell; the difference was not taken apart.
    """
    n, variant, seed = hi - lo, cells.variant[c, replica], cells.seed[c]
    work, lag, link, host = cells.work[c, variant], cells.lag[c, variant], cells.link[c, variant], cells.host[c]
    n_buckets, slow, reduces, gathers = cells.n_buckets[c], cells.slow[c], cells.overlap[c, REDUCE], cells.overlap[c, GATHER]
    space.busy[:] = 0
    space.exposed[:] = 0
    space.issued[:] = 0
    draw_shared(graph, lag, link, law, tables, seed, replica, window, lo, hi, space)
    finish, ticks, start, unhindered = space.finish, space.ticks, space.start, space.unhindered
    busy, exposed, first, delay, shared = space.busy, space.exposed, space.first, space.lag, space.shared
    n_transfers, records = 4 * n_buckets.size, space.begun.shape[0] > 0  # where the transfers' places in the work vector begin
    most_buckets = space.released.shape[0] // n_buckets.size
    table, lossy = tables[max(law[OP], 0)], cells.loss[c] > 0
    many = law[RANK] >= 0 or law[MICROBATCH] >= 0
    for node in range(graph.rank.size):
        base, milestone = work[graph.work[node]], graph.milestone[node]
        row, rank = graph.factor[node], graph.rank[node]
        if milestone >= 0 or (gathers and graph.opens[node] >= 0):
            base += slow[graph.work[node]]
        if rank >= 0 and (law[OP] >= 0 or many):
            if law[OP] >= 0 and graph.fresh[node]:
                draw_factors(
                    window, lo, hi, np.int64(graph.identity[node]), replica, np.int64(OP_STREAM), seed, table,
                    space.words, space.bits, space.distance, space.pattern, space.cell, space.factor, np.int64(row),
                )  # fmt: skip
            if not many:
                for d in range(n):
                    ticks[d] = np.int64(base * space.factor[row, d] + 0.5)
            else:  # base x op x rank x microbatch, from the left; a term that is off multiplies by 1
                # the scratch row is free again: the op's own factor has been drawn
                microbatch = np.int64(graph.identity[node] & ((1 << MICROBATCH_BITS) - 1)) // graph.parts
                product, at = space.distance, graph.n_ranks + N_LINKS + microbatch
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

        if rank < 0 and lossy and graph.work[node] < n_transfers + 2 * n_buckets.size:
            add_timeouts(
                window, lo, hi, np.int64(graph.identity[node]), replica, seed, cells.loss[c], cells.timeouts[c], cells.tries[c], ticks
            )

        out, begin, n_edges = graph.slot[node], graph.indptr[node], graph.indptr[node + 1] - graph.indptr[node]
        waits = False
        if n_edges == 1 and graph.lag[begin] == 0:
            before = graph.slot[graph.pred[begin]]
            for d in range(n):
                start[d] = finish[before, d]
        elif n_edges == 2:
            waits = True
            a, a_lag, a_origin = graph.slot[graph.pred[begin]], graph.lag[begin], graph.slot[graph.origin[begin]]
            b, b_lag, b_origin = graph.slot[graph.pred[begin + 1]], graph.lag[begin + 1], graph.slot[graph.origin[begin + 1]]
            for d in range(n):
                start[d] = max(finish[a, d] + delay[a_lag, d], finish[b, d] + delay[b_lag, d])
                unhindered[d] = max(finish[a_origin, d], finish[b_origin, d])
        else:
            waits = True
            for d in range(n):
                start[d] = unhindered[d] = 0
            for edge in range(begin, begin + n_edges):
                before, at_lag, origin = graph.slot[graph.pred[edge]], graph.lag[edge], graph.slot[graph.origin[edge]]
                for d in range(n):
                    start[d] = max(start[d], finish[before, d] + delay[at_lag, d])
                    unhindered[d] = max(unhindered[d], finish[origin, d])

        if rank >= 0:
            if host[graph.work[node]] > 0:
                issue(graph, node, host[graph.work[node]], law, tables, seed, replica, window, lo, hi, space)
                for d in range(n):
                    start[d] = max(start[d], space.issued[rank, d])
                if records:
                    for d in range(n):
                        space.hosted[node, d] = space.issued[rank, d]
                if waits:
                    for d in range(n):
                        unhindered[d] = max(unhindered[d], space.issued[rank, d])
            if graph.counted[node]:
                for d in range(n):
                    busy[rank, d] += ticks[d]
            if waits and graph.counted[node]:
                for d in range(n):
                    exposed[rank, d] += start[d] - unhindered[d]
            if graph.first[node]:
                for d in range(n):
                    first[rank, d] = start[d]
            if gathers and graph.opens[node] >= 0:  # a rank begins when it could run, were its weights there
                n_parts, at = n_buckets[graph.opens[node]], graph.opens[node] * most_buckets
                for d in range(n):
                    exposed[rank, d] -= start[d]
                for part in range(n_parts):  # its layers need them one after the other
                    for d in range(n):
                        start[d] = max(start[d], space.released[at + part, d] - ticks[d] * part // n_parts)
                for d in range(n):
                    exposed[rank, d] += start[d]
            if reduces and milestone >= 0:
                n_parts, at = n_buckets[graph.reduced[milestone]], milestone * most_buckets
                for part in range(n_parts):  # gradients of its layers come one after the other
                    for d in range(n):
                        there = start[d] + ticks[d] - ticks[d] * (n_parts - 1 - part) // n_parts
                        space.ready[at + part, d] = max(space.ready[at + part, d], there)
        for d in range(n):
            finish[out, d] = start[d] + ticks[d]
        if records:
            for d in range(n):
                space.begun[node, d] = start[d]
        if rank >= 0 and graph.first[node] and not graph.counted[node]:
            for d in range(n):
                first[rank, d] = finish[out, d]
        if rank >= 0 and graph.last[node]:
            for d in range(n):
                space.last[rank, d] = finish[out, d]
