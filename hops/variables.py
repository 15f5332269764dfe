"""Every variable of a result, once: dimensions, unit, meaning. Attributes, docs and checks come from this table."""

from typing import NamedTuple


class Variable(NamedTuple):
    """One variable of a cell; ``per`` is "draw" (a value a sampled iteration), "rank" (a value a rank), "draw rank", or "cell".

    Of training runs "trial" (a value a sampled run), or "trial bucket". ``best`` is what one wants: the "least", the "most", or
    "" where nobody can say; of a rank's the worst rank counts.
    """

    per: str
    units: str
    long_name: str
    source: str = ""
    best: str = "least"


COMMITS = "those of iterations that are done in a row are as the iterations that they are drawn from"
VARIABLES = {
    "iteration_time": Variable(
        "draw",
        "s",
        "time the training loop waits for per step",
        "with gradient exchange and optimizer; of the makespan with barrier=true, of the span with barrier=false, or without a flush",
    ),
    "makespan": Variable("draw", "s", "last end from t = 0; of a schedule without a flush the span"),
    "span": Variable(
        "draw",
        "s",
        "longest time from a rank's first start to its own last end; of a schedule without a flush steady time per batch",
        "Qi et al. 2023 (arXiv:2401.10241)",
    ),
    "bubble_fraction": Variable("draw", "1", "idle share of all ranks' time", "1 - sum(busy) / (p makespan)"),
    "bubble_ratio": Variable("draw", "1", "idle time over busy time", "p makespan / sum(busy) - 1"),
    "span_bubble_fraction": Variable(
        "draw", "1", "bubble rate of the zero-bubble papers", "1 - max(busy) / span, Qi et al. 2023 (arXiv:2401.10241)"
    ),
    "throughput": Variable("draw", "sample s-1", "samples per second", "microbatches x microbatch_size x dp / iteration_time", best="most"),
    "tokens_per_second": Variable("draw", "token s-1", "tokens per second", best="most"),
    "mfu": Variable(
        "draw", "1", "model FLOPs utilization", "model FLOPs without recomputation / (iteration_time x peak of all GPUs)", best="most"
    ),
    "hfu": Variable(
        "draw", "1", "hardware FLOPs utilization", "FLOPs with recomputation / (iteration_time x peak of all GPUs)", best="most"
    ),
    "flops_per_gpu": Variable("draw", "FLOP s-1", "model FLOP/s a GPU achieves", best="most"),
    "busy_time": Variable("draw rank", "s", "computing time of a rank in an iteration"),
    "exposed_communication": Variable(
        "draw rank", "s", "waits that transfers add", "sum of start - max(previous end on the rank, producers' ends)"
    ),
    "utilization": Variable("draw rank", "1", "busy time over makespan", best="most"),
    "peak_memory": Variable("rank", "byte", "most memory a GPU of the rank holds at once", "hops/memory.py"),
    "headroom": Variable(
        "cell", "byte", "memory that the tightest rank has left", "of its GPU, less peak_memory; below 0: does not fit", best="most"
    ),
    "peak_in_flight": Variable("rank", "1", "most chunk activations a rank holds at once", "freed at B or W"),
    "n_draws": Variable("cell", "1", "sampled iterations", best=""),
    "wall_time": Variable("trial", "s", "time from the start of the training run to its end"),
    "iterations_done": Variable("trial", "1", "iterations that are part of the result", "committed, and never rolled back", best="most"),
    "goodput": Variable("trial", "sample s-1", "samples of such iterations per second", "of the wall time", best="most"),
    "goodput_fraction": Variable(
        "trial",
        "1",
        "goodput over that without failures and checkpoints",
        "the same trial, its iterations drawn at the same addresses",
        best="most",
    ),
    "ettr": Variable(
        "trial",
        "1",
        "effective training time ratio",
        "time of such iterations / wall time; Kokolis et al. 2025 (HPCA), Llama 3 (arXiv:2407.21783)",
        best="most",
    ),
    "availability": Variable("trial", "1", "share of the wall time in which the job trains or writes a checkpoint", best="most"),
    "capacity": Variable(
        "trial", "1", "mean share of the job's GPUs that are not away for repair", "of an elastic job; else 1", best="most"
    ),
    "degraded_time": Variable("trial", "1", "share of the wall time with a plan for fewer than all units"),
    "n_plans": Variable("trial", "1", "different plans that an elastic job trained by", best=""),
    "n_failures": Variable("trial", "1", "failures that the job met"),
    "n_interruptions": Variable(
        "trial", "1", "times that training was interrupted", "failures while others are noticed or recovered from included"
    ),
    "n_from_memory": Variable("trial", "1", "interruptions after which the job went on from the memory of other nodes", best=""),
    "n_checkpoints": Variable("trial", "1", "checkpoints written", best=""),
    "mtbf": Variable("trial", "s", "mean time between failures", "wall time / failures", best="most"),
    "mttr": Variable("trial", "s", "mean time to recover", "from a failure until the job trains again; its parts below add up to it"),
    "mttr_detection": Variable("trial", "s", "part of mttr until failures are known"),
    "mttr_queue": Variable("trial", "s", "part of mttr in which the job waits for nodes"),
    "mttr_recovery": Variable("trial", "s", "part of mttr in all other states of the recovery"),
    "mttr_replay": Variable("trial", "s", "time after that in iterations that had begun before, an interruption"),
    "lost_work": Variable("trial", "s", "time of training that was discarded", "iterations that were cut or rolled back"),
    "lost_iterations": Variable("trial", "1", "iterations that were rolled back"),
    "commit_ratio": Variable("trial", "1", "iterations that came to their end, of all that were begun", "as torchft counts", best="most"),
    "commit_interval_p50": Variable("trial", "s", "half of the intervals between iterations that count are not longer", COMMITS),
    "commit_interval_p95": Variable("trial", "s", "95 % of the intervals between iterations that count are not longer", COMMITS),
    "commit_interval_p99": Variable("trial", "s", "99 % of the intervals between iterations that count are not longer", COMMITS),
    "commit_interval_max": Variable("trial", "s", "longest interval between two iterations that count", COMMITS),
    "ettr_worst_hour": Variable(
        "trial", "1", "training time of the hour of the run that has least of it", "sliding ETTR of ByteRobust", best="most"
    ),
    "lost_busy": Variable(
        "trial",
        "s",
        "computing of all GPUs that was discarded",
        "of iterations that were cut: exact in run.tier=exact, else their mean share",
    ),
    "slowed_time": Variable("trial", "1", "share of the wall time in iterations that something slowed"),
    "n_slowdowns": Variable("trial", "1", "times that something began to be slow, or to stand still"),
    "n_rebalanced": Variable("trial", "1", "times that a slow job divided its microbatches anew", best=""),
    "ledger": Variable(
        "trial bucket", "s", "time of all GPUs by what became of it", "adds up to GPUs x wall time: hops/ledger.py", best=""
    ),
}

