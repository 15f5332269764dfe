"""The Python surface: what a notebook asks, in the strings of the command line. Each refuses what is wrong before anything is evaluated."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # nothing heavy before it is needed
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

    from hops.executor import Executor
    from hops.histories import History
    from hops.savings import Straggling
    from hops.simulation import Case


def simulate(*overrides: str) -> "xr.Dataset":
    """Evaluate one cell; ``overrides`` are the strings of the command line. Dims ``draw`` and ``rank``, SI units.

    Raises ``ValueError`` and Hydra's exceptions, before anything is evaluated.
    """
    from hops.cube import cell_dataset
    from hops.plan import prepare_plan
    from hops.recipes import plan_of_words

    return cell_dataset(prepare_plan(plan_of_words(overrides, sweep=False)))


def sweep_cube(*overrides: str) -> "xr.Dataset":
    """Evaluate a sweep (``"schedule=1f1b,zb"``, ``"pp=range(2,9)"``) and return its cube; nothing is written.

    Raises ``ValueError`` and Hydra's exceptions, before anything is evaluated. Cells that do not fit are NaN, with a
    line on stderr for each reason.
    """
    from hops.cube import cube_dataset
    from hops.plan import prepare_plan
    from hops.recipes import plan_of_words

    prepared = prepare_plan(plan_of_words(overrides, sweep=True))
    for line in prepared.skipped:
        print(line, file=sys.stderr)
    return cube_dataset(prepared)


def timeline(*overrides: str, draw: int = 0) -> "pd.DataFrame":
    """When every op of one draw runs: columns rank, op, stage, kind, microbatch, start [s], end [s]."""
    from hops.trace import timeline_frame

    return timeline_frame(_cell(overrides)[0], draw)


def memory_timeline(*overrides: str, draw: int = 0, after_input: float = 1.0) -> "pd.DataFrame":
    """Activations that each rank holds in one draw: columns rank, time [s], op, activations [bytes]; see `hops.trace.memory_frame`."""
    from hops.trace import memory_frame

    return memory_frame(_cell(overrides)[0], draw, after_input)


def timeline_figure(*overrides: str, draw: int = 0, ranks: str = "some") -> "Figure":
    """The picture of one draw; of more than 24 ranks the first, the middle and the last, or ``ranks="all"``."""
    from hops.pictures import iteration_figure

    return iteration_figure(_cell(overrides)[0], draw, ranks)


def critical_path(*overrides: str) -> "xr.Dataset":
    """Where the time of every draw goes along its critical path: ``critical_time`` (draw, part) [s], which adds up to ``iteration_time``.

    Coordinates of the parts say who computes, issues, sends, exchanges or updates; ``criticality`` (op,) is the share of the draws in
    which an op is on the path. ``ValueError`` where events decide who waits for whom (``contention=fifo``, disturbances).
    """
    from hops.insight import critical_dataset

    return critical_dataset(*_cell(overrides))


def waterfall(*overrides: str) -> "pd.DataFrame":
    """From the FLOPs of the model at the GPUs' peak to the p95 of the iteration: columns step, time [s], total [s], mfu.

    Causes in one fixed order (`hops.causes.STEPS`), each what it adds where those before it are there and none after it.
    """
    from hops.insight import waterfall_frame

    return waterfall_frame(*_cell(overrides))


def what_if(*overrides: str, ideal: str | tuple[str, ...] | None = None) -> "pd.DataFrame":
    """What each ``ideal`` would save of the same draws, None: all that matter; most first.

    Columns change, saved [s], standard_error, low, high (95 %, Student's t over pairs of draws), p95_saved [s], share of the mean
    iteration, meaning. Names are those of `hops.ideals.MEANING`, ``rank 3`` and ``link NET``; ``ValueError`` for others.
    """
    from hops.insight import savings_frame

    return savings_frame(*_cell(overrides), (ideal,) if isinstance(ideal, str) else ideal)


def straggling(*overrides: str) -> "Straggling":
    """What slow ranks and noise cost: ``slowdown`` S = T / T_ideal, ``waste`` 1 - 1/S, and ``by_rank``, S with all others ideal.

    Ideal are equal ranks, each computing as long as the mean of all, without noise or disturbance; as in ByteDance's analysis of
    stragglers (Lin et al. 2025, from memory).
    """
    from hops import savings

    return savings.straggling(*_cell(overrides))


def run_timeline(*overrides: str, trial: int = 0) -> "pd.DataFrame":
    """What the job does in one trial of a training run: columns state, start [s], end [s], missing; see `hops.histories.states_frame`."""
    from hops.histories import states_frame

    return states_frame(_history(overrides, trial)[1])


def run_failures(*overrides: str, trial: int = 0) -> "pd.DataFrame":
    """What fails in one trial: columns time [s], fault, kind, unit, until [s]; see `hops.histories.failures_frame`."""
    from hops.histories import failures_frame

    return failures_frame(_history(overrides, trial)[1])


def run_figure(*overrides: str, trial: int = 0) -> "Figure":
    """The picture of one trial of a training run."""
    from hops.pictures import history_figure

    return history_figure(*_history(overrides, trial))


def write_trace(path: str | os.PathLike[str], *overrides: str, draw: int = 0, trial: int | None = None) -> None:
    """Write one draw, and a ``trial`` of its training run if asked for, as a trace for ui.perfetto.dev; see `hops.perfetto`."""
    from hops import perfetto

    case, history = (_cell(overrides)[0], None) if trial is None else _history(overrides, trial)
    perfetto.write_trace(Path(path), case, draw, history)


def _history(overrides: tuple[str, ...], trial: int) -> "tuple[Case, History]":
    from hops.histories import cell_histories

    case, executor = _cell(overrides)
    (found,) = cell_histories(case, executor, [trial])
    return case, found


def _cell(overrides: tuple[str, ...]) -> "tuple[Case, Executor]":
    """The one cell of ``overrides``, ready to be evaluated, and how."""
    from hops.plan import prepare_plan
    from hops.recipes import plan_of_words
    from hops.settle import settled

    prepared = settled(prepare_plan(plan_of_words(overrides, sweep=False)))
    return prepared.cases[0], prepared.plan.executor
