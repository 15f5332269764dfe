"""Injections: failures that are made to come at a certain time, or the moment a run enters a certain state; the key ``failure.chaos``."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hops.checks import count, no_such, one_of, positive, speed_of
from hops.scripts import KINDS
from hops.sections import is_section

KEYS = ("when", "what", "who", "scope", "times", "budget", "detection", "repair", "duration", "magnitude")
MOMENTS = ("detection", "recovery", "checkpoint", "join")  # and states of the recovery by their names
FOR_EVER = 1 << 20  # times


@dataclass(frozen=True)
class Injection:
    """``what`` happens to number ``who`` of a ``scope`` (null: any of them), at most so many ``times``; [s].

    When: in a ``state``; as an ``iteration`` of this number begins; or ``at`` a time and ``every`` so often from then on. In a state only
    while fewer than ``budget`` nodes have failed since training stopped.
    """

    what: str = KINDS[0]
    state: str | None = None
    iteration: int | None = None
    at: float | None = None
    every: float | None = None
    who: int | None = None
    scope: str = "node"
    times: int = 1
    budget: int = FOR_EVER
    detection: float = 30.0
    repair: float = 7200.0
    duration: float = 0.0
    speed: Fraction = Fraction(0)

    @property
    def stops(self) -> bool:
        """Whether it stops the job."""
        return self.what == KINDS[0]


def make_injections(value: Any) -> tuple[Injection, ...]:
    """Check the list; ``ValueError`` says what was found and what works."""
    if not isinstance(value, (list, tuple)) or (value and is_section(value)):
        raise ValueError(f"failure.chaos must be a list of sections, such as [{{when: {{state: recovery}}}}]; got {value!r}")
    return tuple(_injection(f"failure.chaos[{i}]", each) for i, each in enumerate(value))


def _section(key: str, value: Any, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, Mapping) and not (is_section(value) and value):
        raise ValueError(f"{key} must be a section of {', '.join(known)}; got {value!r}")
    found = dict(value) if isinstance(value, Mapping) else {name: each for name, _, each in value}
    for name in found:
        if name not in known:
            raise no_such(f"key of {key}", name, known)
    return {name: each for name, each in found.items() if each is not None}


def _injection(key: str, value: Any) -> Injection:
    given = _section(key, value, KEYS)
    when = _section(f"{key}.when", given.get("when"), ("state", "iteration", "at", "every"))
    if len(set(when) - {"every"}) + (set(when) == {"every"}) != 1 or ("every" in when and not set(when) <= {"at", "every"}):
        raise ValueError(f"{key}.when needs one of state, iteration, at (with every, or that alone); got {when}")
    what = one_of(f"{key}.what", given.get("what", KINDS[0]), KINDS)
    scope, who = str(given.get("scope", "node")), given.get("who", "any")
    if what == KINDS[0]:
        for name in ("duration", "magnitude"):
            if name in given:
                raise ValueError(f"{key}.{name} has no meaning for {what}; got {given[name]!r}")
        one_of(f"{key}.scope of what stops", scope, ("node",))
    elif "duration" not in given or ("magnitude" in given) == (what == "stall"):
        raise ValueError(f"{key}: {what} needs duration{'' if what == 'stall' else ', and magnitude, the speed that is left'}; got {given}")
    if "budget" in given and "state" not in when:
        raise ValueError(f"{key}.budget is of what comes in a state; got when: {when}")
    magnitude = speed_of(f"{key}.magnitude", given["magnitude"], 1) if "magnitude" in given else Fraction(0)
    if what not in (KINDS[0], "stall") and not magnitude:
        raise ValueError(f"{key}.magnitude=0 stands still (try what: stall)")
    every = positive(f"{key}.when.every", when["every"]) if "every" in when else None
    return Injection(
        what,
        str(when["state"]) if "state" in when else None,
        count(f"{key}.when.iteration", when["iteration"], least=0) if "iteration" in when else None,
        positive(f"{key}.when.at", when["at"], zero=True) if "at" in when else every,
        every,
        None if who in ("any", None) else count(f"{key}.who", who, least=0),
        scope,
        count(f"{key}.times", given.get("times", 1 if every is None else FOR_EVER), most=FOR_EVER),
        count(f"{key}.budget", given.get("budget", FOR_EVER), most=FOR_EVER),
        positive(f"{key}.detection", given.get("detection", 30.0), zero=True),
        positive(f"{key}.repair", given.get("repair", 7200.0), zero=True),
        positive(f"{key}.duration", given.get("duration", 0.0), zero=what == KINDS[0]),
        magnitude,
    )
