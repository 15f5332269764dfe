"""Write the table of ``README.md`` from a run: ``uv run python benchmarks/table.py run.json``. Never edit it by hand."""

import json
import platform
import re
import sys
from pathlib import Path

README = Path(__file__).with_name("README.md")
MARK = "<!-- table: written by table.py -->\n"


def rows(run: dict) -> list[str]:
    """One line a benchmark: median, rate where there is one, ratio to HOPS in its group, goal."""
    lines = ["| benchmark | median | rate | against | ratio | goal |", "|---|---|---|---|---|---|"]
    for found in run["benchmarks"]:
        median, extra = found["stats"]["median"], found["extra_info"]
        against = ratio = rate = ""
        if "units" in extra:
            rate = f"{per_unit(found) * 1e9:.3g} {extra['unit']}"
        goal = f"at least {extra['goal']:g} x" if "goal" in extra else f"under {extra['limit']}" if "limit" in extra else ""
        if "most" in extra:  # ns a unit
            goal = f"at most {extra['most']:.3g} {extra['unit'].partition(' ')[0]}"
        rival = next((r for r in run["benchmarks"] if is_rival(r, found)), None)
        if rival:
            against = rival["name"].partition("__")[2] or rival["name"]
            if "units" in extra:
                ratio = f"{per_unit(rival) / per_unit(found):.1f} x faster"
            else:
                ratio = f"{median / rival['stats']['median']:.1f} x its time"
        lines.append(f"| `{found['name']}` | {median * 1e3:.4g} ms | {rate} | {against} | {ratio} | {goal} |")
    return lines


def per_unit(found: dict) -> float:
    """Seconds a unit, start-up taken off where it was timed."""
    extra = found["extra_info"]
    return (found["stats"]["median"] - extra.get("start", 0.0)) / extra["units"]


def is_rival(other: dict, found: dict) -> bool:
    """Whether ``other`` is what ``found``, a benchmark of ours, is compared with: same group, and same case where both have one."""
    ours, theirs = (re.fullmatch(r"(.*?)(?:\[(.*)\])?", each["name"]) for each in (found, other))
    if other["group"] != found["group"] or "hops" not in found["name"] or "hops" in other["name"]:
        return False
    return ours[2] == theirs[2] or theirs[2] is None or ours[2] == "hops"


def main() -> None:
    run = json.loads(Path(sys.argv[1]).read_text())
    cpu = run["machine_info"]["cpu"].get("brand_raw", platform.machine())
    about = f"{cpu}, Python {run['machine_info']['python_version']}, {run['datetime'][:10]}; medians.\n"
    before = README.read_text().partition(MARK)[0]
    README.write_text(before + MARK + "\n" + about + "\n" + "\n".join(rows(run)) + "\n")


if __name__ == "__main__":
    main()
