"""Memory: what a GPU of each rank must hold at its fullest moment, and whether it fits.

Weights, gradients and optimizer states as Megatron-Core's distributed optimizer keeps them with bf16 (2, 4 and 12 bytes a
parameter, the last divided over the replicas); activations of every microbatch in flight; the logits of one microbatch on the
last stage. Buffers of NCCL, fragmentation and the CUDA context are not counted: leave a few GB.
"""

from collections.abc import Sequence
from typing import NamedTuple

from hops.costs import GRADIENT, WEIGHT, Costs

OPTIMIZER = 12  # fp32 master weight and two moments


class Memory(NamedTuple):
    """Bytes of one GPU of a rank."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        return sum(self)


def peak_memory(
    costs: Costs, stage_ranks: Sequence[int], in_flight: Sequence[int], replicas: int, expert_replicas: int = 1
) -> tuple[Memory, ...] | None:
    """Memory of every rank; None where the model is explicit times.

    ``in_flight`` counts chunk activations; chunks of a rank that differ in size count as the largest of them.
    """
    if costs.parameters is None or costs.expert_parameters is None or costs.activations is None or costs.logits is None:
        return None
    chunks: list[list[int]] = [[] for _ in in_flight]
    for stage, rank in enumerate(stage_ranks):
        chunks[rank].append(stage)
    found = []
    for stages, held in zip(chunks, in_flight, strict=True):
        dense, experts = (sum(each[stage] for stage in stages) for each in (costs.parameters, costs.expert_parameters))
        n, shared = dense + experts, dense / replicas + experts / expert_replicas
        activations = held * max(costs.activations[stage] for stage in stages)
        logits = costs.logits if len(stage_ranks) - 1 in stages else 0.0
        found.append(Memory(WEIGHT * n, GRADIENT * n, OPTIMIZER * shared, activations, logits))
    return tuple(found)
