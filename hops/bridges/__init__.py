"""The bridge in: ``from=run.sh`` reads the job of another framework and becomes overrides, before Hydra sees them.

One file a framework: a table from its words to keys of ``conf/``, and rules for what no table can say. The model becomes
``model=transformer`` with every size that the job gives.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from hops.partition import Slice, even, slices, written

CAUSAL = "model.causal=false (true counts neither time nor FLOPs of the scores that flash attention leaves out)"
MOST_NAMED = 12  # words that make no difference are named up to here, then counted


class Key(NamedTuple):
    """A line of a table: the key of HOPS that a word sets, and how its value is read (``ValueError``: what it must be)."""

    to: str
    read: Callable[[str], Any]


@dataclass(frozen=True)
class Found:
    """What a file says of a job."""

    framework: str
    values: Mapping[str, Any]  # by key of HOPS
    assumed: Sequence[str] = ()  # what the file does not say, and its framework or HOPS decides
    ignored: Sequence[str] = ()  # words that change neither time nor memory
    unmodelled: Sequence[str] = ()  # words that may change them
    missing: Mapping[str, str] = field(default_factory=dict)  # key -> why the file has no value for it


def whole(text: str, least: int = 0) -> int:
    """A whole number."""
    if not re.fullmatch(r"\d+", text) or int(text) < least:
        raise ValueError(f"must be a whole number of at least {least}; got {text!r}")
    return int(text)


size = partial(whole, least=1)


def on(text: str) -> bool:
    """A switch that is on where it stands."""
    return True


def choice(**words: Any) -> Callable[[str], Any]:
    """One of ``words``."""

    def read(text: str) -> Any:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}; got {text!r}")
        return words[text]

    return read


def read_table(table: Mapping[str, Key], given: Mapping[str, str], spell: Callable[[str], str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values of the words that stand in ``table``, and why others have none: they hold what only a run would know."""
    values, missing = dict[str, Any](), dict[str, str]()
    for word, key in table.items():
        text = given.get(word)
        if text is not None and "$" in text:
            missing[key.to] = f"{spell(word)} is {text}, which only a run would know"
        elif text is not None:
            try:
                values[key.to] = key.read(text)
            except ValueError as error:
                raise ValueError(f"{spell(word)} {error}") from None
    return values, missing


