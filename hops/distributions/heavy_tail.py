"""Heavy tail: log-normal for 99 % of the cases, a Pareto tail for the rest: rare ops that take many times as long.

``cv`` is that of the log-normal body, ``alpha`` the tail's exponent; the variance is infinite for alpha <= 2.
"""

from hops.distributions import law

TAIL = 41 / 4096  # share of the tail, 1.001 %: a knot of the engine's table, so that the kink at its start is exact


def _parts(cv: float, alpha: float) -> tuple[float, float, float, float]:
    """Sigma, value where the tail begins, first and second moment, all before the mean is made 1."""
    import numpy as np
    from scipy.special import ndtr, ndtri

    sigma = float(np.sqrt(np.log1p(cv * cv)))
    start = float(np.exp(sigma * ndtri(1 - TAIL)))
    body = [float(np.exp(0.5 * (n * sigma) ** 2) * ndtr(ndtri(1 - TAIL) - n * sigma)) for n in (1, 2)]
    tail = [TAIL * start**n * (alpha / (alpha - n) if alpha > n else np.inf) for n in (1, 2)]
    return sigma, start, body[0] + tail[0], body[1] + tail[1]


def _variance(cv: float, alpha: float) -> float:
    _, _, first, second = _parts(cv, alpha)
    return second / first**2 - 1


@law(
    "heavy_tail",
    variance=_variance,
    at_most={"cv": 1.0, "alpha": 100.0},
    at_least={"alpha": 1.5},
    support="(0, inf)",
    source="log-normal body, Pareto tail x^-alpha; the tail's mean is alpha / (alpha - 1) times its start",
)
def heavy_tail(u, *, cv: float = 0.05, alpha: float = 3.0):  # type: ignore[no-untyped-def]
    import numpy as np
    from scipy.special import ndtri

    sigma, start, mean, _ = _parts(cv, alpha)
    tail = start * (np.maximum(1 - u, 1e-300) / TAIL) ** (-1 / alpha)
    return np.where(u <= 1 - TAIL, np.exp(sigma * ndtri(np.minimum(u, 1 - TAIL))), tail) / mean
