"""Hazards: the faults of a run found on the GPUs of a job, as arrays for the engine.

f = faults, c = components of all of them, k = clocks: one a component, or one for all of a fault whose lifetimes are exponential.
"""

from collections.abc import Mapping, Sequence
from math import gcd, isinf, lcm
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hops.checks import Infeasible, no_such
from hops.cluster import Cluster
from hops.data_parallel import DataParallel
from hops.faults import DEVICE, JOB, NODE, STOPS, Fault
from hops.lanes import lanes, shard_size, sharers
from hops.layout import Layout
from hops.lifetimes import Lifetime
from hops.recovery import NEIGHBOURS, REPLICAS, Elastic, Memory
from hops.scripts import Script
from hops.training import Training
from hops.weights import TICKS, Floats

ANY = 0xFFFFFFFF  # component in the address of a clock of several


class Hazards(NamedTuple):
    """What can fail; means in ticks, laws as rows of ``tables``."""

    identity: NDArray[np.uint32]  # (f,)
    first: NDArray[np.int64]  # (f + 1,) components of a fault are first[f] .. first[f + 1]
    mean: NDArray[np.float64]  # (f,) of what a clock counts down
    first_law: NDArray[np.int64]  # (f,) of a clock's first lifetime
    law: NDArray[np.int64]  # (f,) of all others
    detect: NDArray[np.float64]  # (f,) mean time until a failure is known
    detect_law: NDArray[np.int64]
    repair: NDArray[np.float64]  # (f,) mean time until what failed can be used
    repair_law: NDArray[np.int64]
    batch: NDArray[np.float64]  # (f, most at once) probability that at most so many fail at once
    clock_fault: NDArray[np.int64]  # (k,)
    clock_component: NDArray[np.int64]  # (k,) -1: any of the fault
    member: NDArray[np.int64]  # (c + 1,) nodes of a component are node[member[c]] .. node[member[c + 1]]
    node: NDArray[np.int64]
    tables: NDArray[np.float64]  # (laws, cells, 2)
    script: NDArray[np.int64]  # (lines, 3) ticks: when, until known, until repaired; in place of clocks, and line i is component i
    script_first: NDArray[np.int64]  # (trials + 1,) lines of a trial; trials beyond have those of the last
    group: NDArray[np.int64]  # (g + 1,) nodes that hold the same state are group_node[group[g]] .. group_node[group[g + 1]]
    group_node: NDArray[np.int64]
    unit: NDArray[np.int64]  # (u + 1,) nodes of what an elastic job loses at once are unit_node[unit[u]] .. unit_node[unit[u + 1]]
    unit_node: NDArray[np.int64]
    unit_size: int  # nodes of a unit, or replicas of one that is made of replicas
    node_size: NDArray[np.int64]  # (n_nodes,) GPUs of the job on a node, in pieces
    piece: int  # GPUs; whatever has work or has none, of an elastic job, is a multiple of it
    n_nodes: int  # of the job
    exposure: bool  # components age only while the job trains

    @property
    def mtbf(self) -> float:
        """Mean time between failures of the whole job [s]; infinite where nothing fails, of a script until its last line."""
        if len(self.script):
            last = float(self.script[:, 0].max())
            return last / TICKS / len(self.script) * (self.script_first.size - 1)
        clocks = np.bincount(self.clock_fault, minlength=self.mean.size)
        rate = float((clocks / self.mean).sum())
        return 1 / (rate * TICKS) if rate else float("inf")


