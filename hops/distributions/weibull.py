"""Weibull: for small cv skewed to the fast side (the slowest cases are near the mean), exponential at cv = 1."""

from hops.distributions import law


def _shape(cv: float) -> float:
    """Shape whose coefficient of variation is ``cv``; by bisection, as it falls steadily with the shape."""
    import numpy as np
    from scipy.special import gammaln

    low, high = 0.5, 1e4
    for _ in range(200):
        shape = np.sqrt(low * high)
        found = np.sqrt(np.expm1(gammaln(1 + 2 / shape) - 2 * gammaln(1 + 1 / shape)))
        low, high = (shape, high) if found > cv else (low, shape)
    return float(shape)


@law(
    "weibull",
    variance=lambda cv: cv**2,
    at_most={"cv": 1.0},
    support="(0, inf)",
    source="scale = 1 / Gamma(1 + 1/k), cv^2 = Gamma(1 + 2/k) / Gamma(1 + 1/k)^2 - 1",
)
def weibull(u, *, cv: float = 0.05):  # type: ignore[no-untyped-def]
    import numpy as np
    from scipy.special import gamma

    shape = _shape(cv)
    return (-np.log1p(-u)) ** (1 / shape) / gamma(1 + 1 / shape)
