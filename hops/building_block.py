"""Schedules of a V that repeat a building block: the passes of one microbatch, laid into slots, and every 6 slots those of the next.

Rank d has two chunks, stages d and 2p-1-d, which are 6 slots of work a microbatch. If a block's passes fall on different slots
modulo 6, the blocks fit into each other and the steady state is full; what a rank then holds is how long its activations live,
over 6. At either end of the iteration there are gaps, into which passes move up as far as the peak does not rise.

Source: Qi et al. 2024, Pipeline Parallelism with Controllable Memory (arXiv:2405.15362). All slots are of one
length, so that the order does not depend on times.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest

from hops.programs import Op

PERIOD = 6  # slots from a block to the next
F0, F1, B1, B0, W = range(5)  # what a rank does with a microbatch, in this order (split backward: B is our I); chunk 0 is stage d

Pass = tuple[int, int]  # one of these, and the microbatch; of a weight pass its number
Row = list[Pass | None]  # the slots of a rank
Block = Sequence[tuple[int, int, int, int]]  # slots of F0, F1, B1, B0 of microbatch 0, of every rank


def split_orders(block: Block, microbatches: int) -> list[list[Op]]:
    """Ops of every rank where weight passes take the slots that the blocks leave.

    Both ends are compacted, then the end of the iteration again without weight passes, which come back last: those of the chunk
    whose backward is first before the other's.
    """
    rows = [_with_weights(row) for row in _rows(block, microbatches)]
    rows = [_without_weights(row) for row in _eager(_compact(rows, microbatches))]
    rows = [_with_weights(row) for row in _compact(rows, microbatches, start=False, fills=True)]
    return [_split_ops(rank, len(rows), _without_weights(row)) for rank, row in enumerate(_eager(rows))]


def full_orders(block: Block, microbatches: int) -> list[list[Op]]:
    """Ops of every rank where a backward is whole and takes two slots. Both ends are compacted, and what is between as far as it can."""
    rows = _rows(block, microbatches)
    for row in rows:
        row.append(None)
        for slot, each in enumerate(row):
            if each is not None and each[0] in (B1, B0):
                row[slot + 1] = (W, each[1])  # its second half
    rows = [_without_weights(row) for row in _compact(rows, microbatches, middle=True, backward=2)]
    return [[_op(rank, len(rows), each, "FFBB") for each in row if each is not None] for rank, row in enumerate(rows)]


def repeated(orders: Callable[[Block, int], list[list[Op]]], block: Block, microbatches: int, steady: int) -> list[list[Op]]:
    """Return ``orders(block, microbatches)``, but build only the ends of it, and repeat what it does with microbatch ``steady``.

    Takes 20 ms instead of 60 for V-Half at 16 ranks and 128 microbatches.
    """
    ends = min(microbatches, steady + len(block) // 2 + 2)  # enough for all of the three, found by trying
    ranks, more = orders(block, ends), microbatches - ends
    if more:
        for rank, ops in enumerate(ranks):
            first, after = (ops.index(Op(rank, "F", k)) for k in (steady, steady + 1))
            again = [Op(stage, kind, k + i) for i in range(more) for stage, kind, k in ops[first:after]]
            ranks[rank] = ops[:first] + again + [Op(stage, kind, k + more) for stage, kind, k in ops[first:]]
    return ranks


def _rows(block: Block, microbatches: int) -> list[Row]:
    rows = []
    for offsets in block:
        row: Row = [None] * (max(offsets) + PERIOD * (microbatches - 1) + 1)
        for k in range(microbatches):
            for what, offset in enumerate(offsets):
                row[offset + PERIOD * k] = (what, k)
        rows.append(row)
    return rows


def _with_weights(row: Row) -> Row:
    """Every free slot takes a weight pass if one is pending; what is left comes after the last slot."""
    filled, n_backward, n_w = Row(), 0, 0
    for each in row:
        if each is not None:
            n_backward += each[0] in (B1, B0)
        elif n_w < n_backward:
            each = (W, n_w)
            n_w += 1
        filled.append(each)
    return filled + [(W, number) for number in range(n_w, n_backward)]


def _without_weights(row: Row) -> Row:
    return [None if each is not None and each[0] == W else each for each in row]


class _Slots:
    """Slots of a rank, and what it holds after each: chunk activations, and weight passes that are pending.

    ``fills``: weight passes are not among them, and a free slot is as good as one.
    """

    def __init__(self, row: Row, fills: bool) -> None:
        self.row, self.fills = row, fills
        self.after: list[tuple[int, int]] = []
        self.after = self._run(0, len(row))

    def advance(self, now: int, length: int, least: int, peak: int) -> int:
        """Move what stands at ``now`` to the first slot from ``least`` on where that holds at most ``peak``; return the slot."""
        moved = self.row[now : now + length]
        free: Row = [None] * length
        self.row[now : now + length] = free
        for slot in range(least, now):
            if self.row[slot : slot + length] == free:
                self.row[slot : slot + length] = moved
                after = self._run(slot, now + length)
                if max(held for held, _ in after) <= peak:
                    self.after[slot : slot + len(after)] = after
                    return slot
                self.row[slot : slot + length] = free
        self.row[now : now + length] = moved
        return now

    def _run(self, first: int, changed: int) -> list[tuple[int, int]]:
        """`after` from slot ``first`` on, until it is as it was; slots from ``changed`` on are the same."""
        held, pending = self.after[first - 1] if first else (0, 0)
        found: list[tuple[int, int]] = []
        for slot in range(first, len(self.row)):
            each = self.row[slot]
            if each is None:
                if pending:
                    held, pending = held - 1, pending - 1
            elif each[0] in (F0, F1):
                held += 1
            elif each[0] == W:
                held -= 1
            elif self.fills:
                pending += 1
            if slot >= changed and self.after[slot] == (held, pending):
                break
            found.append((held, pending))
        return found


def _compact(
    rows: list[Row], microbatches: int, *, start: bool = True, middle: bool = False, fills: bool = False, backward: int = 1
) -> list[Row]:
    """Move passes, in the order of their slots, to the first that is free, later than all they follow, and does not raise the peak.

    ``start``: also those before the first backward of stage 0; ``middle``: and those from there until the last microbatch
    enters. ``backward``: slots of a backward; the second is marked W, and moves with the first.
    """
    ranks = [_Slots(row, fills) for row in rows]
    peak = max(held for rank in ranks for held, _ in rank.after)
    at = {(here, each): slot for slot, here, each in _in_order(rows)}
    backwards = [[slot for slot, each in enumerate(row) if each is not None and each[0] in (B1, B0)] for row in rows]
    length = (1, 1, backward, backward, 1)
    started = not start
    ended = middle
    for slot, here, each in list(_in_order(rows)):
        what, k = each
        started |= (here, what) == (0, B0)
        if (ended or not started) and (what != W or backward == 1):
            before = _before(len(rows), here, each)
            least = max((at[other] + length[other[1][0]] for other in before), default=0)
            if what == W:
                least = max(least, backwards[here][k] + 1)
            to = ranks[here].advance(slot, length[what], least, peak)
            at[here, each] = to
            if what in (B1, B0):
                backwards[here].remove(slot)
                insort(backwards[here], to)
        ended |= each == (F0, microbatches - 1)
    return [rank.row for rank in ranks]


def _eager(rows: list[Row]) -> list[Row]:
    """Every pass in the first slot where all that it follows is done, in the order of each rank."""
    made: list[Row] = [[] for _ in rows]
    done: dict[tuple[int, int, int], int] = {}  # (rank, what, microbatch)
    for _, here, (what, k) in _in_order(rows):
        row = made[here]
        if what != W:
            there = here - 1 if what in (F0, B1) else here + 1
            slot = max(len(row), done.get((there, what, k), 0), done.get((here, what - 1, k), 0))
            row += [None] * (slot - len(row))
            done[here, what, k] = slot + 1
        row.append((what, k))
    return made


def _in_order(rows: list[Row]) -> Iterator[tuple[int, int, Pass]]:
    """Slot, rank and pass of all that stands in a slot, by slot and rank."""
    for slot, column in enumerate(zip_longest(*rows)):
        for here, each in enumerate(column):
            if each is not None:
                yield slot, here, each


def _before(pp: int, here: int, each: Pass) -> list[tuple[int, Pass]]:
    """Rank and pass of what ``each`` follows: the microbatch before, the other chunk, the rank that hands it on."""
    what, k = each
    found = [(here, (what, k - 1))] if k else []
    if what != W:
        there = here - 1 if what in (F0, B1) else here + 1
        if 0 <= there < pp:
            found.append((there, each))
        if what:
            found.append((here, (what - 1, k)))
    return found


def _op(rank: int, pp: int, each: Pass, kinds: str) -> Op:
    what, k = each
    return Op(rank if what in (F0, B0) else 2 * pp - 1 - rank, kinds[what], k)


def _split_ops(rank: int, pp: int, row: Row) -> list[Op]:
    """Ops of a row without weight passes: its free slots take them, those of B1 first."""
    ops = []
    pending: tuple[deque[Op], deque[Op]] = deque(), deque()
    n_after = len(row)  # more than are left then
    for each in row + [None] * n_after:
        if each is not None:
            op = _op(rank, pp, each, "FFII")
            ops.append(op)
            if each[0] in (B1, B0):
                pending[each[0] - B1].append(Op(op.stage, "W", op.microbatch))
        elif queue := pending[0] or pending[1]:
            ops.append(queue.popleft())
    return ops
