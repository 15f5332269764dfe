"""The answers to this folder's questions: ``uv run python sweeps/answers.py`` checks them all and writes README.md and the pictures."""

import sys

import numpy as np
import xarray as xr
from gallery import (
    ANSWERS,
    BLACK,
    BLUE,
    GREEN,
    GREY,
    HERE,
    NAMES,
    OF_SCHEDULE,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Answer,
    Claim,
    answers,
    canvas,
    cube_of,
    framed,
    less,
    numbered,
    page,
    png,
    section,
)


@answers
def schedule_by_microbatches(cube: xr.Dataset) -> Answer:
    time = cube["iteration_time"]
    saved = less(time, time.sel(schedule="1f1b"))
    h1, twice = saved.sel(schedule="zb_h1"), less(time.sel(schedule="zb_h2"), time.sel(schedule="zb_h1"))
    few, many = h1.value["microbatches"].values[[0, -1]]
    room, from_16 = cube["headroom"], cube["microbatches"] >= 16
    claims = [
        Claim("ZB-H1 takes less time than 1F1B at every number", *h1),
        Claim("the less, the more microbatches there are", -h1.value.diff("microbatches"), h1.error[1:]),
        Claim("ZB-H2 is within 0.5 % of it", 0.5 - abs(twice.value), twice.error),
        Claim("1F1B and ZB-H1 fit", room.sel(schedule=["1f1b", "zb_h1"])),
        Claim("GPipe and ZB-H2 do not from 16 on", -room.sel(schedule=["gpipe", "zb_h2"])[:, from_16]),
    ]
    sentences = (
        f"ZB-H1, whatever the number: it takes {h1.value[0]:.0f} % less time than 1F1B at {few} microbatches and {h1.value[-1]:.0f} % "
        f"less at {many}, as the bubble that it fills is of p - 1 microbatches however many there are.",
        f"ZB-H2 is within {abs(twice.value).max():.1f} % of it as long as a barrier ends the iteration, and like GPipe it does not fit "
        "an 80 GB GPU from 16 microbatches on (hollow).",
    )
    figure, axes = canvas("microbatches per iteration", "time saved against 1F1B [%]")
    for name in cube["schedule"].values:
        line, fits = saved.value.sel(schedule=name), cube["fits"].sel(schedule=name)
        style = {"color": OF_SCHEDULE[name], "linewidth": 2, "dashes": (1, 1) if name == "zb_h2" else (1, 0)}
        axes.plot(line["microbatches"], line, **style, label=NAMES[name])
        axes.scatter(line["microbatches"], line, 60, np.where(fits, OF_SCHEDULE[name], "white"), edgecolors=OF_SCHEDULE[name], zorder=3)
    numbered(axes, cube["microbatches"].values)
    axes.legend(frameon=False, fontsize=11)
    return Answer(claims, sentences, figure)


def main() -> None:
    """Check, and write the page and the pictures; of some questions only the pictures, and what the page would say."""
    asked = sys.argv[1:] or list(ANSWERS)
    for name in asked:
        if name not in ANSWERS:
            sys.exit(f"no question named {name!r} (known: {', '.join(ANSWERS)})")
    sections = {}
    for name in asked:
        cube = cube_of(name)
        answer = ANSWERS[name](cube)
        broken = [claim.words for claim in answer.claims if not claim.holds]
        if broken:
            sys.exit(f"{name}: it does not hold that {'; nor that '.join(broken)}")
        sections[name] = section(name, cube, answer)
        (HERE / "pictures").mkdir(exist_ok=True)
        (HERE / "pictures" / f"{name}.png").write_bytes(png(answer.picture))
        print(sections[name])
    if not sys.argv[1:]:
        (HERE / "README.md").write_text(page(sections))


if __name__ == "__main__":
    main()
