"""What the terminal shows: the report of one cell, and the table of a cube. At most 100 columns."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from hops.distributions import TERMS
from hops.graph import unshard_index
from hops.memory import Memory
from hops.metrics import quantile_interval
from hops.paths import Path
from hops.schedules import SCHEDULES
from hops.simulation import Case
from hops.variables import INTERVALS

WIDTH = 100
MOST_ROWS = 20


def seconds(value: float) -> str:
    """A duration with a readable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.5g} {unit}"
    return f"{value / 1e-9:.5g} ns"


def share(value: float) -> str:
    """A fraction as a percentage; a dash where there is none."""
    return f"{100 * value:.2f} %" if np.isfinite(value) else "-"


def cell_report(cell: xr.Dataset, case: Case, notes: Sequence[str] = ()) -> str:
    """Sizes, iteration time with its interval, throughput, bubble and communication of one cell; a training run's goodput."""
    s, graph, cluster, costs = case.scenario, case.structure.graph, case.weights.cluster, case.weights.costs
    law = "latency=none: nothing varies, so one draw was evaluated"
    if case.noisy:
        laws = [(name, term) for name, term in zip(TERMS, s.latency.terms, strict=True) if term is not None]
        told = [f"per {name} {term.name} {' '.join(_told(term.params))}" for name, term in laws]
        law = f"draws={s.draws} seed={s.seed}; noise: {', '.join(told) or 'none'}"
    n_ops = int((graph.rank >= 0).sum())
    means = cell.mean("draw")  # of metrics whose draws are kept, and of those that always have draws
    held, busy, exposed = (means[name].values for name in ("peak_in_flight", "busy_time", "exposed_communication"))
    tight = int(busy.argmax())
    sizes = f"{s.microbatches} microbatches of {s.microbatch_size}"
    if s.layout.n_gpus > s.pp:
        besides = "".join(f", {key}={n}" for key, n in (("cp", s.cp), ("ep", s.ep)) if n > 1)
        sizes += f", tp={s.tp}, dp={s.dp}{besides}: {s.layout.n_gpus} GPUs"
    noun = "pipelines" if SCHEDULES[s.schedule.name].routes is None else "routes"
    several = f" in {costs.pipelines} {noun}" if costs.pipelines > 1 else ""
    stages = f"{costs.n_stages // costs.pipelines} stages{several}"
    lines = [
        f"{s.schedule.name} on {cluster.name} ({cluster.gpu.name}): {s.pp} ranks, {stages}, {sizes}",
        f"  {n_ops} ops, {graph.rank.size - n_ops} transfers, p2p={s.p2p}{_contention(case)}",
        f"  {law}",
        *_lost(case),
        *(f"  disturbed: {each}" for each in s.hindrances.disturbances),
        *(f"  {note}" for note in notes),
        "",
        "iteration time",
        *_times(cell["iteration_time"].values, certain=not case.noisy),
        "",
        f"throughput              {float(means['throughput']):.4g} samples/s{_tokens(means)}",
    ]
    if "mfu" in cell:
        achieved = f"{float(means['flops_per_gpu']) / 1e12:.4g} TFLOP/s a GPU"
        lines.append(f"MFU                     {share(float(means['mfu']))} (HFU {share(float(means['hfu']))}, {achieved})")
    lines += [
        f"bubble                  {share(float(means['bubble_fraction']))} of all ranks' time "
        f"(by span {share(float(means['span_bubble_fraction']))})",
        f"exposed communication   {seconds(exposed.mean())} a rank on average, {seconds(exposed.max())} on rank {int(exposed.argmax())}",
        f"tightest rank           {tight}: busy {seconds(busy[tight])}, {share(float(means['utilization'][tight]))} of the makespan",
        f"activations in flight   at most {held.max():g} microbatches (rank {int(held.argmax())})",
        *([] if case.memory is None else [_memory(case.memory, case.weights.room)]),
        *_run_lines(cell, case),
        "",
        f"times: {costs.source}",
    ]
    gpus = [s.layout.gpu(rank) for rank in case.structure.stage_ranks]
    paths = [cluster.between(a, b) for a, b in pairwise(gpus)]
    if paths:
        lines.append(_slowest(paths, costs.p2p_bytes))
    return "\n".join(wrapped for line in lines for wrapped in textwrap.wrap(line, WIDTH, subsequent_indent="    ") or [""])


