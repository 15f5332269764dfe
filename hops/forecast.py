"""Forecast: what slows one trial from when to when, as far as it has been asked for, in int64 ticks."""

from collections.abc import Container, Sequence

import numpy as np

from hops.clocks import CHAOS_STREAM, DURATION_STREAM, REPAIR_STREAM, choose, delay, end_lifetime, make_clocks, start_clocks
from hops.injections import Injection
from hops.jit import kernel
from hops.noise import philox
from hops.scripts import LONGEST
from hops.spells import Spell, Spells
from hops.weights import TICKS

ROWS = 4096  # spells found at a time
FAR = 1 << 61  # later than all of them


@kernel
def philox_word(a, b, c, d, seed, trial):  # type: ignore[no-untyped-def]
    """The first word of an address."""
    return np.int64(philox(np.uint32(a), np.uint32(b), np.uint32(c), np.uint32(d), np.uint32(seed), np.uint32(trial))[0])


@kernel
def find_spells(h, seed, trial, until, clocks, rows):  # type: ignore[no-untyped-def]
    """Fill ``rows`` (n, 4) with the next spells that begin before tick ``until``: begin, end, part, repair; how many."""
    n, most = 0, h.batch.shape[1]
    while clocks.tick.size and clocks.tick[0] < until and n + most <= rows.shape[0]:
        begin = clocks.tick[0]
        clock, k = end_lifetime(h, seed, trial, clocks)
        fault = h.clock_fault[clock]
        end = min(np.int64(FAR), begin + max(np.int64(1), delay(h, h.detect, h.detect_law, clock, k, DURATION_STREAM, seed, trial)))
        repair = delay(h, h.repair, h.repair_law, clock, k, REPAIR_STREAM, seed, trial)
        component, at_once = choose(h, clock, k, seed, trial)
        for i in range(at_once):
            part = h.first[fault] + (component + i) % (h.first[fault + 1] - h.first[fault])
            rows[n, 0], rows[n, 1], rows[n, 2], rows[n, 3] = begin, end, part, repair
            n += 1
    return n


class Forecast:
    """The spells of one trial, as far as they have been asked for; a part that is slow twice at once is so once."""

    def __init__(self, spells: Spells, seed: int, trial: int) -> None:
        self.spells, self.seed, self.trial, self.known = spells, seed, trial, 0
        self.found, self.live = list[Spell](), list[Spell]()  # live: those that are not over
        if spells.script:
            self.add(*spells.script[min(trial, len(spells.script) - 1)])
        self.clocks = make_clocks(spells.h)
        start_clocks(spells.h, seed, trial, self.clocks)
        self.n_injected = [0] * len(spells.injected)
        for j, each in enumerate(spells.injected):
            if each is not None and each[0].at is not None:
                at, every = (round((seconds or 0.0) * TICKS) for seconds in (each[0].at, each[0].every))
                for n in range(each[0].times):
                    if at + n * every > LONGEST:
                        break
                    self.inject(j, at + n * every)

    def inject(self, j: int, tick: int) -> None:
        """Let a row of chaos slow what it slows, at ``tick``."""
        injection, first, size = self.spells.injected[j] or (Injection(), 0, 1)
        who = injection.who
        if who is None:
            word = philox_word(j, self.n_injected[j], 0, CHAOS_STREAM, self.seed, self.trial)
            who = word * size >> 32
        self.n_injected[j] += 1
        self.add(Spell(tick, tick + max(1, round(injection.duration * TICKS)), first + who, round(injection.repair * TICKS)))

    def add(self, *spells: Spell) -> None:
        """Know of these; a link that is dead meanwhile is another way from then on."""
        for spell in spells:
            other, dead = self.spells.detour[spell.part], spell.begin + self.spells.dead
            whole = other is None or dead >= spell.end
            parts = [spell] if whole or other is None else [spell._replace(end=dead), Spell(dead, spell.end, other, spell.repair)]
            self.found += parts
            self.live += parts

    def extend(self, until: int) -> None:
        """Know all that begin before tick ``until``."""
        rows, n = np.empty((max(ROWS, len(self.spells.parts)), 4), np.int64), -1
        while n:
            n = find_spells(self.spells.h, self.seed, self.trial, until, self.clocks, rows)
            self.add(*(Spell(*row) for row in rows[:n].tolist()))
        self.known = until

    def give_up(self, parts: Container[int], tick: int) -> None:
        """End what these parts are in at ``tick``."""
        for spells in (self.found, self.live):
            spells[:] = [each._replace(end=tick) if each.part in parts and each.begin < tick < each.end else each for each in spells]

    def pass_by(self, tick: int) -> None:
        """Nobody will ask for what was over by ``tick``, but for the whole."""
        self.live = [each for each in self.live if each.end > tick]

    def standing(self, begin: int, end: int) -> list[Spell]:
        """Times from ``begin`` to ``end`` or longer in which a part stands still, whole: of spells that overlap one."""
        found = list[Spell]()
        by_part: dict[int, list[Spell]] = {}
        for spell in sorted(self.live):
            if not self.spells.parts[spell.part].disturbance.speed and spell.begin < end:
                by_part.setdefault(spell.part, []).append(spell)
        for each in by_part.values():
            whole = each[0]
            for spell in each[1:]:
                if spell.begin > whole.end:
                    found.append(whole)
                    whole = spell
                else:
                    whole = whole._replace(end=max(whole.end, spell.end))
            found.append(whole)
        return [each for each in found if each.end > begin and each.begin < end]

    def pieces(self, spells: Sequence[Spell]) -> list[tuple[int, frozenset[int]]]:
        """From when on which parts are slow because of these, until what is known; the first from 0 on."""
        edges: dict[int, list[tuple[int, int]]] = {}
        for spell in spells:
            edges.setdefault(spell.begin, []).append((1, spell.part))
            edges.setdefault(spell.end, []).append((-1, spell.part))
        active: dict[int, int] = {}
        found = [(0, frozenset[int]())]
        for tick in sorted(edge for edge in edges if edge < self.known):
            for change, part in edges[tick]:
                active[part] = active.get(part, 0) + change
            now = frozenset(part for part, n in active.items() if n)
            active = {part: active[part] for part in now}
            found = [*found[:-1], (0, now)] if tick == 0 else found
            if tick > 0:
                found.append((tick, now))
        return found
