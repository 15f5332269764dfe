"""Checkpoints: what one costs, when it can be used, and how often to write one. Seconds throughout.

``cost`` C is the time that training stands still for a checkpoint, ``mtbf`` the job's mean time between failures, ``downtime`` D
passes after a failure before the checkpoint, of which ``recovery`` R, is read. All intervals are of training between the
end of a checkpoint and the start of the next.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import exp, inf, isinf, sqrt
from typing import Any

from hops.checks import Infeasible, no_such, positive, speed_of
from hops.sections import Frozen, check_keys, remember, values_of


def young(cost: float, mtbf: float) -> float:
    """sqrt(2 C M). Source: Young 1974, A first order approximation to the optimum checkpoint interval."""
    return sqrt(2 * cost * mtbf)


def daly(cost: float, mtbf: float) -> float:
    """The higher-order optimum of Daly 2006 (FGCS 22): for C < 2 M, else M."""
    x = cost / (2 * mtbf)
    return sqrt(2 * cost * mtbf) * (1 + sqrt(x) / 3 + x / 9) - cost if x < 1 else mtbf


def optimal(cost: float, mtbf: float) -> float:
    """Exact for exponential failures: M (1 + W0(-exp(-1 - C/M))). Source: Aupy et al. 2013 (the waste of their eq. 12)."""
    if isinf(mtbf) or cost == 0:
        return young(cost, mtbf)
    z = exp(-1 - cost / mtbf)
    low, high = -1.0, 0.0  # W0 of -z: w exp(w) = -z, rising on (-1, 0)
    for _ in range(200):
        w = (low + high) / 2
        low, high = (w, high) if w * exp(w) < -z else (low, w)
    return mtbf * (1 + high)


RULES: dict[str, Callable[[float, float], float]] = {"young": young, "daly": daly, "optimal": optimal}


@dataclass(frozen=True)
class Checkpoint:
    """When and how: ``interval`` [s] or the name of a rule; training stands still for ``cost`` seconds, ``persist`` later it is durable.

    A checkpoint counts from when it is durable, not from its start; of those that are being persisted there is one at a time. Messages
    between nodes keep this share of their ``bandwidth`` meanwhile.
    """

    interval: float | str = "young"
    cost: float = 10.0
    persist: float = 0.0
    bandwidth: Fraction = Fraction(1)

    def seconds(self, mtbf: float) -> float:
        """Training between two checkpoints, for a job with ``mtbf``; refused where that is less than a checkpoint takes."""
        asked, less = f"checkpoint.interval={self.interval}", f"less than the checkpoint.cost={self.cost:g} s of writing one"
        if not isinstance(self.interval, str):
            if self.interval < self.cost:
                raise ValueError(f"{asked} is {less}")
            return self.interval
        found = RULES[self.interval](self.cost, mtbf)
        if found < self.cost:
            raise Infeasible(f"{asked} makes {found:.4g} s, {less}, as a failure comes every {mtbf:.4g} s")
        return found


@remember
def make_checkpoint(section: Frozen) -> Checkpoint:
    """Check the config section ``checkpoint``."""
    values = values_of("checkpoint", section)
    check_keys("checkpoint", "checkpoint", values, ("interval", "cost", "persist", "bandwidth"))
    interval: Any = values.get("interval", "young")
    if isinstance(interval, str):
        if interval not in RULES:
            raise no_such("checkpoint.interval", interval, [*RULES, "<seconds>"])
    else:
        interval = inf if interval is None else positive("checkpoint.interval", interval, infinite=True)
    cost, persist = (positive(f"checkpoint.{key}", values.get(key, 0.0), zero=True) for key in ("cost", "persist"))
    bandwidth = speed_of("checkpoint.bandwidth", values.get("bandwidth", 1.0), 1)
    if not bandwidth:
        raise ValueError("checkpoint.bandwidth=0 leaves training nothing while a checkpoint is persisted (raise checkpoint.cost instead)")
    return Checkpoint(interval, cost, persist, bandwidth)
