"""Edges (e,), node i waiting for pred[indptr[i]:indptr[i+1]]: by the node that is waited for, and nodes in an order that they allow."""

import numpy as np

from hops.agenda import NODE, READY, put, take
from hops.jit import kernel


@kernel
def group(key, indptr, member):  # type: ignore[no-untyped-def]
    """Group the places of ``key`` (k,) by value: those of v become member[indptr[v]:indptr[v+1]], in order; indptr comes as zeros."""
    for i in range(key.size):
        indptr[key[i] + 1] += 1
    for v in range(indptr.size - 1):
        indptr[v + 1] += indptr[v]
    at = indptr[:-1].copy()
    for i in range(key.size):
        member[at[key[i]]] = i
        at[key[i]] += 1


@kernel
def sort(indptr, pred, order):  # type: ignore[no-untyped-def]
    """Nodes in an order in which each follows those that it waits for, else by number; how many there are without a cycle."""
    n = order.size
    out_indptr, out_edge, goal = np.zeros(n + 1, np.int64), np.empty(pred.size, np.int64), np.empty(pred.size, np.int64)
    group(pred, out_indptr, out_edge)
    tick, what, place, n_ready = np.empty(n, np.int64), np.empty(n, np.int64), np.full(n, -1), 0
    missing, done = np.empty(n, np.int64), 0
    for node in range(n):
        goal[indptr[node] : indptr[node + 1]] = node
        missing[node] = indptr[node + 1] - indptr[node]
        if missing[node] == 0:
            n_ready = put(tick, what, place, n_ready, node, 0, READY)
    while n_ready:
        node = what[0] & NODE  # all are at tick 0: the smallest number
        take(tick, what, place, n_ready)
        n_ready -= 1
        order[done] = node
        done += 1
        for i in range(out_indptr[node], out_indptr[node + 1]):
            after = goal[out_edge[i]]
            missing[after] -= 1
            if missing[after] == 0:
                n_ready = put(tick, what, place, n_ready, after, 0, READY)
    return done
