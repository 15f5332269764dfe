"""GPipe: every forward, then every backward, microbatches in the same order both times, as torch runs them.

The figure of the paper has the backwards in reverse: ``backward_order=lifo``. For uniform stages the makespan is the same.
"""

from hops.checks import one_of
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
def gpipe(pp: int, microbatches: int, *, backward_order: str = "fifo") -> Program:
    one_of("schedule.backward_order", backward_order, ("fifo", "lifo"))
    order = range(microbatches) if backward_order == "fifo" else range(microbatches)[::-1]
    ranks = [[Op(rank, "F", k) for k in range(microbatches)] + [Op(rank, "B", k) for k in order] for rank in range(pp)]
    return Program("gpipe", ranks)  # type: ignore[arg-type]
