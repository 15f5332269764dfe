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
PAINT = {"F": "36", "B": "33", "I": "33", "W": "32"}  # cyan, yellow, green, as in the picture


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
    ops = np.argsort(case.structure.graph.op, kind="stable")[np.count_nonzero(case.structure.graph.op < 0) :]
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


def timeline_text(frame: "pd.DataFrame", width: int = 100, colour: bool = False) -> str:
    """Draw a timeline, one line a rank, at most ``width`` columns: a column shows what takes most of its time, blank is waiting.

    Where an op is wide enough its microbatch opens it; ``colour`` paints kinds with ANSI codes.
    """
    n_ranks, end = int(frame["rank"].max()) + 1, float(frame["end"].max())
    margin = len(f"rank {n_ranks - 1} |")
    columns = width - margin - 1
    kinds = [kind for kind in "FBIW" if kind in set(frame["kind"])]
    lines = []
    for rank in range(n_ranks):
        share = np.zeros((len(kinds) + 1, columns))  # of each column's time; the last row is waiting
        heads: dict[int, str] = {}
        for op in frame[frame["rank"] == rank].itertuples():
            first, last = op.start / end * columns, op.end / end * columns
            edges = np.clip(np.arange(int(first), min(int(last) + 2, columns + 1)), first, last)
            share[kinds.index(op.kind), int(first) : int(first) + len(edges) - 1] += np.diff(edges)
            head, at = str(op.microbatch), round(first)
            if last - first >= 1.5 and len(head) <= round(last) - at:  # a cut number would be another
                heads |= {at + i: digit for i, digit in enumerate(head)}
        share[-1] = 1 - share[:-1].sum(axis=0)
        row = [kinds[k] if k < len(kinds) else " " for k in share.argmax(axis=0)]
        texts = [heads.get(i, FILL.get(kind, " ")) for i, kind in enumerate(row)]
        if colour:
            texts = [f"\x1b[{PAINT[kind]}m{text}\x1b[0m" if kind in PAINT else text for kind, text in zip(row, texts, strict=True)]
        lines.append(f"{f'rank {rank}':<{margin - 1}}|{''.join(texts).rstrip()}")
    scale = f"0 s{f'{end:.4g} s':>{columns - 3}}"
    words = {"F": "forward", "B": "backward", "I": "backward for input", "W": "backward for weight"}
    legend = ", ".join(f"{FILL[kind]} {words[kind]}" for kind in kinds) + "; the digit that opens a bar is its microbatch"
    return "\n".join([*lines, " " * margin + scale, " " * margin + legend])
