"""The shape of Megatron's models: what it derives where no flag gives it, and which layers have experts (as arguments.py does)."""

import ast
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from hops.bridges import read_number, size, whole

# of latent attention, and what Megatron takes where no flag says; without a rank queries have no latent vector
LATENT = {
    "model.q_lora_rank": 0,
    "model.kv_lora_rank": 32,
    "model.qk_nope_head_dim": 128,
    "model.qk_rope_head_dim": 64,
    "model.v_head_dim": 128,
}
TOKENIZERS = {"GPT2BPETokenizer": 50257, "Llama2Tokenizer": 32000}  # words of the one vocabulary each has, from memory


def read_shape(
    flags: Mapping[str, str], values: dict[str, Any], missing: dict[str, str], notes: list[str], unmodelled: list[str], spell: Any
) -> None:
    """Complete the model's shape in ``values``; what is open goes to ``missing``, and what is said of it to the other lists."""
    hidden, heads = values.get("model.hidden"), values.get("model.heads")
    values.setdefault("model.gated", False)
    if hidden and "model.ffn_hidden" not in values and "model.ffn_hidden" not in missing:
        gated = values["model.gated"]
        values["model.ffn_hidden"] = int(4 * hidden * 2 / 3 / 64) * 64 if gated else 4 * hidden
        notes.append(f"model.ffn_hidden={values['model.ffn_hidden']} ({'8/3, a multiple of 64' if gated else '4'} x hidden)")
    groups = read_number(flags, "num-query-groups", missing, "model.kv_heads", spell)
    if heads and "model.kv_heads" not in missing:
        values["model.kv_heads"] = (groups or 1) if "group-query-attention" in flags else heads
        if groups not in (None, heads) and "group-query-attention" not in flags:
            unmodelled.append(f"{spell('num-query-groups')} (without {spell('group-query-attention')})")
    latent = "multi-latent-attention" in flags
    for key, usual in LATENT.items():
        if latent and usual and key not in values and key not in missing:
            values[key] = usual
            notes.append(f"{key}={usual}")
        if not latent or not values.get(key):
            values.pop(key, None)
    if latent and heads:
        values["model.kv_heads"] = heads
    channels = read_number(flags, "kv-channels", missing, "model.head_dim", spell)
    if channels and hidden and heads and channels * heads != hidden and not latent:
        values["model.head_dim"] = channels
    _vocabulary(flags, values, missing, notes, spell)
    if "untie-embeddings-and-output-weights" not in flags:
        notes.append("two tables of the vocabulary, though Megatron ties input and output")
    _experts(flags, values, missing, notes, unmodelled, spell)


def _experts(
    flags: Mapping[str, str], values: dict[str, Any], missing: dict[str, str], notes: list[str], unmodelled: list[str], spell: Any
) -> None:
    """Experts, those that all tokens pass, and which layers have them."""
    if "model.experts" in missing:
        return
    layers, n = values.get("model.layers"), values.get("model.experts") or 1
    values["model.experts"] = n
    if n == 1:
        values["model.active_experts"] = 1
        for key in ("etp", "model.moe_ffn_hidden"):
            values.pop(key, None)
        return
    if "model.active_experts" not in values and "model.active_experts" not in missing:
        values["model.active_experts"] = 2
        notes.append("model.active_experts=2")
    width = values.get("model.moe_ffn_hidden", values.get("model.ffn_hidden"))
    shared = read_number(flags, "moe-shared-expert-intermediate-size", missing, "model.shared_experts", spell, whole)
    if shared and width:
        values["model.shared_experts"] = -(-shared // width)
        if shared % width:
            word = spell("moe-shared-expert-intermediate-size")
            unmodelled.append(f"{word} {shared} (as {values['model.shared_experts']} of {width})")
    if layers:
        read = partial(dense_layers, layers=layers)
        n_dense = read_number(flags, "moe-layer-freq", missing, "model.dense_layers", spell, lambda text: sum(read(text)))
        if n_dense:
            values["model.dense_layers"] = n_dense
            if not all(read(flags["moe-layer-freq"])[:n_dense]):
                unmodelled.append(f"{spell('moe-layer-freq')} (its {n_dense} dense layers are the first ones here)")
        elif "model.moe_ffn_hidden" in values and "model.dense_layers" not in missing:  # no layer has the other width
            notes[:] = [note for note in notes if not note.startswith("model.ffn_hidden")]


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


def _vocabulary(flags: Mapping[str, str], values: dict[str, Any], missing: dict[str, str], notes: list[str], spell: Any) -> None:
    """The vocabulary, padded as Megatron does, or where only the tokenizer knows it as its usual one."""
    padded = read_number(flags, "padded-vocab-size", missing, "model.vocabulary", spell)
    multiple = read_number(flags, "make-vocab-size-divisible-by", missing, "model.vocabulary", spell) or 128
    given = read_number(flags, "vocab-size", missing, "model.vocabulary", spell)
    if "model.vocabulary" in missing:
        return
    tokenizer = flags.get("tokenizer-type", "")
    words = given or TOKENIZERS.get(tokenizer) or TOKENIZERS["GPT2BPETokenizer"]
    step = multiple * (values.get("tp") or 1)
    values["model.vocabulary"] = padded or -(-words // step) * step
    if padded is None and (given is None or given != values["model.vocabulary"]):
        source = "" if given else f"{words} of {tokenizer if TOKENIZERS.get(tokenizer) else 'GPT-2, as the tokenizer is not known'}, "
        notes.append(f"model.vocabulary={values['model.vocabulary']} ({source}padded to a multiple of {step})")
