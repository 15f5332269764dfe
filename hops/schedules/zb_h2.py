"""ZB-H2: a longer warmup (up to 2p-1 forwards) and later weight passes: no bubble by span, twice 1F1B's activations.

The paper writes B for the backward for input (our I), and counts the bubble by span: ranks start one after the other
and each goes on to the next iteration without waiting. By makespan the start-up (p-1) TF stays. Needs m >= 2p-1
to be useful; it runs with fewer.
"""

from hops.schedules import Op, Program, Times, schedule


def _span(p: int, m: int, t: Times) -> int:
    return m * (t.f + t.b) + (p - 1) * (t.f + t.i - 2 * t.w) + 2 * (p - 1) * t.hop


@schedule(
    "zb_h2",
    source="Qi et al. 2023, Zero Bubble Pipeline Parallelism, fig. 3 bottom (arXiv:2401.10241)",
    makespan=lambda p, m, t: max(_span(p, m, t), m * (t.f + t.b) + (p - 1) * (t.f + t.hop)),
    span=_span,
    exact_when=lambda p, m: m >= 2 * p,
    in_flight=lambda p, m, rank: min(2 * p - 1, m),
    messages=lambda p, m: 2 * m * (p - 1),
)
def zb_h2(pp: int, microbatches: int) -> Program:
    ranks = []
    for rank in range(pp):
        n_f = min(2 * (pp - rank) - 1, microbatches)
        ops = [Op(rank, "F", k) for k in range(n_f)]
        n_i = n_w = 0
        while n_i < microbatches:
            ops.append(Op(rank, "I", n_i))
            n_i += 1
            if n_f < microbatches:
                if n_i - n_w > 2 * rank:
                    ops.append(Op(rank, "W", n_w))
                    n_w += 1
                ops.append(Op(rank, "F", n_f))
                n_f += 1
            elif n_i < microbatches and n_w < n_i:
                ops.append(Op(rank, "W", n_w))
                n_w += 1
        ops += [Op(rank, "W", k) for k in range(n_w, microbatches)]
        ranks.append(ops)
    return Program("zb_h2", ranks)  # type: ignore[arg-type]
