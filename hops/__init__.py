"""HOPS, the Heterogeneous Optimized Pipeline Simulator.

hops.program("1f1b", pp=4, microbatches=8)               the order of every rank
hops.simulate("schedule=zb", "topology=pcie")            one cell, as the command line would: Dataset (draw, rank)
hops.sweep_cube("schedule=1f1b,zb", "pp=4,8")            a sweep: Dataset with one dimension a swept key
hops.timeline("schedule=zb", draw=0)                     when every op of one draw runs: DataFrame
hops.memory_timeline("schedule=zb", draw=0)              what every rank holds of activations over time: DataFrame
hops.waterfall("schedule=zb")                            what an iteration's time is made of, cause by cause: DataFrame
hops.critical_path("schedule=zb")                        what it waits for, draw by draw: Dataset (draw, part)
hops.what_if("schedule=zb")                              what it would save were something ideal: DataFrame
hops.straggling("schedule=zb")                           what slow ranks and noise cost
hops.timeline_figure("schedule=zb", draw=0)              the same as a picture
hops.run_timeline("run.days=54", trial=0)                what the job does in one trial of a training run: DataFrame
hops.run_failures("run.days=54", trial=0)                what fails in it: DataFrame
hops.run_figure("run.days=54", trial=0)                  both as a picture
hops.write_trace("trace.json", "schedule=zb", draw=0)    one draw for ui.perfetto.dev
hops.open_cube("results/<run>")                          a cube from its file, checked
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hops.cube import open_cube
    from hops.notebook import (
        critical_path,
        memory_timeline,
        run_failures,
        run_figure,
        run_timeline,
        simulate,
        straggling,
        sweep_cube,
        timeline,
        timeline_figure,
        waterfall,
        what_if,
        write_trace,
    )
    from hops.programs import Op, Program
    from hops.scenario import Scenario
    from hops.schedules import program

_HOME = {
    "Op": "programs",
    "Program": "programs",
    "Scenario": "scenario",
    "critical_path": "notebook",
    "memory_timeline": "notebook",
    "open_cube": "cube",
    "program": "schedules",
    "run_failures": "notebook",
    "run_figure": "notebook",
    "run_timeline": "notebook",
    "simulate": "notebook",
    "straggling": "notebook",
    "sweep_cube": "notebook",
    "timeline": "notebook",
    "timeline_figure": "notebook",
    "waterfall": "notebook",
    "what_if": "notebook",
    "write_trace": "notebook",
}

__all__ = [
    "Op",
    "Program",
    "Scenario",
    "critical_path",
    "memory_timeline",
    "open_cube",
    "program",
    "run_failures",
    "run_figure",
    "run_timeline",
    "simulate",
    "straggling",
    "sweep_cube",
    "timeline",
    "timeline_figure",
    "waterfall",
    "what_if",
    "write_trace",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: ``import hops`` itself loads nothing heavy."""
    if name in _HOME:
        return getattr(import_module(f"hops.{_HOME[name]}"), name)
    raise AttributeError(f"module 'hops' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
