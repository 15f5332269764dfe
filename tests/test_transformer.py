"""Transformers on groups of GPUs: context and expert parallelism, latent attention, the roofline, what a split backward costs."""

from dataclasses import replace

import pytest
from test_costs import GPT, line, preset, weights

from hops.blocks import Split
from hops.checks import Infeasible
from hops.collectives import Beside, Context, Crowd, Groups, Ring, Wires
from hops.efficiency import Efficiency
from hops.hardware import GPUS
from hops.layers import LAUNCH

H100 = GPUS["h100"]
RATE = 989e12 * 0.5  # FLOP/s of GPT
S, H, LAYERS = 2048, 6144, 6  # of GPT; layers a stage of eight
MIXTURE = replace(GPT, experts=8, active_experts=2)


def of(model, stage=3, groups=None, b=1, gpu=H100, law=None):
    """Costs of one stage of eight."""
    return model.costs(gpu, line(8), b, (groups,) * 8 if groups else (), law), stage


def forward(*args, **kwargs):
    costs, stage = of(*args, **kwargs)
    return costs.forward[stage]


def contexts(n, comm="p2p", balance="zigzag", latency=1e-6, bandwidth=1e11, tp=1):
    ring, tensor = Ring(n, latency, bandwidth), Ring(tp, 0.0, float("inf"))
    return Groups(tensor, Context(ring, Crowd(n, (Wires(n - 1, latency, bandwidth),)), comm, balance), expert_tensor=tensor)


def experts(ep, etp=1, tp=1, cp=1, latency=1e-6, bandwidth=1e11):
    crowd = Crowd(ep, (Wires(ep - 1, latency, bandwidth),) if ep > 1 else ())
    free = float("inf")
    return Groups(Ring(tp, 0.0, free), Context(Ring(cp, 0.0, free)), crowd, Ring(etp, latency if etp > 1 else 0.0, bandwidth))


def linear_and_core(tokens):
    """Seconds of a GPT layer's linear layers (24 t h^2 FLOP) and core (4 t s h)."""
    return 24 * tokens * H * H / RATE, 4 * tokens * S * H / RATE


# context parallelism


def test_context__divides_work_messages_activations_and_logits_but_no_weights():
    linear, core = (4 * each for each in linear_and_core(S))
    alone, shared = of(GPT, b=4)[0], of(GPT, b=4, groups=contexts(4, latency=0.0, bandwidth=1e15))[0]
    assert shared.forward[3] == pytest.approx(LAYERS * (linear + core) / 4)
    assert shared.backward_input[3] == pytest.approx(LAYERS * (linear + 2 * core) / 4)
    assert shared.backward_weight[3] == pytest.approx(LAYERS * linear / 4)
    assert shared.parameters == alone.parameters
    assert shared.model_flops == alone.model_flops
    for key in ("p2p_bytes", "logits", "loss"):
        assert getattr(shared, key) == getattr(alone, key) / 4
    assert shared.activations[3] == alone.activations[3] / 4


def test_context__naive_blocks_leave_most_of_the_mask_to_the_last_device():
    """A causal mask of n x n blocks: the last device has n - 1 whole blocks and half of its own, of n^2 / 2 in all."""
    linear, core = (8 * each for each in linear_and_core(S))
    for n in (2, 4, 8):
        whole = [i + 0.5 for i in range(n)]
        assert sum(whole) == n * n / 2
        share = whole[-1] / (sum(whole) / n)
        costs, _ = of(GPT, b=8, groups=contexts(n, balance="naive", latency=0.0, bandwidth=1e15))
        assert costs.forward[3] == pytest.approx(LAYERS * (linear + core * share) / n)
        assert costs.backward_weight[3] == pytest.approx(LAYERS * linear / n)


