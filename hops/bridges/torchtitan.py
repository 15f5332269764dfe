"""torchtitan: TOML job configs (torchtitan/config/job_config.py, read in public at commit 000204a; older names from memory)."""

import tomllib
from collections.abc import Mapping
from math import ceil
from typing import Any

from hops.bridges import CAUSAL, Found, Key, choice, layout_of, leaves, read_table, size
from hops.checks import count, nearest
from hops.partition import slices
from hops.schedules import SCHEDULES

KEYS = {
    "tensor_parallel_degree": Key("tp", size),
    "pipeline_parallel_degree": Key("pp", size),
    "context_parallel_degree": Key("cp", size),
    "context_parallel_rotate_method": Key("cp_comm", choice(allgather="all_gather", alltoall="p2p")),  # alltoall turns the ring
    "context_parallel_load_balance": Key("cp_balance", choice(**{"True": "zigzag", "False": "naive"})),
    "expert_parallel_degree": Key("ep", size),
    "expert_tensor_parallel_degree": Key("etp", size),
    "seq_len": Key("model.sequence", size),
}
# read by the rules below
RULED = {
    "model.name",
    "model.flavor",
    "model.converters",
    "data_parallel_replicate_degree",
    "data_parallel_shard_degree",
    "fsdp_reshard_after_forward",
    "pipeline_parallel_schedule",
    "pipeline_parallel_layers_per_stage",
    "pipeline_parallel_first_stage_less_layers",
    "pipeline_parallel_last_stage_less_layers",
    "pipeline_parallel_microbatch_size",
    "pipeline_parallel_microbatches",
    "local_batch_size",
    "batch_size",
    "global_batch_size",
    "activation_checkpoint.mode",
    "selective_ac_option",
    "activation_checkpoint.selective_ac_option",
}
# that time or memory may depend on, where it is on
MATTERS = {
    "compile.enable",
    "training.compile",
    "enable_async_tensor_parallel",
    "enable_cpu_offload",
    "early_step_in_backward",
    "pipeline_parallel_split_points",
    "module_fqns_per_model_part",
    "pipeline_parallel_schedule_csv",
    "enable_compiled_autograd",
    "disable_loss_parallel",
    "deterministic",
}
SIZES = ("layers", "hidden", "heads", "kv_heads", "ffn_hidden", "vocabulary")
EXPERTS = ("experts", "active_experts", "moe_ffn_hidden", "shared_experts", "dense_layers")
LATENT = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


def _flavor(*sizes: int, head_dim: int = 0, experts: tuple[int, ...] = (1, 1), latent: tuple[int, ...] = ()) -> dict[str, Any]:
    """Keys of a model, gated as all are; 0 is what it has not."""
    groups = [(SIZES, sizes), (("head_dim",), (head_dim,)), (EXPERTS, experts), (LATENT, latent)]
    found = {f"model.{key}": value for keys, values in groups for key, value in zip(keys, values, strict=False) if value}
    return {**found, "model.gated": True}


# torchtitan/models/{llama3,deepseek_v3,qwen3}/__init__.py (commits 0014ac2, 0310b49; deepseek_v3/flavors.py at 0276e6e; llama3 from memory)
FLAVORS: dict[tuple[str, str], dict[str, Any]] = {
    ("llama3", "8B"): _flavor(32, 4096, 32, 8, 14336, 128256),
    ("llama3", "70B"): _flavor(80, 8192, 64, 8, 28672, 128256),
    ("llama3", "405B"): _flavor(126, 16384, 128, 8, 53248, 128256),
    ("deepseek_v3", "16B"): _flavor(27, 2048, 16, 16, 10944, 102400, experts=(64, 6, 1408, 2, 1), latent=(0, 512, 128, 64, 128)),
    ("deepseek_v3", "236B"): _flavor(60, 5120, 128, 128, 12288, 102400, experts=(160, 6, 1536, 2, 1), latent=(1536, 512, 128, 64, 128)),
    ("deepseek_v3", "671B"): _flavor(61, 7168, 128, 128, 18432, 129280, experts=(256, 8, 2048, 1, 3), latent=(1536, 512, 128, 64, 128)),
    ("qwen3", "0.6B"): _flavor(28, 1024, 16, 8, 3072, 151936, head_dim=128),
    ("qwen3", "1.7B"): _flavor(28, 2048, 16, 8, 6144, 151936),
    ("qwen3", "4B"): _flavor(36, 2560, 32, 8, 9728, 151936, head_dim=128),
    ("qwen3", "8B"): _flavor(36, 4096, 32, 8, 12288, 151936),
    ("qwen3", "14B"): _flavor(40, 5120, 40, 8, 17408, 151936),
    ("qwen3", "32B"): _flavor(64, 5120, 64, 8, 25600, 151936, head_dim=128),
    ("qwen3", "30B-A3B"): _flavor(48, 2048, 32, 4, 6144, 151936, head_dim=128, experts=(128, 8, 768)),
    ("qwen3", "235B-A22B"): _flavor(94, 4096, 64, 4, 12288, 151936, head_dim=128, experts=(128, 8, 1536)),
}


