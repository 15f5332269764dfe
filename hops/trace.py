"""Timelines: when each op of one draw runs, as a table and as text."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops import kernels
from hops.checks import count
from hops.contended import evaluate_contended, make_times
from hops.executor import joined, law_rows, stacked
from hops.graph import Graph, unfolded, unshard_index
from hops.noise import MICROBATCH_BITS
from hops.plots import Message, goes_back
from hops.programs import members
from hops.schedules import SCHEDULES
from hops.simulation import Case
from hops.weights import TICKS
from hops.workspace import workspace

if TYPE_CHECKING:
    import pandas as pd

WITHOUT_STAGE = (1 << (MICROBATCH_BITS + 1)) - 1  # of an identity: direction and microbatch
FILL = {"F": "-", "B": "=", "I": "=", "W": "~"}  # a bar's body; its head is the microbatch
BACK = {"F": ".", "B": ":", "I": ":", "W": ","}  # the same in a pipeline from the last rank to the first
PAINT = {"F": "36", "B": "33", "I": "33", "W": "32"}  # cyan, yellow, green, as in the picture


class Trace(NamedTuple):
    """One draw [ticks]: of replica 0 the nodes and lags; of all replicas together what they exchange."""

    start: NDArray[np.int64]  # (o,)
    finish: NDArray[np.int64]
    lag: NDArray[np.int64]  # (1 + 3 stages,)
    reducing: NDArray[np.int64]  # (milestones, buckets) when the reduction of gradients begins
    reduced: NDArray[np.int64]  # when it ends
    released: NDArray[np.int64]  # (stages, buckets) when weights have been gathered, where that overlaps
    latest: NDArray[np.int64]  # (ranks,) when a rank has all gradients that it needs for its update
    step: int  # when the iteration ends in which everybody waits for everybody's gradients; without a flush how long one takes


def timeline_frame(case: Case, draw: int = 0) -> "pd.DataFrame":
    """Start and end [s] of every op in one draw: columns rank, op, stage, kind, microbatch, start, end, by rank and start.

    Of several pipelines column ``pipeline`` says which: the first half of them goes down the ranks, the others up. Where microbatches
    take different routes through pipelines side by side, column ``route`` says which.
    Where there are replicas the ops are those of the first, and what they exchange follows: kinds REDUCE_GRAD (once all have
    the gradients) and UNSHARD (weights that are gathered within the iteration), a row a bucket, microbatch and pipeline -1.
    """
    import pandas as pd

    found = node_ticks(case, count("draw", draw, least=0, most=case.scenario.draws - 1))
    starts, ends = op_ticks(case, found)
    program = case.program
    ops = [(rank, unit, op) for rank, unit in program.order for op in members(unit)]
    rows = [(rank, str(op), *op, start, end) for (rank, _, op), start, end in zip(ops, starts / TICKS, ends / TICKS, strict=True)]
    rows += [(e.rank, f"{e.stage}{e.kind}", e.stage, e.kind, -1, e.start, e.end) for e in exchanges(case, found)]
    frame = pd.DataFrame(rows, columns=["rank", "op", "stage", "kind", "microbatch", "start", "end"])
    if program.pipelines > 1:
        column = "pipeline" if SCHEDULES[case.scenario.schedule.name].routes is None else "route"
        frame.insert(5, column, [-1 if k < 0 else program.first_seats[k] // program.n_stages for k in frame["microbatch"]])
    return frame.sort_values(["rank", "start"], kind="stable", ignore_index=True)


def memory_frame(case: Case, draw: int = 0, after_input: float = 1.0) -> "pd.DataFrame":
    """Activations that a GPU of each rank holds in one draw, before any is offloaded: columns rank, time [s], op, activations [bytes].

    A row a change, by rank and time. A forward takes them when it begins, a backward gives them up when it ends.
    ``after_input``: share of them that a backward for input leaves to the weight pass. 1, as peaks are reported elsewhere:
    all are held until W (or B); 0: all are freed at I; between: what linear layers keep of all that a layer keeps, the
    zero-bubble papers' M_W / M_B. A model of explicit times is a ``ValueError``.
    """
    sizes = case.weights.costs.activations
    if sizes is None:
        raise ValueError("model=explicit has no activations: memory over time needs a transformer (try model=gpt_22b)")
    if not 0 <= after_input <= 1:
        raise ValueError(f"after_input must be a share of the activations, from 0 to 1; got {after_input!r}")
    return held(timeline_frame(case, draw), sizes, after_input)


def held(ops: "pd.DataFrame", sizes: Sequence[float], after_input: float = 1.0) -> "pd.DataFrame":
    """What each rank holds over time, as `memory_frame` has it, of a timeline whose stages take ``sizes`` for a microbatch."""
    import pandas as pd

    share = {"F": 1.0, "B": -1.0, "I": after_input - 1.0, "W": -after_input}
    ops = ops[ops["kind"].isin([*share])]
    frame = pd.DataFrame({"rank": ops["rank"], "time": ops["start"].where(ops["kind"] == "F", ops["end"]), "op": ops["op"]})
    frame["change"] = ops["kind"].map(share) * ops["stage"].map(dict(enumerate(sizes)))
    frame = frame[frame["change"] != 0].sort_values(["rank", "time", "change"], kind="stable", ignore_index=True)
    frame["activations"] = frame.groupby("rank")["change"].cumsum()
    return frame.drop(columns="change")


class ExchangeBar(NamedTuple):
    """An exchange among the replicas of a stage [s]."""

    rank: int
    stage: int
    kind: str
    start: float
    end: float


def exchanges(case: Case, found: Trace) -> Iterator[ExchangeBar]:
    """What replicas exchange in one draw; weights only where they are gathered within the iteration."""
    graph, weights = case.structure.graph, case.weights
    n_seats = graph.opening.size
    n_stages = n_seats // graph.pipelines
    for rank in range(graph.n_ranks):
        for milestone in graph.reducing[graph.reductions[rank] : graph.reductions[rank + 1]]:
            stage = int(graph.reduced[milestone])
            for part in range(weights.n_buckets[stage]):
                start, end = found.reducing[milestone, part], found.reduced[milestone, part]
                yield ExchangeBar(rank, stage % n_stages, "REDUCE_GRAD", start / TICKS, end / TICKS)
    if weights.overlap[1]:
        for rank in range(graph.n_ranks):
            before = 0
            for stage in graph.opening[graph.openings[rank] : graph.openings[rank + 1]]:
                for end in found.released[stage, : weights.n_buckets[stage]]:
                    yield ExchangeBar(rank, int(stage) % n_stages, "UNSHARD", before / TICKS, end / TICKS)
                    before = end
    for node in np.flatnonzero((graph.rank < 0) & (graph.work >= unshard_index(n_seats, 0))):
        stage = int(graph.work[node]) - unshard_index(n_seats, 0)
        yield ExchangeBar(case.structure.stage_ranks[stage], stage, "UNSHARD", found.start[node] / TICKS, found.finish[node] / TICKS)


def op_ticks(case: Case, found: Trace) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and end [ticks] of the ops of one draw, in ``program.order``; those of a fused unit have both halves' time."""
    op = case.structure.graph.op
    ops = np.argsort(op, kind="stable")[np.count_nonzero(op < 0) :]
    start, end, at = found.start[ops], found.finish[ops], 0
    for _, unit in case.program.order:
        n = len(members(unit))
        start[at : at + n], end[at : at + n] = start[at], end[at + n - 1]
        at += n
    return start, end


