"""Layers in seconds: what a transformer's layer computes and exchanges on a device, within the groups that share it.

A linear layer takes the longest of its FLOPs / (peak x efficiency, see `hops.efficiency`), its bytes / memory bandwidth
(weights, and activations read and written) and the launch of a kernel. The attention core takes its FLOPs. With
``precision=fp8`` linear layers run at the device's FP8 peak; core, head, weights and bytes stay those of bf16.

What the groups exchange, each pass:

tp: two all-reduces of the activations a layer (Shoeybi et al. 2019, arXiv:1909.08053; or, of sequence parallelism, as many
all-gathers and reduce-scatters, which take as long), none of it hidden unless ``tp_comm_overlap``.
cp: keys and values, see `hops.collectives.Context`. In the ring (p2p) a step waits for its block only as far as that takes longer
than the core of the block before; in the backward blocks travel with their gradients. With all_gather the backward gathers
once more, as only a device's own part is kept, and then scatters the gradients. a2a trades queries, keys, values and output.
ep: an all-to-all brings each token's vector to its experts, one brings back what they made of it, none of it hidden unless
``ep_comm_overlap`` (other microbatches or shared experts are computed meanwhile); with etp an all-gather and a reduce-scatter
besides. The backward for the input sends the same back.
"""

from dataclasses import dataclass
from typing import NamedTuple

from hops.blocks import Experts, Layer, Matrix, Split
from hops.checks import Infeasible
from hops.collectives import Beside, Groups, Ring
from hops.efficiency import Efficiency
from hops.hardware import GPUS
from hops.nodes import Gpu
from hops.overheads import dilated

LAUNCH = 4e-6  # s, of a kernel however small (3 to 5 us on recent GPUs, from memory)
WEIGHT, GRADIENT = 2, 2 * 4  # bytes a parameter that a product moves: bf16 weights read; fp32 gradients read and written


@dataclass(frozen=True)
class Timer:
    """Seconds of parts of a layer for a microbatch of ``tokens`` on ``gpu``."""

    gpu: Gpu
    law: Efficiency
    tokens: int
    hidden: int
    bytes_per_value: int
    precision: str = "bf16"

    def __post_init__(self) -> None:
        if self.precision == "fp8" and self.gpu.fp8_flops is None:
            able = ", ".join(name for name, gpu in GPUS.items() if gpu.fp8_flops is not None)
            raise Infeasible(f"model.precision=fp8 needs a device with FP8, which {self.gpu.name} has not (try topology.gpu={able})")

    def product(self, matrix: Matrix, moved: int = WEIGHT, precision: str | None = None) -> float:
        """Of the matrix products that ``matrix`` stands for; ``moved`` bytes a parameter go through memory."""
        rows, n, k = self.tokens * matrix.rows, matrix.n, matrix.k
        fp8 = (precision or self.precision) == "fp8"
        peak = self.gpu.fp8_flops if fp8 and self.gpu.fp8_flops else self.gpu.peak_flops
        computed = 2.0 * rows * n * k / (peak * self.law.share(rows, n, k, self.hidden))
        size = moved * n * k + self.bytes_per_value * rows * (n + k)
        return max(matrix.copies * computed, matrix.copies * size / self.gpu.memory_bandwidth, LAUNCH)

    def linear(self, layer: Layer, split: Split, moved: int = WEIGHT) -> float:
        """Of all linear layers of ``layer``."""
        return sum(self.product(each, moved) for each in (*layer.matrices(split), *layer.expert_matrices(split)))

    def core(self, layer: Layer, split: Split, attended: float) -> float:
        """Of the attention core; every query computes ``attended`` scores."""
        flops = 2.0 * self.tokens * attended * layer.attention.core_width
        return flops / (split.tp * split.cp) / (self.gpu.peak_flops * self.law.attention_share)

    def moved(self, values: float) -> float:
        """Of ``values`` a microbatch that are only read and written."""
        return max(self.bytes_per_value * values / self.gpu.memory_bandwidth, LAUNCH)

    def gather(self, ring: Ring, size: float) -> float:
        """Of an all-gather or reduce-scatter within a rank."""
        return ring.gather(size) + (ring.n - 1) * self.law.collective_step