def read_toml(text: str) -> Found:
    """Read a job config."""
    try:
        job = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"no TOML: {error}") from error
    given = {name: value for path, value in leaves(job) for name in (".".join(path),)}
    if not any(_leaf(name) in KEYS or _ruled(name) for name in given):
        raise ValueError("no key of torchtitan stands in it ([model] flavor, [parallelism] tensor_parallel_degree, ...)")
    known = {_leaf(name): value for name, value in given.items() if _leaf(name) in KEYS or _leaf(name) in RULED}
    known |= {name: value for name, value in given.items() if name in RULED}
    values, missing = read_table(KEYS, {name: str(value) for name, value in known.items() if name in KEYS}, str)
    notes: list[str] = []
    unmodelled = [name for name, value in given.items() if value and (name in MATTERS or _leaf(name) in MATTERS)]
    ignored = [name for name in given if name not in unmodelled and _leaf(name) not in KEYS and not _ruled(name)]
    for key in ("tp", "pp"):
        values.setdefault(key, 1)
    values.setdefault("model.sequence", 2048)
    if "seq_len" not in known:
        notes.append("model.sequence=2048")
    _model(known, values, missing)
    _groups(values, notes)
    _replicas(known, values, notes)
    _stages(known, values, missing, notes)
    _batch(known, values, notes, unmodelled)
    _memory(known, values, notes, unmodelled)
    return Found("torchtitan", values, notes, ignored, unmodelled, missing)


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _ruled(name: str) -> bool:
    return name in RULED or _leaf(name) in RULED


def _whole(known: Mapping[str, Any], name: str, default: int) -> int:
    value = known.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number; got {value!r}")
    return value


def _model(known: Mapping[str, Any], values: dict[str, Any], missing: dict[str, str]) -> None:
    name, flavor = str(known.get("model.name", "llama3")), known.get("model.flavor")
    sizes = FLAVORS.get((name, str(flavor)))
    if sizes is None:
        flavors = ", ".join(" ".join(each) for each in FLAVORS)
        missing["model"] = (
            f"no [model] flavor in it (known: {flavors})" if flavor is None else f"no sizes of {name} {flavor} are known ({flavors} are)"
        )
        return
    values |= {"model": "transformer", **sizes}


def _groups(values: dict[str, Any], notes: list[str]) -> None:
    """What GPUs share besides tensors and stages: keys that have no effect in torchtitan are none here."""
    if values.get("cp", 1) == 1:
        for key in ("cp", "cp_comm", "cp_balance"):
            values.pop(key, None)
    elif "cp_comm" not in values:
        values["cp_comm"] = "all_gather"
        notes.append("cp_comm=all_gather")
    if values.get("model.experts", 1) == 1 or values.get("ep", 1) == 1:  # experts are then split as all else
        for key in ("ep", "etp"):
            values.pop(key, None)
    else:
        values.setdefault("etp", 1)


def _replicas(known: Mapping[str, Any], values: dict[str, Any], notes: list[str]) -> None:
    """Data parallelism: replicas of groups that share their weights."""
    replicas, shards = _whole(known, "data_parallel_replicate_degree", 1), _whole(known, "data_parallel_shard_degree", -1)
    if shards < 1:
        values["dp"] = replicas
        notes.append(f"dp={replicas} (data_parallel_shard_degree={shards} is all that is left of the GPUs: type gpus=...)")
    else:
        values["dp"] = replicas * shards
        if replicas > 1 and shards > 1:
            values["dp_shard"] = shards
    keeps, pp = known.get("fsdp_reshard_after_forward", "default"), values["pp"]
    if shards == 1:
        values |= {"zero": 0, "overlap_grad_reduce": True}
    elif keeps == "always" or (keeps == "default" and pp == 1):
        values |= {"zero": 3, "overlap_grad_reduce": True}
    else:
        values |= {"zero": 2 if pp == 1 else 1, "overlap_grad_reduce": True, "overlap_param_gather": True}
        if pp > 1:
            notes.append("zero=1 (in a pipeline FSDP gathers a stage's weights, and reduces its gradients, once a step)")


