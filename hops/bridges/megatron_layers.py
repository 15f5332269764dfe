"""Megatron-LM: which layers stand on which stage, and which of them are dense."""

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any

from hops.bridges import Key, layout_of, read_table, size
from hops.partition import parse, slices


def number(
    flags: Mapping[str, str], word: str, missing: dict[str, str], key: str, spell: Any, read: Callable[[str], int] = size
) -> int | None:
    values, why = read_table({word: Key(key, read)}, flags, spell)
    missing.update(why)
    number: int | None = values.get(key)
    return number


def stages(flags: Mapping[str, str], values: dict[str, Any], missing: dict[str, str], notes: list[str], spell: Any) -> None:
    """Schedule, chunks a rank and layers a stage."""
    pp, layers = values.get("pp"), values.get("model.layers")
    each = number(flags, "num-layers-per-virtual-pipeline-stage", missing, "vpp", spell)
    if each and pp and layers:
        extra = sum(f"account-for-{end}-in-pipeline-split" in flags for end in ("embedding", "loss"))
        if (layers + extra) % (pp * each):
            raise ValueError(f"{layers + extra} layers are no multiple of {pp} ranks x {each} layers a virtual stage")
        values["vpp"] = (layers + extra) // (pp * each)
    elif each:
        missing.setdefault("vpp", f"{spell('num-layers-per-virtual-pipeline-stage')} needs pp and the layers")
    layout, mtp = values.pop("model.layout", None), values.get("model.mtp_layers", 0)
    if layout is not None and pp:
        parts = parse(layout)
        if len(parts) % pp:
            raise ValueError(f"the layout {layout} has {len(parts)} stages, no multiple of {pp} ranks")
        values |= {"vpp": len(parts) // pp, "model.layout": layout_of(parts)}
    chunks = values.get("vpp", 1)
    first, last = (number(flags, f"decoder-{end}-pipeline-num-layers", missing, "model.layout", spell) for end in ("first", "last"))
    accounts = [f"account-for-{end}-in-pipeline-split" in flags for end in ("embedding", "loss")]
    if (first or last or any(accounts)) and pp and layers and layout is None:
        values["model.layout"] = layout_of(slices(uneven(layers, pp, chunks, first, last, *accounts), mtp))
    elif pp and layers and layout is None and layers % (pp * chunks):
        notes.append(f"model.layout=even (Megatron refuses {layers} layers over {pp * chunks} stages)")
    if values.get("model.layout") == "even":
        del values["model.layout"]
    values["schedule"] = "interleaved" if chunks > 1 or "vpp" in missing else "1f1b"
    if chunks == 1:
        values.pop("vpp", None)
        values.pop("schedule.group_size", None)


def uneven(layers: int, pp: int, chunks: int, first: int | None, last: int | None, embedding: bool, loss: bool) -> list[int]:
    """Layers a stage: the first and last rank have as many as asked for, or one less for the table they hold; the others are even."""
    if embedding or loss:
        stage, rest = divmod(layers + embedding + loss, pp * chunks)
        if rest:
            raise ValueError(f"{layers} layers and {embedding + loss} tables do not divide over {pp} ranks of {chunks} chunks")
        counts = [stage] * (pp * chunks)
        counts[0] -= embedding
        counts[-1] -= loss
        return counts
    given = [each for each in (first, last) if each is not None]
    between, rest = divmod(layers - sum(given), max(pp - len(given), 1))
    if rest or between < 0 or pp < len(given) or any(each % chunks for each in (*given, between)):
        raise ValueError(
            f"{layers} layers with {first} on the first and {last} on the last of {pp} ranks of {chunks} chunks do not come out"
        )
    ranks = [first or between, *[between] * (pp - 2), last or between] if pp > 1 else [layers]
    return [each // chunks for each in ranks] * chunks


def dense_layers(text: str, layers: int) -> list[bool]:
    """Which layers have no experts: of N layers all but the first, or where a list such as ``([0]*3+[1]*58)`` has a 0."""
    if re.fullmatch(r"\d+", text):
        return [i % size(text) > 0 for i in range(layers)]
    words = re.fullmatch(r"[01]( [01])+", text)
    try:
        found = [int(word) for word in text.split()] if words else _list(ast.parse(text.strip(), mode="eval").body, layers)
    except (SyntaxError, ValueError):
        raise ValueError(f"must be a whole number or a list such as '([0]*3+[1]*58)'; got {text!r}") from None
    if len(found) != layers:
        raise ValueError(f"must say it of {layers} layers; got {len(found)} in {text!r}")
    return [each == 0 for each in found]


def _list(node: ast.expr, most: int) -> list[int]:
    """A list of 0 and 1, added and repeated."""
    if isinstance(node, ast.List):
        found = [int(each.value == 1) for each in node.elts if isinstance(each, ast.Constant) and each.value in (0, 1)]
        if len(found) == len(node.elts):
            return found
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _list(node.left, most) + _list(node.right, most)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and isinstance(node.right, ast.Constant):
        times = node.right.value
        if isinstance(times, int) and times <= most:
            return _list(node.left, most) * times
    raise ValueError("no list of 0 and 1")
