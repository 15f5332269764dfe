"""From a schedule's name to the graph that the kernel runs over: written, checked and lowered, 16 ranks, 128 microbatches, one core.

Goal: under 0.1 s for every schedule that searches nothing. v_min is the slowest to write, zero-bubble interleaving has most ops to lower.
"""

import pytest

import hops
from hops.lowering import lower

LIMIT = "0.1 s"


@pytest.mark.parametrize("p2p", ["channel", "megatron", "torch"])
@pytest.mark.parametrize("name", ["1f1b", "zb_h1", "interleaved_zb", "v_min"])
@pytest.mark.benchmark(group="a program")
def test_lowering__hops(benchmark, name, p2p):
    pp, m = (16, 128) if benchmark.enabled else (2, 4)

    def write_and_lower():
        return lower(hops.program(name, pp=pp, microbatches=m).validate(), p2p)

    assert write_and_lower().n_ranks == pp  # compile
    benchmark(write_and_lower)
    benchmark.extra_info |= {"limit": LIMIT}