def _stages(known: Mapping[str, Any], values: dict[str, Any], missing: dict[str, str], notes: list[str]) -> None:
    """Schedule and chunks a rank."""
    asked, pp, layers = str(known.get("pipeline_parallel_schedule", "1F1B")), values["pp"], values.get("model.layers")
    names = {name.lower(): SCHEDULES.canonical(name) for name in (*SCHEDULES, *SCHEDULES.aliases)}
    schedule = names.get(asked.lower())
    if pp == 1:
        values["schedule"] = "1f1b"
        return
    if schedule is None:
        close = nearest(asked, names)
        guess = f", the nearest is {names[close]}" if close else ""
        missing["schedule"] = f"pipeline_parallel_schedule {asked!r} is none of HOPS{guess}"
        return
    values["schedule"] = schedule
    each = known.get("pipeline_parallel_layers_per_stage")
    first, last = (_whole(known, f"pipeline_parallel_{end}_stage_less_layers", 1) for end in ("first", "last"))
    n_stages = pp
    if SCHEDULES[schedule].default_vpp is not None:
        values["vpp"] = 2  # torchtitan's own where the layers of a stage are not given
        if each is not None and layers:
            n_stages = ceil((layers + first + last) / count("pipeline_parallel_layers_per_stage", each))
            if n_stages % pp:
                raise ValueError(
                    f"pipeline_parallel_layers_per_stage={each} makes {n_stages} stages of {layers} layers, no multiple of {pp} ranks"
                )
            values["vpp"] = n_stages // pp
        else:
            notes.append("vpp=2")
        n_stages = pp * values["vpp"]
    if layers:
        least, more = divmod(layers + first + last, n_stages)  # the first stages have one more
        counts = [least + (s < more) for s in range(n_stages)]
        counts[0] -= first
        counts[-1] -= last
        if min(counts) < 0 or least == 0:
            raise ValueError(f"{layers} layers and {first + last} for the tables are too few for {n_stages} stages")
        layout = layout_of(slices(counts))
        values |= {"model.layout": layout} if layout != "even" else {}


def _batch(known: Mapping[str, Any], values: dict[str, Any], notes: list[str], unmodelled: list[str]) -> None:
    """Without a pipeline a local batch is one microbatch; with one it is cut, and accumulated batches are pipelines one after another."""
    local = count("local_batch_size", known.get("local_batch_size", known.get("batch_size", 8)))
    if not {"local_batch_size", "batch_size"} & {*known}:
        notes.append("a local batch of 8")
    each = local if values["pp"] == 1 else _whole(known, "pipeline_parallel_microbatch_size", 1)
    if "pipeline_parallel_microbatches" in known and values["pp"] > 1:
        each = local // count("pipeline_parallel_microbatches", known["pipeline_parallel_microbatches"])
    if each < 1 or local % each:
        raise ValueError(f"local_batch_size={local} is no multiple of pipeline_parallel_microbatch_size={each}")
    values["microbatch_size"] = each
    batch = _whole(known, "global_batch_size", -1)
    if batch < 1:
        values["microbatches"] = local // each
        return
    values["global_batch_size"] = batch
    if values["pp"] > 1 and batch > local * values["dp"] and _whole(known, "data_parallel_shard_degree", -1) > 0:
        unmodelled.append(f"{batch / (local * values['dp']):g} accumulated batches, here one pipeline and there one after another")


def _memory(known: Mapping[str, Any], values: dict[str, Any], notes: list[str], unmodelled: list[str]) -> None:
    """What is recomputed, and in which precision."""
    notes.append(CAUSAL)
    mode = str(known.get("activation_checkpoint.mode", "selective"))
    values["model.recompute"] = choice(none="selective", selective="selective", full="full", memory_budget="selective")(mode)
    if mode == "none":
        notes.append("model.recompute=selective (flash attention computes its core again)")
    elif mode != "full":
        option = known.get("selective_ac_option", "op")
        unmodelled.append(f"activation_checkpoint {mode} {option} (the attention core is recomputed)")
    converters = known.get("model.converters", [])
    if any("float8" in str(each) or "mx" in str(each) for each in (converters if isinstance(converters, list) else [converters])):
        values["model.precision"] = "fp8"
