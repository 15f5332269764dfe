"""The bridge in: jobs of Megatron-LM, torchtitan, NeMo and Megatron-Bridge as overrides, and what it says of the rest."""

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

import hops
from hops import cube_sweeper, sweep
from hops.bridges import bridge, read_job
from hops.bridges.megatron import FLAGS, NO_MATTER, RULED
from hops.bridges.megatron_layers import dense_layers, uneven
from hops.bridges.shell import read_script
from hops.bridges.torchtitan import FLAVORS, KEYS
from hops.checks import Infeasible
from hops.compositions import has, with_value
from hops.config import compose, make_loader, plain
from hops.megatron import flags
from hops.partition import even, slices, written

JOBS = Path(__file__).parent / "bridge"
MODEL = "--num-layers 8 --hidden-size 1024 --num-attention-heads 16 --seq-length 512 --micro-batch-size 1"


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Nothing here is evaluated, so that no kernel need be compiled."""


@cache
def composed(*groups):
    cube_sweeper.register()
    return plain(compose(make_loader(), list(groups)))


def scenario(*words):
    """The scenario of a command line; Hydra composes once a choice of groups, which takes most of the time."""
    typed = values(bridge(words)[0])
    groups = {key for key in typed if key in ("model", "schedule", "topology")}
    config = composed(*(f"{key}={typed[key]}" for key in sorted(groups)))
    for key in typed.keys() - groups:
        assert has(config, key), key
        config = with_value(config, key.split("."), yaml.safe_load(typed[key]))
    made = cube_sweeper._scenario(config, typed)
    if isinstance(made, Infeasible):
        raise made
    return made


def planned(*words):
    """The same by the real path."""
    (made,) = sweep._plan(words, sweep=False).scenarios
    return made


def megatron(tmp_path, text, *typed):
    path = tmp_path / "run.sh"
    path.write_text(text)
    return bridge([f"from={path}", *typed])


def values(overrides):
    return dict(word.split("=", 1) for word in overrides)


# what shells do, without a shell


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("A=8\nrun --a $A", ["run", "--a", "8"]),
        ("A=${A:-8}\nrun --a ${A}", ["run", "--a", "8"]),
        ("A=4; B=${C:-$A}\nrun $B", ["run", "4"]),
        ("A=4 B=2\nrun $((A * ($B + 1)))", ["run", "12"]),
        ("A=7\nrun $((A / 2 % 2)) $((A - 1))", ["run", "1", "6"]),
        ("run $(hostname) ${1} $2 $((N * 2))", ["run", "$(hostname)", "${1}", "$2", "$((N * 2))"]),
        ("A=(--x 1\n  --y '2 3' # why\n)\nA+=(--z)\nrun \"${A[@]}\"", ["run", "--x", "1", "--y", "2 3", "--z"]),
        ("A=(--x '2 3')\nrun ${A[@]}", ["run", "--x", "2", "3"]),
        ('A="--x 1"\nA+=" --y"\nrun $A "$A"', ["run", "--x", "1", "--y", "--x 1 --y"]),
        ("run \\\n  --x \\\n  1", ["run", "--x", "1"]),
        ("run '$A' \"\\$A\" a\\ b", ["run", "$A", "$A", "a b"]),
        ("export -x A=1\nB=2 run $A $B > log 2>&1 | tee", ["run", "1", "2"]),
        ("run 'a|b' \"(c;d)\" # e", ["run", "a|b", "(c;d)"]),
        ('if [ -z "$A" ]; then\n A=3\nfi\nrun $A', ["run", "3"]),
        ('A=1\nif x; then A="$A 2"; fi\nrun "$A"', ["run", "1 2"]),
        ("for i in 1 2; do run $i; done", ["run", "$i"]),
    ],
)
def test_shell__puts_in_what_the_script_says(script, words):
    found = read_script(script)
    assert [list(command) for command in found.commands if command[0] == "run"] == [words]
    assert found.unsure == ()


def test_shell__of_branches_that_differ_the_first_counts_and_is_named():
    found = read_script("if x; then\n A=1\nelse\n A=2\nfi\nA=${A}\nrun $A")
    assert found.commands[-1] == ("run", "1")
    assert found.unsure == ("A",)


@pytest.mark.parametrize(
    ("script", "words"), [("A='x", "a quote ' that opens in line 1 does not end"), ("\nA=(x\ny", "the array A does not end")]
)
def test_shell__names_what_does_not_end(script, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        read_script(script)


def test_shell__executes_nothing(tmp_path):
    read_script(f"A=$(touch {tmp_path}/made)\ntouch {tmp_path}/made\n`touch {tmp_path}/made`")
    assert not list(tmp_path.iterdir())


# Megatron-LM


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
    assert re.search(r"warning.*--tp-comm-overlap", said)
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
        ("--overlap-moe-expert-parallel-comm", "--overlap-moe-expert-parallel-comm"),
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


# torchtitan


def test_torchtitan__a_job_config():
    overrides, notes = bridge([f"from={JOBS}/llama3_405b.toml"])
    sizes = ("model.vocabulary=128256", "model.recompute=full", "model.precision=fp8", "model.layout='Et*7|(t*8|)*14t*7L'")
    made, preset = planned(*overrides), scenario("model=llama3_405b", *sizes)
    assert (made.model, made.schedule.name) == (preset.model, "interleaved")
    assert (made.tp, made.pp, made.vpp, made.dp, made.microbatches, made.microbatch_size) == (8, 8, 2, 8, 16, 1)
    assert re.search(r"warning.*parallelism.enable_async_tensor_parallel; compile.enable", notes[-1])
    assert re.search(r"ignored.*optimizer.lr", notes[-2])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("data_parallel_shard_degree = 4\ndata_parallel_replicate_degree = 2", {"dp": 8, "dp_shard": 4, "zero": 3}),
        ("data_parallel_shard_degree = 1\ndata_parallel_replicate_degree = 2", {"dp": 2, "dp_shard": None, "zero": 0}),
        ("fsdp_reshard_after_forward = 'never'", {"dp": 1, "zero": 2, "overlap_param_gather": True}),
        ("fsdp_reshard_after_forward = 'always'\npipeline_parallel_degree = 2", {"zero": 3, "overlap_param_gather": None}),
        ("pipeline_parallel_degree = 2", {"zero": 1, "overlap_grad_reduce": True, "overlap_param_gather": True}),
        ("", {"microbatch_size": 8, "microbatches": 1, "model.sequence": 2048, "schedule": "1f1b", "zero": 3}),
        ("pipeline_parallel_degree = 2", {"microbatch_size": 1, "microbatches": 8, "schedule": "1f1b", "vpp": None}),
        ("pipeline_parallel_degree = 2\npipeline_parallel_schedule = 'gpipe'", {"schedule": "gpipe"}),
        ("pipeline_parallel_degree = 2\npipeline_parallel_schedule = 'Interleaved1F1B'", {"schedule": "interleaved", "vpp": 2}),
        (
            "pipeline_parallel_degree = 3\npipeline_parallel_schedule = 'Interleaved1F1B'\npipeline_parallel_layers_per_stage = 4",
            {"vpp": 3},  # 32 layers and one for each table
        ),
        ("pipeline_parallel_degree = 2\nbatch_size = 12\npipeline_parallel_microbatches = 4", {"microbatch_size": 3, "microbatches": 4}),
        ("local_batch_size = 2\nglobal_batch_size = 64", {"microbatch_size": 2, "global_batch_size": 64, "microbatches": None}),
        ("context_parallel_degree = 2", {"cp": 2, "cp_comm": "all_gather", "cp_balance": None}),
        ("context_parallel_degree = 2\ncontext_parallel_rotate_method = 'alltoall'", {"cp_comm": "p2p"}),
        ("context_parallel_degree = 2\ncontext_parallel_load_balance = false", {"cp_balance": "naive"}),
        ("context_parallel_degree = 1\ncontext_parallel_load_balance = false", {"cp": None, "cp_comm": None, "cp_balance": None}),
        ("expert_parallel_degree = 4\nexpert_tensor_parallel_degree = 1", {"ep": None, "etp": None}),  # of a dense model
        ("pipeline_parallel_degree = 2", {"model.layout": None}),  # 17 layers each less a table
        ("pipeline_parallel_degree = 3", {"model.layout": None}),  # 12 + 11 + 11 less a table at both ends
        ("pipeline_parallel_degree = 3\npipeline_parallel_first_stage_less_layers = 3", {"model.layout": "Et*9|t*12|t*11L"}),
    ],
)
def test_torchtitan__a_key_means(text, wanted, tmp_path):
    (tmp_path / "job").write_text(f"[model]\nname = 'llama3'\nflavor = '8B'\n[parallelism]\n{text}\n")
    found = read_job(f"{tmp_path}/job")
    assert {key: found.values.get(key) for key in wanted} == wanted
    assert not found.missing


def test_torchtitan__experts_are_split_by_themselves_where_there_are_any(tmp_path):
    job = "[model]\nname = 'deepseek_v3'\nflavor = '671B'\n[parallelism]\ntensor_parallel_degree = 4\nexpert_parallel_degree = {}\n"
    for degree, more, wanted in ((1, "", (None, None)), (8, "", (8, 1)), (8, "expert_tensor_parallel_degree = 4", (8, 4))):
        (tmp_path / "job.toml").write_text(job.format(degree) + more)
        found = read_job(f"{tmp_path}/job.toml").values
        assert (found.get("ep"), found.get("etp")) == wanted


def n_parameters(model, tied=False):
    """All weights, and those that a token passes."""
    kinds = [(model.n_dense, model.kinds[0]), (model.layers - model.n_dense, model.kinds[1])]
    tables = (2 - tied) * model.hidden * model.vocabulary
    everything = sum(n * (kind.parameters() + kind.expert_parameters()) for n, kind in kinds)
    return everything + tables, sum(n * kind.active_parameters for n, kind in kinds) + tables


# billions of weights, and of those that a token passes; model cards of the released models, from memory
WEIGHTS = {
    "llama3 8B": (8.03, None),
    "llama3 70B": (70.6, None),
    "llama3 405B": (406, None),
    "deepseek_v3 16B": (15.7, 2.7),  # DeepSeek-V2-Lite; the card says 2.4, without the embedding
    "deepseek_v3 236B": (236, 21),
    "deepseek_v3 671B": (671, 37.6),  # the card says 37
    "qwen3 0.6B": (0.6, None),
    "qwen3 1.7B": (1.7, None),
    "qwen3 4B": (4.0, None),
    "qwen3 8B": (8.2, None),
    "qwen3 14B": (14.8, None),
    "qwen3 32B": (32.8, None),
    "qwen3 30B-A3B": (30.5, 3.3),
    "qwen3 235B-A22B": (235, 22),
}


@pytest.mark.parametrize("flavor", FLAVORS, ids=" ".join)
def test_torchtitan__every_flavor_has_the_weights_of_its_model(flavor, tmp_path):
    (tmp_path / "job.toml").write_text("[model]\nname = '{}'\nflavor = '{}'".format(*flavor))
    model = scenario(f"from={tmp_path}/job.toml").model
    tied = flavor[0] == "qwen3" and model.hidden < 4096 and model.experts == 1  # one table for both ends
    everything, active = (n / 1e9 for n in n_parameters(model, tied))
    theirs, theirs_active = WEIGHTS[" ".join(flavor)]
    assert everything == pytest.approx(theirs, rel=0.02)
    assert theirs_active is None or active == pytest.approx(theirs_active, rel=0.03)


def test_torchtitan__a_flavor_is_the_preset_of_its_name(tmp_path):
    for flavor, preset in (("deepseek_v3 671B", "deepseek_v3"), ("qwen3 235B-A22B", "qwen3_235b")):
        name, size = flavor.split()
        (tmp_path / "job.toml").write_text(f"[model]\nname = '{name}'\nflavor = '{size}'\n[training]\nseq_len = 4096")
        assert scenario(f"from={tmp_path}/job.toml").model == scenario(f"model={preset}").model


def test_torchtitan__accumulated_batches_are_not_silently_one_pipeline(tmp_path):
    job = "[model]\nflavor = '8B'\n[training]\nlocal_batch_size = 4\nglobal_batch_size = {}\n[parallelism]\npipeline_parallel_degree = 2\n"
    for batch, n in ((8, 0), (16, 1)):
        (tmp_path / "job.toml").write_text(job.format(batch) + "data_parallel_shard_degree = 2")
        assert sum("accumulated batches" in each for each in read_job(f"{tmp_path}/job.toml").unmodelled) == n


# NeMo and Megatron-Bridge


def test_nemo__a_recipe_of_megatron_bridge():
    overrides, notes = bridge([f"from={JOBS}/llama3_70b.yaml", "cp=1"])
    made, preset = planned(*overrides), scenario("model=llama3_70b", "model.vocabulary=128512")
    assert (made.model, made.schedule.name, made.vpp) == (preset.model, "interleaved", 5)
    assert (made.tp, made.pp, made.dp, made.microbatches) == (4, 4, 4, 32)
    assert re.search(r"ignored.*: checkpoint, ", "\n".join(notes))
    assert "comm_overlap.tp_comm_overlap" in notes[-1]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ffn_hidden_size: '${multiply:4, ${.hidden_size}}'", {"model.ffn_hidden": 4096}),
        ("activation: fast-swiglu", {"model.gated": True}),
        ("activations_checkpoint_granularity: full", {"model.recompute": "full"}),
        ("optim: {name: distributed_fused_adam}", {"zero": 1}),
        ("vocab_size: 1001\n  should_pad_vocab: false", {"model.vocabulary": 1001}),
        ("vocab_size: 1001\n  should_pad_vocab: true", {"model.vocabulary": 1024}),
        (
            "pipeline_model_parallel_size: 2\n  pipeline_model_parallel_layout: [[embedding, decoder], [decoder, loss]]",
            {"model.layout": None},
        ),
        (
            "pipeline_model_parallel_size: 2\n  pipeline_model_parallel_layout: [[embedding], [decoder, decoder, loss]]",
            {"model.layout": "E|ttL"},
        ),
        ("num_moe_experts: 4\n  moe_layer_freq: [0, 1]", {"model.dense_layers": 1}),
        ("num_moe_experts: 4\n  moe_layer_freq: ([0]*1+[1]*1)", {"model.dense_layers": 1}),
        (
            "num_moe_experts: 4\n  moe_shared_expert_intermediate_size: 8192\n  mtp_num_layers: 1",
            {"model.shared_experts": 2, "model.mtp_layers": 1},
        ),
        ("cpu_offloading: true\n  cpu_offloading_num_layers: 1", {"memory.offload": 0.5}),
        ("cpu_offloading: false\n  cpu_offloading_num_layers: 0", {"memory.offload": None}),
        ("context_parallel_size: 2\n  cp_comm_type: [a2a]", {"cp_comm": "a2a"}),
        ("num_query_groups: 4", {"model.kv_heads": 4}),
        ("num_query_groups: null", {"model.kv_heads": 16}),
        ("sequence_parallel: false", {"model.precision": None}),
        ("fp8: hybrid", {"model.precision": "fp8"}),
    ],
)
def test_nemo__a_field_means(text, wanted, tmp_path):
    sizes = "num_layers: 2\n  hidden_size: 1024\n  num_attention_heads: 16\n  encoder_seq_length: 512\n  micro_batch_size: 1"
    (tmp_path / "job.yaml").write_text(f"trainer: {{num_nodes: 2, devices: 8}}\nmodel:\n  {sizes}\n  {text}\n")
    found = read_job(f"{tmp_path}/job.yaml")
    assert {key: found.values.get(key) for key in wanted} == wanted
    assert found.values["gpus"] == 16
    assert not found.missing


def test_nemo__flags_as_keys_are_flags(tmp_path):
    (tmp_path / "job.yaml").write_text(
        "ENV_VARS:\n  X: 1\nMODEL_ARGS:\n  --num-layers: 4\n  --swiglu: true\n  --lr: 1\n  --unheard-of: true\n"
    )
    found = read_job(f"{tmp_path}/job.yaml")
    assert (found.values["model.layers"], found.values["model.gated"]) == (4, True)
    assert found.unmodelled == ["MODEL_ARGS.--unheard-of"]


# what is typed beside the file, and what this HOPS has not


@pytest.mark.parametrize(
    ("typed", "gone", "stays"),
    [
        ("tp=4", {"tp"}, {"gpus", "pp"}),
        ("dp=3", {"gpus"}, {"tp", "global_batch_size"}),
        ("microbatches=8", {"global_batch_size"}, {"gpus"}),
        ("schedule=zb", {"schedule", "vpp"}, {"pp"}),
        ("model=llama3_70b", {"model.layers", "model.vocabulary"}, {"model.sequence", "model.recompute"}),
        ("model=explicit", {"model.layers", "model.sequence"}, {"tp"}),
        ("model.layers=4", {"model.layers"}, {"model", "model.hidden"}),
        ("~latency.link=x", set(), {"tp", "pp"}),
    ],
)
def test_typed__wins(typed, gone, stays):
    for words in ((typed, f"from={JOBS}/gpt3_175b.sh"), (f"from={JOBS}/gpt3_175b.sh", typed)):
        overrides, _ = bridge(words)
        assert typed in overrides
        keys = {*values(word for word in overrides if word != typed)}
        assert not gone & keys
        assert stays <= keys


@pytest.mark.parametrize(
    ("more", "typed", "kept"),
    [
        ("", "tp=2", True),
        ("", "schedule=zb", True),
        ("", "pp=4", False),
        ("", "model.layers=9", False),
        ("", "model=llama3_70b", False),
        ("--mtp-num-layers 1", "model.mtp_layers=0", False),
        ("--num-virtual-stages-per-pipeline-rank 3", "tp=2", True),
        ("--num-virtual-stages-per-pipeline-rank 3", "schedule=zb", False),
        ("--num-virtual-stages-per-pipeline-rank 3", "vpp=2", False),
    ],
)
def test_typed__a_layout_of_other_stages_is_dropped_and_the_user_told(more, typed, kept, tmp_path):
    text = f"x.py {MODEL} --num-layers 9 --pipeline-model-parallel-size 2 --decoder-first-pipeline-num-layers 3 {more}"
    overrides, notes = megatron(tmp_path, text, typed)
    assert any(word.startswith("model.layout='E") for word in overrides) == kept
    assert ("model.layout=even (that of the file has other stages)" in "".join(notes)) == (not kept and not typed.startswith("model="))


def test_typed__experts_that_the_file_leaves_open_keep_their_width(tmp_path):
    text = f"x.py {MODEL} --num-experts $N --moe-ffn-hidden-size 512 --expert-tensor-parallel-size 1"
    overrides, _ = megatron(tmp_path, text, "model.experts=4")
    assert {"model.moe_ffn_hidden=512", "etp=1", "model.experts=4"} <= {*overrides}


def test_typed__what_the_file_leaves_open(tmp_path):
    text = f"torchrun --nproc_per_node 8 x.py {MODEL} --tensor-model-parallel-size $TP"
    with pytest.raises(ValueError, match=r"--tensor-model-parallel-size is \$TP, which only a run would know \(type tp=... beside it\)"):
        megatron(tmp_path, text)
    assert "tp=2" in megatron(tmp_path, text, "tp=2")[0]


@pytest.mark.parametrize("question", [("+experiment=nvlink_or_pcie",), ("-cn", "nvlink_or_pcie")])
def test_typed__so_is_what_a_question_asks(question):
    overrides, notes = bridge(["-m", f"from={JOBS}/gpt3_175b.sh", *question])
    assert not [word for word in overrides if word.startswith(("schedule=", "vpp="))]
    assert "topology=" not in "".join(notes)
    assert "tp=8" in overrides


def test_unknown__is_left_out_with_a_warning(tmp_path):
    text = f"torchrun --nproc_per_node 8 x.py {MODEL} --context-parallel-size 2 --expert-model-parallel-size 1 --unheard-of 3"
    overrides, notes = megatron(tmp_path, text)
    assert "cp=2" in overrides
    assert "--unheard-of" in notes[-1]
    assert "ep=1" not in notes[-1]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("nope.sh", None, "nope.sh: No such file or directory"),
        ("a.sh", "echo hallo", "no flag of Megatron-LM stands in it"),
        ("a.sh", f"x.py {MODEL} --hidden-size x", "--hidden-size must be a whole number of at least 1; got 'x'"),
        (
            "a.sh",
            f"x.py {MODEL} --tensor-model-parallel-size 0",
            "--tensor-model-parallel-size must be a whole number of at least 1; got '0'",
        ),
        ("a.sh", f"x.py {MODEL} --recompute-granularity half", "must be one of selective, full; got 'half'"),
        ("a.sh", "x.py --tensor-model-parallel-size 2", "no --num-layers in it; .*or choose a model="),
        (
            "a.sh",
            f"x.py {MODEL} --pipeline-model-parallel-size 3 --num-layers-per-virtual-pipeline-stage 2",
            "8 layers are no multiple of 3 ranks",
        ),
        (
            "a.sh",
            f"x.py {MODEL} --pipeline-model-parallel-size 2 --pipeline-model-parallel-layout 'E|t|L'",
            "has 3 stages, no multiple of 2 ranks",
        ),
        ("a.sh", f"x.py {MODEL} --pipeline-model-parallel-layout 'E|t'", "a.sh: model.layout='E|t' needs one L"),
        ("a.sh", f"x.py {MODEL} --num-experts 4 --moe-layer-freq '[0]*3'", "--moe-layer-freq must say it of 8 layers; got 3"),
        ("a.sh", f"x.py {MODEL} --num-experts 4 --moe-layer-freq 0", "--moe-layer-freq must be a whole number of at least 1; got '0'"),
        ("a.sh", f"x.py {MODEL} --num-experts $N", "--num-experts is .N, which only a run would know .type model.experts="),
        (
            "a.sh",
            f"x.py {MODEL} --context-parallel-size 2 --cp-comm-type ring",
            "--cp-comm-type must be one of p2p, all_gather, allgather, a2a, a2a.p2p; got 'ring'",
        ),
        (
            "a.toml",
            "[model]\nflavor = '8B'\n[parallelism]\npipeline_parallel_degree = 40",
            "32 layers and 2 for the tables are too few for 40 stages",
        ),
        ("a.toml", "[model", "no TOML"),
        ("a.toml", "[server]\nport = 1", "no key of torchtitan stands in it"),
        ("a.toml", "[model]\nflavor = '9B'", "no sizes of llama3 9B are known"),
        ("a.toml", "[training]\nseq_len = 1", "no .model. flavor in it"),
        (
            "a.toml",
            "[model]\nflavor = '8B'\n[training]\nlocal_batch_size = 0",
            "local_batch_size must be a whole number of at least 1; got 0",
        ),
        (
            "a.toml",
            "[model]\nflavor = '8B'\n[parallelism]\npipeline_parallel_degree = 2\npipeline_parallel_schedule = 'nope'",
            "pipeline_parallel_schedule 'nope' is none of HOPS.*type schedule=",
        ),
        ("a.yaml", "a: [", "no YAML"),
        ("a.yaml", "- 1", "holds no sections"),
        ("a.yaml", "server: {port: 1}", "no field of NeMo or Megatron-Bridge stands in it"),
        ("a.py", "print(1)", "neither a script with flags of Megatron-LM"),
        ("", None, "from= names no file"),
    ],
)
def test_refused__in_a_sentence(name, text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=words):
        bridge([f"from={name}"])


def test_refused__two_files_and_no_text(tmp_path):
    with pytest.raises(ValueError, match="from= may stand once"):
        bridge(["from=a.sh", "from=b.sh"])
    (tmp_path / "a.sh").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no text"):
        bridge([f"from={tmp_path}/a.sh"])


# the command line and Python


def test_command_line__a_sweep_over_a_launch_script(monkeypatch, capsys):
    plans = []
    monkeypatch.setattr(sweep, "run_plan", lambda plan, config: plans.append(plan))
    monkeypatch.setattr("sys.argv", ["hops-sweep", "-m", f"from={JOBS}/gpt3_175b.sh", "tp=4,8", "global_batch_size=32"])
    sweep.main()
    (plan,) = plans
    assert [(each.tp, each.dp, each.pp, each.microbatches) for each in plan.scenarios] == [(4, 4, 8, 8), (8, 2, 8, 16)]
    assert "pp=8" in plan.overrides
    assert re.match(r"from=.*gpt3_175b.sh \(Megatron-LM\): model=transformer pp=8 vpp=3", capsys.readouterr().err)


def test_command_line__a_refusal_is_a_sentence_and_exit_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["hops-sweep", "from=nope.sh"])
    with pytest.raises(SystemExit) as exit_:
        sweep.main()
    assert exit_.value.code == 1
    assert capsys.readouterr().err.startswith("from=nope.sh: No such file")


def test_python__takes_the_same_words(monkeypatch, capsys):
    monkeypatch.setattr("hops.cube.cell_dataset", lambda prepared: prepared)
    monkeypatch.setattr("hops.cube.cube_dataset", lambda prepared: prepared)
    monkeypatch.setattr("hops.trace.timeline_frame", lambda case, draw: case)
    job = (f"from={JOBS}/llama3_70b.yaml", "microbatches=4", "gpus=32")
    (cell,) = hops.simulate(*job).cases
    assert (cell.scenario.cp, cell.scenario.vpp) == (2, 5)
    assert [case.scenario.vpp for case in hops.sweep_cube(*job, "vpp=2,5").cases] == [2, 5]
    assert hops.timeline(*job, "latency=none").scenario.vpp == 5
    assert capsys.readouterr().err.count("(NeMo / Megatron-Bridge)") == 3