class Passes(NamedTuple):
    """Seconds of one layer, exchanges and what is computed once more included."""

    forward: float
    backward_input: float
    backward_weight: float
    again: float  # of backward_input: once more
    tensor: float  # of forward and backward_input together: exchanges that nothing hides
    context: float
    expert: float
    forward_tensor: float  # of forward alone
    forward_context: float
    forward_expert: float


def passes(timer: Timer, layer: Layer, groups: Groups, split: Split, attended: float, recompute: str) -> Passes:
    """What one microbatch takes in ``layer``."""
    linear, core = timer.linear(layer, split), timer.core(layer, split, attended) * groups.context.causal_share
    forward, backward_input = max(linear + core, timer.law.floor), max(linear + 2 * core, timer.law.floor)
    tensor, expert = _tensor(timer, layer, groups, split), _expert(timer, layer, groups, split)
    there = _context(timer, layer, groups, split, core, backward=False)
    back = _context(timer, layer, groups, split, (3 if recompute == "selective" else 2) * core, backward=True)
    full = recompute == "full"
    (first, *shown), (second, *shown_back) = (_beside(each, tensor, expert, groups.beside) for each in (forward, backward_input))
    again = {"none": 0.0, "selective": core, "full": first + there}[recompute]
    tensor, expert = ((1 + full) * one + other for one, other in zip(shown, shown_back, strict=True))
    return Passes(
        first + there,
        second + back + again,
        timer.linear(layer, split, GRADIENT),
        again,
        tensor,
        (1 + full) * there + back,
        expert,
        shown[0],
        there,
        shown[1],
    )


def _beside(compute: float, tensor: float, expert: float, beside: Beside) -> tuple[float, float, float]:
    """Seconds of a pass with its exchanges, and what of these shows: all of one that compute waits for, what is left of one beside it."""
    total = compute
    shown = []
    for exchange, factor in ((tensor, beside.tp), (expert, beside.ep)):
        if factor is not None:
            longer = max(dilated(total, exchange, factor), exchange)
            shown.append(max(0.0, exchange - total))
            total = longer
        else:
            shown.append(exchange)
    waits = sum(each for each, factor in zip(shown, beside, strict=True) if factor is None)
    return total + waits, shown[0], shown[1]


def _message(timer: Timer, split: Split) -> float:
    """Bytes of the activations of a GPU's part of the sequences."""
    return float(timer.tokens * timer.hidden * timer.bytes_per_value) / split.cp


def _tensor(timer: Timer, layer: Layer, groups: Groups, split: Split) -> float:
    """All-reduces of attention and of what every token passes besides."""
    n = 1 + (not isinstance(layer.mlp, Experts) or layer.mlp.shared > 0)
    return n * 2 * timer.gather(groups.tensor, _message(timer, split))


def _context(timer: Timer, layer: Layer, groups: Groups, split: Split, core: float, backward: bool) -> float:
    ring, crowd, comm, _ = groups.context
    if ring.n == 1:
        return 0.0
    a_value = timer.tokens * timer.bytes_per_value / (split.cp * split.tp)  # bytes of one value a token, on a GPU
    q, k, v, out = (width * a_value for width in layer.attention.widths)
    if comm == "a2a":
        return sum(crowd.all_to_all(each) for each in (q, k, v, out))
    if comm == "all_gather":
        return (2 if backward else 1) * timer.gather(ring, (k + v) * ring.n)
    step = ring.step((2 if backward else 1) * (k + v)) + timer.law.collective_step
    return (ring.n - 1) * max(0.0, step - core / ring.n)


def _expert(timer: Timer, layer: Layer, groups: Groups, split: Split) -> float:
    """Tokens to their experts and back. Without ep a GPU's etp neighbours have the same experts: each vector goes once."""
    if not isinstance(layer.mlp, Experts):
        return 0.0
    own = _message(timer, split) / split.tp  # of the tokens that are a GPU's own, as in sequence parallelism
    if split.ep == 1:
        return 2 * timer.gather(groups.expert_tensor, own * split.etp)
    routed = own * layer.mlp.active * layer.mlp.imbalance
    return 2 * (groups.expert.all_to_all(routed) + timer.gather(groups.expert_tensor, routed * split.etp))
