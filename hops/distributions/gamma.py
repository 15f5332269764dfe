"""Gamma: sums of exponential waits; a little skewed for small cv, exponential at cv = 1."""

from hops.distributions import law


@law(
    "gamma",
    variance=lambda cv: cv**2,
    at_most={"cv": 1.0},
    support="(0, inf)",
    source="shape = 1 / cv^2, scale = cv^2",
)
def gamma(u, *, cv: float = 0.05):  # type: ignore[no-untyped-def]
    import numpy as np
    from scipy.special import gammainccinv, gammaincinv

    shape = 1.0 / cv**2
    return np.where(u < 0.5, gammaincinv(shape, u), gammainccinv(shape, 1 - u)) / shape
