"""A link becomes slow under an order that was planned without, or for less: PipeMorph's simulator, its figures 4, 5 and 8.

F = I = W = 10 ms, times in ms. A message is a delay on one link, both ways (p2p=latency): its bytes over a bandwidth that is so large
that on the other links it takes less than a tick.
"""

import pytest

import hops

FIGURE_5 = dict(zip((0, 5, 10, 20, 30, 40), (390, 395, 400, 440, 500, 560), strict=True))  # delay 0: figure 4
FIGURE_8 = {  # delay the order was planned for -> delays 0, 4, ..., 52
    0: (910, 914, 918, 960, *range(1040, 1761, 80)),
    10: (*range(910, 939, 4), *range(964, 1205, 48)),
    20: (*range(910, 959, 4), 980),
}
FOUR_RANKS = (930, 933, 936, 939, *range(980, 1821, 60))  # delays 0, 3, ..., 54 on link 2-3
BYTES, BANDWIDTH = 1e9, 1e21
TIMES = [f"{group}.{kind}=10e-3" for group in ("model", "schedule") for kind in ("forward", "backward_input", "backward_weight")]

ROWS = [  # pp, m, link, delay it was planned for: delay -> theirs
    (4, 12, 0, 0, FIGURE_5),
    *((2, 30, 0, planned, {4 * i: theirs for i, theirs in enumerate(row)}) for planned, row in FIGURE_8.items()),
    (4, 30, 2, 0, {3 * i: theirs for i, theirs in enumerate(FOUR_RANKS)}),
]


def test_cases__are_all_that_is_published():
    assert [len(row) for *_, row in ROWS] == [6, 14, 14, 14, 19]


@pytest.mark.parametrize(("pp", "m", "link", "planned", "row"), ROWS)
def test_slow_link(pp, m, link, planned, row):
    hops_planned = [planned * 1e-3 if rank == link else 0 for rank in range(pp - 1)]
    words = [*TIMES, f"schedule.hop={hops_planned}", f"schedule.memory_limit={m}", f"model.p2p_bytes={BYTES}", f"pp={pp}"]
    words += ["topology=uniform", "topology.latency=0", f"topology.bandwidth={BANDWIDTH}", "p2p=latency", "latency=none"]
    factors = ",".join(str(BYTES / BANDWIDTH / (delay * 1e-3) if delay else 1.0) for delay in row)
    links = [f"link_{a}-{b}" for a, b in ((link, link + 1), (link + 1, link))]
    words += [f"topology.overrides.bandwidth.{name}={factors}" for name in links]
    words += [f"hydra.sweeper.zip=[[{','.join(links)}]]"]
    cube = hops.sweep_cube("schedule=zb_greedy", "model=explicit", f"microbatches={m}", *words)
    for (delay, theirs), makespan in zip(row.items(), cube["makespan_mean"].values, strict=True):
        ours = 1e3 * float(makespan)
        planning = f"S={pp} N={m} link {link}-{link + 1} planned for {planned}"
        print(f"{planning}, {delay}: ours {ours:.6f}, theirs {theirs}, error {ours - theirs:+.6f}")
        assert ours == pytest.approx(theirs, abs=1e-9)
