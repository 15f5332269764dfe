"""The bridges from torchtitan, NeMo and Megatron-Bridge: what their files become."""

import re

import pytest
from test_bridges import JOBS, MODEL, _compiled, megatron, planned, scenario, values  # noqa: F401 (a fixture)

from hops.bridges import bridge, read_job
from hops.bridges.torchtitan import FLAVORS

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
    assert made.tp_comm_overlap


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
