"""The bridge from Megatron-LM: what its arguments and launch scripts become, and flags that read back as the scenario they came from."""

import re

import pytest
from test_bridges import JOBS, MODEL, _compiled, composed, megatron, planned, scenario, values  # noqa: F401 (a fixture)

from hops.bridges import bridge, read_job
from hops.bridges.megatron import FLAGS, NO_MATTER, RULED, uneven
from hops.bridges.shape import dense_layers
from hops.bridges.torchtitan import KEYS
from hops.compositions import has
from hops.megatron import flags
from hops.partition import even, slices, written


def test_megatron__a_launch_script_with_variables_and_arrays():
    overrides, notes = bridge([f"from={JOBS}/gpt3_175b.sh", "draws=2"])
    assert overrides[-1] == "draws=2"
    assert values(overrides[:-1]) == {
        "model": "transformer",
        "tp": "8",
        "pp": "8",
        "vpp": "3",
        "gpus": "128",
        "schedule": "interleaved",
        "microbatch_size": "1",
        "global_batch_size": "1536",
        "zero": "1",
        "overlap_grad_reduce": "true",
        "tp_comm_overlap": "true",
        "model.layers": "96",
        "model.hidden": "12288",
        "model.heads": "96",
        "model.kv_heads": "96",
        "model.ffn_hidden": "49152",
        "model.gated": "false",
        "model.experts": "1",
        "model.active_experts": "1",
        "model.vocabulary": "51200",
        "model.sequence": "2048",
        "model.recompute": "selective",
    }
    said = "\n".join(notes)
    assert re.search(r"assumed: model.ffn_hidden=49152 \(4 x hidden\); model.vocabulary=51200 \(50257 of GPT2BPETokenizer, padded", said)
    assert re.search(r"ignored.*: --max-position-embeddings, --train-iters, --lr, .*--data-path", said)
    assert re.search(r"warning.*--defer-embedding-wgrad-compute", said)
    assert "topology=dgx of h100" in said
    assert "--lr" not in notes[-1]
    made, preset = planned(*overrides), scenario("model=gpt3_175b", "pp=8", "tp=8", "gpus=128")
    assert made == scenario(*overrides)
    assert (made.model, made.dp, made.microbatches) == (preset.model, 2, 768)


