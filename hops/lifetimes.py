"""Lifetimes: how long until something fails, is detected or repaired, as quantile functions of mean 1.

Unlike the laws of latency (``hops.distributions``) these may vary by more than their mean, and a lifetime may have begun
before the run: what is left of it follows another law, by the age that is given.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isinf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.checks import one_of, positive
from hops.noise import compiled

type Floats = NDArray[np.float64]
type Function = Callable[[Any, float], Any]  # (values, shape) -> values

FRESH, STATIONARY = "fresh", "stationary"


class Shape(NamedTuple):
    """A law of mean 1: quantiles, distribution, and the mean of min(X, x), of which the residual life is made."""

    quantile: Function
    probability: Function
    partial: Function
    least: float  # of the shape parameter; nan: the law has none
    meaning: str


@dataclass(frozen=True)
class Lifetime:
    """A random time: ``law`` and its mean [s]; ``shape`` is k of Weibull and gamma, the cv of lognormal.

    ``age`` says how old the first one is as the run begins: "fresh" (0), "stationary" (as old as one finds it at any time: what is
    left follows the equilibrium law), or seconds. Those after it are fresh. A mean of infinity: never.
    """

    law: str = "exponential"
    mean: float = inf
    shape: float | None = None
    age: str | float = STATIONARY

    def tables(self) -> tuple[Floats, Floats]:
        """Quantile tables of the first and of all later ones, in units of the mean: (2 SIDE, 2)."""
        fresh = _fresh(self.law, self.shape)
        if self.age == FRESH or isinf(self.mean):
            return fresh, fresh
        return _residual(self.law, self.shape, None if self.age == STATIONARY else float(self.age) / self.mean), fresh


def make_lifetime(key: str, law: object, mean: object, shape: object, age: object = FRESH, *, zero: bool = False) -> Lifetime:
    """Check what the config says of a random time; ``zero``: a mean of 0 is one."""
    name = one_of(f"{key}_law" if zero else f"{key}.law", law, list(SHAPES))
    least, meaning = SHAPES[name].least, SHAPES[name].meaning
    noun = f"{key}_shape" if zero else f"{key}.shape"
    if np.isnan(least):
        if shape is not None:
            raise ValueError(f"{noun} has no meaning for law {name}; got {shape!r}")
    elif shape is None or not least <= positive(noun, shape) <= 100:
        raise ValueError(f"{noun} ({meaning}) must be a number from {least:g} to 100 for law {name}; got {shape!r}")
    seconds = positive(key if zero else f"{key}.mean", mean, zero=zero, infinite=True)
    if age not in (FRESH, STATIONARY):
        age = positive(f"{key}.age", age, zero=True) if not isinstance(age, str) else one_of(f"{key}.age", age, (FRESH, STATIONARY))
    return Lifetime(name, seconds, None if shape is None else float(shape), age)  # type: ignore[arg-type]


@lru_cache(maxsize=256)  # 64 kB each
def _fresh(law: str, shape: float | None) -> Floats:
    """Rescaled, so that the table's own mean is 1."""
    table, mean = compiled(lambda u: SHAPES[law].quantile(u, shape or 1.0))
    return _final(table / mean)


@lru_cache(maxsize=256)
def _residual(law: str, shape: float | None, age: float | None) -> Floats:
    """What is left: at a random moment, density 1 - F; or at an ``age`` in units of the mean, conditioned on having reached it."""
    form, k = SHAPES[law], shape or 1.0
    if age is None:
        return _final(compiled(lambda u: _inverse(lambda x: form.partial(x, k), u))[0])
    gone = float(form.probability(np.array([age]), k)[0])
    if not gone < 1:
        raise ValueError(f"no {law} lifetime reaches an age of {age:.4g} times its mean (try a younger age)")
    return _final(compiled(lambda u: np.maximum(form.quantile(gone + u * (1 - gone), k) - age, 0))[0])


def _final(table: Floats) -> Floats:
    table.flags.writeable = False
    return table


def _inverse(rising: Callable[[Floats], Any], u: Floats) -> Floats:
    """x at which ``rising`` from 0 to 1 reaches ``u``; by bisection of logarithms, to the last bits."""
    low, high = np.full(u.shape, -200.0), np.full(u.shape, 200.0)
    for _ in range(100):
        middle = (low + high) / 2
        above = rising(np.exp(middle)) > u
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.exp(high)


def _weibull(u: Any, k: float) -> Any:
    from scipy.special import gamma

    return (-np.log1p(-u)) ** (1 / k) / gamma(1 + 1 / k)


def _weibull_probability(x: Any, k: float) -> Any:
    from scipy.special import gamma

    return -np.expm1(-((x * gamma(1 + 1 / k)) ** k))


def _weibull_partial(x: Any, k: float) -> Any:
    from scipy.special import gamma, gammainc

    return gammainc(1 / k, (x * gamma(1 + 1 / k)) ** k)


def _gamma(u: Any, k: float) -> Any:
    from scipy.special import gammaincinv

    return gammaincinv(k, u) / k


def _gamma_probability(x: Any, k: float) -> Any:
    from scipy.special import gammainc

    return gammainc(k, k * x)


def _gamma_partial(x: Any, k: float) -> Any:
    from scipy.special import gammainc, gammaincc

    return gammainc(k + 1, k * x) + x * gammaincc(k, k * x)


def _lognormal(u: Any, cv: float) -> Any:
    from scipy.special import ndtri

    s = np.sqrt(np.log1p(cv * cv))
    return np.exp(s * ndtri(u) - s * s / 2)


def _lognormal_probability(x: Any, cv: float) -> Any:
    from scipy.special import ndtr

    s = np.sqrt(np.log1p(cv * cv))
    return ndtr((np.log(x) + s * s / 2) / s)


def _lognormal_partial(x: Any, cv: float) -> Any:
    from scipy.special import ndtr

    s = np.sqrt(np.log1p(cv * cv))
    z = np.log(x) / s
    return ndtr(z - s / 2) + x * ndtr(-z - s / 2)


# Johnson, Kotz & Balakrishnan 1994, Continuous Univariate Distributions; the mean of min(X, x) is the equilibrium distribution (Cox 1962)
SHAPES = {
    "exponential": Shape(
        lambda u, _: -np.log1p(-u), lambda x, _: -np.expm1(-x), lambda x, _: -np.expm1(-x), np.nan, "a constant rate: has no memory"
    ),
    "weibull": Shape(_weibull, _weibull_probability, _weibull_partial, 0.3, "k: below 1 the young fail more"),
    "gamma": Shape(_gamma, _gamma_probability, _gamma_partial, 0.1, "k: below 1 the young fail more"),
    "lognormal": Shape(_lognormal, _lognormal_probability, _lognormal_partial, 0.01, "coefficient of variation"),
    "uniform": Shape(
        lambda u, _: 2 * u,
        lambda x, _: np.minimum(x / 2, 1),
        lambda x, _: 1 - np.maximum(1 - x / 2, 0) ** 2,
        np.nan,
        "from 0 to twice the mean",
    ),
    "constant": Shape(
        lambda u, _: np.ones_like(u), lambda x, _: (x >= 1) + 0.0, lambda x, _: np.minimum(x, 1), np.nan, "periodic arrivals"
    ),
}
