"""Blocks: what a transformer's layers are made of, as matrices, values and FLOPs. Shapes only: no device, no time.

h = hidden width. Everything is per token; a `Split` says over how many GPUs it is divided.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Split(NamedTuple):
    """Sizes of the groups of GPUs that share a layer."""

    tp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 1


class Matrix(NamedTuple):
    """Weights (k, n) that a GPU multiplies with ``rows`` of the tokens of a microbatch; ``copies`` such products in one kernel."""

    n: float
    k: float
    rows: float  # share of the tokens
    copies: float = 1.0

    @property
    def parameters(self) -> float:
        return self.n * self.k * self.copies


WHOLE = Split()


@dataclass(frozen=True)
class Attention:
    """Multi-head attention, or with fewer ``kv_heads`` grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245)."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Values of a token's queries, keys, values and output of the core, of all heads."""
        return self.heads * self.head_dim, self.kv_heads * self.head_dim, self.kv_heads * self.head_dim, self.heads * self.head_dim

    @property
    def core_width(self) -> int:
        """Multiply-adds of a token's core with one other token: its scores, and its sum of values."""
        return 2 * self.heads * self.head_dim

    @property
    def kept(self) -> int:
        """Values that the backward needs: input of the projections, queries, keys, values, output."""
        return self.hidden + sum(self.widths)

    def matrices(self, split: Split) -> tuple[Matrix, ...]:
        q, k, v, out = self.widths
        rows = 1 / split.cp
        return Matrix((q + k + v) / split.tp, self.hidden, rows), Matrix(self.hidden, out / split.tp, rows)


@dataclass(frozen=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-AI 2024, section 2.1 and appendix C, arXiv:2405.04434), as it is trained: keys
    and values of all heads are computed from their latent vector and exchanged and kept like those of other attention.

    Projections down to the latent vectors are whole on every GPU, each for its own part of the tokens.
    """

    hidden: int
    heads: int
    q_rank: int | None  # None: queries have no latent vector
    kv_rank: int
    nope: int  # of a head's queries and keys: without and with a rotary position
    rope: int  # one key of this width for all heads
    v: int

    @property
    def widths(self) -> tuple[int, int, int, int]:
        query = self.heads * (self.nope + self.rope)
        return query, query, self.heads * self.v, self.heads * self.v

    @property
    def core_width(self) -> int:
        return self.heads * (self.nope + self.rope + self.v)

    @property
    def kept(self) -> int:
        return self.hidden + (self.q_rank or 0) + self.kv_rank + self.rope + sum(self.widths)

    def matrices(self, split: Split) -> tuple[Matrix, ...]:
        query, _, values, out = self.widths
        rows, own = 1 / split.cp, 1 / (split.cp * split.tp)
        if self.q_rank is None:
            queries: tuple[Matrix, ...] = (Matrix(query / split.tp, self.hidden, rows),)
        else:
            queries = Matrix(self.q_rank, self.hidden, own), Matrix(query / split.tp, self.q_rank, rows)
        return (
            *queries,
            Matrix(self.kv_rank + self.rope, self.hidden, own),
            Matrix((self.heads * self.nope + values) / split.tp, self.kv_rank, rows),
            Matrix(self.hidden, out / split.tp, rows),
        )


@dataclass(frozen=True)
class Mlp:
    """A dense MLP; ``gated`` (SwiGLU) has three matrices instead of two."""

    hidden: int
    ffn: int
    gated: bool

    @property
    def kept(self) -> int:
        return self.hidden + (3 if self.gated else 2) * self.ffn

    def matrices(self, split: Split) -> tuple[Matrix, ...]:
        rows = 1 / split.cp
        return Matrix((2 if self.gated else 1) * self.ffn / split.tp, self.hidden, rows), Matrix(self.hidden, self.ffn / split.tp, rows)


@dataclass(frozen=True)
class Experts:
    """``n`` MLPs, of which a token passes ``active``; a router, which every GPU has whole; ``shared`` MLPs that all tokens pass.

    Tokens are spread evenly over the experts, but the busiest GPU has ``imbalance`` times its share.
    """

    mlp: Mlp
    n: int
    active: int
    shared: int = 0
    imbalance: float = 1.0

    @property
    def _shared(self) -> Mlp:
        return Mlp(self.mlp.hidden, self.shared * self.mlp.ffn, self.mlp.gated)

    @property
    def kept(self) -> float:
        return self.active * self.mlp.kept * self.imbalance + (self._shared.kept if self.shared else 0)

    def matrices(self, split: Split) -> tuple[Matrix, ...]:
        """Of the router and the shared experts, which are divided like all outside the experts."""
        router = Matrix(self.n, self.mlp.hidden, 1 / (split.cp * split.tp))
        return (router, *(self._shared.matrices(split) if self.shared else ()))

    def expert_matrices(self, split: Split) -> tuple[Matrix, ...]:
        """Of the n / ep experts that a GPU has; each gets its share of the tokens of the etp x ep GPUs that send them."""
        tokens = split.ep * split.etp / (split.tp * split.cp)
        rows, alone = tokens * self.active / self.n * self.imbalance, Split(tp=split.etp)
        return tuple(each._replace(rows=rows, copies=self.n / split.ep) for each in self.mlp.matrices(alone))


@dataclass(frozen=True)
class Layer:
    """Attention and an MLP or experts."""

    attention: Attention | LatentAttention
    mlp: Mlp | Experts

    def matrices(self, split: Split = WHOLE) -> tuple[Matrix, ...]:
        """All but those of routed experts."""
        return *self.attention.matrices(split), *self.mlp.matrices(split)

    def expert_matrices(self, split: Split = WHOLE) -> tuple[Matrix, ...]:
        return self.mlp.expert_matrices(split) if isinstance(self.mlp, Experts) else ()

    def parameters(self, split: Split = WHOLE) -> float:
        """Weights that a GPU holds, without those of routed experts."""
        return sum(each.parameters for each in self.matrices(split))

    def expert_parameters(self, split: Split = WHOLE) -> float:
        return sum(each.parameters for each in self.expert_matrices(split))

    @property
    def active_parameters(self) -> float:
        """Weights that a token passes."""
        share = self.mlp.active / self.mlp.n if isinstance(self.mlp, Experts) else 0.0
        return self.parameters() + share * self.expert_parameters()
