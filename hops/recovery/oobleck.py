"""Oobleck: pipelines of fewer nodes stand ready, and take the place of one that loses a node; nothing is loaded from a checkpoint.

A pipeline has a template for every number of nodes from ``smallest`` on. Who is left is spread over as many pipelines as there were, or
as have ``smallest`` nodes each: a node that is lost makes its own pipeline smaller, or one is borrowed from the largest, or two are
merged, and with the states at hand it makes no difference which. The batch is split in proportion to their nodes; gradients are
exchanged within templates, and what that takes between them is left out. With fewer than ``faults`` + 1 pipelines the job stops.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hops.checks import Infeasible, count
from hops.recovery import QUEUE, REPLICAS, Elastic, Machine, Plan, State, recovery
from hops.recovery.repartition import of_whole


@dataclass(frozen=True)
class Templates:
    """Plans of pipelines side by side."""

    smallest: int
    faults: int

    def __call__(self, scenario: Any, missing: int, gpus: int) -> Sequence[Plan]:
        """Pipelines of two neighbouring sizes at most, for all nodes that are left; `Infeasible` where a pipeline is no whole nodes."""
        s = scenario
        if missing == 0:
            return [Plan((s,))]
        rank, total = s.tp * s.cp, s.microbatches * s.dp
        node = (s.layout.n_gpus - gpus) // missing
        if s.pp * rank % node or node % rank:
            raise Infeasible(
                f"a template is for whole nodes of {node} GPUs; a pipeline has {s.pp} ranks of {rank} (try pp={max(1, node // rank)})"
            )
        nodes = gpus // node
        n = min(s.dp, nodes // self.smallest)
        if n <= self.faults:
            return []
        size, larger = divmod(nodes, n)
        few = total * size // nodes
        many = -(-(total - (n - larger) * few) // larger) if larger else 0
        cells = [
            replace(s, pp=each * node // rank, dp=dp, microbatches=microbatches, model=of_whole(s.model, s.pp))
            for each, dp, microbatches in ((size, n - larger, few if larger else -(-total // n)), (size + 1, larger, many))
            if dp
        ]
        return [Plan(tuple(cells), samples=total * s.microbatch_size)]


@recovery(
    "oobleck", source="Jang et al. 2023, Oobleck (SOSP): templates; 2 s to reconfigure BERT-large or GPT-2, 10 s GPT-3 6.7B, as cited"
)
def oobleck(
    *,
    smallest: int = 1,
    faults: int = 1,
    reconfigure: float = 10.0,
    rejoin: float = 0.0,
    queue: float = 0.0,
    init: float = 17.0,
    load: float = 183.0,
) -> Machine:
    """See above; who joins takes ``reconfigure`` too; ``queue``, ``init`` and ``load`` are for when nobody is left who has a state."""
    templates = Templates(count("recovery.smallest", smallest), count("recovery.faults", faults, least=0))
    change = (State("reconfigure", reconfigure),)
    start = State("queue", queue, QUEUE), State("init", init), State("load", load)
    return Machine(start, elastic=Elastic(templates, "node", change, change, rejoin, REPLICAS))
