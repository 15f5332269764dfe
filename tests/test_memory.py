"""Memory: weights, optimizer and activations against figures written independently."""

from dataclasses import replace

import numpy as np
import pytest
from test_costs import GPT, line

import hops
from hops.collectives import Groups, Ring
from hops.costs import Explicit
from hops.hardware import GPUS
from hops.memory import peak_memory

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
