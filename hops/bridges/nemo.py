"""NeMo and Megatron-Bridge: YAML recipes, whose fields are Megatron's arguments with underscores, in sections.

Facts: ConfigContainer dumps of Megatron-Bridge (scripts/performance/dryrun_configs, read in public at commit a9497c6);
names of NeMo 1 and 2 from memory.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from hops.bridges import Found, Key, leaves, read_table, size
from hops.bridges.launch import GPUS_PER_NODE
from hops.bridges.megatron import FLAGS, NO_MATTER, RULED, found_job

# fields whose Megatron flag is not their name with hyphens
FIELDS = {
    "virtual_pipeline_model_parallel_size": "num-virtual-stages-per-pipeline-rank",
    "microbatch_group_size_per_vp_stage": "microbatch-group-size-per-virtual-pipeline-stage",
    "num_layers_in_first_pipeline_stage": "decoder-first-pipeline-num-layers",
    "num_layers_in_last_pipeline_stage": "decoder-last-pipeline-num-layers",
    "num_moe_experts": "num-experts",
    "gated_linear_unit": "swiglu",
    "bucket_size": "ddp-bucket-size",
    "fp8": "fp8-format",
    "sequence_length": "seq-length",
    "activations_checkpoint_granularity": "recompute-granularity",
    "activations_checkpoint_method": "recompute-method",
    "activations_checkpoint_num_layers": "recompute-num-layers",
}
# sections that are read; the others say how a run learns, what it reads and writes
SECTIONS = {
    "model",
    "config",
    "trainer",
    "strategy",
    "plugins",
    "ddp",
    "train",
    "data",
    "dataset",
    "comm_overlap",
    "mixed_precision",
    "dist",
}
# fields, not flags of Megatron, that time or memory may depend on where they are on
MATTERS = {
    "tp_comm_overlap",
    "ub_tp_comm_overlap",
    "delay_wgrad_compute",
    "overlap_moe_expert_parallel_comm",
    "moe_shared_expert_overlap",
    "moe_expert_capacity_factor",
    "fine_grained_activation_offloading",
    "cpu_offloading_weights",
    "fp4",
    "fp8_param_gather",
    "window_size",
    "distribute_saved_activations",
    "is_hybrid_model",
}


def read_yaml(text: str) -> Found:
    """Read a recipe."""
    try:
        recipe = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise ValueError("holds no sections (model:, trainer:, train:, ...)")
    flags: dict[str, str] = {}
    spelled: dict[str, str] = {}
    passed: list[str] = []
    matters: list[str] = []
    sizes: dict[str, str | None] = {}
    pads = True
    for path, value in leaves(recipe):
        field, words = path[-1], _text(value)
        flag = FIELDS.get(field, field.lstrip("-").replace("_", "-"))
        pads = pads and not (field == "should_pad_vocab" and value is False)
        if field in ("num_nodes", "devices"):
            sizes[field] = words
        elif field in ("activation", "precision", "share_embeddings_and_output_weights", "name"):
            flags |= _meant(path, value)
        elif words is None or field.startswith("_"):
            continue
        elif not (set(path[:-1]) <= SECTIONS or field.startswith("--") or field == "use_distributed_optimizer"):
            passed.append(".".join(path[:1]))
        elif flag in FLAGS or flag in RULED:
            if not (flag == "ffn-hidden-size" and words == "${multiply:4, ${.hidden_size}}"):  # NeMo's default, and Megatron's
                flags[flag], spelled[flag] = words, ".".join(path)
        elif field in MATTERS or (field.startswith("--") and not NO_MATTER.match(flag)):
            matters.append(".".join(path))
        else:
            passed.append(".".join(path))
    if "num-query-groups" in flags:
        flags["group-query-attention"] = ""
    if not flags:
        raise ValueError("no field of NeMo or Megatron-Bridge stands in it (model: tensor_model_parallel_size, num_layers, ...)")
    if not pads and "vocab-size" in flags:
        flags["padded-vocab-size"] = flags["vocab-size"]
    gpus, why = _gpus(sizes)
    found = found_job("", flags, gpus, why, lambda flag: spelled.get(flag, flag.replace("-", "_")))
    left_out = [*matters, *found.unmodelled]
    return Found("NeMo / Megatron-Bridge", found.values, found.assumed, [*passed, *found.ignored], left_out, found.missing)


def _text(value: Any) -> str | None:
    """A value as the words of a flag; None where the flag would not stand."""
    if value is None or value is False or value == [] or value == "":
        return None
    if isinstance(value, list):
        stages = [each if isinstance(each, list) else [each] for each in value]
        if any(isinstance(each, list) for each in value):  # a layout: [[embedding, decoder], [decoder, loss]]
            letters = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}
            return "|".join("".join(letters.get(str(layer), "?") for layer in stage) for stage in stages)
        return " ".join(map(str, value))
    return "" if value is True else str(value)


def _meant(path: tuple[str, ...], value: Any) -> dict[str, str]:
    """Fields that say what Megatron says with a flag of another form."""
    field, text = path[-1], str(value)
    if field == "activation" and "swiglu" in text:
        return {"swiglu": ""}
    if field == "share_embeddings_and_output_weights" and value is False:
        return {"untie-embeddings-and-output-weights": ""}
    if field == "precision":
        return {"bf16": ""} if "bf16" in text else {"fp16": ""} if text.startswith("16") else {}
    if field == "name" and "optim" in path and "distributed" in text:
        return {"use-distributed-optimizer": ""}
    return {}


def _gpus(sizes: Mapping[str, str | None]) -> tuple[int | None, str]:
    given = {name: text for name, text in sizes.items() if text is not None}
    if not given:
        return None, "no num_nodes and devices say how many GPUs"
    for name, text in given.items():
        if "$" in text:
            return None, f"{name} is {text}, which only a run would know"
    each = given.get("devices", "auto")
    given["devices"] = str(GPUS_PER_NODE) if each in ("-1", "auto") else each
    counts, _ = read_table({"num_nodes": Key("nodes", size), "devices": Key("devices", size)}, given, str)
    return counts.get("nodes", 1) * counts["devices"], ""