def leaves(section: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Keys of nested sections, with the sections they stand in, and their values."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value


def layout_of(parts: Sequence[Slice]) -> str:
    """A partition as ``model.layout``: ``even`` where HOPS would divide the layers so by itself."""
    layers, n_mtp = parts[-1].end, sum(each.mtp for each in parts)
    return "even" if len(parts) <= layers and tuple(parts) == slices(even(layers, len(parts)), n_mtp) else written(parts)


# what a key that is typed beside the file makes obsolete: its own values always, and these
TRAINING = ("model.sequence", "model.recompute", "model.precision")  # stay where another model is chosen
REPLACES: dict[str, tuple[str, ...]] = {
    "dp": ("gpus", "dp_shard"),
    "gpus": ("dp", "dp_shard"),
    "microbatches": ("global_batch_size",),
    "global_batch_size": ("microbatches",),
    "schedule": ("vpp", "schedule.group_size"),
    "pp": ("model.layout",),
    "vpp": ("model.layout",),
    "model.layers": ("model.layout",),
    "model.mtp_layers": ("model.layout",),
}


def bridge(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Put overrides in the place of ``from=<file>`` among ``words``; and say, a line each, what was read, assumed and left out.

    What is typed beside it wins. Raises ``ValueError`` for a file that cannot be read, understood, or does not say enough.
    """
    asked = [word for word in words if str(word).startswith("from=")]
    if not asked:
        return list(words), []
    if len(asked) > 1:
        raise ValueError(f"from= may stand once; got {' '.join(asked)}")
    path = asked[0].removeprefix("from=").strip("'\"")
    beside = [*(str(word) for word in words if word != asked[0]), *_questions(words)]
    typed = {found[1]: found[2] for word in beside if (found := re.match(r"[+~]*([\w./@]+)=(.*)", word))}
    job = read_job(path)
    gone = _replaced(job, typed)
    values = {key: value for key, value in job.values.items() if key not in gone}
    missing = {key: why for key, why in job.missing.items() if key not in gone}
    if missing:
        models = ", or choose a model=..." if any(key.startswith("model.") for key in missing) else ""
        raise ValueError(f"{asked[0]}: {'; '.join(missing.values())} (type {' '.join(f'{key}=...' for key in missing)} beside it{models})")
    assumed = [each for each in job.assumed if each.split("=")[0] not in gone]
    if "model.layout" in gone & {*job.values} and not {"model", "model.layout"} & {*typed}:
        assumed.append("model.layout=even (that of the file has other stages)")
    if "topology" not in {key.split(".")[0] for key in typed}:
        assumed.append(f"topology={_default_topology()} (a job names no GPUs)")
    overrides = [f"{key}={_typed(value)}" for key, value in values.items()]
    at = list(words).index(asked[0])
    groups = [
        ("assumed", "; ".join(assumed)),
        ("ignored, as time and memory do not depend on it", ", ".join(_named(job.ignored))),
        ("warning: left out, though time or memory may depend on it", "; ".join(job.unmodelled)),
    ]
    lines = [f"{asked[0]} ({job.framework}): {' '.join(overrides)}", *(f"  {title}: {text}" for title, text in groups if text)]
    return [*words[:at], *overrides, *words[at + 1 :]], lines


def read_job(path: str) -> Found:
    """Read a job by the name of its file, or by what stands in it where the name says nothing."""
    if not path:
        raise ValueError("from= names no file (try from=run.sh, from=job.toml or from=recipe.yaml)")
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"from={path} is no text (it takes a launch script, a TOML or a YAML)") from None
    except OSError as error:
        raise ValueError(f"from={path}: {error.strerror or error} (it takes one file: a launch script, a TOML or a YAML)") from error
    try:
        return _reader(path, text)(text)
    except ValueError as error:
        raise ValueError(f"from={path}: {error}") from error


def _reader(path: str, text: str) -> Callable[[str], Found]:
    from hops.bridges import launch, nemo, torchtitan

    readers = {
        **dict.fromkeys((".sh", ".bash", ".slurm", ".sbatch", ".args"), launch.read_script),
        **dict.fromkeys((".toml",), torchtitan.read_toml),
        **dict.fromkeys((".yaml", ".yml"), nemo.read_yaml),
    }
    known = readers.get(Path(path).suffix.lower())
    if known is not None:
        return known
    if re.search(r"(^|\s)--[a-z][\w-]+", text):
        return launch.read_script
    if re.search(r"^\[[\w.]+\]\s*$", text, re.MULTILINE):
        return torchtitan.read_toml
    if re.search(r"^\w+:(\s|$)", text, re.MULTILINE):
        return nemo.read_yaml
    raise ValueError("neither a script with flags of Megatron-LM, nor a TOML of torchtitan, nor a YAML of NeMo or Megatron-Bridge")


def _replaced(found: Found, typed: Mapping[str, str]) -> set[str]:
    """Keys of a file that count no more: those that the user has typed, and those that something he typed stands for."""
    gone = {*typed, *(key for word in typed for key in REPLACES.get(word, ()))}
    if "vpp" in gone & {*found.values}:
        gone.add("model.layout")
    stays = () if "explicit" in typed.get("model", "") else TRAINING
    known = (*found.values, *found.missing, *(each.split("=")[0] for each in found.assumed))
    for group in {"model", "topology"} & {*typed}:
        gone |= {key for key in known if key.startswith(f"{group}.")}
        gone -= {key for key in stays if key in found.values and key not in typed}
    return gone


def _questions(words: Sequence[str]) -> list[str]:
    """What a question from ``sweeps/`` asks, which is as good as typed: named by ``+experiment``, or as the config itself."""
    named = [f"+experiment={name}" for flag, name in pairwise(map(str, words)) if flag in ("-cn", "--config-name") and name != "config"]
    named += [str(word) for word in words if str(word).startswith("+experiment=")]
    if not named:
        return []
    from hops.config import make_loader, sweeper_params
    from hops.cube_sweeper import register

    register()
    return sweeper_params(make_loader(), named)


@lru_cache(maxsize=1)
def _default_topology() -> str:
    from hops.config import compose, make_loader, plain
    from hops.cube_sweeper import register

    register()
    topology = plain(compose(make_loader(), []))["topology"]
    return f"{topology['name']} of {topology.get('gpu', 'any')}"


def _typed(value: Any) -> str:
    """A value as one would type it to Hydra."""
    from hops.plan import label

    text = label(value)
    return text if not isinstance(value, str) or re.fullmatch(r"[\w.+-]+", text) else "'" + text.replace("'", r"\'") + "'"


def _named(words: Iterable[str]) -> list[str]:
    named = list(dict.fromkeys(words))
    return named if len(named) <= MOST_NAMED else [*named[:MOST_NAMED], f"and {len(named) - MOST_NAMED} more"]
