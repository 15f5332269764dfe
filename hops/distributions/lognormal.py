"""Log-normal: many small independent slowdowns that multiply; skewed to the slow side, as kernels are measured."""

from hops.distributions import law


@law(
    "lognormal",
    variance=lambda cv: cv**2,
    at_most={"cv": 1.0},
    support="(0, inf)",
    source="sigma^2 = log(1 + cv^2), median = exp(-sigma^2 / 2)",
)
def lognormal(u, *, cv: float = 0.05):  # type: ignore[no-untyped-def]
    import numpy as np
    from scipy.special import ndtri

    sigma = np.sqrt(np.log1p(cv * cv))
    return np.exp(sigma * ndtri(u) - 0.5 * sigma * sigma)
