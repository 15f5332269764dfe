"""What a value from a user must be; each refusal says what was asked, what was found and what would work."""

import difflib
from collections.abc import Iterable, Sequence
from fractions import Fraction
from math import inf

FINEST = 1000  # speeds are fractions with denominators up to this; what remains of an op's work, times it, must fit 63 bits
AUTO, FIRST_DRAWS = "auto", 256


class Infeasible(ValueError):
    """A size that a schedule, model or topology cannot serve: a single run is refused, a sweep leaves the cell out."""


def no_such(noun: str, asked: object, known: Iterable[str]) -> ValueError:
    """Build the error for an unknown name: what was asked, the nearest, all that would work."""
    names = sorted(known)
    close = nearest(asked, names)
    guess = f"; did you mean '{close}'?" if close else ""
    return ValueError(f"no {noun} named {str(asked)!r}{guess} (known: {', '.join(names)})")


def nearest(asked: object, known: Iterable[str]) -> str | None:
    """The known name that ``asked`` was probably meant to be."""
    lowered = {str(name).lower(): name for name in known}
    return next((lowered[close] for close in difflib.get_close_matches(str(asked).lower(), lowered, n=1)), None)


def one_of(key: str, value: object, known: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``known``."""
    if value not in known:
        raise no_such(key, value, known)
    return str(value)


def count(key: str, value: object, *, least: int = 1, most: int | None = None) -> int:
    """Return ``value`` as an int; whole floats (``1e6``) are counts too."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    whole = whole or (isinstance(value, float) and value.is_integer())
    if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{key} must be a whole number {limits}; got {value!r}")
    return int(value)  # type: ignore[call-overload, no-any-return]


def draws(value: object) -> int:
    """Sampled iterations that are asked for; of ``auto`` as many as are tried first."""
    if isinstance(value, str) and value != AUTO:
        raise ValueError(f"draws must be a whole number of at least 1, or {AUTO}; got {value!r}")
    return FIRST_DRAWS if value == AUTO else count("draws", value, most=2**33)  # what fits the noise address


def positive(key: str, value: object, *, zero: bool = False, infinite: bool = False) -> float:
    """Return ``value`` as a float above 0 (or 0 itself with ``zero``) and finite (unless ``infinite``); never NaN."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (value > 0 or (zero and value == 0)) or (value == inf and not infinite):  # type: ignore[operator]
        wanted = "at least 0" if zero else "above 0"
        raise ValueError(f"{key} must be a {'' if infinite else 'finite '}number {wanted}; got {value!r}")
    return float(value)  # type: ignore[arg-type]


def speed_of(key: str, value: object, most: int, *, zero: bool = True) -> Fraction:
    """The nearest fraction that the engine counts with; with ``zero`` also 0."""
    number = positive(key, value, zero=True)
    if number > most or (number < 1 / FINEST and not (zero and number == 0)):
        raise ValueError(f"{key} must be {'0, or ' * zero}from {1 / FINEST} to {most}; got {value!r}")
    return Fraction(number).limit_denominator(FINEST)


def flag(key: str, value: object) -> bool:
    """Return ``value`` if it is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false; got {value!r}")
    return value