def node_ticks(case: Case, draw: int, graph: Graph | None = None) -> Trace:
    """One draw, down to the nodes of the graph; ``graph``: instead of its own."""
    graph, cells = unfolded(graph or case.structure.graph), stacked([case])
    law, tables = law_rows([case])
    n_nodes, n_buckets = graph.rank.size, max(1, int(cells.n_buckets.max()))
    space, moments = workspace(graph, n_nodes, n_buckets), np.zeros((1, 3, graph.n_ranks, kernels.N_LIMBS), np.int64)
    unread = np.empty((kernels.N_METRICS, 1, 1), np.int64), moments, np.empty((3, 0, graph.n_ranks, 1), np.int64)
    if case.by_draws:
        joint = joined(case, graph)
        times = make_times(1, case.n_lanes, graph, joint)
        evaluate_contended(graph, joint, cells, law, tables, draw, times, space, *unread)
    else:
        kernels.evaluate(graph, cells, law, tables, draw, space, *unread)
    begun, finish, lag, latest = (each[:, 0].copy() for each in (space.begun, space.finish, space.lag, space.latest))
    ready, reduced, released = (each[:, 0].reshape(-1, n_buckets).copy() for each in (space.ready, space.reduced, space.released))
    return Trace(begun, finish, lag, ready, reduced, released, latest, int(space.step[0]))


