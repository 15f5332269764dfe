"""Memory: weights, optimizer and activations against figures written independently."""

from dataclasses import replace

import numpy as np
import pytest
from test_costs import GPT, line

import hops
from hops.checks import Infeasible
from hops.collectives import Crowd, Groups, Ring
from hops.costs import Explicit
from hops.hardware import GPUS
from hops.memory import Allowances, check_room, fullest, headroom, offloaded, peak_memory, states
from hops.plan import prepare_plan
from hops.recipes import plan_of_words

FOUR = (Groups(Ring(4, 1e-6, 1e11), expert_tensor=Ring(4, 1e-6, 1e11)),) * 8


def test_activations__are_korthikantis_formula():
    """s b h (34 + 5 a s / h) a layer, 34 s b h with selective and 2 s b h with full recomputation; over tp with sequence parallelism."""
    s, b, h, a, layers = 2048, 3, 6144, 64, 6
    for recompute, kept in (("none", 34 + 5 * a * s / h), ("selective", 34), ("full", 2)):
        model = replace(GPT, recompute=recompute)
        assert model.costs(GPUS["h100"], line(8), b).activations == pytest.approx((s * b * h * kept * layers,) * 8)
        assert model.costs(GPUS["h100"], line(8), b, FOUR).activations == pytest.approx((s * b * h * kept * layers / 4,) * 8)


