"""Clusters: devices, and what a message crosses on its way between two of them. SI units."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

from hops.checks import Infeasible, count


@dataclass(frozen=True)
class Gpu:
    """A device type; dense BF16 FLOP/s, bytes, bytes/s."""

    name: str
    peak_flops: float
    memory: float
    memory_bandwidth: float
    host_bandwidth: float  # to and from the memory of its host, one direction
    fp8_flops: float | None = None  # None: has no FP8


@dataclass(frozen=True)
class Hop:
    """One thing that a message crosses: latency [s] and bandwidth [bytes/s] of one direction."""

    name: str
    latency: float
    bandwidth: float


@dataclass(frozen=True)
class Level:
    """Devices in groups of `size`; two that first meet in a group of this level reach each other over `hops`.

    `path_class` is NCCL's word for such a path (NVL, PIX, PHB, SYS, NET).
    """

    name: str
    size: float  # devices a group; inf: all of them
    path_class: str
    hops: tuple[Hop, ...]


@dataclass(frozen=True)
class Path:
    """How a message travels; the latency is the sum over the hops [s], the bandwidth the narrowest hop [bytes/s]."""

    path_class: str
    hops: tuple[Hop, ...]

    @cached_property
    def latency(self) -> float:
        return sum(hop.latency for hop in self.hops)

    @cached_property
    def bandwidth(self) -> float:
        return min((hop.bandwidth for hop in self.hops), default=inf)

    def __str__(self) -> str:
        hops = " > ".join(hop.name for hop in self.hops) or "same device"
        return f"{self.path_class} ({hops}), {self.latency * 1e6:.3g} us, {self.bandwidth / 1e9:.4g} GB/s"


HERE = Path("LOC", ())

# NCCL's words, nearest first; their places here are noise addresses and must stay
PATH_CLASSES = ("LOC", "NVL", "NVB", "C2C", "PIX", "PXB", "PXN", "PHB", "SYS", "NET")


@dataclass(frozen=True)
class Cluster:
    """Devices 0..n-1, grouped level by level from the inside out, and the device that each GPU of a job is."""

    name: str
    gpu: Gpu
    n_devices: int
    levels: tuple[Level, ...]
    order: tuple[int, ...]  # device of each GPU of the job

    def path(self, a: int, b: int) -> Path:
        """Path from device ``a`` to device ``b``; devices that no level joins are an `Infeasible`."""
        if a == b:
            return HERE
        for level in self.levels:
            if a // level.size == b // level.size:
                return Path(level.path_class, level.hops)
        raise Infeasible(f"{self.name}: no path between devices {a} and {b}")

    def between(self, gpu: int, other: int) -> Path:
        """Path from GPU ``gpu`` of the job to GPU ``other``."""
        return self.path(self.order[gpu], self.order[other])


def build(
    name: str, gpu: Gpu, n_devices: int | None, levels: Sequence[Level], n_gpus: int, order: Sequence[int] | None, per_node: int = 1
) -> Cluster:
    """Make a cluster for a job of ``n_gpus``; without ``n_devices`` as many whole nodes as needed.

    ``order`` gives the device of each GPU of the job (default: GPU i is device i). Raises ``ValueError`` for an order that
    cannot be meant and `Infeasible` for a cluster that is too small.
    """
    if order is not None and not isinstance(order, (list, tuple)):
        raise ValueError(f"topology.order must be a list of device numbers, one a GPU; got {order!r}")
    devices = tuple(range(n_gpus) if order is None else order)
    devices = tuple(count("topology.order: a device", device, least=0) for device in devices)
    if len(set(devices)) < len(devices):
        raise ValueError(f"topology.order gives one device to two GPUs: {list(devices)}")
    if len(devices) != n_gpus:
        raise Infeasible(f"topology.order must name one device a GPU; got {len(devices)} devices for {n_gpus} GPUs")
    needed = max(devices) + 1
    if n_devices is None:
        n_devices = per_node * -(-needed // per_node)
    if needed > n_devices:
        raise Infeasible(f"{name} has {n_devices} devices; the job needs {needed} (leave topology.nodes=null, or raise it)")
    return Cluster(name, gpu, n_devices, tuple(levels), devices)
