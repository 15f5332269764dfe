"""Training runs: how long one is, how it is simulated, what can fail, and what is done about it."""

from dataclasses import dataclass, replace

from hops.checkpoints import Checkpoint
from hops.checks import count, one_of, positive
from hops.faults import Failures
from hops.injections import FOR_EVER, Injection
from hops.recovery import Machine
from hops.sections import Frozen, check_keys, remember, values_of

TIERS = ("resampled", "exact", "analytic")
ENGINES = ("hybrid", "event")
DAY = 86400.0  # seconds
MOST_EXACT = 1 << 26  # iterations; attempt a at iteration i is draw a x this + i


@dataclass(frozen=True)
class Run:
    """A training run of ``iterations``, whose time is found; or of ``days``, whose iterations are counted.

    ``tier`` says where the times of its iterations come from: "resampled" draws each from the cell's sampled iterations; "exact"
    evaluates the pipeline for each (those of trial 0 are the cell's own draws); "analytic" gives, in place of trials, the exact
    mean where failures are exponential. By ``engine`` "event" every iteration goes through the event loop, one by one: slow, to check.
    """

    iterations: int | None
    days: float | None
    tier: str = "resampled"
    engine: str = "hybrid"


@dataclass(frozen=True)
class Training:
    """All that training runs of a cell are."""

    run: Run
    trials: int
    failures: Failures
    machine: Machine
    checkpoint: Checkpoint


def make_training(run: Run, trials: int, failures: Failures, machine: Machine, checkpoint: Checkpoint) -> Training:
    """What a run is, with the traffic of its checkpoints among what slows it: from the moment that one is due, until it is durable."""
    if checkpoint.bandwidth < 1 and checkpoint.persist:
        if failures.clock == "exposure":
            raise ValueError("checkpoint.bandwidth follows the calendar: it needs failure.clock=calendar; got exposure")
        seconds = checkpoint.cost + checkpoint.persist
        traffic = Injection("bandwidth", "checkpoint", scope="NET", times=FOR_EVER, duration=seconds, speed=checkpoint.bandwidth)
        failures = replace(failures, chaos=(*failures.chaos, traffic))
    return Training(run, trials, failures, machine, checkpoint)


@remember
def make_run(section: Frozen) -> Run | None:
    """Check the config section ``run``; None where no run is asked for."""
    values = values_of("run", section)
    check_keys("run", "run", values, ("iterations", "days", "tier", "engine"))
    iterations, days = values.get("iterations"), values.get("days")
    tier = one_of("run.tier", values.get("tier", "resampled"), TIERS)
    engine = one_of("run.engine", values.get("engine", "hybrid"), ENGINES)
    if iterations is None and days is None:
        return None
    if engine == "event" and tier != "exact":
        raise ValueError(f"run.engine=event evaluates every iteration; got run.tier={tier} (try run.tier=exact)")
    if iterations is not None and days is not None:
        raise ValueError(f"run.iterations={iterations} and run.days={days} are both given (leave one of them out)")
    if days is not None and tier == "exact":
        raise ValueError("run.tier=exact evaluates every iteration, so it needs their number (set run.iterations in place of run.days)")
    if days is not None:
        return Run(None, positive("run.days", days), tier, engine)
    return Run(count("run.iterations", iterations, most=MOST_EXACT if tier == "exact" else None), None, tier, engine)