def hazards(training: Training, cluster: Cluster, layout: Layout, data_parallel: DataParallel) -> Hazards:
    """Find the components of every fault that a GPU of the job is in, and who holds the same state as whom.

    An unknown scope is a ``ValueError``, and so is a script that this job cannot follow; a strategy that needs others to hold
    a node's state where none does an `Infeasible`.
    """
    failures = training.failures
    place = cluster.job_nodes(layout.n_gpus)
    nodes = list(place)
    script = _script(failures.script, training.trials, len(nodes))
    memory, elastic = training.machine.memory, training.machine.elastic
    held: Sequence[Sequence[int]] = [] if memory is None else holders(memory, cluster, layout, data_parallel, place)
    lost: Sequence[Sequence[int]] = []
    if elastic is not None:
        lost = units(elastic, cluster, layout, data_parallel, place)
        if elastic.holders == REPLICAS:
            held = same_states(cluster, layout, data_parallel, place)
        elif elastic.holders == NEIGHBOURS:
            held = [(node, (node - 1) % len(nodes)) for node in range(len(nodes))]
    sizes = np.bincount([place[cluster.node(cluster.order[gpu])] for gpu in range(layout.n_gpus)], minlength=len(nodes))
    piece = gcd(layout.tp * layout.cp, *sizes.tolist())
    stopping = [fault for fault in failures.faults if fault.stops]
    found = [[[place[node] for node in group] for group in components(fault, cluster, layout, nodes)] for fault in stopping]
    delays = [(fault.detection, fault.repair) for fault in stopping]
    return Hazards(
        **clockwork(stopping, found, delays, failures.rate, [line.nodes for lines in script for line in lines]),
        script=np.array([(line.tick, line.detection, line.repair) for lines in script for line in lines], np.int64).reshape(-1, 3),
        script_first=np.cumsum([0, *map(len, script)]),
        group=np.cumsum([0, *map(len, held)]),
        group_node=np.array([node for group in held for node in group], np.int64),
        unit=np.cumsum([0, *map(len, lost)]),
        unit_node=np.array([node for unit in lost for node in unit], np.int64),
        unit_size=layout.dp // len(lost) if elastic is not None and elastic.unit == "replica" else 1,
        node_size=sizes // piece,
        piece=piece,
        n_nodes=len(nodes),
        exposure=failures.clock == "exposure",
    )


def clockwork(
    faults: Sequence[Fault],
    found: Sequence[Sequence[Sequence[int]]],
    delays: Sequence[tuple[Lifetime, Lifetime]],
    rate: float,
    more: Sequence[Sequence[int]] = (),
) -> dict[str, Any]:
    """The clocks of faults whose components are ``found`` (members of each), and two times after each failure; the fields of `Hazards`."""
    laws: dict[int, tuple[int, Floats]] = {}

    def row(table: Floats) -> int:
        return laws.setdefault(id(table), (len(laws), table))[0]

    rows, clocks, groups, firsts = list[tuple[float, int, int, int, int]](), list[tuple[int, int]](), list[Sequence[int]](), [0]
    for fault, parts, each in zip(faults, found, delays, strict=True):
        groups += parts
        superposed, mean = fault.lifetime.law == "exponential", _mean(fault.lifetime, rate)
        if not isinf(mean):
            clocks += [(len(rows), -1)] if superposed else [(len(rows), component) for component in range(len(parts))]
        (first, law), (_, detect), (_, repair) = (lifetime.tables() for lifetime in (fault.lifetime, *each))
        rows.append((mean / (len(parts) if superposed else 1), row(first), row(law), row(detect), row(repair)))
        firsts.append(firsts[-1] + len(parts))
    groups += more
    most = max((len(fault.batch) for fault in faults), default=1)
    batch = [np.append(np.cumsum(fault.batch)[:-1], np.ones(1 + most - len(fault.batch))) for fault in faults]
    means, first, law, detect, repair = np.array(rows, float).reshape(-1, 5).T
    return {
        "identity": np.array([fault.identity for fault in faults], np.uint32),
        "first": np.array(firsts),
        "mean": means.copy(),
        "first_law": first.astype(np.int64),
        "law": law.astype(np.int64),
        "detect": np.array([_mean(each) for each, _ in delays], float),
        "detect_law": detect.astype(np.int64),
        "repair": np.array([_mean(each) for _, each in delays], float),
        "repair_law": repair.astype(np.int64),
        "batch": np.array(batch, float).reshape(-1, most),
        "clock_fault": np.array([fault for fault, _ in clocks], np.int64),
        "clock_component": np.array([component for _, component in clocks], np.int64),
        "member": np.cumsum([0, *map(len, groups)]),
        "node": np.array([node for group in groups for node in group], np.int64),
        "tables": np.stack([table for _, table in laws.values()]) if laws else np.zeros((1, 1, 2)),
    }


