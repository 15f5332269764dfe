"""The slow twin of elastic training runs: what happens next, one thing at a time. Shares no code with the engine.

All that a job does is written down as pieces of time, each with the plan that was on; what they were for is counted when the run is over.
"""

from dataclasses import dataclass, field, replace

import twin_runs
from twin_runs import NEVER


@dataclass
class Job:
    """``pools``, ``samples``, ``idle``, ``redundant``: by units missing; a pool of None: no plan. ``units``: nodes of each."""

    pools: list
    samples: list
    idle: list
    redundant: list
    units: list
    sizes: list  # GPUs of each node
    states: list  # (bucket, ticks)
    switch: list
    join: list
    rejoin: int = 0
    keeps: bool = True
    renews: bool = True
    groups: list = field(default_factory=list)
    n_iterations: int = NEVER
    horizon: int = NEVER
    every: int = NEVER
    cost: int = 0
    persist: int = 0
    exposure: bool = False
    seed: int = 0
    chaos: list = field(default_factory=list)  # as `twin_runs.Job`'s
    n_nodes: int = 1


class Stopped(Exception):
    """A failure of somebody who takes part, now."""


class Over(Exception):
    """The horizon, now."""


class Trial:
    def __init__(self, job, failures, trial):
        self.job, self.failures, self.trial = job, failures, trial
        self.now, self.plan, self.part, self.deaf = 0, 0, set().union(*job.units), False
        self.back, self.gone, self.hit = {}, [], set()  # node: when it can return; (node, from, until); who failed since training stopped
        self.pieces, self.changes, self.used = [], [(0, set())], {0}  # [bucket, from, until, plan]; (since, nodes without work)
        self.path, self.begun = [], {}  # (piece, row, samples) of every iteration that is done
        self.chaos, self.entered = twin_runs.Chaos(job, failures, trial), set()
        self.found = dict.fromkeys(("failures", "episodes", "lost", "replay", "checkpoints", "from_memory"), 0)

    def away(self, node, tick):
        return self.back.get(node, -1) > tick

    def missing(self, tick=-1):
        return sum(any(self.away(node, tick) for node in unit) for unit in self.job.units)

    def cast(self):
        self.part = {node for unit in self.job.units if not any(node in self.back for node in unit) for node in unit}

    def return_nodes(self):
        self.back = {node: back for node, back in self.back.items() if back > self.now}

    def enter(self, *states):
        for state in states:
            self.chaos.enter(state, self.now, len(self.path), self.hit)

    def pass_states(self, way, states):
        for at, (bucket, ticks) in enumerate(states):
            self.enter((way, at))
            self.spend(bucket, ticks)

    def strike(self):
        """The next failure comes true."""
        tick = self.failures.next()
        nodes, known, repaired = self.failures.take()
        new = {node for node in nodes if not self.away(node, tick)}
        self.found["failures"] += bool(new)
        self.hit |= new & self.part
        for node in new:
            self.back[node] = min(NEVER, tick + repaired + self.job.rejoin)
            self.gone.append((node, tick, self.back[node]))
        return known

    def stops(self):
        """Whether the next failure hits somebody who takes part."""
        tick = self.failures.next()
        return any(node in self.part and not self.away(node, tick) for node in self.failures.look()[0])

    def spend(self, bucket, ticks):
        """Do something for so long; raises where it does not come to its end."""
        end, piece = min(NEVER, self.now + ticks), [bucket, self.now, self.now, self.plan, False]
        self.pieces.append(piece)
        while not self.deaf and self.failures.next() < min(end, self.job.horizon):
            if self.stops():
                piece[2] = self.now = self.failures.next()
                raise Stopped
            self.strike()
        piece[2] = self.now = min(end, self.job.horizon)
        if end > self.job.horizon:
            raise Over
        return piece

    def turn(self, plan):
        self.plan = plan
        self.changes.append((self.now, set().union(*self.job.units) - self.part))
        if self.now < self.job.horizon:
            self.used.add(plan)

    def recover(self):
        """From a failure, now, until the job can train; whether it has all that was committed."""
        self.found["episodes"] += 1
        while True:
            known = min(NEVER, self.now + self.strike())
            self.enter("detection")
            while not self.job.exposure and self.failures.next() <= known and self.failures.next() < self.job.horizon:
                self.strike()
            self.pieces.append(["detection", self.now, min(known, self.job.horizon), self.plan, False])
            self.now = min(known, self.job.horizon)
            self.enter("recovery")
            self.deaf = self.job.exposure
            self.cast()
            lost = self.hit if self.job.renews else set(self.back)
            kept = self.job.keeps and self.job.redundant[self.plan] and all(set(group) - lost for group in self.job.groups)
            kept = kept and self.job.pools[self.missing()] is not None
            try:
                if not kept:
                    self.wait()
                self.pass_states(*(("switch", self.job.switch) if kept else ("durable", self.job.states)))
            except Stopped:
                continue
            except Over:
                pass
            return kept

    def wait(self):
        while True:
            self.return_nodes()
            self.cast()
            if self.job.pools[self.missing()] is not None:
                return
            if self.now >= self.job.horizon:
                raise Over
            until = min(self.back.values())
            if not self.deaf and self.failures.next() < min(until, self.job.horizon) and not self.stops():
                self.strike()  # who might come back later, or first
                continue
            self.spend("queue", until - self.now)

    def run(self):
        job, durable, writing, finished = self.job, 0, None, False
        just_done = False
        while not finished and (self.now < job.horizon or just_done):
            done, begun = len(self.path), self.now
            last = durable if writing is None else writing[0]
            due = min(last + job.every, job.n_iterations)
            joins, just_done = False, False
            if self.now >= job.horizon and (done < due or job.every == NEVER):
                break
            state = "checkpoint" if done >= due and job.every < NEVER else "iteration"
            if (state, done) not in self.entered and done < due + (state == "checkpoint"):
                self.entered.add((state, done))
                self.enter(state)
            try:
                if done >= due and job.every < NEVER:
                    # one piece of time: who fails harmlessly before its end fails, but a failure after that ends nothing
                    end = max(0, (writing[1] if writing else 0) - self.now) + job.cost
                    self.spend("checkpoint", end)
                    durable = writing[0] if writing else durable
                    writing = done, min(NEVER, self.now + job.persist)
                    self.found["checkpoints"] += 1
                    if done == job.n_iterations:
                        self.spend("checkpoint", writing[1] - self.now)
                        finished = True
                elif done == job.n_iterations:
                    finished = True
                elif self.failures.next() <= self.now:
                    if self.stops():
                        raise Stopped
                    self.strike()
                elif any(back <= self.now for back in self.back.values()):
                    missing = self.missing(self.now)
                    self.return_nodes()
                    if missing != self.plan and job.pools[missing] is not None:
                        joins = True
                        self.cast()
                        self.deaf = job.exposure
                        self.enter("join")
                        self.pass_states("join", job.join)
                        self.turn(missing)
                        self.failures.shift += self.now - begun if job.exposure else 0
                        self.deaf = False
                else:
                    self.iterate(done)
                    just_done = True
            except Stopped:
                if writing is not None and writing[1] <= self.now:
                    durable = writing[0]
                writing, failed, self.entered = None, self.now, set()
                kept = self.recover()
                self.found["from_memory"] += kept
                if not kept:
                    for piece, *_ in self.path[durable:]:
                        piece[0] = "wasted"
                    self.found["lost"] += len(self.path) - durable
                    del self.path[durable:]
                self.turn(self.missing())
                self.hit, self.deaf = set(), False
                self.failures.shift += self.now - failed if job.exposure else 0
            except Over:
                if joins:
                    self.turn(self.missing())
        return self.count(finished or job.n_iterations == NEVER)

    def iterate(self, done):
        attempt, begun = self.begun.get(done, 0), self.now
        pool = self.job.pools[self.plan]
        row = pool[twin_runs.draw(replace_pool(self.job, pool), self.trial, done, attempt)]
        self.begun[done] = attempt + 1
        try:
            self.path.append((self.spend("useful", row[0]), row, self.job.samples[self.plan]))
        except (Stopped, Over):
            self.pieces[-1][0] = "wasted"
            raise
        finally:
            self.found["replay"] += self.now - begun if attempt else 0
            self.pieces[-1][4] = attempt > 0

    def count(self, finished):
        buckets = ("useful", "wasted", "checkpoint", "detection", "recovery", "queue")
        book = dict.fromkeys(buckets, 0) | {f"idle {bucket}": 0 for bucket in buckets}
        for bucket, begun, end, plan, _ in self.pieces:
            book[bucket] += end - begun
            book[f"idle {bucket}"] += (end - begun) * self.job.idle[plan]
        repaired = 0
        for (since, idle), (until, _) in zip(self.changes, [*self.changes[1:], (self.now, None)], strict=True):
            for node, begun, end in self.gone:
                if node in idle:
                    repaired += self.job.sizes[node] * max(0, min(end, until) - max(begun, since))
        rows = [row for _, row, _ in self.path]
        return book | self.found | {
            "now": self.now, "done": len(self.path), "finished": finished, "repaired": repaired, "plans": len(self.used),
            "degraded": sum(end - begun for _, begun, end, plan, _ in self.pieces if plan),
            "spans": twin_runs.merged(("replay" if again and what == "useful" else what, *at) for what, *at, _, again in self.pieces),
            "smaller": twin_runs.merged((plan, *at) for _, *at, plan, _ in self.pieces),
            "trained": book["useful"] if finished else 0,
            "samples": sum(samples for _, _, samples in self.path),
            "busy": sum(row[1] for row in rows), "exposed": sum(row[2] for row in rows),
            "healthy": twin_runs.healthy(replace_pool(self.job, self.job.pools[0]), self.trial),
        }  # fmt: skip


def replace_pool(job, pool):
    """What `twin_runs` calls a job."""
    return replace(twin_runs.Job(pool, []), n_iterations=job.n_iterations, horizon=job.horizon, seed=job.seed)


def run(job, failures, trial):
    """One trial: dict of ticks by bucket, and counts."""
    return Trial(job, failures, trial).run()