def test_activations__count_grouped_queries_gated_mlps_and_experts():
    """Llama 3 70B, a token and layer in bf16: queries h, keys and values h / 4 together, three widths of 28672 in the MLP."""
    h, ffn = 8192, 28672
    llama = replace(GPT, hidden=h, heads=64, kv_heads=8, ffn_hidden=ffn, gated=True, recompute="selective")
    kept = llama.kept_bytes(llama.kinds[1])
    assert kept == 2 * (3 * h + h // 4 + h + 3 * ffn + 2 * h) + 2 * h
    mixture = replace(llama, experts=8, active_experts=2)
    assert mixture.kept_bytes(mixture.kinds[1]) - kept == 2 * (h + 3 * ffn)


def test_selective__repeats_the_attention_core():
    none, selective = GPT.costs(GPUS["h100"], line(8), 1), replace(GPT, recompute="selective").costs(GPUS["h100"], line(8), 1)
    core = 4 * 2048 * 2048 * 6144 * 6 / (989e12 * 0.5)
    assert selective.backward_input[3] - none.backward_input[3] == pytest.approx(core)
    assert selective.model_flops == none.model_flops


def test_weight_passes__keep_inputs_and_gradients_of_the_linear_layers():
    """32 h a token and layer (table 1 of the zero-bubble paper); with full recomputation, once more for W: 2 h, and 18 h of gradients."""
    s, h = 2048, 6144
    for changes, kept in (({}, 32), ({"recompute": "full"}, 32), ({"recompute": "full", "recompute_repeat": True}, 20)):
        costs = replace(GPT, **changes).costs(GPUS["h100"], line(8), 1)
        assert costs.weight_activations == pytest.approx((s * h * kept * 6,) * 8)
        assert replace(GPT, **changes).costs(GPUS["h100"], line(8), 1, FOUR).weight_activations[0] == pytest.approx(s * h * kept * 6 / 4)


def test_fullest__counts_what_is_left_for_w_as_that():
    costs = replace(GPT, recompute="selective").costs(GPUS["h100"], line(2), 1)
    assert fullest(costs, line(2), (((3, 0), (1, 2)), ((1, 2),))) == pytest.approx((3, 1 + 2 * 32 / 34))
    full = replace(GPT, recompute="full").costs(GPUS["h100"], line(2), 1)
    assert fullest(full, line(2), (((3, 0), (1, 2)), ((0, 1),))) == pytest.approx((1 + 2 * 16, 16))
    assert fullest(replace(costs, weight_activations=None), line(2), (((2, 1),), ((0, 1),))) == (3, 1)


def test_peak__by_hand():
    costs = replace(GPT, recompute="selective").costs(GPUS["h100"], line(8), 1, FOUR)
    peak = peak_memory(costs, line(8), [8 - rank for rank in range(8)], 16)
    n = costs.parameters[3]
    assert peak[3][:3] == (2 * n, 4 * n, 12 * n / 16)
    assert peak[3].activations == 5 * costs.activations[3]
    assert peak[3].logits == 0
    assert (peak[7].logits, peak[7].loss) == (2048 * 51200 * 2 / 4, 2048 * 51200 * 4 / 4)
    assert peak[3].total == sum(peak[3])


def test_peak__chunks_of_a_rank_add_up_their_weights():
    costs = replace(GPT, recompute="selective").costs(GPUS["h100"], (0, 1, 0, 1), 1)
    peak = peak_memory(costs, (0, 1, 0, 1), [5, 4], 1)
    assert peak[0].weights == 2 * (costs.parameters[0] + costs.parameters[2])
    assert peak[0].activations == 5 * costs.activations[0]


def test_peak__explicit_times_say_nothing_of_memory():
    times = Explicit(forward=1.0, backward_input=1.0, backward_weight=1.0, per="rank", p2p_bytes=0.0)
    assert peak_memory(times.costs(GPUS["h100"], line(2), 1), line(2), [2, 1], 1) is None
    cube = hops.sweep_cube("model=explicit", "pp=2,4", "draws=2")
    assert not {"peak_memory", "fits"} & set(cube.data_vars)


def test_cube__says_what_fits(capsys):
    words = ("model.recompute=selective,none", "schedule=1f1b,zb_h2", "microbatches=16", "draws=2")
    cube = hops.sweep_cube(*words)
    assert cube["peak_memory"].dims == ("recompute", "schedule", "rank")
    assert cube["fits"].values.tolist() == [[True, False], [False, False]]
    assert bool((cube["fits"] == (cube["peak_memory"].max("rank") <= 80e9)).all())
    cell = hops.simulate("model.recompute=selective", "schedule=zb_h2", "microbatches=16", "draws=2")
    assert (cell["peak_memory"].values == cube["peak_memory"].sel(recompute="selective", schedule="zb_h2").values).all()
    assert not bool(cell["fits"])
    lines = cube.hops.table().splitlines()
    assert lines[0].split()[-1] == "GB"
    assert ["*" in line for line in lines[1:5]] == [False, True, True, True]
    assert lines[-1] == "note: * more memory than the GPU has"


def test_cube__cells_of_explicit_times_have_no_memory_beside_others():
    cube = hops.sweep_cube("model=gpt_22b,explicit", "draws=2", "microbatches=8")
    assert np.isnan(cube["peak_memory"].sel(model="explicit")).all()
    assert cube["fits"].values.tolist() == [True, False]


def test_zero__divides_what_its_stages_say():
    """1e9 parameters on four GPUs: 2, 4 and 12 bytes each; and ZeRO-3 has those of the running stage whole."""
    for zero, expected in ((0, (2e9, 4e9, 12e9)), (1, (2e9, 4e9, 3e9)), (2, (2e9, 1e9, 3e9)), (3, (0.5e9, 1e9, 3e9))):
        assert states(1e9, 4, zero) == expected
    costs = replace(GPT, recompute="selective").costs(GPUS["h100"], line(8), 1)
    one, three = (peak_memory(costs, line(8), [1] * 8, 4, zero=zero)[3] for zero in (1, 3))
    assert three.weights == one.weights / 4 + one.weights
    assert (three.gradients, three.optimizer) == (one.gradients / 4, one.optimizer)


def test_peak__experts_are_divided_over_those_that_hold_the_same():
    group = Groups(expert=Crowd(4))
    costs = replace(GPT, experts=8, active_experts=2).costs(GPUS["h100"], line(8), 1, (group,) * 8)
    dense, experts = 6 * (4 * 6144**2 + 8 * 6144), 6 * 2 * 8 * 6144**2
    peak = peak_memory(costs, line(8), [1] * 8, 8, 2)[3]
    assert peak[:3] == (2 * (dense + experts), 4 * (dense + experts), 12 * (dense / 8 + experts / 2))


def test_allowances__by_hand():
    costs = replace(GPT, recompute="selective").costs(GPUS["h100"], line(8), 1)
    plain = peak_memory(costs, line(8), [8 - rank for rank in range(8)], 1)
    more = peak_memory(costs, line(8), [8 - rank for rank in range(8)], 1, allowances=Allowances(3e9, 0.1, 0.75))
    a, logits = costs.activations[0], 2048 * 51200
    for rank in (0, 6, 7):
        held = 8 - rank
        assert plain[rank].activations == held * a
        kept = 0.25 * held * a + 0.75 * min(held, 2) * a  # two chunks are on the device in whole
        assert more[rank].activations == pytest.approx(kept)
        dynamic = kept + (6 * logits if rank == 7 else 0)
        assert more[rank].total == pytest.approx(sum(plain[rank][:3]) + 1.1 * dynamic + 3e9)


def test_offload__a_pass_takes_at_least_its_transfer():
    costs = replace(GPT, recompute="selective", split_overhead=0.5).costs(GPUS["h100"], line(8), 1)
    gpu = replace(GPUS["h100"], host_bandwidth=1e9)
    slow = offloaded(costs, gpu, 0.5)
    transfer = 0.5 * costs.activations[3] / 1e9
    assert slow.forward[3] == slow.backward[3] == slow.backward_input[3] == transfer
    assert slow.backward_weight == costs.backward_weight
    assert offloaded(costs, gpu, 0.0) == costs
    assert offloaded(costs, replace(gpu, host_bandwidth=1e15), 1.0) == costs


def test_headroom__is_that_of_the_tightest_rank():
    costs = replace(GPT, recompute="selective").costs(GPUS["h100"], line(8), 1)
    peak = peak_memory(costs, line(8), [1] * 8, 1)
    room = [80e9] * 8
    assert headroom(peak, room) == 80e9 - max(each.total for each in peak)
    room[3] = 24e9  # another device
    assert headroom(peak, room) == 24e9 - peak[3].total


def test_room__a_device_that_cannot_hold_one_layer_is_refused():
    """GPT 1T: 12 x 25600^2 weights a layer, 18 bytes each; the optimizer's 12 over the replicas."""
    sentence = r"one layer's .* take 141.6 GB of a GPU of rank 0, which has 80 GB \(try more tp or dp\)"
    with pytest.raises(Infeasible, match=sentence):
        hops.simulate("model=gpt_1t", "latency=none")
    assert not bool(hops.simulate("model=gpt_1t", "latency=none", "dp=8", "microbatches=8")["fits"])
    cube = hops.sweep_cube("model=gpt_1t", "latency=none", "tp=1,2", "microbatches=8")
    assert cube["evaluated"].values.tolist() == [False, True]
    costs = replace(GPT, layers=8).costs(GPUS["h100"], line(8), 1)
    n = 12 * 6144**2
    check_room(costs, [18 * n] * 8, 1, 1)
    with pytest.raises(Infeasible, match="of a GPU of rank 5"):
        check_room(costs, [18 * n] * 5 + [18 * n - 1] * 3, 1, 1)
    check_room(costs, [9 * n] * 8, 4, 1)
    check_room(costs, [4.5 * n] * 8, 4, 1, zero=3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("memory.reserve=-1", "memory.reserve must be a finite number at least 0; got -1"),
        ("memory.offload=1.5", "memory.offload must be a share of the activations, from 0 to 1; got 1.5"),
        ("+memory.reserv=1", "no key of memory named 'reserv'; did you mean 'reserve'"),
    ],
)
def test_bad_input__is_refused_by_name(words, sentence):
    with pytest.raises(ValueError, match=sentence):
        hops.simulate(words)


