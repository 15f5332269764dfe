"""ZB-1p: the automatic zero-bubble schedule within 1F1B's memory, p microbatches. With equal stages as fast as ZB-H1."""

from typing import Any

from hops.nominal import nominal
from hops.schedules import Program, schedule
from hops.schedules.zb_auto import search
from hops.schedules.zb_h1 import span


@schedule(
    "zb_1p",
    source="Qi et al. 2023, Zero Bubble Pipeline Parallelism, sections 3.1 and 5.2 (arXiv:2401.10241)",
    plans="line",
    makespan=span,
    span=span,
    exact_when=lambda p, m: m >= 2 * p,
    in_flight=lambda p, m, rank: min(p, m),
    messages=lambda p, m: 2 * m * (p - 1),
)
def zb_1p(
    pp: int,
    microbatches: int,
    *,
    forward: Any = None,
    backward_input: Any = None,
    backward_weight: Any = None,
    hop: Any = None,
    memory: Any = None,
) -> Program:
    """See `hops.nominal.nominal` for the keywords."""
    plan = nominal("zb_1p", range(pp), forward, backward_input, backward_weight, hop, memory)
    return search("zb_1p", plan, microbatches)
