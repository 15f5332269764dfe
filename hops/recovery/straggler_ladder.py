"""Straggler ladder: a job that has become slow waits, then divides its microbatches anew, then has the slow node replaced.

It sees what iterations take: ``patience`` of them in a row that are longer by ``threshold`` than usual (half of the cell's sampled
iterations are) make it take itself to be slow; those that nothing slows are never taken for slow, whatever their noise. From
then on it counts what it loses. When that is ``rebalance`` seconds it stops for so long, and replicas that are faster take microbatches of
those that are slower, so that the slowest is ready as early as can be; where that helps nobody (dp=1, replicas in lock-step, what is slow
is slow for all) the step is left out. When the loss is ``evict`` seconds, null: the time of the way back, the node that has been slow for
longest fails: the job goes back to its last checkpoint by the states of a restart, and another node takes that one's place, which is
not slow. What is of no single node (a fabric, a rack) cannot be replaced. When an iteration begins and nothing is slow any more, the job
stands where it began, with all replicas alike; a failure leads there too. What stands still is given up after ``failure.timeout`` as ever.

An iteration with other numbers of microbatches is the planned one with times that are scaled: of all that a replica computes and sends, by
its share. What one takes for a microbatch is measured: in one iteration (draw 0) in which nothing but it is slow.
A third step of the source, which moves stages so that slow links carry less, is not modelled.
"""

from dataclasses import replace

from hops.recovery import Ladder, Machine, recovery
from hops.recovery.restart import restart


@recovery(
    "straggler_ladder",
    source="Greyhound (Falcon): 10 % over 2-3 iterations, ski rental, as cited; what dividing anew takes is assumed; else a restart",
)
def straggler_ladder(
    *,
    threshold: float = 0.1,
    patience: int = 3,
    rebalance: float = 1.0,
    evict: float | None = None,
    teardown: float = 0.0,
    queue: float = 0.0,
    init: float = 17.0,
    load: float = 183.0,
) -> Machine:
    machine = restart(teardown=teardown, queue=queue, init=init, load=load)
    way_back = sum(state.seconds for state in machine.states)
    return replace(machine, ladder=Ladder(threshold, patience, rebalance, way_back if evict is None else evict))
