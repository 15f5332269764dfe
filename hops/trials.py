"""Trials: one training run, given what it asks for as it goes on: iterations, plans, weather."""

import numpy as np
from numpy.typing import NDArray

from hops.checks import Infeasible
from hops.clocks import mark_victims
from hops.course import (
    ALONE,
    ARGUMENT,
    ATTEMPT,
    BUSY,
    EXECUTED,
    GIVEN,
    GIVEN_BUSY,
    GIVEN_EXPOSED,
    GIVEN_TIME,
    HEALTHY,
    LAST,
    N_CUTS,
    N_EPISODES,
    N_FAILURES,
    N_INJECTED,
    N_KNOWN,
    N_REBALANCED,
    N_SPELLS,
    NOW,
    PARTIAL,
    PLAN,
    RECOVERING,
    RESUMED,
    SERVES,
    SHIFT,
    SPELL,
    STATUS,
    TIME,
    UNKNOWN,
    WANT,
    WEATHER,
    Course,
    Rows,
    Weather,
)
from hops.disturbed import disturbed_iterations, make_bench
from hops.elastic import Elasticity
from hops.episodes import conclude, run_trial
from hops.executor import evaluate_iterations
from hops.forecast import Forecast
from hops.hazards import Hazards
from hops.kernels import NEVER
from hops.ladder import GROUND, Steps, evicts, rebalances, seen
from hops.places import MOST_FAILURES, Space, Way, make_space, next_failure
from hops.progress import book, drawn, healthy
from hops.simulation import Case
from hops.sky import LOOK, Sky
from hops.training import MOST_EXACT

MOST_ATTEMPTS = 127  # at an iteration of a run of tier "exact"


class Trials:
    """All that the trials of a cell have in common."""

    def __init__(
        self,
        case: Case,
        h: Hazards,
        course: Course,
        way: Way,
        elastic: Elasticity | None,
        sky: Sky,
        exact: bool,
        bound: int,
        steps: Steps | None = None,
    ) -> None:
        """``bound``: most iterations that a run can have; ``steps`` of the ladder that it climbs when it is slow."""
        self.case, self.h, self.course, self.way, self.elastic = case, h, course, way, elastic
        self.sky, self.exact, self.bound, self.steps = sky, exact, bound, steps

    def space(self, n_logged: int = 0, n_noted: int = 0) -> Space:
        """Scratch for one trial after another, with room to log so many failures and entries of a diary.

        Of exact ones all failures: what is not used takes no memory.
        """
        n_logged = MOST_FAILURES if self.exact else n_logged
        n_forced = self.course.chaos.times.size + (self.sky.spells is not None)
        return make_space(self.bound, self.h, self.way.spares, n_logged, n_forced, n_noted)

    @property
    def plain(self) -> bool:
        """Whether pools and plans are all that a trial can ask for."""
        return not (self.exact or self.course.alone or self.sky.spells)

    def run(self, trial: int, space: Space, r: NDArray[np.int64]) -> "Trial":
        """Run one to its end, or until it is stuck; what it leaves is in ``r`` and ``space``."""
        one = Trial(self, trial, space)
        r[:] = 0
        if self.exact:
            r[HEALTHY] = healthy(one.course, trial, space.saved, r)
        run_trial(self.h, one.course, self.way, trial, space, r)
        while r[STATUS] == UNKNOWN:
            one.serve(r)
            run_trial(self.h, one.course, self.way, trial, space, r)
        conclude(one.course, trial, space, r)
        if not self.exact:
            r[HEALTHY] = healthy(one.course, trial, space.saved, r)
        self.count_executed(one, space, r)
        if one.forecast is not None:
            r[N_SPELLS] = sum(spell.begin < r[NOW] for spell in one.forecast.found)
        return one

    def count_shares(self, r: NDArray[np.int64]) -> None:
        """Count the mean share that is computing of the time of iterations that were cut."""
        n = int(self.course.plans.size[0]) or None  # where trials do not draw from the pool it is all of the whole job
        busy, time = (int(each) for each in self.course.pool[[BUSY, TIME], :n].sum(axis=1))
        r[EXECUTED] = int(r[PARTIAL]) * busy // time

    def count_executed(self, one: "Trial", space: Space, r: NDArray[np.int64]) -> None:
        """Count what ops had computed of the iterations that were cut, until the failure was known; see `count_shares`."""
        if not self.exact or self.elastic is not None:
            self.count_shares(r)
            return
        failures = [(int(row[0]), *row[1:3].tolist()) for row in space.log[: r[N_FAILURES]]]
        weather = one.course.weather if one.forecast is None else self.sky.weather(one.forecast, whole=True)
        for i, attempt, begun, at, known in space.cuts[: r[N_CUTS]].tolist():
            dead = []
            for tick, clock, n in failures:
                if at <= tick <= known and tick < self.course.horizon:
                    hit = np.zeros(self.h.n_nodes, np.int8)
                    mark_victims(self.h, clock, n, self.course.seed, one.trial, hit, hit.copy())
                    dead.append((tick - begun, np.flatnonzero(hit).tolist()))
            speeds = self.sky.speeds(weather, begun, known, one.balances.get((i, attempt), ()))
            r[EXECUTED] += self.sky.executed(speeds, one.trial, attempt * MOST_EXACT + i, dead, known - begun)