def test_cube__headroom_and_offload():
    cube = hops.sweep_cube("memory.offload=0,0.5", "memory.reserve=0,2e9", "latency=none", "microbatches=8")
    left = 80e9 - cube["peak_memory"].max("rank")
    assert np.allclose(cube["headroom"], left)
    assert np.allclose(cube["headroom"].isel(reserve=0) - cube["headroom"].isel(reserve=1), 2e9)
    assert (cube["headroom"].sel(offload=0.5) > cube["headroom"].sel(offload=0)).all()
    cell = hops.simulate("latency=none", "microbatches=8", "memory.offload=0.5")
    assert float(cell["headroom"]) == float(cube["headroom"].sel(offload=0.5, reserve=2e9))
    assert cell["headroom"].attrs["units"] == "byte"


def test_versions__of_the_weights_only():
    costs = GPT.costs(GPUS["h100"], line(4), 1)
    one, three = (peak_memory(costs, line(4), (1,) * 4, 1, versions=(n,) * 4) for n in (1, 3))
    assert [memory.weights for memory in three] == [3 * memory.weights for memory in one]
    assert [memory._replace(weights=0) for memory in three] == [memory._replace(weights=0) for memory in one]
    assert one == peak_memory(costs, line(4), (1,) * 4, 1)


def test_versions__pipedream_keeps_one_for_each_microbatch_under_way():
    same = ("pp=4", "microbatches=8", "latency=none")
    held = {name: hops.simulate(f"schedule={name}", *same)["peak_memory"].values for name in ("1f1b", "pipedream", "pipedream_2bw")}
    weights = np.array([2 * n for n in prepare_plan(plan_of_words(same, sweep=False)).cases[0].weights.costs.parameters])
    assert held["pipedream"] - held["1f1b"] == pytest.approx(weights * [3, 2, 1, 0])
    assert held["pipedream_2bw"] - held["1f1b"] == pytest.approx(weights)


def test_parts__hold_their_share_of_the_activations():
    same = ("pp=4", "microbatches=8", "latency=none", "memory.reserve=0")
    one, four = (hops.simulate("schedule=seq1f1b", f"schedule.splits={q}", *same) for q in (1, 4))
    assert one["peak_in_flight"].values.tolist() == [4, 3, 2, 1]
    assert four["peak_in_flight"].values.tolist() == [7 / 4, 6 / 4, 5 / 4, 1]
    activations = prepare_plan(plan_of_words(same, sweep=False)).cases[0].weights.costs.activations
    assert (one["peak_memory"] - four["peak_memory"]).values == pytest.approx(np.array(activations) * [9 / 4, 6 / 4, 3 / 4, 0], rel=1e-6)


@pytest.mark.parametrize("nodes", ["[[b200,1],[h100,1]]", "[[h100,1],[b200,1]]"])
def test_headroom__of_a_rank_is_that_of_its_smallest_gpu(nodes):
    cell = hops.simulate("topology=hetero", f"topology.nodes={nodes}", "topology.order=[0,8]", "pp=1", "tp=2", "latency=none")
    assert float(cell["headroom"]) == GPUS["h100"].memory - float(cell["peak_memory"].max())
