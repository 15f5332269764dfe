"""Megatron-LM: its arguments and what it derives from them (megatron/training/arguments.py, read in public at commit 000c4ac)."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from hops.bridges import CAUSAL, Found, Key, choice, on, read_table, size, whole
from hops.bridges.megatron_layers import dense_layers, number, stages
from hops.megatron import OTHER_ORDER

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
    "ddp-bucket-size": Key("bucket_size", size),
    "cuda-graph-impl": Key("cuda_graph", lambda text: text != "none"),
    "enable-cuda-graph": Key("cuda_graph", on),
    "external-cuda-graph": Key("cuda_graph", on),
}
# of latent attention, and what Megatron takes where no flag says; without a rank queries have no latent vector
LATENT = {
    "model.q_lora_rank": 0,
    "model.kv_lora_rank": 32,
    "model.qk_nope_head_dim": 128,
    "model.qk_rope_head_dim": 64,
    "model.v_head_dim": 128,
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
TOKENIZERS = {"GPT2BPETokenizer": 50257, "Llama2Tokenizer": 32000}  # words of the one vocabulary each has, from memory


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
    stages(flags, values, missing, notes, spell)
    _shape(flags, values, missing, notes, unmodelled, spell)
    _experts(flags, values, missing, notes, unmodelled, spell)
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


def _shape(
    flags: Mapping[str, str], values: dict[str, Any], missing: dict[str, str], notes: list[str], unmodelled: list[str], spell: Any
) -> None:
    """What Megatron derives of the model's shape where no flag gives it."""
    hidden, heads = values.get("model.hidden"), values.get("model.heads")
    values.setdefault("model.gated", False)
    if hidden and "model.ffn_hidden" not in values and "model.ffn_hidden" not in missing:
        gated = values["model.gated"]
        values["model.ffn_hidden"] = int(4 * hidden * 2 / 3 / 64) * 64 if gated else 4 * hidden
        notes.append(f"model.ffn_hidden={values['model.ffn_hidden']} ({'8/3, a multiple of 64' if gated else '4'} x hidden)")
    groups = number(flags, "num-query-groups", missing, "model.kv_heads", spell)
    if heads and "model.kv_heads" not in missing:
        values["model.kv_heads"] = (groups or 1) if "group-query-attention" in flags else heads
        if groups not in (None, heads) and "group-query-attention" not in flags:
            unmodelled.append(f"{spell('num-query-groups')} (without {spell('group-query-attention')})")
    latent = "multi-latent-attention" in flags
    for key, usual in LATENT.items():
        if latent and usual and key not in values and key not in missing:
            values[key] = usual
            notes.append(f"{key}={usual}")
        if not latent or not values.get(key):
            values.pop(key, None)
    if latent and heads:
        values["model.kv_heads"] = heads
    channels = number(flags, "kv-channels", missing, "model.head_dim", spell)
    if channels and hidden and heads and channels * heads != hidden and not latent:
        values["model.head_dim"] = channels
    _vocabulary(flags, values, missing, notes, spell)
    if "untie-embeddings-and-output-weights" not in flags:
        notes.append("two tables of the vocabulary, though Megatron ties input and output")


def _experts(
    flags: Mapping[str, str], values: dict[str, Any], missing: dict[str, str], notes: list[str], unmodelled: list[str], spell: Any
) -> None:
    """Experts, those that all tokens pass, and which layers have them."""
    if "model.experts" in missing:
        return
    layers, n = values.get("model.layers"), values.get("model.experts") or 1
    values["model.experts"] = n
    if n == 1:
        values["model.active_experts"] = 1
        for key in ("etp", "model.moe_ffn_hidden"):
            values.pop(key, None)
        return
    if "model.active_experts" not in values and "model.active_experts" not in missing:
        values["model.active_experts"] = 2
        notes.append("model.active_experts=2")
    width = values.get("model.moe_ffn_hidden", values.get("model.ffn_hidden"))
    shared = number(flags, "moe-shared-expert-intermediate-size", missing, "model.shared_experts", spell, whole)
    if shared and width:
        values["model.shared_experts"] = -(-shared // width)
        if shared % width:
            word = spell("moe-shared-expert-intermediate-size")
            unmodelled.append(f"{word} {shared} (as {values['model.shared_experts']} of {width})")
    if layers:
        read = partial(dense_layers, layers=layers)
        n_dense = number(flags, "moe-layer-freq", missing, "model.dense_layers", spell, lambda text: sum(read(text)))
        if n_dense:
            values["model.dense_layers"] = n_dense
            if not all(read(flags["moe-layer-freq"])[:n_dense]):
                unmodelled.append(f"{spell('moe-layer-freq')} (its {n_dense} dense layers are the first ones here)")
        elif "model.moe_ffn_hidden" in values and "model.dense_layers" not in missing:  # no layer has the other width
            notes[:] = [note for note in notes if not note.startswith("model.ffn_hidden")]


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


def _vocabulary(flags: Mapping[str, str], values: dict[str, Any], missing: dict[str, str], notes: list[str], spell: Any) -> None:
    """The vocabulary, padded as Megatron does, or where only the tokenizer knows it as its usual one."""
    padded = number(flags, "padded-vocab-size", missing, "model.vocabulary", spell)
    multiple = number(flags, "make-vocab-size-divisible-by", missing, "model.vocabulary", spell) or 128
    given = number(flags, "vocab-size", missing, "model.vocabulary", spell)
    if "model.vocabulary" in missing:
        return
    tokenizer = flags.get("tokenizer-type", "")
    words = given or TOKENIZERS.get(tokenizer) or TOKENIZERS["GPT2BPETokenizer"]
    step = multiple * (values.get("tp") or 1)
    values["model.vocabulary"] = padded or -(-words // step) * step
    if padded is None and (given is None or given != values["model.vocabulary"]):
        source = "" if given else f"{words} of {tokenizer if TOKENIZERS.get(tokenizer) else 'GPT-2, as the tokenizer is not known'}, "
        notes.append(f"model.vocabulary={values['model.vocabulary']} ({source}padded to a multiple of {step})")


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
    offloaded = number(flags, "cpu-offloading-num-layers", missing, "memory.offload", spell, whole)
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
    instances = number(flags, "num-distributed-optimizer-instances", missing, "dp_shard", spell) or 1
    replicas = values.get("gpus", 0) // (values.get("tp", 1) * values.get("pp", 1) * values.get("cp", 1))
    if instances > 1 and replicas:
        values["dp_shard"] = replicas // instances
    elif instances > 1:
        unmodelled.append(spell("num-distributed-optimizer-instances"))
    if values.get("tp", 1) > 1 and "sequence-parallel" not in flags:
        notes.append("sequence parallelism, though it is off")
    if not {"bf16", "fp16"} & {*flags}:
        notes.append("2 bytes a value, though neither bf16 nor fp16 is asked for")