class Trial:
    """One of them: its course as far as it is known."""

    def __init__(self, trials: Trials, trial: int, space: Space) -> None:
        self.all, self.trial, self.space = trials, trial, space
        self.course, n = trials.course, trials.course.n_iterations
        spells = trials.sky.spells
        self.forecast = None if spells is None else Forecast(spells, self.course.seed, trial)
        self.rung, self.took, self.due = GROUND, -1, (-1, -1)  # the last iteration, -1: none; episodes before and number of the next
        self.balances: dict[tuple[int, int], tuple[int, ...]] = {}  # of attempts at iterations that were not as planned
        if trials.exact:
            self.pool, self.slot, self.of = self.rows(0, 0, n), np.arange(n)[None], np.zeros(n, np.int64)
        self.update()

    def rows(self, missing: int, first: int, n: int) -> Rows:
        """Draws ``first`` and following, of the plan for so many missing units."""
        elastic = self.all.elastic
        if elastic is None:
            return self.all.sky.all_lanes(evaluate_iterations(self.all.case, self.trial, first, n))
        return elastic.found[missing].iterations(self.trial, first, n, self.all.h.piece)

    def update(self, weather: Weather | None = None) -> None:
        """Make a course of all that is known."""
        if self.forecast is not None:
            found = self.course.weather if weather is None else weather
            if not found.tick.size:
                self.forecast.extend(NEVER if self.forecast.spells.script else LOOK)
                found = self.all.sky.weather(self.forecast)
            self.course = self.all.sky.under(self.course, found, not self.all.exact)
        if self.all.exact:
            self.course = self.course._replace(pool=self.pool, slot=self.slot, plans=self.course.plans._replace(of=self.of))

    def serve(self, r: NDArray[np.int64]) -> None:
        """Give what is wanted."""
        if r[WANT] == SERVES and self.all.elastic is not None:
            self.course = self.all.elastic.serve(self.course, int(r[ARGUMENT]))
        elif r[WANT] == WEATHER:
            self.look_ahead(int(r[NOW]), r)
        elif r[WANT] == ALONE:
            self.alone(r)
        else:
            self.times(r)

    def look_ahead(self, until: int, r: NDArray[np.int64]) -> None:
        """Know the weather beyond a tick."""
        if self.forecast is not None:
            for row, tick in self.space.injected[r[N_KNOWN] : r[N_INJECTED]].tolist():
                self.forecast.inject(row, tick)
            r[N_KNOWN] = r[N_INJECTED]
            if self.forecast.known <= until:
                self.forecast.extend(max(2 * self.forecast.known, 2 * until))
            self.forecast.pass_by(int(r[NOW]))
            weather = self.all.sky.weather(self.forecast)
            r[SPELL] = max(0, int(np.searchsorted(weather.tick, r[NOW], side="right")) - 1)
            self.update(weather)

    def times(self, r: NDArray[np.int64]) -> None:
        """Evaluate iterations as they are undisturbed."""
        n = self.course.n_iterations
        missing, attempt, first, last = (int(r[each]) for each in (PLAN, ATTEMPT, ARGUMENT, LAST))
        self.check(attempt, first)
        if attempt >= len(self.slot):  # attempts that were evaluated alone have no row
            self.slot = np.concatenate([self.slot, np.full((attempt + 1 - len(self.slot), n), -1)])
        if missing == 0 and attempt == 0:
            self.slot[0, first:last] = np.arange(first, last)  # those before were of another plan
        else:
            self.slot[attempt, first:last] = self.pool.shape[1] + np.arange(last - first)
            more = self.rows(missing, attempt * MOST_EXACT + first, last - first)
            self.pool, self.of = np.concatenate([self.pool, more], axis=1), np.append(self.of, np.full(last - first, missing))
        self.update()

    def check(self, attempt: int, i: int) -> None:
        if attempt > MOST_ATTEMPTS and self.all.exact:
            raise Infeasible(f"trial {self.trial} attempts iteration {i} more often than run.tier=exact can, {MOST_ATTEMPTS} times")

    def address(self, attempt: int, i: int) -> tuple[int, int]:
        """Trial and draw of an attempt at an iteration; of what is drawn from the pool the draw that the row is."""
        if self.all.exact:
            self.check(attempt, i)
            return self.trial, attempt * MOST_EXACT + i
        return 0, int(drawn(i, attempt, int(self.course.plans.size[0]), self.course.seed, self.trial))

    def alone(self, r: NDArray[np.int64]) -> None:
        """Evaluate the iteration that begins now, with all that disturbs it; or the pool of the state that it lies in."""
        sky, now, n_pool = self.all.sky, int(r[NOW]), self.course.pool.shape[1]
        draw = self.address(int(r[ATTEMPT]), int(r[ARGUMENT]))
        if self.all.elastic is not None:
            self.given(r, self.elastic_rows(int(r[PLAN]), draw[1]), 1)
            return
        state = 0 if self.forecast is None else int(self.course.weather.state[r[SPELL]])
        if self.climbs(r, state):
            return
        drawn = state and not (self.all.exact or self.course.alone or self.all.steps)
        if drawn and sky.pooled(state, int(self.course.plans.size[0])):
            self.update()
            return
        guess = 4 * int(self.course.pool[TIME, : min(n_pool, 64)].max())
        while (rows := sky.iteration(self.course.weather, *draw, now, guess, self.rung.balance)) is None:
            self.look_ahead(2 * int(self.course.weather.tick[-1]), r)
        end, disturbed = now + int(rows[TIME]), False
        if self.forecast is not None:
            failure = int(next_failure(self.space.clocks.tick, r[SHIFT]))
            limit, j = min(failure, self.course.horizon), self.course.chaos.times.size
            if sky.escalate(self.forecast, self.all.h, j, now, end, int(r[RESUMED]), limit, int(r[SHIFT]), self.space.clocks):
                self.look_ahead(0, r)
            weather, at = self.course.weather, int(r[SPELL])
            disturbed = any(weather.tick[k] < min(end, limit) and weather.state[k] for k in range(at, min(at + 2, len(weather.tick) - 1)))
        self.given(r, rows, 2 if disturbed else 1)
        self.took, self.due = int(rows[TIME]) if disturbed else -1, (int(r[N_EPISODES]), int(r[ARGUMENT]) + 1)
        if self.rung.balance:
            self.balances[int(r[ARGUMENT]), int(r[ATTEMPT])] = self.rung.balance

    def climbs(self, r: NDArray[np.int64], state: int) -> bool:
        """Take the step of the ladder that is due before the iteration which begins now in a state; False: there is none."""
        steps, sky, forecast, now = self.all.steps, self.all.sky, self.forecast, int(r[NOW])
        if steps is None or forecast is None:
            return False
        here = int(r[N_EPISODES]), int(r[ARGUMENT])
        if not state or here != self.due:
            self.rung = GROUND
        elif self.took >= 0:
            self.rung = seen(self.rung, self.took, steps)
        self.took, self.due = -1, here
        j, clocks = self.course.chaos.times.size, self.space.clocks
        if evicts(self.rung, steps) and sky.evict(forecast, self.all.h, j, now, int(r[SHIFT]), clocks):
            self.look_ahead(0, r)
            return True
        balance = sky.balance(state) if rebalances(self.rung, steps) else ()
        if not balance:
            return False
        self.rung = self.rung._replace(balance=balance)
        until = min(now + steps.rebalance, int(next_failure(clocks.tick, r[SHIFT])), self.course.horizon)
        book(r, RECOVERING, until, self.space.diary)
        r[N_REBALANCED] += 1
        return True

    def given(self, r: NDArray[np.int64], rows: NDArray[np.int64], how: int) -> None:
        r[GIVEN] = how
        r[[GIVEN_TIME, GIVEN_BUSY, GIVEN_EXPOSED]] = rows

    def elastic_rows(self, missing: int, draw: int) -> NDArray[np.int64]:
        """An iteration of the plan for so many missing units, by the loop."""
        elastic = self.all.elastic
        if elastic is None or elastic.found[missing].plan.seconds is not None:
            return self.rows(missing, draw, 1)[:, 0]
        found = elastic.found[missing]
        each = []
        for case in found.cases:
            bench = make_bench(case, self.all.sky.loop)
            lanes = case.weights.variant.size // case.n_lanes
            each.append(disturbed_iterations(bench, self.trial, draw, 1, bench.speeds) // np.array([[1], [lanes], [lanes]]))
        return found.together(each, self.all.h.piece)[:, 0]