INTERVALS = ("iteration_time", "goodput_fraction")  # metrics whose quantiles have intervals, and whose draws or trials a cube keeps
ALL, SOME, NONE = "all", "some", "none"  # of which metrics a cube keeps every draw: all of them, those, none
STATISTICS = {
    "low": "lower end of a distribution-free 95 % interval of the quantile; infinite where draws are too few",
    "high": "upper end of that interval",
    "mean": "mean over draws",
    "std": "standard deviation over draws (ddof 1)",
    "standard_error": "standard error of the mean",
    "draws": "every draw",
}
OF_TRIALS = {
    "low": "lower end of a distribution-free 95 % interval of the quantile; infinite where trials are too few",
    "high": "upper end of that interval",
    "mean": "over all trials; of a ratio: ratio of means",
    "std": "standard deviation over trials (ddof 1)",
    "standard_error": "standard error of the mean; of a ratio by the delta method",
    "trials": "every trial",
}
SUFFIXES = tuple(f"_{each}" for each in (*STATISTICS, "trials"))  # in the order of a cube

# units of config keys, of those that have any; others are numbers, or words
SECONDS = """
    host.forward host.backward_input host.backward_weight retry.timeout retry.max_timeout failure.timeout
    checkpoint.interval checkpoint.cost checkpoint.persist topology.latency topology.wan_latency
    model.forward model.backward_input model.backward_weight model.overlapped
    schedule.forward schedule.backward_input schedule.backward_weight schedule.hop
    recovery.teardown recovery.queue recovery.init recovery.load recovery.overhead recovery.pause recovery.rejoin recovery.join
    recovery.rendezvous recovery.save recovery.reconfigure recovery.stall recovery.fetch recovery.reroute recovery.redo recovery.wake
"""
KEY_UNITS = dict.fromkeys(SECONDS.split(), "s") | {
    "topology.bandwidth": "byte s-1",
    "topology.wan_bandwidth": "byte s-1",
    "model.p2p_bytes": "byte",
    "memory.reserve": "byte",
    "model.sequence": "token",
    "run.days": "day",
}


def attributes(name: str, kept: bool = False) -> dict[str, str]:
    """CF attributes of variable ``name``, also of a statistic such as ``iteration_time_mean``.

    A metric of ranks stands for its mean over the draws, unless these are ``kept``.
    """
    if name in VARIABLES:
        variable, statistic = VARIABLES[name], "mean" if VARIABLES[name].per == "draw rank" and not kept else None
    else:
        statistic = next(suffix[1:] for suffix in SUFFIXES if name.endswith(suffix))
        variable = VARIABLES[name.removesuffix(f"_{statistic}")]
    found = {
        "long_name": variable.long_name
        + (f", {(OF_TRIALS if variable.per.startswith('trial') else STATISTICS)[statistic]}" if statistic else ""),
        "units": variable.units,
    }
    return {**found, "source": variable.source} if variable.source else found