class Transfer(NamedTuple):
    """A message between ranks, in ticks."""

    sender: int  # node whose output it is
    receiver: int  # node that waits for it
    begun: int  # when it gets a channel, or at once
    arrived: int


def transfers(case: Case, found: Trace) -> list[Transfer]:
    """Every transfer between ranks in one draw."""
    graph = case.structure.graph
    goals = np.repeat(np.arange(graph.rank.size), np.diff(graph.indptr))
    source = graph.rank[graph.origin]
    # of the same microbatch and direction: others wait for room in a queue
    same = (graph.identity[graph.origin] ^ graph.identity[goals]) & WITHOUT_STAGE == 0
    edges = np.flatnonzero((graph.rank[goals] >= 0) & (source >= 0) & (source != graph.rank[goals]) & same)
    senders, preds = graph.origin[edges], graph.pred[edges]
    begun = np.where(preds == senders, found.finish[senders], found.start[preds])
    arrived = found.finish[preds] + found.lag[graph.lag[edges]]
    return list(map(Transfer._make, np.stack([senders, goals[edges], begun, arrived], axis=1).tolist()))


def messages(case: Case, draw: int = 0) -> list[Message]:
    """Every transfer between ranks in one draw."""
    rank, found = case.structure.graph.rank, node_ticks(case, draw)
    return [
        Message(int(rank[each.sender]), found.finish[each.sender] / TICKS, int(rank[each.receiver]), each.arrived / TICKS)
        for each in transfers(case, found)
    ]


def timeline_text(frame: "pd.DataFrame", width: int = 100, colour: bool = False) -> str:
    """Draw a timeline, one line a rank, at most ``width`` columns: a column shows what takes most of its time, blank is waiting.

    Where an op is wide enough its microbatch opens it; those of one unit stand side by side. ``colour`` paints kinds with ANSI codes.
    """
    kinds = [kind for kind in "FBIW" if kind in set(frame["kind"])]
    ops = frame[frame["kind"].isin(kinds)]
    n_ranks, end = int(ops["rank"].max()) + 1, float(ops["end"].max())
    margin = len(f"rank {n_ranks - 1} |")
    columns = width - margin - 1
    units = ops.groupby(["rank", "start"])["op"]
    ops = ops.assign(back=goes_back(ops), at=units.cumcount(), n=units.transform("size"))
    marks = [(kind, back) for back in (False, True) for kind in kinds]
    lines = []
    for rank in range(n_ranks):
        share = np.zeros((len(marks) + 1, columns))  # of each column's time; the last row is waiting
        heads: dict[int, str] = {}
        for op in ops[ops["rank"] == rank].itertuples():
            part = (op.end - op.start) / op.n
            first, last = ((op.start + i * part) / end * columns for i in (op.at, op.at + 1))
            edges = np.clip(np.arange(int(first), min(int(last) + 2, columns + 1)), first, last)
            share[marks.index((op.kind, op.back)), int(first) : int(first) + len(edges) - 1] += np.diff(edges)
            head, at = str(op.microbatch), round(first)
            if last - first >= 1.5 and len(head) <= round(last) - at:  # a cut number would be another
                heads |= {at + i: digit for i, digit in enumerate(head)}
        share[-1] = 1 - share[:-1].sum(axis=0)
        row = [marks[k] if k < len(marks) else None for k in share.argmax(axis=0)]
        texts = [heads.get(i, " " if mark is None else (BACK if mark[1] else FILL)[mark[0]]) for i, mark in enumerate(row)]
        if colour:
            texts = [f"\x1b[{PAINT[mark[0]]}m{text}\x1b[0m" if mark else text for mark, text in zip(row, texts, strict=True)]
        lines.append(f"{f'rank {rank}':<{margin - 1}}|{''.join(texts).rstrip()}")
    scale = f"0 s{f'{end:.4g} s':>{columns - 3}}"
    words = {"F": "forward", "B": "backward", "I": "backward for input", "W": "backward for weight"}
    legend = [", ".join(f"{FILL[kind]} {words[kind]}" for kind in kinds) + "; the digit that opens a bar is its microbatch"]
    if ops["back"].any():
        legend.append(f"{' '.join(dict.fromkeys(BACK[kind] for kind in kinds))} the same in pipelines from the last rank to the first")
    return "\n".join([*lines, *(" " * margin + line for line in (scale, *legend))])
