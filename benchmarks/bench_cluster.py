"""A cluster of 16,384 GPUs: built, ranks placed, and the path of every message between pipeline neighbours of all replicas.

Goal: under 0.5 s. A sweep does less: it looks up the messages of replicas that are alike once.
"""

import pytest

from hops.layout import Layout
from hops.messages import messages
from hops.replicas import alike
from hops.topologies import TOPOLOGIES

LIMIT = "0.5 s"
MESSAGE = 48e6  # bytes


@pytest.fixture
def layout(request):
    """All of it; sixteen GPUs where the benchmarks only have to run."""
    return Layout(pp=16, dp=128, tp=8) if request.config.getoption("benchmark_enable") else Layout(pp=2, dp=2, tp=4)


def seconds(name, layout, replicas):
    """What every message takes, replica by replica."""
    cluster = TOPOLOGIES[name].build(layout.n_gpus)
    sent = [messages(cluster, layout, range(layout.pp), [replica]) for replica in replicas(cluster)]
    return [[message.latency + message.seconds(MESSAGE) for message in each] for each in sent]


@pytest.mark.parametrize("name", ["dgx", "fat_tree"])
@pytest.mark.benchmark(group="cluster")
def test_cluster__hops(benchmark, layout, name):
    benchmark.extra_info |= {"limit": LIMIT}
    found = benchmark.pedantic(seconds, (name, layout, lambda _: range(layout.dp)), rounds=5, warmup_rounds=1)
    assert [len(each) for each in found] == [2 * (layout.pp - 1)] * layout.dp
    like = alike(TOPOLOGIES[name].build(layout.n_gpus), layout)
    assert found == [found[replica] for replica in like]


@pytest.mark.parametrize("name", ["dgx", "fat_tree"])
@pytest.mark.benchmark(group="cluster of a sweep")
def test_cluster_alike__hops(benchmark, layout, name):
    benchmark.extra_info |= {"limit": LIMIT}
    assert benchmark.pedantic(seconds, (name, layout, lambda cluster: sorted(set(alike(cluster, layout)))), rounds=5, warmup_rounds=1)
