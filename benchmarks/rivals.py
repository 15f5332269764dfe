"""What a good engineer writes without HOPS: batched numpy, every buffer prepared beforehand."""

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
