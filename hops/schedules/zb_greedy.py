"""ZB greedy: a rank that is free runs a backward for input if its gradient is there, else a forward, else a weight pass.

The order is what comes of that with the times and hops that it plans on; then it stays. No search, and no look ahead: with equal times as
good as ZB-H2, and with a slow link that it knows of forwards run ahead by what the link takes, as far as `memory_limit`
lets them (null: twice 1F1B's memory).
"""

from heapq import heappop, heappush
from typing import Any

from hops.nominal import nominal
from hops.schedules import Op, Program, schedule


@schedule(
    "zb_greedy",
    source="PipeMorph, simulator (NSDI 2026): what gives its 67 makespans (tests/published/test_slow_link.py)",
    plans="line",
    unit_bubble=lambda p, m: 0,
    unit_when=lambda p, m: m >= 2 * p - 1,
    in_flight=lambda p, m, rank: min(2 * p, m),
    messages=lambda p, m: 2 * m * (p - 1),
)
def zb_greedy(
    pp: int,
    microbatches: int,
    *,
    forward: Any = None,
    backward_input: Any = None,
    backward_weight: Any = None,
    hop: Any = None,
    memory: Any = None,
    memory_limit: Any = None,
) -> Program:
    """See `hops.nominal.nominal` for the keywords."""
    plan = nominal("zb_greedy", range(pp), forward, backward_input, backward_weight, hop, memory, memory_limit, rounds=2)
    ranks: list[list[Op]] = [[] for _ in range(pp)]
    activations: list[list[int]] = [[0] * microbatches, *([] for _ in range(pp - 1))]  # when those of each microbatch are there
    gradients: list[list[int]] = [[] for _ in range(pp)]
    n_f, n_i, n_w, held = ([0] * pp for _ in range(4))
    busy_until = [0] * pp
    events = [(0, rank) for rank in range(pp)]  # when a rank becomes free, or gets something
    while events:
        now, rank = heappop(events)
        if now < busy_until[rank]:
            continue
        room, k = plan.limit[rank] - held[rank], n_i[rank]
        if k < len(gradients[rank]) and gradients[rank][k] <= now and plan.after_i[rank] <= room:
            kind, ends, change = "I", now + plan.backward_input[rank], plan.after_i[rank]
            n_i[rank] += 1
            if rank:
                gradients[rank - 1].append(ends + plan.hop[rank - 1])
                heappush(events, (gradients[rank - 1][-1], rank - 1))
        elif (
            (k := n_f[rank]) < len(activations[rank])
            and activations[rank][k] <= now
            and held[rank] + plan.after_f[rank] <= plan.limit_f[rank]
        ):
            kind, ends, change = "F", now + plan.forward[rank], plan.after_f[rank]
            n_f[rank] += 1
            if rank < pp - 1:
                activations[rank + 1].append(ends + plan.hop[rank])
                heappush(events, (activations[rank + 1][-1], rank + 1))
            else:
                gradients[rank].append(ends)
        elif (k := n_w[rank]) < n_i[rank]:
            kind, ends, change = "W", now + plan.backward_weight[rank], plan.after_w[rank]
            n_w[rank] += 1
        else:
            continue
        ranks[rank].append(Op(rank, kind, k))
        held[rank] += change
        busy_until[rank] = ends
        heappush(events, (ends, rank))
    return Program("zb_greedy", ranks)  # type: ignore[arg-type]
