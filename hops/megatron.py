"""Megatron-LM's words for a scenario: its layout, batch and model as flags, to paste beside those of data and tokenizer.

Flags as in megatron/training/arguments.py and public launch scripts; no Megatron-LM was run with them.
"""

from math import prod

from hops.partition import slices, written
from hops.scenario import Scenario
from hops.schedules import SCHEDULES
from hops.transformer import Transformer

RUNS = ("1f1b", "interleaved")  # schedules of Megatron-LM
SHARDING = (  # by ZeRO stage
    "",
    " --use-distributed-optimizer",
    " --use-megatron-fsdp --data-parallel-sharding-strategy optim_grads",
    " --use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params",
)
OTHER_ORDER = "tp-cp-ep-pp-dp"  # of the ranks, the only other one that Megatron's arguments know
LAYOUT = ("gpus", "pp", "dp", "tp", "cp", "ep", "etp", "vpp", "model.layout")  # axes of which a user asks: which layout?


def flags(scenario: Scenario, partition: str | None = None) -> str | None:
    """Command-line flags; None where the model is explicit times, or Megatron has no such schedule.

    ``partition`` is that of the costs; it becomes a flag where Megatron would not divide the layers so by itself.
    """
    s, model = scenario, scenario.model
    if not isinstance(model, Transformer) or s.schedule.name not in RUNS:
        return None
    words = [
        f"--tensor-model-parallel-size {s.tp}",
        f"--pipeline-model-parallel-size {s.pp}",
        f"--micro-batch-size {s.microbatch_size}",
        f"--global-batch-size {s.microbatches * s.microbatch_size * s.dp}",
        f"--num-layers {model.layers} --hidden-size {model.hidden} --ffn-hidden-size {model.ffn_hidden}",
        f"--num-attention-heads {model.heads} --seq-length {model.sequence} --padded-vocab-size {model.vocabulary}",
        f"--bf16{SHARDING[s.data_parallel.zero]}",
    ]
    _, _, *chunks = SCHEDULES[s.schedule.name].sizes(s.pp, s.microbatches, s.vpp)
    if partition is not None and partition != _usual(model, prod([s.pp, *chunks])):
        words.append(f"--pipeline-model-parallel-layout '{partition}'")  # its stages say how many chunks
    elif chunks:
        words.insert(2, f"--num-virtual-stages-per-pipeline-rank {chunks[0]}")
    if s.schedule.kwargs.get("group_size") is not None:
        words.append(f"--microbatch-group-size-per-virtual-pipeline-stage {s.schedule.kwargs['group_size']}")
    if s.layout.order == OTHER_ORDER:
        words.append("--use-tp-pp-dp-mapping")
    words += _data_parallel(s)
    if s.cp > 1:
        words.append(f"--context-parallel-size {s.cp} --cp-comm-type {s.cp_comm}")
    if s.tp > 1:
        words.append("--sequence-parallel")
    words += _attention(model)
    if model.gated:
        words.append("--swiglu")
    if model.experts > 1:
        words += _experts(model, s)
    if model.recompute == "none":
        words.append("--attention-backend unfused")  # others do not keep the scores
    if model.mtp_layers:
        words.append(f"--mtp-num-layers {model.mtp_layers}")
    if model.precision == "fp8":
        words.append("--fp8-format hybrid")
    if model.recompute == "selective":
        words.append("--recompute-granularity selective")
    if model.recompute == "full":
        words.append("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1")
    if s.memory.offload and s.pp == 1:
        words.append(f"--cpu-offloading-num-layers {round(s.memory.offload * model.layers)}")
    return " ".join(words)


def _data_parallel(s: Scenario) -> list[str]:
    """What replicas share and when they exchange it."""
    words, dp = [], s.data_parallel
    if dp.overlap_grad_reduce:
        words.append("--overlap-grad-reduce")
    if dp.overlap_param_gather:
        words.append("--overlap-param-gather")
    if dp.bucket_size is not None:
        words.append(f"--ddp-bucket-size {dp.bucket_size}")
    if dp.shard is not None:
        words.append(f"--num-distributed-optimizer-instances {s.dp // dp.shard}")
    return words


def _usual(model: Transformer, n_stages: int) -> str | None:
    """The partition that Megatron makes without being told; None where the stages do not divide the layers."""
    if model.layers % n_stages:
        return None
    return written(slices([model.layers // n_stages] * n_stages, model.mtp_layers))


def _attention(model: Transformer) -> list[str]:
    if model.kv_lora_rank is not None:
        query = f" --q-lora-rank {model.q_lora_rank}" if model.q_lora_rank else ""
        head = f"--qk-head-dim {model.qk_nope_head_dim} --qk-pos-emb-head-dim {model.qk_rope_head_dim} --v-head-dim {model.v_head_dim}"
        return [f"--multi-latent-attention{query} --kv-lora-rank {model.kv_lora_rank} {head}"]
    words = [f"--kv-channels {model.head_dim}"] if model.head_dim else []
    if model.kv_heads < model.heads:
        words.append(f"--group-query-attention --num-query-groups {model.kv_heads}")
    return words


def _experts(model: Transformer, s: Scenario) -> list[str]:
    words = [f"--num-experts {model.experts} --moe-router-topk {model.active_experts}"]
    width = model.moe_ffn_hidden or model.ffn_hidden
    if model.moe_ffn_hidden:
        words.append(f"--moe-ffn-hidden-size {width}")
    if model.shared_experts:
        words.append(f"--moe-shared-expert-intermediate-size {model.shared_experts * width}")
    if model.dense_layers:
        words.append(f"--moe-layer-freq '([0]*{model.dense_layers}+[1]*{model.layers - model.dense_layers})'")
    if s.ep > 1:
        words.append(f"--expert-model-parallel-size {s.ep} --moe-token-dispatcher-type alltoall")
    if s.layout.n_expert_shards != s.tp:
        words.append(f"--expert-tensor-parallel-size {s.layout.n_expert_shards}")
    return words