@pytest.mark.parametrize("kv_heads", [64, 8])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_context__a_ring_waits_for_blocks_that_the_core_does_not_hide(kv_heads, recompute):
    """Four devices: three blocks of 512 tokens' keys and values, each beside a quarter of the core; twice that in the backward."""
    model = replace(GPT, kv_heads=kv_heads, recompute=recompute)
    block = 2 * 512 * (H // 64 * kv_heads) * 2  # K and V, bf16
    core = 4 * 512 * S * H / RATE / 4
    for bandwidth in (1e9, 1e10, 1e11, 1e15):
        costs, _ = of(model, groups=contexts(4, bandwidth=bandwidth))
        there = 3 * max(0.0, 1e-6 + block / bandwidth - core)
        back = 3 * max(0.0, 1e-6 + 2 * block / bandwidth - core * (3 if recompute == "selective" else 2))
        calm, _ = of(model, groups=contexts(4, latency=0.0, bandwidth=float("inf")))
        assert costs.forward[3] - calm.forward[3] == pytest.approx(LAYERS * there, abs=1e-12)
        again = there if recompute == "full" else 0.0
        assert costs.backward_input[3] - calm.backward_input[3] == pytest.approx(LAYERS * (back + again), abs=1e-12)
        assert costs.context_communication[3] == pytest.approx(LAYERS * (there + back + again), abs=1e-12)
    assert of(model, groups=contexts(4, bandwidth=1e15))[0].context_communication[3] == 0.0


def test_context__all_gather_is_never_hidden_and_the_backward_gathers_again_and_scatters():
    costs, _ = of(replace(GPT, kv_heads=8), groups=contexts(4, "all_gather"))
    own = 2 * 512 * 768 * 2  # K and V of 512 tokens, 8 heads of 96
    gather = 3 * (1e-6 + own / 1e11)
    assert costs.context_communication[3] == pytest.approx(LAYERS * 3 * gather)


def test_context__ulysses_trades_queries_keys_values_and_output():
    costs, _ = of(replace(GPT, kv_heads=8), groups=contexts(4, "a2a"))
    trades = [1e-6 + 0.75 * 512 * width * 2 / 1e11 for width in (6144, 768, 768, 6144)]
    assert costs.context_communication[3] == pytest.approx(LAYERS * 2 * sum(trades))
    assert Context(Ring(4), comm="a2a", balance="naive").causal_share == 1.0  # every device has all of some heads' mask


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        (contexts(3), "cp=3 cuts a sequence into 6 blocks .cp_balance=zigzag., but 6 does not divide model.sequence=2048"),
        (contexts(5, balance="naive"), "into 5 blocks .cp_balance=naive., but 5 does not divide"),
        (contexts(4, "a2a", tp=32), "tp x cp = 128 does not divide model.heads=64"),
    ],
)
def test_context__must_divide_the_sequence_and_with_ulysses_the_heads(groups, sentence):
    with pytest.raises(Infeasible, match=sentence):
        of(GPT, groups=groups)


# expert parallelism


def test_experts__are_divided_and_the_rest_is_not():
    alone, shared = of(MIXTURE)[0], of(MIXTURE, groups=experts(4))[0]
    one = 2 * H * 4 * H  # weights of an expert
    assert alone.expert_parameters[3] == LAYERS * 8 * one
    assert shared.expert_parameters[3] == LAYERS * 2 * one
    assert shared.parameters == alone.parameters
    assert shared.parameters[3] == LAYERS * (4 * H * H + 8 * H)
    assert shared.model_flops == alone.model_flops
    assert shared.activations == alone.activations


def test_experts__of_a_gpu_see_the_tokens_of_the_whole_group():
    """Four GPUs' 2048 tokens, two experts each a token, over eight: 4096 rows an expert where a GPU alone gives its experts 512."""
    alone, shared = MIXTURE.kinds[1].expert_matrices(), MIXTURE.kinds[1].expert_matrices(Split(ep=4))
    assert [each.rows * S for each in alone] == [512, 512]
    assert [each.rows * S for each in shared] == [2048, 2048]
    assert [each.copies for each in (*alone, *shared)] == [8, 8, 2, 2]
    etp = MIXTURE.kinds[1].expert_matrices(Split(tp=2, cp=2, ep=4, etp=2))
    assert [(each.n, each.k, each.rows) for each in etp] == [(2 * H, H, 8 / 4 / 4), (H, 2 * H, 8 / 4 / 4)]
    whole = MIXTURE.kinds[1].expert_matrices(Split(tp=4, ep=2))  # whole experts, and 512 tokens of each of two GPUs
    assert [each.rows * S for each in whole] == [1024 * 2 / 8] * 2


