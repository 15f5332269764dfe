"""Hindrances: what stands in the way of an iteration without changing who runs what in which order."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hops.disturbances import Disturbance, make_disturbances

HINDRANCES = ("disturbance",)  # the config keys


@dataclass(frozen=True)
class Hindrances:
    """Disturbances."""

    disturbances: tuple[Disturbance, ...] = ()


def make_hindrances(config: Mapping[str, Any]) -> Hindrances:
    """Check the keys `HINDRANCES`, and that contention and schedule can be had with them."""
    disturbances = make_disturbances(config["disturbance"])
    if disturbances and config["contention"] == "fair":
        raise ValueError("contention=fair divides links by rates of its own, which no disturbance can change (try contention=fifo)")
    return Hindrances(disturbances)