def test_megatron__one_string_for_a_shell_and_directives_of_the_scheduler():
    found = read_job(f"{JOBS}/mixtral.sh")
    assert found.values["gpus"] == 32
    assert found.values["model.layout"] == "Et*7|t*9|t*9|t*7L"
    assert (found.values["ep"], found.values["model.kv_heads"], found.values["model.gated"]) == (8, 8, True)
    assert (found.values["model.experts"], found.values["model.active_experts"]) == (8, 2)
    assert (found.values["model.precision"], found.values["model.vocabulary"]) == ("fp8", 32000)
    assert found.values["zero"] == 1
    assert not any("ties" in each for each in found.assumed)
    assert "--moe-grouped-gemm" in found.ignored
    assert not found.unmodelled
    assert not found.missing


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("--swiglu", {"model.gated": True, "model.ffn_hidden": 2688}),
        ("--ffn-hidden-size 3000", {"model.ffn_hidden": 3000}),
        ("--group-query-attention --num-query-groups 4", {"model.kv_heads": 4}),
        ("--num-query-groups 4", {"model.kv_heads": 16}),
        ("--group-query-attention", {"model.kv_heads": 1}),
        ("--num-experts 8 --moe-ffn-hidden-size 512", {"model.experts": 8, "model.active_experts": 2, "model.moe_ffn_hidden": 512}),
        ("--moe-ffn-hidden-size 512 --expert-tensor-parallel-size 1", {"model.experts": 1, "model.moe_ffn_hidden": None, "etp": None}),
        ("--num-experts 8 --expert-model-parallel-size 4 --expert-tensor-parallel-size 1", {"ep": 4, "etp": 1}),
        ("--num-experts 8 --moe-shared-expert-intermediate-size 8192", {"model.shared_experts": 2}),
        ("--num-experts 8 --moe-layer-freq '([0]*3+[1]*5)'", {"model.dense_layers": 3}),
        ("--num-experts 8 --moe-layer-freq 1", {"model.dense_layers": None}),
        ("--moe-layer-freq '([0]*3+[1]*5)'", {"model.dense_layers": None}),
        ("--mtp-num-layers 1", {"model.mtp_layers": 1}),
        ("--context-parallel-size 4 --cp-comm-type a2a", {"cp": 4, "cp_comm": "a2a"}),
        ("--context-parallel-size 4 --cp-comm-type allgather", {"cp_comm": "all_gather"}),
        ("--context-parallel-size 4", {"cp_comm": None}),
        ("--cp-comm-type a2a", {"cp_comm": None}),
        ("--cpu-offloading-num-layers 6", {"memory.offload": 0.75}),
        ("--cuda-graph-impl none", {"cuda_graph": False}),
        ("--cuda-graph-impl local", {"cuda_graph": True}),
        ("--use-tp-pp-dp-mapping", {"topology.order": "tp-cp-ep-pp-dp"}),
        ("--pipeline-model-parallel-size 2 --num-layers-per-virtual-pipeline-stage 2", {"schedule": "interleaved", "vpp": 2}),
        ("--pipeline-model-parallel-size 2 --num-virtual-stages-per-pipeline-rank 1", {"schedule": "1f1b", "vpp": None}),
        (
            "--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout 'Ett|(tt|)*2,ttL'",
            {"vpp": 2, "model.layout": None},  # which is even
        ),
        (
            "--pipeline-model-parallel-size 2 --pipeline-model-parallel-layout 'Et,tt|(tt|)*2,t,mL' --mtp-num-layers 1",
            {"vpp": 2, "model.layout": "Et*3|tt|tt|tmL"},
        ),
        (
            "--pipeline-model-parallel-size 2 --decoder-first-pipeline-num-layers 3 --mtp-num-layers 1",
            {"vpp": None, "model.layout": "Et*3|t*5mL"},
        ),
        (
            "--pipeline-model-parallel-size 5 --pipeline-model-parallel-layout 'E|t*4|t*4|m|L' --mtp-num-layers 1 --num-layers 8",
            {"model.layout": "E|t*4|t*4|m|L"},
        ),
        (
            "--pipeline-model-parallel-size 4 --pipeline-model-parallel-layout 'E|t|t|L' --num-layers 2",  # more stages than layers
            {"model.layout": "E|t|t|L"},
        ),
        ("--vocab-size 1000 --tensor-model-parallel-size 2", {"model.vocabulary": 1024}),
        ("--vocab-size 1000 --make-vocab-size-divisible-by 100", {"model.vocabulary": 1000}),
        ("--padded-vocab-size 1001", {"model.vocabulary": 1001}),
        ("--recompute-granularity full", {"model.recompute": "full"}),
        ("--recompute-activations", {"model.recompute": "selective"}),
        ("--attention-backend unfused", {"model.recompute": "none"}),
        ("--transformer-impl local", {"model.recompute": "none"}),
        ("--transformer-impl local --use-flash-attn", {"model.recompute": "selective"}),
        ("--use-distributed-optimizer", {"zero": 1}),
        ("--use-megatron-fsdp --data-parallel-sharding-strategy optim_grads", {"zero": 2, "overlap_grad_reduce": True}),
        ("--use-torch-fsdp2 --overlap-param-gather", {"zero": 3, "overlap_param_gather": None}),
        ("", {"zero": 0, "microbatches": 1, "gpus": 16, "tp": 1, "model.precision": None}),
        ("--use-distributed-optimizer --num-distributed-optimizer-instances 4", {"dp_shard": 4}),
        (
            "--multi-latent-attention --kv-lora-rank 512 --q-lora-rank 0 --v-head-dim 96",
            {
                "model.kv_lora_rank": 512,
                "model.q_lora_rank": None,
                "model.qk_nope_head_dim": 128,
                "model.qk_rope_head_dim": 64,
                "model.v_head_dim": 96,
            },
        ),
        ("--multi-latent-attention --q-lora-rank 256 --kv-channels 32", {"model.kv_lora_rank": 32, "model.head_dim": None}),
        ("--kv-lora-rank 512 --qk-head-dim 128", {"model.kv_lora_rank": None, "model.qk_nope_head_dim": None}),
        ("--kv-channels 128", {"model.head_dim": 128}),
        ("--kv-channels 64", {"model.head_dim": None}),
        ("--ddp-bucket-size 40000000", {"bucket_size": 40000000}),
        ("--micro-batch-size 2 --micro-batch-size 4", {"microbatch_size": 4}),
    ],
)
def test_megatron__a_flag_means(words, wanted, tmp_path):
    path = tmp_path / "run"
    path.write_text(f"torchrun --nproc_per_node=8 --nnodes=2 pretrain_gpt.py {MODEL} {words}")
    found = read_job(str(path))
    assert {key: found.values.get(key) for key in wanted} == wanted
    assert not found.missing