def test_experts__tokens_travel_there_and_back_in_every_pass():
    """2048 tokens go to two experts each, three quarters of them on other GPUs; twice in the forward, twice in the backward."""
    calm, sent = of(MIXTURE, groups=experts(4, latency=0.0, bandwidth=1e18))[0], of(MIXTURE, groups=experts(4))[0]
    trade = 1e-6 + 0.75 * (2 * S * H * 2) / 1e11
    assert sent.forward[3] - calm.forward[3] == pytest.approx(LAYERS * 2 * trade, rel=1e-6)
    assert sent.backward_input[3] - calm.backward_input[3] == pytest.approx(LAYERS * 2 * trade, rel=1e-6)
    assert sent.backward_weight == calm.backward_weight
    assert sent.expert_communication[3] == pytest.approx(LAYERS * 4 * trade)
    full = of(replace(MIXTURE, recompute="full"), groups=experts(4))[0]
    assert full.expert_communication[3] == pytest.approx(LAYERS * 6 * trade)


def test_experts__split_over_etp_gather_what_the_others_were_sent():
    """tp=2, cp=2: 512 tokens a GPU; ep=4 x etp=2 of them share a layer's experts."""
    costs = of(MIXTURE, groups=experts(4, etp=2, tp=2, cp=2))[0]
    routed = 2 * 512 * H * 2
    both = 1e-6 + 0.75 * routed / 1e11 + 1e-6 + routed / 1e11
    assert costs.expert_communication[3] == pytest.approx(LAYERS * 4 * both)
    alone = of(MIXTURE, groups=experts(1, etp=2, tp=2, cp=2))[0]  # the same experts on both: every vector goes once
    assert alone.expert_communication[3] == pytest.approx(LAYERS * 4 * (1e-6 + 512 * H * 2 / 1e11))
    fewer = of(MIXTURE, groups=experts(1, etp=2, tp=4))[0]  # 512 tokens a GPU, of which two share the experts
    assert fewer.expert_communication[3] == pytest.approx(LAYERS * 4 * (1e-6 + 512 * H * 2 / 1e11))
    whole = of(MIXTURE, groups=experts(1, etp=1, tp=2))[0]
    assert whole.expert_communication[3] == 0.0


def test_experts__leave_tensor_shards_what_every_token_passes():
    """An all-reduce for the attention, and one for shared experts or a dense MLP; forward and backward."""
    two = Ring(2, 1e-6, 1e11)
    once = two.all_reduce(S * H * 2)
    for model, n in ((MIXTURE, 1), (replace(MIXTURE, shared_experts=1), 2), (GPT, 2)):
        groups = Groups(two, expert_tensor=Ring() if model.experts > 1 else two)
        assert of(model, groups=groups)[0].tensor_communication[3] == pytest.approx(LAYERS * 2 * n * once)


def test_experts__imbalance_slows_experts_and_dispatch_and_nothing_else():
    worse = replace(MIXTURE, expert_imbalance=1.5)
    base, slow = of(MIXTURE, groups=experts(4))[0], of(worse, groups=experts(4))[0]
    compute = 2 * 2 * S * (2 * H * 4 * H) / RATE  # two experts a token
    trade = 0.75 * (2 * S * H * 2) / 1e11
    assert slow.forward[3] - base.forward[3] == pytest.approx(LAYERS * 0.5 * (compute + 2 * trade))
    assert slow.backward_weight[3] - base.backward_weight[3] == pytest.approx(LAYERS * 0.5 * compute)
    assert slow.model_flops == base.model_flops
    with pytest.raises(ValueError, match="model.expert_imbalance is the largest load over the mean, at least 1; got 0.5"):
        replace(MIXTURE, expert_imbalance=0.5)


