"""Faults: what can fail, how often, how it is noticed and repaired. Values only; `hops.hazards` finds them on a cluster."""

from dataclasses import dataclass
from typing import Any
from zlib import crc32

from hops.checks import count, one_of, positive
from hops.lifetimes import STATIONARY, Lifetime, make_lifetime
from hops.scripts import Script, read_script
from hops.sections import Frozen, check_keys, remember, values_of

KINDS = ("fail_stop",)
DEVICE, NODE, JOB = "device", "node", "job"

KEYS: dict[str, Any] = {  # of a fault, with their defaults; None: must be given, or has no meaning for the law
    "kind": "fail_stop",
    "scope": NODE,
    "size": None,
    "law": "exponential",
    "mean": None,
    "shape": None,
    "age": STATIONARY,
    "detection": 30.0,
    "detection_law": "constant",
    "detection_shape": None,
    "repair": 7200.0,
    "repair_law": "constant",
    "repair_shape": None,
    "batch": None,
}


@dataclass(frozen=True)
class Fault:
    """One way to fail: a component of ``scope`` stops, with all that is in it.

    ``scope`` is "device", "node", "job", the name of a level of the cluster's network, or any other word (rack, power domain) with
    ``size`` nodes each. Every component has a lifetime of its own; of exponential ones the first to end is drawn, and which
    it was. ``batch`` are weights of 1, 2, ... of them failing at once.
    """

    name: str
    kind: str
    scope: str
    size: int | None
    lifetime: Lifetime  # of one component, from each of its failures to the next
    detection: Lifetime  # from a failure until it is known
    repair: Lifetime  # from a failure until what failed can be used again
    batch: tuple[float, ...] = (1.0,)

    @property
    def identity(self) -> int:
        """What it is called in the address of its random numbers: the same whatever other faults there are."""
        return crc32(self.name.encode())


@dataclass(frozen=True)
class Failures:
    """All faults of a run; ``rate`` multiplies how often they come, ``script`` has failures in place of drawn ones.

    ``clock`` says when components age: "calendar", or "exposure", only while the job trains.
    """

    faults: tuple[Fault, ...] = ()
    rate: float = 1.0
    clock: str = "calendar"
    script: Script | None = None

    def __bool__(self) -> bool:
        return bool(self.script is not None or self.faults)


@remember
def make_failures(section: Frozen) -> Failures:
    """Check the config section ``failure``; ``ValueError`` names the key."""
    values = values_of("failure", section, ("faults",))
    check_keys("failure", "failure", values, ("faults", "rate", "clock", "script"))
    path = values.get("script")
    if path == "???":
        raise ValueError("failure.script is not set: a file of failures (hops/scripts.py), such as output.failures writes")
    faults = tuple(_fault(name, inner) for name, _, inner in values.get("faults") or ())
    if path is not None and faults:
        raise ValueError("failure.script has the failures of a run: with it, failure.faults must be empty (try failure=file)")
    rate = positive("failure.rate", values.get("rate", 1.0), zero=True)
    clock = one_of("failure.clock", values.get("clock", "calendar"), ("calendar", "exposure"))
    return Failures(faults, rate, clock, None if path is None else read_script(str(path)))


def _fault(name: str, section: Any) -> Fault:
    key = f"failure.faults.{name}"
    if not isinstance(section, tuple):
        raise ValueError(f"{key} must be a section of keys; got {section!r}")
    values = values_of(key, section)
    check_keys(key, "a fault", values, KEYS)
    values = KEYS | values
    if values["mean"] is None:
        raise ValueError(f"{key}.mean is not set: the mean time between failures of one {values['scope']} [s]")

    def time(word: str) -> Lifetime:
        return make_lifetime(f"{key}.{word}", values[f"{word}_law"], values[word], values[f"{word}_shape"], zero=True)

    return Fault(
        name,
        one_of(f"{key}.kind", values["kind"], KINDS),
        str(values["scope"]),
        None if values["size"] is None else count(f"{key}.size", values["size"]),
        make_lifetime(key, values["law"], values["mean"], values["shape"], values["age"]),
        time("detection"),
        time("repair"),
        _batch(f"{key}.batch", values["batch"], values["law"]),
    )


def _batch(key: str, weights: Any, law: str) -> tuple[float, ...]:
    if weights is None:
        return (1.0,)
    if not isinstance(weights, tuple) or not weights:
        raise ValueError(f"{key} must list the weights of 1, 2, ... failing at once, such as [39,13,15]; got {weights!r}")
    if law != "exponential":
        raise ValueError(f"{key} needs law exponential, as other components fail by clocks of their own; got {law}")
    numbers = [positive(key, each, zero=True) for each in weights]
    if not sum(numbers):
        raise ValueError(f"{key} must not be all 0")
    return tuple(each / sum(numbers) for each in numbers)