def _run_lines(cell: xr.Dataset, case: Case) -> list[str]:
    """What became of the training run, if one was asked for: goodput, failures, and where the time of the GPUs went."""
    training = case.scenario.training
    if training is None:
        return []

    def mean(name: str) -> float:
        return float(cell[f"{name}_mean"]) if f"{name}_mean" in cell else 0.0

    days, n = training.run.days, training.run.iterations
    length = f"{days:g} day{'s' * (days != 1)}" if days else f"{n} iteration{'s' * (n != 1)}"
    if training.run.tier == "analytic":
        how, spread = "exact mean for iterations drawn from those above", ""
    else:
        drawn = "drawn from those above" if training.run.tier == "resampled" else "each evaluated"
        how = f"{training.trials} trials, iterations {drawn}"
        low, high = (share(float(each)) for each in np.quantile(cell["goodput_fraction"].values, (0.05, 0.95)))
        spread = f" (of trials: 5 % below {low}, 5 % above {high})"
    ettr = f"ETTR {share(mean('ettr'))}" + (f", available {share(mean('availability'))}" if "availability" in cell else "")
    lines = [
        "",
        f"training run of {length}: {how}",
        f"goodput                 {mean('goodput'):.4g} samples/s, {share(mean('goodput_fraction'))} of that without failures{spread}",
        f"wall clock              {seconds(mean('wall_time'))} for {mean('iterations_done'):.6g} iterations; {ettr}",
    ]
    if mean("n_failures"):
        parts = ", ".join(f"{part} {seconds(mean(f'mttr_{part}'))}" for part in ("detection", "queue", "recovery") if mean(f"mttr_{part}"))
        varies = f" +- {float(cell['n_failures'].std(ddof=1)):.3g}" if cell.sizes["trial"] > 1 else ""
        took = f"; recovery takes {seconds(mean('mttr'))}{f' ({parts})' if parts else ''}, then {seconds(mean('mttr_replay'))} of replay"
        lines.append(
            f"failures                {mean('n_failures'):.5g}{varies}, one every {seconds(mean('mtbf'))}{took if 'mttr' in cell else ''}"
        )
    if mean("n_slowdowns"):
        lines.append(f"slowed                  {mean('n_slowdowns'):.5g} times, {share(mean('slowed_time'))} of the time")
    if mean("degraded_time"):
        capacity = f"{share(mean('capacity'))} of the GPUs there on average"
        lines.append(f"smaller                 {share(mean('degraded_time'))} of the time, by {mean('n_plans') - 1:.3g} plans; {capacity}")
    if "ledger" in cell:
        half, most, longest = (seconds(mean(f"commit_interval_{name}")) for name in ("p50", "p99", "max"))
        lines.append(
            f"intervals               half of the iterations count within {half} of the one before, 99 % in {most}, all in {longest}"
        )
        every = f"{mean('n_checkpoints'):.5g} checkpoints ({training.checkpoint.interval})" if mean("n_checkpoints") else "no checkpoints"
        lost = f"{seconds(mean('lost_work'))} of training, {mean('lost_iterations'):.5g} iterations rolled back"
        spent = cell["ledger"].mean("trial")
        shares = zip(spent["bucket"].values, spent.values / spent.values.sum(), strict=True)
        lines += [
            f"lost work               {lost}; {every}",
            f"time of the GPUs        {', '.join(f'{bucket} {share(float(part))}' for bucket, part in shares if part)}",
        ]
    return lines


def _memory(memory: Sequence[Memory], room: Sequence[float]) -> str:
    """The rank with the least room, and what fills it."""
    left = [have - need.total for have, need in zip(room, memory, strict=True)]
    tight = left.index(min(left))
    parts = ", ".join(f"{name} {value / 1e9:.3g}" for name, value in memory[tight]._asdict().items() if value)
    verdict = "fits" if left[tight] >= 0 else "DOES NOT FIT"
    return f"memory                  {verdict}: {memory[tight].total / 1e9:.4g} of {room[tight] / 1e9:g} GB on rank {tight} ({parts})"


