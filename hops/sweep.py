"""``python -m hops.sweep -m ...``: a sweep becomes one cube in a file.

This module and ``__main__`` are the border to the user: here sentences replace tracebacks.
"""

import gc
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hops.garbage import without_garbage_collection
from hops.sentences import sentences

if TYPE_CHECKING:  # nothing heavy before it is needed: --help and --cfg answer without numba and xarray
    import xarray as xr
    from omegaconf import DictConfig

    from hops.plan import Plan, Prepared


def run_plan(plan: "Plan", config: "DictConfig") -> None:
    """Evaluate ``plan``, write ``cube.nc`` and Hydra's records into the run's folder, print the table."""
    from hops.checks import flag
    from hops.cube import check_file, cube_dataset, write_cube
    from hops.plan import prepare_plan
    from hops.settle import settled

    asked = {key: config[key] for key in ("timeline", "trace", "program", "lowered")} | {"output.failures": config.output.failures}
    for key, value in asked.items():
        if value:
            raise ValueError(f"{key}={value} is of one cell (python -m hops); a sweep writes a cube, and report=true a page of it")
    wants_report = flag("report", config.report)
    prepared = prepare_plan(plan)
    check_file(prepared)
    _collect_garbage_again()
    prepared = settled(prepared)
    check_file(prepared)
    for line in prepared.skipped:
        print(line, file=sys.stderr)
    folder = _claim_folder(config)
    path = folder / "cube.nc"
    try:
        cube = cube_dataset(prepared)
        write_cube(cube, path)
    except BaseException as error:
        shutil.rmtree(folder / ".hydra", ignore_errors=True)  # what has no result must not look like one
        with suppress(OSError):
            folder.rmdir()
        if isinstance(error, OSError):
            raise ValueError(f"cannot write {path}: {error.strerror or error} (choose another hydra.sweep.dir)") from error
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt("no cube was written") from None
        raise
    print(cube.hops.table())
    print(_best_layout(prepared, cube), end="")
    if wants_report:
        from hops.report import write_report

        try:
            write_report(cube, prepared, folder, folder.name)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{path} is written, its report is not (python -m hops.report {folder} writes it)") from None
        print(f"\nwritten: {folder / 'report.html'}, and its pictures as PNG", end="")
    print(f"\nwritten: {path}\nopen it: import hops; cube = hops.open_cube({str(folder)!r})")


def _best_layout(prepared: "Prepared", cube: "xr.Dataset") -> str:
    """Of a sweep over layouts: the fastest cell that fits, as flags of Megatron-LM."""
    import numpy as np

    from hops.megatron import LAYOUT, flags

    if "fits" not in cube or not any(axis.key in LAYOUT for axis in prepared.plan.axes):
        return ""
    throughput = cube["throughput_mean"].where(cube["fits"]).values.ravel()[list(prepared.cells)]
    if not (throughput > 0).any():
        return "\nno cell fits the memory of its GPUs\n"
    best = prepared.cases[int(np.nanargmax(throughput))]
    words = flags(best.scenario, best.weights.costs.partition)
    return f"\nthe fastest that fits, for Megatron-LM:\n  {words}\n" if words else ""


def _claim_folder(config: "DictConfig") -> Path:
    """Make the run's folder with Hydra's records in it; the first thing that touches the disk.

    A folder belongs to the run that made its ``.hydra``, which only one can: two runs in one second, or a folder
    given twice, end up side by side (``-2``, ``-3``), and no result is ever overwritten.
    """
    from omegaconf import OmegaConf

    from hops.config import yaml

    asked = Path(str(config.hydra.sweep.dir))
    if not asked.name:
        raise ValueError(f"hydra.sweep.dir must name a folder for this run, such as results/mine; got {str(config.hydra.sweep.dir)!r}")
    folder, n = asked, 1
    try:
        while True:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / ".hydra").mkdir()
                break
            except FileExistsError:
                if not folder.is_dir():
                    raise
                n += 1
                folder = asked.with_name(f"{asked.name}-{n}")
        (folder / ".hydra" / "config.yaml").write_text(yaml(config))
        (folder / ".hydra" / "hydra.yaml").write_text(OmegaConf.to_yaml(OmegaConf.masked_copy(config, ["hydra"])))
        (folder / ".hydra" / "overrides.yaml").write_text(OmegaConf.to_yaml(config.hydra.overrides.task))
    except OSError as error:
        raise ValueError(f"cannot write results to {folder}: {error.strerror or error} (choose another hydra.sweep.dir)") from error
    return folder


def command_line(task: Callable[["DictConfig"], Any]) -> None:
    """Run ``task`` under Hydra: a sentence and exit code 1 for whatever the user can mend, a traceback for our bugs.

    ``task`` gets the composed config with its ``hydra`` node; ``-m`` goes to `run_plan` instead.
    """
    with sentences(), without_garbage_collection():  # imports and compositions: 0.45 s of 1.7, at the exit too
        from hydra import main as hydra_main
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import open_dict

        from hops.config import folder
        from hops.cube_sweeper import register
        from hops.recipes import bridged

        def job(config: "DictConfig") -> None:
            _collect_garbage_again()
            with sentences(), open_dict(config):  # in here too: Hydra would print a heading before it passes an error on
                config.hydra = HydraConfig.instance().cfg.hydra  # type: ignore[union-attr]
                task(config)

        job.run_plan = run_plan  # type: ignore[attr-defined]
        register()
        sys.argv[1:] = bridged(sys.argv[1:])
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and the sentence is ours
        hydra_main(config_path=str(folder("conf")), config_name="config", version_base="1.3")(job)()


def _collect_garbage_again() -> None:
    """Collect what is made from here on; what stands by now is left alone for good."""
    if not gc.isenabled():  # once: a second job of Hydra's own sweeper finds it on
        gc.freeze()
        gc.enable()


def main() -> None:
    """``python -m hops.sweep``; without ``-m`` a sweep of one cell."""

    def task(config: "DictConfig") -> None:
        from hops.cube_sweeper import one_cell

        run_plan(one_cell(config), config)

    command_line(task)


if __name__ == "__main__":
    main()
