"""Overheads: communication that runs beside compute slows it, and an op cannot start before its host has issued it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hops.checks import no_such, positive


@dataclass(frozen=True)
class Slowdown:
    """How many times longer compute takes while a class of communication is active beside it; 1: overlap is free.

    Kernels of collectives take multiprocessors and memory bandwidth away from the others; a copy engine takes less.
    """

    dp: float = 1.0
    ep: float = 1.0
    tp: float = 1.0
    p2p: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            key = f"overlap_slowdown.{field.name}"
            if positive(key, getattr(self, field.name)) < 1:
                raise ValueError(f"{key} must be at least 1, which is overlap for free; got {getattr(self, field.name)!r}")


def dilated(compute: float, active: float, factor: float) -> float:
    """Seconds that ``compute`` seconds of work take when communication runs beside them for ``active`` seconds."""
    return min(compute + active * (1 - 1 / factor), compute * factor)


@dataclass(frozen=True)
class Host:
    """Seconds a layer that the host needs to issue the kernels of an op; a CUDA graph issues them all at once, in no time."""

    forward: float = 0.0
    backward_input: float = 0.0
    backward_weight: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            positive(f"host.{field.name}", getattr(self, field.name), zero=True)

    def seconds(self, kind: str) -> float:
        """Of an op of ``kind``, a layer."""
        backward = {"I": self.backward_input, "W": self.backward_weight}
        return {"F": self.forward, "B": sum(backward.values()), **backward}[kind]


def make_slowdown(section: Mapping[str, Any]) -> Slowdown:
    """Check the config section ``overlap_slowdown``."""
    return Slowdown(**_known("overlap_slowdown", section, Slowdown))


def make_host(section: Mapping[str, Any], cuda_graph: bool) -> Host:
    """Check the config section ``host``; with ``cuda_graph`` it costs nothing."""
    host = Host(**_known("host", section, Host))
    return Host() if cuda_graph else host


def _known(noun: str, section: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    names = [field.name for field in fields(kind)]
    for key in section:
        if key not in names:
            raise no_such(f"key of {noun}", key, names)
    return dict(section)
