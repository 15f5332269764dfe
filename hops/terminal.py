"""What the terminal shows: the report of one cell, and the table of a cube. At most 100 columns."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from hops.metrics import quantile_interval
from hops.simulation import Case

MOST_ROWS = 20


def seconds(value: float) -> str:
    """A duration with a readable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.5g} {unit}"
    return f"{value / 1e-9:.5g} ns"


def share(value: float) -> str:
    """A fraction as a percentage."""
    return f"{100 * value:.2f} %"


def cell_report(cell: xr.Dataset, case: Case, notes: Sequence[str] = ()) -> str:
    """Sizes, iteration time with its interval, throughput, bubble and communication of one cell; at most 25 lines."""
    s, program, cluster, costs = case.scenario, case.structure.program, case.weights.cluster, case.weights.costs
    law = "latency=none: nothing varies, so one draw was evaluated"
    if s.latency.op:
        law = f"{s.draws} draws, seed {s.seed}, op times {s.latency.op.name} {', '.join(f'{k}={v:g}' for k, v in s.latency.op.params)}"
    lines = [
        f"{s.schedule.name} on {cluster.name} ({cluster.gpu.name}), {program.pp} ranks, {program.n_stages} stages, "
        f"{program.microbatches} microbatches of {s.microbatch_size}",
        f"  {program.n_ops} ops, {case.structure.graph.rank.size - program.n_ops} transfers on channels, p2p={s.p2p}; {law}",
    ]
    lines += [f"  {note}" for note in notes]
    lines += ["", "iteration time"]
    times = cell["iteration_time"].values
    if s.draws == 1:
        lines.append(f"  {seconds(times[0])}" + ("" if case.table is None else "  (one draw: no interval)"))
    else:
        for q in (0.5, 0.95, 0.99):
            low, high = quantile_interval(times, q)
            ends = f"[{seconds(low) if np.isfinite(low) else '-'}, {seconds(high) if np.isfinite(high) else '-'}]"
            lines.append(f"  p{100 * q:.0f}  {seconds(float(np.quantile(times, q))):>10}   95 % interval {ends}")
        error = times.std(ddof=1) / np.sqrt(len(times))
        lines.append(f"  mean {seconds(times.mean()):>10}   standard error {seconds(error)}")
    lines += ["", f"throughput              {float(cell['throughput'].mean()):.4g} samples/s{_tokens(cell)}"]
    if "mfu" in cell:
        lines.append(
            f"MFU                     {share(float(cell['mfu'].mean()))} (HFU {share(float(cell['hfu'].mean()))}, "
            f"{float(cell['flops_per_gpu'].mean()) / 1e12:.4g} TFLOP/s a GPU)"
        )
    exposed, busy = cell["exposed_communication"].values, cell["busy_time"].values
    held, tight = cell["peak_in_flight"].values, int(busy.argmax())
    lines += [
        f"bubble                  {share(float(cell['bubble_fraction'].mean()))} of all ranks' time "
        f"(by span {share(float(cell['span_bubble_fraction'].mean()))})",
        f"exposed communication   {seconds(exposed.mean())} a rank on average, {seconds(exposed.max())} on rank {int(exposed.argmax())}",
        f"tightest rank           {tight}: busy {seconds(busy[tight])}, {share(float(cell['utilization'][tight]))} of the makespan",
        f"activations in flight   at most {int(held.max())} microbatches (rank {int(held.argmax())})",
        "",
        f"times: {costs.source}",
    ]
    if program.pp > 1:
        paths = {str(cluster.between(program.rank_of(i), program.rank_of(i + 1))) for i in range(program.n_stages - 1)}
        longest = max(
            (cluster.between(program.rank_of(i), program.rank_of(i + 1)) for i in range(program.n_stages - 1)), key=lambda p: p.latency
        )
        lines.append(
            f"slowest hop: {longest}, {costs.p2p_bytes / 1e6:.4g} MB a message"
            + (f" ({len(paths)} kinds of path)" if len(paths) > 1 else "")
        )
    return "\n".join(lines)


def _tokens(cell: xr.Dataset) -> str:
    return f", {float(cell['tokens_per_second'].mean()):.4g} tokens/s" if "tokens_per_second" in cell else ""


def cube_table(cube: xr.Dataset) -> str:
    """One row a cell, the fastest first when there are more than `MOST_ROWS`; times are seconds."""
    dims = list(cube["evaluated"].dims)
    flat = cube.stack(cell=dims) if dims else cube.expand_dims("cell")
    found = np.flatnonzero(flat["evaluated"].values)
    median = flat["iteration_time"].sel(quantile=0.5).values
    heading = ""
    if len(found) > MOST_ROWS:
        heading = f"the {MOST_ROWS} fastest of {len(found)} cells\n"
        found = found[np.argsort(median[found], kind="stable")][:MOST_ROWS]
    columns: dict[str, list[str]] = {str(dim): [str(flat[dim].values[i]) for i in found] for dim in dims}
    times = flat["iteration_time"]
    for q in (0.5, 0.95, 0.99):
        columns[f"p{100 * q:.0f} [s]"] = [f"{value:.5g}" for value in times.sel(quantile=q).values[found]]
    columns["+- mean [s]"] = [f"{value:.2g}" for value in flat["iteration_time_standard_error"].values[found]]
    for name, title in (("bubble_fraction", "bubble"), ("mfu", "MFU")):
        if name in flat:
            columns[title] = [f"{100 * value:.2f} %" for value in flat[f"{name}_mean"].values[found]]
    columns["samples/s"] = [f"{value:.4g}" for value in flat["throughput_mean"].values[found]]
    widths = {title: max(len(title), *map(len, cells)) for title, cells in columns.items()}
    rows = ["  ".join(f"{title:>{widths[title]}}" for title in columns)]
    rows += ["  ".join(f"{cells[i]:>{widths[title]}}" for title, cells in columns.items()) for i in range(len(found))]
    notes = cube.attrs.get("notes", "").splitlines()
    return heading + "\n".join([*rows, *(f"note: {note}" for note in notes)])
