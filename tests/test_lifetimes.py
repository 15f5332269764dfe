"""Lifetimes: what the engine draws follows the law that was asked for; so does what is left of one that has begun."""

import functools

import numpy as np
import pytest
import scipy.stats as stats

from hops.clocks import random_time
from hops.jit import kernel
from hops.lifetimes import SHAPES, make_lifetime
from hops.noise import philox

N = 100_000
LEAST = 1e-6  # p value: one in a million sound samples would fail


@kernel
def sample(mean, table, times):
    for i in range(times.size):
        bits, _, _, _ = philox(np.uint32(i), np.uint32(0), np.uint32(0), np.uint32(16), np.uint32(7), np.uint32(0))
        times[i] = random_time(mean, table, bits)


def drawn(table):
    """Ticks over the mean, 1 s; rounding is far below what a test of 1e5 draws can see."""
    times = np.empty(N, np.int64)
    sample(1e9, table, times)
    return times / 1e9


def law(name, shape):
    """The frozen law of mean 1, from scipy.stats."""
    return {
        "exponential": lambda: stats.expon(),
        "weibull": lambda: stats.weibull_min(shape, scale=1 / stats.weibull_min(shape).mean()),
        "gamma": lambda: stats.gamma(shape, scale=1 / shape),
        "lognormal": lambda: stats.lognorm(np.sqrt(np.log1p(shape**2)), scale=1 / np.sqrt(1 + shape**2)),
        "uniform": lambda: stats.uniform(0, 2),
    }[name]()


CASES = [("exponential", None), ("weibull", 0.5), ("weibull", 0.78), ("weibull", 1.5), ("gamma", 0.5), ("gamma", 4.0), ("lognormal", 2.0)]
CASES += [("uniform", None)]


def lifetime(name, shape, age):
    return make_lifetime("fault", name, 1.0, shape, age)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_fresh__follows_its_law(name, shape):
    first, later = lifetime(name, shape, "fresh").tables()
    assert first is later
    assert stats.kstest(drawn(first), law(name, shape).cdf).pvalue > LEAST
    assert drawn(first).mean() == pytest.approx(1, abs=6 * law(name, shape).std() / np.sqrt(N))


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_stationary__is_what_is_left_at_a_random_moment(name, shape):
    """Density 1 - F: the distribution is the integral of it."""
    known = law(name, shape)
    x = np.geomspace(1e-9, known.ppf(1 - 1e-10), 4000)
    upto = np.concatenate([[0], np.cumsum(np.diff(x) * (known.sf(x[1:]) + known.sf(x[:-1])) / 2)])
    first, _ = lifetime(name, shape, "stationary").tables()
    assert stats.kstest(drawn(first), functools.partial(np.interp, xp=x, fp=upto)).pvalue > LEAST


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_aged__is_what_is_left_of_those_that_reached_it(name, shape):
    known, age = law(name, shape), 0.7
    first, _ = lifetime(name, shape, age).tables()
    assert stats.kstest(drawn(first), lambda x: (known.cdf(x + age) - known.cdf(age)) / known.sf(age)).pvalue > LEAST


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_shapes__say_the_same_three_times(name, shape):
    """Quantile and distribution undo each other; the mean of min(X, x) ends at 1, and grows as 1 - F."""
    form, u = SHAPES[name], np.linspace(0.01, 0.99, 99)
    x = form.quantile(u, shape or 1.0)
    assert form.probability(x, shape or 1.0) == pytest.approx(u, rel=1e-9)
    step = 1e-6 * x
    slope = (form.partial(x + step, shape or 1.0) - form.partial(x - step, shape or 1.0)) / (2 * step)
    assert slope == pytest.approx(1 - u, rel=1e-5)


def test_constant__is_periodic():
    first, later = lifetime("constant", None, 0.25).tables()
    assert (drawn(later) == 1).all()
    assert (drawn(first) == 0.75).all()
    phases = drawn(lifetime("constant", None, "stationary").tables()[0])
    assert stats.kstest(phases, stats.uniform(0, 1).cdf).pvalue > LEAST


def test_age__beyond_all_lifetimes_is_refused():
    with pytest.raises(ValueError, match="no uniform lifetime reaches an age of 2.5 times its mean"):
        lifetime("uniform", None, 2.5).tables()
