"""``python -m hops ...``: evaluate one cell and print its report.

``report=true`` writes a page of all pictures; ``timeline=true`` (or a file's name) draws one iteration, and one trial of a training run;
``trace=trace.json`` writes them for Perfetto.
``program=order.csv`` writes the order of every rank, ``lowered=order.csv`` that with torch's communication,
``output.failures=faults.jsonl`` the failures of every trial of a training run.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hops.sweep import command_line

if TYPE_CHECKING:
    from omegaconf import DictConfig


REPORT = Path("report")  # folder of the page of one cell, which has no results/<run>


def main() -> None:
    """Run the command line."""

    def task(config: "DictConfig") -> None:
        from hops.checks import flag
        from hops.cube import cell_dataset, cube_dataset
        from hops.cube_sweeper import one_cell
        from hops.pictures import picture_of, shown_of, written
        from hops.plan import prepare_plan
        from hops.run_variables import cell_failures
        from hops.settle import settled
        from hops.terminal import cell_report
        from hops.torch_order import to_csv
        from hops.trace import timeline_frame, timeline_text

        picture, trace = picture_of(config.timeline), _file("trace", config.trace, "trace.json")
        if picture is not None:
            _file("timeline", picture)
        order, lowered = (_file(key, config[key]) for key in ("program", "lowered"))
        failures, wants_report = _file("output.failures", config.output.failures), flag("report", config.report)
        prepared = prepare_plan(one_cell(config))
        if wants_report:
            _make_folder(REPORT)
        prepared = settled(prepared)
        shown = shown_of(prepared.cases[0], config.output)
        cell = cell_dataset(prepared)
        print(cell_report(cell, prepared.cases[0], prepared.plan.notes))
        if failures is not None:
            failures.write_text(cell_failures(prepared))
            print(f"\nwritten: {failures} (replay it: failure=file failure.script={failures})")
        if order is not None:
            prepared.cases[0].program.to_csv(order)
            print(f"\nwritten: {order} (what each rank runs, as torch.distributed.pipelining reads it)")
        if lowered is not None:
            to_csv(prepared.cases[0].program, lowered)
            print(f"\nwritten: {lowered} (the same with torch's communication)")
        if picture is not None or trace is not None:
            for line in written(prepared.cases[0], prepared.plan.executor, shown, picture, trace):
                print(f"\n{line}")
        if picture is not None:
            text = timeline_text(timeline_frame(prepared.cases[0], shown.draw), colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ)
            print(f"\n{text}")

        if wants_report:
            from hops.report import write_report

            write_report(cube_dataset(prepared), prepared, REPORT, "one cell")
            print(f"\nwritten: {REPORT / 'report.html'}, and its pictures as PNG")

    command_line(task)


def _make_folder(path: Path) -> None:
    """Make a folder to write into, if there is none; ``ValueError`` where that cannot be."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise ValueError(f"report=true writes into a folder {path}, which cannot be made: {error.strerror} (in {Path.cwd()})") from error
    if not os.access(path, os.W_OK):
        raise ValueError(f"report=true writes into the folder {path}, which is read-only (in {Path.cwd()})")


def _file(key: str, value: Any, example: str = "order.csv") -> Path | None:
    """The file that ``key`` names, if any; its folder must be there."""
    if value is None:
        return None
    if not isinstance(value, str) or not Path(value).name:
        raise ValueError(f"{key} must be the name of a file, such as {example}; got {value!r}")
    path = Path(value)
    if path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{key}: {value} is a folder" if path.is_dir() else f"{key}: no folder {path.parent} (looked in {Path.cwd()})")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{key}: the folder of {value} is read-only (in {Path.cwd()})")
    return path


if __name__ == "__main__":
    main()
