"""Why an iteration takes as long as it does, from Python: where its time goes, what each cause adds, what a change would save."""

from typing import TYPE_CHECKING

import numpy as np

from hops.attribution import KINDS, attributed
from hops.causes import waterfalls
from hops.executor import Executor
from hops.programs import members
from hops.savings import iterations, savings
from hops.simulation import Case
from hops.weights import TICKS

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def critical_dataset(case: Case, executor: Executor) -> "xr.Dataset":
    """Time on the critical path by part (what computes, issues, sends, exchanges, updates) and draw; adds up to the iteration.

    ``critical_time`` (draw, part) [s]; ``criticality`` (op,): share of the draws in which an op is on the path, of any replica.
    """
    import xarray as xr

    found, unit, graph = attributed(case, executor), TICKS * case.n_batches, case.structure.graph
    there = found.ticks.any(axis=1)
    parts = [part for part, is_there in zip(found.parts, there, strict=True) if is_there]
    ops = [(rank, str(op)) for rank, each in case.program.order for op in members(each)]
    of_nodes = np.flatnonzero(graph.op >= 0)
    crossed = np.zeros(len(ops))
    np.add.at(crossed, graph.op[of_nodes], found.crossed[of_nodes])
    coords = {
        "part": ("part", [str(part) for part in parts], {"long_name": "what the iteration waits for"}),
        "kind": ("part", [part.kind for part in parts], {"long_name": "; ".join(f"{kind}: {what}" for kind, what in KINDS.items())}),
        "source": ("part", [part.rank for part in parts], {"long_name": "pipeline rank that computes, issues or sends; -1: none"}),
        "goal": ("part", [part.goal for part in parts], {"long_name": "pipeline rank that receives; -1: none"}),
        "path": ("part", [part.path for part in parts], {"long_name": "class of the path that a message takes"}),
        "draw": ("draw", np.arange(found.ticks.shape[1]), {"long_name": "sampled iteration"}),
        "op": ("op", [op for _, op in ops], {"long_name": "operation"}),
        "rank": ("op", [rank for rank, _ in ops], {"long_name": "pipeline rank"}),
    }
    time = {"long_name": "time on the critical path", "units": "s"}
    share = {"long_name": "share of draws with the op on the critical path", "units": "1"}
    data = {
        "critical_time": (("draw", "part"), (found.ticks[there] / unit).T, time),
        "iteration_time": (
            "draw",
            found.ticks.sum(axis=0) / unit,
            {"long_name": "time the training loop waits for per step", "units": "s"},
        ),
        "criticality": ("op", crossed / found.ticks.shape[1], share),
    }
    return xr.Dataset(data, coords)


def waterfall_frame(case: Case, executor: Executor) -> "pd.DataFrame":
    """Columns step, time [s], total [s], mfu: from the FLOPs of the model at the GPUs' peak to the p95 of the iteration."""
    import pandas as pd

    (ticks,) = iterations([case], executor)
    median, tail = (int(np.quantile(ticks, q) + 0.5) for q in (0.5, 0.95))
    (found,) = waterfalls([case], [(median, tail)], executor)
    return pd.DataFrame({"step": found.names, "time": found.seconds, "total": found.totals, "mfu": found.mfu})


def savings_frame(case: Case, executor: Executor, names: tuple[str, ...] | None = None) -> "pd.DataFrame":
    """Columns change, saved [s], standard_error, low, high (95 %, Student's t over pairs of draws), p95_saved [s], share, meaning."""
    import pandas as pd

    rows = [(s.name, s.mean, s.standard_error, s.low, s.high, s.tail, s.share, s.meaning) for s in savings(case, executor, names)]
    return pd.DataFrame(rows, columns=["change", "saved", "standard_error", "low", "high", "p95_saved", "share", "meaning"])
