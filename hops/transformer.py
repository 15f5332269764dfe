"""Transformers: from the shape of a model to what each of its stages costs on a device.

FLOPs per layer and microbatch of b sequences, forward: the linear layers 2 b s (their parameters), the attention core
2 b s^2 (widths of its heads; all of the score matrix, as Narayanan et al. 2021 count, arXiv:2104.04473 appendix; half of it if
``causal``). Backward: a
linear layer costs its forward once for the input and once for the weight; the attention core has no weights, so its
backward, twice its forward, is all for the input. Before the backward for the input ``recompute="full"`` runs the layers'
forward once more, ``"selective"`` the attention core, whose scores are then not kept.

Seconds: see `hops.layers`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from hops.blocks import Attention, Experts, LatentAttention, Layer, Matrix, Mlp, Split
from hops.checks import Infeasible, count, flag, one_of, positive
from hops.collectives import Groups
from hops.costs import Costs
from hops.efficiency import Efficiency, constant
from hops.layers import GRADIENT, LAUNCH, WEIGHT, Timer, passes
from hops.nodes import Gpu
from hops.partition import Slice, balanced, check, even, parse, slices, written

LATENT = ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


class Part(NamedTuple):
    """What a layer, or one of the model's ends, adds to its stage."""

    forward: float = 0.0  # seconds, as in `hops.layers.Passes`
    backward_input: float = 0.0
    backward_weight: float = 0.0
    again: float = 0.0
    tensor: float = 0.0
    context: float = 0.0
    expert: float = 0.0
    forward_tensor: float = 0.0
    forward_context: float = 0.0
    forward_expert: float = 0.0
    flops: float = 0.0  # forward and backward, of all GPUs
    flops_again: float = 0.0
    parameters: float = 0.0  # on a GPU
    expert_parameters: float = 0.0
    activations: float = 0.0  # on a GPU [bytes]
    weight_activations: float = 0.0  # on a GPU, as in `hops.costs.Costs` [bytes]

    @property
    def seconds(self) -> float:
        return self.forward + self.backward_input + self.backward_weight


