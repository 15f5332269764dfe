"""Faults: what can fail, how often, how it is noticed and repaired. Values only; `hops.hazards` finds them on a cluster."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from zlib import crc32

from hops.checks import count, one_of, positive, speed_of
from hops.injections import Injection, make_injections
from hops.lifetimes import FRESH, STATIONARY, Lifetime, make_lifetime
from hops.scripts import Script, read_script
from hops.sections import Frozen, check_keys, remember, values_of

STOPS, SLOW, BANDWIDTH, STALL = KINDS = ("fail_stop", "slow", "bandwidth", "stall")
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
    "speed": None,
    "bandwidth": None,
    "duration": None,
    "duration_law": "constant",
    "duration_shape": None,
}
AT_ONCE = Lifetime("constant", 0.0, None, FRESH)
TIMEOUT = 600.0  # s: what a collective waits before it gives up, about 10 min by default (failures.md 1.3: ByteRobust, as cited)


@dataclass(frozen=True)
class Fault:
    """One way to fail: a component of ``scope`` stops, with all in it; or works at ``speed`` for a ``duration``, and nothing is lost.

    ``scope`` is "device", "node", "job", the name of a level of the cluster's network, or any other word (rack, power domain) with
    ``size`` nodes each; of what loses bandwidth, or stands still, also the name of a link (NIC), or of a class of paths (NET).
    Every component has a lifetime of its own; of exponential ones the first to end is drawn, and which
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
    speed: Fraction = Fraction(0)  # of what does not stop; of what loses bandwidth: what is left of it
    duration: Lifetime = AT_ONCE

    @property
    def stops(self) -> bool:
        """Whether it stops the job."""
        return self.kind == STOPS

    @property
    def identity(self) -> int:
        """What it is called in the address of its random numbers: the same whatever other faults there are."""
        return crc32(self.name.encode())


@dataclass(frozen=True)
class Failures:
    """All faults of a run; ``rate`` multiplies how often they come, ``script`` has failures in place of drawn ones.

    ``clock`` says when components age: "calendar", or "exposure", only while the job trains; what slows it follows the calendar.
    A stall that lasts longer than ``timeout`` [s] of training becomes a failure of its node (null: it is waited for).
    """

    faults: tuple[Fault, ...] = ()
    rate: float = 1.0
    clock: str = "calendar"
    script: Script | None = None
    timeout: float | None = TIMEOUT
    chaos: tuple[Injection, ...] = ()

    @property
    def slows(self) -> bool:
        """Whether there are any that slow the job, and do not stop it."""
        lines = [line for lines in self.script or () for line in lines]
        kinds = [fault.kind for fault in self.faults] + [each.what for each in self.chaos] + [line.kind for line in lines]
        return any(kind != STOPS for kind in kinds)

    def __bool__(self) -> bool:
        return bool(self.script is not None or self.faults or self.chaos)


@remember
def make_failures(section: Frozen) -> Failures:
    """Check the config section ``failure``; ``ValueError`` names the key."""
    values = values_of("failure", section, ("faults",))
    check_keys("failure", "failure", values, ("faults", "rate", "clock", "script", "timeout", "chaos"))
    path = values.get("script")
    if path == "???":
        raise ValueError("failure.script is not set: a file of failures (hops/scripts.py), such as output.failures writes")
    faults = tuple(_fault(name, inner) for name, _, inner in values.get("faults") or ())
    if path is not None and faults:
        raise ValueError("failure.script has the failures of a run: with it, failure.faults must be empty (try failure=file)")
    rate = positive("failure.rate", values.get("rate", 1.0), zero=True)
    clock = one_of("failure.clock", values.get("clock", "calendar"), ("calendar", "exposure"))
    timeout = values.get("timeout", TIMEOUT)
    timeout = None if timeout is None else positive("failure.timeout", timeout)
    chaos = make_injections(values.get("chaos") or ())
    if chaos and clock == "exposure":
        raise ValueError("failure.chaos comes by the calendar and by states of the run: it needs failure.clock=calendar; got exposure")
    return Failures(faults, rate, clock, None if path is None else read_script(str(path)), timeout, chaos)


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

    kind = one_of(f"{key}.kind", values["kind"], KINDS)
    needed = {SLOW: "speed", BANDWIDTH: "bandwidth"}.get(kind)
    for word in ("speed", "bandwidth", "duration"):
        wanted = word == needed or (word == "duration" and kind != STOPS)
        if wanted and values[word] is None:
            raise ValueError(f"{key}.{word} is not set; a fault of kind {kind} needs it")
        if not wanted and values[word] is not None:
            raise ValueError(f"{key}.{word} has no meaning for a fault of kind {kind}; got {values[word]!r}")
    speed = Fraction(0) if needed is None else speed_of(f"{key}.{needed}", values[needed], 1)
    if needed is not None and not speed:
        raise ValueError(f"{key}.{needed}=0 stands still (try kind: stall)")
    return Fault(
        name,
        kind,
        str(values["scope"]),
        None if values["size"] is None else count(f"{key}.size", values["size"]),
        make_lifetime(key, values["law"], values["mean"], values["shape"], values["age"]),
        time("detection"),
        time("repair"),
        _batch(f"{key}.batch", values["batch"], values["law"]),
        speed,
        AT_ONCE if kind == STOPS else time("duration"),
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
