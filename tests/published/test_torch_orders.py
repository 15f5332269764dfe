"""What the orders of torch's runtime take under a free delay and under rendezvous: an evaluator that was run on them, p=4, m=16.

F=10, B=18, a message 1. Megatron's batches and torch's streams (receives deferred, as its classes of one stage post them) meet the
same figure where they mean the same: for 1F1B both, for GPipe torch's only, as Megatron's warm-up sends before it receives.
"""

import pytest

import hops

FIGURES = {
    "gpipe": {"latency": 538, "rendezvous": 568, "torch": 568},
    "1f1b": {"latency": 560, "rendezvous": 567, "torch": 567, "megatron": 567},
}
UNIT = 1e-6  # s
TIMES = ("model=explicit", "model.per=stage", "model.forward=10e-6", "model.backward_input=9e-6", "model.backward_weight=9e-6")
LINK = ("topology=uniform", "topology.latency=1e-6", "topology.bandwidth=inf", "latency=none", "pp=4", "microbatches=16")


@pytest.mark.parametrize(("schedule", "p2p"), [(schedule, p2p) for schedule, figures in FIGURES.items() for p2p in figures])
def test_makespan__is_that_of_an_evaluator_of_torchs_orders(schedule, p2p):
    recv = "recv=defer" if p2p == "torch" else "recv=early"
    ours = float(hops.simulate(f"schedule={schedule}", f"p2p={p2p}", recv, *TIMES, *LINK)["makespan"][0]) / UNIT
    theirs = FIGURES[schedule][p2p]
    print(f"{schedule} {p2p}: ours {ours:.3f}, theirs {theirs}, error {ours - theirs:+.3f}")
    assert ours == pytest.approx(theirs, abs=1e-6)
