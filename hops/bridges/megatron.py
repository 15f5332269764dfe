"""Megatron-LM: its arguments and what it derives from them (megatron/training/arguments.py, read in public at commit 000c4ac)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hops.bridges import CAUSAL, Found, Key, choice, layout_of, on, read_number, read_table, size, whole
from hops.bridges.shape import read_shape
from hops.megatron import OTHER_ORDER
from hops.partition import parse, slices

FLAGS = {
    # layout
    "tensor-model-parallel-size": Key("tp", size),
    "pipeline-model-parallel-size": Key("pp", size),
    "context-parallel-size": Key("cp", size),
    "expert-model-parallel-size": Key("ep", size),
    "expert-tensor-parallel-size": Key("etp", size),
    "num-virtual-stages-per-pipeline-rank": Key("vpp", size),
    "microbatch-group-size-per-virtual-pipeline-stage": Key("schedule.group_size", size),
    "pipeline-model-parallel-layout": Key("model.layout", str),
    "use-tp-pp-dp-mapping": Key("topology.order", lambda _: OTHER_ORDER),
    # batch
    "micro-batch-size": Key("microbatch_size", size),
    "global-batch-size": Key("global_batch_size", size),
    # model
    "num-layers": Key("model.layers", size),
    "encoder-num-layers": Key("model.layers", size),
    "hidden-size": Key("model.hidden", size),
    "num-attention-heads": Key("model.heads", size),
    "ffn-hidden-size": Key("model.ffn_hidden", size),
    "seq-length": Key("model.sequence", size),
    "encoder-seq-length": Key("model.sequence", size),
    "num-experts": Key("model.experts", whole),
    "moe-router-topk": Key("model.active_experts", size),
    "swiglu": Key("model.gated", on),
    "quick-geglu": Key("model.gated", on),
    "moe-ffn-hidden-size": Key("model.moe_ffn_hidden", size),
    "mtp-num-layers": Key("model.mtp_layers", whole),
    "q-lora-rank": Key("model.q_lora_rank", whole),
    "kv-lora-rank": Key("model.kv_lora_rank", size),
    "qk-head-dim": Key("model.qk_nope_head_dim", size),
    "qk-pos-emb-head-dim": Key("model.qk_rope_head_dim", size),
    "v-head-dim": Key("model.v_head_dim", size),
    # memory and overlap
    "recompute-granularity": Key("model.recompute", choice(selective="selective", full="full")),
    "recompute-activations": Key("model.recompute", lambda _: "selective"),
    "fp8-format": Key("model.precision", lambda _: "fp8"),
    "overlap-grad-reduce": Key("overlap_grad_reduce", on),
    "overlap-param-gather": Key("overlap_param_gather", on),
    "tp-comm-overlap": Key("tp_comm_overlap", on),
    "overlap-moe-expert-parallel-comm": Key("ep_comm_overlap", on),
    "ddp-bucket-size": Key("bucket_size", size),
    "cuda-graph-impl": Key("cuda_graph", lambda text: text != "none"),
    "enable-cuda-graph": Key("cuda_graph", on),
    "external-cuda-graph": Key("cuda_graph", on),
}
CP_COMM = {"p2p": "p2p", "all_gather": "all_gather", "allgather": "all_gather", "a2a": "a2a", "a2a+p2p": None}
# read by the rules below
RULED = {
    "num-layers-per-virtual-pipeline-stage",
    "account-for-embedding-in-pipeline-split",
    "account-for-loss-in-pipeline-split",
    "decoder-first-pipeline-num-layers",
    "decoder-last-pipeline-num-layers",
    "group-query-attention",
    "num-query-groups",
    "cp-comm-type",
    "moe-layer-freq",
    "moe-shared-expert-intermediate-size",
    "cpu-offloading",
    "cpu-offloading-num-layers",
    "vocab-size",
    "padded-vocab-size",
    "make-vocab-size-divisible-by",
    "tokenizer-type",
    "untie-embeddings-and-output-weights",
    "kv-channels",
    "multi-latent-attention",
    "attention-backend",
    "transformer-impl",
    "use-flash-attn",
    "recompute-method",
    "recompute-num-layers",
    "recompute-modules",
    "use-distributed-optimizer",
    "use-megatron-fsdp",
    "use-custom-fsdp",
    "use-torch-fsdp2",
    "data-parallel-sharding-strategy",
    "num-distributed-optimizer-instances",
    "sequence-parallel",
    "bf16",
    "fp16",
}
# how a run learns, what it reads and writes, and what is too small to see
NO_MATTER = re.compile(
    r"lr|min-lr|weight-decay|start-weight|end-weight|adam|sgd|muon|clip-grad|optimizer$|init-method|loss-scale|min-loss|initial-loss|hysteresis|seed$"
    r"|train-|eval|valid-|test-|data-(?!parallel)|dataloader|num-workers|num-dataset|split$|mock-data|reset-|eod-|attention-mask|create-attention"
    r"|tokenizer|vocab|merge-file|tiktoken|save|load|no-load|no-save|ckpt|dist-ckpt|async-save|auto-detect|use-checkpoint|use-dist-ckpt"
    r"|finetune|non-persistent|exit-|log-|logging|timing|tensorboard|wandb|profile|one-logger|distributed-(backend|timeout)|use-mcore-models"
    r"|position-embedding|no-position|max-position|rotary|use-rot|use-rope|rope|no-rope|mscale|norm|layernorm|apply-layernorm|qk-layernorm"
    r"|attention-dropout|hidden-dropout|disable-bias|add-qkv-bias|attention-softmax|masked-softmax|no-masked|openai-gelu|squared-relu|no-bias"
    r"|moe-router-(?!topk$)|moe-aux|moe-z-loss|moe-grouped-gemm|moe-permute|moe-token-dispatcher|moe-per-layer|mtp-loss|cuda-graph-(?!impl)|cross-entropy|no-check|check-for"
    r"|no-gradient|accumulate-allreduce|manual-gc|local-rank|no-create|no-mmap|no-async|no-persist|no-shared|overlap-p2p|deterministic"
    r"|enable-experimental|fp8-(?!format|param)|enable-msc|rerun"
)


def found_job(framework: str, flags: Mapping[str, str], gpus: int | None, why: str, spell: Any, assumed: Sequence[str] = ()) -> Found:
    """A job from Megatron's flags and the number of its GPUs; ``spell`` writes a flag as the file does."""
    values, missing = read_table(FLAGS, flags, spell)
    values = {"model": "transformer", **values}
    notes = [*assumed]
    unmodelled = [spell(word) for word in flags if word not in FLAGS and word not in RULED and not NO_MATTER.match(word)]
    ignored = [spell(word) for word in flags if word not in FLAGS and word not in RULED and NO_MATTER.match(word)]
    for key, word in (("layers", "num-layers"), ("hidden", "hidden-size"), ("heads", "num-attention-heads"), ("sequence", "seq-length")):
        if f"model.{key}" not in values:
            missing.setdefault(f"model.{key}", f"no {spell(word)} in it")
    for key in ("tp", "pp", "microbatch_size"):
        if key not in values and key not in missing:
            values[key] = 1
            notes.append(f"{key}=1")
    _world(values, missing, notes, gpus, why)
    _stages(flags, values, missing, notes, spell)
    read_shape(flags, values, missing, notes, unmodelled, spell)
    _contexts(flags, values, unmodelled, spell)
    _memory(flags, values, missing, notes, unmodelled, spell)
    return Found(framework, values, notes, ignored, unmodelled, missing)


