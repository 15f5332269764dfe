"""The slow twin of the event loop: nodes that share links, written from the meaning of the words, tick by tick that matters.

Shares no code with `hops.events`: no heap, no agenda, rates as Fractions. Rounds what the loop documents to be rounded to
ticks, and nothing else.
"""

import math
from fractions import Fraction


def fifo(waits, ticks, links, advance=lambda who, now, work: now + work):
    """{node: (start, end)}: waits {node: [(node before, delay)]}, ticks {node: int}, links {node: set of link names}.

    advance: when work of a node, or the delay of (node, place among its waits), has passed.
    """
    return _run(waits, ticks, links, None, None, advance)


def fair(waits, ticks, links, rate, bandwidth):
    """As `fifo`, with max-min fair shares: rate {node: bytes/s alone}, bandwidth {link: bytes/s}."""
    return _run(waits, ticks, links, rate, bandwidth, lambda who, now, work: now + work)


def _run(waits, ticks, links, rate, bandwidth, advance):
    start, end, arrived = {}, {}, {}
    left, speed, now = {}, {}, 0  # of transfers that share fairly

    def ready(node):
        if all(before in end and end[before] <= now for before, _ in waits[node]):
            return max([0, *(advance((node, i), end[before], delay) for i, (before, delay) in enumerate(waits[node]))])
        return None

    while True:
        changed = True
        while changed:  # all that happens at this tick
            changed = False
            for node in [n for n in speed if end.get(n, math.inf) <= now]:
                del speed[node], left[node]
                changed = True
            for node in sorted(ticks):
                if node not in arrived and (at := ready(node)) is not None and at <= now:
                    arrived[node] = at
                    changed = True
                    if not links[node] or (rate and ticks[node] == 0):
                        start[node], end[node] = at, advance(node, at, ticks[node])
                    elif rate:
                        start[node], left[node], speed[node] = at, Fraction(ticks[node]), None
            if changed:
                continue
            if not rate:
                queue = sorted((n for n in arrived if n not in start), key=lambda n: (arrived[n], n))
                taken, able = {link for n in start if start[n] <= now < end[n] for link in links[n]}, []
                for node in queue:
                    if not links[node] & taken:
                        able.append(node)
                    taken |= links[node]  # of those that are before in the queue
                if able:  # one at a time: it may end at once, and what follows is ready before others begin
                    start[min(able)], end[min(able)] = now, advance(min(able), now, ticks[min(able)])
                    changed = True
        if rate:
            given = max_min({n: links[n] for n in speed}, rate, bandwidth)
            for node in speed:
                speed[node] = given[node] / Fraction(rate[node])
                end[node] = now + math.floor(left[node] / speed[node] + Fraction(1, 2))
            if any(end[node] <= now for node in speed):
                continue
        coming = [e for e in end.values() if e > now]
        known = [n for n in ticks if n not in arrived and all(b in end and end[b] <= now for b, _ in waits[n])]
        coming += [at for n in known if (at := ready(n)) > now]
        if not coming:
            break
        then = min(coming)
        for node in speed:
            left[node] = max(Fraction(0), left[node] - speed[node] * (then - now))
        now = then
    assert len(end) == len(ticks), "the twin is stuck"
    return {node: (start[node], end[node]) for node in ticks}


def max_min(links, rate, bandwidth):
    """{transfer: rate}: raise all rates together; whoever is as fast as alone, or crosses a link that is full, stops."""
    given, growing, level = dict.fromkeys(links, Fraction(0)), set(links), Fraction(0)
    while growing:
        room = [(Fraction(rate[n]) - level) for n in growing]
        crowd = {link: [n for n in links if link in links[n]] for n in growing for link in links[n]}
        for link, members in crowd.items():
            if bandwidth[link] < math.inf:
                rising = sum(n in growing for n in members)
                room.append((Fraction(bandwidth[link]) - sum(given[n] for n in members)) / rising)
        level += min(room)
        for n in growing:
            given[n] = level
        full = {link for link, members in crowd.items() if sum(given[n] for n in members) >= bandwidth[link]}
        growing -= {n for n in growing if given[n] >= rate[n] or links[n] & full}
    return given
