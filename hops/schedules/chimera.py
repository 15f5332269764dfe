"""Chimera: pipelines over the same ranks in opposite directions, each 1F1B with its share of the microbatches.

Of two pipelines the first half of the microbatches enters at rank 0, the second half at the last rank; so a rank holds two stages,
``rank`` and ``pp - 1 - rank``, and every stage has its weights twice. Where a backward takes as long as a forward, the two fill each
other's gaps and leave pp - 2 slots. Of ``pipelines=2f`` f go down the ranks, each beginning pp / f of them further on, and f go up the
same ranks: pp / f - 2 slots are left, and weights are held 2f times.

More microbatches than ranks are units, one after the other. ``scaling=concatenate``, which the paper calls direct concatenation, fills
the end of a unit of pp microbatches with the beginning of the next, and leaves gaps where backwards take longer. Where they take twice as
long, ``forward_doubling`` leaves none: a forward is of two microbatches, a backward of one. It holds more activations, for which the
paper recomputes them (``model.recompute=full``, with which backwards take longer). ``backward_halving`` is the same order, with forwards
of a whole microbatch and backwards of half of it; it counts halves as microbatches. That a GPU is less efficient with half a microbatch,
and more with two, is not in the model.
"""

from hops.checks import count, one_of
from hops.placements import BIDIRECTIONAL, seat_rank
from hops.schedules import Constraint, Doubled, Op, Program, Times, Unit, schedule

SCALINGS = ("concatenate", "forward_doubling", "backward_halving")


def parts(scaling: str = "concatenate", pipelines: int = 2) -> int:
    return 1 + (one_of("schedule.scaling", scaling, SCALINGS) == "backward_halving")


def of_a_forward(scaling: str) -> int:
    """Microbatches, as the program counts them."""
    return 1 + (one_of("schedule.scaling", scaling, SCALINGS) != "concatenate")


def even(pipelines: int) -> int:
    n = count("schedule.pipelines", pipelines, least=2)
    if n % 2:
        raise ValueError(f"schedule.pipelines must be even, as half of them go either way; got {pipelines}")
    return n


def makespan(p: int, m: int, t: Times, scaling: str = "concatenate", pipelines: int = 2) -> int:
    """For B at least as long as F, or as the unit that F is part of; where they are equal, and hops take no time, the paper's slots."""
    more, halves, apart = of_a_forward(scaling), parts(scaling), 2 * p // even(pipelines)
    units = m * halves // (more * p)
    forwards = p + (units - 1) * (p - apart + 2)
    n_hops = units * ((1 + more) * p - 3 - more) + apart - 1
    return (forwards * more * t.f + units * (more * p + apart - 2) * t.b) // halves + n_hops * t.hop


def in_flight(p: int, m: int, rank: int, scaling: str = "concatenate", pipelines: int = 2) -> int:
    apart = 2 * p // even(pipelines)
    return of_a_forward(scaling) * p - apart // 2 + 1 + min(rank % apart, apart - 1 - rank % apart)


@schedule(
    "chimera",
    aliases=("Chimera",),
    source="Li & Hoefler 2021, Chimera (arXiv:2107.06925); slots of doubling and halving: ours, from their description",
    parts=parts,
    constraints=(
        Constraint(lambda p, m, scaling="concatenate", pipelines=2: p % even(pipelines) == 0, "pp divisible by the number of pipelines"),
        Constraint(
            lambda p, m, scaling="concatenate", pipelines=2: m * parts(scaling) % (of_a_forward(scaling) * p) == 0,
            "microbatches divisible by pp (forward_doubling: by 2 pp), of which every pipeline gets as many",
        ),
        Constraint(
            lambda p, m, scaling="concatenate", pipelines=2: scaling == "concatenate" or pipelines == 2,
            "two pipelines to double forwards or halve backwards, as the slots of more meet",
        ),
    ),
    makespan=makespan,
    exact_when=lambda p, m: p > 2,
    in_flight=in_flight,
    messages=lambda p, m: 2 * m * (p - 1),
)
def chimera(pp: int, microbatches: int, *, scaling: str = "concatenate", pipelines: int = 2) -> Program:
    ways, more = even(pipelines), of_a_forward(scaling)
    n, each = microbatches * parts(scaling) // ways, pp // ways  # microbatches of a pipeline; forwards of it in a unit
    placement = BIDIRECTIONAL if ways == 2 else f"{BIDIRECTIONAL}:{ways}"
    slots: list[dict[int, Unit]] = [{} for _ in range(pp)]  # (1 + more) pp a unit; forwards of a seat take every other, backwards the rest
    for seat in range(pp * ways):
        (pipeline, stage), here = divmod(seat, pp), slots[seat_rank(placement, pp, seat)]
        for i in range(n // more):
            unit, at = divmod(i, each)
            begin, first = (1 + more) * pp * unit, pipeline * n + i * more
            forward = [Op(stage, "F", first + j) for j in range(more)]
            here[begin + stage + 2 * at] = Doubled(*forward) if more > 1 else forward[0]
            for j, op in enumerate(forward):
                here[begin + 2 * pp - 1 - stage + 2 * (more * at + j)] = op._replace(kind="B")
    return Program("chimera", tuple(tuple(rank[slot] for slot in sorted(rank)) for rank in slots), placement)
