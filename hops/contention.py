"""Shared links: which transfers of a graph meet on them, and their order where the kernel needs one beforehand.

The event loop (contention=fifo, fair) finds out draw by draw who comes first on a link. There all traffic of an iteration meets:

* messages of the pipeline, of all replicas;
* gradients (REDUCE_GRAD) and weights (UNSHARD, also those gathered before a stage's first forward): a bucket crosses the
  links of all rings of its rank, those of shard groups first, then those among them;
* what an op exchanges within tp, cp and ep and does not hide: an op computes, then exchanges, and its rank is busy until that has
  ended. This is a fluid picture: in truth layers take turns to compute and exchange, so an exchange meets in one piece at the end
  of an op what in truth it meets all along. What compute hides of it meets nobody, nor does anything of a fused unit.

A link that one of these has to itself changes nothing. Two things meet nobody: weights gathered after the update, when the pipeline
has ended, and offloaded activations. First come first served a link serves whole buckets and whole exchanges, so who
comes behind a large one waits long; networks, which send in small pieces, are nearer to fair shares. Traffic that comes
from elsewhere (checkpoints) belongs into `hops.traffic.Traffic`, and as activities of its own into `hops.joint`.

The kernel evaluates all draws in one order, so it is given that of a run without noise, as edges (contention=planned): exact as
long as the noise does not change who comes first. A plan knows messages of one replica, and nothing of the rest.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hops.events import run
from hops.graph import NO_LAG, Graph, n_works, reordered, transfer_index
from hops.jit import kernel
from hops.links import Links
from hops.messages import Message, shared
from hops.paths import Link


def share_links(graph: Graph, crossed: Sequence[Sequence[int]], rate: Sequence[float], bandwidth: Sequence[float]) -> Links:
    """What the nodes of a graph, or of several replicas side by side, share.

    crossed, rate: links and narrowest hop [bytes/s] by index into the work vector (`hops.graph.n_works` entries a replica, one
    replica after the other); bandwidth of every link [bytes/s]. A link that only one entry crosses is left out: the
    messages of a stage in a direction follow each other anyway.
    """
    n = n_works(int(graph.stage.max()) + 1, len(graph.pairs))
    replica = np.arange(len(crossed) // n)[:, None]
    work = (graph.work + n * replica).ravel()
    n_crossing = np.bincount([link for each in crossed for link in set(each)], minlength=len(bandwidth))
    several = [sorted(link for link in set(each) if n_crossing[link] > 1) for each in crossed]
    return occupied(work, several, rate, bandwidth)


def occupied(
    flow: NDArray[np.signedinteger[Any]], crossed: Sequence[Sequence[int]], rate: Sequence[float], bandwidth: Sequence[float]
) -> Links:
    """What nodes share: ``flow`` (o,) numbers the entry of crossed and rate that is a node's, -1: it crosses nothing."""
    n_uses = np.array([*map(len, crossed), 0])
    begin = np.cumsum(n_uses) - n_uses
    indptr = np.concatenate([[0], np.cumsum(n_uses[flow])])
    use = np.array([link for each in crossed for link in each], np.int32)
    at = np.arange(indptr[-1]) + np.repeat(begin[flow] - indptr[:-1], n_uses[flow])
    return Links(indptr.astype(np.int32), use[at], np.array([*rate, 1.0])[flow], np.array(bandwidth, np.float64))


def meeting(graph: Graph, sent: Sequence[Sequence[Message]], n_stages: int, size: float) -> Links:
    """What the messages of one replica, or of several side by side, share; a message goes at the rate that its links leave it.

    ``size``: their bytes a GPU. A link with a table has the bandwidth that it gives to those of one rank.

    The kernel's lanes know nothing of each other, so a planned order is one of a single replica. Tried for four replicas whose GPUs
    share a network card (`pcie`, pp=8): a quarter of the card for each lengthens the iteration by 0.72 %, the event loop
    of all four by 0.01 %, as who has waited once is out of step from then on.
    """
    widest: dict[Link, float] = {}
    for message in (message for lane in sent for message in lane):
        for link, n in message.links.items():
            widest[link] = max(widest.get(link, 0.0), link.rate(n * size))
    names = {link: i for i, link in enumerate(widest)}
    met = shared(sent)  # messages of two stages between the same ranks follow each other, or leave at once for one fused unit
    n = n_works(n_stages, len(graph.pairs))
    crossed, rate = [], []
    for lane in sent:
        links: list[Sequence[int]] = [()] * n
        rates = [1.0] * n
        for message in lane:
            at = transfer_index(n_stages, message.stage, message.backward)
            links[at] = [names[link] for link in message.links if link in met]
            rates[at] = message.rate(size)
        crossed += links
        rate += rates
    return share_links(graph, crossed, rate, list(widest.values()))


