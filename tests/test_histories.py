"""Histories: what the job does in a trial adds up to what the trial is booked, and is drawn."""

SMALL = ("model=explicit", "pp=2", "microbatches=4", "draws=50", "topology.nodes=2")
FAULT = "+failure.faults.gpu={scope: device, mean: 20.0, detection: 0.5, repair: 4.0}"
SLOW = "+failure.faults.thermal={kind: slow, scope: device, mean: 40.0, duration: 3.0, magnitude: 0.5}"
RUN = (*SMALL, "run.iterations=300", "trials=6", "checkpoint.cost=0.1", "recovery.init=0.2", "recovery.load=0.3")
WIDE = ("dp=8", "zero=0", "topology.order=null", "run.days=0.005", "run.iterations=null")
ELASTIC = ("model=explicit", "pp=2", "microbatches=4", "draws=50", "topology.nodes=4", "run.days=0.01", "trials=4", "checkpoint.cost=0.1")
CASES = {
    "calm": RUN,
    "restart": (*RUN, FAULT),
    "persisting": (*RUN, FAULT, "checkpoint.persist=3.0", "checkpoint.interval=2.0"),
    "horizon": (*RUN, FAULT, "run.iterations=null", "run.days=0.001"),
    "spare": (*RUN, FAULT, *WIDE, "recovery=spare", "recovery.spares=2"),
    "peer_memory": (*RUN, FAULT, *WIDE, "recovery=peer_memory"),
    "copies": (*RUN, FAULT, *WIDE, "recovery=peer_memory", "recovery.every=7", "recovery.cost=0.01"),
    "just_in_time": (*RUN, FAULT, *WIDE, "recovery=just_in_time"),
    "exact": (*RUN, FAULT, "run.tier=exact", "draws=300", "trials=2"),
    "slow": (*RUN, FAULT, SLOW),
}
