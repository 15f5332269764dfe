"""What of a cell is shown, and how: figures of one iteration and of one training run, and their files."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hops import plots, run_plots
from hops.checks import count, one_of
from hops.executor import Executor
from hops.histories import History, cell_histories, failures_frame, states_frame
from hops.plots import picture_file, write_figure
from hops.simulation import Case
from hops.terminal import seconds
from hops.trace import messages, timeline_frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANKS = ("some", "all")


class Shown(NamedTuple):
    """Which sampled iteration and which trial a picture or a trace shows."""

    draw: int = 0
    ranks: str = RANKS[0]
    trial: int | None = None


def shown_of(case: Case, output: Mapping[str, Any]) -> Shown:
    """What ``output`` asks for, checked before anything is evaluated."""
    training, trial = case.scenario.training, output["trial"]
    draw = count("output.draw", output["draw"], least=0, most=case.scenario.draws - 1)
    ranks = one_of("output.ranks", output["ranks"], RANKS)
    if trial is None:
        return Shown(draw, ranks)
    if training is None:
        raise ValueError(f"output.trial={trial}: no training run is asked for (set run.days or run.iterations)")
    if training.run.tier == "analytic":
        raise ValueError(f"output.trial={trial}: run.tier=analytic has no trials, only their mean (try run.tier=resampled)")
    return Shown(draw, ranks, count("output.trial", trial, least=0, most=training.trials - 1))


def picture_of(value: Any) -> str | None:
    """File of the picture that ``timeline`` asks for; None: none."""
    if isinstance(value, bool):
        return "timeline.png" if value else None
    if not isinstance(value, str):
        raise ValueError(f"timeline must be true, false, or the name of a file; got {value!r}")
    return picture_file("timeline", value)


def iteration_figure(case: Case, draw: int = 0, ranks: str = RANKS[0]) -> "Figure":
    """The timeline of one draw; of more than `hops.plots.MOST_RANKS` ranks only some, unless ``ranks`` is all."""
    frame = timeline_frame(case, draw)
    title = f"{case.scenario.schedule.name} on {case.weights.cluster.name}, draw {draw}: {seconds(float(frame['end'].max()))}"
    return plots.timeline_figure(frame, messages(case, draw), title, one_of("ranks", ranks, RANKS) == RANKS[1])


def history_figure(case: Case, history: History) -> "Figure":
    """What the job did in one trial of a training run, and what failed."""
    frame = states_frame(history)
    what = f"{case.scenario.schedule.name} on {case.weights.cluster.name}, trial {history.trial} of a training run"
    return run_plots.run_figure(frame, failures_frame(history), f"{what}: {_shares(frame)}")


def raster(case: Case, executor: Executor, trials: Iterable[int]) -> "Figure":
    """What the job did in many trials."""
    found = [states_frame(history) for history in cell_histories(case, executor, trials)]
    return run_plots.raster_figure(found, f"{case.scenario.schedule.name} on {case.weights.cluster.name}: {len(found)} trials")


def _shares(frame: Any) -> str:
    lengths = (frame["end"] - frame["start"]).groupby(frame["state"]).sum()
    useful = (lengths.get("useful", 0.0) + lengths.get("replay", 0.0)) / lengths.sum()
    unit, size = plots.time_unit(float(lengths.sum()))
    return f"{100 * useful:.1f} % of {lengths.sum() / size:.4g} {unit} counts"


def written(case: Case, executor: Executor, shown: Shown, picture: str | None, trace: Path | None) -> Iterator[str]:
    """Write what is asked for: a line about each file."""
    training = case.scenario.training
    runs = training is not None and training.run.tier != "analytic"
    history = None
    if runs and (picture is not None or shown.trial is not None):
        (history,) = cell_histories(case, executor, [shown.trial or 0])
    if picture is not None:
        write_figure(iteration_figure(case, shown.draw, shown.ranks), Path(picture))
        yield f"written: {picture} (draw {shown.draw})"
        if history is not None:
            second = Path(picture).with_stem("run" if Path(picture).stem == "timeline" else f"{Path(picture).stem}-run")
            write_figure(history_figure(case, history), second)
            yield f"written: {second} (trial {history.trial} of the training run)"
    if trace is not None:
        from hops.perfetto import write_trace

        write_trace(trace, case, shown.draw, history if shown.trial is not None else None)
        besides = "" if shown.trial is None else f" and trial {shown.trial}"
        yield f"written: {trace} (draw {shown.draw}{besides}; open it with ui.perfetto.dev or chrome://tracing)"
