"""Efficiency: how much of its peak a device reaches. One law for all shapes; a constant share is the case without losses.

A matrix product of ``tokens`` rows by an n x k weight runs at

    peak_share x tokens / (tokens + half_tokens) x n / (n + half_width) x k / (k + half_width) x hidden / (hidden + half_hidden)

of the peak: each factor rises steadily towards 1 and is a half where its size equals the number. Tensor parallelism
makes n or k smaller. The attention core runs at ``attention_share``; a layer's forward, and its backward for the input, take
at least ``floor``, which is what the host needs to issue their kernels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hops.checks import no_such, positive


@dataclass(frozen=True)
class Efficiency:
    """Numbers of the law; those that are not given cost nothing."""

    peak_share: float
    attention_share: float
    half_tokens: float = 0.0
    half_width: float = 0.0
    half_hidden: float = 0.0
    floor: float = 0.0  # of a layer's pass [s]
    collective_step: float = 0.0  # of a ring step within a rank, on top of its path's latency [s]
    iteration: float = 0.0  # what an iteration costs besides [s]
    device: str | None = None  # that it was calibrated on

    def share(self, tokens: float, n: float, k: float, hidden: float) -> float:
        """Share of the peak that a product of (tokens, k) by (k, n) reaches in a model of width ``hidden``."""
        width = n / (n + self.half_width) * (k / (k + self.half_width)) * (hidden / (hidden + self.half_hidden))
        return self.peak_share * (tokens / (tokens + self.half_tokens)) * width


def constant(share: float) -> Efficiency:
    """The same share of the peak for everything."""
    return Efficiency(share, share)


def make_efficiency(section: Mapping[str, Any]) -> Efficiency | None:
    """Check the config section; None where all is null, which leaves it to the model's one number."""
    known = [field.name for field in fields(Efficiency)]
    for key in section:
        if key not in known:
            raise no_such("key of efficiency", key, known)
    given = {key: value for key, value in section.items() if value is not None}
    if not given:
        return None
    for key in ("peak_share", "attention_share"):
        if key not in given:
            raise ValueError(f"efficiency.{key} is not set; a law of efficiency needs it")
        if positive(f"efficiency.{key}", given[key]) > 1:
            raise ValueError(f"efficiency.{key} must be a share of the peak, above 0 and at most 1; got {given[key]!r}")
    numbers = {key: positive(f"efficiency.{key}", value, zero=True) for key, value in given.items() if key != "device"}
    return Efficiency(**numbers, device=given.get("device"))
