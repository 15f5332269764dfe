"""Megatron-LM's words for a scenario: its layout, batch and model as flags, to paste beside those of data and tokenizer.

Flags as in megatron/training/arguments.py and public launch scripts; no Megatron-LM was run with them.
"""

from hops.costs import Transformer
from hops.scenario import Scenario
from hops.schedules import SCHEDULES

RUNS = ("1f1b", "interleaved")  # schedules of Megatron-LM
SHARDING = (  # by ZeRO stage
    "",
    " --use-distributed-optimizer",
    " --use-megatron-fsdp --data-parallel-sharding-strategy optim_grads",
    " --use-megatron-fsdp --data-parallel-sharding-strategy optim_grads_params",
)
LAYOUT = ("gpus", "pp", "dp", "tp", "vpp")  # axes of which a user asks: which layout?


def flags(scenario: Scenario) -> str | None:
    """Command-line flags; None where the model is explicit times, or Megatron has no such schedule."""
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
    if s.schedule.name == "interleaved":
        *_, chunks = SCHEDULES["interleaved"].sizes(s.pp, s.microbatches, s.vpp)
        words.insert(2, f"--num-virtual-stages-per-pipeline-rank {chunks}")
    if s.data_parallel.overlap_grad_reduce:
        words.append("--overlap-grad-reduce")
    if s.data_parallel.overlap_param_gather:
        words.append("--overlap-param-gather")
    if s.data_parallel.bucket_size is not None:
        words.append(f"--ddp-bucket-size {s.data_parallel.bucket_size}")
    if s.data_parallel.shard is not None:
        words.append(f"--num-distributed-optimizer-instances {s.dp // s.data_parallel.shard}")
    if s.tp > 1:
        words.append("--sequence-parallel")
    if model.kv_heads < model.heads:
        words.append(f"--group-query-attention --num-query-groups {model.kv_heads}")
    if model.gated:
        words.append("--swiglu")
    if model.experts > 1:
        words.append(f"--num-experts {model.experts} --moe-router-topk {model.active_experts}")
    if model.recompute == "none":
        words.append("--attention-backend unfused")  # others do not keep the scores
    if model.recompute == "selective":
        words.append("--recompute-granularity selective")
    if model.recompute == "full":
        words.append("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1")
    return " ".join(words)
