"""Megatron-LM's flags for a scenario, and the best layout of a sweep."""

import pytest

import hops
from hops.megatron import flags
from hops.plan import prepare_plan
from hops.sweep import _plan


def of(*words):
    return flags(prepare_plan(_plan(words, sweep=False)).cases[0].scenario)


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
