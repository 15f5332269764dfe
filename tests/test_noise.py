"""Noise: Philox known answers, addresses, and quantile tables against the laws they compile."""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import twin

from hops import noise
from hops.checks import Infeasible
from hops.distributions import LAWS

SAMPLE = Path(tempfile.mkdtemp()) / "sample.csv"
SAMPLE.write_text("op,ms\n" + "".join(f"F,{40 + 3 * np.sin(i) + i % 7}\n" for i in range(400)))

# laws whose parameters are no plain numbers: what to try them with
EXAMPLES = {
    "empirical": [{"file": str(SAMPLE), "column": "ms"}],
    "scipy": [
        {"distribution": "burr12", "parameters": (("c", float, 8.0), ("d", float, 2.0))},
        {"distribution": "invgauss", "parameters": (("mu", float, 0.1), ("loc", float, 1.0), ("scale", float, 3.0))},
    ],
}
PLAIN = {name: law for name, law in LAWS.items() if law.check is None}
LARGEST = {name: tuple(sorted(law.at_most.items())) for name, law in PLAIN.items()}
SMALL = {name: tuple((key, LAWS[name].at_least.get(key, value / 50)) for key, value in values) for name, values in LARGEST.items()}

every_law = pytest.mark.parametrize(
    ("name", "parameters"),
    [(n, p) for n in PLAIN for p in (tuple(sorted(LAWS[n].parameters.items())), LARGEST[n], SMALL[n])]
    + [(n, tuple(sorted(LAWS[n].checked("latency.op", given).items()))) for n, every in EXAMPLES.items() for given in every],
)


def factors(identity=0, seed=0, lo=0, hi=256, window=0, name="lognormal", parameters=(("cv", 0.05),)):
    """Factors of draws lo..hi of a window, from the kernel."""
    words, distance, cell = np.zeros((4, 64), np.uint32), np.zeros(256), np.zeros(256, np.int64)
    found = np.full((1, 256), np.nan)
    table = noise.quantile_table(name, parameters)
    noise.draw_factors(
        window, lo, hi, np.uint32(identity), 0, 1, np.uint64(seed), table,
        words, words.reshape(-1), distance, distance.view(np.int64), cell, found, 0,
    )  # fmt: skip
    return found[0, : hi - lo], words


@pytest.mark.parametrize(
    ("word", "answer"),
    [(0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)), (0xFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD))],
)
def test_philox__known_answers(word, answer):
    kernel = tuple(int(each) for each in noise.philox(*[np.uint32(word)] * 6))
    assert kernel == answer == twin.philox((word,) * 4, (word,) * 2)


def test_words__are_those_of_the_twin():
    identity = noise.op_identity(3, True, 17)
    assert identity == twin.op_identity(3, True, 17)
    _, words = factors(identity=identity, seed=5, window=2)
    draws = range(512, 768)
    assert words.reshape(-1).tolist() == [twin.random_bits(5, draw, twin.op_identity(3, True, 17)) for draw in draws]


@every_law
def test_factors__are_those_of_the_twin(name, parameters):
    table = twin.Table(lambda u: LAWS[name].ppf(u, **dict(parameters)))
    kernel, words = factors(identity=noise.op_identity(1, False, 2), seed=9, name=name, parameters=parameters)
    assert kernel.tolist() == [table.factor(int(bits)) for bits in words.reshape(-1)]


@pytest.mark.parametrize(("lo", "hi"), [(0, 1), (63, 64), (64, 65), (60, 70), (100, 120), (255, 256), (0, 256), (1, 255)])
def test_factors__of_some_draws_are_those_of_all(lo, hi):
    everything, _ = factors(identity=77, seed=3)
    some, _ = factors(identity=77, seed=3, lo=lo, hi=hi)
    assert some.tolist() == everything[lo:hi].tolist()


