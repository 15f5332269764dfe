"""Does torch.distributed.pipelining order as HOPS does, and run what HOPS writes? Asks torch itself; no test depends on it.

    uv run --with torch python benchmarks/torch_bridge.py

Orders: of each schedule that both have, torch's order against ours, op by op. Files: torch's runtime loads the order of computation
of every schedule, and what it makes of it is compared with ours, action by action; it loads that too, and simulates it; we read back
what it writes. Steps: processes on this machine (gloo, CPU) take a training step in our order, from our files; the gradients are
compared with those of the undivided model.
"""

import contextlib
import os
import re
import socket
import tempfile
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.pipelining import PipelineStage, schedules

import hops
from hops.checks import Infeasible
from hops.schedules import SCHEDULES
from hops.torch_order import lowered, to_csv

PP = (1, 2, 3, 4, 8)
MICROBATCHES = (1, 2, 3, 4, 5, 8, 9, 12, 16, 17, 32)
THEIRS = {  # torch class -> name here, parameters
    "ScheduleGPipe": ("gpipe", {}),
    "Schedule1F1B": ("1f1b", {}),
    "ScheduleLoopedBFS": ("looped_bfs", {}),
    "ScheduleInterleaved1F1B": ("interleaved", {"grouping": "torch"}),
    "ScheduleInterleavedZeroBubble": ("interleaved_zb", {}),
    "ScheduleZBVZeroBubble": ("zb_v", {}),
    "ScheduleDualPipeV": ("dualpipe_v", {}),
}
WAITS = "WAIT_SEND_F" in schedules._ComputationType.__members__  # torch 2.13 has none
STEPS = {2: [name for name in SCHEDULES if name != "file"], 4: ["zb_v_auto"]}  # ranks -> schedules that run for real
M, WIDTH = 8, 4


class Stage:
    """What a schedule asks of a stage, without a process group; remembers which passes it was told to run."""

    is_first = is_last = False
    submod = None
    has_backward = True

    def __init__(self, index, n_stages, rank, pp):
        self.stage_index, self.num_stages, self.group_rank, self.group_size = index, n_stages, rank, pp
        self.passes = []

    def forward_one_chunk(self, k, *_, **__):
        self.passes.append(f"{self.stage_index}F{k}")

    def backward_one_chunk(self, k, *_, **__):
        self.passes.append(f"{self.stage_index}B{k}")

    def get_fwd_recv_ops(self, k):
        return []

    get_bwd_recv_ops = get_fwd_send_ops = get_bwd_send_ops = get_fwd_recv_ops

    def __getattr__(self, name):
        return lambda *_, **__: None


def sizes(name, params):
    """Sizes (pp, m, vpp) that HOPS accepts."""
    for pp in PP:
        for m in MICROBATCHES:
            for vpp in (None,) if SCHEDULES[name].default_vpp is None or SCHEDULES[name].fixed_vpp else (2, 3, 4):
                with contextlib.suppress(Infeasible):
                    yield (pp, m, vpp), hops.program(name, pp, m, vpp, **params)


def without_idle(actions):
    return [str(action) for action in actions if action is not None and "REDUCE_GRAD" not in str(action)]


def run_single(kind, pp, m):
    """Passes of every rank of a schedule that has one stage a rank, as its runtime takes them."""
    schedule = type(kind.__name__, (kind,), {"_initialize_stage": lambda *_, **__: None})
    ranks = []
    for rank in range(pp):
        stage = Stage(rank, pp, rank, pp)
        schedule(stage, m, loss_fn=lambda *_: None)._step_microbatches()
        ranks.append(stage.passes)
    return ranks


