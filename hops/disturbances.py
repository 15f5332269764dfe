"""Disturbances: what is slow, or stands still, for a while of an iteration; the config key ``disturbance``.

A GPU or a rank that computes more slowly (thermal throttling, a failing fan), a link that is down for some seconds (flaps) or has lost some
of its bandwidth (a rail, congestion): they only stretch what would have happened anyway.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from typing import Any

from hops.checks import FINEST, count, no_such, positive, speed_of
from hops.sections import is_section

SCOPES = ("device", "node", "rank", "link")


@dataclass(frozen=True)
class Disturbance:
    """``speed`` of what is selected from ``start`` on for ``duration`` [s], 1 being its own; of a link its ``bandwidth`` alone.

    Everything that crosses a link goes at its speed, latency included; of its bandwidth only what the link limits feels a loss.
    """

    scope: str
    which: tuple[int | str, ...]  # numbers, or names of links or path classes
    speed: Fraction
    start: float = 0.0
    duration: float = inf
    replica: int | None = None  # of a rank; None: in all of them
    bandwidth: bool = False

    def __str__(self) -> str:
        names = ", ".join(map(str, self.which)) + ("" if self.replica is None else f" of replica {self.replica}")
        how = "stands still" if not self.speed else f"has {'bandwidth' if self.bandwidth else 'speed'} {float(self.speed):g}"
        end = "" if self.duration == inf else f" for {self.duration:g} s"
        return f"{self.scope} {names} {how} from {self.start:g} s on{end}"


def make_disturbances(value: Any) -> tuple[Disturbance, ...]:
    """Check the config key ``disturbance``: a list of sections; ``ValueError`` names what was found and what works."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"disturbance must be a list of sections, such as [{{rank: 3, speed: 0.5}}]; got {value!r}")
    return tuple(_disturbance(each) for each in value)


def _disturbance(item: Any) -> Disturbance:
    if is_section(item):  # from an axis
        item = {key: each for key, _, each in item}
    if not isinstance(item, Mapping):
        raise ValueError(f"disturbance must list sections, such as {{rank: 3, speed: 0.5}}; got {item!r}")
    known = (*SCOPES, "replica", "start", "duration", "speed", "bandwidth")
    for key in item:
        if key not in known:
            raise no_such("key of a disturbance", key, known)
    given = {key: each for key, each in item.items() if each is not None}
    scopes, words = [key for key in SCOPES if key in given], [key for key in ("speed", "bandwidth") if key in given]
    if len(scopes) != 1:
        raise ValueError(f"a disturbance needs one of {', '.join(SCOPES)}; got {dict(item)}")
    scope = scopes[0]
    if len(words) != 1 or (words[0] == "bandwidth" and scope != "link"):
        raise ValueError(f"a disturbance needs speed, or of a link its bandwidth in place of it; got {dict(item)}")
    word, asked = words[0], given[scope]
    start = positive("disturbance.start", given.get("start", 0.0), zero=True)
    duration = positive("disturbance.duration", given.get("duration", inf), infinite=True)
    if "replica" in given and scope != "rank":
        raise ValueError(f"disturbance.replica is of a rank; a {scope} has none")
    many = asked if isinstance(asked, (list, tuple)) else [asked]
    if not many:
        raise ValueError(f"disturbance.{scope} names nothing")
    which = tuple(_name(each) if scope == "link" else count(f"disturbance.{scope}", each, least=0) for each in many)
    speed = speed_of(f"disturbance.{word}", given[word], 1 if scope == "link" else FINEST)
    if not speed and duration == inf:
        raise ValueError(f"disturbance.{word}=0 of {scope} {asked} needs a duration: what stands still for ever never ends")
    replica = count("disturbance.replica", given["replica"], least=0) if "replica" in given else None
    return Disturbance(scope, which, speed, start, duration, replica, word == "bandwidth")


def _name(asked: Any) -> str:
    if not isinstance(asked, str) or not asked:
        raise ValueError(f"disturbance.link takes names of links or classes of paths, such as NIC or NET; got {asked!r}")
    return asked
