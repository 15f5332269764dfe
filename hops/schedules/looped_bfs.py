"""Looped BFS (breadth-first): every rank holds vpp chunks; all microbatches pass one chunk before the next, like GPipe.

Backwards take the chunks in reverse and, as torch runs them, each chunk's microbatches in reverse too;
``backward_order=fifo`` takes them in their order. For uniform stages the makespan is the same.
"""

from hops.checks import one_of
from hops.schedules import Op, Program, schedule


@schedule(
    "looped_bfs",
    aliases=("LoopedBFS",),
    default_vpp=2,
    source="Lamy-Poirier 2023, Breadth-First Pipeline Parallelism (arXiv:2211.05953); torch.distributed.pipelining ScheduleLoopedBFS",
    makespan=lambda p, m, v, t: (v * m + p - 1) * (t.f + t.b) + 2 * (p - 1) * t.hop,
    exact_when=lambda p, m, v: p > 1 and m > p,
    in_flight=lambda p, m, v, rank: m * v,
    messages=lambda p, m, v: 2 * m * (p * v - 1) if p > 1 else 0,
)
def looped_bfs(pp: int, microbatches: int, vpp: int, *, backward_order: str = "lifo") -> Program:
    one_of("schedule.backward_order", backward_order, ("fifo", "lifo"))
    order = range(microbatches) if backward_order == "fifo" else range(microbatches)[::-1]
    ranks = []
    for rank in range(pp):
        stages = [chunk * pp + rank for chunk in range(vpp)]
        ops = [Op(stage, "F", k) for stage in stages for k in range(microbatches)]
        ranks.append(ops + [Op(stage, "B", k) for stage in reversed(stages) for k in order])
    return Program("looped_bfs", ranks, "loop")  # type: ignore[arg-type]
