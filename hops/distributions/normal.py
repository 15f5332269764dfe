"""Normal, truncated at zero: symmetric jitter. The mean is 1 and the cv is as stated after the truncation."""

from hops.distributions import law


def _standard(cv: float) -> tuple[float, float]:
    """Location and scale of the normal that, cut at zero, has mean 1 and deviation ``cv``; by bisection of the cut."""
    import numpy as np
    from scipy.special import ndtr

    def moments(cut: float) -> tuple[float, float]:  # mean and deviation in units of the scale, location at -cut
        hazard = np.exp(-0.5 * cut * cut) / np.sqrt(2 * np.pi) / ndtr(-cut)
        return hazard - cut, np.sqrt(1 + cut * hazard - hazard * hazard)

    low, high = -1.0 / cv - 1.0, 0.0
    for _ in range(200):
        cut = 0.5 * (low + high)
        mean, deviation = moments(cut)
        low, high = (cut, high) if deviation / mean < cv else (low, cut)
    scale = 1.0 / moments(cut)[0]
    return -cut * scale, scale


@law(
    "normal",
    variance=lambda cv: cv**2,
    at_most={"cv": 0.5},
    support="(0, inf)",
    source="truncated normal; moments: Johnson, Kotz & Balakrishnan 1994, Continuous Univariate Distributions 1, 13.10",
)
def normal(u, *, cv: float = 0.05):  # type: ignore[no-untyped-def]
    import numpy as np
    from scipy.special import ndtr, ndtri

    location, scale = _standard(cv)
    below = ndtr(-location / scale)  # what the cut takes away
    upper = -ndtri((1 - u) * (1 - below))  # by the distance from the upper end, exact there
    lower = ndtri(below + u * (1 - below))
    return location + scale * np.where(u < 0.5, lower, upper)
