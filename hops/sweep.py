"""``python -m hops.sweep -m ...``: a sweep becomes one cube in a file; and the same from Python.

This module and ``__main__`` are the border to the user: here sentences replace tracebacks.
"""

import gc
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hops.garbage import without_garbage_collection

if TYPE_CHECKING:  # nothing heavy before it is needed: --help and --cfg answer without numba and xarray
    import pandas as pd
    import xarray as xr
    from omegaconf import DictConfig

    from hops.plan import Plan, Prepared

WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


def simulate(*overrides: str) -> "xr.Dataset":
    """Evaluate one cell; ``overrides`` are the strings of the command line. Dims ``draw`` and ``rank``, SI units.

    Raises ``ValueError`` and Hydra's exceptions, before anything is evaluated.
    """
    from hops.cube import cell_dataset
    from hops.plan import prepare_plan

    return cell_dataset(prepare_plan(_plan(overrides, sweep=False)))


def sweep_cube(*overrides: str) -> "xr.Dataset":
    """Evaluate a sweep (``"schedule=1f1b,zb"``, ``"pp=range(2,9)"``) and return its cube; nothing is written.

    Raises ``ValueError`` and Hydra's exceptions, before anything is evaluated. Cells that do not fit are NaN, with a
    line on stderr for each reason.
    """
    from hops.cube import cube_dataset
    from hops.plan import prepare_plan

    prepared = prepare_plan(_plan(overrides, sweep=True))
    for line in prepared.skipped:
        print(line, file=sys.stderr)
    return cube_dataset(prepared)


def timeline(*overrides: str, draw: int = 0) -> "pd.DataFrame":
    """When every op of one draw runs: columns rank, op, stage, kind, microbatch, start [s], end [s]."""
    from hops.plan import prepare_plan
    from hops.trace import timeline_frame

    return timeline_frame(prepare_plan(_plan(overrides, sweep=False)).cases[0], draw)


def memory_timeline(*overrides: str, draw: int = 0, after_input: float = 1.0) -> "pd.DataFrame":
    """Activations that each rank holds in one draw: columns rank, time [s], op, activations [bytes]; see `hops.trace.memory_frame`."""
    from hops.plan import prepare_plan
    from hops.trace import memory_frame

    return memory_frame(prepare_plan(_plan(overrides, sweep=False)).cases[0], draw, after_input)


def _plan(overrides: tuple[str, ...], sweep: bool) -> "Plan":
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from hops.config import compose, make_loader, sentence, sweeper_params
    from hops.cube_sweeper import plan_sweep, register

    register()
    loader = make_loader()
    try:
        overrides = tuple(_bridged(overrides))
        plan = plan_sweep(loader, lambda chosen: compose(loader, chosen), [*sweeper_params(loader, overrides), *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(sentence(error)) from error
    if plan.axes and not sweep:
        raise ValueError(f"{plan.axes[0].key} is swept, but this evaluates one cell (sweep_cube evaluates a sweep)")
    return plan


def _bridged(words: Sequence[str]) -> list[str]:
    """Words with a job of another framework (``from=run.sh``) as overrides; what was read, assumed and left out goes to stderr."""
    if not any(str(word).startswith("from=") for word in words):
        return list(words)
    from hops.bridges import bridge

    bridged, notes = bridge(words)
    print("\n".join(notes), file=sys.stderr)
    return bridged


def run_plan(plan: "Plan", config: "DictConfig") -> None:
    """Evaluate ``plan``, write ``cube.nc`` and Hydra's records into the run's folder, print the table."""
    from hops.cube import check_file, cube_dataset, write_cube
    from hops.plan import prepare_plan
    from hops.settle import settled

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

        def job(config: "DictConfig") -> None:
            _collect_garbage_again()
            with sentences(), open_dict(config):  # in here too: Hydra would print a heading before it passes an error on
                config.hydra = HydraConfig.instance().cfg.hydra  # type: ignore[union-attr]
                task(config)

        job.run_plan = run_plan  # type: ignore[attr-defined]
        register()
        sys.argv[1:] = _bridged(sys.argv[1:])
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and the sentence is ours
        hydra_main(config_path=str(folder("conf")), config_name="config", version_base="1.3")(job)()


def _collect_garbage_again() -> None:
    """Collect what is made from here on; what stands by now is left alone for good."""
    if not gc.isenabled():  # once: a second job of Hydra's own sweeper finds it on
        gc.freeze()
        gc.enable()


@contextmanager
def sentences() -> Iterator[None]:
    """Turn what the user can mend into a sentence on stderr and an exit code; HYDRA_FULL_ERROR=1 shows the traceback."""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        print(": ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # piped into head: nobody reads on, and the interpreter must not complain at its exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        from hops.config import CAN_MEND, sentence

        if WANTS_TRACEBACK or not isinstance(error, CAN_MEND):
            raise
        print("\n".join(filter(None, [sentence(error), _hint(str(error))])), file=sys.stderr)
        sys.exit(1)


def _hint(error: str) -> str | None:
    """Hydra looks for a key in the group's default option before it looks at the sweep: what to write instead."""
    found = re.match(r"Could not override '(\w+)\.[\w.]+'", error)
    swept = found and any(re.match(rf"\+?{found[1]}=.*[,(]", word) for word in sys.argv)
    return f"a key that only other options of {found[1]} have goes as an axis of one value: choice(...)" if found and swept else None


def main() -> None:
    """``python -m hops.sweep``; without ``-m`` a sweep of one cell."""

    def task(config: "DictConfig") -> None:
        from hops.cube_sweeper import one_cell

        run_plan(one_cell(config), config)

    command_line(task)


if __name__ == "__main__":
    main()
