"""A scenario: everything that one cell of a sweep is, as one frozen and checked value."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from hops.checkpoints import make_checkpoint
from hops.checks import Infeasible, count, draws, flag, no_such, one_of
from hops.data_parallel import DataParallel
from hops.distributions import LAWS, TERMS
from hops.efficiency import Efficiency, make_efficiency
from hops.faults import make_failures
from hops.hindrances import HINDRANCES, Hindrances, make_hindrances
from hops.layout import CP_BALANCE, CP_COMM, EP_COUPLING, ORDER, Layout
from hops.lowering import P2P
from hops.memory import Allowances, make_allowances
from hops.messages import CONTENTION
from hops.models import FAMILIES, Model, model_keys
from hops.noise import MICROBATCH_BITS, REPLICA_BITS, STAGE_BITS
from hops.overheads import Host, Slowdown, make_host, make_slowdown
from hops.posts import RECV
from hops.recovery import RECOVERIES
from hops.registry import Registry
from hops.schedules import SCHEDULES, Steady
from hops.sections import Choice, Frozen, check_keys, remember, section_of, type_of, values_of
from hops.topologies import TOPOLOGIES
from hops.training import Training, make_run, make_training

DOORS: dict[str, Registry[Any]] = {"schedule": SCHEDULES, "topology": TOPOLOGIES, "recovery": RECOVERIES}
DERIVED = {"gpus": "dp", "global_batch_size": "microbatches"}  # key -> the size that it derives where that is null
NOT_SCENARIO = ("executor", "output", "report", "timeline", "trace", "program", "lowered", "target_error", "target_quantile")


@dataclass(frozen=True)
class Latency:
    """Variation of durations, one term a kind; a term without a law is off."""

    op: Choice | None = None  # every op on its own
    rank: Choice | None = None  # a rank, for a whole draw
    microbatch: Choice | None = None  # a microbatch, at all stages and in both directions
    link: Choice | None = None  # a class of links, for a whole draw
    host: Choice | None = None  # the issue of every op on its own
    per: str = "rank"  # what op and rank were measured on: a rank, or one of its GPUs, the slowest of which the others wait for

    @property
    def terms(self) -> tuple[Choice | None, ...]:
        """The terms in the order in which the engine numbers them."""
        return tuple(getattr(self, term) for term in TERMS)

    @property
    def noisy(self) -> bool:
        return any(self.terms)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One cell: sizes, schedule, topology, model and noise.

    ``draws`` is the number of sampled iterations (one when nothing varies), ``seed`` the first word of every noise
    address. `from_config` makes one from a config and checks every value; defaults stand in ``conf/config.yaml``.
    """

    schedule: Choice
    topology: Choice
    model: Model
    efficiency: Efficiency | None  # None: the model's one number
    latency: Latency
    memory: Allowances
    pp: int
    dp: int
    tp: int
    cp: int
    ep: int
    etp: int | None  # None: as tp
    cp_comm: str
    cp_balance: str
    ep_coupling: str
    tp_comm_overlap: bool
    ep_comm_overlap: bool
    vpp: int | None
    microbatches: int
    microbatch_size: int
    draws: int
    seed: int
    p2p: str
    recv: str
    barrier: bool
    contention: str
    data_parallel: DataParallel
    host: Host
    slowdown: Slowdown
    hindrances: Hindrances
    training: Training | None  # None: iterations, not a run of them

    @cached_property  # a sweep asks several times a cell
    def layout(self) -> Layout:
        order = self.topology.kwargs.get("order")
        order = order if isinstance(order, str) else ORDER
        how = (self.cp_comm, self.cp_balance, self.ep_coupling, self.tp_comm_overlap, self.ep_comm_overlap)
        return Layout(self.pp, self.dp, self.tp, order, self.cp, self.ep, self.etp, *how)

    @property
    def steady(self) -> Steady | None:
        """What is measured where the schedule has no flush; None: the iteration, from its beginning to its end."""
        record = SCHEDULES[self.schedule.name]
        return None if record.steady is None else record.steady(self.pp, self.microbatches, **self.schedule.kwargs)

    @property
    def parts(self) -> int:
        """Parts in which a microbatch passes a stage."""
        record = SCHEDULES[self.schedule.name]
        return 1 if record.parts is None else record.parts(**self.schedule.kwargs)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Scenario":
        """Check a composed config and make the value; ``ValueError`` names the key, what was found and what works."""
        known = {field.name for field in fields(cls)} - {"data_parallel", "slowdown", "hindrances", "training"}
        known |= {*DERIVED, *DATA_PARALLEL, *HINDRANCES, *TRAINING, "overlap_slowdown", "cuda_graph"}
        for key in config:
            if key not in known:
                raise no_such("key", key, known)
        missing = [key for key in known if key not in config]
        if missing:
            raise ValueError(f"{', '.join(sorted(missing))} must not be left out of the config")
        pp, microbatch_size = count("pp", config["pp"], most=2**STAGE_BITS), count("microbatch_size", config["microbatch_size"])
        tp, cp, ep = (count(key, config[key]) for key in ("tp", "cp", "ep"))
        dp = derived_dp(pp * tp * cp, config["gpus"], config["dp"])
        microbatches = derived_microbatches(dp, microbatch_size, config["global_batch_size"], config["microbatches"])
        schedule, latency = _choice("schedule", section_of("schedule", config)), _latency(section_of("latency", config))
        n_draws, hindrances = draws(config["draws"]), make_hindrances(config)
        return cls(
            schedule=schedule._replace(version=SCHEDULES[schedule.name].version(**schedule.kwargs)),
            topology=_choice("topology", section_of("topology", config)),
            model=_model(section_of("model", config)),
            efficiency=_efficiency(section_of("efficiency", config)),
            latency=latency,
            memory=_memory(section_of("memory", config)),
            pp=pp,
            dp=dp,
            tp=tp,
            cp=cp,
            ep=ep,
            etp=None if config["etp"] is None else count("etp", config["etp"]),
            cp_comm=one_of("cp_comm", config["cp_comm"], CP_COMM),
            cp_balance=one_of("cp_balance", config["cp_balance"], CP_BALANCE),
            ep_coupling=one_of("ep_coupling", config["ep_coupling"], EP_COUPLING),
            tp_comm_overlap=flag("tp_comm_overlap", config["tp_comm_overlap"]),
            ep_comm_overlap=flag("ep_comm_overlap", config["ep_comm_overlap"]),
            vpp=None if config["vpp"] is None else count("vpp", config["vpp"]),
            microbatches=count("microbatches", microbatches, most=2**MICROBATCH_BITS),
            microbatch_size=microbatch_size,
            draws=n_draws if latency.noisy or hindrances.retry.loss else 1,
            seed=count("seed", config["seed"], least=0, most=2**32 - 1),
            p2p=one_of("p2p", config["p2p"], P2P),
            recv=_recv(config["recv"], config["p2p"]),
            barrier=flag("barrier", config["barrier"]),
            contention=_contention(config["contention"], config["p2p"]),
            data_parallel=_data_parallel(*((config[key], type_of(config[key])) for key in DATA_PARALLEL)),
            host=_host(section_of("host", config), flag("cuda_graph", config["cuda_graph"])),
            slowdown=_slowdown(section_of("overlap_slowdown", config)),
            hindrances=hindrances,
            training=_training(config),
        )


