"""The ledger: where the time of every GPU of a run went; and the metrics of runs, from what trials leave behind.

n = trials, b = buckets. Device-ticks are Python ints: 16,384 GPUs pass 2^63 ns after 6.5 days.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hops.course import (
    BUSY_HIGH,
    BUSY_LOW,
    CHECKPOINT,
    DEGRADED,
    DETECTION,
    DONE,
    EXECUTED,
    EXPOSED_HIGH,
    EXPOSED_LOW,
    HALF,
    HEALTHY,
    IDLE,
    INTERVALS,
    LONGEST,
    LOST,
    LOST_HIGH,
    LOST_LOW,
    N_CHECKPOINTS,
    N_CUTS,
    N_EPISODES,
    N_FAILURES,
    N_FROM_MEMORY,
    N_PLANS,
    N_REBALANCED,
    N_SPELLS,
    NOW,
    QUEUEING,
    RECOVERING,
    REPAIRED,
    REPLAY,
    SAMPLES,
    SLOWED,
    STANDING_BY,
    USEFUL,
    WASTED,
    WORST,
)
from hops.intervals import PERCENTS, WINDOW
from hops.weights import TICKS, Floats

BOOKED = (USEFUL, WASTED, CHECKPOINT, DETECTION, RECOVERING, QUEUEING)
BUCKETS = ("useful", "exposed", "bubble", "wasted", "checkpoint", "detection", "recovery", "queue", "standby", "repair")


def ledger(results: NDArray[np.int64], n_gpus: int, gpus_a_lane: int, spares: int, gpus_a_node: int, piece: int = 1) -> NDArray[np.object_]:
    """Device-ticks by bucket, (n, b) Python ints, from results (n, N_RESULTS); they add up to (n_gpus + spares x gpus_a_node) x NOW.

    Busy and exposed ticks of the pool are of ranks and lanes, each ``gpus_a_lane`` GPUs. Of iterations that count, "useful" is
    computing, "exposed" waiting that transfers add, "bubble" all other waiting; "wasted" is whatever was discarded. Of the
    spares "standby" is what stands by, "repair" the rest: as many nodes as are away. Until another has taken its place a
    node that failed is booked as the job. GPUs that an elastic job has no work for, counted in ``piece``, are in "repair" until their
    node can take its place again, those of other nodes in "standby".
    """
    r = results.astype(object)
    useful = gpus_a_lane * (r[:, BUSY_HIGH] * 2**HALF + r[:, BUSY_LOW])
    exposed = gpus_a_lane * (r[:, EXPOSED_HIGH] * 2**HALF + r[:, EXPOSED_LOW])
    trains, *whole = [n_gpus * r[:, k] - piece * r[:, IDLE + k] for k in BOOKED]
    standby, idle = gpus_a_node * r[:, STANDING_BY], piece * sum(r[:, IDLE + k] for k in BOOKED)
    repair = gpus_a_node * spares * r[:, NOW] - standby + piece * r[:, REPAIRED]
    return np.stack([useful, exposed, trains - useful - exposed, *whole, standby + idle - piece * r[:, REPAIRED], repair], axis=1)


type Ratio = tuple[Floats, Floats]  # numerators and denominators, each (n,)


def run_metrics(results: NDArray[np.int64], samples: int, pieces: int, iterations: int | None, a_lane: int = 1) -> dict[str, Ratio]:
    """Metrics of every trial as numerators and denominators: their mean over trials is a ratio of means.

    ``samples`` of an iteration of the whole job, whose GPUs are so many ``pieces``; ``a_lane`` as `ledger`'s.
    `HEALTHY` counts ticks of all ``iterations``;
    where only the horizon ends the run, iterations.
    """

    def column(i: int) -> Floats:
        return results[:, i] / TICKS

    one = np.ones(len(results))
    wall, useful, done = column(NOW), column(USEFUL), results[:, DONE].astype(float)
    down = column(DETECTION) + column(RECOVERING) + column(QUEUEING)
    lost = a_lane * ((results[:, LOST_HIGH].astype(object) << HALF) + results[:, LOST_LOW] + results[:, EXECUTED]) / TICKS
    episodes, undone = results[:, N_EPISODES].astype(float), results[:, LOST].astype(float)
    failures = results[:, N_FAILURES].astype(float)
    kept, healthy = results[:, SAMPLES].astype(float), results[:, HEALTHY].astype(float)
    return {
        "wall_time": (wall, one),
        "iterations_done": (done, one),
        "goodput": (kept, wall),
        "goodput_fraction": (kept, samples * healthy) if iterations is None else (kept * (healthy / TICKS), samples * iterations * wall),
        "ettr": (useful, wall),
        "availability": (wall - down, wall),
        "capacity": (wall - column(REPAIRED) / pieces, wall),
        "degraded_time": (column(DEGRADED), wall),
        "n_plans": (results[:, N_PLANS].astype(float), one),
        "n_failures": (failures, one),
        "n_interruptions": (episodes, one),
        "n_from_memory": (results[:, N_FROM_MEMORY].astype(float), one),
        "n_checkpoints": (results[:, N_CHECKPOINTS].astype(float), one),
        "mtbf": (wall, failures),
        "mttr": (down, episodes),
        "mttr_detection": (column(DETECTION), episodes),
        "mttr_queue": (column(QUEUEING), episodes),
        "mttr_recovery": (column(RECOVERING), episodes),
        "mttr_replay": (column(REPLAY), episodes),
        "lost_work": (column(WASTED), one),
        "lost_iterations": (undone, one),
        "commit_ratio": (done + undone, done + undone + results[:, N_CUTS].astype(float)),
        **{f"commit_interval_p{percent}": (column(INTERVALS + q), one) for q, percent in enumerate(PERCENTS)},
        "commit_interval_max": (column(LONGEST), one),
        "ettr_worst_hour": (column(WORST), np.minimum(wall, WINDOW / TICKS)),
        "lost_busy": (lost.astype(float), one),
        "slowed_time": (column(SLOWED), wall),
        "n_slowdowns": (results[:, N_SPELLS].astype(float), one),
        "n_rebalanced": (results[:, N_REBALANCED].astype(float), one),
    }


def each_trial(ratio: Ratio) -> Floats:
    """Of every trial; NaN where there is nothing to divide by, infinite where there is something to divide."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return ratio[0] / ratio[1]


def over_trials(ratio: Ratio, quantiles: Sequence[float]) -> dict[str, Any]:
    """Quantiles over trials (q,) under "" (values that occur), and mean, std, standard_error; the mean is a ratio of means.

    Its error is that of the delta method: of num - mean x den, over the mean of den.
    """
    (above, below), each = ratio, each_trial(ratio)
    n, known = len(each), each[~np.isnan(each)]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = above.sum() / below.sum()
        error = np.sqrt(((above - mean * below) ** 2).sum() / (n * (n - 1))) / below.mean() if n > 1 else np.float64(np.nan)
        deviation = known.std(ddof=1) if len(known) > 1 and np.isfinite(known).all() else np.float64(np.nan)
    found = np.quantile(known, quantiles, method="inverted_cdf") if len(known) else np.full(len(quantiles), np.nan)
    return {"": found, "_mean": mean, "_std": deviation, "_standard_error": error}
