"""Recipes: from words to a plan, from a cube back to the plan that made it, and to the words that make one of its cells alone."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from hops.checks import no_such
from hops.config import CAN_MEND, compose, make_loader, sentence, sweeper_params
from hops.cube_sweeper import plan_sweep, register
from hops.plan import Plan, label

if TYPE_CHECKING:
    import xarray as xr


def plan_of_words(overrides: tuple[str, ...], sweep: bool) -> Plan:
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


def plan_of(cube: "xr.Dataset") -> Plan:
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


def words_of(cube: "xr.Dataset", **labels: Any) -> tuple[str, ...]:
    """The strings of the command line that make the cell with these labels, for `hops.simulate`, `hops.timeline` and others.

    A label for every axis that has more than one; ``ValueError`` names axes and labels that the cube does not have.
    """
    if "config_dirs" in cube.attrs:
        raise ValueError(f"its options come from {cube.attrs['config_dirs']}, where only the command line looks (--config-dir)")
    axes = {str(name): coord for name, coord in cube.coords.items() if "hydra_key" in coord.attrs}
    at = dict[Any, int]()
    for name, value in labels.items():
        if name not in axes:
            raise no_such("axis of this cube", name, axes)
        known = [label(each) for each in axes[name].values.tolist()]
        if label(value) not in known:
            raise no_such(f"label of {name}", label(value), known)
        at[axes[name].dims[0]] = known.index(label(value))
    for name, coord in axes.items():
        if coord.size > 1 and coord.dims[0] not in at:
            raise ValueError(f"which {name}? (known: {', '.join(label(each) for each in coord.values.tolist())})")
    swept = {coord.attrs["hydra_key"]: label(coord.values.tolist()[at.get(coord.dims[0], 0)]) for coord in axes.values()}
    fixed = [each for each in cube.attrs["overrides"].splitlines() if each.partition("=")[0].lstrip("+") not in swept]
    name = cube.attrs.get("config_name", "config")
    return (*([] if name == "config" else [f"+experiment={name}"]), *fixed, *(f"{key}={value}" for key, value in swept.items()))