def planned(graph: Graph, work: NDArray[np.float64], lag: NDArray[np.int64], links: Links, everywhere: bool = True) -> Graph:
    """Add to ``graph`` the order in which its transfers pass shared links without noise, first come first served, as edges.

    work (`hops.graph.n_works`,) and lag (1 + 3 stages,) [ticks]. A transfer waits for the end of the one before it on each of its
    links, unless other edges say so already; without ``everywhere`` only where it waits in that run too. Nodes are in the
    order in which they begin there. What a transfer waits for a link counts as exposed communication of the op that needs it.

    Without noise this is the event loop, exactly, where no op waits for its host or for gathered weights: the plan knows nothing
    of these. With noise and ``everywhere`` it is so in draws whose transfers pass every
    link in that order. In others a transfer waits for one that is late, as no network would. 1F1B p=8 m=32, a network card
    for four ranks, messages of a tenth of a forward, op cv 0.05 (0.3): makespan off the event loop's by 1.5 % (5.3 %) on
    average; where only those wait that meet, by 0.3 % (1.2 %); with links not shared at all, by 1.1 % (0.3 %).
    """
    if not links.use.size:
        return graph
    ticks, delay = np.floor(work[graph.work] + 0.5).astype(np.int64), lag[graph.lag]
    nominal = run(graph.indptr, graph.pred, delay, ticks, links, "fifo")
    order = nominal.order
    names, use = np.unique(links.use, return_inverse=True)
    n_edges = graph.pred.size + use.size
    indptr = np.zeros(order.size + 1, np.int32)
    edges = tuple(np.empty(n_edges, np.int32) for _ in range(3))
    chain(graph, order, nominal.finish, delay, links.indptr, use, names.size, everywhere, indptr, *edges)
    pred, lags, origin = (column[: indptr[-1]] for column in edges)
    return reordered(graph, order, np.stack([np.repeat(order, np.diff(indptr)), order[pred], lags, order[origin]], axis=1))


@kernel
def chain(graph, order, finish, delay, use_indptr, use, n_links, everywhere, indptr, pred, lag, origin):  # type: ignore[no-untyped-def]
    """Write the edges of ``graph`` with its nodes in ``order`` (o,), and those that keep the order on every link, see `planned`.

    An edge between transfers is left out if another edge of the same node implies it: if its node is the same or (as all
    that pass a link are in one chain ``everywhere``) follows that transfer or a later one on a link of it.
    """
    n, most = order.size, 0
    place = np.empty(n, np.int64)
    for i in range(n):
        place[order[i]] = i
        most = max(most, graph.indptr[i + 1] - graph.indptr[i] + use_indptr[i + 1] - use_indptr[i])
    n_users, latest = np.zeros(n_links, np.int32), np.full(n_links, -1)
    passed = np.zeros((n, n_links), np.int32)  # users of a link that have ended when a node has
    turn = np.zeros(n, np.int32)  # of a transfer among the users of its first link
    node_of, lag_of, origin_of = np.empty(most, np.int32), np.empty(most, np.int32), np.empty(most, np.int32)
    at = 0
    for i in range(n):
        node, n_edges = order[i], 0
        first, last = use_indptr[node], use_indptr[node + 1]
        ready = np.int64(0)
        for edge in range(graph.indptr[node], graph.indptr[node + 1]):
            node_of[n_edges], origin_of[n_edges] = place[graph.pred[edge]], place[graph.origin[edge]]
            lag_of[n_edges] = graph.lag[edge]
            ready = max(ready, finish[graph.pred[edge]] + delay[edge])
            n_edges += 1
        for k in range(first, last):
            if latest[use[k]] >= 0 and (everywhere or finish[order[latest[use[k]]]] > ready):
                node_of[n_edges] = origin_of[n_edges] = latest[use[k]]
                lag_of[n_edges] = NO_LAG
                n_edges += 1
        for a in range(n_edges):
            before = node_of[a]
            implied = False
            if first < last and lag_of[a] == NO_LAG and use_indptr[order[before]] < use_indptr[order[before] + 1]:
                link = use[use_indptr[order[before]]]
                for b in range(n_edges):
                    if node_of[b] == before:
                        implied |= b < a
                    elif everywhere:
                        implied |= passed[node_of[b], link] >= turn[before]
            for link in range(n_links):
                passed[i, link] = max(passed[i, link], passed[before, link])
            if not implied:
                pred[at], lag[at], origin[at] = before, lag_of[a], origin_of[a]
                at += 1
        for k in range(first, last):
            n_users[use[k]] += 1
            latest[use[k]] = i
            passed[i, use[k]] = n_users[use[k]]
        if first < last:
            turn[i] = n_users[use[first]]
        indptr[i + 1] = at
