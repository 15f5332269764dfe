"""DualPipeV: DualPipe cut in half. Two chunks a rank in a V, and most forwards run as one unit with a backward of the other chunk.

DeepSeek writes B for the full backward, as we do. Weight passes that are put off are run oldest first. The last rank does not
fuse its first forward and backward, which need one another.
"""

from collections import deque

from hops.schedules import Constraint, Fused, Op, Program, Unit, schedule


class Writer:
    """One rank in the making: how many of each kind have been written, and the weight passes that were put off."""

    def __init__(self, stages: tuple[int, int], first: tuple[int, int] = (0, 0)) -> None:
        self.stages, self.forwards, self.backwards = stages, list(first), list(first)
        self.units, self.later = list[Unit](), deque[Op]()

    def take(self, kind: str, chunk: int) -> Op:
        counts = self.forwards if kind == "F" else self.backwards
        counts[chunk] += 1
        return Op(self.stages[chunk], kind, counts[chunk] - 1)

    def forward(self, chunk: int) -> None:
        self.units.append(self.take("F", chunk))

    def backward(self, chunk: int, split: bool = False) -> None:
        op = self.take("I" if split else "B", chunk)
        self.units.append(op)
        if split:
            self.later.append(op._replace(kind="W"))

    def both(self, forward: int, backward: int, fused: bool = True) -> None:
        pair = self.take("F", forward), self.take("B", backward)
        self.units.extend([Fused(*pair)] if fused else pair)

    def weight(self) -> None:
        self.units.append(self.later.popleft())


def write(writer: Writer, ahead: int, row: int, steady: int, last: bool) -> tuple[Unit, ...]:
    """The eight steps of DeepSeek's dualpipe.py for a rank that has ``ahead`` ranks before the turn and is in ``row``."""
    for _ in range(2 * ahead):
        writer.forward(0)
    for _ in range(row + 1):
        writer.forward(0)
        writer.forward(1)
    for _ in range(ahead):
        writer.backward(1, split=True)
        writer.weight()
        writer.forward(1)
    for i in range(steady):
        writer.both(0, 1, fused=not (last and i == 0))
        writer.both(1, 0)
    for _ in range(ahead):
        writer.backward(1)
        writer.both(1, 0)
    half = (row + 1) // 2
    for i in range(row + 1):
        writer.backward(1, split=i > half or (i == half and row % 2 == 1))
        writer.backward(0, split=i >= half)
    for _ in range(ahead):
        writer.weight()
        writer.backward(0, split=True)
    while writer.later:
        writer.weight()
    return tuple(writer.units)


@schedule(
    "dualpipe_v",
    aliases=("DualPipeV",),
    default_vpp=2,
    fixed_vpp=True,
    source="DeepSeek, DualPipe repository, dualpipev.py; bubble (PP/2-1)(F&B + B - 3W) of its README, PP = 2p stages [code]",
    constraints=(Constraint(lambda p, m, v: m >= 2 * p, "at least 2 pp microbatches"),),
    # ours, for F at least as long as I; for F = I, without hops, it is the README's
    makespan=lambda p, m, v, t: 2 * m * (t.f + t.b) + (p - 1) * (2 * t.f + t.i - t.w) + (2 * (p - 1) * m // p + 2 * (p - 2)) * t.hop,
    exact_when=lambda p, m, v: p > 1 and m % p == 0,
    in_flight=lambda p, m, v, rank: min(2 * p + 1, 2 * m),
    messages=lambda p, m, v: 4 * m * (p - 1),
)
def dualpipe_v(pp: int, microbatches: int, vpp: int) -> Program:
    ranks = []
    for rank in range(pp):
        writer = Writer((rank, 2 * pp - 1 - rank))
        ranks.append(write(writer, pp - rank - 1, rank, microbatches - 2 * pp + rank + 1, rank == pp - 1))
    return Program("dualpipe_v", tuple(ranks), "wave")