def _contention(case: Case) -> str:
    """What becomes of traffic that meets on links, where that matters or was asked."""
    asked, found = case.scenario.contention, case.contention
    if found == "ignored":
        return f"; traffic meets on links, which is ignored (contention={asked})"
    if asked == "none":
        return ""
    return f", contention={asked}" + (" (no traffic meets)" if found == "none" else "")


def _lost(case: Case) -> list[str]:
    """How often messages are lost, and how often that kills a link."""
    retry, graph = case.scenario.hindrances.retry, case.structure.graph
    if not case.lossy:
        return []
    n = case.weights.variant.size * int(np.count_nonzero((graph.rank < 0) & (graph.work < unshard_index(graph.opening.size, 0))))
    dead = -np.expm1(n * np.log1p(-retry.death))
    found = f"{n} messages, each try lost with probability {retry.loss:g}, sent again after {seconds(retry.timeout)}"
    return [f"  {found}; a link dies in {dead:.2g} of iterations, after {retry.retries + 1} tries"]


def _told(params: Sequence[tuple[str, Any]]) -> Iterator[str]:
    """Parameters of a law as ``key=value``, those in sections too."""
    for key, value in params:
        if isinstance(value, tuple):
            yield from _told(value)
        elif value is not None:
            yield f"{key}={value:g}" if isinstance(value, (int, float)) else f"{key}={value}"


def _times(times: np.ndarray, certain: bool) -> list[str]:
    if len(times) == 1:
        return [f"  {seconds(times[0])}" + ("" if certain else "  (one draw: no interval)")]
    lines = []
    for q in (0.5, 0.95, 0.99):
        low, high = quantile_interval(times, q)
        ends = [seconds(end) if np.isfinite(end) else "too few draws for a bound" for end in (low, high)]
        lines.append(f"  p{100 * q:.0f}  {seconds(float(np.quantile(times, q))):>10}   95 % interval [{ends[0]}, {ends[1]}]")
    error = times.std(ddof=1) / np.sqrt(len(times))
    return [*lines, f"  mean {seconds(times.mean()):>10}   standard error {seconds(error)}"]


def _tokens(means: xr.Dataset) -> str:
    return f", {float(means['tokens_per_second']):.4g} tokens/s" if "tokens_per_second" in means else ""


def _slowest(paths: Sequence[Path], size: float) -> str:
    """The path between neighbouring stages on which a message of ``size`` bytes takes longest."""

    def duration(path: Path) -> float:
        return path.latency + path.seconds(size)

    slowest = max(paths, key=duration)
    return f"slowest path between stages: {slowest}; a message of {size / 1e6:.4g} MB takes {seconds(duration(slowest))}"