@every_law
def test_table__follows_the_quantile_function(name, parameters):
    """Relative error at most 1e-4 anywhere in 2^-33 .. 1 - 2^-33, at the worst point between knots and at random."""
    law, table = LAWS[name], noise.quantile_table(name, parameters)
    rng = np.random.Generator(np.random.PCG64(1))
    n = 20_000 if name in ("scipy", "gamma") else 200_000  # which invert their distribution by iteration
    v = np.concatenate([rng.integers(0, 2**31, n), 2 ** rng.uniform(0, 31, n)]).astype(np.int64)
    w = v + 0.5
    exponent = np.floor(np.log2(w)).astype(np.int64)
    cell = (exponent + 1) * noise.KNOTS + np.floor((w / 2.0**exponent - 1) * noise.KNOTS).astype(np.int64)
    for side, u in enumerate((w / 2**32, 1 - w / 2**32)):
        ours = table[cell + side * noise.SIDE, 0] + table[cell + side * noise.SIDE, 1] * w
        theirs = law.ppf(u, **dict(parameters))
        allowed = 0.0
        if name == "empirical":  # bends at its own values: the table equals it at the knots and cuts corners in between
            low, high = (law.ppf(np.abs(side - knot), **dict(parameters)) for knot in cell_ends(w))
            allowed = np.abs(high - low)
        worst = (np.maximum(np.abs(ours - theirs) - allowed, 0) / theirs).max()
        print(f"{name} {dict(parameters)} side {side}: worst relative error {worst:.2e}")
        assert worst <= 1e-4


def cell_ends(w):
    """Probabilities at the knots below and above ``w``, as distances from the nearer end."""
    octave = 2.0 ** np.floor(np.log2(w))
    below = octave * (1 + np.floor((w / octave - 1) * noise.KNOTS) / noise.KNOTS)
    return below / 2**32, (below + octave / noise.KNOTS) / 2**32


@every_law
def test_table__has_mean_one_and_the_laws_variance(name, parameters):
    table = twin.Table(lambda u: LAWS[name].ppf(u, **dict(parameters)))
    assert abs(float(table.exact_mean() - 1)) < 1e-14
    compiled = noise.quantile_table(name, parameters)
    slope = [[table._line(side, i)[1] / table.mean for i in range(noise.SIDE)] for side in (0, 1)]
    assert compiled[:, 1].tolist() == [*slope[0], *slope[1]]


@every_law
def test_law__has_mean_one_and_the_variance_it_states(name, parameters):
    """By quadrature of the quantile function in octaves of both tails; a variance that is infinite is not compared."""
    law = LAWS[name]
    edges = np.concatenate([[0.0], 2.0 ** np.arange(-46, 0.01, 0.01)]) / 2
    nodes, weights = np.polynomial.legendre.leggauss(8)
    mid, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    u = (mid[:, None] + half[:, None] * nodes).ravel()
    weight = (half[:, None] * weights).ravel()
    x = np.concatenate([law.ppf(u, **dict(parameters)), law.ppf(1 - u, **dict(parameters))])
    weight = np.concatenate([weight, weight])
    mean, variance = float(weight @ x), law.variance(**dict(parameters))
    print(f"{name} {dict(parameters)}: mean {mean:.6f}, variance {float(weight @ (x - 1) ** 2):.6f} (states {variance:.6f})")
    assert mean == pytest.approx(1, abs=2e-4)  # alpha 1.5: what lies beyond 2^-47 is 1e-4 of the mean
    if np.isfinite(variance):
        assert float(weight @ (x - 1) ** 2) == pytest.approx(variance, rel=1e-3)
    assert (x > 0).all()
    assert law.support == "(0, inf)" or law.check is not None


@every_law
def test_draws__follow_the_law(name, parameters):
    """51,200 kernel draws against ``ppf``: the share below each of nine quantiles within 4.5 standard errors."""
    law = LAWS[name]
    sample = np.concatenate([factors(identity=i, seed=17, name=name, parameters=parameters)[0] for i in range(200)])
    ends = () if name == "empirical" else (0.001, 0.999)  # a sample's smallest and largest value have probabilities of their own
    for q in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, *ends):
        share = (sample <= law.ppf(np.array([q]), **dict(parameters))[0] * (1 + 1e-9)).mean()
        assert abs(share - q) < 4.5 * np.sqrt(q * (1 - q) / sample.size) + 1e-9, f"{name} q={q}: {share}"


