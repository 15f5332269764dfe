"""PipeDream-2BW: 1F1B that never flushes, with gradients of a whole batch together; two versions of the weights suffice.

The order is PipeDream's. A batch has at least p microbatches, so that those of two batches at most are under way: each uses
the newest weights that were there when its batch began, W(t+1) = W(t) - lr grad f(W(t-1)).
"""

from hops.schedules import Constraint, Program, schedule
from hops.schedules.pipedream import period, pipedream, steady


@schedule(
    "pipedream_2bw",
    aliases=("PipeDream-2BW",),
    source="Narayanan et al. 2021, Memory-Efficient Pipeline-Parallel DNN Training (arXiv:2006.09503)",
    constraints=(
        Constraint(lambda p, m, batches=1: m >= p, "at least pp microbatches in a batch, or two versions of the weights do not suffice"),
    ),
    steady=steady,
    weight_versions=lambda p, m, rank: 2,
    period=period,
    exact_when=lambda p, m: m % p == 0,
    in_flight=lambda p, m, rank: p - rank,
    messages=lambda p, m: 2 * steady(p, m).microbatches * (p - 1),
)
def pipedream_2bw(pp: int, microbatches: int, *, batches: int = 1) -> Program:
    return Program("pipedream_2bw", pipedream(pp, microbatches, batches=batches).ranks)
