"""Partitions: which layers each stage has, and which stages have the embedding and the head."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple

from hops.checks import Infeasible

MOST_SYMBOLS = 1 << 16  # of a layout string, written out
HALVINGS = 60  # of the bound on the slowest stage: down to the resolution of a float


class Slice(NamedTuple):
    """What one stage has of the model: layers ``first <= . < end`` and, where they are, embedding, MTP layers, head."""

    first: int
    end: int
    embedding: bool = False
    mtp: int = 0
    head: bool = False


def slices(counts: Sequence[int], mtp: int = 0) -> tuple[Slice, ...]:
    """Stages of so many layers each, embedding on the first, MTP layers and head on the last."""
    last = len(counts) - 1
    bounds = pairwise([0, *accumulate(counts)])
    return tuple(Slice(a, b, s == 0, mtp if s == last else 0, s == last) for s, (a, b) in enumerate(bounds))


def even(layers: int, n_stages: int) -> tuple[int, ...]:
    """Layers a stage: as even as possible, the last stage, which also has the head, never more than another."""
    if layers < n_stages:
        raise Infeasible(f"the model has {layers} layers, too few for {n_stages} stages (try pp={layers} or fewer)")
    left = [layers * (n_stages - s) // n_stages for s in range(n_stages + 1)]
    return tuple(a - b for a, b in pairwise(left))


def balanced(times: Sequence[float], first: float, last: float, n_stages: int) -> tuple[int, ...]:
    """Layers a stage such that the slowest stage is as fast as can be; of such partitions one with even counts.

    ``times`` of the layers, ``first`` and ``last`` of what the end stages have besides [s]. Every stage has a layer, only the
    last may have none. The bound on a stage is found by halving: whether a partition keeps it shows when stages
    are filled from the end, each as full as it may be.
    """
    n, end_stage = len(times), n_stages - 1
    sums, extra = [0.0, *accumulate(times)], [0.0] * n_stages
    extra[0] += first
    extra[end_stage] += last

    def starts(bound: float) -> list[int] | None:
        """First layer of every stage, as early as ``bound`` lets it be; None if it cannot be kept."""
        found = [n] * (n_stages + 1)
        for s in range(end_stage, -1, -1):
            end = found[s + 1]
            found[s] = max(s, bisect_left(sums, sums[end] + extra[s] - bound))
            if found[s] > end or (found[s] == end and s < end_stage) or (s == 0 and found[s] > 0):
                return None
        return found

    worst = [sum(times[a:b]) + more for (a, b), more in zip(pairwise([0, *accumulate(even(n, n_stages))]), extra, strict=True)]
    low, high = 0.0, max(worst) * (1 + 1e-12)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if starts(middle) else (middle, high)
    earliest = starts(high) or []
    cuts = [0]
    for s in range(end_stage):
        at, left = cuts[-1], end_stage - s  # stages after this one
        most = min(bisect_right(sums, sums[at] + high - extra[s]) - 1, n - left + bool(last))
        share = -(-(n - at) // (left + 1))
        cuts.append(max(min(at + share, most), earliest[s + 1], at + 1))
    return tuple(b - a for a, b in pairwise([*cuts, n]))


@lru_cache(maxsize=1024)
def parse(text: str) -> tuple[Slice, ...]:
    """Read Megatron's layout string (``--pipeline-model-parallel-layout``), such as ``Et*3|(tt|)*29,m|L``.

    E is the embedding, t a layer, m an MTP layer, L head and loss; ``|`` parts stages, in data-flow order; ``x*n`` and
    ``(...)*n`` repeat; commas mean nothing. ``ValueError`` for what cannot be meant.
    """
    stages = _written_out(text).split("|")
    found, at = [], 0
    for s, words in enumerate(stages):
        for symbol, place, where in (("E", 0, "first"), ("L", len(stages) - 1, "last")):
            if words.count(symbol) != (s == place):
                has = "has none" if s == place else f"has one on stage {s}"
                raise ValueError(f"model.layout={text!r} needs one {symbol}, on the {where} of its {len(stages)} stages; it {has}")
        if not words:
            raise ValueError(f"model.layout={text!r}: stage {s} of {len(stages)} is empty")
        if list(words) != sorted(words, key="EtmL".index):
            raise ValueError(f"model.layout={text!r}: stage {s} reads {words!r}; a stage has E, t, m, L in this order")
        found.append(Slice(at, at + words.count("t"), "E" in words, words.count("m"), "L" in words))
        at = found[-1].end
    mtp = next((s for s, each in enumerate(found) if each.mtp), len(found))
    late = [s for s, each in enumerate(found) if s > mtp and each.end > each.first]
    if late:
        raise ValueError(f"model.layout={text!r} has an m on stage {mtp} before the t of stage {late[0]}; m follows every t")
    return tuple(found)


def _written_out(text: str) -> str:
    """The string without brackets, repetitions and commas."""
    open_groups: list[list[str]] = [[]]
    at, plain = 0, "".join(text.replace(",", "").split())
    while at < len(plain):
        symbol = plain[at]
        at += 1
        if symbol == "(":
            open_groups.append([])
            continue
        if symbol == ")":
            if len(open_groups) == 1:
                raise ValueError(f"model.layout={text!r} closes a bracket that it never opened")
            symbol = "".join(open_groups.pop())
        elif symbol not in "EtmL|":
            raise ValueError(f"model.layout must be even, balanced, or a string of E, t, m, L, |, (, ), *; got {symbol!r} in {text!r}")
        if plain[at : at + 1] == "*":
            digits = plain[at + 1 :][: len(plain[at + 1 :]) - len(plain[at + 1 :].lstrip("0123456789"))]
            if not digits:
                raise ValueError(f"model.layout={text!r} has a * without a number after it")
            at += 1 + len(digits)
            if len(digits) > 6 or len(symbol) * int(digits) > MOST_SYMBOLS:
                raise ValueError(f"model.layout={text!r} repeats {symbol!r} {digits} times; at most {MOST_SYMBOLS} symbols are possible")
            symbol *= int(digits)
        open_groups[-1].append(symbol)
    if len(open_groups) > 1:
        raise ValueError(f"model.layout={text!r} opens {len(open_groups) - 1} more bracket(s) than it closes")
    return "".join(open_groups[0])


def check(parts: Sequence[Slice], text: str, n_stages: int, layers: int, mtp: int) -> None:
    """Refuse a layout string of other sizes than the scenario's."""
    n, m = parts[-1].end, sum(each.mtp for each in parts)
    if len(parts) != n_stages:
        raise Infeasible(f"model.layout={text!r} makes {len(parts)} stages; pp x vpp is {n_stages}")
    if n != layers:
        raise Infeasible(f"model.layout={text!r} places {n} layers; model.layers is {layers}")
    if m != mtp:
        raise Infeasible(f"model.layout={text!r} places {m} MTP layers; model.mtp_layers is {mtp}")


def written(parts: Sequence[Slice]) -> str:
    """A partition as a layout string: equal stages next to each other are written once."""

    def stage(each: Slice) -> str:
        n = each.end - each.first
        layers = f"t*{n}" if n > 2 else "t" * n
        return "E" * each.embedding + layers + "m" * each.mtp + "L" * each.head

    runs = [(words, len(list(run))) for words, run in groupby(map(stage, parts))]
    return "".join(f"({words}|)*{n}" if n > 2 else f"{words}|" * n for words, n in runs).removesuffix("|")
