"""ZB-V: zero bubble on a V within 1F1B's memory, torch's static order. With equal F, I and W nothing but the start is idle.

Not to be confused with the authors' own, which searches an order for the times at hand: with F, I, W = 10, 11, 7 on 4 ranks its bubble is
17 by span, this one's 24. The paper writes B for the backward for
input (our I), and counts the bubble by span. The order is that of 2p-1 microbatches at least; with fewer the others are left out.
"""

from hops.schedules import Op, Program, Times, schedule


def _span(p: int, m: int, v: int, t: Times) -> int:
    return 2 * m * (t.f + t.b) + 2 * (p - 1) * (t.i - t.w) + max(0, (2 * p - 3) * (t.f - t.i)) + (4 * p - 6) * t.hop


def _makespan(p: int, m: int, v: int, t: Times) -> int:
    started = 2 * m * (t.f + t.b) + (p - 1) * t.i + max(0, (2 * p - 3) * (t.f - t.i)) + (3 * p - 5) * t.hop
    return max(_span(p, m, v, t), started)


@schedule(
    "zb_v",
    aliases=("ZBVZeroBubble",),
    default_vpp=2,
    fixed_vpp=True,
    source="torch.distributed.pipelining ScheduleZBVZeroBubble; after Qi et al. 2024 (arXiv:2405.15362)",
    makespan=_makespan,  # W takes no longer than F and I, and F no longer than 2 I - W and I + W: closed forms of ours
    span=_span,
    exact_when=lambda p, m, v: p > 1 and m >= 2 * p - 1,
    unit_bubble=lambda p, m, v: 0,
    unit_when=lambda p, m, v: m >= 2 * p - 1,
    in_flight=lambda p, m, v, rank: min(2 * m, 2 * p, m + rank + 1),
    messages=lambda p, m, v: 4 * m * (p - 1),
)
def zb_v(pp: int, microbatches: int, vpp: int) -> Program:
    total = max(2 * pp - 1, microbatches)
    ranks = []
    for rank in range(pp):
        stages = rank, 2 * pp - 1 - rank
        n = dict.fromkeys(("F0", "F1", "I0", "I1", "W0", "W1"), 0)
        ops: list[Op] = []

        def run(*passes: str, ops: list[Op] = ops, n: dict[str, int] = n, stages: tuple[int, int] = stages) -> None:
            for each in passes:  # kind and chunk
                ops.append(Op(stages[int(each[1])], each[0], n[each]))
                n[each] += 1

        run(*["F0"] * (2 * (pp - rank) - 1))
        run(*["F1", "F0"] * rank)
        run(*["F1", "I1", "W1"] * (pp - rank))
        while n["F1"] < n["F0"] or n["F0"] < total:
            if n["F0"] < total:
                run("F0")
            run("I0", "W0", "F1", "I1", "W1")
        run(*["I0", "I1"] * rank)
        run(*["I0", "W0"] * (pp - rank))
        run(*["W1"] * (total - n["W1"]))
        run(*["W0"] * (total - n["W0"]))
        ranks.append([op for op in ops if op.microbatch < microbatches])
    return Program("zb_v", ranks, "wave")  # type: ignore[arg-type]
