"""From one draw to its picture and its trace: 4,096 ops, 16 ranks, 128 microbatches, one core.

Goal: under 1 s each, with evaluating the draw and writing the file.
"""

import pytest

from hops.perfetto import write_trace
from hops.pictures import iteration_figure
from hops.plan import prepare_plan
from hops.plots import write_figure
from hops.recipes import plan_of_words

LIMIT = "1 s"


def case_of(benchmark, pp, m):
    pp, m = (pp, m) if benchmark.enabled else (2, 4)
    words = ("model=explicit", "topology=uniform", "schedule=1f1b", f"pp={pp}", f"microbatches={m}", "draws=8")
    return prepare_plan(plan_of_words(words, sweep=False)).cases[0]


@pytest.mark.parametrize("ending", ["png", "svg"])
@pytest.mark.parametrize(("pp", "m"), [(16, 128), (128, 16)], ids=["p16-m128", "p128-m16"])
@pytest.mark.benchmark(group="timeline")
def test_timeline__hops(benchmark, pp, m, ending, tmp_path):
    case, path = case_of(benchmark, pp, m), tmp_path / f"timeline.{ending}"

    def draw():
        write_figure(iteration_figure(case, 3, "all"), path)

    draw()  # compile
    benchmark(draw)
    benchmark.extra_info |= {"limit": LIMIT}
    assert path.stat().st_size > 5000


@pytest.mark.benchmark(group="timeline")
def test_trace__hops(benchmark, tmp_path):
    case, path = case_of(benchmark, 16, 128), tmp_path / "trace.json"
    write_trace(path, case, 3)
    benchmark(write_trace, path, case, 3)
    benchmark.extra_info |= {"limit": LIMIT}
