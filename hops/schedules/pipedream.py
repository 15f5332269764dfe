"""PipeDream: 1F1B that never flushes, so it has no bubble; weights are updated after every microbatch.

Rank r keeps the weights that each microbatch under way has seen in its forward, p-r versions, as its backward needs the same
ones. The program fills the pipeline with whole batches, runs ``batches`` more, which are measured, and drains; in between it does
not know where a batch ends. With one, a draw is a batch, as of other schedules; of several it is their mean, which varies less.
Where p does not divide m, batches differ in time if transfers take any.
"""

from hops.checks import count
from hops.schedules import Program, Steady, Times, schedule
from hops.schedules.one_f_one_b import one_f_one_b


def steady(pp: int, microbatches: int, batches: int = 1) -> Steady:
    """Whole batches, p microbatches or more, fill the pipeline; p-1 microbatches are under way when those measured end."""
    before, batches = -(-pp // microbatches), count("schedule.batches", batches)
    return Steady(before, batches, (before + batches) * microbatches + pp - 1)


def period(p: int, m: int, t: Times) -> int:
    """Each round of p microbatches waits for two transfers over every link, as in 1F1B [run]."""
    return m * (t.f + t.b) + 2 * (p - 1) * (m // p) * t.hop


@schedule(
    "pipedream",
    aliases=("PipeDream",),
    source="Narayanan et al. 2019, PipeDream (arXiv:1806.03377) [from memory]",
    steady=steady,
    updates_each=True,
    weight_versions=lambda p, m, rank: p - rank,
    period=period,
    exact_when=lambda p, m: m % p == 0,
    in_flight=lambda p, m, rank: p - rank,
    messages=lambda p, m: 2 * steady(p, m).microbatches * (p - 1),
)
def pipedream(pp: int, microbatches: int, *, batches: int = 1) -> Program:
    return Program("pipedream", one_f_one_b(pp, steady(pp, microbatches, batches).microbatches).ranks)
