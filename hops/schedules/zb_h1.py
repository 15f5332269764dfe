"""ZB-H1: 1F1B with the backward split, the weight passes put where 1F1B idles, within 1F1B's memory. Short name: zb.

The paper writes B for the backward for input (our I). Rank r keeps r weight passes in arrears.
"""

from hops.schedules import Op, Program, Times, schedule


def span(p: int, m: int, t: Times) -> int:
    return m * (t.f + t.b) + (p - 1) * (t.f + t.i - t.w) + 4 * (p - 1) * t.hop


@schedule(
    "zb_h1",
    aliases=("zb",),
    source="Qi et al. 2023, Zero Bubble Pipeline Parallelism, fig. 3 top (arXiv:2401.10241)",
    makespan=span,
    span=span,
    exact_when=lambda p, m: m >= 2 * p,
    in_flight=lambda p, m, rank: min(p, m),
    messages=lambda p, m: 2 * m * (p - 1),
)
def zb_h1(pp: int, microbatches: int) -> Program:
    ranks = []
    for rank in range(pp):
        warmup = min(pp - 1 - rank, microbatches)
        ops = [Op(rank, "F", k) for k in range(warmup)]
        n_w = 0
        for k in range(microbatches):
            if warmup + k < microbatches:
                ops += [Op(rank, "F", warmup + k), Op(rank, "I", k)]
                behind = k + 1 - n_w > rank
            else:
                ops.append(Op(rank, "I", k))
                behind = True
            if behind:
                ops.append(Op(rank, "W", n_w))
                n_w += 1
        ops += [Op(rank, "W", k) for k in range(n_w, microbatches)]
        ranks.append(ops)
    return Program("zb_h1", ranks)  # type: ignore[arg-type]
