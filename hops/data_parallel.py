"""Data parallelism: what replicas exchange in a step, in which pieces, and when they may. ZeRO stages, HSDP, buckets, overlap.

Replicas of a stage reduce its gradients (REDUCE_GRAD) once its last backward has run in all of them; each then updates what
it owns (Adam, bound by memory bandwidth), and the new weights are gathered (UNSHARD). ZeRO (Rajbhandari et al. 2020,
arXiv:1910.02054): stage 0 reduces to all and owns all; 1 owns a share of the optimizer states; 2 reduces gradients after each
microbatch, so that it need not hold them; 3 holds a share of the weights too, and gathers a stage's when it is about to run.
HSDP (Zhao et al. 2023, arXiv:2304.11277): the shares are of a group of ``shard`` replicas, among groups gradients are all-reduced.
"""

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from hops.checks import count, flag
from hops.collectives import Ring
from hops.nodes import Gpu

# bytes a parameter, Megatron-Core's distributed optimizer with bf16 (docs/source/api-guide/dist_optimizer.md)
GRADIENT, WEIGHT = 4, 2  # fp32 gradients are reduced, bf16 weights gathered
MOST_UNSHARDED = 3  # stages whose weights a rank gathers ahead with ZeRO 3, the running one included (torch's max_active_stages)
ADAM = 4 + 3 * 4 + 3 * 4 + 2  # read a gradient, read and write master weight and two moments, write a weight


@dataclass(frozen=True)
class DataParallel:
    """How replicas keep their weights equal; ``shard=None``: all of them share the optimizer's states."""

    zero: int = 1
    shard: int | None = None
    overlap_grad_reduce: bool = False  # reduce a bucket as soon as its gradients are there, not when the rank has ended
    overlap_param_gather: bool = False  # gather the weights of a stage in the next iteration, before its first forward
    bucket_size: int | None = None  # parameters; None: Megatron's

    def __post_init__(self) -> None:
        object.__setattr__(self, "zero", count("zero", self.zero, least=0, most=3))
        if self.shard is not None:
            object.__setattr__(self, "shard", count("dp_shard", self.shard))
        flag("overlap_grad_reduce", self.overlap_grad_reduce)
        flag("overlap_param_gather", self.overlap_param_gather)
        if self.bucket_size is not None:
            object.__setattr__(self, "bucket_size", count("bucket_size", self.bucket_size))
        if self.zero == 2 and not self.overlap_grad_reduce:
            raise ValueError("zero=2 reduces gradients while the pipeline runs, so it needs overlap_grad_reduce=true")
        if self.zero in (0, 3) and self.overlap_param_gather:
            what = "keeps all weights on every replica" if self.zero == 0 else "gathers weights within the iteration"
            raise ValueError(f"overlap_param_gather=true has no meaning with zero={self.zero}, which {what} (it needs zero=1 or 2)")

    @property
    def reduces_each(self) -> bool:
        """Whether gradients are reduced after every microbatch."""
        return self.zero == 2

    @property
    def unshards(self) -> bool:
        """Whether weights are gathered within the iteration; replicas of a shard group then go in lock-step."""
        return self.zero == 3

    def buckets(self, parameters: float, replicas: int) -> int:
        """Pieces in which the gradients of a stage travel; one where nothing overlaps.

        Source: Megatron-Core, distributed_data_parallel.py: at least 40 M parameters, and 1 M a replica [from memory].
        """
        if parameters == 0 or replicas == 1:
            return 0
        if not (self.overlap_grad_reduce or self.overlap_param_gather) or self.reduces_each:
            return 1
        return ceil(parameters / (self.bucket_size or max(40e6, 1e6 * replicas)))


class Exchange(NamedTuple):
    """Seconds that the weights of one GPU cost in a step."""

    reduce: float
    gather: float
    update: float

    def __add__(self, other: "Exchange") -> "Exchange":  # type: ignore[override]
        return Exchange(self.reduce + other.reduce, self.gather + other.gather, self.update + other.update)


def exchange(parameters: float, n_buckets: int, gpu: Gpu, shard: Ring, replicate: Ring) -> Exchange:
    """What ``parameters`` weights of a GPU cost; ``shard`` and ``replicate`` are the rings of its shard group and among groups.

    Every bucket pays the latency of its rings.
    """
    n = max(n_buckets, 1)
    reduce = n * (shard.gather(GRADIENT * parameters / n) + replicate.all_reduce(GRADIENT * parameters / n / shard.n))
    return Exchange(reduce, n * shard.gather(WEIGHT * parameters / n), ADAM * parameters / shard.n / gpu.memory_bandwidth)
