"""ZB-2p: the automatic zero-bubble schedule with twice 1F1B's memory, 2p microbatches: next to no bubble by span.

ZB-H2 is what the paper draws by hand for equal stages whose three passes take equally long.
"""

from typing import Any

from hops.nominal import nominal
from hops.schedules import Program, schedule
from hops.schedules.zb_auto import search


@schedule(
    "zb_2p",
    source="Qi et al. 2023, Zero Bubble Pipeline Parallelism, sections 3.1 and 5.2 (arXiv:2401.10241)",
    plans="line",
    unit_bubble=lambda p, m: 0,
    unit_when=lambda p, m: m >= 2 * p - 1,
    messages=lambda p, m: 2 * m * (p - 1),
)
def zb_2p(
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
    plan = nominal("zb_2p", range(pp), forward, backward_input, backward_weight, hop, memory, rounds=2)
    return search("zb_2p", plan, microbatches)