def test_megatron__tables_do_not_overlap():
    assert not {*FLAGS} & RULED
    assert not [flag for flag in FLAGS if NO_MATTER.match(flag)]


@pytest.mark.parametrize(
    ("launcher", "gpus"),
    [
        ("torchrun --nnodes 4 --nproc-per-node 4 x.py", 16),
        ("python -m torch.distributed.launch --nproc_per_node=8 x.py", 8),
        ("torchrun --nnodes 4 --nproc-per-node gpu x.py", 32),
        ("srun --nodes=2 --ntasks-per-node=8 python x.py", 16),
        ("mpirun -np 24 python x.py", 24),
        ("#SBATCH --nodes=2\n#SBATCH --gres=gpu:4\nsrun python x.py", 8),
        ("torchrun --nnodes $N --nproc-per-node 4 x.py", None),
        ("python x.py", None),
    ],
)
def test_megatron__the_launcher_says_how_many_gpus(launcher, gpus, tmp_path):
    (tmp_path / "run.sh").write_text(f"{launcher} {MODEL}")
    found = read_job(f"{tmp_path}/run.sh")
    assert (found.values.get("gpus"), found.values.get("dp")) == (gpus, 1 if gpus is None else None)
    assert any("type gpus=" in each for each in found.assumed) == (gpus is None)


def test_megatron__every_key_is_one_of_the_config():
    config = composed("model=transformer", "schedule=interleaved")
    assert not [key.to for key in (*FLAGS.values(), *KEYS.values()) if not has(config, key.to)]


@pytest.mark.parametrize(
    ("sizes", "counts"),
    [
        ((8, 4, 1, 1, None, False, False), None),
        ((7, 4, 1, 1, None, False, False), [1, 2, 2, 2]),
        ((8, 3, 1, 2, 2, False, False), [2, 4, 2]),
        ((6, 4, 1, None, None, True, True), [1, 2, 2, 1]),
        ((14, 4, 2, None, None, True, True), [1, 2, 2, 2, 2, 2, 2, 1]),
        ((15, 4, 2, None, None, True, False), [1, 2, 2, 2, 2, 2, 2, 2]),
        ((6, 4, 2, None, None, True, True), [0, 1, 1, 1, 1, 1, 1, 0]),
        ((10, 4, 2, None, None, True, True), None),
        ((16, 3, 2, 4, 4, False, False), [2, 4, 2, 2, 4, 2]),
        ((7, 2, 1, None, None, True, True), None),
    ],
)
def test_uneven__ends_as_asked_for(sizes, counts):
    if counts is None:
        with pytest.raises(ValueError, match="do not (come out|divide)"):
            uneven(*sizes)
    else:
        assert uneven(*sizes) == counts


@pytest.mark.parametrize(
    ("text", "dense"),
    [
        ("1", []),
        ("2", [1, 3, 5]),
        ("3", [1, 2, 4, 5]),
        ("([0]*3+[1]*3)", [0, 1, 2]),
        ("[0]*1+[1]*5", [0]),
        ("([1]+[0])*3", [1, 3, 5]),
        ("[0, 1, 1, 1, 1, 1]", [0]),
        ("0 1 1 1 1 1", [0]),
    ],
)
def test_dense_layers__are_those_without_experts(text, dense):
    assert [i for i, each in enumerate(dense_layers(text, 6)) if each] == dense


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0", "at least 1; got '0'"),
        ("[0]*3", "must say it of 6 layers; got 3"),
        ("[2]*6", "such as"),
        ("[0]*1000000000", "such as"),
        ("__import__('os')", "such as"),
        ("[0]*", "such as"),
    ],
)
def test_dense_layers__refuse_another_list(text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        dense_layers(text, 6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--num-experts 8 --moe-layer-freq 2", "--moe-layer-freq (its 4 dense layers are the first ones here)"),
        ("--num-experts 8 --moe-shared-expert-intermediate-size 5000", "5000 (as 2 of 4096)"),
        ("--context-parallel-size 2 --cp-comm-type p2p a2a", "--cp-comm-type p2p a2a (cp_comm=p2p)"),
        ("--context-parallel-size 2 --cp-comm-type a2a+p2p", "--cp-comm-type a2a+p2p (cp_comm=p2p)"),
        ("--fp4-format e2m1", "--fp4-format"),
    ],
)
def test_megatron__what_it_can_only_approximate_is_a_warning(words, said, tmp_path):
    assert said in megatron(tmp_path, f"x.py {MODEL} {words}")[1][-1]


