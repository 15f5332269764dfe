"""Two pipelines over the same ranks: which one a microbatch passes, what the ranks hold twice and exchange, figures of the papers."""

import re
from collections import Counter

import numpy as np
import pytest
from conftest import run_ticks, scenario

import hops
from hops import torch_order
from hops.checks import Infeasible
from hops.data_parallel import DataParallel
from hops.executor import Executor, evaluate
from hops.lanes import holding, shard_groups
from hops.layout import Layout
from hops.lowering import lower
from hops.programs import Program
from hops.recipes import plan_of_words
from hops.schedules import SCHEDULES, Times
from hops.simulation import prepare
from hops.trace import timeline_frame

A100 = ("model=gpt_22b", "topology=dgx_a100", "latency=none", "pp=4", "tp=2", "microbatches=8")


def ends(name, pp, m, forward, backward_input, backward_weight, overlapped=None):
    """Ticks of the makespan, and of every rank less what it computes; transfers take no time."""
    model = {"family": "explicit", "per": "stage", "p2p_bytes": 0.0, "overlapped": None if overlapped is None else overlapped * 1e-9}
    model |= {"forward": forward * 1e-9, "backward_input": backward_input * 1e-9, "backward_weight": backward_weight * 1e-9}
    ticks, moments = run_ticks(prepare(scenario(schedule__name=name, pp=pp, microbatches=m, model=model)))
    return int(ticks[0, 0]), [int(ticks[0, 0] - busy) for busy in moments[0, :, 2]]


