"""The slow twins of the searching schedules: written from the description of the search, with dicts and sums.

They share no code with ``hops/schedules``. `line_search` is ZB automatic with costs, memory and limits of every rank;
`v_search` is ZB-V with the same costs everywhere, and stops (None) where its description leaves no way on.
"""

from itertools import product


class Stuck(Exception):
    pass


def line_search(p, m, f, i, w, hop, memory, limit):
    """Ranks as lists of (kind, microbatch); f, i, w: one a rank; hop: one a boundary; memory: {kind: change}.

    ``limit``: {kind that must keep it: one a rank}.
    """
    best = None
    for early, wait, always in product((True, False), repeat=3):
        orders, cost = line_attempt(p, m, {"F": f, "I": i, "W": w}, hop, memory, limit, early, wait, always)
        if best is None or cost < best[1]:
            best = orders, cost
    return best


def line_attempt(p, m, cost, hop, memory, limit, early, wait, always):
    end, order = {}, [[] for _ in range(p)]
    clock, held, bubble = [0] * p, [0] * p, [0] * p

    def n(d, kind):
        return sum(each == kind for each, _ in order[d])

    def put(d, kind):
        k, alone = n(d, kind), clock[d] + cost[kind][d]
        done = alone
        if kind == "F" and d > 0:
            done = max(done, end["F", d - 1, k] + hop[d - 1] + cost[kind][d])
        if kind == "I" and d < p - 1:
            done = max(done, end["I", d + 1, k] + hop[d] + cost[kind][d])
        if n(d, "F"):
            bubble[d] += done - alone
        clock[d] = end[kind, d, k] = done
        held[d] += memory[kind]
        order[d].append((kind, k))

    def room(d, kind):
        while held[d] + memory[kind] > limit[kind][d]:
            put(d, "W")

    def fill(d, arrival):
        while n(d, "W") < n(d, "I") and clock[d] + cost["W"][d] <= arrival:
            put(d, "W")
        if n(d, "W") < n(d, "I") and clock[d] < arrival:
            harmless = arrival - clock[d] <= max(0, *bubble) - bubble[d]
            if always or not harmless:
                put(d, "W")

    for d in range(p):
        put(d, "F")
    want = [0] * p
    arrival = end["F", p - 1, 0] + cost["I"][p - 1]
    for d in range(p - 2, -1, -1):
        x, mm, t = 0, held[d], clock[d]
        while n(d, "F") + x < m and mm + memory["F"] <= limit["F"][d]:
            if (early and t + cost["F"][d] > arrival + hop[d]) or (not early and t >= arrival + hop[d]):
                break
            mm, t, x = mm + memory["F"], t + cost["F"][d], x + 1
        want[d] = x
        arrival = max(t, arrival + hop[d]) + cost["I"][d]
    for d in range(1, p):
        while want[d] > 0 and want[d] >= want[d - 1] and 1 + want[d] < m:
            want[d] -= 1
        want[d] = min(want[d], want[d - 1])  # not in the description, whose order would deadlock without
    for d in range(p):
        for _ in range(want[d]):
            put(d, "F")
    for d in range(p - 1, -1, -1):
        put(d, "I")
    for k in range(1, m):
        due = [0] * p
        for d in range(p):
            if n(d, "F") < m:
                due[d] = 1
                if wait and d < p - 1 and n(d, "F") >= n(d + 1, "F") + 2:
                    then = clock[d + 1] + cost["F"][d + 1] + cost["I"][d + 1] + hop[d]
                    makes, weights = held[d], 0
                    while makes + memory["F"] > limit["F"][d]:
                        makes, weights = makes + memory["W"], weights + cost["W"][d]
                    if clock[d] >= then:
                        due[d] = 0
                    elif clock[d] + cost["F"][d] + weights > then:
                        due[d] = 0 if then - clock[d] <= max(0, *bubble) - bubble[d] else 1
        for d in range(p - 2, -1, -1):
            due[d] = min(due[d], due[d + 1])
        for d in range(p):
            if due[d]:
                room(d, "F")
                if d > 0:
                    fill(d, end["F", d - 1, n(d, "F")] + hop[d - 1])
                put(d, "F")
        for d in range(p - 1, -1, -1):
            room(d, "I")
            if d < p - 1:
                fill(d, end["I", d + 1, k] + hop[d])
            if d == 0 and n(0, "F") == m:
                while n(0, "W") < n(0, "I"):
                    put(0, "W")
            put(d, "I")
    for d in range(p):
        while n(d, "W") < m:
            put(d, "W")
    return order, max(clock[d] - end["F", d, 0] + cost["F"][d] for d in range(p))


