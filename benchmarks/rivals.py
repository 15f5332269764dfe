"""What a good engineer writes without HOPS: batched numpy, every buffer prepared beforehand; and a simulation in SimPy."""

from collections.abc import Iterator

import numpy as np

from hops.programs import Program


class BatchedNumpy:
    """Longest path over all draws of a batch at once, one vector operation an edge; float64 seconds.

    The same work as the kernel's: log-normal op noise, makespan, span and busy time. Noise comes from
    ``Generator(PCG64).lognormal``.
    """

    def __init__(self, program: Program, seconds: float, hop: float, cv: float, n_draws: int) -> None:
        self.sigma = float(np.sqrt(np.log1p(cv * cv)))
        self.n_ranks, self.n_draws = program.pp, n_draws
        self.rng = np.random.Generator(np.random.PCG64(1))
        self.hop = hop
        self.finish = np.empty((program.n_ops, n_draws))
        self.start, self.arrival = np.empty(n_draws), np.empty(n_draws)
        self.first, self.busy = np.empty((program.pp, n_draws)), np.empty((program.pp, n_draws))
        self.makespan, self.span = np.empty(n_draws), np.empty(n_draws)
        number: dict[tuple[int, str, int], int] = {}
        last: dict[int, int] = {}
        self.steps = []  # (op, rank, base seconds, op before on the rank or -1, producer on another rank or -1)
        for i, (rank, op) in enumerate(program.order):
            source = (op.stage - 1, "F", op.microbatch) if op.kind == "F" else (op.stage + 1, "B", op.microbatch)
            base = seconds * {"F": 1, "B": 2}[op.kind]
            self.steps.append((i, rank, base, last.get(rank, -1), number.get(source, -1)))
            number[op], last[rank] = i, i
        self.last = last

    def run(self) -> None:
        """Evaluate one batch; results in ``makespan``, ``span`` (n,) and ``busy`` (ranks, n)."""
        finish, start, arrival, busy, first = self.finish, self.start, self.arrival, self.busy, self.first
        busy[:] = 0
        for i, rank, base, before, producer in self.steps:
            duration = self.rng.lognormal(-0.5 * self.sigma**2, self.sigma, self.n_draws)
            duration *= base
            if producer >= 0 and before >= 0:
                np.add(finish[producer], self.hop, out=arrival)
                np.maximum(finish[before], arrival, out=start)
            elif producer >= 0:
                np.add(finish[producer], self.hop, out=start)
            elif before >= 0:
                start[:] = finish[before]
            else:
                start[:] = 0
            if before < 0:
                first[rank] = start
            np.add(start, duration, out=finish[i])
            busy[rank] += duration
        self.makespan[:] = self.span[:] = 0
        for rank, i in self.last.items():
            np.maximum(self.makespan, finish[i], out=self.makespan)
            np.subtract(finish[i], first[rank], out=start)
            np.maximum(self.span, start, out=self.span)


class SimPyIteration:
    """One iteration as a process a rank and a message, in SimPy; channels are resources. int ticks, no noise, no replicas.

    ``slow``: a rank that computes at 1 / ``times`` of its speed.
    """

    def __init__(self, program: Program, seconds: float, transfer: float, hop: float, slow: int = -1, times: int = 1) -> None:
        self.program, self.slow, self.times = program, slow, times
        self.base, self.transfer, self.hop = (int(each * 1e9 + 0.5) for each in (seconds, transfer, hop))

    def run(self, begun: int = 0, until: int | None = None) -> int | None:
        """When an iteration that begins at a tick ends [ticks]; None: not by tick ``until``."""
        import simpy

        env = simpy.Environment(begun)
        arrived = {(op.stage, op.kind == "F", op.microbatch): env.event() for ops in self.program.ops for op in ops}
        channels: dict[tuple[int, int], simpy.Resource] = {}

        def rank(here: int) -> Iterator[simpy.Event]:
            for op in self.program.ops[here]:
                forward = op.kind == "F"
                source, goal = (op.stage - 1, op.stage + 1) if forward else (op.stage + 1, op.stage - 1)
                if 0 <= source < self.program.n_stages:
                    yield arrived[source, forward, op.microbatch]
                yield env.timeout(self.base * (1 if forward else 2) * (self.times if here == self.slow else 1))
                if 0 <= goal < self.program.n_stages:
                    channel = channels.setdefault((here, self.program.rank_of(goal, op.microbatch)), simpy.Resource(env))
                    env.process(message(channel, arrived[op.stage, forward, op.microbatch]))

        def message(channel: simpy.Resource, there: simpy.Event) -> Iterator[simpy.Event]:
            with channel.request() as turn:
                yield turn
                yield env.timeout(self.transfer)
            yield env.timeout(self.hop)
            there.succeed()

        processes = [env.process(rank(here)) for here in range(self.program.pp)]
        done = simpy.AllOf(env, processes)
        if until is None:
            env.run(done)
            return env.now
        env.run(simpy.AnyOf(env, [done, env.timeout(until - begun)]))
        return env.now if done.processed else None


class SimPyRun:
    """A training run of ``n`` iterations, each in SimPy, with checkpoints after every so many, through failures at these ticks."""

    def __init__(self, iteration: SimPyIteration, n: int, every: int, cost: float, failures: list[int], down: float) -> None:
        self.iteration, self.n, self.every, self.failures = iteration, n, every, failures
        self.cost, self.down = (int(each * 1e9 + 0.5) for each in (cost, down))

    def run(self) -> int:
        """Wall time [ticks]; no failure comes while a checkpoint is written, or the job is down."""
        now, done, saved, left = 0, 0, 0, list(self.failures)
        while done < self.n:
            ended = self.iteration.run(now, left[0] if left else None)
            if ended is None:
                now, done = left.pop(0) + self.down, saved
                continue
            now, done = ended, done + 1
            if done % self.every == 0 or done == self.n:
                now, saved = now + self.cost, done
        return now
