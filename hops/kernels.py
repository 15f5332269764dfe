"""The kernel: all cells of one graph, all replicas, window by window of 256 draws. int64 ticks of 1 ns.

o = nodes, d = lanes (draws of a window, innermost), r = ranks, c = cells, n = draws. Metrics are reduced in the window in
integers, so no order of evaluation, tile or thread can change a bit.
"""

import numpy as np

from hops.jit import inlined, inner, kernel
from hops.noise import LANES
from hops.synchronization import release, synchronize
from hops.window import GATHER, draw_links, run_window

# rows of `per_draw`; steps are with what follows the pipeline
MAKESPAN, SPAN, TOTAL_BUSY, MOST_BUSY, STEP, OWN_STEP, TOTAL_EXPOSED = range(7)
N_METRICS = 7
BUSY, EXPOSED, UTILIZATION = range(3)  # rows of `moments` and `per_rank`
NEVER = 1 << 62  # later than all ticks
ONE = 1 << 40  # a utilization of 1 in `moments`, fixed point
LIMB = 21  # moments are sums over limbs of 21 bits: exact for values below 2^63 and up to MOST_DRAWS draws a call
N_LIMBS = 9
MOST_DRAWS = 1 << 20


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


@inner
def begin_replicas(space):  # type: ignore[no-untyped-def]
    """Forget the sums and extremes of the window before."""
    space.all_busy[:] = 0
    space.all_exposed[:] = 0
    space.earliest[:] = NEVER
    space.latest[:] = 0
    space.most[:] = 0
    space.makespan[:] = 0
    space.span[:] = 0
    space.ready[:] = 0


@inner
def add_replica(graph, begin, end, space):  # type: ignore[no-untyped-def]
    """Add lanes begin <= d < end of a replica to the sums and extremes of all in ``space``."""
    for rank in range(graph.n_ranks):
        for d in range(begin, end):
            space.all_busy[rank, d] += space.busy[rank, d]
            space.all_exposed[rank, d] += space.exposed[rank, d]
        for d in range(begin, end):
            space.most[d] = max(space.most[d], space.busy[rank, d])
            span = space.last[rank, d] - space.first[rank, d]
            space.span[d] = max(space.span[d], span)
            space.makespan[d] = max(space.makespan[d], span if graph.endless else space.last[rank, d])
        for d in range(begin, end):
            space.latest[rank, d] = max(space.latest[rank, d], space.last[rank, d])
            space.earliest[rank, d] = min(space.earliest[rank, d], space.first[rank, d])


@inlined
def run_replicas(graph, cells, c, law, tables, window, lo, hi, space):  # type: ignore[no-untyped-def]
    """Evaluate all replicas of a window, the first one last; leaves their sums and extremes in ``space``, and its own times."""
    begin_replicas(space)
    draw_links(graph, cells.seed[c], law, tables, window, lo, hi, space)  # the same for all replicas
    if cells.overlap[c, GATHER]:
        release(graph, cells, c, law, hi - lo, space)
    for replica in range(cells.n_replicas[c] - 1, -1, -1):
        run_window(graph, cells, c, law, tables, replica, window, lo, hi, space)
        add_replica(graph, 0, hi - lo, space)


@inner
def add_metrics(c, n_ranks, n_replicas, n, at, space, per_draw, moments, per_rank):  # type: ignore[no-untyped-def]
    """Write what a window found in ``space`` for cell ``c`` to draws ``at`` and following."""
    total, waits = per_draw[TOTAL_BUSY, c, at : at + n], per_draw[TOTAL_EXPOSED, c, at : at + n]
    for d in range(n):
        per_draw[MAKESPAN, c, at + d], per_draw[SPAN, c, at + d] = space.makespan[d], space.span[d]
        per_draw[STEP, c, at + d], per_draw[OWN_STEP, c, at + d] = space.step[d], space.own_step[d]
        per_draw[MOST_BUSY, c, at + d] = space.most[d]
        total[d] = waits[d] = 0
    for rank in range(n_ranks):
        busy, exposed = space.all_busy[rank], space.all_exposed[rank]
        for d in range(n):
            total[d] += busy[d]
            waits[d] += exposed[d]
        for d in range(n):
            space.ticks[d] = np.int64(busy[d] / (max(space.makespan[d], 1) * n_replicas) * ONE + 0.5)
        add_moments(busy, n, moments[c, BUSY, rank])
        add_moments(exposed, n, moments[c, EXPOSED, rank])
        add_moments(space.ticks, n, moments[c, UTILIZATION, rank])
        if per_rank.shape[1]:
            for d in range(n):
                per_rank[BUSY, c, rank, at + d] = busy[d]
                per_rank[EXPOSED, c, rank, at + d] = exposed[d]
                per_rank[UTILIZATION, c, rank, at + d] = space.ticks[d]


@kernel
def evaluate(graph, cells, law, tables, first_draw, space, per_draw, moments, per_rank):  # type: ignore[no-untyped-def]
    """Evaluate every cell of ``cells`` for as many draws as ``per_draw`` has room for, from ``first_draw`` on.

    cells: `Work`; law (c, 5) rows of tables (laws, cells, 2), -1 for a term that is off. Results: per_draw (7, c, n) ticks;
    moments (c, 3, r, 9) added to, and per_rank (3, c, r, n) ticks, or of no cells where only the moments are asked
    for: both of sums over the replicas, utilization of their mean. What the last draw left in ``space`` is a trace.
    """
    n_draws = per_draw.shape[2]
    for c in range(per_draw.shape[1]):
        for window in range(first_draw // LANES, (first_draw + n_draws - 1) // LANES + 1):
            lo = max(first_draw - window * LANES, 0)
            hi = min(first_draw + n_draws - window * LANES, LANES)
            run_replicas(graph, cells, c, law[c], tables, window, lo, hi, space)
            synchronize(graph, cells, c, law[c], hi - lo, space)
            add_metrics(
                c, graph.n_ranks, cells.n_replicas[c], hi - lo, window * LANES + lo - first_draw, space, per_draw, moments, per_rank
            )
