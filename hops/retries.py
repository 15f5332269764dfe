"""Messages that get lost and are sent again: how much longer they occupy their channel. d = lanes.

A try is lost with probability p, whatever became of the others; its sender waits for a timeout, RTO_a = min(RTO_0 b^a, RTO_max), and sends
again. Order on the link stays (go-back-N), so a message that is sent again only takes longer. One whose last try is lost kills its link;
the iteration here goes on, as if another way took it at that moment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hops.checks import count, no_such, positive
from hops.jit import inner
from hops.noise import BLOCKS, philox

LOSS_STREAM = 32  # with the number of the try above: counter = (block of draws, message, replica, stream | try << 8)
MOST_TRIES = 64


@dataclass(frozen=True)
class Retry:
    """Probability of loss, and timeouts [s]; defaults from NCCL over InfiniBand, see ``conf/config.yaml``."""

    loss: float = 0.0
    timeout: float = 1.0737
    backoff: float = 1.0
    max_timeout: float = inf
    retries: int = 7

    @property
    def threshold(self) -> int:
        """Of 2^32 random numbers those that lose a try."""
        return int(self.loss * 2**32 + 0.5)

    @property
    def death(self) -> float:
        """Probability that a message loses all tries."""
        return float(self.loss ** (self.retries + 1))

    @property
    def seconds(self) -> list[float]:
        """Timeouts of all tries."""
        return [min(self.timeout * self.backoff**a, self.max_timeout) for a in range(self.retries + 1)]

    def ticks(self) -> NDArray[np.int64]:
        """The same, (retries + 1,) ticks."""
        return np.array([int(each * 1e9 + 0.5) for each in self.seconds], np.int64)


def make_retry(section: Any) -> Retry:
    """Check the config section ``retry``."""
    if not isinstance(section, Mapping):
        raise ValueError(f"retry must be a section of keys; got {section!r}")
    known = ("loss", "timeout", "backoff", "max_timeout", "retries")
    for key in section:
        if key not in known:
            raise no_such("key of retry", key, known)
    given = {key: value for key, value in section.items() if value is not None}
    loss = positive("retry.loss", given.pop("loss", 0.0), zero=True)
    if not loss < 1:
        raise ValueError(f"retry.loss must be a probability below 1; got {loss!r}")
    retries = count("retry.retries", given.pop("retries", Retry.retries), least=0, most=MOST_TRIES - 1)
    backoff = positive("retry.backoff", given.pop("backoff", Retry.backoff))
    if not 1 <= backoff <= 1000:
        raise ValueError(f"retry.backoff must be from 1 to 1000; got {backoff!r}")
    times = {key: positive(f"retry.{key}", value, zero=True, infinite=key == "max_timeout") for key, value in given.items()}
    found = Retry(loss, retries=retries, backoff=backoff, **times)
    if not sum(found.seconds) < 2**62 / 1e9:
        raise ValueError(f"retry: {retries + 1} timeouts add up to {sum(found.seconds):.3g} s, beyond what the clock can count (146 years)")
    return found


@inner
def add_timeouts(window, lo, hi, identity, replica, key, threshold, timeouts, n_tries, ticks):  # type: ignore[no-untyped-def]
    """Add to the ticks (d,) of a message in draws lo + d < hi of ``window`` the timeouts of tries that are lost.

    ``key``: the seed, with the trial in the upper 32 bits. Four draws share a block as in `hops.noise.draw_factors`.
    """
    seed, trial = np.uint32(np.uint64(key) & np.uint64(0xFFFFFFFF)), np.uint32(np.uint64(key) >> np.uint64(32))
    for block in range(BLOCKS):
        if (block - lo) % BLOCKS >= hi - lo:  # it has none of these draws
            continue
        counter = np.uint32(window * BLOCKS + block)
        words = philox(counter, np.uint32(identity), np.uint32(replica), np.uint32(LOSS_STREAM), seed, trial)
        for number in range(4):
            d = block + number * BLOCKS
            if lo <= d < hi:
                drawn, attempt = words[number], 0
                while np.uint64(drawn) < np.uint64(threshold):
                    ticks[d - lo] += timeouts[attempt]
                    attempt += 1
                    if attempt == n_tries:
                        break
                    stream = np.uint32(LOSS_STREAM | attempt << 8)
                    drawn = philox(counter, np.uint32(identity), np.uint32(replica), stream, seed, trial)[number]
