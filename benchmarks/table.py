"""Write the table of ``README.md`` from a run: ``uv run python benchmarks/table.py run.json``. Never edit it by hand."""

import json
import platform
import sys
from pathlib import Path

README = Path(__file__).with_name("README.md")
MARK = "<!-- table: written by table.py -->\n"


def rows(run: dict) -> list[str]:
    """One line a benchmark: median, rate where there is one, ratio to HOPS in its group, goal."""
    lines = ["| benchmark | median | rate | against | ratio | goal |", "|---|---|---|---|---|---|"]
    for found in run["benchmarks"]:
        median, extra = found["stats"]["median"], found["extra_info"]
        rate = f"{median / extra['units'] * 1e9:.2f} {extra['unit']}" if "units" in extra else ""
        against = ratio = ""
        goal = f"at least {extra['goal']:g} x" if "goal" in extra else f"under {extra['limit']}" if extra.get("limit") else ""
        rival = next((r for r in run["benchmarks"] if r["group"] == found["group"] and "__hops" not in r["name"]), None)
        if rival and "__hops" in found["name"]:
            against = rival["name"].partition("__")[2].partition("[")[0]
            if "units" in extra:
                theirs = rival["stats"]["median"] / rival["extra_info"]["units"]
                ratio = f"{theirs / (median / extra['units']):.1f} x faster"
            else:
                ratio = f"{median / rival['stats']['median']:.1f} x its time"
        lines.append(f"| `{found['name']}` | {median * 1e3:.1f} ms | {rate} | {against} | {ratio} | {goal} |")
    return lines


def main() -> None:
    run = json.loads(Path(sys.argv[1]).read_text())
    cpu = run["machine_info"]["cpu"].get("brand_raw", platform.machine())
    about = f"{cpu}, Python {run['machine_info']['python_version']}, {run['datetime'][:10]}; medians.\n"
    before = README.read_text().partition(MARK)[0]
    README.write_text(before + MARK + "\n" + about + "\n" + "\n".join(rows(run)) + "\n")


if __name__ == "__main__":
    main()
