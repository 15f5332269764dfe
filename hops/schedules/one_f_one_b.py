"""1F1B: a warmup of forwards, then one forward and one backward in turn, then the remaining backwards.

Also called PipeDream-flush and DAPPLE. Rank r warms up with p-1-r forwards, so that it never holds more than p-r
activations. Transfers are not hidden in the steady state: each of its m/p rounds pays 2(p-1) hops.
"""

from hops.schedules import Op, Program, alternate, schedule


@schedule(
    "1f1b",
    aliases=("1F1B",),
    source="Narayanan et al. 2021, Megatron-LM, fig. 4 top (arXiv:2104.04473); Fan et al. 2021, DAPPLE (arXiv:2007.01045)",
    makespan=lambda p, m, t: (m + p - 1) * (t.f + t.b) + (2 * (p - 1) * (m // p) + 2 * (p - 1) - 2) * t.hop,
    exact_when=lambda p, m: p > 1 and m % p == 0,
    in_flight=lambda p, m, rank: min(p - rank, m),
    messages=lambda p, m: 2 * m * (p - 1),
)
def one_f_one_b(pp: int, microbatches: int) -> Program:
    ranks = []
    for rank in range(pp):
        forward, backward = ([Op(rank, kind, k) for k in range(microbatches)] for kind in "FB")
        ranks.append(alternate(forward, backward, warmup=pp - 1 - rank))
    return Program("1f1b", ranks)  # type: ignore[arg-type]
