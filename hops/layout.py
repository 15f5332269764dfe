"""Layouts: how many ranks of which kind a job has, and which device of the cluster each of its GPUs is.

The tp x cp x dp GPUs of a pipeline rank share its work twice over: attention and dense MLPs are split tp x cp ways and
held by dp replicas; experts are split etp x ep ways over the same GPUs, and the rest of these hold the same experts
(Megatron's folding: Liu et al. 2025, arXiv:2504.14960).
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

from hops.checks import Infeasible, flag, one_of

DIMENSIONS = ("tp", "cp", "ep", "dp", "pp")
ORDER = "-".join(DIMENSIONS)  # Megatron's words: the first changes from one device to the next, the last slowest
CP_COMM = ("p2p", "all_gather", "a2a")
CP_BALANCE = ("zigzag", "naive")
EP_COUPLING = ("lockstep", "independent")


@dataclass(frozen=True)
class Layout:
    """Sizes of the parallel dimensions; ``order`` says which GPUs are neighbours (Megatron's ``--rank-order``).

    ``etp`` is None where experts are split as all else (tp). ``cp_comm`` is how the GPUs of a sequence exchange keys and values,
    ``cp_balance`` which tokens each of them has: see `hops.collectives.Context`; ``ep_coupling`` whether replicas that send each
    other tokens go in lock-step: see `hops.lanes.lanes`. ``tp_comm_overlap`` and ``ep_comm_overlap``: these exchanges run beside compute.
    """

    pp: int
    dp: int = 1
    tp: int = 1
    order: str = ORDER
    cp: int = 1
    ep: int = 1
    etp: int | None = None
    cp_comm: str = "p2p"
    cp_balance: str = "zigzag"
    ep_coupling: str = "lockstep"
    tp_comm_overlap: bool = False
    ep_comm_overlap: bool = False

    def __post_init__(self) -> None:
        words = str(self.order).split("-")
        if sorted(words) != sorted(DIMENSIONS):
            raise ValueError(f"topology.order must be a list of devices, or {', '.join(DIMENSIONS)} joined by '-'; got {self.order!r}")
        one_of("cp_comm", self.cp_comm, CP_COMM)
        one_of("cp_balance", self.cp_balance, CP_BALANCE)
        one_of("ep_coupling", self.ep_coupling, EP_COUPLING)
        flag("tp_comm_overlap", self.tp_comm_overlap)
        flag("ep_comm_overlap", self.ep_comm_overlap)
        if self.n_replicas * self.tp % (self.n_expert_shards * self.ep):
            room = self.n_replicas * self.tp
            works = [n for n in range(1, room + 1) if room % (n * self.n_expert_shards) == 0]
            if not works:
                raise Infeasible(f"etp={self.etp} does not divide the tp x cp x dp = {room} GPUs of a pipeline rank")
            near = " or ".join(str(n) for n in sorted(sorted(works, key=lambda n: abs(n - self.ep))[:2]))
            raise Infeasible(
                f"ep={self.ep} with etp={self.n_expert_shards} does not divide the tp x cp x dp = {room} GPUs of a pipeline rank "
                f"(try ep={near})"
            )

    @property
    def n_gpus(self) -> int:
        return self.pp * self.dp * self.cp * self.tp

    @property
    def n_expert_shards(self) -> int:
        """GPUs that split the tensors of an expert."""
        return self.tp if self.etp is None else self.etp

    @property
    def n_replicas(self) -> int:
        """GPUs that hold the same weights outside the experts."""
        return self.dp * self.cp

    @property
    def n_expert_replicas(self) -> int:
        """GPUs that hold the same experts."""
        return self.tp * self.n_replicas // (self.n_expert_shards * self.ep)

    @cached_property
    def strides(self) -> dict[str, int]:
        """How many GPUs apart neighbours in each dimension are."""
        words = self.order.split("-")
        sizes = {"tp": self.tp, "cp": self.cp, "ep": 1, "dp": self.dp, "pp": self.pp}
        return {word: prod(sizes[inner] for inner in words[:i]) for i, word in enumerate(words)}

    @cached_property
    def expert_strides(self) -> dict[str, int]:
        """The same for experts, counted in GPUs of one pipeline rank (`members`); dp: those that hold the same experts."""
        words = [word for word in self.order.split("-") if word != "pp"]
        sizes = {"tp": self.n_expert_shards, "cp": 1, "ep": self.ep, "dp": self.n_expert_replicas}
        return {word: prod(sizes[inner] for inner in words[:i]) for i, word in enumerate(words)}

    def gpu(self, rank: int, replica: int = 0, shard: int = 0, context: int = 0) -> int:
        """Number of the GPU that holds a shard of a pipeline rank, and a part of its sequences, in a replica."""
        at = self.strides
        return rank * at["pp"] + replica * at["dp"] + shard * at["tp"] + context * at["cp"]

    def members(self, rank: int) -> tuple[int, ...]:
        """All GPUs of ``rank``, by number."""
        sizes = product(range(self.dp), range(self.tp), range(self.cp))
        return tuple(sorted(self.gpu(rank, *each) for each in sizes))

    def gpus(self, rank: int, replica: int = 0) -> tuple[int, ...]:
        """The tp x cp GPUs of a rank in a replica."""
        return tuple(self.gpu(rank, replica, *each) for each in product(range(self.tp), range(self.cp)))

    def shards(self, rank: int) -> tuple[int, ...]:
        """GPUs that split the tensors of ``rank`` (of the first replica and part of the sequence)."""
        return tuple(self.gpu(rank, shard=i) for i in range(self.tp))

    def contexts(self, rank: int) -> tuple[int, ...]:
        """GPUs that split the sequences of ``rank`` (of the first replica and shard)."""
        return tuple(self.gpu(rank, context=i) for i in range(self.cp))

    def replicas(self, rank: int) -> tuple[int, ...]:
        """GPUs that hold the same weights as the first of ``rank``, outside the experts: dp x cp."""
        return tuple(sorted(self.gpu(rank, replica=i, context=j) for i in range(self.dp) for j in range(self.cp)))

    def replica_groups(self, rank: int) -> list[tuple[int, ...]]:
        """`replicas` of every shard of ``rank``; the first shard's first."""
        return [tuple(gpu + shard * self.strides["tp"] for gpu in self.replicas(rank)) for shard in range(self.tp)]

    def expert_replica_groups(self, rank: int) -> list[tuple[int, ...]]:
        """`expert_replicas` of every expert and shard of ``rank``; the first's first."""
        members, at = self.members(rank), self.expert_strides
        firsts = [i * at["tp"] + j * at["ep"] for j in range(self.ep) for i in range(self.n_expert_shards)]
        return [tuple(members[first + k * at["dp"]] for k in range(self.n_expert_replicas)) for first in firsts]

    def experts(self, rank: int) -> tuple[int, ...]:
        """GPUs that have different experts of ``rank`` and send each other tokens (the group of its first GPU)."""
        return self._experts(rank, "ep", self.ep)

    def expert_shards(self, rank: int) -> tuple[int, ...]:
        """GPUs that split the tensors of the experts that the first GPU of ``rank`` has."""
        return self._experts(rank, "tp", self.n_expert_shards)

    def expert_replicas(self, rank: int) -> tuple[int, ...]:
        """GPUs that hold the same experts as the first of ``rank``: tp x cp x dp / (etp x ep)."""
        return self._experts(rank, "dp", self.n_expert_replicas)

    def _experts(self, rank: int, word: str, n: int) -> tuple[int, ...]:
        members = self.members(rank) if n > 1 else (self.gpu(rank),)
        return tuple(members[i * self.expert_strides[word]] for i in range(n))
