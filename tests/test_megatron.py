"""Megatron-LM's flags for a scenario, and the best layout of a sweep."""

import pytest

import hops
from hops.megatron import flags
from hops.plan import prepare_plan
from hops.recipes import plan_of_words


def of(*words):
    case = prepare_plan(plan_of_words(words, sweep=False)).cases[0]
    return flags(case.scenario, case.weights.costs.partition)


def test_flags__of_a_dense_model():
    assert of("tp=4", "pp=2", "gpus=16", "global_batch_size=64", "microbatch_size=2") == (
        "--tensor-model-parallel-size 4 --pipeline-model-parallel-size 2 --micro-batch-size 2 --global-batch-size 64"
        " --num-layers 48 --hidden-size 6144 --ffn-hidden-size 24576 --num-attention-heads 64 --seq-length 2048 --padded-vocab-size 51200"
        " --bf16 --use-distributed-optimizer --sequence-parallel --recompute-granularity selective"
    )


def test_flags__of_experts_grouped_queries_chunks_and_full_recomputation():
    found = of("model=mixtral_8x7b", "schedule=interleaved", "pp=4", "model.recompute=full")
    for words in (
        "--num-virtual-stages-per-pipeline-rank 2",
        "--group-query-attention --num-query-groups 8 --swiglu --num-experts 8 --moe-router-topk 2",
        "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
    ):
        assert words in found
    assert "--sequence-parallel" not in found


def test_flags__of_deepseek_v3():
    found = of("model=deepseek_v3", "pp=4", "tp=2", "cp=2", "dp=8", "ep=16", "etp=1", "model.precision=fp8", "model.mtp_layers=1")
    for words in (
        "--pipeline-model-parallel-layout 'Et*16|t*15|t*15|t*15mL'",
        "--context-parallel-size 2 --cp-comm-type p2p --sequence-parallel",
        "--multi-latent-attention --q-lora-rank 1536 --kv-lora-rank 512 --qk-head-dim 128 --qk-pos-emb-head-dim 64 --v-head-dim 128",
        "--num-experts 256 --moe-router-topk 8 --moe-ffn-hidden-size 2048 --moe-shared-expert-intermediate-size 2048",
        "--moe-layer-freq '([0]*3+[1]*58)'",
        "--expert-model-parallel-size 16 --moe-token-dispatcher-type alltoall --expert-tensor-parallel-size 1",
        "--mtp-num-layers 1 --fp8-format hybrid",
    ):
        assert words in found
    assert "--num-query-groups" not in found


def test_flags__of_a_head_width_of_its_own():
    assert "--kv-channels 128 --group-query-attention --num-query-groups 4" in of("model=qwen3_235b", "pp=2", "dp=32", "ep=32")


@pytest.mark.parametrize(
    ("layout", "flag"),
    [
        ("even", False),
        ("Et*23|t*25L", True),
        ("Et*24|t*24L", False),
        ("balanced", False),
    ],
)
def test_flags__a_layout_only_where_megatron_would_not_choose_it(layout, flag):
    assert ("--pipeline-model-parallel-layout" in of("pp=2", f'model.layout="{layout}"')) == flag


def test_flags__a_layout_says_how_many_chunks_as_megatron_takes_no_two_words_for_it():
    found = of("schedule=interleaved", "pp=2", "vpp=2", "microbatches=4", "model.layout='Et*10|t*13|t*13|t*12L'")
    assert "--pipeline-model-parallel-layout 'Et*10|t*13|t*13|t*12L'" in found
    assert "--num-virtual-stages-per-pipeline-rank" not in found


@pytest.mark.parametrize("words", [("model=explicit",), ("schedule=zb",)])
def test_flags__none_for_what_megatron_does_not_run(words):
    assert of(*words) is None


def test_sweep__over_layouts_names_the_fastest_that_fits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["gpus=16", "global_batch_size=32", "pp=1,2,4", "tp=1,2,4", "draws=5"]
    monkeypatch.setattr("sys.argv", ["hops-sweep", "-m", *words, "hydra.sweep.dir=results/x"])
    from hops import sweep

    sweep.main()
    out = capsys.readouterr().out
    cube = hops.open_cube("results/x")
    best = cube["throughput_mean"].where(cube["fits"]).stack(cell=["pp", "tp"]).idxmax("cell").item()
    assert not bool(cube["fits"].all())
    assert f"--tensor-model-parallel-size {best[1]} --pipeline-model-parallel-size {best[0]} " in out
    monkeypatch.setattr("sys.argv", ["hops-sweep", "-m", "gpus=2", "pp=1,2", "draws=5", "hydra.sweep.dir=results/y"])
    sweep.main()
    assert "no cell fits the memory of its GPUs" in capsys.readouterr().out
