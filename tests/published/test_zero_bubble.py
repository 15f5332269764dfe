"""Zero Bubble Pipeline Parallelism (Qi et al. 2023, arXiv:2401.10241): Table 5 from the inputs of Table 9, 4 digits.

Bubble rate by span, transfers as pure latency. Each row: p, m, TF, TB (our I), TW, Tcomm [ms], then the published
rates of 1F1B, ZB-H1, ZB-H2, 1F1B-I, ZB-1p and ZB-2p: 72 in all.

The searches of ZB-1p and ZB-2p need to know what a microbatch keeps, of which M_B = 34h + 5as from F to I and M_W = 32h of
it on to W (table 1), with the models of table 3. With everything kept until W, ZB-2p of the first row has 0.1015.

1F1B-I: chunks are single layers (v = 3, 4, 3, 2), the first and last stage count as full ones, and the authors' graph
has p transfers fewer than the plain one: 2(pv-1) - p instead of 2(pv-1). So p hops are taken off the span here.
"""

from functools import cache

import pytest

import hops

TABLE = [
    ("1.5B", 8, 24, 18.522, 18.086, 9.337, 0.601, 0.2431, 0.1585, 0.1083, 0.1055, 0.1585, 0.0433),
    ("1.5B", 8, 32, 18.513, 18.086, 9.331, 0.626, 0.1985, 0.1242, 0.0837, 0.0818, 0.1242, 0.0039),
    ("1.5B", 8, 64, 18.546, 18.097, 9.321, 0.762, 0.1240, 0.0674, 0.0444, 0.0443, 0.0674, 0.0026),
    ("6.2B", 8, 24, 29.718, 29.444, 19.927, 0.527, 0.2347, 0.1323, 0.0698, 0.0808, 0.1323, 0.0029),
    ("6.2B", 8, 32, 29.802, 29.428, 19.530, 0.577, 0.1898, 0.1045, 0.0559, 0.0628, 0.1045, 0.0022),
    ("6.2B", 8, 64, 29.935, 29.621, 19.388, 0.535, 0.1091, 0.0554, 0.0294, 0.0320, 0.0554, 0.0010),
    ("14.6B", 16, 48, 11.347, 11.248, 8.132, 0.377, 0.2552, 0.1397, 0.0672, 0.1104, 0.1397, 0.0066),
    ("14.6B", 16, 64, 11.307, 11.254, 8.101, 0.379, 0.2082, 0.1088, 0.0516, 0.0852, 0.1088, 0.0054),
    ("14.6B", 16, 128, 11.325, 11.308, 8.109, 0.378, 0.1251, 0.0576, 0.0266, 0.0445, 0.0576, 0.0028),
    ("28.3B", 32, 96, 10.419, 10.207, 7.715, 0.408, 0.2646, 0.1421, 0.0641, 0.1493, 0.1421, 0.0038),
    ("28.3B", 32, 128, 10.408, 10.204, 7.703, 0.408, 0.2168, 0.1106, 0.0490, 0.1164, 0.1106, 0.0029),
    ("28.3B", 32, 256, 10.402, 10.248, 7.698, 0.460, 0.1352, 0.0594, 0.0257, 0.0624, 0.0594, 0.0018),
]
COLUMNS = {"1f1b": 7, "zb_h1": 8, "zb_h2": 9}
SEARCHED = {"zb_1p": 11, "zb_2p": 12}
SHAPES = {"1.5B": (2304, 24), "6.2B": (4096, 32), "14.6B": (5120, 40), "28.3B": (6144, 48)}  # h, a of table 3, from memory; s = 1024
CHUNKS = {"1.5B": 3, "6.2B": 4, "14.6B": 3, "28.3B": 2}


every_row = pytest.mark.parametrize("row", TABLE, ids=[f"{row[0]}-m{row[2]}" for row in TABLE])


@cache
def simulate(row, *overrides):
    _, p, m, f, b, w, comm = row[:7]
    return hops.simulate(
        "model=explicit",
        "model.per=rank",
        f"model.forward={f / 1e3}",
        f"model.backward_input={b / 1e3}",
        f"model.backward_weight={w / 1e3}",
        "topology=uniform",
        f"topology.latency={comm / 1e3}",
        "topology.bandwidth=inf",
        "p2p=latency",
        "latency=none",
        f"pp={p}",
        f"microbatches={m}",
        *overrides,
    )


def compare(row, schedule, ours, theirs):
    print(f"{row[0]} p={row[1]} m={row[2]} {schedule}: ours {ours:.4f}, theirs {theirs:.4f}, error {ours - theirs:+.5f}")
    assert round(ours, 4) == theirs


@pytest.mark.parametrize("schedule", COLUMNS)
@every_row
def test_table_5(schedule, row):
    cell = simulate(row, f"schedule={schedule}")
    compare(row, schedule, float(cell["span_bubble_fraction"][0]), row[COLUMNS[schedule]])


def memory(row):
    """What F, I and W add, in microbatches."""
    h, a = SHAPES[row[0]]
    kept = 32 * h / (34 * h + 5 * a * 1024)
    return f"schedule.memory=[1,{kept - 1},{-kept}]"


@pytest.mark.parametrize("schedule", SEARCHED)
@every_row
def test_table_5__searched(schedule, row):
    cell = simulate(row, f"schedule={schedule}", memory(row))
    compare(row, schedule, float(cell["span_bubble_fraction"][0]), row[SEARCHED[schedule]])


@every_row
def test_more_memory__never_takes_longer(row):
    spans = [float(simulate(row, f"schedule={name}", memory(row))["span"][0]) for name in ("zb_2p", "zb_1p")]
    assert spans == sorted(spans)
    assert spans[1] <= float(simulate(row, "schedule=zb_h1")["span"][0]) * (1 + 1e-9)


@every_row
def test_table_5__interleaved(row):
    cell = simulate(row, "schedule=interleaved", f"vpp={CHUNKS[row[0]]}")
    span = float(cell["span"][0]) - row[1] * row[6] / 1e3
    compare(row, "interleaved", 1 - float(cell["busy_time"].max()) / span, row[10])
