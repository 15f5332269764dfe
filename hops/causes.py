"""The waterfall: from the time that a model's FLOPs need at the peak of all GPUs to the iteration, one cause after the other.

Causes come in one fixed order, and each is what it adds where all before it are there and none after it: the ticks add up.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import NamedTuple

from hops import kernels
from hops.executor import Executor, evaluate
from hops.ideals import NOISES, made_ideal
from hops.simulation import Case
from hops.weights import TICKS, Ints

# what is ideal below each step, from the bottom up: taken away one by one
CAUSES = {
    "recompute": "recompute",
    "tp": "exposed tp",
    "cp": "exposed cp",
    "ep": "exposed ep",
    "pp": "exposed pp",
    "host": "host",
    "dp": "exposed dp",
    "optimizer": "optimizer",
    "contention": "shared links",
    "disturbance": "disturbances",
}
STEPS = (
    "ideal FLOPs",
    "kernel efficiency",
    "recompute",
    "stage imbalance",
    "bubble",
    *list(CAUSES.values())[1:],
    "median noise",
    "p95 tail",
)


class Waterfall(NamedTuple):
    """Ticks of `STEPS`, in ``n_batches`` batches; the first is what a rank computes where the model says nothing of FLOPs."""

    steps: tuple[int, ...]
    n_batches: int
    has_flops: bool

    @property
    def names(self) -> tuple[str, ...]:
        return STEPS if self.has_flops else ("compute", *STEPS[1:])

    @property
    def seconds(self) -> tuple[float, ...]:
        return tuple(each / (TICKS * self.n_batches) for each in self.steps)

    @property
    def totals(self) -> tuple[float, ...]:
        """Seconds after each step."""
        return tuple(each / (TICKS * self.n_batches) for each in accumulate(self.steps))

    @property
    def mfu(self) -> tuple[float, ...]:
        """Model FLOPs utilization after each step; NaN where the model has no FLOPs."""
        return tuple(self.steps[0] / total if self.has_flops else float("nan") for total in accumulate(self.steps))


def waterfalls(cases: Sequence[Case], levels: Sequence[tuple[int, int]], executor: Executor) -> list[Waterfall]:
    """The waterfall of every case; ``levels`` are the median and the p95 of its iterations [ticks, of all batches]."""
    towers = [_tower(case) for case in cases]
    made = list({id(each): each for tower in towers for each in tower}.values())
    ticks = dict[int, Ints]()
    for outcome in evaluate(made, executor):
        ticks |= {id(made[cell]): outcome.ticks[:, i, 0] for i, cell in enumerate(outcome.cells)}
    return [
        _waterfall(tower, [ticks[id(each)] for each in tower], median, tail) for tower, (median, tail) in zip(towers, levels, strict=True)
    ]


def _tower(case: Case) -> list[Case]:
    """The case without noise: with all of `CAUSES` ideal, with all but the first, and so on to the case as it is."""
    calm = made_ideal(case, *NOISES, "lost messages")
    calm = calm._replace(scenario=replace(calm.scenario, draws=1, training=None))
    there = [name for name in CAUSES if made_ideal(calm, name) is not calm]
    made = [made_ideal(calm, *there[n:]) for n in range(len(there) + 1)]
    return [made[sum(name in there for name in list(CAUSES)[:n])] for n in range(len(CAUSES) + 1)]


def _waterfall(tower: Sequence[Case], ticks: Sequence[Ints], median: int, tail: int) -> Waterfall:
    case = tower[-1]
    end = kernels.STEP if case.scenario.barrier else kernels.OWN_STEP
    busy = [
        (2 * int(of[kernels.TOTAL_BUSY]) // (case.scenario.pp * each.n_lanes) + 1) // 2
        for each, of in zip(tower[:2], ticks[:2], strict=True)
    ]
    costs, ideal = case.weights.costs, busy[0]
    if costs.model_flops is not None:
        flops = case.scenario.microbatches * case.scenario.dp * sum(costs.model_flops) / costs.pipelines
        ideal = int(case.n_batches * flops / case.weights.peak_flops * TICKS + 0.5)
    totals = [0, ideal, *busy, int(ticks[1][kernels.MOST_BUSY]), *(int(each[end]) for each in ticks[1:]), median, tail]
    return Waterfall(tuple(after - before for before, after in pairwise(totals)), case.n_batches, costs.model_flops is not None)