def compare_orders(cls, name, params, folder):
    """Count where torch's order is ours, of a single-stage schedule that of its runtime and that of its IR; read back torch's files."""
    found, refused, kind, path = Counter(), Counter(), getattr(schedules, cls), folder / "theirs.csv"
    for (pp, m, _), program in sizes(name, params):
        ours = [list(map(str, units)) for units in program.ranks]
        try:
            if issubclass(kind, schedules.PipelineScheduleSingle):
                schedule = kind(Stage(0, pp, 0, pp), m)
                found["by its runtime"] += run_single(kind, pp, m) == ours
            else:
                schedule = kind([Stage(chunk * pp, program.n_stages, 0, pp) for chunk in range(program.n_stages // pp)], m)
        except ValueError as error:
            refused[re.sub(r"\d+", "#", str(error))] += 1
            continue
        found["sizes"] += 1
        order = [without_idle(schedule.pipeline_order[rank]) for rank in range(pp)]
        found["by its IR"] += order == ours
        found["by its IR but for the last rank"] += order[:-1] == ours[:-1]
        if isinstance(schedule, schedules._PipelineScheduleRuntime):
            for form in ("compute_only", "compute_comms"):
                schedule._dump_csv(str(path), form)
                read = hops.Program.from_csv(path)
                found["of its files"] += (read.ranks, read.stage_ranks) == (program.ranks, program.stage_ranks)
    n = found.pop("sizes")
    if found["by its IR"] == n:
        del found["by its IR but for the last rank"]
    said = [f"{each} of {2 * n if what == 'of its files' else n} {what}" for what, each in found.items()]
    print(f"{cls:29} {name:14} {', '.join(said)}{''.join(f'; torch refuses {each}: {why}' for why, each in refused.items())}")


def compare_files(name, folder):
    """Load what HOPS writes into torch's runtime, both forms, and read back what torch writes."""
    n, path, steps = Counter(), folder / "order.csv", 0
    for (pp, m, _), program in sizes(name, {}):
        n["orders"] += 1

        def runtime(pp=pp, m=m, n_stages=program.n_stages):
            return schedules._PipelineScheduleRuntime([Stage(chunk * pp, n_stages, 0, pp) for chunk in range(n_stages // pp)], m)

        program.to_csv(path)
        theirs = runtime()
        theirs._load_csv(str(path), "compute_only")
        order = [list(map(str, theirs.pipeline_order_with_comms[rank])) for rank in range(pp)]
        ours = [list(rank) for rank in lowered(program, waits=WAITS)]
        n["lowered alike"] += order == ours
        n["actions"] += sum(map(len, ours))
        for form in ("compute_only", "compute_comms"):
            theirs._dump_csv(str(path), form)
            n["read back"] += hops.Program.from_csv(path, program.name, program.placement) == program
        to_csv(program, path, waits=WAITS)
        again = runtime()
        again._load_csv(str(path), "compute_comms")
        n["loaded"] += [list(map(str, again.pipeline_order_with_comms[rank])) for rank in range(pp)] == ours
        to_csv(program, path, sharded=False, waits=WAITS)
        plain = runtime()
        plain._load_csv(str(path), "compute_comms")
        if not any("OVERLAP" in str(unit) for units in program.ranks for unit in units):  # torch's simulator takes none
            n["simulated"] += 1
            steps += max(map(len, plain._simulate().values()))
    print(
        f"{name:20} {n['lowered alike']:3} of {n['orders']} lowered alike ({n['actions']} actions), {n['loaded']} loaded, "
        f"{n['read back']} of {2 * n['orders']} read back, {n['simulated']} simulated to the end ({steps} slots)"
    )


def layer(stage):
    torch.manual_seed(stage)
    return torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh())


def take_steps(rank, pp, port, folder):
    """One process: a training step in every order; rank 0 prints the largest error of a gradient anywhere."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=pp)
    torch.manual_seed(99)
    batch, target = torch.randn(2 * M, WIDTH), torch.randn(2 * M, WIDTH)

    def loss_of(output, wanted):
        return ((output - wanted) ** 2).sum()

    for name in STEPS[pp]:
        path = folder / f"{name}-{pp}.csv"
        program = hops.Program.from_csv(path)
        whole = torch.nn.Sequential(*map(layer, range(program.n_stages)))
        loss_of(whole(batch), target).backward()
        mine = [stage for stage in range(program.n_stages) if program.rank_of(stage) == rank]
        modules = {stage: layer(stage) for stage in mine}
        stages = [PipelineStage(modules[stage], stage, program.n_stages, torch.device("cpu")) for stage in mine]
        schedule = schedules._PipelineScheduleRuntime(stages, M, loss_fn=loss_of, scale_grads=False)
        schedule._load_csv(str(path), "compute_comms")
        last = {"target": target} if program.n_stages - 1 in mine else {}
        schedule.step(*([batch] if 0 in mine else []), **last)
        pairs = [(a.grad, b.grad) for s in mine for a, b in zip(modules[s].parameters(), whole[s].parameters(), strict=True)]
        errors = [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]
        error = torch.tensor(max(errors))
        dist.all_reduce(error, dist.ReduceOp.MAX)
        if rank == 0:
            print(f"{name:20} {pp} processes, {program.n_stages} stages, {M} microbatches: gradients within {float(error):.1e}", flush=True)
    dist.destroy_process_group()


def main():
    print(f"torch {torch.__version__}; pp {PP}, microbatches {MICROBATCHES}, chunks 2, 3, 4")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        print("\nOrders: equal op by op")
        for cls, (name, params) in THEIRS.items():
            compare_orders(cls, name, params, folder)
        print("\nFiles")
        for name in SCHEDULES:
            if name != "file":
                compare_files(name, folder)
        print("\nSteps", flush=True)
        for pp, names in STEPS.items():
            for name in names:
                to_csv(hops.program(name, pp, M), folder / f"{name}-{pp}.csv", waits=WAITS)
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            mp.spawn(take_steps, (pp, port, folder), nprocs=pp)


if __name__ == "__main__":
    main()
