"""Sky: iterations of training runs that are evaluated alone, as they are disturbed, or cut by a failure; shared by all trials of a cell.

A state is what all that is slow at once makes of the speeds of the resources (`hops.impact`); it is found once, and where many
iterations lie wholly in it, they are drawn from a pool of its own, which holds the very numbers that each would have alone.
"""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from threading import Lock, local

import numpy as np
from numpy.typing import NDArray

from hops.clocks import Clocks, force
from hops.course import TIME, Course, Rows, Weather
from hops.disturbed import Bench, disturbed_iterations, drifted_ticks, make_bench
from hops.forecast import Forecast
from hops.hazards import Hazards
from hops.impact import speeds_of
from hops.kernels import NEVER
from hops.ladder import balanced
from hops.lanes import lanes
from hops.simulation import Case
from hops.speeds import Piece, Speeds, countable, make_speeds
from hops.spells import Spells

type Laws = dict[int, tuple[int, int]]  # numerator and denominator of the speed of a resource; of those with another than 1

MOST_POOLED = 1 << 22  # iterations in pools of states
LOOK = 1 << 40  # ticks that the weather is known ahead at first


class Sky:
    """What iterations of a case become under any weather; ``loop``: by the event loop, one by one."""

    def __init__(self, case: Case, spells: Spells | None, loop: bool | None = None) -> None:
        self.case, self.spells, self.loop, self.lock, self.own = case, spells, loop, Lock(), local()
        self.numbers: dict[frozenset[int], int] = {frozenset(): 0}
        self.states: dict[frozenset[tuple[int, tuple[int, int]]], int] = {frozenset(): 0}
        self.laws: list[Laws] = [{}]
        self.times = case.weights.variant.size // case.n_lanes  # lanes that one of the case's stands for
        self.first, self.size, self.asked = [0], [0], [0]
        self.pool = np.zeros((3, 0), np.int64)
        self.balances: dict[int, tuple[int, ...]] = {}
        self.shared: dict[tuple[int, tuple[int, ...]], Laws] = {}

    @property
    def bench(self) -> Bench:
        """The calling thread's."""
        if not hasattr(self.own, "bench"):
            self.own.bench = make_bench(self.case, self.loop)
        found: Bench = self.own.bench
        return found

    def all_lanes(self, rows: Rows) -> Rows:
        """Iterations with times of all lanes, where lanes can differ because something is slow."""
        return rows if self.spells is None else np.ascontiguousarray(rows * [[1], [self.times], [self.times]])

    def state(self, active: frozenset[int]) -> int:
        """Number of the state in which these parts are slow; 0: nothing is."""
        with self.lock:
            if active not in self.numbers:
                disturbances = [] if self.spells is None else [self.spells.parts[i].disturbance for i in sorted(active)]
                found = speeds_of(self.case, disturbances)
                laws = {
                    resource: (int(found.num[at]), int(found.den[at]))
                    for resource, at in enumerate(found.indptr[:-1].tolist())
                    if found.varies[resource]
                }
                key = frozenset(laws.items())
                if key not in self.states:
                    self.states[key] = len(self.laws)
                    self.laws.append(laws)
                    for each in (self.first, self.size, self.asked):
                        each.append(0)
                self.numbers[active] = self.states[key]
            return self.numbers[active]

    def weather(self, forecast: Forecast, whole: bool = False) -> Weather:
        """The forecast as far as it is known; what has passed by only in the ``whole``."""
        ticks, states = list[int](), list[int]()
        for tick, active in forecast.pieces(forecast.found if whole else forecast.live):
            state = self.state(active)
            if not states or states[-1] != state:
                ticks.append(tick)
                states.append(state)
        return Weather(np.array([*ticks, forecast.known], np.int64), np.array([*states, 0], np.int64))

    def under(self, course: Course, weather: Weather, drawn: bool) -> Course:
        """``course`` in this weather; ``drawn``: its iterations are drawn from pools."""
        with self.lock:
            if not self.pool.size and drawn:
                self.pool, self.size[0] = course.pool, course.pool.shape[1]
            plans = course.plans._replace(first=np.array(self.first), size=np.array(self.size if drawn else [0] * len(self.size)))
            return course._replace(weather=weather, plans=plans, pool=self.pool if drawn else course.pool)

    def balance(self, state: int) -> tuple[int, ...]:
        """Microbatches of every lane with which an iteration in a state is shortest; none: as planned, or a lane stands still."""
        if state not in self.balances:
            laws, resources, each = self.laws[state], self.bench.resources, self.case.scenario.microbatches
            found, n = tuple[int, ...](), resources.n_lanes
            if n > 1 and all(num for num, _ in laws.values()):
                times = []
                for lane in range(n):
                    own = {resource: [(0, NEVER, *laws[resource])] for resource in resources.of(lane) if resource in laws}
                    times.append(int(disturbed_iterations(self.bench, 0, 0, 1, make_speeds(resources.n, own))[TIME, 0]))
                best = balanced(times, n * each)
                found = best if max(m * ticks for m, ticks in zip(best, times, strict=True)) < each * max(times) else ()
            self.balances[state] = found
        return self.balances[state]

    def laws_of(self, state: int, balance: tuple[int, ...]) -> Laws:
        """Speeds in a state of lanes that have so many microbatches (none: as planned), by what each has to do of what is planned."""
        if not balance:
            return self.laws[state]
        if (state, balance) not in self.shared:
            laws, planned = dict(self.laws[state]), self.case.scenario.microbatches
            for lane, n in enumerate(balance):
                for resource in self.bench.resources.of(lane):
                    speed = countable(Fraction(*laws.get(resource, (1, 1))) * Fraction(planned, n))
                    laws[resource] = speed.numerator, speed.denominator
            self.shared[state, balance] = {resource: law for resource, law in laws.items() if law != (1, 1)}
        return self.shared[state, balance]

    def speeds(self, weather: Weather, now: int, until: int, balance: tuple[int, ...] = ()) -> Speeds:
        """Speeds from tick ``now`` on, which is their 0, until tick ``until``."""
        pieces: dict[int, list[Piece]] = {}
        k = int(np.searchsorted(weather.tick, now, side="right")) - 1 if weather.tick.size else 0
        while k + 1 < weather.tick.size and weather.tick[k] < until:
            begin, end = max(int(weather.tick[k]), now) - now, min(int(weather.tick[k + 1]), until) - now
            for resource, (num, den) in self.laws_of(int(weather.state[k]), balance).items():
                own = pieces.setdefault(resource, [])
                if own and own[-1][1:] == (begin, num, den):
                    own[-1] = (own[-1][0], end, num, den)
                else:
                    own.append((begin, end, num, den))
            k += 1
        return make_speeds(self.bench.resources.n, pieces)

    def iteration(
        self, weather: Weather, trial: int, draw: int, now: int, guess: int, balance: tuple[int, ...] = ()
    ) -> NDArray[np.int64] | None:
        """Rows (3,) of an iteration that begins at tick ``now``; None: the weather is not known for long enough."""
        known = int(weather.tick[-1]) if weather.tick.size else NEVER
        while True:
            until = min(known, now + guess)
            rows = disturbed_iterations(self.bench, trial, draw, 1, self.speeds(weather, now, until, balance))[:, 0]
            if now + rows[TIME] <= until or not weather.tick.size:
                return rows if self.spells is not None else rows // np.array([1, self.times, self.times])
            if until == known:
                return None
            guess *= 4

    def pooled(self, state: int, n: int) -> bool:
        """Make a pool of ``n`` for a state that has been asked for often enough; whether it was made now."""
        laws = self.laws[state]
        with self.lock:
            self.asked[state] += 1
            wanted = self.asked[state] > max(8, n // 8) and not self.size[state] and all(num for num, _ in laws.values())
            if not wanted or self.pool.shape[1] + n > MOST_POOLED:
                return False
            speeds = make_speeds(self.bench.resources.n, {resource: [(0, NEVER, *law)] for resource, law in laws.items()})
            rows = disturbed_iterations(self.bench, 0, 0, n, speeds)
            self.first[state], self.size[state] = self.pool.shape[1], n
            self.pool = np.ascontiguousarray(np.concatenate([self.pool, rows], axis=1))
            return True

    def executed(self, speeds: Speeds, trial: int, draw: int, dead: Sequence[tuple[int, Iterable[int]]], until: int) -> int:
        """Ticks that all ranks have computed by tick ``until`` of an iteration, in whose course nodes stop: (when, places in the job)."""
        gone: dict[tuple[int, int], int] = {}
        for at, nodes in dead:
            for seat in self.seats(nodes):
                gone.setdefault(seat, at)
        executed = drifted_ticks(self.bench, trial, draw, speeds, gone, until)
        return int(executed.sum()) // (1 if self.spells is not None else self.times)

    def seats(self, nodes: Iterable[int]) -> list[tuple[int, int]]:
        """Lanes and ranks that have a GPU on one of these nodes of the job."""
        s, cluster, hit = self.case.scenario, self.case.weights.cluster, set(nodes)
        place = cluster.job_nodes(s.layout.n_gpus)
        return [
            (n, rank)
            for n, lane in enumerate(lanes(s.layout, s.data_parallel))
            for rank in range(s.pp)
            if any(place[cluster.node(cluster.order[gpu])] in hit for replica in lane.replicas for gpu in s.layout.gpus(rank, replica))
        ]

    def escalate(
        self, forecast: Forecast, h: Hazards, j: int, now: int, end: int, resumed: int, limit: int, shift: int, clocks: Clocks
    ) -> bool:
        """Let the node fail of what stands still for too long within an iteration from tick ``now`` to ``end``, if it does so first.

        What no rank and no message of the job needs may stand still.
        """
        found = list[tuple[int, int, int]]()
        for spell in forecast.standing(now, end):
            tick = max(now, max(spell.begin, resumed) + forecast.spells.timeout[spell.part])
            if tick < min(spell.end, end, limit) and self.state(frozenset((spell.part,))):
                found.append((tick, spell.part, spell.repair))
        if not found:
            return False
        tick, part, repair = min(found)
        force(h, j, tick - shift, forecast.spells.parts[part].node, 0, repair, clocks)
        forecast.give_up((part,), tick)
        return True

    def evict(self, forecast: Forecast, h: Hazards, j: int, now: int, shift: int, clocks: Clocks) -> bool:
        """Let the node fail at tick ``now`` of what has been slow for longest; False: of what is slow another would have it too."""
        parts = forecast.spells.parts
        on = (each for each in forecast.live if each.begin < now < each.end and parts[each.part].replaceable)
        found = min((each for each in on if self.state(frozenset((each.part,)))), default=None)
        if found is None:
            return False
        node = parts[found.part].node
        force(h, j, now - shift, node, 0, found.repair, clocks)
        forecast.give_up({i for i, part in enumerate(parts) if part.replaceable and part.node == node}, now)
        return True
