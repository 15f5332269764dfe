"""GPipe: every forward, then every backward, microbatches in the same (FIFO) order both times.

Not to be confused with the figure of the paper, whose backwards run in reverse (LIFO); torch runs them FIFO as here.
For uniform stages the makespan is the same.
"""

from hops.schedules import Op, Program, schedule


@schedule(
    "gpipe",
    aliases=("GPipe",),
    source="Huang et al. 2019, GPipe, fig. 2 (arXiv:1811.06965); backward order of torch.distributed.pipelining ScheduleGPipe",
    makespan=lambda p, m, t: (m + p - 1) * (t.f + t.b) + 2 * (p - 1) * t.hop,
    exact_when=lambda p, m: True,
    in_flight=lambda p, m, rank: m,
    messages=lambda p, m: 2 * m * (p - 1),
)
def gpipe(pp: int, microbatches: int) -> Program:
    ranks = [[Op(rank, kind, k) for kind in "FB" for k in range(microbatches)] for rank in range(pp)]
    return Program("gpipe", ranks)  # type: ignore[arg-type]