def components(fault: Fault, cluster: Cluster, layout: Layout, nodes: Sequence[int]) -> list[Sequence[int]]:
    """Nodes of every component of ``fault`` that has a GPU of the job, in order; of a device its node."""
    if fault.scope == DEVICE:
        return [[cluster.node(cluster.order[gpu])] for gpu in range(layout.n_gpus)]
    if fault.scope == NODE:
        return [[node] for node in nodes]
    if fault.scope == JOB:
        return [nodes]
    sizes = {level.name: level.size for level in cluster.network}
    size = fault.size or sizes.get(fault.scope)
    if size is None:
        raise no_such(f"failure.faults.{fault.name}.scope (or give its size in nodes)", fault.scope, [DEVICE, NODE, JOB, *sizes])
    found: dict[int, list[int]] = {}
    for node in nodes:
        found.setdefault(0 if isinf(size) else node // int(size), []).append(node)
    return list(found.values())


def holders(
    memory: Memory, cluster: Cluster, layout: Layout, data_parallel: DataParallel, place: Mapping[int, int]
) -> Sequence[Sequence[int]]:
    """Groups of nodes, as places in the job, that hold the same state: neighbours, or replicas with the same states."""
    if memory.holders == "peers":
        n, copies = len(place), memory.copies
        if n < copies:
            raise Infeasible(
                f"{copies} copies of a node's state need as many nodes; the job has {n} (try fewer recovery.copies, or more GPUs)"
            )
        return [range(at, at + copies if at + 2 * copies <= n else n) for at in range(0, n - copies + 1, copies)]
    return same_states(cluster, layout, data_parallel, place)


def same_states(cluster: Cluster, layout: Layout, data_parallel: DataParallel, place: Mapping[int, int]) -> Sequence[Sequence[int]]:
    """Groups of nodes, as places in the job, that hold the same weights and optimizer states; `Infeasible` where one holds its alone."""
    size = 1 if data_parallel.zero == 0 else sharers(layout, data_parallel)[0]
    found = set[tuple[int, ...]]()
    for rank in range(layout.pp):
        for gpus in layout.replica_groups(rank):
            for at in range(size):
                same = gpus[at::size]
                if len(same) < 2:
                    sizes = f"dp={layout.dp}, zero={data_parallel.zero}, dp_shard={data_parallel.shard or 'null'}"
                    hint = "zero=0, or a dp_shard that is less than dp" if layout.n_replicas > 1 else "dp=2 or more"
                    raise Infeasible(f"no other replica holds the state of GPU {same[0]} ({sizes}: try {hint})")
                found.add(tuple(sorted({place[cluster.node(cluster.order[gpu])] for gpu in same})))
    return sorted(found)


def units(
    elastic: Elastic, cluster: Cluster, layout: Layout, data_parallel: DataParallel, place: Mapping[int, int]
) -> Sequence[Sequence[int]]:
    """Nodes, as places in the job, of all that an elastic job can lose at once; of replicas as many together as hold all states."""
    if elastic.unit == "node":
        return [(node,) for node in range(len(place))]
    n = lcm(1 if data_parallel.zero == 0 else shard_size(layout, data_parallel), lanes(layout, data_parallel)[0].n)
    if layout.dp <= n:
        sizes = f"dp={layout.dp}, zero={data_parallel.zero}, dp_shard={data_parallel.shard or 'null'}, ep={layout.ep}"
        raise Infeasible(
            f"no replica is left that holds all states where one is lost ({sizes}: try zero=0, or a dp_shard that is less than dp)"
            if layout.dp > 1
            else f"a job of one replica cannot go on without it ({sizes}: try dp=2 or more)"
        )
    found = list[Sequence[int]]()
    for at in range(0, layout.dp, n):
        gpus = [gpu for replica in range(at, at + n) for rank in range(layout.pp) for gpu in layout.gpus(rank, replica)]
        found.append(sorted({place[cluster.node(cluster.order[gpu])] for gpu in gpus}))
    return found


def _script(script: Script | None, n_trials: int, n_nodes: int) -> Script:
    if script is None:
        return ((),)
    if 1 < len(script) < n_trials:
        raise ValueError(f"failure.script has failures of {len(script)} trials; got trials={n_trials} (try trials={len(script)})")
    unknown = [node for lines in script for line in lines for node in line.nodes if node >= n_nodes]
    if unknown:
        raise ValueError(f"failure.script lets node {unknown[0]} fail; the job has nodes 0 to {n_nodes - 1}")
    return tuple(tuple(line for line in lines if line.kind == STOPS) for lines in script)


def _mean(lifetime: Lifetime, rate: float = 1.0) -> float:
    return lifetime.mean * TICKS / rate if rate else float("inf")
