"""Lowering: a program becomes a graph of who waits for whom. Ops in an order in which each follows what it needs, and transfers.

o = ops in program order, s = stages, r = ranks, k = microbatches, n = nodes, e = edges. An edge is (pred, lag, origin), see `Graph`;
pred -1: there is none.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from hops.data_parallel import MOST_UNSHARDED
from hops.graph import NO_LAG, Graph, finish_graph, fused_index, lag_index, transfer_index, unshard_index, unshard_lag
from hops.jit import inner, kernel
from hops.noise import op_identity
from hops.posts import plan, unnumbered
from hops.programs import KINDS, Program, Unit, members
from hops.walks import Ints

ALONE, DOUBLED = -1, -2  # in place of a pair of seats: of an op that is its unit, or half of a doubled forward
P2P = ("latency", "channel", "blocking", "rendezvous", "megatron", "torch")
LATENCY, CHANNEL, BLOCKING, RENDEZVOUS, POSTED = range(5)  # POSTED: megatron and torch, as `hops.posts.plan` says
F, B, W = (KINDS.index(kind) for kind in "FBW")


def lower(
    program: Program,
    p2p: str,
    reduce_each: bool = False,
    unshard: bool = False,
    recv: str = "early",
    window: tuple[int, int] | None = None,
    parts: int = 1,
) -> Graph:
    """Lower ``program``; how messages travel is ``p2p``.

    ``latency``: a delay on an edge. ``channel``: a node of its own, which waits for the message before it on its ordered
    pair of ranks, in the sender's program order, and occupies the channel as long as its work says; the delay
    follows. ``blocking``: as channel, and the sender runs nothing until the message has arrived. ``rendezvous``: a node of
    its own that begins when both sides have posted, the sender by computing, the receiver by having nothing left to do
    before the op that needs the message; so a receiver takes one message at a time, and channels need no order. ``megatron``
    and ``torch``: a node of its own that begins when both sides have posted it and what they posted before has arrived, as the
    runtimes of that name post (``recv``: when torch receives), see `hops.posts.plan`. Megatron without interleaving also lets an
    op wait for what its rank sent; with several stages a rank it is ``channel``, as its sends and receives then run beside compute
    (overlap_p2p_comm).

    Milestones are the ops that make gradients ready to be reduced: the last backward of each stage (B, or W), or with
    ``reduce_each`` every one. With ``unshard`` a stage's weights are gathered before it runs, by an UNSHARD node on a
    channel of the rank's own, and given up (RESHARD, which takes no time) when others are needed sooner.

    A fused unit is two nodes, one after the other, each with the noise of its own op: the first waits for the inputs of both,
    and both outputs leave after the second. So is a doubled forward, whose nodes take what their ops take.

    ``window`` (a, b): a rank is measured from the end of the backward of microbatch a-1 to that of b-1, not over all of its ops.
    ``parts``: as many successive microbatches of the program are one.
    """
    how, sequence, posted, n_posted = P2P.index(p2p), np.array(program.sequence), np.empty(0, int), np.zeros(1, int)
    if p2p == "megatron" and len(program.stage_ranks) > program.pp:
        how = CHANNEL
    elif how >= POSTED:
        how, (sequence, waits_indptr, posted) = POSTED, plan(program, p2p, recv)
        n_posted = np.diff(waits_indptr)
    ops, place, pairs, begins = _in_sequence(program, sequence)
    lists = _wanted(program, sequence) if unshard else [[]]
    wanted = np.array(list(chain.from_iterable(lists)), np.int32)
    wanted_indptr, posted_indptr = _of_ops(begins, list(map(len, lists))), _of_ops(begins, n_posted)
    posted = begins[posted + 1] - 1  # the last op of each unit
    n_seats, most = len(program.stage_ranks), 3 * len(ops) + wanted.size + 1
    n_edges = 6 * most + posted.size
    node, indptr, edge = np.empty((most, 3), np.int32), np.zeros(most + 1, np.int32), np.empty((n_edges, 3), np.int32)
    first = np.array(
        [
            transfer_index(n_seats, 0, False), unshard_index(n_seats, 0), fused_index(n_seats, 0, "F"),
            lag_index(0, False), unshard_lag(n_seats, 0),
        ],
        np.int32,
    )  # fmt: skip
    stage_ranks, sizes = np.array(program.stage_ranks, np.int32), (program.n_stages, program.pp, program.microbatches)
    n = connect(ops, stage_ranks, *sizes, how, first, wanted_indptr, wanted, posted_indptr, posted, node, indptr, edge)
    rank, work, op = (column.copy() for column in node[:n].T)
    pred, lag, origin = (column.copy() for column in edge[: indptr[n]].T)
    op_identity(program.n_stages - 1, True, program.microbatches - 1)  # the largest: what does not fit is refused by name
    names = np.array([[op_identity(stage, backward, 0) for backward in (False, True)] for stage in range(program.n_stages)], np.uint32)
    sends = (rank < 0) & (work < unshard_index(n_seats, 0)) & (op >= 0)  # a message is known by what makes it
    source, back = np.divmod(work - transfer_index(n_seats, 0, False), 2)
    seat, backward = np.where(sends, source, ops[op, 1]), np.where(sends, back, ops[op, 2] != F)
    identity = names[seat % program.n_stages, backward.astype(int)] + ops[op, 3].astype(np.uint32)
    return finish_graph(
        rank=rank,
        work=work,
        identity=np.where((rank >= 0) | sends, identity, np.uint32(0)),
        op=place[op],
        stage=np.where(rank >= 0, ops[op, 1], np.int32(-1)),
        kind=np.where(rank >= 0, ops[op, 2], np.int32(-1)),
        pairs=pairs,
        indptr=indptr[: n + 1].copy(),
        pred=pred,
        lag=lag,
        origin=origin,
        counted=(rank >= 0) & _counted(ops, window)[op],
        n_ranks=program.pp,
        n_microbatches=program.microbatches // parts,
        pipelines=program.pipelines,
        parts=parts,
        reduce_each=reduce_each,
    )


@kernel
def connect(  # type: ignore[no-untyped-def]
    ops, stage_ranks, n_stages, n_ranks, n_microbatches, p2p, first, wanted_indptr, wanted, posted_indptr, posted, node, indptr, edge
):
    """Write the nodes (n, 3: rank, work, op; of a message one of its microbatch) and edges (e, 3) of a graph; returns how many nodes.

    ops (o, 5: rank, seat, kind, microbatch, pair of seats that it is half of, ALONE or DOUBLED; halves of a unit follow each other),
    stages of which a pipeline has ``n_stages`` being seats here, see `Program.first_seats`;
    first: places of the first transfer, UNSHARD, half of a pair, message's lag and UNSHARD's lag in the vectors of work and lag;
    before op i the stages wanted[wanted_indptr[i]:wanted_indptr[i+1]] are gathered. With POSTED messages stand among the ops, on
    rank -1, and op or message i waits for those at posted[posted_indptr[i]:posted_indptr[i+1]] too.
    """
    transfers, unshards, halves, lags, unshard_lags = first
    n_seats, n, i = stage_ranks.size, 0, 0
    last = np.full((n_ranks, 2, 3), -1, np.int32)  # what the next node of a rank waits for
    channel = np.full((n_ranks, n_ranks, 3), -1, np.int32)  # of a pair of ranks; with itself: that of its UNSHARDs
    sent = np.full((n_seats, 2, n_microbatches, 3), -1, np.int32)  # what waits for the message of a stage
    gathered = np.full((n_seats, 3), -1, np.int32)  # what waits for its weights
    through = np.empty((len(ops) if posted.size else 0, 3), np.int32)  # what waits for an op or message
    nothing, arrival, issued = np.full(3, -1, np.int32), np.empty((2, 3), np.int32), np.empty(3, np.int32)
    if wanted.size:  # an UNSHARD that nothing precedes waits for a message that nobody sends, which takes no time
        n = add(node, indptr, edge, n, -1, transfers + 2 * (n_seats - 1), -1, nothing, nothing, nothing)
    while i < len(ops):
        here, width = np.int64(ops[i, 0]), 1 if ops[i, 4] == ALONE else 2
        also = posted[posted_indptr[i] : posted_indptr[i + 1]]
        if here < 0:
            _, stage, kind, k, _ = ops[i]
            backward = np.int32(kind != F)
            message = sent[stage, backward, k]
            n = add(node, indptr, edge, n, -1, transfers + 2 * stage + backward, i, message, nothing, nothing)
            extend(indptr, edge, n, through, also)
            fill(message, n - 1, lags + 2 * stage + backward, message[2])
            through[i] = message
            i += 1
            continue
        arrival[:] = -1
        for half in range(width):
            _, stage, kind, k, _ = ops[i + half]
            backward = np.int32(kind != F)
            source = stage + 1 if backward else stage - 1
            if kind != W and source // n_stages == stage // n_stages:  # within the pipeline
                arrival[half] = sent[source, backward, k]
            if p2p == RENDEZVOUS and arrival[half, 0] >= 0:
                n = add(node, indptr, edge, n, -1, transfers + 2 * source + backward, i + half, last[here, 0], last[here, 1], arrival[half])
                fill(arrival[half], n - 1, lags + 2 * source + backward, arrival[half, 2])
        for j in range(wanted_indptr[i], wanted_indptr[i + 1]):
            fill(issued, 0, NO_LAG, 0)
            if last[here, 0, 0] >= 0:
                issued[:] = last[here, 0]
            n = add(node, indptr, edge, n, -1, unshards + wanted[j], -1, channel[here, here], issued, last[here, 1])
            fill(channel[here, here], n - 1, NO_LAG, n - 1)
            fill(gathered[wanted[j]], n - 1, unshard_lags + wanted[j], issued[2])
        for half in range(width):
            _, stage, kind, k, pair = ops[i + half]
            place = 4 * stage + kind if pair < 0 else halves + 2 * pair + (kind != F)
            if half == 0:
                other = ops[i + width - 1, 1]
                weights = gathered[other] if other != stage else nothing
                n = add(
                    node, indptr, edge, n, here, place, i, last[here, 0], last[here, 1], arrival[0], arrival[1], gathered[stage], weights
                )
                extend(indptr, edge, n, through, also)
                gathered[stage, 0] = gathered[other, 0] = -1
            else:
                n = add(node, indptr, edge, n, here, place, i + 1, last[here, 0], nothing, nothing)
            last[here, 1] = nothing
            fill(last[here, 0], n - 1, NO_LAG, n - 1)
        done, n_blocked = n - 1, 0
        if posted.size:
            fill(through[i + width - 1], done, NO_LAG, done)
        for half in range(width):
            _, stage, kind, k, _ = ops[i + half]
            backward = np.int32(kind != F)
            target = stage - 1 if backward else stage + 1
            if kind == W or target // n_stages != stage // n_stages or stage_ranks[target] == here:
                continue  # on the same rank the order of the rank says it all
            message, there = sent[stage, backward, k], stage_ranks[target]
            fill(message, done, NO_LAG, done)
            if p2p == LATENCY:
                message[1] = lags + 2 * stage + backward
            elif p2p in (CHANNEL, BLOCKING):
                n = add(node, indptr, edge, n, -1, transfers + 2 * stage + backward, i + half, channel[here, there], message, nothing)
                fill(channel[here, there], n - 1, NO_LAG, n - 1)
                fill(message, n - 1, lags + 2 * stage + backward, done)
            if p2p == BLOCKING:
                last[here, n_blocked] = message
                n_blocked += 1
        i += width
    return n


@inner
def add(node, indptr, edge, n, rank, work, op, *waits):  # type: ignore[no-untyped-def]
    """Append node ``n`` (of a transfer: rank -1, op -1) that waits for those of ``waits`` that there are; returns n + 1."""
    fill(node[n], rank, work, op)
    at = indptr[n]
    for wait in waits:
        if wait[0] >= 0:
            edge[at] = wait
            at += 1
    indptr[n + 1] = at
    return n + 1


@inner
def extend(indptr, edge, n, through, also):  # type: ignore[no-untyped-def]
    """Let the last of ``n`` nodes wait for rows ``also`` of ``through``, too."""
    for row in also:
        edge[indptr[n]] = through[row]
        indptr[n] += 1


@inner
def fill(row, a, b, c):  # type: ignore[no-untyped-def]
    row[0], row[1], row[2] = a, b, c


def _in_sequence(program: Program, sequence: Ints) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], Ints]:
    """Operations and messages as `connect` takes them, of a sequence of units and messages (n,), see `hops.posts.Plan`.

    Returns them (o, 5); the place of each in ``program.order``, or -1 (o,); the pairs of seats that are fused (f, 2); the first of each
    unit, and their number (n+1,).
    """
    t, first_seats = program.table, np.array(program.first_seats)
    seat = t.stage + first_seats[t.microbatch]
    heads = np.flatnonzero(np.diff(t.unit, prepend=-1))
    widths = np.diff(heads, append=t.unit.size)
    second = t.kind[np.minimum(heads + 1, t.kind.size - 1)]
    fused = np.flatnonzero((widths == 2) & (second != F))
    both = np.stack([seat[heads[fused]], seat[heads[fused] + 1]], axis=1)
    pairs, which = np.unique(both, axis=0, return_inverse=True)
    pair, place = np.where(widths == 2, DOUBLED, ALONE), np.empty(widths.size, int)
    pair[fused] = which.ravel()
    order = np.array(program.sequence)
    place[order] = np.cumsum(widths[order]) - widths[order]
    is_unit = sequence >= 0
    unit = np.where(is_unit, sequence, 0)
    n = np.where(is_unit, widths[unit], 1)
    begins = np.cumsum(np.append(0, n))
    half = np.arange(begins[-1]) - np.repeat(begins[:-1], n)
    ops = np.stack([t.rank, seat, t.kind, t.microbatch, pair[t.unit]], axis=1)[np.repeat(heads[unit], n) + half]
    places = np.repeat(place[unit], n) + half
    stage, backward, k = unnumbered(program, ~sequence[~is_unit])
    ops[begins[:-1][~is_unit]] = np.stack([0 * k - 1, stage + first_seats[k], np.where(backward, B, F), k, 0 * k + ALONE], axis=1)
    places[begins[:-1][~is_unit]] = -1
    return ops.astype(np.int32), places.astype(np.int32), pairs.astype(np.int32), begins


def _counted(ops: NDArray[np.int32], window: tuple[int, int] | None) -> NDArray[np.bool_]:
    """Which of the operations (o, 5) are measured."""
    counted = np.ones(len(ops), bool)
    for rank in range(1 + ops[:, 0].max() if window else 0):
        here = np.flatnonzero(ops[:, 0] == rank)
        ends = np.isin(ops[here, 2], (B, W))
        n_ended = np.cumsum(ends) - ends  # before each
        counted[here] = (n_ended >= window[0]) & (n_ended < window[1])  # type: ignore[index]
    return counted


def _wanted(program: Program, sequence: Ints) -> list[list[int]]:
    """Stages to gather before each unit of ``sequence``; none before a message."""
    before = [wanted for units in program.ranks for _, wanted in unshards(units)]
    return [before[each] if each >= 0 else [] for each in sequence.tolist()]


def _of_ops(begins: Ints, n: Ints | list[int]) -> Ints:
    """Where the ``n`` of each unit begin, taken as those of its first op (o+1,)."""
    found = np.zeros(begins[-1] + 1, int)
    found[begins[:-1] + 1] = n
    return np.cumsum(found)


def unshards(units: Sequence[Unit]) -> list[tuple[list[int], list[int]]]:
    """Before each unit of a rank, the stages that it and the next ones need, and those of them to gather.

    The next `MOST_UNSHARDED` different ones are kept, and one more where the last comes with another in a fused unit; others
    are given up.
    """
    upcoming: list[list[int]] = []
    ahead: list[list[int]] = []  # stages as they come, those of a unit together
    for unit in reversed(units):
        here = list(dict.fromkeys(op.stage for op in members(unit)))
        groups, n = [here], len(here)
        for group in ahead:
            others = [stage for stage in group if stage not in here]
            if others and n < MOST_UNSHARDED:
                groups.append(others)
                n += len(others)
        ahead = groups
        upcoming.append([stage for group in groups for stage in group])
    before: list[tuple[list[int], list[int]]] = []
    kept: list[int] = []
    for soon in reversed(upcoming):
        before.append((soon, [stage for stage in soon if stage not in kept]))
        kept = soon
    return before