def greedy(p, m, f, i, w, hop, memory, limit):
    """Ranks as lists of (kind, microbatch): tick by tick, whoever is free takes a backward, else a forward, else a weight pass.

    Arguments as in `line_search`.
    """
    end, order, held, free = {}, [[] for _ in range(p)], [0] * p, [0] * p
    now = 0
    while sum(map(len, order)) < 3 * p * m:
        for d in range(p):
            if free[d] > now:
                continue
            done = {kind: sum(each == kind for each, _ in order[d]) for kind in "FIW"}
            k = done["I"]
            came = end.get(("F", d, k), now + 1) <= now
            came = came and (d == p - 1 or end.get(("I", d + 1, k), now + 1) + hop[d] <= now)
            if k < m and came and held[d] + memory["I"] <= limit["I"][d]:
                kind = "I"
            elif (
                done["F"] < m
                and (d == 0 or end.get(("F", d - 1, done["F"]), now + 1) + hop[d - 1] <= now)
                and held[d] + memory["F"] <= limit["F"][d]
            ):
                kind = "F"
            elif done["W"] < done["I"]:
                kind = "W"
            else:
                continue
            free[d] = end[kind, d, done[kind]] = now + {"F": f, "I": i, "W": w}[kind][d]
            held[d] += memory[kind]
            order[d].append((kind, done[kind]))
        now += 1
    return order


def v_search(p, m, f, i, w, hop, memory, limit):
    """Ranks as lists of (kind, stage, microbatch), and the largest bubble; or None. ``memory``: {kind: change} of a chunk."""
    best = None

    def run(fill_f, fill_b, approved):
        orders, bubble = v_attempt(p, m, {"F": f, "I": i, "W": w}, hop, memory, limit, fill_f, fill_b, approved)
        found = orders, max(bubble)
        if max(approved) < 0 or max(bubble) < max(approved):
            again = run(fill_f, fill_b, bubble)
            if again[1] < found[1]:
                return again
        return found

    for fill_b, fill_f in product((True, False), repeat=2):
        try:
            found = run(fill_f, fill_b, [-1] * p)
        except Stuck:
            return None
        if best is None or found[1] < best[1]:
            best = found
    return best


def v_attempt(p, m, cost, hop, memory, limit, fill_f, fill_b, approved):
    end, order, pending = {}, [[] for _ in range(p)], [[] for _ in range(p)]
    clock, held, bubble = [0] * p, [0] * p, [0] * p
    count = [[0] * 4 for _ in range(p)]

    def stage(d, g):
        return d if g in (0, 3) else 2 * p - 1 - d

    def source(d, g):
        """Key of what the next g of d waits for from another rank."""
        there = d - 1 if g in (0, 2) else d + 1
        return (g, there, count[d][g]) if 0 <= there < p else None

    def put(d, g):
        k, kind = count[d][g], "FFII"[g]
        if k >= m or held[d] + memory[kind] > limit or (g and count[d][g - 1] <= k):
            raise Stuck
        done = alone = clock[d] + cost[kind]
        if source(d, g):
            if source(d, g) not in end:
                raise Stuck
            done = max(done, end[source(d, g)] + hop + cost[kind])
        if count[d][0]:
            bubble[d] += done - alone
        clock[d] = end[g, d, k] = done
        held[d] += memory[kind]
        count[d][g] += 1
        order[d].append((kind, stage(d, g), k))
        if kind == "I":
            pending[d].append((stage(d, g), k))

    def put_w(d):
        if not pending[d]:
            raise Stuck
        clock[d] += cost["W"]
        held[d] += memory["W"]
        order[d].append(("W", *pending[d].pop(0)))

    def fill(d, g, flag):
        if source(d, g):
            if source(d, g) not in end:
                raise Stuck
            arrival = end[source(d, g)] + hop
            while pending[d] and arrival >= clock[d] + cost["W"]:
                put_w(d)
            allowed = max(0, *bubble, max(approved) - approved[d])
            if pending[d] and arrival - clock[d] > allowed - bubble[d] and flag:
                put_w(d)

    for d in range(p):
        put(d, 0)
    put(p - 1, 1)
    for d in range(p - 2, -1, -1):
        until = end[1, d + 1, 0] + hop
        while held[d] + memory["F"] * (2 + 2 * d) <= limit and clock[d] + cost["F"] <= until and count[d][0] < m:
            for j in range(d + 1):
                put(j, 0)
        put(d, 1)
    g = 0
    for d in range(1, p):
        while count[d][0] + count[d][1] < count[d - 1][0] + count[d - 1][1] or count[d][1] <= count[d - 1][1] < m:
            for j in range(p - 1, d - 1, -1):
                if count[j][g] < m:
                    put(j, g)
            g = 1 - g
    for _ in range(2 * m):
        for d in range(p):
            while held[d] + memory["I"] > limit:
                put_w(d)
        second = [count[d][3] < count[d][2] and (d == p - 1 or (3, d + 1, count[d][3]) in end or count[d][2] == m) for d in range(p)]
        for d in [*(d for d in range(p - 1, -1, -1) if second[d]), *(d for d in range(p) if not second[d])]:
            fill(d, 3 if second[d] else 2, second[d] or fill_b)
            put(d, 3 if second[d] else 2)
        for d in range(p):
            if count[d][1] < m:
                if count[d][1] >= count[d][0]:
                    item = 0
                elif d == p - 1 or (1, d + 1, count[d][1]) in end:
                    item = 1
                elif count[d][0] < m and (d == 0 or (0, d - 1, count[d][0]) in end):
                    item = 0
                else:
                    continue
                while held[d] + memory["F"] > limit:
                    put_w(d)
                fill(d, item, fill_f)
                put(d, item)
    for d in range(p):
        while pending[d]:
            put_w(d)
    return order, bubble