def test_experts__shared_ones_are_dense_and_the_first_layers_have_none():
    model = replace(MIXTURE, moe_ffn_hidden=1024, shared_experts=2, dense_layers=9)
    costs = of(model, groups=experts(4))[0]
    attention, router = 4 * H * H, 8 * H
    dense, mixed = attention + 2 * H * 4 * H, attention + router + 2 * 2 * H * 1024
    table = 51200 * H
    assert costs.parameters[:3] == (6 * dense + table, 3 * dense + 3 * mixed, 6 * mixed)
    assert costs.expert_parameters[:3] == (0, 3 * 2 * 2 * H * 1024, 6 * 2 * 2 * H * 1024)
    assert costs.expert_communication[0] == 0.0
    assert costs.expert_communication[2] == pytest.approx(2 * costs.expert_communication[1])
    active = 6 * S * (mixed + 2 * 2 * H * 1024) + 12 * S * S * H
    assert costs.model_flops[2] == pytest.approx(6 * active)


@pytest.mark.parametrize(
    ("model", "groups", "sentence"),
    [
        (GPT, experts(2), r"ep=2 needs a model with experts; this one has none \(model.experts=1\)"),
        (GPT, experts(1, etp=1, tp=2), "etp=1 needs a model with experts"),
        (MIXTURE, experts(3), "ep=3 does not divide model.experts=8"),
        (replace(MIXTURE, moe_ffn_hidden=1001), experts(1, etp=2, tp=2), "etp=2 does not divide model.moe_ffn_hidden=1001"),
        (replace(MIXTURE, moe_ffn_hidden=1001, shared_experts=1), experts(1, tp=2), "tp=2 does not divide model.shared_experts x"),
    ],
)
def test_experts__must_divide(model, groups, sentence):
    with pytest.raises(Infeasible, match=sentence):
        of(model, groups=groups)


# latent attention


def test_latent_attention__by_hand():
    """DeepSeek-V2's appendix C: projections down to the latent vectors and up to 128 heads of 128 + 64, values of 128."""
    attention = preset("deepseek_v3").attention
    down, up = 7168 * (1536 + 512 + 64), 1536 * 128 * 192 + 512 * 128 * (128 + 128)
    assert sum(each.parameters for each in attention.matrices(Split())) == down + up + 128 * 128 * 7168
    assert attention.core_width == 128 * (192 + 128)
    assert attention.widths == (128 * 192, 128 * 192, 128 * 128, 128 * 128)
    assert attention.kept == 7168 + 1536 + 512 + 64 + 2 * 128 * 192 + 2 * 128 * 128
    shared = attention.matrices(Split(tp=4))
    assert sum(each.parameters for each in shared) == down + (up + 128 * 128 * 7168) / 4  # all have those down, for their tokens
    assert sum(each.parameters * each.rows for each in shared) == (down + up + 128 * 128 * 7168) / 4
    without = replace(preset("deepseek_v3"), q_lora_rank=None).attention
    assert sum(each.parameters for each in without.matrices(Split())) == 7168 * (128 * 192 + 576) + 512 * 128 * 256 + 128 * 128 * 7168


def test_latent_attention__needs_all_its_widths():
    for key in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
        with pytest.raises(ValueError, match=f"makes attention latent, which also needs .*{key}"):
            replace(preset("deepseek_v3"), **{key: None})
    with pytest.raises(ValueError, match="model.q_lora_rank makes attention latent, which also needs model.kv_lora_rank"):
        replace(GPT, q_lora_rank=512)


def test_head_dim__need_not_be_hidden_over_heads():
    wide = replace(GPT, heads=10, kv_heads=2, head_dim=128).attention
    assert [(each.n, each.k) for each in wide.matrices(Split(tp=2))] == [((1280 + 2 * 256) / 2, H), (H, 640)]
    assert wide.core_width == 2 * 1280


