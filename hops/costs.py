"""Models: how long a stage computes and how much it sends, from explicit times or from a transformer's shape.

Every model is a frozen value with one verb, ``costs(gpu, stage_ranks, microbatch_size, shards, efficiency) -> Costs``; ``stage_ranks`` is
the rank that holds each stage, ``shards`` the ring of the GPUs that share each rank's tensors.
"""

from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import pairwise

from hops.checks import Infeasible, count, flag, one_of, positive
from hops.cluster import Gpu
from hops.collectives import ALONE, Ring
from hops.efficiency import Efficiency, constant


@dataclass(frozen=True)
class Costs:
    """What one microbatch costs at each stage; tuples have one value a stage, in data-flow order."""

    forward: tuple[float, ...]  # [s]
    backward_input: tuple[float, ...]  # [s], recomputation included
    backward_weight: tuple[float, ...]  # [s]
    p2p_bytes: float  # activation or gradient that one stage hands to the next [bytes]
    source: str  # where the times come from, in words
    tokens: float | None = None  # of one microbatch
    model_flops: tuple[float, ...] | None = None  # forward and backward, without recomputation [FLOP]
    hardware_flops: tuple[float, ...] | None = None  # with recomputation [FLOP]
    parameters: tuple[float, ...] | None = None  # that one GPU holds
    tensor_communication: tuple[float, ...] | None = None  # part of forward and backward_input, together [s]
    activations: tuple[float, ...] | None = None  # that one GPU keeps from a microbatch's forward to its backward [bytes]
    logits: float | None = None  # of a microbatch, on one GPU of the last stage [bytes]
    overhead: float = 0.0  # of an iteration [s]
    layers: tuple[int, ...] | None = None  # None: a stage counts as one

    @property
    def n_stages(self) -> int:
        return len(self.forward)


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

    def __post_init__(self) -> None:
        one_of("model.per", self.per, ("rank", "stage", "model"))
        for key in ("forward", "backward_input", "backward_weight"):
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

    def costs(
        self,
        gpu: Gpu,
        stage_ranks: tuple[int, ...],
        microbatch_size: int,
        shards: tuple[Ring, ...] = (),
        efficiency: Efficiency | None = None,
    ) -> Costs:
        """Spread the times over the stages; a list of another length than ranks or stages is an `Infeasible`, and so is tp > 1."""
        if shards and shards[0].n > 1:
            raise Infeasible(f"explicit times say nothing of tensor parallelism: tp={shards[0].n} needs a transformer")
        return Costs(
            forward=self._spread("forward", stage_ranks),
            backward_input=self._spread("backward_input", stage_ranks),
            backward_weight=self._spread("backward_weight", stage_ranks),
            p2p_bytes=self.p2p_bytes,
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


@dataclass(frozen=True)
class Transformer:
    """A decoder-only transformer, dense or with experts; times are FLOPs / (peak x efficiency), see `hops.efficiency`.

    FLOPs per layer and microbatch of b sequences, forward: the linear layers 2 b s (their parameters), the attention
    core 4 b s^2 hidden (all of the score matrix, as Narayanan et al. 2021 count, arXiv:2104.04473 appendix). Backward: a
    linear layer costs its forward once for the input and once for the weight; the attention core has no weights, so
    its backward, twice its forward, is all for the input. Before the backward for the input ``recompute="full"`` runs the
    layers' forward once more, ``"selective"`` the attention core, whose scores are then not kept.

    Tensor parallelism (Shoeybi et al. 2019, arXiv:1909.08053) divides all FLOPs and weights by tp; a layer then has two
    all-reduces of its activations in the forward and two in the backward for the input (or, of sequence parallelism, as
    many all-gathers and reduce-scatters, which take as long), which nothing overlaps. The GPUs of a rank each send their share
    of a message.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn_hidden: int
    gated: bool  # SwiGLU: three matrices in the MLP instead of two
    experts: int  # MLPs a layer; a token passes `active_experts` of them, and tokens are spread evenly
    active_experts: int
    vocabulary: int
    sequence: int
    recompute: str
    efficiency: float
    bytes_per_value: int

    def __post_init__(self) -> None:
        for key in ("layers", "hidden", "heads", "kv_heads", "ffn_hidden", "experts", "vocabulary", "sequence", "bytes_per_value"):
            object.__setattr__(self, key, count(f"model.{key}", getattr(self, key)))
        object.__setattr__(self, "active_experts", count("model.active_experts", self.active_experts, most=self.experts))
        flag("model.gated", self.gated)
        one_of("model.recompute", self.recompute, ("none", "selective", "full"))
        if positive("model.efficiency", self.efficiency) > 1:
            raise ValueError(f"model.efficiency must be a share of the peak, above 0 and at most 1; got {self.efficiency!r}")
        for key, whole in (("heads", "hidden"), ("kv_heads", "heads")):
            if getattr(self, whole) % getattr(self, key):
                raise ValueError(f"model.{key} must divide model.{whole}; got {getattr(self, key)} and {getattr(self, whole)}")

    def layer_parameters(self, experts: int) -> int:
        """Weights of the linear layers of one layer with ``experts`` MLPs; several have a router."""
        attention = 2 * self.hidden**2 + 2 * self.hidden * (self.hidden // self.heads) * self.kv_heads
        router = self.hidden * self.experts if self.experts > 1 else 0
        return attention + router + experts * (3 if self.gated else 2) * self.hidden * self.ffn_hidden

    def kept_bytes(self) -> float:
        """Activations that a layer keeps of a token between forward and backward, on all shards together [bytes].

        Source: Korthikanti et al. 2022, section 4 (arXiv:2205.05198), with sequence parallelism: 34 hidden + 5 heads sequence for
        GPT at 2 bytes a value; here by the widths that it sums up, so that grouped queries, gated MLPs and experts count.
        """
        if self.recompute == "full":
            return float(self.bytes_per_value * self.hidden)
        keys_values = 2 * self.hidden // self.heads * self.kv_heads
        attention = 3 * self.hidden + keys_values  # inputs of the projections, queries, keys and values, output
        mlp = self.active_experts * (self.hidden + (3 if self.gated else 2) * self.ffn_hidden)
        norms, masks = 2 * self.hidden, 2 * self.hidden  # a dropout mask is a byte a value
        scores = (2 * self.bytes_per_value + 1) * self.heads * self.sequence if self.recompute == "none" else 0
        return float(self.bytes_per_value * (attention + mlp + norms) + masks + scores)

    def _check_shards(self, tp: int) -> None:
        for key in ("heads", "ffn_hidden"):
            if getattr(self, key) % tp:
                raise Infeasible(f"tp={tp} does not divide model.{key}={getattr(self, key)}")
        if self.kv_heads % tp and tp % self.kv_heads:
            raise Infeasible(f"tp={tp} neither divides model.kv_heads={self.kv_heads} nor is a multiple of it")

    def layers_of(self, n_stages: int) -> tuple[int, ...]:
        """Layers a stage: as even as possible, the last stage, which also has the head, never more than another."""
        if self.layers < n_stages:
            raise Infeasible(f"the model has {self.layers} layers, too few for {n_stages} stages (try pp={self.layers} or fewer)")
        left = [self.layers * (n_stages - s) // n_stages for s in range(n_stages + 1)]
        return tuple(a - b for a, b in pairwise(left))

    def matrices(self, tp: int) -> tuple[tuple[float, float, float], ...]:
        """Weights (n, k) of a layer that one shard holds, and the share of a microbatch's tokens that passes each.

        Of experts only as many as a token passes, each with its share of the tokens.
        """
        keys_values = 2 * self.hidden // self.heads * self.kv_heads
        spread = self.active_experts / self.experts
        expert = [((2 if self.gated else 1) * self.ffn_hidden / tp, self.hidden, spread), (self.hidden, self.ffn_hidden / tp, spread)]
        router = [(self.experts / tp, self.hidden, 1.0)] if self.experts > 1 else []
        attention = [((self.hidden + keys_values) / tp, self.hidden, 1.0), (self.hidden, self.hidden / tp, 1.0)]
        return (*attention, *router, *(expert * self.experts))

    def costs(
        self,
        gpu: Gpu,
        stage_ranks: tuple[int, ...],
        microbatch_size: int,
        shards: tuple[Ring, ...] = (),
        efficiency: Efficiency | None = None,
    ) -> Costs:
        """FLOPs and seconds a stage on ``gpu``; the embedding counts as bytes at the first stage, the head at the last."""
        n_stages, tokens = len(stage_ranks), microbatch_size * self.sequence
        shards, law = shards or (ALONE,) * (max(stage_ranks) + 1), efficiency or constant(self.efficiency)
        tp = shards[0].n
        self._check_shards(tp)
        if law.device not in (None, gpu.name):
            raise Infeasible(
                f"this efficiency was calibrated on {law.device}, not {gpu.name} (try topology.gpu={law.device}, or efficiency=model)"
            )

        def product(n: float, k: float, part: float = 1.0) -> float:
            return 2.0 * tokens * part * n * k / (gpu.peak_flops * law.share(tokens * part, n, k, self.hidden))

        linear_flops, core_flops = 2.0 * tokens * self.layer_parameters(self.active_experts), 4.0 * tokens * self.sequence * self.hidden
        head_flops, table = 2.0 * tokens * self.hidden * self.vocabulary, self.hidden * self.vocabulary
        linear = sum(product(*each) for each in self.matrices(tp))
        core = core_flops / tp / (gpu.peak_flops * law.attention_share)
        head, message = product(self.vocabulary / tp, self.hidden), float(tokens * self.hidden * self.bytes_per_value)
        forward_layer, input_layer = max(linear + core, law.floor), max(linear + 2 * core, law.floor)
        again_flops, again = {
            "none": (0.0, 0.0),
            "selective": (core_flops, core),
            "full": (linear_flops + core_flops, forward_layer),
        }[self.recompute]
        passes = 2 if self.recompute == "full" else 1  # of the forward's collectives before the backward for the input
        layers = self.layers_of(n_stages)
        tops = [float(stage == n_stages - 1) for stage in range(n_stages)]
        ends = [(stage == 0) + (stage == n_stages - 1) for stage in range(n_stages)]
        exchange = [  # two all-reduces a layer and pass, of 2 (tp - 1) ring steps each
            n * 2 * (shards[rank].all_reduce(message) + 2 * (tp - 1) * law.collective_step)
            for n, rank in zip(layers, stage_ranks, strict=True)
        ]
        useful = tuple(n * (3 * linear_flops + 3 * core_flops) + 3 * top * head_flops for n, top in zip(layers, tops, strict=True))
        return Costs(
            forward=tuple(n * forward_layer + top * head + c for n, top, c in zip(layers, tops, exchange, strict=True)),
            backward_input=tuple(
                n * (input_layer + again) + top * head + passes * c for n, top, c in zip(layers, tops, exchange, strict=True)
            ),
            backward_weight=tuple(n * linear + top * head for n, top in zip(layers, tops, strict=True)),
            p2p_bytes=message / tp,
            source=self._source(gpu, law, layers),
            tokens=float(tokens),
            model_flops=useful,
            hardware_flops=tuple(u + n * again_flops for u, n in zip(useful, layers, strict=True)),
            parameters=tuple(
                (n * self.layer_parameters(self.experts) + n_tables * table) / tp for n, n_tables in zip(layers, ends, strict=True)
            ),
            tensor_communication=tuple((1 + passes) * c for c in exchange),
            activations=tuple(n * tokens * self.kept_bytes() / tp for n in layers),
            logits=tokens * self.vocabulary * (self.bytes_per_value + 4) / tp,  # and in fp32 for the loss
            overhead=law.iteration,
            layers=layers,
        )

    def _source(self, gpu: Gpu, law: Efficiency, layers: tuple[int, ...]) -> str:
        spread = f"{min(layers)} to {max(layers)}" if min(layers) < max(layers) else str(layers[0])
        share = f"{law.peak_share:g}" if law.device is None else f"efficiency calibrated on {law.device}"
        return f"FLOPs / ({share} x {gpu.peak_flops / 1e12:g} TFLOP/s of {gpu.name}), {spread} layers a stage"


Model = Explicit | Transformer

FAMILIES: dict[str, type[Explicit | Transformer]] = {"explicit": Explicit, "transformer": Transformer}


def model_keys(family: str) -> tuple[str, ...]:
    """Keys that a model of ``family`` takes."""
    return tuple(field.name for field in fields(FAMILIES[family]))


@lru_cache(maxsize=4096)
def stage_costs(
    model: Model, gpu: Gpu, stage_ranks: tuple[int, ...], microbatch_size: int, shards: tuple[Ring, ...], efficiency: Efficiency | None
) -> Costs:
    """``model.costs(...)``, remembered."""
    return model.costs(gpu, stage_ranks, microbatch_size, shards, efficiency)
