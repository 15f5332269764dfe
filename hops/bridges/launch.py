"""Launch scripts, and plain files of flags: which command trains, on how many GPUs, with which flags of Megatron-LM."""

import re
from collections.abc import Mapping, Sequence

from hops.bridges import Found
from hops.bridges.megatron import FLAGS, RULED, found_job
from hops.bridges.shell import read_script as read_shell
from hops.bridges.shell import resplit

GPUS_PER_NODE = 8


def read_script(text: str) -> Found:
    """Read a launch script, or a plain file of flags."""
    script = read_shell(text)
    plain = [word for command in script.commands if command[0].startswith("--") for word in command]
    candidates = [resplit(command) for command in script.commands if not command[0].startswith("--")]
    scored = sorted(candidates, key=_n_known, reverse=True)
    best = scored[0] if scored and _n_known(scored[0]) > (0 if not plain else _n_known(plain)) else plain
    if not _n_known(best):
        raise ValueError("no flag of Megatron-LM stands in it (--num-layers, --tensor-model-parallel-size, ...)")
    launcher, words = _parted(best)
    assumed = [f"{name} as in the first branch that sets it" for name in script.unsure]
    if len(scored) > 1 and best is scored[0] and _n_known(scored[1]) and scored[1] != best:
        assumed.append("the one of its commands that has the most flags")
    gpus, why = world_size({**_flags(script.directives), **_flags(launcher)})
    return found_job("Megatron-LM", _flags(words), gpus, why, lambda word: f"--{word}", assumed)


def _n_known(words: Sequence[str]) -> int:
    return sum(name in FLAGS or name in RULED for name in _flags(words))


def _parted(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """A command's launcher, up to its Python script, and what follows it."""
    scripts = [i for i, word in enumerate(words) if re.search(r"\w\.py$", word)]
    modules = [
        i + 1 for i, word in enumerate(words) if word == "-m" and not words[min(i + 1, len(words) - 1)].startswith("torch.distributed")
    ]
    at = next(iter(sorted([*scripts, *modules])), None)
    return ((), words) if at is None else (words[:at], words[at + 1 :])


def _flags(words: Sequence[str]) -> dict[str, str]:
    """Flags by name, with hyphens; several words of one are joined, and of one given twice the last counts."""
    found: dict[str, str] = {}
    name = None
    for word in words:
        if re.match(r"--?[A-Za-z]", word):
            name, _, value = word.lstrip("-").partition("=")
            name = name.replace("_", "-")
            found[name] = value
        elif name is not None:
            found[name] = f"{found[name]} {word}".strip()
    return found


def world_size(launcher: Mapping[str, str]) -> tuple[int | None, str]:
    """GPUs of a job by its launcher (torchrun, srun and its directives, mpirun); or None and the reason."""

    def size(*names: str) -> str | None:
        given = [launcher[name].split(" ")[0].rpartition(":")[2] for name in names if launcher.get(name)]
        return next((each for each in given if "$" not in each), given[0] if given else None)

    nodes, each = size("nnodes", "nodes", "N"), size("nproc-per-node", "gpus-per-node", "gres", "ntasks-per-node")
    if nodes is None and each is None:
        total = size("ntasks", "n", "np")
        return (int(total), "") if total and total.isdigit() else (None, "no launcher says how many GPUs")
    each = str(GPUS_PER_NODE) if each in ("gpu", "auto") else each or str(GPUS_PER_NODE)
    nodes = nodes or "1"
    if not (nodes.isdigit() and each.isdigit()):
        return None, f"{nodes} nodes of {each} GPUs are what only a run would know"
    return int(nodes) * int(each), ""
