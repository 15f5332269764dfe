"""Tables of measured times: what a message takes by its size, on a path, in a ring, in a crowd, on a link that several share."""

import math

import pytest

import hops
from hops.cluster import Cluster
from hops.collectives import Ring, crowd, ring
from hops.nodes import Gpu, Hop, Level, Node
from hops.paths import Link
from hops.tables import faster, make_table, table_seconds

TABLE = ((1e6, 1e-3), (4e6, 4e-3), (64e6, 16e-3))  # a straight line through the last two begins above 0 s, through the first two at 0


def test_seconds__are_those_measured_and_between_them_a_power_of_the_size():
    assert [table_seconds(TABLE, size) for size, _ in TABLE] == [time for _, time in TABLE]
    assert table_seconds(TABLE, 2e6) == pytest.approx(2e-3)
    assert table_seconds(TABLE, 16e6) == pytest.approx(8e-3)  # four times the size, twice the time
    assert [table_seconds(TABLE, size) for size in (0.0, 1.0, 1e6)] == [1e-3] * 3
    assert table_seconds(TABLE, 640e6) == pytest.approx(160e-3)
    times = [table_seconds(TABLE, 1e5 * 1.1**i) for i in range(100)]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([[1e6, 1e-3]], r"key must list two or more pairs of bytes and seconds, .*; got \[\[1000000.0, 0.001\]\]"),
        ([], "key must list two or more pairs"),
        (4, "key must list two or more pairs .* got 4"),
        ([1e6, 1e-3], "key must list two or more pairs"),
        ([[1e6, 1e-3], [2e6]], "key must list two or more pairs"),
        ([[2e6, 1e-3], [1e6, 2e-3]], r"key must have its sizes in increasing order; got 1e\+06 bytes after 2e\+06"),
        ([[1e6, 1e-3], [1e6, 2e-3]], "key must have its sizes in increasing order"),
        ([[1e6, 2e-3], [2e6, 1e-3]], r"key: a larger message must not take less time; got 0.001 s for 2e\+06 bytes after 0.002 s"),
        ([[-1.0, 1e-3], [2e6, 1e-3]], "key: bytes must be a finite number above 0; got -1.0"),
        ([[0, 1e-3], [2e6, 1e-3]], "key: bytes must be a finite number above 0; got 0"),
        ([[1e6, math.nan], [2e6, 1e-3]], "key: seconds must be a finite number above 0; got nan"),
        ([[1e6, 1e-3], [math.inf, 2e-3]], "key: bytes must be a finite number above 0; got inf"),
        ([[1e6, 1e-3], [2e6, True]], "key: seconds must be a finite number above 0; got True"),
    ],
)
def test_tables__that_cannot_be_meant_are_refused(pairs, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_table("key", pairs)


def test_faster__divides_every_time():
    assert faster(TABLE, 0.5) == ((1e6, 2e-3), (4e6, 8e-3), (64e6, 32e-3))


def test_tables__may_be_level():
    assert make_table("key", [[1, 1e-3], [2, 1e-3]]) == ((1.0, 1e-3), (2.0, 1e-3))


def wired(network=(), out=(), n=4):
    """One GPU a node; a fabric of 10 us and a port of 2 GB/s besides what is given."""
    port = Hop("port", 0.0, 2e9, 1)
    node = Node("node", Gpu("g", 1e12, 1e9, 1e9, 1e9), 1, (), (port, *out))
    return Cluster("c", ((node, n),), (Level("all", math.inf, "NET", (), (Hop("fabric", 1e-5, math.inf), *network)),), tuple(range(n)))


WIRE = Hop("wire", 0.0, math.inf, 1, table=TABLE)


def test_path__takes_the_slower_of_its_table_and_its_other_hops_after_their_latency():
    path = wired(out=(WIRE,)).path(0, 1)
    assert (path.latency, path.bandwidth) == (1e-5, 2e9)
    assert path.seconds(1.0) == 1e-3
    assert path.seconds(64e6) == 64e6 / 2e9  # the port is slower
    assert path.seconds(16e6) == pytest.approx(8e-3)
    assert [link.name for link in path.links] == ["port 0 out", "wire 0 out", "wire 1 in", "port 1 in"]
    assert "2 GB/s" in str(path)
    assert "0.25 GB/s" in str(wired(out=(Hop("wire", 0.0, math.inf, 1, table=((1e6, 1e-3), (2e6, 8e-3))),)).path(0, 1))


def test_path__without_a_table_is_latency_and_size_over_bandwidth():
    path = wired().path(0, 1)
    assert path.seconds(3e6) == 3e6 / 2e9
    assert path.route.tables == ()


def test_hop__has_a_table_or_a_latency_and_a_bandwidth():
    for numbers in ((1e-6, math.inf), (0.0, 1e9)):
        with pytest.raises(ValueError, match="'wire' has a table, which stands for its latency and bandwidth: leave them out"):
            Hop("wire", *numbers, 1, table=TABLE)
    assert WIRE.is_link
    assert not Hop("wire", 0.0, math.inf, table=TABLE).is_link


def test_ring__steps_take_what_their_part_takes():
    around = ring(wired(out=(WIRE,)), range(4))
    assert around == Ring(4, 1e-5, 2e9, "NET", (TABLE,))
    assert around.gather(8e6) == pytest.approx(3 * (1e-5 + 2e-3))  # parts of 2 MB
    assert around.all_reduce(8e6) == 2 * around.gather(8e6)
    assert around.rate == 2e9
    assert Ring(4, 1e-5, 9e9, "NET", (TABLE,)).rate == 4e9


def test_crowd__sends_all_of_it_over_the_one_wire():
    assert crowd(wired(out=(WIRE,)), range(4)).all_to_all(64e6 / 3) == pytest.approx(1e-5 + 8e-3)  # three parts, together 16 MB


def test_link__of_several_messages_takes_what_all_their_bytes_take():
    link = Link("wire", "0 out", math.inf, TABLE)
    assert link.seconds(4 * 16e6) == 16e-3
    assert link.rate(4e6) == pytest.approx(1e9)


PAIR = ("model=explicit", "pp=2", "microbatches=1", "latency=none")


def on_the_wire(sizes, *words):
    """Seconds that two messages, there and back between two ranks, add to an iteration, of every size."""
    alone = hops.simulate(*PAIR, "topology=uniform", "topology.latency=0", "topology.bandwidth=inf")["iteration_time"][0]
    found = hops.sweep_cube(*PAIR, f"model.p2p_bytes={','.join(map(str, sizes))}", *words)["iteration_time_mean"]
    return [float(time - alone) for time in found.values.reshape(-1)]


@pytest.mark.parametrize("contention", ["none", "planned", "fifo", "fair"])
def test_aws_g5__sends_what_was_measured(contention):
    measured = {1: 0.47e-3, 2**20: 0.47e-3, 2**26: 54e-3, 2**27: 108e-3}
    found = on_the_wire(measured, "topology=aws_g5", f"contention={contention}")
    assert found == pytest.approx([2 * time for time in measured.values()], rel=1e-9)


def test_override__makes_every_time_of_a_table_longer():
    assert on_the_wire([1], "topology=aws_g5", "topology.overrides.bandwidth.Ethernet=0.5") == [pytest.approx(4 * 0.47e-3)]
    assert on_the_wire([1], "topology=aws_g5", "topology.overrides.bandwidth.Ethernet_1_in=0.25") == [pytest.approx(5 * 0.47e-3)]


def test_contention__of_two_ranks_on_one_wire_with_a_table():
    """Two nodes of two GPUs behind one wire each: ranks 0 and 1 send to 2 and 3 (order), both at once over the wire of node 0."""
    words = ("pp=4", "microbatches=8", "model=explicit", "latency=none", "topology=aws_g5", "model.p2p_bytes=16777216")
    shared = ("topology.kinds.g5.gpus=2", "topology.hops.Ethernet.shared_by=2", "topology.order=[0,2,1,3]")
    times = {kind: float(hops.simulate(*words, *shared, f"contention={kind}")["iteration_time"][0]) for kind in ("none", "fifo", "fair")}
    assert times["fifo"] > times["none"]
    assert times["fair"] > times["none"]


def test_custom__takes_tables_and_refuses_what_they_cannot_be():
    for given, sentence in (
        ("topology.hops.Ethernet.table=[[1,2]]", "topology.hops.Ethernet.table must list two or more pairs"),
        ("topology.hops.Ethernet.table=fast", "topology.hops.Ethernet.table must list two or more pairs"),
        ("+topology.hops.Ethernet.latency=1e-3", "'Ethernet' has a table"),
    ):
        with pytest.raises(ValueError, match=sentence):
            hops.simulate(*PAIR, "topology=aws_g5", given)
    cube = hops.sweep_cube(*PAIR, "topology=aws_g5", "topology.hops.Ethernet.table=[[1,1e-3],[2,1e-3]],[[1,2e-3],[2,2e-3]]")
    assert float(cube["iteration_time_mean"].diff("table")[0]) == pytest.approx(2e-3)
