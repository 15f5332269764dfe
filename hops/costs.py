"""Costs: how long a stage computes, how much it sends and what it keeps; and the model whose times are given outright.

Every model is a frozen value with one verb, ``costs(gpu, stage_ranks, microbatch_size, groups, efficiency) -> Costs``; ``stage_ranks``
is the rank that holds each stage, ``groups`` the GPUs that share the work of each rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from hops.checks import Infeasible, one_of, positive
from hops.collectives import Groups
from hops.efficiency import Efficiency
from hops.nodes import Gpu


@dataclass(frozen=True)
class Costs:
    """What one microbatch costs at each stage; tuples have one value a stage, in data-flow order, of one pipeline after another."""

    forward: tuple[float, ...]  # [s]
    backward: tuple[float, ...]  # where one op does both halves [s], recomputation included
    backward_input: tuple[float, ...]  # where they are split [s], recomputation included
    backward_weight: tuple[float, ...]  # [s]
    p2p_bytes: float  # activation or gradient that one stage hands to the next [bytes]
    source: str  # where the times come from, in words
    tokens: float | None = None  # of one microbatch
    model_flops: tuple[float, ...] | None = None  # forward and backward, without recomputation [FLOP]
    hardware_flops: tuple[float, ...] | None = None  # with recomputation [FLOP]
    parameters: tuple[float, ...] | None = None  # that one GPU holds, without those of routed experts
    expert_parameters: tuple[float, ...] | None = None  # of routed experts, which other GPUs hold as well than hold the rest
    layer_parameters: tuple[tuple[float, float], ...] = ()  # both, of a layer of each kind
    tensor_communication: tuple[float, ...] | None = None  # part of forward and backward_input, together [s]
    context_communication: tuple[float, ...] | None = None  # that no computation hides, in the same way
    expert_communication: tuple[float, ...] | None = None
    activations: tuple[float, ...] | None = None  # that one GPU keeps from a microbatch's forward to its backward [bytes]
    weight_activations: tuple[float, ...] | None = None  # from its backward for the input to that for the weight [bytes]
    logits: float | None = None  # of a microbatch, on one GPU of the last stage [bytes]
    loss: float | None = None  # their fp32 copy, which the backward of the loss needs [bytes]
    # parts of forward in which groups of the rank exchange [s]: tensor, context, expert
    forward_exchange: tuple[tuple[float, float, float], ...] | None = None
    backward_exchange: tuple[tuple[float, float, float], ...] | None = None  # and of backward
    overlapped: tuple[float, ...] | None = None  # a forward and a backward as one unit, where given outright [s]
    overhead: float = 0.0  # of an iteration [s]
    partition: str | None = None  # of the layers to stages, as Megatron's layout string
    layers: tuple[int, ...] | None = None  # of each stage; None: it counts as one
    pipelines: int = 1  # that hold the model

    @property
    def n_stages(self) -> int:
        """Of all pipelines together."""
        return len(self.forward)

    def fused(self, forward: int, backward: int, slowdown: float) -> float:
        """Seconds of a unit of a forward of one stage and a backward of another: each computes beside the other's exchanges.

        The longer of what both compute and what both exchange, times ``slowdown``; the mean of their stages' times where these
        are given outright; their sum where nothing is exchanged.
        """
        if self.overlapped is not None:
            return (self.overlapped[forward] + self.overlapped[backward]) / 2
        total = self.forward[forward] + self.backward[backward]
        if self.forward_exchange is None or self.backward_exchange is None:
            return total
        exchange = sum(self.forward_exchange[forward]) + sum(self.backward_exchange[backward])
        return max(total - exchange, exchange) * (slowdown if exchange else 1.0)


def in_parts(costs: Costs, parts: int) -> Costs:
    """Costs where an operation, a message and what is kept are those of one of equal ``parts`` of a microbatch."""
    if parts == 1:
        return costs
    names = (
        "forward", "backward", "backward_input", "backward_weight", "overlapped", "activations", "weight_activations",
        "tensor_communication", "context_communication", "expert_communication",
    )  # fmt: skip
    whole: dict[str, Any] = {name: getattr(costs, name) for name in names}
    divided: dict[str, Any] = {name: None if each is None else tuple(value / parts for value in each) for name, each in whole.items()}
    for name in ("forward_exchange", "backward_exchange"):
        each = getattr(costs, name)
        divided[name] = None if each is None else tuple(tuple(value / parts for value in stage) for stage in each)
    return replace(costs, p2p_bytes=costs.p2p_bytes / parts, **divided)


def side_by_side(costs: Sequence[Costs], stage_ranks: Sequence[int]) -> Costs:
    """Costs of several pipelines, from those of each; weights that a rank has for several of them count at the first."""
    first, *others = costs
    if not others:
        return first
    names = [field.name for field in fields(Costs) if isinstance(getattr(first, field.name), tuple) and field.name != "layer_parameters"]
    stages: dict[str, Any] = {name: tuple(value for each in costs for value in getattr(each, name)) for name in names}
    held, again = set[tuple[int, int]](), list[bool]()
    for seat, rank in enumerate(stage_ranks):
        again.append((rank, seat % first.n_stages) in held)
        held.add((rank, seat % first.n_stages))
    for name in ("parameters", "expert_parameters"):
        if name in stages:
            stages[name] = tuple(0.0 if twice else n for n, twice in zip(stages[name], again, strict=True))
    return replace(first, pipelines=len(costs), **stages)


@dataclass(frozen=True)
class Explicit:
    """Times given outright [s]: a scalar, or a list with one value a rank or stage.

    ``per="rank"``: a rank's whole share, divided over its chunks; ``"stage"``: one value a stage; ``"model"``: the
    whole model's time, divided evenly over the ranks.
    """

    forward: float | tuple[float, ...]
    backward_input: float | tuple[float, ...]
    backward_weight: float | tuple[float, ...]
    per: str
    p2p_bytes: float
    split_overhead: float = 0.0  # share of its time that the backward takes longer in two halves, input and weight
    overlapped: float | tuple[float, ...] | None = None  # a forward and a backward as one unit; None: the sum of their times

    def __post_init__(self) -> None:
        one_of("model.per", self.per, ("rank", "stage", "model"))
        for key in ("forward", "backward_input", "backward_weight", *(["overlapped"] if self.overlapped is not None else [])):
            value = getattr(self, key)
            if isinstance(value, (list, tuple)):
                if self.per == "model":
                    raise ValueError(f"model.{key} must be one number when model.per=model; got a list of {len(value)}")
                if not value:
                    raise ValueError(f"model.{key} must not be an empty list")
                object.__setattr__(self, key, tuple(positive(f"model.{key}[{i}]", each) for i, each in enumerate(value)))
            else:
                object.__setattr__(self, key, positive(f"model.{key}", value))
        object.__setattr__(self, "p2p_bytes", positive("model.p2p_bytes", self.p2p_bytes, zero=True))
        object.__setattr__(self, "split_overhead", positive("model.split_overhead", self.split_overhead, zero=True))

    def costs(
        self,
        gpu: Gpu,
        stage_ranks: tuple[int, ...],
        microbatch_size: int,
        groups: tuple[Groups, ...] = (),
        efficiency: Efficiency | None = None,
    ) -> Costs:
        """Spread the times over the stages; a list of another length than ranks or stages is an `Infeasible`, and so are tp, cp, ep > 1."""
        for each in groups[:1]:
            sizes = {"tensor": ("tp", each.tensor.n), "context": ("cp", each.context.ring.n), "expert": ("ep", each.expert.n)}
            for noun, (key, n) in sizes.items():
                if n > 1:
                    raise Infeasible(f"explicit times say nothing of {noun} parallelism: {key}={n} needs a transformer")
        backward_input, backward_weight = self._spread("backward_input", stage_ranks), self._spread("backward_weight", stage_ranks)
        longer = 1 + self.split_overhead
        return Costs(
            forward=self._spread("forward", stage_ranks),
            backward=tuple(i + w for i, w in zip(backward_input, backward_weight, strict=True)),
            backward_input=tuple(longer * each for each in backward_input),
            backward_weight=tuple(longer * each for each in backward_weight),
            p2p_bytes=self.p2p_bytes,
            overlapped=None if self.overlapped is None else self._spread("overlapped", stage_ranks),
            source=f"explicit times per {self.per}",
        )

    def _spread(self, key: str, stage_ranks: tuple[int, ...]) -> tuple[float, ...]:
        value, n_stages, n_ranks = getattr(self, key), len(stage_ranks), max(stage_ranks) + 1
        if isinstance(value, float):
            share = {"rank": n_stages // n_ranks, "stage": 1, "model": n_stages}[self.per]
            return (value / share,) * n_stages
        n = n_ranks if self.per == "rank" else n_stages
        if len(value) != n:
            raise Infeasible(f"model.{key} lists {len(value)} values, one a {self.per}; there are {n} {self.per}s")
        return tuple(value[rank] / stage_ranks.count(rank) for rank in stage_ranks) if self.per == "rank" else value
