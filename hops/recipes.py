"""Recipes: from words to a plan, and from a cube back to the plan that made it."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from hops.config import CAN_MEND, compose, make_loader, sentence, sweeper_params
from hops.cube_sweeper import plan_sweep, register

if TYPE_CHECKING:
    import xarray as xr

    from hops.plan import Plan


def plan_of_words(overrides: tuple[str, ...], sweep: bool) -> "Plan":
    """The plan of the command line's words; ``ValueError`` for what is wrong with them, and for a sweep where none is asked for."""
    register()
    loader = make_loader()
    try:
        overrides = tuple(bridged(overrides))
        plan = plan_sweep(loader, lambda chosen: compose(loader, chosen), [*sweeper_params(loader, overrides), *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(sentence(error)) from error
    if plan.axes and not sweep:
        raise ValueError(f"{plan.axes[0].key} is swept, but this evaluates one cell (sweep_cube evaluates a sweep)")
    return plan


def bridged(words: Sequence[str]) -> list[str]:
    """Words with a job of another framework (``from=run.sh``) as overrides; what was read, assumed and left out goes to stderr."""
    if not any(str(word).startswith("from=") for word in words):
        return list(words)
    from hops.bridges import bridge

    bridged, notes = bridge(words)
    print("\n".join(notes), file=sys.stderr)
    return bridged


def plan_of(cube: "xr.Dataset") -> "Plan":
    """The plan that ``cube`` was made by; ``ValueError`` says what is not there any more."""
    register()
    name, overrides = cube.attrs.get("config_name", "config"), cube.attrs.get("overrides", "").splitlines()
    loader = make_loader(cube.attrs.get("config_dirs", "").splitlines())
    try:
        plan = plan_sweep(loader, lambda chosen: compose(loader, chosen, name), overrides)
    except CAN_MEND as error:
        raise ValueError(f"the cells of this cube cannot be made again: {sentence(error)}") from error
    if plan.shape != cube["evaluated"].shape:
        raise ValueError(
            f"its words now mean {plan.shape} cells, and the cube has {cube['evaluated'].shape}: it was made by another version"
        )
    return plan
