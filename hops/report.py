"""``python -m hops.report results/<run>``: a page with all pictures of a cube, in one file that fetches nothing; and the pictures as PNG.

``report=true`` writes the same right after a run.
"""

import json
import sys
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from hops.garbage import without_garbage_collection
from hops.sentences import sentences

if TYPE_CHECKING:
    import xarray as xr

    from hops.plan import Prepared

PAGE = Path(__file__).parent / "page"
USAGE = "usage: python -m hops.report results/<run>   (a folder with a cube.nc, or the file itself)"


def write_report(cube: "xr.Dataset", prepared: "Prepared | None", folder: Path, name: str) -> list[Path]:
    """Write ``report.html`` and its pictures into ``folder``; without ``prepared`` nothing is evaluated anew. Returns what was written."""
    from hops.charts import charts
    from hops.files import replacing
    from hops.report_data import report_data

    data = report_data(cube, prepared)
    title = (data.get("why") or {}).get("titles", {}).get(data["best"], name) + _labels(data)
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")  # a label cannot end the script that holds it
    parts = {part: (PAGE / f"page.{end}").read_text() for part, end in (("style", "css"), ("script", "js"))}
    page = Template((PAGE / "page.html").read_text()).substitute(title=_escaped(name), data=text, **parts)
    written = [folder / "report.html"]
    with replacing(written[0]) as file:
        file.write_text(page)
    for what, figure in charts(data, title):
        written.append(folder / f"{what}.png")
        with replacing(written[-1]) as file:
            figure.savefig(file, format="png", metadata={"Software": None})
    return written


def _labels(data: dict[str, Any]) -> str:
    """Where on the axes the best cell is, in words."""
    import numpy as np

    at = np.unravel_index(data["best"], [len(axis["labels"]) for axis in data["axes"]])
    words = [f"{axis['name']}={axis['labels'][i]}" for axis, i in zip(data["axes"], at, strict=True) if len(axis["labels"]) > 1]
    return f" ({', '.join(words)})" if words else ""


def _escaped(name: str) -> str:
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def prepared_again(cube: "xr.Dataset") -> "tuple[Prepared | None, str]":
    """The cells of a cube, ready to be evaluated, or None and why; a cell whose first draws come out otherwise is another's."""
    from hops.plan import prepare_plan
    from hops.recipes import plan_of
    from hops.settle import with_draws

    try:
        prepared = prepare_plan(plan_of(cube))
        if prepared.plan.target is not None:
            prepared = with_draws(prepared, cube["n_draws"].values.ravel()[list(prepared.cells)].astype(int).tolist())
    except ValueError as error:
        return None, str(error)
    wrong = differs(cube, prepared)
    return (None, wrong) if wrong else (prepared, "")


def differs(cube: "xr.Dataset", prepared: "Prepared") -> str:
    """Whether the first cell's first draw comes out as the cube has it; else a sentence."""
    from dataclasses import replace

    from hops.lookup import cell_draws
    from hops.savings import iterations
    from hops.weights import TICKS

    kept, case = cell_draws(cube, prepared.cells[0]), prepared.cases[0]
    (ticks,) = iterations([case._replace(scenario=replace(case.scenario, draws=1))], prepared.plan.executor)
    again = float(ticks[0] / (TICKS * case.n_batches))
    if kept is None or again == kept[0]:
        return ""
    return f"its first iteration takes {again!r} s when evaluated again, not {float(kept[0])!r}: another version made it"


def main() -> None:
    """``python -m hops.report``."""
    with sentences(), without_garbage_collection():  # as a sweep: 6.2 s of 6.6, for 500 cells of up to 200 microbatches
        words = sys.argv[1:]
        if len(words) != 1 or words[0].startswith("-"):
            if words in (["-h"], ["--help"]):
                print(f"{__doc__}\n{USAGE}")
                return
            raise ValueError(f"one result, please; got {' '.join(words) or 'nothing'}\n{USAGE}")
        from hops.cube import open_cube

        path = Path(words[0])
        cube = open_cube(path)
        prepared, reason = prepared_again(cube)
        if reason:
            print(f"without waterfalls, critical paths and savings: {reason}", file=sys.stderr)
        folder = path if path.is_dir() else path.parent
        for each in write_report(cube, prepared, folder, folder.resolve().name):
            print(f"written: {each}")


if __name__ == "__main__":
    main()
