"""V adaptive: the schedule of a V for the memory that there is, from V-Min's to ZB-V's.

A building block (`hops.building_block`) is few numbers here: by how many slots a rank starts forwards of its first chunk and backwards of
its second later than the rank before it (one slot a rank on the way back), and how many slots lie between the passes where the V
turns. The slower the way down, the longer activations live, and the less is idle at both ends. With one number up to some rank
and a larger one after it there are blocks of every peak. Those of the largest that the limit allows are built, then those of
less while they are no worse, and the order of least span with the times at hand is taken.

``memory_limit=null`` is 1F1B's memory: p microbatches, 2p chunks, of which more is not used (`zb_v_auto` does, where times differ). With
equal F, I and W on 8 ranks a rank idles:

    memory_limit   4  4.5    5  5.5    6  6.5    7  7.5    8    microbatches a rank
    peak           8    9   10   11   12   13   14   15   16    chunks
    bubble        23   21   17   15   11    9    5    3    0    passes of a chunk, by span; m >= 2p - 1

V-Min idles 27 with 4, V-Half 17 with 5, ZB-V 0 with 8. The authors expect 3p - 1 - 3M + max(3p, p + 1 + 2 floor((M + 1) / 2)) with M
chunks, below which no block that was tried comes; an odd M often costs one more. No block repeats every 6 slots with less than
V-Min's memory: less is refused. Blocks of one peak, alike where times are equal, differ where they are not (F, I, W = 10, 11, 7: by 0 to
10 more for each microbatch), so the search asks for times. The paper writes B for the backward for input (our I).
"""

from functools import lru_cache
from itertools import accumulate, product
from math import ceil, floor, log10
from typing import Any

from hops.building_block import PERIOD, split_orders
from hops.checks import Infeasible
from hops.nominal import Nominal, nominal
from hops.placements import PLACEMENTS
from hops.schedules import Op, Program, schedule

# slots that the way down takes from rank to rank, up to some rank and after it. Others of up to 5, descending ones too, gave no less
WAYS = ((1, 1), (2, 2), (3, 3), (5, 5), (1, 2), (1, 3), (1, 5), (2, 3), (2, 5), (3, 5))
TURNS = range(1, 4), range(1, 6), range(1, 4)  # slots from F0 to F1 on the last rank, from F1 to B1 on the first, from B1 to B0 on the last
SETTLED = 8  # microbatches more than 2p: that many are compared, more only repeat

Block = tuple[tuple[int, int, int, int], ...]  # slots of F0, F1, B1, B0 of microbatch 0, of every rank


