"""The door of latency laws: one file here is a complete contribution.

A law is a quantile function of mean 1, ``ppf(u, **parameters)`` for an array ``u`` in (0, 1), under the `law` decorator,
which states its variance and the range of its parameters. The engine compiles it into a table (``hops.noise``) and
multiplies durations by what it draws from that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hops.checks import Infeasible, positive
from hops.registry import Registry, keywords, open_door

if TYPE_CHECKING:
    import numpy as np

__all__ = ["LAWS", "TERMS", "Law", "law"]

# the kinds of variation, in the order in which their factors multiply a duration; see `hops.scenario.Latency`
TERMS = ("op", "rank", "microbatch", "link", "host")

type Check = Callable[[str, Mapping[str, Any]], dict[str, Any]]
type Quantile = Callable[..., "np.ndarray[Any, np.dtype[np.float64]]"]


@dataclass(frozen=True, kw_only=True)
class Law:
    """One latency law of mean 1: its quantile function, variance, and the range of each parameter."""

    name: str
    ppf: Quantile
    variance: Callable[..., float]
    at_most: dict[str, float] = field(default_factory=dict)  # the table's error is tested up to here
    at_least: dict[str, float] = field(default_factory=dict)
    check: Check | None = None  # for parameters that are no plain numbers: returns them hashable, or raises ``ValueError``
    support: str
    source: str

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters with their defaults."""
        return keywords(self.ppf)

    def checked(self, prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the law's parameters; missing ones take their default, unknown ones or values out of range: ``ValueError``."""
        for key in values:
            if key not in self.parameters:
                raise Infeasible(f"{prefix}.{key} has no meaning for law {self.name} (it takes {', '.join(self.parameters)})")
        if self.check is not None:
            return self.check(prefix, values)
        checked = {key: positive(f"{prefix}.{key}", values.get(key, default), zero=key == "cv") for key, default in self.parameters.items()}
        for key, value in checked.items():
            least, most = self.at_least.get(key, 0.0), self.at_most[key]
            if not least <= value <= most:
                limits = f"from {least:g} to {most:g}" if least else f"at most {most:g}"
                raise ValueError(f"{prefix}.{key} must be {limits} for law {self.name}; got {value:g}")
        return checked


LAWS: Registry[Law] = Registry("latency law")


def law(name: str, **claims: Any) -> Callable[[Quantile], Quantile]:
    """Register the decorated quantile function under ``name``; ``claims`` are the other fields of `Law`."""

    def register(ppf: Quantile) -> Quantile:
        LAWS.add(name, Law(name=name, ppf=ppf, **claims))
        return ppf

    return register


open_door(__name__, __path__)
