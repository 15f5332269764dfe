"""Timelines: when each op of one draw runs, as a table and as text."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hops import kernels
from hops.checks import count
from hops.executor import law_rows
from hops.metrics import TICKS
from hops.plots import Message
from hops.simulation import Case

if TYPE_CHECKING:
    import pandas as pd

FILL = {"F": "-", "B": "=", "I": "=", "W": "~"}  # a bar's body; its head is the microbatch


def timeline_frame(case: Case, draw: int = 0) -> "pd.DataFrame":
    """Start and end [s] of every op in one draw: columns rank, op, stage, kind, microbatch, start, end, by rank and start."""
    import pandas as pd

    start, end = op_ticks(case, count("draw", draw, least=0, most=case.scenario.draws - 1))
    program = case.program
    ranks = [rank for rank, _ in program.order]
    ops = [op for _, op in program.order]
    frame = pd.DataFrame(
        {
            "rank": ranks,
            "op": [str(op) for op in ops],
            "stage": [op.stage for op in ops],
            "kind": [op.kind for op in ops],
            "microbatch": [op.microbatch for op in ops],
            "start": start / TICKS,
            "end": end / TICKS,
        }
    )
    return frame.sort_values(["rank", "start"], kind="stable", ignore_index=True)


def op_ticks(case: Case, draw: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and end [ticks] of the ops of one draw, in ``program.order``."""
    start, finish, _ = node_ticks(case, draw)
    ops = case.structure.graph.rank >= 0
    return start[ops], finish[ops]


def node_ticks(case: Case, draw: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Start and finish of every node of the graph, and the lags, in one draw [ticks]."""
    graph, weights = case.structure.graph, case.weights
    start, finish = np.empty(graph.rank.size, np.int64), np.empty(graph.rank.size, np.int64)
    lag = np.empty(weights.lag.size, np.int64)
    law, tables = law_rows([case])
    seed = np.uint32(case.scenario.seed)
    kernels.trace(graph, weights.work, weights.lag, weights.link, law[0], tables, seed, draw, start, finish, lag)
    return start, finish, lag


def messages(case: Case, draw: int = 0) -> list[Message]:
    """Every transfer between ranks in one draw."""
    graph = case.structure.graph
    _, finish, lag = node_ticks(case, draw)
    found = []
    for node in np.flatnonzero(graph.rank >= 0):
        for edge in range(graph.indptr[node], graph.indptr[node + 1]):
            source, goal = int(graph.rank[graph.origin[edge]]), int(graph.rank[node])
            if source >= 0 and source != goal:
                arrived = finish[graph.pred[edge]] + lag[graph.lag[edge]]
                found.append(Message(source, finish[graph.origin[edge]] / TICKS, goal, arrived / TICKS))
    return found


def timeline_text(frame: "pd.DataFrame", width: int = 100) -> str:
    """Draw a timeline, one line a rank: head = microbatch, body = kind, blanks = waiting; at most ``width`` columns."""
    n_ranks, end = int(frame["rank"].max()) + 1, float(frame["end"].max())
    margin = len(f"rank {n_ranks - 1} |")
    columns = width - margin - 1
    lines = []
    for rank in range(n_ranks):
        line = [" "] * columns
        for op in frame[frame["rank"] == rank].itertuples():
            first, last = round(op.start / end * columns), round(op.end / end * columns)
            head = str(op.microbatch) if len(str(op.microbatch)) <= last - first else ""  # a cut number would be another
            line[first:last] = head.ljust(last - first, FILL[op.kind])
        lines.append(f"{f'rank {rank}':<{margin - 1}}|{''.join(line).rstrip()}")
    scale = f"0 s{f'{end:.4g} s':>{columns - 3}}"
    words = {"F": "forward", "B": "backward", "I": "backward for input", "W": "backward for weight"}
    kinds = [kind for kind in "FBIW" if kind in set(frame["kind"])]
    legend = ", ".join(f"{FILL[kind]} {words[kind]}" for kind in kinds) + "; the digit that opens a bar is its microbatch"
    return "\n".join([*lines, " " * margin + scale, " " * margin + legend])