@dataclass(frozen=True)
class Transformer:
    """A decoder-only transformer, dense or with experts; what each key means stands in conf/model/transformer.yaml."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn_hidden: int
    gated: bool
    experts: int
    active_experts: int
    vocabulary: int
    sequence: int
    recompute: str
    efficiency: float
    bytes_per_value: int
    head_dim: int | None = None
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    qk_nope_head_dim: int | None = None
    qk_rope_head_dim: int | None = None
    v_head_dim: int | None = None
    dense_layers: int = 0
    moe_ffn_hidden: int | None = None
    shared_experts: int = 0
    expert_imbalance: float = 1.0
    mtp_layers: int = 0
    causal: bool = False
    recompute_repeat: bool = False
    split_overhead: float = 0.0
    precision: str = "bf16"
    layout: str = "even"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if "int" in str(field.type) and value is not None:
                least = 0 if field.default == 0 else 1
                object.__setattr__(self, field.name, count(f"model.{field.name}", value, least=least))
        count("model.active_experts", self.active_experts, most=self.experts)
        count("model.dense_layers", self.dense_layers, least=0, most=self.layers)
        flag("model.gated", self.gated)
        flag("model.recompute_repeat", self.recompute_repeat)
        flag("model.causal", self.causal)
        one_of("model.recompute", self.recompute, ("none", "selective", "full"))
        one_of("model.precision", self.precision, ("bf16", "fp8"))
        if positive("model.efficiency", self.efficiency) > 1:
            raise ValueError(f"model.efficiency must be a share of the peak, above 0 and at most 1; got {self.efficiency!r}")
        if positive("model.expert_imbalance", self.expert_imbalance) < 1:
            raise ValueError(f"model.expert_imbalance is the largest load over the mean, at least 1; got {self.expert_imbalance!r}")
        object.__setattr__(self, "split_overhead", positive("model.split_overhead", self.split_overhead, zero=True))
        given = [key for key in LATENT if getattr(self, key) is not None]
        if given and len(given) < len(LATENT):
            absent = ", ".join(f"model.{key}" for key in LATENT if key not in given)
            raise ValueError(f"model.{given[0]} makes attention latent, which also needs {absent}")
        if self.q_lora_rank is not None and not given:
            raise ValueError(f"model.q_lora_rank makes attention latent, which also needs {', '.join(f'model.{key}' for key in LATENT)}")
        for key, whole in (("heads", "hidden"),) * (self.head_dim is None and not given) + (("kv_heads", "heads"),):
            if getattr(self, whole) % getattr(self, key):
                raise ValueError(f"model.{key} must divide model.{whole}; got {getattr(self, key)} and {getattr(self, whole)}")
        if not isinstance(self.layout, str):
            raise ValueError(f"model.layout must be even, balanced, or a string such as 'Et*3|(tt|)*29,m|L'; got {self.layout!r}")
        if self.layout not in ("even", "balanced"):
            parse(self.layout)

    @property
    def attended(self) -> float:
        """Tokens whose scores a token's query computes, on average."""
        return self.sequence / 2 if self.causal else float(self.sequence)

    @property
    def attention(self) -> Attention | LatentAttention:
        nope, rope, v, kv_rank = self.qk_nope_head_dim, self.qk_rope_head_dim, self.v_head_dim, self.kv_lora_rank
        if nope is None or rope is None or v is None or kv_rank is None:
            return Attention(self.hidden, self.heads, self.kv_heads, self.head_dim or self.hidden // self.heads)
        return LatentAttention(self.hidden, self.heads, self.q_lora_rank, kv_rank, nope, rope, v)

    @property
    def kinds(self) -> tuple[Layer, Layer]:
        """The first layers, which are dense, and the others, which have the experts if there are any."""
        dense = Layer(self.attention, Mlp(self.hidden, self.ffn_hidden, self.gated))
        if self.experts == 1:
            return dense, dense
        mlp = Mlp(self.hidden, self.moe_ffn_hidden or self.ffn_hidden, self.gated)
        experts = Experts(mlp, self.experts, self.active_experts, self.shared_experts, self.expert_imbalance)
        return dense, Layer(self.attention, experts)

    @property
    def n_dense(self) -> int:
        return self.layers if self.experts == 1 else self.dense_layers

    def kept_bytes(self, layer: Layer) -> float:
        """Activations that ``layer`` keeps of a token between forward and backward, on all shards together [bytes].

        Source: Korthikanti et al. 2022, section 4 (arXiv:2205.05198), with sequence parallelism: 34 hidden + 5 heads sequence for
        GPT at 2 bytes a value; here by the widths that it sums up, so that grouped queries, gated MLPs and experts count.
        """
        if self.recompute == "full":
            return float(self.bytes_per_value * self.hidden)
        norms, masks = 2 * self.hidden, 2 * self.hidden  # a dropout mask is a byte a value
        scores = (2 * self.bytes_per_value + 1) * self.heads * self.sequence if self.recompute == "none" else 0
        return float(self.bytes_per_value * (layer.attention.kept + layer.mlp.kept + norms) + masks + scores)

    def weight_bytes(self, layer: Layer) -> float:
        """What ``layer`` keeps of a token for its backward for the weight, on all shards together [bytes].

        Inputs of the linear layers and gradients of their outputs: 32 hidden for GPT at 2 bytes a value (Qi et al. 2023, table 1,
        arXiv:2401.10241). Where inputs are computed once more for that pass, only the checkpoint and the gradients.
        """
        again = self.recompute == "full" and self.recompute_repeat
        matrices = (*layer.matrices(), *layer.expert_matrices())
        values = sum(each.rows * each.copies * (each.n + each.k * (not again)) for each in matrices)
        return float(self.bytes_per_value * (values + self.hidden * again))

    def split(self, groups: Groups) -> Split:
        """Sizes of the groups; those that do not divide the model are an `Infeasible`."""
        tp, cp, ep, etp = groups.tensor.n, groups.context.ring.n, groups.expert.n, groups.expert_tensor.n
        wide = (self.moe_ffn_hidden or self.ffn_hidden) if self.experts > 1 else self.ffn_hidden
        if self.experts == 1 and (ep > 1 or etp != tp):
            raise Infeasible(f"{f'ep={ep}' if ep > 1 else f'etp={etp}'} needs a model with experts; this one has none (model.experts=1)")
        divide = [("tp", tp, "heads", self.heads), ("ep", ep, "experts", self.experts)]
        divide += [("tp", tp, "ffn_hidden", self.ffn_hidden)] * (self.n_dense > 0)
        divide += [("etp" if self.experts > 1 else "tp", etp, "moe_ffn_hidden" if self.moe_ffn_hidden else "ffn_hidden", wide)]
        divide += [("tp", tp, "shared_experts x model.moe_ffn_hidden", self.shared_experts * wide)]
        for name, n, key, whole in divide:
            if whole % n:
                raise Infeasible(f"{name}={n} does not divide model.{key}={whole}")
        if self.kv_lora_rank is None and self.kv_heads % tp and tp % self.kv_heads:
            raise Infeasible(f"tp={tp} neither divides model.kv_heads={self.kv_heads} nor is a multiple of it")
        comm, balance = groups.context.comm, groups.context.balance
        blocks = 2 * cp if balance == "zigzag" and cp > 1 else cp
        if self.sequence % blocks:
            cut = f"cp={cp} cuts a sequence into {blocks} blocks (cp_balance={balance})"
            raise Infeasible(f"{cut}, but {blocks} does not divide model.sequence={self.sequence}")
        if comm == "a2a" and cp > 1 and self.heads % (tp * cp):
            raise Infeasible(f"cp_comm=a2a gives every GPU whole heads: tp x cp = {tp * cp} does not divide model.heads={self.heads}")
        return Split(tp, cp, ep, etp)

    def partition(self, n_stages: int, dense: float, other: float, first: float, last: float) -> tuple[Slice, ...]:
        """What each stage has of the model; seconds of a layer of both kinds, of the embedding, and of head and MTP layers together."""
        if self.layout == "balanced":
            times = [dense] * self.n_dense + [other] * (self.layers - self.n_dense)
            return slices(balanced(times, first, last, n_stages), self.mtp_layers)
        if self.layout == "even":
            return slices(even(self.layers, n_stages), self.mtp_layers)
        found = parse(self.layout)
        check(found, self.layout, n_stages, self.layers, self.mtp_layers)
        return found

    def costs(
        self,
        gpu: Gpu,
        stage_ranks: tuple[int, ...],
        microbatch_size: int,
        groups: tuple[Groups, ...] = (),
        efficiency: Efficiency | None = None,
    ) -> Costs:
        """FLOPs and seconds a stage on ``gpu``; sizes that do not divide the model are an `Infeasible`."""
        tokens, law = microbatch_size * self.sequence, efficiency or constant(self.efficiency)
        groups = groups or (Groups(),) * (max(stage_ranks) + 1)
        split = self.split(groups[0])
        if law.device not in (None, gpu.name):
            raise Infeasible(
                f"this efficiency was calibrated on {law.device}, not {gpu.name} (try topology.gpu={law.device}, or efficiency=model)"
            )
        timer = Timer(gpu, law, tokens, self.hidden, self.bytes_per_value, self.precision)
        layers = {each: [self._layer(timer, kind, each, split) for kind in self.kinds] for each in set(groups)}
        embedding, project, head = self._embedding(timer, split), self._project(timer, split), self._head(timer, split)
        copy = Part(parameters=embedding.parameters)
        dense, other = layers[groups[stage_ranks[0]]]
        last = head.seconds + self.mtp_layers * (other.seconds + project.seconds)
        found = self.partition(len(stage_ranks), dense.seconds, other.seconds, embedding.seconds, last)
        stages = []
        for each, rank in zip(found, stage_ranks, strict=True):
            n_dense = max(0, min(each.end, self.n_dense) - each.first)
            n_other = each.end - each.first - n_dense + each.mtp  # an MTP layer is like the last ones
            looks_up = each.mtp > 0 and not each.embedding  # MTP layers look tokens up as well
            counts = (n_dense, n_other, each.embedding, looks_up, each.mtp, each.head)
            stages.append(_total(counts, (*layers[groups[rank]], embedding, copy, project, head)))

        longer, repeated = 1 + self.split_overhead, float(self.recompute_repeat)
        n_logits = (1 + self.mtp_layers) * tokens * self.vocabulary / (split.tp * split.cp)
        used = [kind for kind, n in zip(self.kinds, (self.n_dense, self.layers - self.n_dense), strict=True) if n]
        return Costs(
            forward=tuple(max(each.forward, LAUNCH) for each in stages),
            backward=tuple(max(each.backward_input + each.backward_weight, LAUNCH) for each in stages),
            backward_input=tuple(max(longer * each.backward_input, LAUNCH) for each in stages),
            backward_weight=tuple(max(longer * (each.backward_weight + repeated * each.again), LAUNCH) for each in stages),
            p2p_bytes=float(tokens * self.hidden * self.bytes_per_value) / (split.tp * split.cp),
            source=self._source(gpu, law, found),
            tokens=float(tokens),
            model_flops=tuple(each.flops for each in stages),
            hardware_flops=tuple(each.flops + each.flops_again for each in stages),
            parameters=tuple(each.parameters for each in stages),
            expert_parameters=tuple(each.expert_parameters for each in stages),
            layer_parameters=tuple((kind.parameters(split), kind.expert_parameters(split)) for kind in used),
            tensor_communication=tuple(each.tensor for each in stages),
            context_communication=tuple(each.context for each in stages),
            expert_communication=tuple(each.expert for each in stages),
            activations=tuple(each.activations for each in stages),
            weight_activations=tuple(each.weight_activations for each in stages),
            logits=self.bytes_per_value * n_logits,
            loss=4 * n_logits,
            forward_exchange=tuple((each.forward_tensor, each.forward_context, each.forward_expert) for each in stages),
            backward_exchange=tuple(
                (each.tensor - each.forward_tensor, each.context - each.forward_context, each.expert - each.forward_expert)
                for each in stages
            ),
            overhead=law.iteration,
            partition=written(found),
        )

    def _layer(self, timer: Timer, kind: Layer, groups: Groups, split: Split) -> Part:
        linear = 2.0 * timer.tokens * kind.active_parameters
        core = 2.0 * timer.tokens * self.attended * kind.attention.core_width
        return Part(
            *passes(timer, kind, groups, split, self.attended, self.recompute),
            flops=3 * (linear + core),
            flops_again={"none": 0.0, "selective": core, "full": linear + core}[self.recompute],
            parameters=kind.parameters(split),
            expert_parameters=kind.expert_parameters(split),
            activations=timer.tokens * self.kept_bytes(kind) / (split.tp * split.cp),
            weight_activations=timer.tokens * self.weight_bytes(kind) / (split.tp * split.cp),
        )

    def _embedding(self, timer: Timer, split: Split) -> Part:
        """Rows of the table read and written; their gradients read, and added in fp32, which is two values, read and written."""
        values = timer.tokens * self.hidden / split.cp
        table = self.vocabulary * self.hidden / split.tp
        return Part(forward=timer.moved(2 * values), backward_weight=timer.moved(5 * values), parameters=table)

    def _head(self, timer: Timer, split: Split) -> Part:
        """The product with the vocabulary, in bf16; each MTP layer uses it once more."""
        matrix, n = Matrix(self.vocabulary / split.tp, self.hidden, 1 / split.cp), 1 + self.mtp_layers
        once, weight = (timer.product(matrix, moved, "bf16") for moved in (WEIGHT, GRADIENT))
        flops = 6.0 * timer.tokens * self.hidden * self.vocabulary
        return Part(n * once, n * once, n * weight, flops=n * flops, parameters=matrix.parameters)

    def _project(self, timer: Timer, split: Split) -> Part:
        """What joins an MTP layer's two inputs."""
        h = self.hidden
        matrix = Matrix(h, 2 * h / split.tp, 1 / split.cp)
        once, weight = (timer.product(matrix, moved) for moved in (WEIGHT, GRADIENT))
        value = timer.tokens * h * self.bytes_per_value / (split.tp * split.cp)
        flops, kept, held = 12.0 * timer.tokens * h * h, 2 * value, 3 * value
        return Part(once, once, weight, flops=flops, parameters=matrix.parameters, activations=kept, weight_activations=held)

    def _source(self, gpu: Gpu, law: Efficiency, parts: tuple[Slice, ...]) -> str:
        counts = [each.end - each.first for each in parts]
        spread = f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0])
        share = f"{law.peak_share:g}" if law.device is None else f"efficiency calibrated on {law.device}"
        fp8 = f" (linear layers {gpu.fp8_flops / 1e12:g} in FP8)" if self.precision == "fp8" and gpu.fp8_flops else ""
        return f"FLOPs / ({share} x {gpu.peak_flops / 1e12:g} TFLOP/s of {gpu.name}{fp8}), {spread} layers a stage"


def _total(counts: Sequence[int], parts: Sequence[Part]) -> Part:
    """Sum of the parts, each as often as its count."""
    present = [(n, part) for n, part in zip(counts, parts, strict=True) if n]
    return Part(*(sum(n * part[i] for n, part in present) for i in range(len(Part._fields))))
