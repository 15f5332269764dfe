"""Replicas that are alike: their messages take what those of the one that stands for them take."""

import pytest

from hops.layout import Layout
from hops.messages import messages
from hops.replicas import alike
from hops.topologies import TOPOLOGIES

MIXED = (("h100", 1), ("a100_pcie", 2), ("a100", None))
CLUSTERS = [
    ("dgx", {}),
    ("pcie", {}),
    ("fat_tree", {"nodes_per_leaf": 2, "oversubscription": 1000}),
    ("rail_optimized", {"nodes_per_leaf": 2, "oversubscription": 1000}),
    ("rail_optimized", {"nodes_per_leaf": 2, "pxn": False}),
    ("two_sites", {}),
    ("hetero", {"nodes": MIXED}),
    ("gb200_nvl72", {"usable_per_domain": 12}),
    ("uniform", {}),
]
LAYOUTS = [
    Layout(pp=4, dp=8, tp=2),
    Layout(pp=3, dp=6, tp=4),
    Layout(pp=2, dp=12, tp=1, cp=3),
    Layout(pp=4, dp=8, tp=2, order="tp-cp-ep-pp-dp"),
    Layout(pp=2, dp=16, tp=2, order="dp-tp-cp-ep-pp"),
]


def numbers(cluster, layout, replica):
    sent = messages(cluster, layout, range(layout.pp), [replica])
    return [(each.stage, each.backward, each.latency, each.path_class, each.seconds(1e6)) for each in sent]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("name", "keys"), CLUSTERS, ids=[f"{name}-{len(keys)}" for name, keys in CLUSTERS])
def test_alike__replicas_send_messages_that_take_as_long(name, keys, layout):
    cluster = TOPOLOGIES[name].build(layout.n_gpus, **keys)
    found = alike(cluster, layout)
    assert all(found[each] == each <= replica for replica, each in enumerate(found))
    for replica, each in enumerate(found):
        assert numbers(cluster, layout, replica) == numbers(cluster, layout, each)


def test_alike__are_few_on_equal_nodes_and_none_where_links_are_degraded():
    layout = Layout(pp=16, dp=128, tp=8)
    assert set(alike(TOPOLOGIES["dgx"].build(layout.n_gpus), layout)) == {0}
    assert len(set(alike(TOPOLOGIES["fat_tree"].build(layout.n_gpus), layout))) <= 4
    one = TOPOLOGIES["dgx"].build(layout.n_gpus, overrides={"bandwidth": {"NIC 3": 0.5}})
    assert alike(one, layout) == list(range(128))


def test_message__seconds_share_links_of_the_rank_as_names_say():
    """Every way to count those that cross a link: what `seconds` leaves out can never be crossed by two."""
    for name, keys in CLUSTERS:
        for layout in LAYOUTS:
            cluster = TOPOLOGIES[name].build(layout.n_gpus, **keys)
            for message in messages(cluster, layout, range(layout.pp), [1]):
                narrowest = min(path.bandwidth for path in message.paths)
                assert message.seconds(1e6) == max(1e6 / narrowest, *(n * 1e6 / link.bandwidth for link, n in message.links.items()))
