"""Hydra's view of HOPS: where the presets are, which options the doors add, and how overrides become a config."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hops.checks import nearest
from hops.distributions import LAWS, TERMS
from hops.overrides import OVERRIDES
from hops.recovery import RECOVERIES
from hops.schedules import SCHEDULES
from hops.topologies import TOPOLOGIES

HERE = Path(__file__).resolve().parent

CALM = {"faults": {}, "rate": 1.0, "clock": "calendar", "script": None, "timeout": 600.0, "chaos": []}  # failure=none, see `Failures`
# sections whose keys are the user's: any may be set, without a plus
OPEN = (*(f"topology.overrides.{key}" for key in OVERRIDES), "topology.kinds", "topology.hops")

HELP = """HOPS: how a pipeline-parallel training run will behave, as a distribution.

One cell:   python -m hops schedule=zb topology=pcie
A sweep:    python -m hops.sweep -m schedule=1f1b,zb topology=dgx,pcie 'microbatches=range(16,129,16)'
A job:      python -m hops from=run.sh   (Megatron-LM; or a torchtitan .toml, a NeMo or Megatron-Bridge .yaml)

== Groups (group=option) ==
$APP_CONFIG_GROUPS

== Config (override anything as key=value) ==
$CONFIG

The keys of another option: python -m hops --cfg job model=explicit
What each key means: conf/config.yaml, and the file or docstring of each option. Hydra's own flags: --hydra-help
"""


def folder(name: str) -> Path:
    """``conf`` or ``sweeps``: inside the package when installed, beside it in a checkout."""
    return HERE / name if (HERE / name).is_dir() else HERE.parent / name


class SweepsSearchPath(SearchPathPlugin):
    """Puts ``sweeps/`` on Hydra's search path, so that its questions are found by name (``-cn``)."""

    def manipulate_search_path(self, search_path: Any) -> None:
        search_path.append("hops-sweeps", folder("sweeps").as_uri())


def register_options() -> None:
    """Tell Hydra about every option that a door registers. Safe to repeat."""
    store: Any = ConfigStore.instance()
    # Hydra copies its store for every composition, and 80 times for --help, though it copies again what it takes out of
    # it: 6 ms of a composition's 40, and of --help 0.6 s of 0.9
    store.__deepcopy__ = lambda _: store
    options = list(_options())
    told = repr(options)
    if getattr(store, "told", None) == told:  # to tell it again took 60 ms of the 160 of a `hops.simulate`
        return
    for group, name, values in options:
        node = OmegaConf.create(values)
        for key in OPEN:
            section: Any = OmegaConf.select(node, key.removeprefix(f"{group}.")) if key.startswith(f"{group}.") else None
            if section is not None:
                OmegaConf.set_struct(section, False)
        store.store(group=group, name=name, node=node, package="_global_" if group == "experiment" else None, provider="hops")
    store.told = told


def _options() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Group, name and config of each."""
    yield "hydra/help", "hops", {"app_name": "hops", "header": "", "footer": "", "template": HELP}
    for group, door in (("schedule", SCHEDULES), ("topology", TOPOLOGIES), ("recovery", RECOVERIES)):
        for name in (*door, *door.aliases):
            yield group, name, {"name": door.canonical(name), **door[name].parameters}
    # a term has the parameters of every law, null where its law has no use for them, so that the law is a key as well
    unused: dict[str, Any] = {key: None for law in LAWS.values() for key in law.parameters}
    calm: dict[str, Any] = {**{term: {"law": "none", **unused} for term in TERMS}, "per": "rank"}
    yield "latency", "none", calm
    for name, law in LAWS.items():
        yield "latency", name, {**calm, "op": {"law": name, **unused, **law.parameters}}
    yield "failure", "none", CALM
    for path in sorted(folder("sweeps").glob("*.yaml")):
        yield "experiment", path.stem, _experiment(path.read_text())


@lru_cache(maxsize=256)
def _experiment(text: str) -> dict[str, Any]:
    """A question, which is a config of its own (``-cn``), as an addition to any other (``+experiment``)."""
    node: Any = OmegaConf.to_container(OmegaConf.create(text))
    defaults = [each for each in node.pop("defaults", []) if each not in ("config", "_self_")]
    absolute = [{re.sub(r"^(override )?", r"\1/", key): value for key, value in each.items()} for each in defaults]
    return {"defaults": [*absolute, "_self_"], **node} if absolute else node


def make_loader(folders: Sequence[str] = ()) -> ConfigLoaderImpl:
    """A config loader of our own, which looks into ``folders`` too: leaves the Hydra that a notebook or another app has started alone."""
    search_path = create_config_search_path(str(folder("conf")))
    for each in folders:
        search_path.prepend("command-line", each, anchor="schema")  # which Hydra wants last
    return ConfigLoaderImpl(config_search_path=search_path)


def compose(loader: ConfigLoaderImpl, overrides: Sequence[str], name: str = "config") -> DictConfig:
    """Compose ``conf/config.yaml``, or another config, with ``overrides``, as the command line would."""
    return loader.load_configuration(name, list(overrides), run_mode=RunMode.RUN, from_shell=False)


def sweeper_params(loader: ConfigLoaderImpl, overrides: Sequence[str]) -> list[str]:
    """Overrides that a question from ``sweeps/`` (``+experiment=...``) brings along, as Hydra's own sweeper would read them."""
    added = [each for each in overrides if str(each).startswith("+")]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(added)
    questions = [str(each.input_line) for each in parsed if not each.is_sweep_override()]
    params = compose(loader, questions).hydra.sweeper.params if questions else {}
    return [f"{key}={value}" for key, value in params.items()]


def plain(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """The part of a composed config that is ours, as plain containers; as it is written, unless ``resolve``."""
    ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return OmegaConf.to_container(ours, resolve=resolve)  # type: ignore[return-value]


def yaml(config: DictConfig) -> str:
    """The same part as YAML."""
    return OmegaConf.to_yaml(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))


# what reaches the command line as a sentence: the user's values, names, files and memory
CAN_MEND = (ValueError, HydraException, OmegaConfBaseException, YAMLError, OSError, MemoryError)


def sentence(error: BaseException) -> str:
    """What an error says to a user: its own words, the cause that OmegaConf names, the nearest valid name."""
    if isinstance(error, MemoryError):
        return f"not enough memory: {error} (try fewer draws, or a smaller sweep)"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename2 or error.filename}: {error.strerror} (in {Path.cwd()})"
    causes = [error, *([error.__cause__] if isinstance(error.__cause__, OmegaConfBaseException) else [])]
    words = [str(each).partition("\nConfig search path")[0].strip() for each in causes]
    asked, known = "", list[str]()
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        asked, known = error.missing_cfg_file.rpartition("/")[2], list(error.options)
    for each in causes:
        if isinstance(each, OmegaConfBaseException) and isinstance(each.parent_node, DictConfig):
            asked, known = str(each.key), [str(key) for key in each.parent_node]
    close = nearest(asked, known)
    return "\n".join([each for each in words if each] + ([f"did you mean '{close}'?"] if close and close != asked else []))
