"""The slow twin: HOPS written from the meaning of its words, with dicts and a loop. Slow on purpose, and independent.

It takes a Program, seconds and bytes, and shares no code with the graph, the kernels or the noise: Philox is
done in Python integers, the quantile table from the law's ``ppf``, the longest path by walking the ranks. All
times that come out are int ticks, to be compared with ``==``.
"""

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
from twin_posts import Posts

MASK = 0xFFFFFFFF


@lru_cache(maxsize=2**16)  # 30 MB: trials of many courses meet the same failures, kernels of many graphs the same noise
def philox(counter, key):
    """Philox4x32-10 in Python integers; counter of four words, key of two."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & MASK, (a >> 32) ^ c[3] ^ k[1], a & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return tuple(c)


LOSS = 32
STREAMS = {"op": 1, "rank": 2, "microbatch": 3, "link": 4, "host": 5}


def op_identity(stage, backward, microbatch):
    return stage * 2**21 + backward * 2**20 + microbatch


def random_bits(seed, draw, identity, term="op", replica=0):
    """The 32 bits of what ``identity`` names, in a draw and replica: four draws share a block, 64 draws apart."""
    block = 64 * (draw // 256) + draw % 64
    return philox((block, identity, replica, STREAMS[term]), (seed, 0))[draw // 64 % 4]


def timeouts(seed, draw, identity, replica, loss, waits):
    """Ticks that a message waits for tries that are lost: the first that is not ends it, or the last."""
    total, block = 0, 64 * (draw // 256) + draw % 64
    for attempt, wait in enumerate(waits):
        if philox((block, identity, replica, LOSS + 256 * attempt), (seed, 0))[draw // 64 % 4] >= loss * 2**32:
            break
        total += wait
    return total


class Table:
    """A law's quantile function, linear between knots at 1, 1 + 1/64, ... 1 + 63/64 times every power of two."""

    def __init__(self, ppf):
        self.knots = [math.ldexp(1 + j / 64, e) for e in range(-1, 31) for j in range(64)] + [2.0**31]
        u = np.array(self.knots) / 2**32
        self.values = [ppf(u).tolist(), ppf(1 - u).tolist()]
        mean_parts = []
        for side in (0, 1):
            for i in range(2048):
                low, high = math.ceil(self.knots[i] - 0.5), math.ceil(self.knots[i + 1] - 0.5)
                intercept, slope = self._line(side, i)
                mean_parts.append((high - low) * (intercept + slope * ((low + high) / 2)))
        self.mean = math.fsum(mean_parts) / 2**32

    def _line(self, side, i):
        q, w = self.values[side], self.knots
        slope = (q[i + 1] - q[i]) / (w[i + 1] - w[i])
        return q[i] - slope * w[i], slope

    def factor(self, bits):
        side, v = (1, MASK - bits) if bits >= 2**31 else (0, bits)
        w = v + 0.5
        exponent = math.frexp(w)[1] - 1
        i = (exponent + 1) * 64 + math.floor((w / 2.0**exponent - 1) * 64)
        intercept, slope = self._line(side, i)
        return intercept / self.mean + slope / self.mean * w

    def exact_mean(self):
        """Mean over all 2^32 equally likely numbers, as a Fraction (of the scaled table)."""
        total = Fraction(0)
        for side in (0, 1):
            for i in range(2048):
                low, high = math.ceil(self.knots[i] - 0.5), math.ceil(self.knots[i + 1] - 0.5)
                intercept, slope = self._line(side, i)
                total += (high - low) * (Fraction(intercept / self.mean) + Fraction(slope / self.mean) * Fraction(low + high, 2))
        return total / 2**32


def ticks(seconds, factors=()):
    """A duration, multiplied from the left and rounded once."""
    product = seconds * 1e9
    for factor in factors:
        product *= factor
    return int(product + 0.5)


def passing(who, now, work):
    """When ``work`` has been done by ``who``, undisturbed: ("rank", r), ("send" or "lag", stage, backward) or ("ring", stage)."""
    return now + work