def cube_table(cube: xr.Dataset) -> str:
    """One row a cell; of more than `MOST_ROWS` those with the highest throughput. Times are seconds."""
    dims = list(cube["evaluated"].dims)
    cube = cube.drop_vars([f"{name}_{of}" for name in INTERVALS for of in ("draws", "trials")], errors="ignore")  # large, and not needed
    flat = cube.stack(cell=dims) if dims else cube.expand_dims("cell")
    found = np.flatnonzero(flat["evaluated"].values)
    heading = ""
    if len(found) > MOST_ROWS:
        heading = f"the {MOST_ROWS} of {len(found)} cells with the highest throughput; all are in the cube\n"
        found = found[np.argsort(-flat["throughput_mean"].values[found], kind="stable")][:MOST_ROWS]
    named = [str(name) for dim in dims for name, coord in cube.coords.items() if coord.dims == (dim,)]  # several that advance together
    columns: dict[str, list[str]] = {name: [_text(flat[name].values[i]) for i in found] for name in named}
    times = flat["iteration_time"].isel(cell=found)
    if "draw" in times.dims:
        times = times.quantile([0.5, 0.95, 0.99], "draw")
    for q in [q for q in times["quantile"].values if q >= 0.5]:
        columns[f"p{100 * q:g} [s]"] = [_number(value, 5) for value in times.sel(quantile=q).values]
    columns["mean [s]"] = [_number(value, 5) for value in flat["iteration_time_mean"].values[found]]
    columns["+-"] = [_number(value, 2) for value in flat["iteration_time_standard_error"].values[found]]
    columns["samples/s"] = [_number(value, 4) for value in flat["throughput_mean"].values[found]]
    for name, title in (("goodput_fraction", "goodput"), ("ettr", "ETTR"), ("bubble_fraction", "bubble"), ("mfu", "MFU")):
        if name in flat:
            columns[title] = [share(value) for value in flat[f"{name}_mean"].values[found]]
    if "fits" in flat:
        full = zip(flat["peak_memory"].max("rank").values[found], flat["fits"].values[found], strict=True)
        columns["GB"] = [f"{value / 1e9:.3g}{'' if fits else '*'}" for value, fits in full]
    rows = _rows(columns, len(named) + 1)
    notes = cube.attrs.get("notes", "").splitlines()
    if "GB" in rows[0].split() and any("*" in each for each in columns["GB"]):
        notes.append("* more memory than the GPU has")
    return heading + "\n".join([*rows, *(f"note: {note}" for note in notes)])


def comparison_table(comparison: xr.Dataset) -> str:
    """One row a cell of what `hops.comparisons.compare` found; of more than `MOST_ROWS` those with the least mean."""
    dims = list(comparison["resolved"].dims)
    flat = comparison.stack(cell=dims) if dims else comparison.expand_dims("cell")
    found = np.flatnonzero(np.isfinite(flat["mean"].values))
    attrs = comparison.attrs
    title = f"{attrs['metric']} beside {attrs['axis']}={attrs['reference']}; intervals: {attrs['interval']}"
    heading = textwrap.fill(title, WIDTH) + "\n"
    if len(found) > MOST_ROWS:
        heading += f"the {MOST_ROWS} of {len(found)} cells with the least {attrs['metric']}\n"
        found = found[np.argsort(flat["mean"].values[found], kind="stable")][:MOST_ROWS]
    named = [str(name) for dim in dims for name, coord in comparison.coords.items() if coord.dims == (dim,)]
    columns = {name: [_text(flat[name].values[i]) for i in found] for name in named}

    def numbers(name: str, digits: int) -> list[str]:
        return [_number(value, digits) for value in flat[name].values[found]]

    columns["ratio"] = numbers("ratio", 5)
    columns["interval"] = [f"{low}..{high}" for low, high in zip(numbers("ratio_low", 5), numbers("ratio_high", 5), strict=True)]
    unclear = np.isfinite(flat["draws_needed"].values[found])  # else equal, the reference itself too
    columns["resolved"] = ["yes" if each else "no" if n else "-" for each, n in zip(flat["resolved"].values[found], unclear, strict=True)]
    columns["needs draws"] = numbers("draws_needed", 4)
    columns["difference"] = numbers("difference", 4)
    columns["+-"] = numbers("difference_standard_error", 2)
    columns["variance cut"] = numbers("variance_reduction", 3)
    return heading + "\n".join(_rows(columns, len(named) + 1))


def _rows(columns: dict[str, list[str]], least: int) -> list[str]:
    """Columns side by side, the heading first; those that do not fit are left out, the last first, down to ``least``."""
    widths = {title: max(len(title), *map(len, cells)) for title, cells in columns.items()}
    while sum(widths.values()) + 2 * (len(widths) - 1) > WIDTH and len(widths) > least:
        widths.popitem()  # many axes: what comes last is the least needed, and all of it is in the cube
    cells = zip(*(columns[title] for title in widths), strict=True)
    return ["  ".join(f"{each:>{width}}" for each, width in zip(row, widths.values(), strict=True)) for row in [tuple(widths), *cells]]


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}g}" if np.isfinite(value) else "-"
