"""Any continuous law of scipy.stats, by its name there and its parameters (shapes, ``loc``, ``scale``); divided by its mean."""

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from hops.checks import Infeasible, nearest
from hops.distributions import law

WORST = 1e-4  # error of the engine's table that is accepted, relative to the value, or to a hundredth of the mean below that

SLOWEST = 2e-3  # seconds a quantile, beyond which a table would take a quarter of a minute


def _check(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    from scipy import stats

    known = {name for name in dir(stats) if isinstance(getattr(stats, name), stats.rv_continuous)}
    distribution, given = values.get("distribution"), values.get("parameters") or ()
    if distribution is None:
        raise Infeasible(f"{prefix}.distribution is not set; law scipy needs a name from scipy.stats, such as burr12")
    if distribution not in known:
        close = nearest(distribution, sorted(known))
        guess = f"; did you mean '{close}'?" if close else ""
        raise ValueError(f"{prefix}.distribution: scipy.stats has no continuous law named {str(distribution)!r}{guess}")
    parameters = tuple((key, value) for key, _, value in given)
    for key, value in parameters:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{prefix}.parameters.{key} must be a number; got {value!r}")
    found = {"distribution": str(distribution), "parameters": parameters}
    asked = f"{prefix}: {distribution}({', '.join(f'{key}={value}' for key, value in parameters)})"
    takes = [*filter(None, (getattr(stats, distribution).shapes or "").split(", ")), "loc", "scale"]
    try:
        mean, (low, _) = _frozen(**found).mean(), _frozen(**found).support()
    except TypeError as error:
        raise ValueError(f"{asked}: it takes {', '.join(takes)}") from error
    if not (low >= 0 and 0 < mean < float("inf")):
        raise ValueError(f"{asked} must have a support from 0 on and a finite mean; got a support from {low:g} and a mean of {mean:g}")
    _check_table(asked, found)
    return found


def _check_table(asked: str, found: Mapping[str, Any]) -> None:
    """Refuse a quantile function that the engine's table (64 cells an octave of both tails) would cut corners of."""
    import numpy as np

    begin = time.perf_counter()
    scipy(np.append(0.5 ** np.arange(1, 33, 4), 1 - 0.5 ** np.arange(1, 33, 4)), **found)  # tails are the slowest
    took = (time.perf_counter() - begin) / 16
    if took > SLOWEST:
        raise ValueError(f"{asked} is too slow: a quantile takes {took * 1e3:.2g} ms, and a table needs 8,000 of them")
    knots = np.ldexp(1 + np.arange(64) / 64, np.arange(-33, -1)[:, None]).ravel()
    knots = np.append(knots, 0.5)
    middle = (knots[1:] + knots[:-1]) / 2
    for at, between in ((knots, middle), (1 - knots, 1 - middle)):
        q, exact = scipy(at, **found), scipy(between, **found)
        error = float(np.max(np.abs((q[1:] + q[:-1]) / 2 - exact) / np.maximum(exact, 0.01)))
        if not error <= WORST:
            raise ValueError(
                f"{asked} bends too sharply for a table: its error would be {error:.1g} of the value; at most {WORST:g} is accepted"
            )


@lru_cache(maxsize=64)
def _frozen(distribution: str, parameters: tuple[tuple[str, Any], ...]) -> Any:
    from scipy import stats

    return getattr(stats, distribution)(**dict(parameters))


def _variance(**found: Any) -> float:
    return float(_frozen(**found).var() / _frozen(**found).mean() ** 2)


@law("scipy", check=_check, variance=_variance, support="the law's own, from 0 on", source="docs.scipy.org/doc/scipy/reference/stats.html")
def scipy(u, *, distribution: str | None = None, parameters: Any = None):  # type: ignore[no-untyped-def]
    import numpy as np

    frozen = _frozen(distribution, parameters or ())
    return np.where(u < 0.5, frozen.ppf(u), frozen.isf(1 - u)) / frozen.mean()
