"""Models: FLOPs, bytes and seconds of every stage, checked against formulas written independently."""

import math
from dataclasses import replace

import numpy as np
import pytest

import hops
from hops.checks import Infeasible
from hops.collectives import Context, Crowd, Groups, Ring
from hops.costs import Explicit
from hops.hardware import GPUS
from hops.partition import even
from hops.transformer import Transformer

SHAPE = {
    "layers": 48,
    "hidden": 6144,
    "heads": 64,
    "kv_heads": 64,
    "ffn_hidden": 4 * 6144,
    "gated": False,
    "experts": 1,
    "active_experts": 1,
    "vocabulary": 51200,
    "sequence": 2048,
    "recompute": "none",
    "efficiency": 0.5,
    "bytes_per_value": 2,
}
GPT = Transformer(**SHAPE)
UNIT = {"forward": 1.0, "backward_input": 2.0, "backward_weight": 3.0, "per": "rank", "p2p_bytes": 0.0}


def line(p):
    return tuple(range(p))


def weights(model):
    """All weights of a model."""
    costs = model.costs(GPUS["h100"], line(1), 1)
    return costs.parameters[0] + costs.expert_parameters[0]


@pytest.mark.parametrize("p", [1, 2, 7, 48])
@pytest.mark.parametrize("b", [1, 4])
def test_transformer__flops_of_an_iteration_are_megatrons(p, b):
    """Narayanan et al. 2021: 96 B s l h^2 (1 + s/6h + V/16lh) counts recomputation; 72 (1 + s/6h + V/12lh) without."""
    costs = GPT.costs(GPUS["h100"], line(p), b)
    h, s, layers, v = 6144, 2048, 48, 51200
    assert sum(costs.model_flops) == pytest.approx(72 * b * s * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h)), rel=1e-12)
    full = replace(GPT, recompute="full").costs(GPUS["h100"], line(p), b)
    assert sum(full.hardware_flops) == pytest.approx(96 * b * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h)), rel=1e-12)
    assert full.model_flops == costs.model_flops


def test_transformer__attention_core_has_no_weight_backward():
    costs = GPT.costs(GPUS["h100"], line(8), 1)
    h, s = 6144, 2048
    core = 4 * s * s * h * 6 / (989e12 * 0.5)  # 6 layers a stage
    assert costs.forward[3] - costs.backward_weight[3] == pytest.approx(core)
    assert costs.backward_input[3] - costs.backward_weight[3] == pytest.approx(2 * core)


def test_transformer__head_and_embedding_load_the_ends():
    costs = GPT.costs(GPUS["h100"], line(8), 1)
    head = 2 * 2048 * 6144 * 51200 / (989e12 * 0.5)
    assert costs.forward[7] - costs.forward[6] == pytest.approx(head)
    look_up = 2 * 2048 * 6144 * 2 / 3350e9  # a row of the table read and written, a token
    assert costs.forward[0] - costs.forward[6] == pytest.approx(look_up)
    assert costs.backward_weight[0] - costs.backward_weight[6] == pytest.approx(2048 * 6144 * (2 + 4 + 4) / 3350e9)
    assert costs.backward_input[0] == costs.backward_input[6]
    table = 6144 * 51200
    assert costs.parameters[0] - costs.parameters[1] == costs.parameters[7] - costs.parameters[1] == table
    assert costs.p2p_bytes == 2048 * 6144 * 2


def test_transformer__weights_add_up_to_the_name_of_the_model():
    total = weights(GPT)
    assert total == pytest.approx(22e9, rel=0.03)
    llama = replace(GPT, layers=80, hidden=8192, heads=64, kv_heads=8, ffn_hidden=28672, gated=True, vocabulary=128000, sequence=8192)
    assert weights(llama) == pytest.approx(70.6e9, rel=0.01)


def test_transformer__experts_weigh_in_full_and_compute_in_part():
    """Mixtral 8x7B: 46.7e9 weights, 12.9e9 active a token (Jiang et al. 2024, arXiv:2401.04088)."""
    shape = {"layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn_hidden": 14336, "gated": True, "vocabulary": 32000}
    mixtral = replace(GPT, **shape, experts=8, active_experts=2, sequence=4096)
    costs = mixtral.costs(GPUS["h100"], line(1), 1)
    assert weights(mixtral) == pytest.approx(46.7e9, rel=0.005)
    core = 12 * 4096 * 4096 * 4096 * 32  # attention core, forward and backward
    per_token = (sum(costs.model_flops) - core) / 4096 / 6
    assert per_token + 4096 * 32000 == pytest.approx(12.9e9, rel=0.005)  # the embedding weighs and does not compute
    with pytest.raises(ValueError, match="model.active_experts must be a whole number from 1 to 8; got 9"):
        replace(mixtral, active_experts=9)


