"""Zero Bubble Pipeline Parallelism (Qi et al. 2023, arXiv:2401.10241): Table 5 from the inputs of Table 9, 4 digits.

Bubble rate by span, transfers as pure latency. Each row: p, m, TF, TB (our I), TW, Tcomm [ms], then the published
rates of 1F1B, ZB-H1 and ZB-H2. (The other three columns need schedules that are not built yet.)
"""

import pytest

import hops

TABLE = [
    ("1.5B", 8, 24, 18.522, 18.086, 9.337, 0.601, 0.2431, 0.1585, 0.1083),
    ("1.5B", 8, 32, 18.513, 18.086, 9.331, 0.626, 0.1985, 0.1242, 0.0837),
    ("1.5B", 8, 64, 18.546, 18.097, 9.321, 0.762, 0.1240, 0.0674, 0.0444),
    ("6.2B", 8, 24, 29.718, 29.444, 19.927, 0.527, 0.2347, 0.1323, 0.0698),
    ("6.2B", 8, 32, 29.802, 29.428, 19.530, 0.577, 0.1898, 0.1045, 0.0559),
    ("6.2B", 8, 64, 29.935, 29.621, 19.388, 0.535, 0.1091, 0.0554, 0.0294),
    ("14.6B", 16, 48, 11.347, 11.248, 8.132, 0.377, 0.2552, 0.1397, 0.0672),
    ("14.6B", 16, 64, 11.307, 11.254, 8.101, 0.379, 0.2082, 0.1088, 0.0516),
    ("14.6B", 16, 128, 11.325, 11.308, 8.109, 0.378, 0.1251, 0.0576, 0.0266),
    ("28.3B", 32, 96, 10.419, 10.207, 7.715, 0.408, 0.2646, 0.1421, 0.0641),
    ("28.3B", 32, 128, 10.408, 10.204, 7.703, 0.408, 0.2168, 0.1106, 0.0490),
    ("28.3B", 32, 256, 10.402, 10.248, 7.698, 0.460, 0.1352, 0.0594, 0.0257),
]
COLUMNS = {"1f1b": 7, "zb_h1": 8, "zb_h2": 9}


@pytest.mark.parametrize("schedule", COLUMNS)
@pytest.mark.parametrize("row", TABLE, ids=[f"{row[0]}-m{row[2]}" for row in TABLE])
def test_table_5(schedule, row):
    name, p, m, f, b, w, comm = row[:7]
    cell = hops.simulate(
        f"schedule={schedule}",
        "model=explicit",
        "model.per=stage",
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
    )
    ours, theirs = float(cell["span_bubble_fraction"][0]), row[COLUMNS[schedule]]
    print(f"{name} p={p} m={m} {schedule}: ours {ours:.4f}, theirs {theirs:.4f}, error {ours - theirs:+.5f}")
    assert round(ours, 4) == theirs
