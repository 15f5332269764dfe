"""Hindrances: what stands in the way of an iteration without changing who runs what in which order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hops.checks import count, one_of
from hops.disturbances import Disturbance, make_disturbances
from hops.queues import FREE_AT
from hops.retries import Retry, make_retry

HINDRANCES = ("disturbance", "queue", "queue_free_at", "retry")  # the config keys

NEVER_LOST = Retry()


@dataclass(frozen=True)
class Hindrances:
    """``queue``: microbatches that there is room for between two stages on different ranks, None: any number; and until when."""

    disturbances: tuple[Disturbance, ...] = ()
    queue: int | None = None
    free_at: str = "finish"
    retry: Retry = NEVER_LOST  # of messages that get lost


def make_hindrances(config: Mapping[str, Any]) -> Hindrances:
    """Check the keys `HINDRANCES`, and that contention and schedule can be had with them."""
    disturbances = make_disturbances(config["disturbance"])
    if disturbances and config["contention"] == "fair":
        raise ValueError("contention=fair divides links by rates of its own, which no disturbance can change (try contention=fifo)")
    retry = make_retry(config["retry"])
    if retry.loss and config["p2p"] == "latency":
        raise ValueError("retry.loss needs messages that occupy what they cross; p2p=latency has none (try p2p=channel)")
    queue = None if config["queue"] is None else count("queue", config["queue"])
    return Hindrances(disturbances, queue, one_of("queue_free_at", config["queue_free_at"], FREE_AT), retry)