DATA_PARALLEL = ("zero", "dp_shard", "overlap_grad_reduce", "overlap_param_gather", "bucket_size")  # in the order of its fields
TRAINING = ("run", "failure", "recovery", "checkpoint", "trials")  # those of `Training`


def derived_dp(one: int, gpus: Any, dp: Any) -> int:
    """Replicas of ``one`` = pp x tp x cp GPUs that ``gpus`` make, if given; must agree with ``dp``, if given.

    `Infeasible` where they do not come out.
    """
    most = 2**REPLICA_BITS
    if gpus is None:
        return 1 if dp is None else count("dp", dp, most=most)
    gpus = count("gpus", gpus)
    if gpus % one:
        raise Infeasible(
            f"gpus={gpus} are no multiple of pp x tp x cp = {one} (try gpus={max(1, gpus // one) * one} or {(gpus // one + 1) * one})"
        )
    if dp is not None and count("dp", dp) != gpus // one:
        raise Infeasible(f"gpus={gpus} and pp x tp x cp = {one} make dp={gpus // one}, but dp={dp} is given too (leave one of them out)")
    return count("dp", gpus // one, most=most)


def derived_microbatches(dp: int, microbatch_size: int, global_batch_size: Any, microbatches: Any) -> Any:
    """Microbatches that ``global_batch_size`` makes, if given; must agree with ``microbatches``, if given."""
    if global_batch_size is None:
        return microbatches
    samples, step = count("global_batch_size", global_batch_size), dp * microbatch_size
    if samples % step:
        near = f"try global_batch_size={max(1, samples // step) * step} or {(samples // step + 1) * step}"
        raise Infeasible(f"global_batch_size={samples} is no multiple of dp x microbatch_size = {step} ({near})")
    if microbatches is not None and count("microbatches", microbatches) != samples // step:
        made = f"global_batch_size={samples} makes microbatches={samples // step}"
        raise Infeasible(f"{made}, but microbatches={microbatches} is given too (leave one of them out)")
    return samples // step


@remember
def _choice(noun: str, section: Frozen) -> Choice:
    door = DOORS[noun]
    name = door.canonical(str(next((value for key, _, value in section if key == "name"), None)))
    parameters, given = door[name].parameters, tuple(each for each in section if each[0] != "name")
    check_keys(noun, name, [key for key, *_ in given], parameters)
    values_of(noun, given, tuple(key for key, default in parameters.items() if isinstance(default, Mapping)))
    return Choice(name, tuple((key, value) for key, _, value in given), tuple(kind for _, kind, _ in given))


@remember
def _model(section: Frozen) -> Model:
    values = values_of("model", section)
    family = one_of("model.family", values.pop("family", None), list(FAMILIES))
    keys = model_keys(family)
    check_keys("model", family, values, keys)
    for key, needed in keys.items():
        if needed and values.get(key) is None:
            needs = ", ".join(each for each in keys if keys[each])
            raise ValueError(f"model.{key} is not set; a model of family {family} needs {needs}")
    return FAMILIES[family](**{key: value for key, value in values.items() if value is not None})


def share_laws(cells: list[Any]) -> list[Any]:
    """Cells of a sweep over several laws: a parameter that only another law of the sweep has means nothing to a cell.

    Cells are configs, or what stands for a cell without one.
    """
    for term in TERMS:
        sections = [cell.get("latency", {}).get(term) if isinstance(cell, dict) else None for cell in cells]
        names = [str(section.get("law")) if isinstance(section, dict) else "" for section in sections]
        laws = {name for name in names if name in LAWS}
        if len(laws) < 2:
            continue
        shared = {key for name in laws for key in LAWS[name].parameters}
        for i, (cell, section, name) in enumerate(zip(cells, sections, names, strict=True)):
            if isinstance(cell, dict) and isinstance(section, dict) and name in laws:
                others = shared - set(LAWS[name].parameters)
                kept = {key: None if key in others else value for key, value in section.items()}
                cells[i] = {**cell, "latency": {**cell["latency"], term: kept}}
    return cells


def forget_files() -> None:
    """Let the next scenario read the files of its laws anew: they may have changed since the last plan."""
    _latency.cache_clear()
    make_failures.cache_clear()


@remember
def _efficiency(section: Frozen) -> Efficiency | None:
    return make_efficiency(values_of("efficiency", section))


def _contention(value: Any, p2p: str) -> str:
    if one_of("contention", value, CONTENTION) != "none" and p2p == "latency":
        raise ValueError(f"contention={value} needs messages that occupy what they cross; p2p=latency has none (try p2p=channel)")
    return str(value)


def _recv(value: Any, p2p: str) -> str:
    if one_of("recv", value, RECV) != "early" and p2p != "torch":
        raise Infeasible(f"recv={value} is for p2p=torch, which posts receives ahead of need; got p2p={p2p} (leave recv=early)")
    return str(value)


@remember
def _data_parallel(*values: tuple[Any, type]) -> DataParallel:
    return DataParallel(*(value for value, _ in values))


def _training(config: Mapping[str, Any]) -> Training | None:
    """All is checked, also what no run asks for: a typing error must not wait until one does."""
    asked, failures = make_run(section_of("run", config)), make_failures(section_of("failure", config))
    choice, saved = _choice("recovery", section_of("recovery", config)), make_checkpoint(section_of("checkpoint", config))
    machine, trials = RECOVERIES[choice.name].make(**choice.kwargs), count("trials", config["trials"], most=2**22)
    if asked is None:
        if failures:
            raise ValueError("failures come in a training run, and none is asked for (set run.days or run.iterations)")
        return None
    return make_training(asked, trials, failures, machine, saved)


@remember
def _host(section: Frozen, cuda_graph: Any) -> Host:
    return make_host(values_of("host", section), cuda_graph)


@remember
def _slowdown(section: Frozen) -> Slowdown:
    return make_slowdown(values_of("overlap_slowdown", section))


@remember
def _memory(section: Frozen) -> Allowances:
    return make_allowances(values_of("memory", section))


@remember
def _latency(section: Frozen) -> Latency:
    check_keys("latency", "latency", [key for key, *_ in section], [*TERMS, "per"])
    values = values_of("latency", section, TERMS)
    per = one_of("latency.per", values.get("per", "rank"), ("rank", "gpu"))
    return Latency(per=per, **{term: _term(f"latency.{term}", values.get(term) or ()) for term in TERMS})


SECTIONS = ("parameters",)  # of a term of the latency: those of a law of scipy


def _term(prefix: str, section: Frozen) -> Choice | None:
    values = values_of(prefix, section, SECTIONS)
    name = values.pop("law", None)
    given = {key: value for key, value in values.items() if value is not None}
    if name in (None, "none"):
        return None  # whatever its parameters: so latency=none,lognormal and latency.op.cv=0.1,0.2 can be swept together
    law = LAWS[str(name)]
    parameters = law.checked(prefix, given)
    return None if parameters == {"cv": 0} else Choice(law.name, tuple(sorted(parameters.items())))