def _world(values: dict[str, Any], missing: Mapping[str, str], notes: list[str], gpus: int | None, why: str) -> None:
    if gpus is not None:
        values["gpus"] = gpus
    else:
        values["dp"] = 1
        notes.append(f"dp=1 ({why}: type gpus=...)")
    if "global_batch_size" not in values and "global_batch_size" not in missing:
        values["microbatches"] = 1
        notes.append("microbatches=1 (no global batch size)")


def _stages(flags: Mapping[str, str], values: dict[str, Any], missing: dict[str, str], notes: list[str], spell: Any) -> None:
    """Schedule, chunks a rank and layers a stage."""
    pp, layers = values.get("pp"), values.get("model.layers")
    each = read_number(flags, "num-layers-per-virtual-pipeline-stage", missing, "vpp", spell)
    if each and pp and layers:
        extra = sum(f"account-for-{end}-in-pipeline-split" in flags for end in ("embedding", "loss"))
        if (layers + extra) % (pp * each):
            raise ValueError(f"{layers + extra} layers are no multiple of {pp} ranks x {each} layers a virtual stage")
        values["vpp"] = (layers + extra) // (pp * each)
    elif each:
        missing.setdefault("vpp", f"{spell('num-layers-per-virtual-pipeline-stage')} needs pp and the layers")
    layout, mtp = values.pop("model.layout", None), values.get("model.mtp_layers", 0)
    if layout is not None and pp:
        parts = parse(layout)
        if len(parts) % pp:
            raise ValueError(f"the layout {layout} has {len(parts)} stages, no multiple of {pp} ranks")
        values |= {"vpp": len(parts) // pp, "model.layout": layout_of(parts)}
    chunks = values.get("vpp", 1)
    first, last = (read_number(flags, f"decoder-{end}-pipeline-num-layers", missing, "model.layout", spell) for end in ("first", "last"))
    accounts = [f"account-for-{end}-in-pipeline-split" in flags for end in ("embedding", "loss")]
    if (first or last or any(accounts)) and pp and layers and layout is None:
        values["model.layout"] = layout_of(slices(uneven(layers, pp, chunks, first, last, *accounts), mtp))
    elif pp and layers and layout is None and layers % (pp * chunks):
        notes.append(f"model.layout=even (Megatron refuses {layers} layers over {pp * chunks} stages)")
    if values.get("model.layout") == "even":
        del values["model.layout"]
    values["schedule"] = "interleaved" if chunks > 1 or "vpp" in missing else "1f1b"
    if chunks == 1:
        values.pop("vpp", None)
        values.pop("schedule.group_size", None)


def uneven(layers: int, pp: int, chunks: int, first: int | None, last: int | None, embedding: bool, loss: bool) -> list[int]:
    """Layers a stage: the first and last rank have as many as asked for, or one less for the table they hold; the others are even."""
    if embedding or loss:
        stage, rest = divmod(layers + embedding + loss, pp * chunks)
        if rest:
            raise ValueError(f"{layers} layers and {embedding + loss} tables do not divide over {pp} ranks of {chunks} chunks")
        counts = [stage] * (pp * chunks)
        counts[0] -= embedding
        counts[-1] -= loss
        return counts
    given = [each for each in (first, last) if each is not None]
    between, rest = divmod(layers - sum(given), max(pp - len(given), 1))
    if rest or between < 0 or pp < len(given) or any(each % chunks for each in (*given, between)):
        raise ValueError(
            f"{layers} layers with {first} on the first and {last} on the last of {pp} ranks of {chunks} chunks do not come out"
        )
    ranks = [first or between, *[between] * (pp - 2), last or between] if pp > 1 else [layers]
    return [each // chunks for each in ranks] * chunks


def _contexts(flags: Mapping[str, str], values: dict[str, Any], unmodelled: list[str], spell: Any) -> None:
    """How the GPUs of a sequence exchange keys and values; Megatron may have it differ from layer to layer."""
    words = flags.get("cp-comm-type", "").split()
    if values.get("cp", 1) == 1 or not words:
        return
    try:
        kinds = {choice(**CP_COMM)(word) for word in words}
    except ValueError as error:
        raise ValueError(f"{spell('cp-comm-type')} {error}") from None
    values["cp_comm"] = next((CP_COMM[word] for word in words if CP_COMM[word]), "p2p")
    if kinds != {values["cp_comm"]}:
        unmodelled.append(f"{spell('cp-comm-type')} {' '.join(dict.fromkeys(words))} (cp_comm={values['cp_comm']})")


def _memory(
    flags: Mapping[str, str], values: dict[str, Any], missing: dict[str, str], notes: list[str], unmodelled: list[str], spell: Any
) -> None:
    """What is recomputed, sharded, and in which precision."""
    if "model.recompute" not in values:
        keeps_scores = flags.get("attention-backend") in ("unfused", "local") or (
            flags.get("transformer-impl") == "local" and "use-flash-attn" not in flags
        )
        values["model.recompute"] = "none" if keeps_scores else "selective"
        if not keeps_scores:
            notes.append("model.recompute=selective (flash attention computes its core again)")
    notes.append(CAUSAL)
    if values["model.recompute"] == "full" and flags.get("recompute-method") == "block":
        unmodelled.append(f"{spell('recompute-method')} block (every layer is recomputed)")
    modules = flags.get("recompute-modules", "core_attn").split()
    if values["model.recompute"] == "selective" and modules != ["core_attn"]:
        unmodelled.append(f"{spell('recompute-modules')} {' '.join(modules)} (the attention core is recomputed)")
    offloaded = read_number(flags, "cpu-offloading-num-layers", missing, "memory.offload", spell, whole)
    if offloaded and values.get("model.layers"):
        values["memory.offload"] = min(1.0, offloaded / values["model.layers"])  # only without a pipeline, says Megatron
    elif offloaded is None and "cpu-offloading" in flags:
        unmodelled.append(spell("cpu-offloading"))
    strategy = flags.get("data-parallel-sharding-strategy", "no_shard")
    stages = {"no_shard": 0, "optim": 1, "optim_grads": 2, "optim_grads_params": 3}
    fsdp = "use-megatron-fsdp" in flags or "use-custom-fsdp" in flags
    if fsdp and strategy not in stages:
        raise ValueError(f"{spell('data-parallel-sharding-strategy')} must be one of {', '.join(stages)}; got {strategy!r}")
    values["zero"] = 3 if "use-torch-fsdp2" in flags else stages[strategy] if fsdp else int("use-distributed-optimizer" in flags)
    if values["zero"] == 2:
        values["overlap_grad_reduce"] = True  # FSDP reduces while the pipeline runs
    if values["zero"] == 3:
        values.pop("overlap_param_gather", None)  # gathers where a stage needs it
    instances = read_number(flags, "num-distributed-optimizer-instances", missing, "dp_shard", spell) or 1
    replicas = values.get("gpus", 0) // (values.get("tp", 1) * values.get("pp", 1) * values.get("cp", 1))
    if instances > 1 and replicas:
        values["dp_shard"] = replicas // instances
    elif instances > 1:
        unmodelled.append(spell("num-distributed-optimizer-instances"))
    if values.get("tp", 1) > 1 and "sequence-parallel" not in flags:
        notes.append("sequence parallelism, though it is off")
    if not {"bf16", "fp16"} & {*flags}:
        notes.append("2 bytes a value, though neither bf16 nor fp16 is asked for")