def test_mtp__adds_a_layer_a_projection_an_embedding_and_a_second_use_of_the_head():
    one, two = weights(preset("deepseek_v3")), weights(replace(preset("deepseek_v3"), mtp_layers=1))
    layer = preset("deepseek_v3").kinds[1]
    assert two - one == pytest.approx(layer.parameters() + layer.expert_parameters() + 2 * 7168**2)
    model = replace(GPT, layers=6, mtp_layers=1)
    split, joined = replace(model, layout="Et*6|m|L"), replace(model, layout="Et*3|t*3|mL")
    apart, together = split.costs(H100, line(3), 1), joined.costs(H100, line(3), 1)
    table = 51200 * H
    assert apart.parameters[1] == 12 * H * H + 2 * H * H + table
    assert apart.parameters[2] == table
    assert together.parameters[2] == 14 * H * H + 2 * table
    linear, core = linear_and_core(S)
    assert apart.forward[1] == pytest.approx(linear + core + 4 * S * H * H / RATE)
    assert apart.forward[2] == pytest.approx(2 * 2 * S * table / RATE)
    assert apart.logits == 2 * GPT.costs(H100, line(3), 1).logits


# the roofline


def test_roofline__few_tokens_wait_for_weights_and_activations():
    """Eight tokens: a layer's 12 h^2 weights and the inputs and outputs of its products through memory; gradients in fp32."""
    tiny = replace(GPT, sequence=8, layers=8)
    n_values = 8 * ((3 * H + H) + (H + H) + (4 * H + H) + (H + 4 * H))
    core = 4 * 8 * 8 * H / RATE
    costs = of(tiny)[0]
    assert costs.forward[3] == pytest.approx((2 * 12 * H * H + 2 * n_values) / 3350e9 + core)
    assert costs.backward_weight[3] == pytest.approx((8 * 12 * H * H + 2 * n_values) / 3350e9)


def test_roofline__no_kernel_is_shorter_than_its_launch():
    small = replace(GPT, sequence=8, layers=8, hidden=64, heads=8, kv_heads=8, ffn_hidden=256, vocabulary=1000)
    core = 4 * 8 * 8 * 64 / RATE
    assert of(small)[0].forward[3] == pytest.approx(4 * LAUNCH + core)
    assert of(small)[0].backward_weight[3] == pytest.approx(4 * LAUNCH)


def test_roofline__experts_of_a_gpu_run_in_one_kernel():
    few = replace(MIXTURE, sequence=8, layers=8)
    router = 8 * (8 + H) * 2 + 8 * H * 2
    n_values = 8 * ((3 * H + H) + (H + H)) + 8 * 2 * (5 * H + 5 * H)
    core = 4 * 8 * 8 * H / RATE
    moved = 2 * 4 * H * H + 2 * 8 * 8 * H * H + 2 * n_values
    assert of(few)[0].forward[3] == pytest.approx(moved / 3350e9 + max(router / 3350e9, LAUNCH) + core, rel=1e-6)


def test_fp8__doubles_linear_layers_and_leaves_core_and_head():
    linear, core = linear_and_core(S)
    fast, slow = of(replace(GPT, precision="fp8"))[0], of(GPT)[0]
    assert fast.forward[3] == pytest.approx(LAYERS * (linear * 989 / 1979 + core))
    assert fast.forward[7] - fast.forward[3] == pytest.approx(slow.forward[7] - slow.forward[3])
    assert (fast.parameters, fast.activations, fast.model_flops) == (slow.parameters, slow.activations, slow.model_flops)
    with pytest.raises(Infeasible, match=r"needs a device with FP8, which a100 has not \(try topology.gpu=h100, b200"):
        of(replace(GPT, precision="fp8"), gpu=GPUS["a100"])


# a backward in two halves


def test_split_overhead__only_where_the_backward_is_split():
    plain, longer = of(GPT)[0], of(replace(GPT, split_overhead=0.1))[0]
    assert longer.backward == plain.backward
    for s in range(8):
        assert plain.backward[s] == pytest.approx(plain.backward_input[s] + plain.backward_weight[s])
        assert longer.backward_input[s] == pytest.approx(1.1 * plain.backward_input[s])
        assert longer.backward_weight[s] == pytest.approx(1.1 * plain.backward_weight[s])


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_recompute_repeat__computes_once_more_for_the_weights(recompute):
    once = of(replace(GPT, recompute=recompute))[0]
    twice = of(replace(GPT, recompute=recompute, recompute_repeat=True))[0]
    linear, core = linear_and_core(S)
    again = {"none": 0.0, "selective": core, "full": linear + core}[recompute]
    assert twice.backward_weight[3] - once.backward_weight[3] == pytest.approx(LAYERS * again)
    assert (twice.backward, twice.backward_input) == (once.backward, once.backward_input)


