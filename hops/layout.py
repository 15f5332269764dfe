"""Layouts: how many ranks of which kind a job has, and which device of the cluster each of its GPUs is."""

from dataclasses import dataclass
from functools import cached_property
from math import prod

DIMENSIONS = ("tp", "cp", "ep", "dp", "pp")
ORDER = "-".join(DIMENSIONS)  # Megatron's words: the first changes from one device to the next, the last slowest


@dataclass(frozen=True)
class Layout:
    """Sizes of the parallel dimensions; ``order`` says which GPUs are neighbours (Megatron's ``--rank-order``)."""

    pp: int
    dp: int = 1
    tp: int = 1
    order: str = ORDER

    def __post_init__(self) -> None:
        words = str(self.order).split("-")
        if sorted(words) != sorted(DIMENSIONS):
            raise ValueError(f"topology.order must be a list of devices, or {', '.join(DIMENSIONS)} joined by '-'; got {self.order!r}")

    @property
    def n_gpus(self) -> int:
        return self.pp * self.dp * self.tp

    @cached_property
    def strides(self) -> dict[str, int]:
        """How many GPUs apart neighbours in each dimension are."""
        words = self.order.split("-")
        sizes = {"tp": self.tp, "cp": 1, "ep": 1, "dp": self.dp, "pp": self.pp}
        return {word: prod(sizes[inner] for inner in words[:i]) for i, word in enumerate(words)}

    def gpu(self, rank: int, replica: int = 0, shard: int = 0) -> int:
        """Number of the GPU that holds a shard of a pipeline rank in a replica."""
        return rank * self.strides["pp"] + replica * self.strides["dp"] + shard * self.strides["tp"]

    def shards(self, rank: int) -> tuple[int, ...]:
        """GPUs that split the tensors of ``rank`` (in the first replica)."""
        return tuple(self.gpu(rank, shard=i) for i in range(self.tp))

    def replicas(self, rank: int, first: int = 0, n: int | None = None, step: int = 1) -> tuple[int, ...]:
        """GPUs that hold the same weights as the first shard of ``rank``; all, or ``n`` of them, every ``step``-th."""
        return tuple(self.gpu(rank, replica=first + i * step) for i in range(self.dp if n is None else n))
