"""Messages: what the GPUs of a rank send at once over one link takes as many times longer; and who can meet whom."""

import pytest

from hops.layout import Layout
from hops.messages import messages, shared
from hops.paths import PATH_CLASSES
from hops.topologies import TOPOLOGIES

SIZE = 1e9


def pcie(layout, **params):
    return TOPOLOGIES["pcie"].build(layout.n_gpus, **params)


def test_messages__two_a_stage_and_none_where_the_neighbour_is_at_home():
    layout = Layout(pp=2)
    sent = messages(pcie(layout), layout, [0, 1, 1, 0], [0])
    assert [(each.stage, each.backward, each.ranks) for each in sent] == [
        (0, False, (0, 1)), (1, True, (1, 0)), (2, False, (1, 0)), (3, True, (0, 1))
    ]  # fmt: skip


@pytest.mark.parametrize(("tp", "n"), [(1, 1), (2, 2), (4, 4), (8, 4)])
def test_message__shards_behind_one_card_take_turns(tp, n):
    """Two ranks on two servers: the four GPUs of a socket share its card, and with eight each socket has one."""
    layout = Layout(pp=2, tp=tp)
    order = [*range(tp), *range(8, 8 + tp)]
    (forward, _) = messages(pcie(layout, order=order), layout, [0, 1], [0])
    card = next(link for link in forward.links if link.name.startswith("NIC"))
    assert max(n for link, n in forward.links.items() if link.name.startswith("NIC")) == n
    assert forward.seconds(SIZE) == n * SIZE / card.bandwidth
    assert forward.path_class == PATH_CLASSES.index("NET")
    assert forward.latency == max(path.latency for path in forward.paths)
    assert len(forward.paths) == tp


def test_message__is_as_slow_as_its_narrowest_path_where_nothing_is_shared():
    layout = Layout(pp=2, tp=2)
    (forward, _) = messages(pcie(layout, order=[0, 2, 6, 8]), layout, [0, 1], [0])
    wide, narrow = (path.bandwidth for path in forward.paths)
    assert narrow != wide
    assert forward.seconds(SIZE) == SIZE / min(wide, narrow)
    near, far = sorted(path.latency for path in forward.paths)
    assert forward.latency == far > near
    assert forward.path_class == PATH_CLASSES.index("NET")


def test_messages__of_replicas_in_lock_step_are_one():
    """Two replicas behind one card: together twice as long, each alone once."""
    layout = Layout(pp=2, dp=2)
    cluster = pcie(layout, order=[0, 1, 8, 9])
    (alone, _), (both, _) = (messages(cluster, layout, [0, 1], replicas) for replicas in ([1], [0, 1]))
    assert both.seconds(SIZE) == 2 * alone.seconds(SIZE)
    assert alone.paths == (cluster.between(1, 3),)


def test_shared__links_that_more_than_one_pair_of_ranks_crosses():
    layout = Layout(pp=3)
    sent = messages(pcie(layout, order=[0, 8, 1]), layout, [0, 1, 2], [0])
    assert {link.name for link in shared([sent])} == {
        "NIC 0 out", "NIC 0 in", "NIC 2 out", "NIC 2 in",
        "PCIe switch 0 out", "PCIe switch 0 in", "PCIe switch 4 out", "PCIe switch 4 in", "PCIe slot 8 out", "PCIe slot 8 in",
    }  # fmt: skip


def test_shared__messages_of_two_stages_between_the_same_ranks_do_not_meet():
    layout = Layout(pp=2)
    assert not shared([messages(pcie(layout), layout, [0, 1, 0, 1], [0])])


def test_shared__lanes_meet_each_other():
    layout = Layout(pp=2, dp=2)
    cluster = pcie(layout, order=[0, 1, 8, 9])
    lanes = [messages(cluster, layout, [0, 1], [replica]) for replica in range(2)]
    assert not shared(lanes[:1])
    assert {link.name for link in shared(lanes)} >= {"NIC 0 out", "NIC 2 in", "NIC 2 out", "NIC 0 in"}
