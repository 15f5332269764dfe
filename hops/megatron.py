"""Megatron-LM's words for a scenario: its layout, batch and model as flags, to paste beside those of data and tokenizer.

Flags as in megatron/training/arguments.py and public launch scripts; no Megatron-LM was run with them.
"""

from hops.scenario import Scenario
from hops.schedules import SCHEDULES
from hops.transformer import Transformer

RUNS = ("1f1b", "interleaved")  # schedules of Megatron-LM
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
        f"--num-attention-heads {model.heads} --seq-length {model.sequence}",
        "--bf16 --use-distributed-optimizer",
    ]
    if s.schedule.name == "interleaved":
        *_, chunks = SCHEDULES["interleaved"].sizes(s.pp, s.microbatches, s.vpp)
        words.insert(2, f"--num-virtual-stages-per-pipeline-rank {chunks}")
    if s.tp > 1:
        words.append("--sequence-parallel")
    if model.kv_heads < model.heads:
        words.append(f"--group-query-attention --num-query-groups {model.kv_heads}")
    if model.gated:
        words.append("--swiglu")
    if model.experts > 1:
        words.append(f"--num-experts {model.experts} --moe-router-topk {model.active_experts}")
    if model.recompute == "selective":
        words.append("--recompute-granularity selective")
    if model.recompute == "full":
        words.append("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1")
    return " ".join(words)
