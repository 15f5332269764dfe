"""Memory: what a GPU of each rank must hold at its fullest moment, and whether it fits.

Weights, gradients and optimizer states as Megatron-Core's distributed optimizer keeps them with bf16 (2, 4 and 12 bytes a
parameter), divided over the GPUs that hold the same as ZeRO's stages say (Rajbhandari et al. 2020, arXiv:1910.02054): 1 the
optimizer states, 2 the gradients too, 3 the weights too, of which a few stages' are then whole at a time. Activations of every
microbatch in flight, between the halves of a split backward what the second needs; on the last stage logits and what the loss
keeps, of one microbatch. A schedule without a flush keeps several versions of the weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from hops.checks import Infeasible, no_such, positive
from hops.costs import Costs
from hops.data_parallel import GRADIENT, MOST_UNSHARDED, WEIGHT
from hops.nodes import Gpu

OPTIMIZER = 12  # fp32 master weight and two moments
IN_TRANSIT = 2  # chunks whose offloaded activations are on the device all the same: one is computed with, one on its way


@dataclass(frozen=True)
class Allowances:
    """What memory is lost to besides, and what is kept elsewhere."""

    reserve: float = 0.0  # CUDA context, libraries, buffers of NCCL [bytes]
    fragmentation: float = 0.0  # of what is allocated and freed in an iteration, as a share of it
    offload: float = 0.0  # share of the activations that goes to the host's memory and back

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, positive(f"memory.{field.name}", getattr(self, field.name), zero=True))
        if self.offload > 1:
            raise ValueError(f"memory.offload must be a share of the activations, from 0 to 1; got {self.offload!r}")


def make_allowances(section: Mapping[str, Any]) -> Allowances:
    """Check the config section."""
    known = [field.name for field in fields(Allowances)]
    for key in section:
        if key not in known:
            raise no_such("key of memory", key, known)
    return Allowances(**{key: value for key, value in section.items() if value is not None})


class Memory(NamedTuple):
    """Bytes of one GPU of a rank."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    loss: float
    fragmentation: float
    reserve: float

    @property
    def total(self) -> float:
        return sum(self)


def states(parameters: float, replicas: int, zero: int = 1) -> tuple[float, float, float]:
    """Weights, gradients and optimizer states of ``parameters`` that ``replicas`` GPUs hold, on each [bytes]."""
    sizes = (WEIGHT, 3), (GRADIENT, 2), (OPTIMIZER, 1)  # from this stage of ZeRO on divided
    weights, gradients, optimizer = (size * parameters / (replicas if zero >= stage else 1) for size, stage in sizes)
    return weights, gradients, optimizer


def peak_memory(
    costs: Costs,
    stage_ranks: Sequence[int],
    in_flight: Sequence[float],
    replicas: int,
    expert_replicas: int = 1,
    zero: int = 1,
    allowances: Allowances = Allowances(),
    versions: Sequence[int] | None = None,
) -> tuple[Memory, ...] | None:
    """Memory of every rank; None where the model is explicit times.

    ``in_flight`` counts chunk activations (see `fullest`); chunks of a rank that differ in size count as the largest of them.
    ``replicas`` and ``expert_replicas`` are the GPUs over which ZeRO divides what they all hold. ``versions``: how many copies
    of its weights each rank keeps; None: one.
    """
    if costs.parameters is None or costs.expert_parameters is None or costs.activations is None:
        return None
    chunks: list[list[int]] = [[] for _ in in_flight]
    for stage, rank in enumerate(stage_ranks):
        chunks[rank].append(stage)
    found = []
    for stages, held, copies in zip(chunks, in_flight, versions or (1,) * len(chunks), strict=True):
        dense, experts = (sum(each[stage] for stage in stages) for each in (costs.parameters, costs.expert_parameters))
        pairs = zip(states(dense, replicas, zero), states(experts, expert_replicas, zero), strict=True)
        weights, gradients, optimizer = map(sum, pairs)
        weights *= copies
        if zero == 3:
            weights += WEIGHT * sum(sorted(costs.parameters[stage] + costs.expert_parameters[stage] for stage in stages)[-MOST_UNSHARDED:])
        chunk = max(costs.activations[stage] for stage in stages)
        activations = chunk * (held * (1 - allowances.offload) + min(held, IN_TRANSIT) * allowances.offload)
        last = any((stage + 1) % (len(stage_ranks) // costs.pipelines) == 0 for stage in stages)
        logits, loss = (each or 0.0 if last else 0.0 for each in (costs.logits, costs.loss))
        lost = allowances.fragmentation * (activations + logits + loss)
        found.append(Memory(weights, gradients, optimizer, activations, logits, loss, lost, allowances.reserve))
    return tuple(found)


def fullest(costs: Costs, stage_ranks: Sequence[int], holdings: Sequence[Sequence[tuple[int, int]]]) -> tuple[float, ...]:
    """Chunk activations that each rank holds at its fullest moment; one of which only the part for W is left counts as that.

    ``holdings``: see `hops.programs.Program.holdings`. Parts that differ from chunk to chunk count as the largest of a rank.
    """
    shares = kept_shares(costs, stage_ranks)
    return tuple(max(whole + rest * share for whole, rest in moments) for moments, share in zip(holdings, shares, strict=True))


def kept_shares(costs: Costs, stage_ranks: Sequence[int]) -> list[float]:
    """Of every rank the share of a chunk activation that is left for W; 1 where the model does not say, the largest of its chunks."""
    shares = [0.0] * (max(stage_ranks) + 1)
    whole = costs.activations or (1.0,) * costs.n_stages
    for rank, all_of_it, rest in zip(stage_ranks, whole, costs.weight_activations or whole, strict=True):
        shares[rank] = max(shares[rank], rest / all_of_it if all_of_it else 0.0)
    return shares


def headroom(memory: Sequence[Memory], room: Sequence[float]) -> float:
    """What the tightest rank has left [bytes]; ``room`` is the memory of a GPU of each rank. Below 0: does not fit."""
    return min(have - need.total for have, need in zip(room, memory, strict=True))


def check_room(costs: Costs, room: Sequence[float], replicas: int, expert_replicas: int, zero: int = 1) -> None:
    """Refuse devices that cannot hold the weights, gradients and optimizer states of one layer, whatever the number of ranks."""
    layers = [sum(states(n, replicas, zero)) + sum(states(e, expert_replicas, zero)) for n, e in costs.layer_parameters]
    rank = min(range(len(room)), key=lambda r: room[r])
    if layers and max(layers) > room[rank]:
        raise Infeasible(
            f"one layer's weights, gradients and optimizer states take {max(layers) / 1e9:.4g} GB of a GPU of rank {rank}, "
            f"which has {room[rank] / 1e9:g} GB (try more tp{', ep' if any(e for _, e in costs.layer_parameters) else ''} or dp)"
        )


def offloaded(costs: Costs, gpu: Gpu, share: float) -> Costs:
    """Costs when ``share`` of the activations leaves for the host in the forward and comes back in the backward.

    Transfers go beside the computation, each pass over the link to the host by itself: it takes as long as the longer of the two.
    """
    if not share or costs.activations is None:
        return costs
    transfers = [share * size / gpu.host_bandwidth for size in costs.activations]

    def at_least(passes: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(map(max, passes, transfers))

    return replace(costs, forward=at_least(costs.forward), backward=at_least(costs.backward), backward_input=at_least(costs.backward_input))
