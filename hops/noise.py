"""Addressed noise: a random factor is a pure function of (seed, trial, draw, identity, replica, stream). No state anywhere.

Philox4x32-10 (Salmon et al. 2011, Random123) turns an address into 32 bits; a table of the law's quantile function
turns these into a factor of mean 1.
"""

from collections.abc import Callable
from functools import lru_cache
from math import frexp, fsum

import numpy as np
from numpy.typing import NDArray

from hops.checks import Infeasible
from hops.distributions import LAWS
from hops.jit import inlined, kernel

LANES = 256  # draws that one window serves: 64 Philox blocks of four words, draw = 256 window + 64 word + block
BLOCKS = 64
# last word of the counter: one stream a kind of variation, in the order in which their factors multiply a duration
OP_STREAM, RANK_STREAM, MICROBATCH_STREAM, LINK_STREAM, HOST_STREAM = 1, 2, 3, 4, 5

STAGE_BITS, MICROBATCH_BITS, REPLICA_BITS = 11, 20, 16

OCTAVES, KNOTS = 32, 64  # the table: 64 knots in each octave of u = 2^-33 .. 2^-1 from below, and the same from above
SIDE = OCTAVES * KNOTS

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)


def op_identity(stage: int, backward: bool, microbatch: int) -> int:
    """Pack what an op is, never where it stands in an order, into 32 bits; I, W and B of one backward share it."""
    if stage >> STAGE_BITS:
        raise Infeasible(f"stage {stage} does not fit the noise address (at most {2**STAGE_BITS} stages)")
    if microbatch >> MICROBATCH_BITS:
        raise Infeasible(f"microbatch {microbatch} does not fit the noise address (at most {2**MICROBATCH_BITS} microbatches)")
    return stage << (MICROBATCH_BITS + 1) | backward << MICROBATCH_BITS | microbatch


@lru_cache(maxsize=1024)
def quantile_table(name: str, parameters: tuple[tuple[str, float], ...], n: int = 1) -> NDArray[np.float64]:
    """Compile law ``name`` into a table of (intercept, slope) pairs; shape (2 SIDE, 2), read-only, of mean exactly 1.

    With ``n`` the law of the largest of n draws, Q(u^(1/n)), in units of the mean of one.

    With v the distance of the 32 random bits from the nearer end and w = v + 1/2, the factor is intercept + slope w in
    the cell that the exponent and the top six mantissa bits of w name: octave-spaced knots all the way, so the body
    and both tails are one code path without a branch. (4,096 uniform cells look up in 0.51 ns instead of 0.77, but
    have no tails: at cv 0.05 their outermost cell alone spans factors from 0.73 to 0.84.)
    """
    law = LAWS[name]
    table, mean = compiled(lambda u: law.ppf(u, **dict(parameters)))
    if n > 1:  # u^(1/n) by logarithms, or the upper end would be lost in rounding
        table, _ = compiled(lambda u: law.ppf(np.exp(np.log(u) / n), **dict(parameters)))
    table /= mean
    table.flags.writeable = False
    return table


def compiled(ppf: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> tuple[NDArray[np.float64], float]:
    """A quantile function as lines between knots, (2 SIDE, 2), and their mean over all 2^32 random numbers."""
    k = np.arange(SIDE + 1)
    w = np.ldexp(1 + (k % KNOTS) / KNOTS, k // KNOTS - 1)  # 0.5 .. 2^31
    table = np.empty((2, SIDE, 2))
    for side, u in enumerate((w / 2**32, 1 - w / 2**32)):
        q = ppf(u)
        table[side, :, 1] = np.diff(q) / np.diff(w)
        table[side, :, 0] = q[:-1] - table[side, :, 1] * w[:-1]
    first = np.ceil(w - 0.5)  # smallest v at or above each knot; near the ends some cells hold no v at all
    n, middle = np.diff(first), (first[:-1] + first[1:]) / 2
    mean = fsum((n * (table[:, :, 0] + table[:, :, 1] * middle)).ravel()) / 2**32
    return table.reshape(2 * SIDE, 2), mean


def extreme_factors(table: NDArray[np.float64]) -> tuple[float, float]:
    """Smallest and largest factor that ``table`` can give."""
    return float(table[0, 0] + table[0, 1] * 0.5), float(table[SIDE, 0] + table[SIDE, 1] * 0.5)


@inlined
def philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]
    """Philox4x32-10: counter and key as uint32, four uint32 out."""
    for _ in range(10):
        low, high = np.uint64(c0) * _M0, np.uint64(c2) * _M1
        c0, c2 = np.uint32(high >> np.uint64(32)) ^ c1 ^ k0, np.uint32(low >> np.uint64(32)) ^ c3 ^ k1
        c1, c3 = np.uint32(high), np.uint32(low)
        k0, k1 = np.uint32(k0 + _W0), np.uint32(k1 + _W1)
    return np.uint32(c0), c1, np.uint32(c2), c3


@inlined
def quantile(table, bits):  # type: ignore[no-untyped-def]
    """What 32 random bits make of a law: one look-up of a table as `compiled` makes it."""
    upper = np.int64(bits >> np.uint32(31))
    distance = np.float64(np.int64(0xFFFFFFFF) - np.int64(bits) if upper else np.int64(bits)) + 0.5
    fraction, exponent = frexp(distance)
    cell = exponent * KNOTS + np.int64((2.0 * fraction - 1.0) * KNOTS) + upper * SIDE
    return table[cell, 0] + table[cell, 1] * distance


@kernel
def draw_factors(window, lo, hi, identity, replica, stream, key, table, words, bits, distance, pattern, cell, factors, row):  # type: ignore[no-untyped-def]
    """factor[d] of draws lo + d < hi of ``window``; bits, distance, cell, factor: (LANES,) scratch and result.

    ``key`` is the seed, with the trial in the upper 32 bits.

    ns a factor, one core (Zen 5), each loop timed alone: Philox 0.26, distance and cell 0.27, look-up 0.50; together 1.1.
    With distance, cell and look-up in one loop these took 1.1 instead of 0.77, as LLVM then vectorises nothing.
    """
    seed, trial = np.uint32(np.uint64(key) & np.uint64(0xFFFFFFFF)), np.uint32(np.uint64(key) >> np.uint64(32))
    first, last = 0, BLOCKS
    if lo // BLOCKS == (hi - 1) // BLOCKS:  # few draws: only the blocks that they need
        first, last = lo % BLOCKS, (hi - 1) % BLOCKS + 1
    for i in range(last - first):  # loops from 0 spare the test for a negative index, and then LLVM vectorises them
        counter = np.uint32(window * BLOCKS + first + i)
        a, b, c, d = philox(counter, np.uint32(identity), np.uint32(replica), np.uint32(stream), seed, trial)
        at = np.uint64(first + i)
        words[0, at] = a
        words[1, at] = b
        words[2, at] = c
        words[3, at] = d
    n, skip = hi - lo, np.uint64(lo)
    for d in range(n):
        drawn = np.int32(bits[skip + np.uint64(d)])
        distance[d] = np.float64(np.int32(drawn ^ np.int32(drawn >> np.int32(31)))) + 0.5
    for d in range(n):
        upper = np.int64(bits[skip + np.uint64(d)] >> np.uint32(31))
        cell[d] = (pattern[d] >> np.int64(46)) - np.int64(1022 * KNOTS) + upper * np.int64(SIDE)
    for d in range(n):
        at = np.uint64(cell[d])  # unsigned: spares the test for a negative index
        factors[row, d] = table[at, 0] + table[at, 1] * distance[d]