BILLIONS = {"gpt_22b": 22, "gpt3_175b": 175, "gpt_530b": 530, "gpt_1t": 1008, "llama3_70b": 70.6, "llama3_405b": 405, "mixtral_8x7b": 46.7}
BILLIONS |= {"deepseek_v3": 671, "qwen3_235b": 235, "transformer": 8}
ACTIVE = {"deepseek_v3": 37, "qwen3_235b": 22, "mixtral_8x7b": 12.9}  # a token, as their papers count


def preset(name):
    from hops.config import compose, make_loader, plain
    from hops.cube_sweeper import register

    register()
    section = plain(compose(make_loader(), [f"model={name}"]))["model"]
    section.pop("family")
    return Transformer(**{key: value for key, value in section.items() if value is not None})


@pytest.mark.parametrize(("name", "billions"), BILLIONS.items())
def test_presets__weigh_what_their_name_says(name, billions):
    found = weights(preset(name))
    print(f"{name}: {found / 1e9:.1f}e9 weights, {billions}e9 published")
    assert found == pytest.approx(billions * 1e9, rel=0.02)


@pytest.mark.parametrize(("name", "billions"), ACTIVE.items())
def test_presets__activate_what_their_papers_say(name, billions):
    """FLOPs of a token's linear layers, 6 a weight (forward and backward), and the embedding, which computes nothing."""
    model = preset(name)
    costs = model.costs(GPUS["h100"], line(1), 1)
    q, _, _, out = model.attention.widths
    core = 2 * model.sequence * (q + out) * model.layers  # a token's scores and sums over all tokens, multiply-adds
    found = (sum(costs.model_flops) / model.sequence - 3 * core) / 6 + model.hidden * model.vocabulary
    print(f"{name}: {found / 1e9:.1f}e9 active weights, {billions}e9 published")
    assert found == pytest.approx(billions * 1e9, rel=0.02)


@pytest.mark.parametrize(("n", "expected"), [(4, (3, 2, 3, 2)), (3, (4, 3, 3)), (10, (1,) * 10), (1, (10,))])
def test_transformer__layers_split_evenly_and_the_last_stage_has_fewest(n, expected):
    assert even(10, n) == expected


def test_transformer__more_stages_than_layers_is_refused():
    with pytest.raises(Infeasible, match=r"the model has 48 layers, too few for 64 stages \(try pp=48 or fewer\)"):
        GPT.costs(GPUS["h100"], line(64), 1)


def test_transformer__time_follows_peak_efficiency_and_microbatch():
    base = GPT.costs(GPUS["a100"], line(8), 1).forward[1]
    assert GPT.costs(GPUS["h100"], line(8), 1).forward[1] == pytest.approx(base * 312 / 989)
    assert replace(GPT, efficiency=0.25).costs(GPUS["a100"], line(8), 1).forward[1] == pytest.approx(2 * base)
    assert GPT.costs(GPUS["a100"], line(8), 3).forward[1] == pytest.approx(3 * base)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("layers", 0, "model.layers must be a whole number of at least 1; got 0"),
        ("efficiency", 1.5, "model.efficiency must be a share of the peak"),
        ("efficiency", math.nan, "model.efficiency must be a finite number above 0; got nan"),
        ("recompute", "some", r"no model.recompute named 'some' \(known: full, none, selective\)"),
        ("heads", 7, "model.heads must divide model.hidden; got 7 and 6144"),
        ("kv_heads", 5, "model.kv_heads must divide model.heads; got 5 and 64"),
        ("gated", 1, "model.gated must be true or false; got 1"),
    ],
)
def test_transformer__bad_values_are_refused_by_name(key, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(GPT, **{key: value})


@pytest.mark.parametrize(("per", "expected"), [("rank", 1.0), ("stage", 1.0), ("model", 0.25)])
def test_explicit__scalar_per(per, expected):
    costs = Explicit(**{**UNIT, "per": per}).costs(GPUS["h100"], line(4), 1)
    assert costs.forward == (expected,) * 4
    assert costs.model_flops is None


def test_explicit__a_ranks_share_is_divided_over_its_chunks():
    times = Explicit(**{**UNIT, "forward": [2.0, 4.0]})
    assert times.costs(GPUS["h100"], (0, 1, 1, 0), 1).forward == (1.0, 2.0, 2.0, 1.0)
    assert times.costs(GPUS["h100"], (0, 1), 1).forward == (2.0, 4.0)


def test_explicit__a_list_of_another_length_is_refused():
    with pytest.raises(Infeasible, match="model.forward lists 2 values, one a rank; there are 4 ranks"):
        Explicit(**{**UNIT, "forward": [1.0, 2.0]}).costs(GPUS["h100"], line(4), 1)
    with pytest.raises(ValueError, match="model.forward must be one number when model.per=model"):
        Explicit(**{**UNIT, "forward": [1.0, 2.0], "per": "model"})


@pytest.mark.parametrize("key", ["forward", "backward_input", "backward_weight"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0, "1 s", None, [1.0, math.nan], []])
def test_explicit__broken_times_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=f"model.{key}"):
        Explicit(**{**UNIT, key: value})


