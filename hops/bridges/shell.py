"""The words of a shell script's commands, with its variables put in; nothing is executed.

What launch scripts are written with is understood: assignments (``A=8``, ``A=${A:-8}``, ``A=$((B * C))``, ``A+=" --x"``), arrays, quotes,
continued lines, comments. All branches of an ``if`` or loop are read: what they append counts, what they set counts where nothing is
set yet. A value that only a run would know (``$1``, ``$SLURM_NNODES``, ``$(hostname)``) stays as it is written, with its ``$``.
"""

import ast
import operator
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass

TOKEN = re.compile(
    r"""
    (?P<space>[ \t]+)
  | (?P<comment>(?:(?<=\s)|^)\#[^\n]*)
  | (?P<end>\n|;|&+|\|+)
  | (?P<redirect>\d*[<>]+&?\d*-?)
  | (?P<open>\() | (?P<close>\))
  | (?P<piece>
        '[^']*' | "(?:\\.|[^"\\])*" | `[^`]*`
      | \$\(\((?:[^()]|\([^()]*\))*\)\) | \$\((?:[^()]|\([^()]*\))*\) | \$\{(?:[^{}]|\$\{[^{}]*\})*\} | \$\w+ | \$[@*\#?!-]
      | \\. | [^\s'"`\\$;&|<>()]+ | .
    )
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
EXPANSION = re.compile(
    r"""
    \$\(\((?P<sum>(?:[^()]|\([^()]*\))*)\)\)
  | \$\{(?P<name>\w+)(?:\[[@*]\])?(?::?[-=](?P<default>(?:[^{}]|\$\{[^{}]*\})*))?\}
  | \$(?P<plain>\w+)
  | \\(?P<quoted>[$"\\`])
    """,
    re.VERBOSE | re.DOTALL,
)
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=")
OPENS, CLOSES = ("if", "for", "while", "until", "case"), ("fi", "done", "esac")
DECLARES = ("export", "local", "readonly", "declare", "typeset")
LEADS = ("then", "else", "elif", "do", "exec", "eval", "!", "{", *DECLARES)
OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,  # of whole numbers above 0, as in a shell
    ast.Mod: operator.mod,
}

type Variables = dict[str, list[str]]  # a scalar is one word


@dataclass(frozen=True)
class Script:
    """What a script says: the words of each of its commands, its ``#SBATCH`` words, and variables that branches set differently."""

    commands: tuple[tuple[str, ...], ...]
    directives: tuple[str, ...]
    unsure: tuple[str, ...]


def read_script(text: str) -> Script:
    """Read a script; ``ValueError`` for a quote or array that does not end."""
    directives = [word for line in re.findall(r"^#SBATCH\s+(.*)$", text, re.MULTILINE) for word in line.split()]
    variables: Variables = {}
    unsure: list[str] = []
    commands: list[tuple[str, ...]] = []
    depth = 0
    for statement in _statements(text.replace("\\\r\n", " ").replace("\\\n", " ").replace("\r\n", "\n")):
        while statement and "".join(statement[0]) in (*OPENS, *CLOSES, *LEADS):
            (word, *_), *statement = statement
            depth += (word in OPENS) - (word in CLOSES)
            while word in DECLARES and statement and statement[0][0][0] == "-":
                statement = statement[1:]
        while statement and (found := ASSIGNMENT.match(statement[0][0])):
            name, appends = found.groups()
            value = _value(statement[0], found.end(), variables)
            old = variables.get(name, [])
            if appends:
                value = [*old, *value] if statement[0][1:2] == ["("] else ["".join([*old, *value])]
            elif depth > 0 and old and old != value and not (len(old) == 1 and value and value[0].startswith(old[0])):
                unsure.append(name)
                value = old
            variables[name] = value
            statement = statement[1:]
        words = [each for word in statement for each in _expanded(word, variables)]
        if words:
            commands.append(tuple(words))
    return Script(tuple(commands), tuple(directives), tuple(dict.fromkeys(unsure)))


def _statements(text: str) -> Iterator[list[list[str]]]:
    """Statements as lists of words, a word as a list of pieces; an array is one word, ``[name=, (, word, ...]``."""
    statement: list[list[str]] = []
    word: list[str] = []
    in_array = redirected = False
    for token in TOKEN.finditer(text):
        kind, piece = token.lastgroup, token.group()
        if kind == "piece" and piece in ("'", '"', "`"):
            raise ValueError(f"a quote {piece} that opens in line {text[: token.start()].count(chr(10)) + 1} does not end")
        if kind == "open" and word and piece == "(" and ASSIGNMENT.fullmatch("".join(word)):
            in_array, array = True, ["".join(word), "("]
            word = []
        elif kind == "piece":
            word.append(piece)
        else:
            if word and in_array:
                array.append("\0".join(word))
            elif word and not redirected:
                statement.append(word)
            redirected = (kind == "redirect" and not piece[-1].isdigit()) or (redirected and kind == "space" and not word)
            word = []
            if in_array and kind == "close":
                statement.append(array)
                in_array = False
            elif kind in ("end", "open", "close") and not in_array:
                yield statement
                statement = []
    if in_array:
        raise ValueError(f"the array {array[0].rstrip('+=')} does not end")
    yield [*statement, word] if word and not redirected else statement


def _value(word: list[str], start: int, variables: Variables) -> list[str]:
    if word[1:2] == ["("]:
        return [each for item in word[2:] for each in _expanded(item.split("\0"), variables)]
    pieces = [word[0][start:], *word[1:]]  # A=, then what is quoted or a variable
    return ["".join(_text(piece, variables) for piece in pieces)]


def _expanded(pieces: list[str], variables: Variables) -> list[str]:
    """The words that a word becomes: an array, or what has spaces and no quotes around it, several."""
    if len(pieces) == 1 and (found := re.fullmatch(r'"?\$\{(\w+)\[@\]\}"?', pieces[0])) and found[1] in variables:
        array = variables[found[1]]
        return array if pieces[0][0] == '"' else [each for word in array for each in word.split()]
    text = "".join(_text(piece, variables) for piece in pieces)
    bare = any(piece[0] == "$" and not piece.startswith("$(") for piece in pieces)
    return text.split() if bare else [text]


def _text(piece: str, variables: Variables) -> str:
    """A piece of a word without its quotes, variables put in where they are known."""
    if piece[:1] == "'":
        return piece[1:-1]
    if piece[:1] == "\\":
        return piece[1:]
    inside = piece[1:-1] if piece[:1] == '"' else piece
    return EXPANSION.sub(lambda found: _expand(found, variables), inside)


def _expand(found: re.Match[str], variables: Variables) -> str:
    if found["quoted"] is not None:
        return found["quoted"]
    if found["sum"] is not None:
        formula = re.sub(r"\$?\{?\b([A-Za-z_]\w*)\}?", lambda name: " ".join(variables.get(name[1], [name[0]])), found["sum"])
        try:
            return str(_sum(ast.parse(formula.strip(), mode="eval").body))
        except (SyntaxError, ValueError, ZeroDivisionError):
            return found[0]
    name, default = found["name"] or found["plain"], found["default"]
    if any(variables.get(name, [])):
        return " ".join(variables[name])
    if default is not None:
        return _text(default, variables)
    return "" if name in variables else found[0]


def _sum(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_sum(node.left), _sum(node.right))
    raise ValueError(f"no sum of whole numbers: {ast.dump(node)}")


def resplit(words: tuple[str, ...]) -> list[str]:
    """Words with those taken apart that are command lines of their own (``bash -c "torchrun ... --flag"``)."""
    return [each for word in words for each in (_split(word) if re.search(r"\s--?\w", word) else [word])]


def _split(word: str) -> list[str]:
    try:
        return shlex.split(word)
    except ValueError:  # quotes within
        return word.split()