def test_table__extreme_factors_bound_every_draw():
    table = noise.quantile_table("lognormal", (("cv", 1.0),))
    everything = np.concatenate([factors(identity=i, name="lognormal", parameters=(("cv", 1.0),))[0] for i in range(50)])
    smallest, largest = noise.extreme_factors(table)
    assert smallest <= everything.min() < everything.max() <= largest
    ends = LAWS["lognormal"].ppf(np.array([2**-33, 1 - 2**-33]), cv=1.0)
    assert (smallest, largest) == pytest.approx(tuple(ends), rel=1e-4)


def test_draws__have_mean_one_and_the_stated_cv():
    """100 x 256 draws at cv 0.05: the mean within 4 standard errors (one test in 16,000 would fail by chance), cv within 3 %."""
    sample = np.concatenate([factors(identity=i, seed=11)[0] for i in range(100)])
    assert abs(sample.mean() - 1) < 4 * 0.05 / np.sqrt(sample.size)
    assert sample.std() == pytest.approx(0.05, rel=0.03)


def test_identity__is_injective_and_refuses_what_does_not_fit():
    packed = Counter(noise.op_identity(s, b, k) for s in (0, 1, 2047) for b in (False, True) for k in (0, 1, 2**20 - 1))
    assert set(packed.values()) == {1}
    assert max(packed) < 2**32
    with pytest.raises(Infeasible, match="stage 2048 does not fit the noise address"):
        noise.op_identity(2048, False, 0)
    with pytest.raises(Infeasible, match="microbatch 1048576 does not fit the noise address"):
        noise.op_identity(0, False, 2**20)


@pytest.mark.parametrize("n", [2, 8, 64])
@pytest.mark.parametrize("name", ["lognormal", "heavy_tail", "gamma"])
def test_table__of_the_largest_of_n_is_that_of_brute_force(name, n):
    """Largest of n kernel draws against the table for n: mean, and shares below quantiles of ppf, within 4.5 standard errors."""
    parameters = (("alpha", 3.0), ("cv", 0.1)) if name == "heavy_tail" else (("cv", 0.1),)
    each = np.stack(
        [np.concatenate([factors(identity=1000 * j + i, seed=5, name=name, parameters=parameters)[0] for i in range(20)]) for j in range(n)]
    )
    largest = each.max(axis=0)
    table = noise.quantile_table(name, parameters, n)
    rng = np.random.Generator(np.random.PCG64(3))
    v = rng.integers(0, 2**31, 40_000)
    w = v + 0.5
    exponent = np.floor(np.log2(w)).astype(np.int64)
    cell = (
        (exponent + 1) * noise.KNOTS
        + np.floor((w / 2.0**exponent - 1) * noise.KNOTS).astype(np.int64)
        + rng.integers(0, 2, v.size) * noise.SIDE
    )
    ours = table[cell, 0] + table[cell, 1] * w
    error = np.hypot(largest.std() / np.sqrt(largest.size), ours.std() / np.sqrt(ours.size))
    assert abs(ours.mean() - largest.mean()) < 4.5 * error
    assert ours.mean() > 1.05
    for q in (0.1, 0.5, 0.9):
        expected = LAWS[name].ppf(np.array([q ** (1 / n)]), **dict(parameters))[0]
        assert abs((ours <= expected).mean() - q) < 4.5 * np.sqrt(q * (1 - q) / ours.size)


def test_table__of_the_largest_of_one_is_the_law_itself():
    one, two = noise.quantile_table("lognormal", (("cv", 0.1),), 1), noise.quantile_table("lognormal", (("cv", 0.1),), 2)
    assert (one == noise.quantile_table("lognormal", (("cv", 0.1),))).all()
    assert (two[noise.SIDE - 1] != one[noise.SIDE - 1]).any()
