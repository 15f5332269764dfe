"""The slow twin of training runs: what happens next, one thing at a time, from the meaning of the words. Shares no code with the engine.

A job does one thing after another (an iteration, a checkpoint, a state of the recovery); each ends, or a failure or the horizon
comes first. Every iteration that was executed is remembered; what it was for is known when the run is over. All times are int ticks.
"""

from dataclasses import dataclass, field
from zlib import crc32

import twin

NEVER = 2**62


def bits(seed, trial, *counter):
    return twin.philox(counter, (seed, trial))


@dataclass
class Fault:
    """``nodes`` of each component; lifetimes as (mean ticks of a clock, table of the first, table of the others)."""

    name: str
    nodes: list
    lifetime: tuple
    detection: tuple  # mean, table
    repair: tuple
    one_clock: bool = True
    batch: tuple = (1.0,)

    def time(self, seed, trial, who, n, stream, mean, table):
        word = bits(seed, trial, who, n, crc32(self.name.encode()), stream)[0]
        ticks = mean * table.factor(word) + 0.5
        return int(ticks) if ticks < 2.0**61 else NEVER


class Failures:
    """Failures of one trial, in order."""

    def __init__(self, faults, seed, trial, script=None):
        self.seed, self.trial = seed, trial
        self.script = script
        self.clocks = []  # [tick, number, fault, who, component or None, n]
        for fault in faults:
            for who in [0xFFFFFFFF] if fault.one_clock else range(len(fault.nodes)):
                first = self.lifetime(fault, who, 0)
                self.clocks.append([first, len(self.clocks), fault, who, None if fault.one_clock else who, 0])
        self.shift, self.forced = 0, []  # (tick, which chaos or 10**6 for a stall, node, ticks until known, until repaired)

    def lifetime(self, fault, who, n):
        mean, first, later = fault.lifetime
        return max(1, fault.time(self.seed, self.trial, who, n, 16, mean, later if n else first))

    def drawn(self):
        """When what nobody forces comes next."""
        if self.script is not None:
            return self.script[0][0] if self.script else NEVER
        return min(min((clock[0] for clock in self.clocks), default=NEVER) + self.shift, NEVER)

    def next(self):
        return min([self.drawn(), *(each[0] for each in self.forced)])

    def take(self):
        """The next failure, which then has been: (nodes, ticks until known, ticks until repaired)."""
        found = self.look()
        if self.drawn() > self.next():
            self.forced.remove(min(self.forced))
            return found
        if self.script is not None:
            self.script.pop(0)
            return found
        clock = min(self.clocks, key=lambda each: each[:2])
        tick, _, fault, who, _, n = clock
        clock[5] += 1
        clock[0] = min(NEVER, tick + self.lifetime(fault, who, n + 1))
        return found

    def look(self):
        """The next failure."""
        if self.drawn() > self.next():
            _, _, node, known, repaired = min(self.forced)
            return {node}, known, repaired
        if self.script is not None:
            _, nodes, known, repaired = self.script[0]
            return set(nodes), known, repaired
        _, _, fault, who, component, n = min(self.clocks, key=lambda each: each[:2])
        known, repaired = (
            fault.time(self.seed, self.trial, who, n, stream, *each) for stream, each in ((18, fault.detection), (19, fault.repair))
        )
        chosen = [component]
        if component is None:
            a, b, *_ = bits(self.seed, self.trial, who, n, crc32(fault.name.encode()), 17)
            size, chance, at_once = len(fault.nodes), (b + 0.5) / 2**32, 1
            upto = fault.batch[0]
            for weight in fault.batch[1:]:
                if chance <= upto:
                    break
                at_once, upto = at_once + 1, upto + weight
            chosen = [(a * size // 2**32 + i) % size for i in range(min(at_once, size))]
        return {node for each in chosen for node in fault.nodes[each]}, known, repaired


@dataclass
class Job:
    """How a job runs and recovers; states are (bucket, ticks, acquires)."""

    pool: list  # (ticks, busy, exposed)
    states: list
    n_iterations: int = NEVER
    horizon: int = NEVER
    every: int = NEVER
    cost: int = 0
    persist: int = 0
    memory_states: list | None = None
    copy_every: int = NEVER
    copy_cost: int = 0
    groups: list = field(default_factory=list)
    spares: int = 0
    exposure: bool = False
    seed: int = 0
    sky: object = None  # what slows: `Sky`
    chaos: list = field(default_factory=list)  # dicts: states, iteration; node; known; repaired; times; budget
    n_nodes: int = 1


class Sky:
    """Spells of one trial: [begin, end, part, ticks of repair]; ``iterate(draw, now, times of parts)`` is an iteration under them.

    ``draw`` is what `draw` says; times are {part: [(begin, end)]}; an iteration is ticks, busy, exposed, and when something is slow in it.
    With a `Ladder` it is told as well which share of the microbatches each replica has.
    """

    def __init__(self, spells, nodes, stands, timeout, iterate, ladder=None):
        self.spells, self.nodes, self.stands, self.timeout, self.iterate = spells, nodes, stands, timeout, iterate
        self.ladder = ladder

    def step(self, now):
        """What the ladder says before the iteration that begins now: ("rebalance",), ("evict", node, repair) or nothing."""
        it, on = self.ladder, [spell for spell in self.spells if spell[0] <= now < spell[1]]
        parts = {spell[2] for spell in on}
        if not it.matters(parts):
            it.forget()
            return None
        if it.last is not None and it.n_slow >= it.patience:
            it.loss += max(0, it.last - it.usual)
        elif it.last is not None:
            it.n_slow = it.n_slow + 1 if it.last - it.usual > round(it.threshold * it.usual) else 0
        it.last = None
        if it.n_slow < it.patience:
            return None
        own = [spell for spell in on if spell[0] < now and it.alone[spell[2]] and it.matters({spell[2]})]
        if it.loss >= it.evict and own:
            _, _, part, repair = min(own)
            for spell in self.spells:
                if it.alone[spell[2]] and self.nodes[spell[2]] == self.nodes[part] and spell[0] < now < spell[1]:
                    spell[1] = now
            return "evict", self.nodes[part], repair
        if it.loss >= it.rebalance and it.shares is None:
            it.shares = it.divide(parts)
            return None if it.shares is None else ("rebalance",)
        return None

    def times(self):
        """Of every part from when to when, those that overlap as one."""
        found = {}
        for begin, end, part, repair in sorted(self.spells):
            own = found.setdefault(part, [])
            if own and begin <= own[-1][1]:
                own[-1][1] = max(own[-1][1], end)
            else:
                own.append([begin, end, repair])
        return found

    def given_up(self, now, ends, resumed):
        """What stands still for too long within an iteration: (tick, part, repair), the first of it."""
        found = []
        for part, own in self.times().items():
            for begin, end, repair in own:
                tick = max(now, max(begin, resumed) + self.timeout)
                if self.stands[part] and end > now and tick < min(end, ends):
                    found.append((tick, part, repair))
        return min(found, default=None)

    def give_up(self, tick, part):
        for spell in self.spells:
            if spell[2] == part and spell[0] < tick < spell[1]:
                spell[1] = tick


@dataclass
class Ladder:
    """What a job does about being slow, in ticks: ``matters(parts)`` whether it is when these are, ``divide(parts)`` shares or None."""

    usual: int
    threshold: float
    patience: int
    rebalance: int
    evict: int
    alone: list  # of every part whether it is of one node
    matters: object
    divide: object
    n_slow: int = 0
    loss: int = 0
    shares: object = None
    last: object = None  # ticks of the iteration before, if something was slow in it

    def forget(self):
        self.n_slow, self.loss, self.shares, self.last = 0, 0, None, None


def drawn_spells(faults, seed, trial, until):
    """Spells of `Fault`s whose detection is how long one lasts, and whose nodes are parts, until a tick."""
    found = []
    for fault in faults:
        for who in [0xFFFFFFFF] if fault.one_clock else range(len(fault.nodes)):
            mean, first, later = fault.lifetime
            tick, n = 0, 0
            while True:
                tick += max(1, fault.time(seed, trial, who, n, 16, mean, later if n else first))
                if tick >= until:
                    break
                length, repair = (
                    fault.time(seed, trial, who, n, stream, *each) for stream, each in ((21, fault.detection), (19, fault.repair))
                )
                chosen = [who]
                if fault.one_clock:
                    a, *_ = bits(seed, trial, who, n, crc32(fault.name.encode()), 17)
                    chosen = [a * len(fault.nodes) // 2**32]
                found += [[tick, tick + max(1, length), part, repair] for each in chosen for part in fault.nodes[each]]
                n += 1
    return found


def healthy(job, trial):
    now = 0
    for i in range(min(job.n_iterations, 10**6)):
        ticks, *_ = job.pool[draw(job, trial, i, 0)]
        if now + ticks > job.horizon:
            return i
        now += ticks
    return now


def draw(job, trial, i, attempt):
    word = bits(job.seed, trial, 64 * (i // 256) + i % 64, attempt, 0, 20)[i // 64 % 4]
    return word * len(job.pool) // 2**32


class Chaos:
    """What is made to fail in some states, in one trial."""

    def __init__(self, job, failures, trial):
        self.job, self.failures, self.trial = job, failures, trial
        self.left, self.fired = [each["times"] for each in job.chaos], [0] * len(job.chaos)

    def enter(self, state, now, done, hit=()):
        """Let fail now what chaos wants to fail in this state, when so many iterations are done and these nodes have failed."""
        for j, each in enumerate(self.job.chaos):
            wanted = state in each.get("states", ()) and each.get("iteration", done) == done
            if wanted and self.left[j] and len(hit) < each.get("budget", 10**9) and now < self.job.horizon:
                node = each.get("node")
                if node is None:
                    node = bits(self.job.seed, self.trial, j, self.fired[j], 0, 22)[0] * self.job.n_nodes // 2**32
                self.left[j] -= 1
                self.fired[j] += 1
                others = [other for other in self.failures.forced if other[1] != j]
                self.failures.forced = [*others, (now, j, node, each["known"], each["repaired"])]


def run(job, failures, trial):
    """One trial: dict of ticks by bucket, and counts."""
    book = dict.fromkeys(("useful", "wasted", "checkpoint", "detection", "recovery", "queue"), 0)
    found = dict.fromkeys(
        (
            "failures",
            "episodes",
            "lost",
            "replay",
            "checkpoints",
            "from_memory",
            "standby",
            "busy",
            "exposed",
            "slowed",
            "lost busy",
            "rebalanced",
        ),
        0,
    )
    trained = []  # those of the iterations that are done
    now, resumed, path, begun = 0, 0, [], {}  # path: (ticks, busy, exposed) of the iterations that are done
    stamps = []  # when each of them was, and its ticks
    pieces = []  # [what the job did, from when, until when]
    chaos, entered = Chaos(job, failures, trial), set()
    durable, writing, copied = 0, None, 0  # iterations that a checkpoint has; (iterations, tick when durable); iterations that peers have
    pool_changes, free, away, vacant = [(0, job.spares)], job.spares, [], set()
    uses_pool = any(acquires for _, _, acquires in job.states + (job.memory_states or []))

    def spend(bucket, ticks, until):
        """Let time pass for an activity that nothing but ``until`` can stop; whether it came to its end."""
        nonlocal now
        end = min(now + ticks, NEVER)
        pieces.append([bucket, now, min(end, until)])
        book[bucket] += min(end, until) - now
        now = min(end, until)
        return end <= until

    def enter(state, hit=()):
        chaos.enter(state, now, len(path), hit)

    def return_nodes(tick):
        nonlocal free
        for back in sorted(each for each in away if each <= tick):
            away.remove(back)
            free += 1
            pool_changes.append((back, free))

    def strike(tick):
        """The failure at ``tick``: ticks until it is known, its nodes."""
        nodes, known, repaired = failures.take()
        found["failures"] += 1
        new = nodes - vacant
        vacant.update(new)
        away.extend([min(NEVER, tick + repaired)] * len(new) if uses_pool else [])
        return known, nodes

    def recover():
        """From the failure at ``now``; whether memory helps."""
        nonlocal free
        found["episodes"] += 1
        hit, helps = set(), False
        while now < job.horizon:
            known, nodes = strike(now)
            hit |= nodes
            enter("detection", hit)
            known = min(NEVER, now + known)
            while not job.exposure and failures.next() <= known and failures.next() < job.horizon:
                hit |= strike(failures.next())[1]
            spend("detection", known - now, job.horizon)
            enter("recovery", hit)
            helps = job.memory_states is not None and all(set(group) - hit for group in job.groups)
            for at, (bucket, ticks, acquires) in enumerate(job.memory_states if helps else job.states):
                enter(("memory" if helps else "durable", at), hit)
                stop = min(job.horizon, NEVER if job.exposure else failures.next())
                if acquires:
                    return_nodes(now)
                    while len(vacant) > free:
                        wait = min(away, default=NEVER)
                        if not spend("queue", wait - now, stop):
                            break
                        return_nodes(now)
                    if len(vacant) > free:
                        break
                    free -= len(vacant)
                    pool_changes.append((now, free))
                    vacant.clear()
                if not spend(bucket, ticks, stop):
                    break
            else:
                return helps
        return helps

    finished = False
    while not finished:
        done = len(path)
        last = durable if writing is None else writing[0]
        due = done >= min(last + job.every, job.n_iterations) and job.every < NEVER
        state = "checkpoint" if due else "iteration"
        if (state, done) not in entered and (due or done < job.n_iterations):
            entered.add((state, done))
            enter(state)
        stop = min(failures.next(), job.horizon)
        if job.sky and job.sky.ladder and state == "iteration" and done < job.n_iterations and now < stop:
            step = job.sky.step(now)
            if step is not None and step[0] == "rebalance":
                found["rebalanced"] += 1
                spend("recovery", job.sky.ladder.rebalance, stop)
                continue
            if step is not None:
                failures.forced.append((now, 10**6, step[1], 0, step[2]))
                continue
        if due:
            waited = writing is None or spend("checkpoint", max(0, writing[1] - now), stop)
            if waited and spend("checkpoint", job.cost, stop):
                if writing is not None:
                    durable = writing[0]
                writing = done, min(NEVER, now + job.persist)
                found["checkpoints"] += 1
                if done < job.n_iterations:
                    continue
                finished = spend("checkpoint", writing[1] - now, stop)
        elif done == job.n_iterations:
            finished = True
        elif now < stop or stop == NEVER:
            attempt = begun.get(done, 0)
            where, slow = draw(job, trial, done, attempt), None
            row = None if job.sky else job.pool[where]
            if job.sky:
                *row, slow = job.sky.iterate(where, now, job.sky.times(), *([job.sky.ladder.shares] if job.sky.ladder else []))
                given_up = job.sky.given_up(now, min(now + row[0], stop), resumed)
                if given_up is not None:
                    tick, part, repair = given_up
                    failures.forced.append((tick, 10**6, job.sky.nodes[part], 0, repair))
                    job.sky.give_up(tick, part)
                    stop = tick
            ticks = row[0]
            before, committed = now, now + ticks <= stop
            spend("useful" if committed else "wasted", ticks, stop)
            if attempt:
                found["replay"] += now - before
                pieces[-1][0] = "replay" if committed else "wasted"
            if slow is not None and slow < min(before + ticks, stop):
                found["slowed"] += now - before
                if job.sky.ladder:
                    job.sky.ladder.last = ticks
            begun[done] = attempt + 1
            if committed:
                path.append(row)
                trained.append(pieces[-1])
                stamps.append((now, ticks))
                if (done + 1) % job.copy_every:
                    continue
                if spend("checkpoint", job.copy_cost, stop):
                    copied = done + 1
                    continue
        if finished or now >= job.horizon:
            break
        if writing is not None and writing[1] <= now:
            durable = writing[0]
        writing, failed, entered = None, now, set()
        helps = recover()
        if job.sky and job.sky.ladder:
            job.sky.ladder.forget()
        to = max(durable, copied) if helps else durable
        copied = to
        found["from_memory"] += helps
        found["lost"] += len(path) - to
        for row in path[to:]:
            book["useful"] -= row[0]
            book["wasted"] += row[0]
            found["lost busy"] += row[1]
        for piece in trained[to:]:
            piece[0] = "wasted"
        del path[to:], stamps[to:], trained[to:]
        resumed = now
        if job.exposure:
            failures.shift += now - failed
    return_nodes(now)
    pool_changes.sort(key=lambda each: each[0])
    for (tick, n), (until, _) in zip(pool_changes, [*pool_changes[1:], (now, 0)], strict=True):
        found["standby"] += min(n, job.spares) * (until - tick)
    found["busy"] = sum(row[1] for row in path)
    found["exposed"] = sum(row[2] for row in path)
    found["spells"] = sum(begin < now for begin, *_ in job.sky.spells) if job.sky else 0
    finished = finished or job.n_iterations == NEVER
    found |= commits(job, stamps, now) if finished else {"gaps": 0, "trained": 0, "intervals": []}
    return book | found | {"now": now, "done": len(path), "healthy": healthy(job, trial), "finished": finished, "spans": merged(pieces)}


def merged(pieces):
    """Spans of time one after the other: (what the job did, from when, until when), each different from the one before."""
    spans = []
    for what, begin, end in pieces:
        if end > begin:
            assert begin == (spans[-1][2] if spans else 0)
            if spans and spans[-1][0] == what:
                begin = spans.pop()[1]
            spans.append((what, begin, end))
    return spans


def commits(job, stamps, now):
    """Intervals between iterations that count; before how many something but a copy came; training time, copies in a row with it."""
    ends = [0, *(at for at, _ in stamps)]
    idle = [at - ticks - before for (at, ticks), before in zip(stamps, ends, strict=False)]
    late = [k for k, ticks in enumerate(idle) if ticks != (job.copy_cost if k and k % job.copy_every == 0 else 0)]
    intervals = sorted(at - before for (at, _), before in zip(stamps, ends, strict=False))
    return {"gaps": len(late), "trained": ends[-1] - sum(idle[k] for k in late), "intervals": intervals}