def disturbed(spells):
    """The same at a speed; spells {who: [(from, until, speed)]} in order, speed 1 outside. Work that is left is whole ticks, rounded up."""

    def pass_(who, now, work):
        while True:
            speed, until = Fraction(1), math.inf
            for begin, end, each in spells.get(who, ()):
                if begin <= now < end:
                    speed, until = each, end
                elif now < begin:
                    until = min(until, begin)
            if speed and now + math.ceil(work / speed) <= until:
                return now + math.ceil(work / speed)
            work, now = work - math.floor((until - now) * speed), until

    return pass_


def halves(unit):
    """The ops of a unit: of a fused one, or a doubled forward, its two."""
    return unit if isinstance(unit[0], tuple) else (unit,)


class Timeline(dict):
    """{op: (start, end)}; ``exposed``: {unit: its wait}.

    ``began``, ``ended``: of each rank, when it could have begun, were its weights there.
    """

    def __init__(self):
        self.exposed = {}


def simulate(
    program,
    seconds,
    latency,
    transfer,
    p2p,
    factors=lambda op, rank: (),
    congestion=1.0,
    issue=lambda op: 0,
    released=None,
    gather=None,
    recv="early",
    n_parts=1,
    steady=None,
    advance=passing,
    queue=None,
    free_at="finish",
    lost=lambda message: 0,
):
    """One draw of ``program``: {op: (start, end)}, busy, exposed [ticks] per rank.

    seconds: {(stage, kind): s}, and {op: s} where it has a time of its own, {(unit, kind): s} for half of a fused unit; latency,
    transfer: {(from rank, to rank): s};
    factors: noise of an op on its rank; congestion: factor of all transfers (which are of one class here). issue: ticks of
    the host; released: {(rank, stage): ticks when each part of its weights is there}; gather: {stage: ticks to gather its weights},
    where a rank holds three stages' at most: the running one and those that come next. n_parts: of which a microbatch is made, each a
    microbatch of the program: forwards need those before them, which they look back at, and backwards those after them.
    steady: (microbatches of a batch, batches) of a schedule that does not flush. The first batches, with as many microbatches as there are
    ranks or more, fill the pipeline; what counts is, on every rank, from the moment when its backwards of those before have ended until
    its own have. advance: when work of somebody has been done. queue: units that there is room for between stages on different ranks,
    until those who need them there finish or start (free_at). lost: ticks that (stage, backward, microbatch) takes longer.
    """
    last_stage = max(op.stage for rank in program.ops for op in rank)
    home = {(op.stage, op.microbatch): r for r, rank in enumerate(program.ops) for op in rank}
    ended, when, free, exposed = {}, Timeline(), {}, [0] * len(program.ranks)
    busy = [0] * len(program.ranks)
    blocked = [0] * len(program.ranks)  # until when a rank waits for what it sent
    arrived = {}  # what has reached a rank: (stage, backward, microbatch) of its producer -> arrival tick
    at, now = [0] * len(program.ranks), [0] * len(program.ranks)
    began, issued, held, channel, weights_there = (
        [0] * len(program.ranks),
        [0] * len(program.ranks),
        [set() for _ in program.ranks],
        [0] * len(program.ranks),
        {},
    )
    if p2p == "megatron" and any(len({op.stage for op in ops}) > 1 for ops in program.ops):
        p2p = "channel"  # with several stages a rank Megatron overlaps them all
    posts = None
    if p2p in ("megatron", "torch"):
        posts = Posts(program, p2p, recv, lambda pair: ticks(transfer[pair], [congestion]) + int(ticks(latency[pair]) * congestion + 0.5))
    runs = {}  # units of a stage, pipeline and direction, in the order of their rank
    for rank in program.ranks:
        for unit in rank:
            for stage, kind, k in halves(unit):
                if kind != "W":
                    runs.setdefault((stage, program.first_seats[k], kind != "F"), []).append(unit)
    soonest = {}  # when an op could have begun if transfers took no time
    makes_room = {}  # unit: those that must have made room for what it makes
    for (stage, pipeline, backward), units in runs.items() if queue else ():
        users = runs.get((stage - 1 if backward else stage + 1, pipeline, backward), [])
        k = halves(units[0])[0][2]
        if users and home[stage, k] != home[stage - 1 if backward else stage + 1, k]:
            for n, unit in enumerate(units):
                if n >= queue:
                    makes_room.setdefault(unit, []).append(users[n - queue])
    while any(at[r] < len(rank) for r, rank in enumerate(program.ranks)):
        moved = False
        for r, rank in enumerate(program.ranks):
            while at[r] < len(rank):
                unit = rank[at[r]]
                parts = halves(unit)
                local, remote = [], []
                for stage, kind, k in parts:
                    source = stage + 1 if kind != "F" else stage - 1
                    local += [(stage, False, k)] if kind in "BI" else [(stage, True, k)] if kind == "W" else []
                    local += [(stage, False, k - 1)] if kind == "F" and k % n_parts else []
                    local += [(stage, True, k + 1)] if kind in "BI" and (k + 1) % n_parts else []
                    remote += [(source, kind != "F", k)] if kind != "W" and 0 <= source <= last_stage else []
                if any(need not in ended for need in local + remote):
                    break
                room = [halves(user)[0] for user in makes_room.get(unit, [])]
                if any(user not in when for user in room):
                    break
                freed, freed_soonest = (
                    [when[user][1] if free_at == "finish" else starts[user] for user in room]
                    for starts in ({op: times[0] for op, times in when.items()}, soonest)
                )
                if posts:
                    sent = posts.held(r, at[r])
                    arrivals = {message: posts.arrival(message) for message in sent + [n for n in remote if home[n[0], n[2]] != r]}
                    if None in arrivals.values():
                        break
                    arrived |= arrivals
                    blocked[r] = max([blocked[r], *(arrivals[message] for message in sent)])
                if p2p == "rendezvous":  # the data move when the receiver has nothing left to do before
                    for need in remote:
                        pair = (home[need[0], need[2]], r)
                        if pair[0] != r:
                            delay = int(ticks(latency[pair]) * congestion + 0.5)
                            there = advance(("send", *need[:2]), max(ended[need], now[r]), ticks(transfer[pair], [congestion]) + lost(need))
                            arrived[need] = advance(("lag", *need[:2]), there, delay)
                if gather:
                    soon = list(dict.fromkeys(op.stage for later in rank[at[r] :] for op in halves(later)))[:3]
                    for other in soon:
                        if other not in held[r]:
                            begins = max(channel[r], now[r], blocked[r])
                            channel[r] = advance(("ring", other), begins, ticks(gather[other] / 1e9, [congestion]))
                            weights_there[other] = channel[r]
                    held[r] = set(soon)
                reach = max([now[r], blocked[r], *freed, *(ended[need] for need in local), *(arrived[need] for need in remote)])
                instant = max([now[r], *freed_soonest, *(ended[need] for need in local + remote)])
                end = 0
                for i, (stage, kind, _) in enumerate(parts):
                    issued[r] += issue(parts[i])
                    start = end = max(reach, issued[r], weights_there.get(stage, 0)) if i == 0 else max(end, issued[r])
                    if at[r] == 0 and i == 0:
                        began[r] = start
                    fused = len({part[1] for part in parts}) > 1
                    own = seconds.get((unit, kind) if fused else parts[i], seconds[stage, kind])
                    taken = ticks(own, factors(parts[i], r))
                    if released and kind == "F" and not any(op[:2] == (stage, "F") for before in rank[: at[r]] for op in halves(before)):
                        pieces = released.get((r, stage), [])
                        start = end = max([start, *(there - taken * i // len(pieces) for i, there in enumerate(pieces))])
                    if i == 0:
                        reach, instant = start, max(instant, issued[r])
                        exposed[r] += reach - instant
                        when.exposed[unit] = reach - instant
                    before, end = end, advance(("rank", r), end, taken)
                    busy[r] += end - before
                for part in parts:
                    when[part], soonest[part] = (reach, end), instant
                now[r] = end
                waits = 0
                for stage, kind, k in parts:
                    backward = kind != "F"
                    if kind != "W":
                        ended[stage, backward, k] = end
                        goal = stage - 1 if backward else stage + 1
                        if 0 <= goal <= last_stage:
                            pair = (r, home[goal, k])
                            if pair[0] == pair[1]:
                                arrived[stage, backward, k] = end
                            elif p2p in ("channel", "blocking"):
                                begins = max(end, free.get(pair, 0))
                                taken = ticks(transfer[pair], [congestion]) + lost((stage, backward, k))
                                free[pair] = advance(("send", stage, backward), begins, taken)
                                delay = int(ticks(latency[pair]) * congestion + 0.5)
                                arrived[stage, backward, k] = advance(("lag", stage, backward), free[pair], delay)
                                if p2p == "blocking":
                                    waits = max(waits, arrived[stage, backward, k])
                            elif p2p == "latency":
                                delay = ticks(latency[pair]) + ticks(transfer[pair])
                                arrived[stage, backward, k] = advance(("lag", stage, backward), end, int(delay * congestion + 0.5))
                if posts:
                    posts.when[r, at[r]] = end
                blocked[r] = max(blocked[r], waits)
                at[r] += 1
                moved = True
        assert moved, "the twin is stuck: the program deadlocks"
    when.began, when.ended = began, [max(when[op][1] for op in rank) for rank in program.ops]
    if steady:
        filling, (size, batches) = 0, steady
        while filling < len(program.ranks):
            filling += size
        for r, rank in enumerate(program.ranks):
            when.began[r], when.ended[r] = (when[r, "B", k - 1][1] for k in (filling, filling + batches * size))
            inside = [op for op in rank if when.began[r] <= when[op][0] and when[op][1] <= when.ended[r]]
            busy[r] = sum(when[op][1] - when[op][0] for op in inside)
            exposed[r] = sum(when.exposed[op] for op in inside)
    when.steady = steady is not None
    return when, busy, exposed


def metrics(program, when, busy):
    """makespan, span, sum of busy, largest busy [ticks]."""
    ends, starts = when.ended, when.began
    span = max(e - s for e, s in zip(ends, starts, strict=True))
    return span if when.steady else max(ends), span, sum(busy), max(busy)


def step(program, replicas, update, reduce=None, gather=None, overlap=False, each=False, advances=()):
    """Iteration time with and without a barrier [ticks], of several timelines.

    reduce: {stage: ticks of each piece of its gradients}, on a channel of all ranks that hold the stage, when they have ended, or
    with ``overlap`` as they come: after the stage's last backward on each, or ``each``; they do so in the order of the first of
    them. update: ticks of every rank once all gradients are reduced; gather: {stage: ticks of each piece of its weights}, after that.
    advances: as `simulate` has it, of each replica.
    """
    ended, began, advances = [], [], advances or [passing] * len(replicas)
    held = [{op.stage for op in rank} for rank in program.ops]
    lasts = [max(when.ended[r] for when in replicas) for r in range(program.pp)]
    for r in range(program.pp):
        together = [other for other in range(program.pp) if held[other] == held[r]]
        first, channel = program.ops[together[0]], 0
        for i, op in enumerate(first):
            final = not any(other.stage == op.stage and other.kind in "BW" for other in first[i + 1 :])
            if op.kind in "BW" and (each or final):
                ends = [[o for o in program.ops[other] if o.stage == op.stage and o.kind in "BW"][-1] for other in together]
                makes = [when[o] for when in replicas for o in ([op] if each else ends)]
                pieces = (reduce or {}).get(op.stage, [])
                for piece, taken in enumerate(pieces):
                    left = len(pieces) - 1 - piece
                    ready = max(end - (end - start) * left // len(pieces) for start, end in makes)
                    ready = ready if overlap else max(lasts[other] for other in together)
                    channel = advances[0](("ring", op.stage), max(channel, ready), taken)
        ended.append(max(channel, lasts[r]))
        began.append(min(when.began[r] for when in replicas))

    def updated(r, now):
        end = max(advance(("rank", r), now, update[r]) for advance in advances)
        for stage in dict.fromkeys(op.stage for op in program.ops[r] if op.kind == "F"):
            for piece in (gather or {}).get(stage, []):
                end = advances[0](("ring", stage), end, piece)
        return end

    own = max(updated(r, ended[r]) - began[r] for r in range(program.pp))
    return own if replicas[0].steady else max(updated(r, max(ended)) for r in range(program.pp)), own