# layers to stages


def test_layout__decides_who_has_embedding_and_head():
    model = replace(GPT, layers=6, layout="E|tt|t*4|L")
    costs = model.costs(H100, line(4), 1)
    linear, core = linear_and_core(S)
    table = 51200 * H
    assert costs.parameters == (table, 2 * 12 * H * H, 4 * 12 * H * H, table)
    assert costs.forward == pytest.approx((2 * S * H * 2 / 3350e9, 2 * (linear + core), 4 * (linear + core), 2 * S * table / RATE))
    assert costs.backward_input[0] == LAUNCH
    assert costs.partition == "E|tt|t*4|L"


def test_layout__balanced_is_as_fast_as_its_slowest_stage_can_be():
    """A head as long as two layers: 22 layers and it on six stages."""
    vocabulary = round(2 * (12 * H * H + 2 * S * H) / H)
    model = replace(GPT, layers=22, vocabulary=vocabulary)
    slowest = {}
    for layout in ("even", "balanced"):
        costs = replace(model, layout=layout).costs(H100, line(6), 1)
        slowest[layout] = max(f + b for f, b in zip(costs.forward, costs.backward, strict=True))
    linear, core = linear_and_core(S)
    assert slowest["balanced"] == pytest.approx(4 * (3 * linear + 3 * core), rel=2e-3)  # the first stage looks tokens up besides
    assert slowest["even"] > 1.2 * slowest["balanced"]


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ("Et*24|t*24L", "makes 2 stages; pp x vpp is 8"),
        ("(E)t*7|(t*6|)*6t*6L", "places 49 layers; model.layers is 48"),
        ("Et*6|(t*6|)*6t*6mL", "places 1 MTP layers; model.mtp_layers is 0"),
    ],
)
def test_layout__must_add_up(layout, sentence):
    with pytest.raises(Infeasible, match=sentence):
        of(replace(GPT, layout=layout))


def test_balanced__is_by_the_law_that_times_the_layers():
    law = Efficiency(0.5, 0.01)  # a core fifty times as slow: the head weighs next to nothing
    assert of(replace(GPT, layout="balanced", layers=16), law=law)[0].partition.endswith("ttL")


@pytest.mark.parametrize("bandwidth", [300e9, 5e9])
def test_overlap__a_pass_takes_the_longer_of_compute_and_exchange(bandwidth):
    """Of six layers; 5 GB/s make the exchange the longer. At 1.5 a third of the time that both run is lost."""
    wire = Ring(2, 0.0, bandwidth)
    groups = Groups(wire, expert_tensor=wire)
    exchange = LAYERS * 2 * wire.all_reduce(S * H * 2)
    compute = forward(GPT, groups=groups) - exchange
    assert (exchange > compute) == (bandwidth == 5e9)
    assert forward(GPT, groups=groups._replace(beside=Beside(tp=1.0))) == pytest.approx(max(compute, exchange))
    beside = groups._replace(beside=Beside(tp=1.5))
    assert forward(GPT, groups=beside) == pytest.approx(max(compute + min(exchange, 1.5 * compute) / 3, exchange))
    costs, stage = of(GPT, groups=beside)
    assert costs.tensor_communication[stage] <= 2 * exchange
    assert (costs.tensor_communication[stage] > 0) == (bandwidth == 5e9)


def test_overlap__of_experts_leaves_those_of_tensors_alone():
    groups = experts(4, bandwidth=1e10)
    alone, beside = (of(MIXTURE, groups=each)[0] for each in (groups, groups._replace(beside=Beside(ep=1.0))))
    assert beside.forward[3] < alone.forward[3]
    assert beside.forward[3] >= alone.forward[3] - alone.expert_communication[3] / 2 * 1.0001
    assert beside.tensor_communication == alone.tensor_communication
    unused = of(MIXTURE, groups=groups._replace(beside=Beside(tp=2.0)))[0]
    assert unused.forward == alone.forward
