"""Rerouted microbatches: makespans and periods of a greedy scheduler, of ReCycle's toy example, and the bounds that they reach.

f = 1, b = 2. Of D pipelines of S stages with N microbatches each one has lost a stage; its peers run L = ceil(N D / (D - 1)).
"""

import pytest

import hops

# D, S, N; without failures; last stage lost, whole backwards; the first to the last stage lost, decoupled; period without a barrier
CASES = [
    (3, 4, 6, 27, 36, (27, 28, 29, 30), 27),
    (2, 4, 6, 27, 45, (36, 37, 38, 39), 36),
    (4, 8, 16, 69, 87, (66, 67, 68, 69, 70, 71, 72, 73), 69),
    (8, 4, 8, 33, 39, (30, 31, 32, 33), 33),
]
TIMES = (
    "model=explicit", "model.per=stage", "model.forward=1", "model.backward_input=1", "model.backward_weight=1", "latency=none",
    "topology=uniform", "topology.latency=0", "topology.bandwidth=inf", "p2p=latency",
)  # fmt: skip


def iteration(pipelines, stages, each, failed, decoupled, barrier=True):
    """Seconds of an iteration with one rank gone."""
    sizes = (f"pp={pipelines * stages - 1}", f"microbatches={pipelines * each}", f"schedule.failed=[[{pipelines - 1},{failed}]]")
    how = ("schedule=rerouted", f"schedule.pipelines={pipelines}", f"schedule.decoupled={decoupled}", f"barrier={barrier}")
    return hops.simulate(*TIMES, *sizes, *how)["iteration_time"].item()


def report(what, ours, theirs):
    print(f"{what}: ours {ours:g}, theirs {theirs:g}, error {ours - theirs:+g}")


@pytest.mark.parametrize(("d", "s", "n", "whole", "coupled", "decoupled", "period"), CASES)
def test_recycle(d, s, n, whole, coupled, decoupled, period):
    """Every one is the least that any order can take: peers of stage s begin at s f, are busy for L (f + b), and gradients go back."""
    load, name = -(-n * d // (d - 1)), f"D={d}, S={s}, N={n}"
    ours = hops.simulate(*TIMES, "schedule=1f1b", f"pp={s}", f"microbatches={n}")["iteration_time"].item()
    report(f"{name}, nobody lost", ours, whole)
    assert ours == whole == (n + s - 1) * 3
    ours = iteration(d, s, n, s - 1, False)
    report(f"{name}, last stage lost, backwards whole", ours, coupled)
    assert ours == coupled == (load + s - 1) * 3
    for stage, theirs in enumerate(decoupled):
        ours = iteration(d, s, n, stage, True)
        report(f"{name}, stage {stage} lost, decoupled", ours, theirs)
        assert ours == theirs == load * 3 + stage
    for stage in (0, s - 1):
        ours = iteration(d, s, n, stage, True, barrier=False)
        report(f"{name}, stage {stage} lost, iterations sliding into one another", ours, period)
        assert ours == load * 3 <= period == max((n + s - 1) * 3, load * 3)  # with whole backwards theirs is no less than 1F1B's
        assert (ours <= whole) == (load <= n + s - 1)  # then failures cost nothing
