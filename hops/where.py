"""``hydra.sweeper.where``: an expression over the axes that says which cells of a sweep are asked for."""

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hops.checks import no_such

ALLOWED = (
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Compare, ast.cmpop),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Name, ast.Load, ast.Constant, ast.Tuple, ast.List),
)


def where(expression: str, axes: Sequence[str], key: str = "hydra.sweeper.where") -> Callable[[Mapping[str, Any]], bool]:
    """Compile ``expression`` (``schedule != 'zb' or pp <= 8``) into a test of one cell's values by axis name.

    Comparisons, arithmetic, ``and``, ``or``, ``not``, ``in``, constants and axis names; anything else is a ``ValueError``, which
    calls the expression ``key``.
    """
    try:
        tree = ast.parse(expression, mode="eval")
    except SyntaxError as error:
        raise ValueError(f"{key}={expression!r} is not an expression: {error.msg}") from error
    for node in ast.walk(tree):
        if not isinstance(node, ALLOWED):
            raise ValueError(f"{key}={expression!r}: {type(node).__name__} is not allowed (comparisons of axes and constants are)")
        if isinstance(node, ast.Name) and node.id not in axes:
            raise no_such("axis", node.id, axes)
    code = compile(tree, key, "eval")

    def asked(values: Mapping[str, Any]) -> bool:
        try:
            return bool(eval(code, {"__builtins__": {}}, dict(values)))
        except (TypeError, ArithmeticError) as error:
            raise ValueError(f"{key}={expression!r} fails for {dict(values)}: {error}") from error

    return asked