@pytest.mark.parametrize("name", ["dualpipe", "chimera"])
@pytest.mark.parametrize("pp", [2, 4, 8])
def test_ranks__do_as_their_mirror_images_with_the_other_half(name, pp):
    m = 4 * pp
    program = hops.program(name, pp=pp, microbatches=m)
    for rank, mirrored in enumerate(reversed(program.ops)):
        assert [op._replace(microbatch=(op.microbatch + m // 2) % m) for op in mirrored] == list(program.ops[rank])


def test_halves__enter_at_either_end():
    program = hops.program("dualpipe", pp=4, microbatches=10)
    assert [program.rank_of(stage, 4) for stage in range(4)] == [0, 1, 2, 3]
    assert [program.rank_of(stage, 5) for stage in range(4)] == [3, 2, 1, 0]
    assert program.n_stages == 4
    assert program.stage_ranks == (0, 1, 2, 3, 3, 2, 1, 0)


def test_dualpipe__bubbles_are_those_of_its_readme():
    """(PP/2-1)(F&B + B - 3W), where a forward and a backward as one unit take as long as one after the other."""
    assert [ends("dualpipe", pp, 4 * pp, 1, 1, 1)[1] for pp in (2, 4, 6)] == [[0] * 2, [2] * 4, [4] * 6]
    _, idle = ends("dualpipe", 8, 32, 2, 3, 1, overlapped=5)  # the formula says 18; a rank's share of fused units decides
    assert (min(idle), max(idle)) == (14, 16)


def test_chimera__takes_the_slots_of_the_paper():
    assert [ends("chimera", 4, m, 2, 1, 1)[0] for m in (4, 8, 12, 16)] == [2 * slots for slots in (10, 18, 26, 34)]
    assert ends("chimera", 4, 8, 1, 1, 1) == (30, [6] * 4)  # twice as long backwards leave gaps between units


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rank 0: 0F0 0B0 0F1 0B1", "needs a multiple of 2 ranks, as many stages, and 2 microbatches or more; got 1 ranks, 1 stages and 2"),
        ("rank 0: 0F0 0B0\nrank 1: 1F0 1B0", "2 microbatches or more; got 2 ranks, 2 stages and 1 microbatches"),
        ("rank 0: 0F0 0B0 0F1 0B1\nrank 1: 1F0 1B0 1F1 1B1", "runs 0F1 on rank 0; placement 'bidirectional' has it on 1"),
    ],
)
def test_programs__that_are_not_two_pipelines_are_refused(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        Program.parse(text, "mine", "bidirectional").validate()


@pytest.mark.parametrize("name", ["dualpipe", "chimera"])
def test_file__of_two_pipelines_is_known_by_where_ops_run(name, tmp_path):
    program = hops.program(name, pp=4, microbatches=8)
    program.to_csv(tmp_path / "mine.csv")
    assert Program.from_csv(tmp_path / "mine.csv").placement == "bidirectional"
    path = f"schedule.path={tmp_path / 'mine.csv'}"
    words = ("latency=none", "pp=4", "microbatches=8")
    mine, own = hops.simulate("schedule=file", path, *words), hops.simulate(f"schedule={name}", *words)
    assert float(mine["makespan"][0]) == float(own["makespan"][0])


def test_torch__every_message_is_sent_to_who_receives_it():
    program = hops.program("dualpipe", pp=4, microbatches=8)
    sent, received = {}, {}
    for rank, actions in enumerate(torch_order.lowered(program, sharded=False)):
        for action in actions:
            if found := re.fullmatch(r"(\d+)(SEND|RECV)_([FB])(\d+)", action):
                stage, kind, letter, k = int(found[1]), found[2], found[3], int(found[4])
                stage += (1 if letter == "F" else -1) * (kind == "SEND")
                (sent if kind == "SEND" else received)[stage, letter, k] = rank
    assert sent.keys() == received.keys()
    assert len(sent) == 2 * 8 * 3
    homes = {(op.stage, op.microbatch): rank for rank, ops in enumerate(program.ops) for op in ops}
    assert all(homes[stage, k] == rank for (stage, _, k), rank in received.items())
    assert all(homes[stage - (1 if letter == "F" else -1), k] == rank for (stage, letter, k), rank in sent.items())


def test_holding__is_a_rank_and_its_mirror_image():
    assert [holding(rank, (0, 1, 2, 3, 3, 2, 1, 0), 2) for rank in range(4)] == [(0, 3), (1, 2), (1, 2), (0, 3)]
    assert [holding(rank, (0, 1, 1, 0), 1) for rank in range(2)] == [(0,), (1,)]


def test_groups__span_both_ranks_and_shares_are_of_both():
    layout = Layout(pp=4, dp=4)  # rank r has the GPUs 4 r to 4 r + 3
    both = ((0, 1, 2, 3, 12, 13, 14, 15),)
    assert shard_groups(layout, DataParallel(), 0, (0, 3))[0] == list(both)
    assert shard_groups(layout, DataParallel(zero=0), 0, (0, 3))[1] == list(both)
    sharing, alike = shard_groups(layout, DataParallel(shard=2), 0, (0, 3))
    assert sharing == [(0, 1, 12, 13), (2, 3, 14, 15)]
    assert alike == [(0, 2), (1, 3), (12, 14), (13, 15)]


def test_weights__are_held_twice_and_the_model_counts_once():
    """A GPU has two stages' weights and gradients; with one replica the optimizer's states are shared by two GPUs, and none is alone."""
    one, two = (hops.simulate(f"schedule={name}", *A100) for name in ("1f1b", "chimera"))
    assert float(one["mfu"][0] * one["iteration_time"][0]) == pytest.approx(float(two["mfu"][0] * two["iteration_time"][0]), rel=1e-12)
    cases = [prepared(name) for name in ("1f1b", "chimera")]
    for rank, (alone, both) in enumerate(zip(*(case.memory for case in cases), strict=True)):
        other = cases[0].memory[3 - rank]
        assert both.weights == pytest.approx(alone.weights + other.weights)
        assert both.gradients == pytest.approx(alone.gradients + other.gradients)
        assert both.optimizer == pytest.approx((alone.optimizer + other.optimizer) / 2)
    assert [bool(each.logits) for each in cases[1].memory] == [True, False, False, True]


def prepared(name, *more):
    return prepare(plan_of_words((f"schedule={name}", *A100, *more), sweep=False).scenarios[0])


def test_reduction__is_of_both_ranks_at_once():
    slow = ("latency.rank.law=lognormal", "latency.rank.cv=0.3")
    frame = timeline_frame(prepared("chimera", "overlap_grad_reduce=true", "bucket_size=1e12", "dp=2", *slow))
    bars = {rank: rows[["op", "start", "end"]].values.tolist() for rank, rows in frame[frame["kind"] == "REDUCE_GRAD"].groupby("rank")}
    assert bars[0] == bars[3]
    assert bars[1] == bars[2]
    assert {op for op, *_ in bars[0]} == {"0REDUCE_GRAD", "3REDUCE_GRAD"}
    last = frame[(frame["stage"] == 0) & (frame["kind"] == "B")].groupby("rank")["end"].max()
    assert min(start for op, start, _ in bars[0] if op[0] == "0") >= last.max() - 1e-9
    assert last[0] != last[3]


def test_iteration__of_one_replica_ends_with_a_reduction_over_two_ranks():
    """Each GPU scatters half of its gradients to the one of the other rank, over NVSwitch."""
    one, two = prepared("1f1b"), prepared("chimera")
    assert not one.weights.reduce.any()
    path = two.weights.cluster.between(0, 2)
    sizes = two.weights.costs.parameters
    assert sizes[:4] == sizes[4:] == one.weights.costs.parameters
    assert two.weights.reduce / 1e9 == pytest.approx([path.latency + 4 * n / 2 / path.bandwidth for n in sizes], rel=1e-6)


def test_reductions__wait_for_the_other_rank_without_noise_too():
    """Rank 1 begins early and rank 2, for which it waits, ends late; without a barrier that is what an iteration takes."""
    times = {"forward": [1.0, 1.0, 1.0, 3.0], "backward_input": 1.0, "backward_weight": [1.0, 1.0, 4.0, 1.0]}
    model = {"family": "explicit", "per": "rank", "p2p_bytes": 0.0, **times}
    case = prepare(scenario(schedule__name="chimera", model=model, barrier=False, draws=1))
    reduced = {"n_buckets": np.array([0, 1, 1, 0] * 2), "reduce": np.array([0, 1e12, 1e12, 0] * 2)}
    case = case._replace(weights=case.weights._replace(**reduced))
    found, frame = next(evaluate([case], Executor(threads=1))), timeline_frame(case)
    ops = frame[frame["microbatch"] >= 0].groupby("rank")
    begins, ends = ops["start"].min(), ops["end"].max()
    assert begins[1] < begins[2]
    assert ends[1] < ends[2]
    assert found.per_draw["iteration_time"][0, 0] == ends[2] + 2000 - begins[1]


def test_gather__of_both_ranks_together_crosses_each_link_once():
    moved = prepared("chimera", "contention=fifo").weights.traffic
    for stage in range(4):
        both = Counter[object]()
        for seat in (stage, stage + 4):
            for flow in moved.gather[seat]:
                both.update(flow.links)
        scattered = moved.reduce[stage][0].links  # 4 bytes a parameter, of which a weight has 2
        assert both.keys() == scattered.keys()
        assert all(both[link] == pytest.approx(scattered[link] / 2) for link in both)


def test_reductions__of_ranks_that_end_in_another_order_are_in_that_of_the_first():
    text = "rank 0: 0F0 1F1 1B1 0B0\nrank 1: 0F1 1F0 0B1 1B0"
    graph = lower(Program.parse(text, "mine", "bidirectional").validate(), "latency")
    assert graph.reduced.tolist() == [3, 0]  # stage 1 of the second pipeline, stage 0 of the first
    assert graph.reducing.tolist() == [0, 1, 0, 1]
    assert graph.reductions.tolist() == [0, 2, 4]


@pytest.mark.parametrize("zero", [2, 3])
def test_sharding__within_the_iteration_is_refused(zero):
    sentence = f"chimera holds every stage on 2 ranks, .* zero={zero} cannot exchange among them .*try zero=1"
    with pytest.raises(Infeasible, match=sentence):
        prepare(scenario(schedule__name="chimera", zero=zero, overlap_grad_reduce=True))


@pytest.mark.parametrize(
    ("scaling", "pipelines"), [("forward_doubling", 2), ("backward_halving", 2), ("concatenate", 4), ("concatenate", 8)]
)
def test_chimera__claims_of_its_other_forms_hold(scaling, pipelines):
    record, how = SCHEDULES["chimera"], {"scaling": scaling, "pipelines": pipelines}
    for pp, n_units in ((4, 1), (8, 1), (8, 3), (16, 2)):
        if pp % pipelines:
            continue
        m = (2 if scaling == "forward_doubling" else 1) * pp * n_units
        hops = int(pp > pipelines)  # where ranks are neighbours twice, one more or less is on the longest path
        for f, b, hop in ((1000, 2000, 0), (600, 3400, hops)) + ((1000, 1000, 0), (990, 1692, hops)) * (scaling == "concatenate"):
            model = {"family": "explicit", "per": "stage", "p2p_bytes": 0.0, "forward": f * 1e-9}
            model |= {"backward_input": b / 2 * 1e-9, "backward_weight": b / 2 * 1e-9}
            link = {"name": "uniform", "latency": hop * 1e-9, "bandwidth": float("inf")}
            case = prepare(scenario(schedule={"name": "chimera", **how}, pp=pp, microbatches=m, model=model, topology=link))
            assert run_ticks(case)[0][0, 0] == record.makespan(pp, m, Times(f, b // 2, b // 2, hop), **how)
        halves = record.parts(**how)
        assert case.structure.in_flight == tuple(record.in_flight(pp, m, rank, **how) / halves for rank in range(pp))


def test_chimera__bubbles_of_the_paper():
    """D / f - 2 slots of 2f pipelines; and as few where a doubled forward takes as long as a backward, or a forward as half of one."""
    for pp, pipelines in ((4, 2), (4, 4), (8, 2), (8, 4), (8, 8), (12, 6), (16, 4)):
        slots = SCHEDULES["chimera"].makespan(pp, 3 * pp, Times(2, 1, 1, 0), pipelines=pipelines) // 2
        assert slots - 2 * 3 * pp == 2 * pp // pipelines - 2
    for scaling, slot in (("forward_doubling", 2), ("backward_halving", 1)):
        m = 24 * slot
        assert SCHEDULES["chimera"].makespan(8, m, Times(1, 1, 1, 0), scaling=scaling) == slot * (3 * 24 + 8 - 2)


@pytest.mark.parametrize(("pp", "least"), [(8, 7), (16, 13)])
def test_chimera__of_four_pipelines_holds_more_even_activations(pp, least):
    """D - D / (2f) + 1 at least, D at most; by twos and halves as much at most, and D whole microbatches."""
    program = hops.program("chimera", pp=pp, microbatches=pp, pipelines=4)
    assert (min(program.in_flight), max(program.in_flight)) == (least, pp)
    assert max(hops.program("chimera", pp=pp, microbatches=2 * pp, scaling="forward_doubling").in_flight) == 2 * pp


def test_pipelines__are_apart_by_equal_shares_of_the_ranks():
    program = hops.program("chimera", pp=8, microbatches=8, pipelines=4)
    down, further, up, other = (program.stage_ranks[8 * i : 8 * i + 8] for i in range(4))
    assert (down, further) == ((0, 1, 2, 3, 4, 5, 6, 7), (4, 5, 6, 7, 0, 1, 2, 3))
    assert (up, other) == (down[::-1], further[::-1])
    assert holding(1, program.stage_ranks, 4) == (1, 2, 5, 6)
    assert hops.program("chimera", pp=8, microbatches=8, pipelines=4.0) == program
    for k in range(8):
        assert [program.rank_of(stage, k) for stage in (0, 7)] == [[0, 7], [4, 3], [7, 0], [3, 4]][k // 2]


def test_golden__of_doubled_forwards(tmp_path):
    program = hops.program("chimera", pp=2, microbatches=4, scaling="forward_doubling")
    assert str(program).splitlines() == [
        "rank 0: (0F0;0F1)DOUBLE_F (1F2;1F3)DOUBLE_F 1B2 0B0 1B3 0B1",
        "rank 1: (0F2;0F3)DOUBLE_F (1F0;1F1)DOUBLE_F 1B0 0B2 1B1 0B3",
    ]
    halved = hops.program("chimera", pp=2, microbatches=2, scaling="backward_halving")
    assert halved.ranks == program.ranks
    assert Program.parse(str(program), "chimera", "bidirectional") == program
    with pytest.raises(ValueError, match=r"torch has no forward of two microbatches at once: \(0F0;0F1\)DOUBLE_F"):
        torch_order.lowered(program)


@pytest.mark.parametrize("pipelines", [2, 4, 8])
def test_file__of_any_number_of_pipelines_is_known(pipelines, tmp_path):
    program = hops.program("chimera", pp=8, microbatches=16, pipelines=pipelines)
    program.to_csv(tmp_path / "mine.csv")
    assert Program.from_csv(tmp_path / "mine.csv", "chimera") == program


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"pp": 6, "microbatches": 12, "pipelines": 4}, r"pp divisible by the number of pipelines; got pp=6 .* \(try pp=4 or 8\)"),
        ({"pp": 4, "microbatches": 6, "pipelines": 4}, r"microbatches divisible by pp .* \(try microbatches=4 or 8\)"),
        (
            {"pp": 4, "microbatches": 4, "scaling": "forward_doubling"},
            r"by 2 pp.* microbatches=4 with scaling=forward_doubling \(try microbatches=8\)",
        ),
        ({"pp": 4, "microbatches": 8, "scaling": "forward_doubling", "pipelines": 4}, "two pipelines to double forwards"),
        ({"pp": 4, "microbatches": 8, "pipelines": 3}, "schedule.pipelines must be even, as half of them go either way; got 3"),
        ({"pp": 4, "microbatches": 8, "pipelines": 0}, "schedule.pipelines must be a whole number of at least 2; got 0"),
        ({"pp": 4, "microbatches": 8, "scaling": "doubling"}, "no schedule.scaling named 'doubling'; did you mean 'forward_doubling'"),
    ],
)
def test_chimera__refuses_what_has_no_meaning(given, sentence):
    with pytest.raises(ValueError, match=sentence):
        hops.program("chimera", **given)
    with pytest.raises(ValueError, match="placement 'bidirectional:3' needs an even number of pipelines"):
        Program.parse("rank 0: 0F0 0B0", "mine", "bidirectional:3").validate()


def test_partition__is_one_for_all_pipelines():
    """Both hold the same weights. Tensors of rank 5, where the second begins, cross nodes: alone it would divide the layers otherwise."""
    model = ("model=gpt_22b", "model.heads=96", "model.kv_heads=96", "model.vocabulary=300000", "model.layout=balanced")
    words = ("schedule=chimera", "topology=dgx", "pp=6", "tp=3", "microbatches=12", "latency=none", *model)
    case = prepare(plan_of_words(words, sweep=False).scenarios[0])
    costs = case.weights.costs
    assert costs.parameters[:6] == costs.parameters[6:]