@schedule(
    "v_adaptive",
    aliases=("V-Adaptive",),
    default_vpp=2,
    fixed_vpp=True,
    plans="wave",
    source="Qi et al. 2024, Pipeline Parallelism with Controllable Memory, adaptive search (arXiv:2405.15362); which blocks: ours",
    unit_bubble=lambda p, m, v: 0,
    unit_when=lambda p, m, v: m >= 2 * p - 1,
    messages=lambda p, m, v: 4 * m * (p - 1),
)
def v_adaptive(
    pp: int,
    microbatches: int,
    vpp: int,
    *,
    forward: Any = None,
    backward_input: Any = None,
    backward_weight: Any = None,
    hop: Any = None,
    memory: Any = None,
    memory_limit: Any = None,
) -> Program:
    """See `hops.nominal.nominal` for the keywords; a limit that no block keeps is `Infeasible`, with the least that one does."""
    ranks = [PLACEMENTS["wave"](pp, stage) for stage in range(vpp * pp)]
    plan = nominal("v_adaptive", ranks, forward, backward_input, backward_weight, hop, memory, memory_limit, refuses=False)
    room = min(limit // max(1, plan.after_f[rank], plan.after_f[-1 - rank]) for rank, limit in enumerate(plan.limit_f))  # chunks
    by_peak, compared = blocks(pp), min(microbatches, 2 * pp + SETTLED)
    least, found = min(by_peak), list[tuple[int, int, Block]]()
    for peak in sorted((each for each in by_peak if each <= max(room, least)), reverse=True):
        fitting = [block for block in by_peak[peak] if _fits(plan, _orders(block, compared))]
        level = [(_span(plan, _orders(block, compared), microbatches), peak, block) for block in fitting]
        if found and not (level and min(level) <= min(found)):
            break
        found += level
    for _, _, block in sorted(found):
        if _fits(plan, orders := _orders(block, microbatches)):
            return Program("v_adaptive", orders, "wave")  # type: ignore[arg-type]
    needed = min(max(_held(plan, _orders(block, microbatches))) for block in by_peak[least]) / plan.unit
    step = 10.0 ** (floor(log10(needed)) - 4)
    raise Infeasible(
        f"v_adaptive cannot work: memory_limit={min(plan.limit) / plan.unit:g} is less than any of its blocks takes on a rank "
        f"(try memory_limit={ceil(needed / step - 1e-6) * step:g})"
    )


@lru_cache(maxsize=64)
def blocks(pp: int) -> dict[int, list[Block]]:
    """Blocks that are tried, by their peak [chunk activations on the worst rank]."""
    alike: dict[tuple[int, tuple[int, int]], dict[Block, tuple[int, int]]] = {}
    for ways, turns in product(WAYS, product(*TURNS)):
        for switch in range(1, pp - 1) if ways[0] < ways[1] else (0,):
            block = _block([ways[0]] * switch + [ways[1]] * (pp - 1 - switch), *turns)
            if all(len({slot % PERIOD for slot in slots}) == len(slots) for slots in block):
                peak = max(_peak(*slots) for slots in block)
                alike.setdefault((peak, ways), {}).setdefault(block, (sum(turns), switch))
    found: dict[int, dict[Block, None]] = {}
    for (peak, _), made in alike.items():
        if peak > 2 * pp:  # nothing is left to gain with equal times
            continue
        # two of the shortest turns and one of the slowest way: with equal times the others give no less (p to 8, m to 4p + 5)
        short, slow = sorted(made, key=lambda block: made[block])[:2], min(made, key=lambda block: made[block][::-1])
        found.setdefault(peak, {}).update(dict.fromkeys([*short, slow]))
    return {peak: list(each) for peak, each in found.items()}


def _block(way: list[int], down: int, back: int, up: int) -> Block:
    """Slots of a block that takes so many down from rank to rank, and so many at each of the three turns, see `TURNS`."""
    at = list(accumulate(way, initial=0))
    f1 = at[-1] + down + len(way)
    b0 = f1 + back + at[-1] + up + len(way)
    return tuple((slot, f1 - rank, f1 + back + slot, b0 - rank) for rank, slot in enumerate(at))


def _peak(f0: int, f1: int, b1: int, b0: int) -> int:
    """Chunk activations that a rank holds at most: of both chunks what is between forward and backward, and weight passes that wait."""
    pending, waiting = 0, [0] * PERIOD
    for slot in range(3 * PERIOD):  # settles within two
        if slot % PERIOD in (b1 % PERIOD, b0 % PERIOD):
            pending += 1
        elif slot % PERIOD not in (f0 % PERIOD, f1 % PERIOD):
            pending = max(0, pending - 1)
        waiting[slot % PERIOD] = pending
    late = b0 - b0 % PERIOD + PERIOD
    moments = (late + f0 % PERIOD, late + f1 % PERIOD)  # after a forward, with the steady state reached
    return max(
        (now - f0) // PERIOD - (now - b0) // PERIOD + (now - f1) // PERIOD - (now - b1) // PERIOD + waiting[now % PERIOD] for now in moments
    )


@lru_cache(maxsize=64)  # a search with other times asks for the same 15 or so again; at p=16 and m=128 one takes 1.2 MB
def _orders(block: Block, microbatches: int) -> list[list[Op]]:
    return split_orders(block, microbatches)


def _fits(plan: Nominal, orders: list[list[Op]]) -> bool:
    return all(held <= limit for held, limit in zip(_held(plan, orders), plan.limit, strict=True))


def _held(plan: Nominal, orders: list[list[Op]]) -> list[int]:
    """What every rank holds at most."""
    change = {"F": plan.after_f, "I": plan.after_i, "W": plan.after_w}
    return [max(accumulate(change[kind][stage] for stage, kind, _ in ops)) for ops in orders]


def _span(plan: Nominal, orders: list[list[Op]], microbatches: int) -> int:
    """Span of the orders, were they of so many microbatches: one more takes as long as the last `SETTLED` that entered did."""
    pp, last = len(orders), 2 * len(orders) - 1
    hop = [0 if at == pp - 1 else each for at, each in enumerate(plan.hop)]  # no message at the turn
    cost = {"F": plan.forward, "I": plan.backward_input, "W": plan.backward_weight}
    done: dict[tuple[int, str, int], int] = {}
    now, begun, n_run = [0] * pp, [-1] * pp, [0] * pp
    runs = True
    while runs:  # through the ranks, each as far as it can
        runs = False
        for rank, ops in enumerate(orders):
            while n_run[rank] < len(ops):
                op = stage, kind, k = ops[n_run[rank]]
                before = stage - 1 if kind == "F" else stage + 1
                if kind == "W" or before == -1:
                    arrives: int | None = 0
                elif before > last:
                    arrives = done.get((stage, "F", k))
                else:
                    arrives = done.get((before, kind, k))
                if arrives is None:
                    break
                if kind != "W" and 0 <= before <= last:
                    arrives += hop[min(before, stage)]
                starts = max(now[rank], arrives)
                begun[rank] = starts if begun[rank] < 0 else begun[rank]
                now[rank] = done[op] = starts + cost[kind][stage]
                n_run[rank] += 1
                runs = True
    span = max(end - start for end, start in zip(now, begun, strict=True))
    built = len(orders[0]) // 6
    if built == microbatches:
        return span
    return span + (microbatches - built) * (done[0, "F", built - 1] - done[0, "F", built - 1 - SETTLED]) // SETTLED
