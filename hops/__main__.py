"""``python -m hops ...``: evaluate one cell and print its report (with ``timeline=true`` also a picture of one draw)."""

import os
import sys
from typing import TYPE_CHECKING

from hops.sweep import command_line

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """Run the command line."""

    def task(config: "DictConfig") -> None:
        from hops.checks import flag
        from hops.cube import cell_dataset
        from hops.cube_sweeper import one_cell
        from hops.plan import prepare_plan
        from hops.terminal import cell_report

        draw_it = flag("timeline", config.timeline)
        prepared = prepare_plan(one_cell(config))
        cell = cell_dataset(prepared)
        print(cell_report(cell, prepared.cases[0], prepared.plan.notes))
        if draw_it:
            from hops.plots import timeline_figure
            from hops.trace import messages, timeline_frame, timeline_text

            case, frame = prepared.cases[0], timeline_frame(prepared.cases[0])
            title = f"{case.scenario.schedule.name} on {case.weights.cluster.name}, draw 0: {frame['end'].max():.4g} s"
            timeline_figure(frame, messages(case), title).savefig("timeline.png")
            print("\nwritten: timeline.png (draw 0)")
            print(f"\n{timeline_text(frame, colour=sys.stdout.isatty() and 'NO_COLOR' not in os.environ)}")

    command_line(task)


if __name__ == "__main__":
    main()