def test_megatron__layers_that_it_would_not_divide_are_spread_as_hops_does(tmp_path):
    for pp, n in ((3, 1), (4, 0)):
        (tmp_path / "run.sh").write_text(f"x.py {MODEL} --pipeline-model-parallel-size {pp}")
        said = read_job(f"{tmp_path}/run.sh").assumed
        assert sum("Megatron refuses 8 layers over 3 stages" in each for each in said) == n


def test_megatron__the_model_keeps_the_presets_causal_and_says_so(tmp_path):
    text = f"x.py {MODEL}"
    overrides, notes = megatron(tmp_path, text)
    assert not [word for word in overrides if word.startswith("model.causal")]
    assert "model.causal=false" in notes[1]
    for typed in ("model.causal=true", "model=llama3_70b"):
        assert "model.causal" not in "".join(megatron(tmp_path, text, typed)[1][1:])


@pytest.mark.parametrize(
    "words",
    [
        ("model=gpt3_175b", "pp=8", "tp=4", "gpus=64", "global_batch_size=32"),
        ("model=mixtral_8x7b", "schedule=interleaved", "vpp=4", "pp=4", "microbatches=8", "model.recompute=full"),
        ("model=llama3_70b", "pp=2", "tp=8", "dp=3", "microbatches=5", "microbatch_size=2", "model.recompute=none"),
        ("schedule=interleaved", "pp=4", "microbatches=8"),
        ("pp=2", "dp=4", "dp_shard=2", "overlap_grad_reduce=true", "overlap_param_gather=true", "bucket_size=10000000"),
        ("pp=2", "dp=4", "zero=0"),
        ("pp=2", "dp=4", "zero=2", "overlap_grad_reduce=true"),
        ("pp=2", "dp=4", "zero=3"),
        ("pp=4", "model.layout='Et*10|t*13|t*13|t*12L'"),
        ("pp=5", "microbatches=10"),
        ("schedule=interleaved", "vpp=2", "pp=2", "microbatches=4", "model.layout='Et*10|t*13|t*13|t*12L'"),
        ("schedule=interleaved", "vpp=2", "pp=2", "microbatches=4", "schedule.group_size=4", "topology.order=tp-cp-ep-pp-dp"),
        ("pp=2", "tp=2", "cp=4", "cp_comm=a2a", "dp=2"),
        ("pp=2", "cp=2", "cp_comm=all_gather"),
        ("pp=2", "tp=2", "tp_comm_overlap=true"),
        ("model=mixtral_8x7b", "pp=4", "dp=4", "ep=4", "ep_comm_overlap=true"),
        ("pp=1", "memory.offload=0.25"),
        ("model=mixtral_8x7b", "pp=4", "tp=2", "dp=4", "ep=8", "etp=1"),
        ("model=qwen3_235b", "pp=8", "tp=2", "dp=16", "ep=32", "etp=1", "model.precision=fp8"),
        ("model=qwen3_235b", "pp=2", "tp=4", "cp=2", "dp=4", "ep=4", "model.head_dim=96"),
        ("model=deepseek_v3", "pp=16", "dp=64", "ep=64", "model.precision=fp8", "microbatches=64", "zero=1", "overlap_grad_reduce=true"),
        ("model=deepseek_v3", "pp=4", "tp=2", "cp=2", "dp=8", "ep=16", "etp=1", "model.mtp_layers=1", "model.q_lora_rank=null"),
        (
            "model=deepseek_v3",
            "schedule=interleaved",
            "vpp=2",
            "pp=16",
            "dp=64",
            "ep=64",
            "microbatches=32",
            "model.mtp_layers=1",
            "model.layout='Et*3|(tt|)*29m|L'",
        ),
    ],
)
def test_flags__read_back_are_the_same_scenario(words, tmp_path):
    asked = scenario(*words)
    chunks = asked.vpp or (2 if asked.schedule.name == "interleaved" else 1)
    layout = asked.model.layout
    parts = written(slices(even(asked.model.layers, asked.pp * chunks), asked.model.mtp_layers)) if layout == "even" else layout
    path = tmp_path / "run.sh"
    path.write_text(f"torchrun --nnodes 1 --nproc_per_node {asked.layout.n_gpus} pretrain_gpt.py {flags(asked, parts)}")
    made = scenario(f"from={path}")
    if asked.schedule.name == "interleaved" and asked.vpp is None:
        assert made.vpp == 2
        made, asked = flags(made), flags(asked)
    assert made == asked
