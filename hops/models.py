"""Models by family: what the config's ``model`` section can be."""

from dataclasses import MISSING, fields
from functools import lru_cache

from hops.collectives import Groups
from hops.costs import Costs, Explicit
from hops.efficiency import Efficiency
from hops.nodes import Gpu
from hops.transformer import Transformer

Model = Explicit | Transformer

FAMILIES: dict[str, type[Explicit | Transformer]] = {"explicit": Explicit, "transformer": Transformer}


def model_keys(family: str) -> dict[str, bool]:
    """Keys that a model of ``family`` takes, and whether it needs them; the others may be null or absent."""
    return {field.name: field.default is MISSING for field in fields(FAMILIES[family])}


@lru_cache(maxsize=4096)
def stage_costs(
    model: Model, gpu: Gpu, stage_ranks: tuple[int, ...], microbatch_size: int, groups: tuple[Groups, ...], efficiency: Efficiency | None
) -> Costs:
    """``model.costs(...)``, remembered."""
    return model.costs(gpu, stage_ranks, microbatch_size, groups, efficiency)
