"""Routes: the ways of microbatches through pipelines side by side, some of whose ranks are gone.

What would pass a rank that is gone passes those that hold the same stage in other pipelines, in turn. Ranks that are left are
numbered stage by stage, and so are the GPUs of replicas where ``dp`` comes before ``pp`` in the order of a layout.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from hops.checks import Infeasible, count

REROUTED = "rerouted"  # of a placement rerouted:<pipelines>:<stages>:<microbatches of each>:<pipeline>.<stage>,...

type Place = tuple[int, int]  # pipeline and stage of a rank


class Routes(NamedTuple):
    """r = different ways, k = microbatches of all pipelines, one pipeline after another."""

    n_ranks: int
    ranks: tuple[tuple[int, ...], ...]  # (r, stages)
    route: tuple[int, ...]  # (k,)

    @property
    def n_stages(self) -> int:
        return len(self.ranks[0])

    @property
    def seats(self) -> tuple[int, ...]:
        """Rank of every stage of one route after another."""
        return tuple(rank for ranks in self.ranks for rank in ranks)


@lru_cache(maxsize=256)
def reroute(n_pipelines: int, n_stages: int, microbatches: int, failed: tuple[Place, ...]) -> Routes:
    """Routes of ``microbatches`` of each pipeline without the ranks ``failed``; a stage that nobody holds is an `Infeasible`."""
    ways: list[list[int]] = [[] for _ in range(n_pipelines * microbatches)]
    n_ranks = 0
    for stage in range(n_stages):
        gone = [(pipeline, stage) in failed for pipeline in range(n_pipelines)]
        if all(gone):
            raise Infeasible(f"no pipeline of {n_pipelines} is left that holds stage {stage}: nobody can take over its microbatches")
        left = [n_ranks + sum(not lost for lost in gone[:pipeline]) for pipeline in range(n_pipelines)]
        n_left, turn = n_pipelines - sum(gone), 0
        for k, way in enumerate(ways):
            if gone[k // microbatches]:
                way.append(n_ranks + turn % n_left)
                turn += 1
            else:
                way.append(left[k // microbatches])
        n_ranks += n_left
    known: dict[tuple[int, ...], int] = {}
    route = tuple(known.setdefault(tuple(way), len(known)) for way in ways)
    return Routes(n_ranks, tuple(known), route)


def named(n_pipelines: int, n_stages: int, microbatches: int, failed: Iterable[Place]) -> str:
    """The placement that `routes_of` reads."""
    return ":".join(map(str, (REROUTED, n_pipelines, n_stages, microbatches, ",".join(f"{d}.{s}" for d, s in failed))))


@lru_cache(maxsize=256)
def routes_of(placement: str) -> Routes | None:
    """Routes of a placement that `named` wrote; None of any other. ``ValueError`` where they cannot be read."""
    name, _, rest = placement.partition(":")
    if name != REROUTED:
        return None
    try:
        *sizes, failed = rest.split(":")
        n_pipelines, n_stages, microbatches = map(int, sizes)
        places = tuple((int(d), int(s)) for d, s in (each.split(".") for each in failed.split(",") if each))
    except ValueError:
        wanted = f"{REROUTED}:<pipelines>:<stages>:<microbatches of each>:<pipeline>.<stage>,..., such as {REROUTED}:3:4:6:2.3"
        raise ValueError(f"placement {placement!r} must read {wanted}") from None
    for each in (n_pipelines, n_stages, microbatches):
        count(f"placement {placement!r}: a size", each)
    return reroute(n_pipelines, n_stages, microbatches, places)
