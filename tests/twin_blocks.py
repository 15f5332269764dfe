"""The slow twin of schedules that repeat a building block: written from its description, with dicts and sums, no code shared.

A table is one {(what, microbatch): slot} a rank; what: 0, 1 forwards of chunk 0 and 1; 2, 3 backwards of chunk 1 and 0; 4 weight passes,
numbered as they come. With equal slots the order does not depend on times.
"""


def v_min(p):
    x = 2 if p % 3 == 0 else 0
    return [(d, 2 * p - d - 1, 2 * p + x + d, 4 * p + x - d - 1) for d in range(p)]


def v_half(p):
    x = 3 if p % 2 == 0 else 0
    return [(2 * d, 3 * p - d - 2, 3 * p + x + 2 * d - 1, 6 * p + x - d - 2) for d in range(p)]


def orders(block, m):
    """Ranks as lists of (kind, stage, microbatch)."""
    p = len(block)
    table = [{(what, k): offset + 6 * k for what, offset in enumerate(offsets) for k in range(m)} for offsets in block]
    table = reordered(table, m, with_weights=True)
    table = reordered([without_weights(rank) for rank in table], m, with_weights=False)
    found = []
    for d, rank in enumerate(map(without_weights, table)):
        slots = {slot: entry for entry, slot in rank.items()}
        pending, ops = {2: [], 3: []}, []
        for slot in range(max(slots) + 1 + 2 * m):
            if slot in slots:
                what, k = slots[slot]
                stage = d if what in (0, 3) else 2 * p - 1 - d
                ops.append(("F" if what < 2 else "I", stage, k))
                if what >= 2:
                    pending[what].append(("W", stage, k))
            elif pending[2] or pending[3]:
                ops.append((pending[2] or pending[3]).pop(0))
        found.append(ops)
    return found


def without_weights(rank):
    return {entry: slot for entry, slot in rank.items() if entry[0] != 4}


def weighted(rank):
    """Weight passes in the free slots after backwards, and what is left of them after the last slot."""
    slots, pending, n, filled = {slot: entry for entry, slot in rank.items()}, 0, 0, dict(rank)
    for slot in range(max(slots) + 1 + len(rank)):
        if slot in slots:
            pending += slots[slot][0] in (2, 3)
        elif pending:
            filled[4, n] = slot
            pending, n = pending - 1, n + 1
    return filled


def peak(rank):
    if not any(what == 4 for what, _ in rank):
        rank = weighted(rank)
    held, most = 0, 0
    for what, _ in sorted(rank, key=rank.get):
        held += (what in (0, 1)) - (what == 4)
        most = max(most, held)
    return most


def reordered(table, m, with_weights):
    p = len(table)
    if with_weights:
        table = [weighted(rank) for rank in table]
    cap = max(map(peak, table))
    begun, ended = not with_weights, False  # between the two passes stay
    visited = [set() for _ in table]
    for slot, d, (what, k) in sorted((slot, d, entry) for d, rank in enumerate(table) for entry, slot in rank.items()):
        rank = table[d]
        begun = begun or (d, what) == (0, 3)
        to = slot
        if ended or not begun:
            there = d - 1 if what in (0, 2) else d + 1
            after = [table[there][what, k]] if what < 4 and 0 <= there < p else []
            after += [rank[what - 1, k]] if what in (1, 2, 3) else []
            after += [sorted(s for (w, _), s in rank.items() if w in (2, 3))[k]] if what == 4 else []
            after += [rank[what, k - 1]] if k else []
            for candidate in range(max(after, default=-1) + 1, slot):
                if candidate not in visited[d] and peak({**rank, (what, k): candidate}) <= cap:
                    to = candidate
                    break
            rank[what, k] = to
        visited[d].add(to)
        ended = ended or (what, k) == (0, m - 1)
    return eager([rank if with_weights else weighted(rank) for rank in table])


def eager(table):
    """Every pass as early as what it follows lets it, in the order that each rank has."""
    made = [{} for _ in table]
    for _, d, (what, k) in sorted((slot, d, entry) for d, rank in enumerate(table) for entry, slot in rank.items()):
        start = max(made[d].values(), default=-1) + 1
        if what < 4:
            there = d - 1 if what in (0, 2) else d + 1
            if 0 <= there < len(table):
                start = max(start, made[there][what, k] + 1)
            if what:
                start = max(start, made[d][what - 1, k] + 1)
        made[d][what, k] = start
    return made


def whole_orders(block, m):
    """The same where a backward is whole and takes two slots: every pass moves up as far as the peak does not rise."""
    p = len(block)
    table = [{(what, k): offset + 6 * k for what, offset in enumerate(offsets) for k in range(m)} for offsets in block]

    def most(rank):
        changes = sorted((slot + (what >= 2), -1 if what >= 2 else 1) for (what, _), slot in rank.items())
        return max(sum(change for _, change in changes[: i + 1]) for i in range(len(changes)))

    cap = max(map(most, table))
    visited = [set() for _ in table]
    for slot, d, (what, k) in sorted((slot, d, entry) for d, rank in enumerate(table) for entry, slot in rank.items()):
        rank, there, to = table[d], d - 1 if what in (0, 2) else d + 1, slot
        ends = [table[there][what, k] + 1 + (what >= 2)] if 0 <= there < p else [0]
        ends += [rank[what - 1, k] + 1 + (what == 3)] if what else []
        ends += [rank[what, k - 1] + 1 + (what >= 2)] if k else []
        for candidate in range(max(ends), slot):
            taken = {candidate, candidate + (what >= 2)}
            if not taken & visited[d] and most({**rank, (what, k): candidate}) <= cap:
                to = candidate
                break
        rank[what, k] = to
        visited[d] |= {to, to + (what >= 2)}
    stages = [(d, 2 * p - 1 - d, 2 * p - 1 - d, d) for d in range(p)]
    return [[("FFBB"[what], stages[d][what], k) for what, k in sorted(rank, key=rank.get)] for d, rank in enumerate(table)]
