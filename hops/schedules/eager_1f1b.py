"""Eager 1F1B: 1F1B with up to twice the warmup, so that a transfer has a whole step to arrive in.

Rank r warms up with 2(p-1-r) forwards. The steady state then hides its transfers, at the price of up to 2p-1 activations
where 1F1B holds p.
"""

from hops.schedules import Op, Program, alternate, schedule


@schedule(
    "eager_1f1b",
    source="Zhuang et al. 2023, On Optimizing the Communication of Model Parallelism, section 4 (arXiv:2211.05322)",
    makespan=lambda p, m, t: (m + p - 1) * (t.f + t.b) + 2 * (p - 1) * t.hop,
    exact_when=lambda p, m: True,
    in_flight=lambda p, m, rank: min(2 * (p - rank) - 1, m),
    messages=lambda p, m: 2 * m * (p - 1),
)
def eager_1f1b(pp: int, microbatches: int) -> Program:
    ranks = []
    for rank in range(pp):
        forward, backward = ([Op(rank, kind, k) for k in range(microbatches)] for kind in "FB")
        ranks.append(alternate(forward, backward, warmup=2 * (pp - 1 - rank)))
    return Program("eager_1f1b", ranks)  # type: ignore[arg-type]
