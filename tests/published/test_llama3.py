"""Llama 3 405B on H100: MFU of Grattafiori et al. 2024, table 4 (arXiv:2407.21783), without noise.

One efficiency (conf/efficiency/h100_megatron.yaml): the law calibrated on A100, with one factor fitted to these three rows. The layout is
theirs: tp 8, pp 16, 128 virtual stages of a layer each but the first, which has the embedding, and the last, which has the
head; gradients and weights overlapped; keys and values gathered before the core; microbatches of one sequence, 32, 16 and 16 a
replica [from memory]. FLOPs that the causal mask hides count neither as time nor as MFU.
"""

import pytest

import hops

COMMON = ("model=llama3_405b", "topology=dgx_h100", "efficiency=h100_megatron", "latency=none", "schedule=interleaved", "pp=16", "vpp=8")
OVERLAP = ("tp=8", "overlap_grad_reduce=true", "overlap_param_gather=true", "cp_comm=all_gather", 'model.layout="E|(t|)*126L"')
# GPUs, sequence, cp, microbatches; MFU [%]
TABLE_4 = [(8192, 8192, 1, 32, 43), (16384, 8192, 1, 16, 41), (16384, 131072, 16, 16, 38)]


@pytest.mark.parametrize(("gpus", "sequence", "cp", "microbatches", "theirs"), TABLE_4)
def test_table_4(gpus, sequence, cp, microbatches, theirs):
    sizes = (f"gpus={gpus}", f"model.sequence={sequence}", f"cp={cp}", f"microbatches={microbatches}")
    ours = 100 * float(hops.simulate(*COMMON, *OVERLAP, *sizes, "model.causal=true")["mfu"][0])
    print(f"Llama 3 405B on {gpus} GPUs, cp={cp}: MFU ours {ours:.1f} %, theirs {theirs} %, error {ours - theirs:+.1f} points")
    assert abs(ours - theirs) <= 3