def test_explicit__bytes_may_be_zero_but_not_negative():
    assert Explicit(**UNIT).p2p_bytes == 0.0
    with pytest.raises(ValueError, match="model.p2p_bytes must be a finite number at least 0; got -1"):
        Explicit(**{**UNIT, "p2p_bytes": -1})


def test_explicit__split_overhead_only_where_the_backward_is_split():
    costs = Explicit(**UNIT, split_overhead=0.1).costs(GPUS["h100"], line(2), 1)
    assert costs.backward == (5.0, 5.0)
    assert (costs.backward_input[0], costs.backward_weight[0]) == pytest.approx((2.2, 3.3))
    with pytest.raises(ValueError, match="model.split_overhead must be a finite number at least 0; got -0.1"):
        Explicit(**UNIT, split_overhead=-0.1)
    words = ("model=explicit", "latency=none", "microbatches=4", "pp=2", "model.split_overhead=0,0.5")
    cube = hops.sweep_cube("schedule=gpipe,zb_h1", *words)
    plain = 4 * 0.030  # F, I and W of 10 ms
    assert cube["busy_time"].isel(rank=0).values == pytest.approx(np.array([[plain, plain], [plain, plain + 4 * 0.010]]))


@pytest.mark.parametrize("sizes", [{"context": Context(Ring(2))}, {"expert": Crowd(2)}])
def test_explicit__says_nothing_of_context_and_expert_parallelism(sizes):
    with pytest.raises(Infeasible, match=f"explicit times say nothing of {next(iter(sizes))} parallelism: .p=2 needs a transformer"):
        Explicit(**UNIT).costs(GPUS["h100"], line(2), 1, (Groups(**sizes),) * 2)


def test_tensor_parallel__divides_the_work_and_adds_two_all_reduces_a_layer_and_pass():
    eight = Ring(8, 3.4e-6, 371e9)
    alone, shared = GPT.costs(GPUS["h100"], line(8), 2), GPT.costs(GPUS["h100"], line(8), 2, (Groups(eight, expert_tensor=eight),) * 8)
    exchange = 6 * 2 * eight.all_reduce(2 * 2048 * 6144 * 2)  # 6 layers a stage
    for s in range(1, 8):  # stage 0 looks tokens up besides, which tp does not divide
        assert shared.forward[s] == pytest.approx(alone.forward[s] / 8 + exchange)
        assert shared.backward_input[s] == pytest.approx(alone.backward_input[s] / 8 + exchange)
        assert shared.backward_weight[s] == pytest.approx(alone.backward_weight[s] / 8)
        assert shared.parameters[s] == alone.parameters[s] / 8
        assert shared.tensor_communication[s] == pytest.approx(2 * exchange)
    assert shared.p2p_bytes == alone.p2p_bytes / 8
    assert shared.model_flops == alone.model_flops  # of all shards together
    again = replace(GPT, recompute="full").costs(GPUS["h100"], line(8), 2, (Groups(eight, expert_tensor=eight),) * 8)
    assert again.tensor_communication[0] == pytest.approx(3 * exchange)


@pytest.mark.parametrize(
    ("model", "tp", "sentence"),
    [
        (GPT, 3, r"tp=3 does not divide model.heads=64"),
        (replace(GPT, heads=48, kv_heads=48), 32, r"tp=32 does not divide model.heads=48"),
        (replace(GPT, kv_heads=4), 16, None),
        (replace(GPT, heads=12, kv_heads=4), 6, "tp=6 neither divides model.kv_heads=4 nor is a multiple of it"),
        (Explicit(**UNIT), 2, "explicit times say nothing of tensor parallelism: tp=2 needs a transformer"),
    ],
)
def test_tensor_parallel__must_divide_the_model(model, tp, sentence):
    shards = (Groups(Ring(tp, 1e-6, 1e11), expert_tensor=Ring(tp, 1e-6, 1e11)),) * 2
    if sentence is None:
        assert model.costs(GPUS["h100"], line(2), 1, shards).n_stages == 2
    else:
        with pytest.raises(Infeasible, match=sentence):
            model.costs(GPUS["h100"], line(2), 1, shards)
