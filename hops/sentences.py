"""Sentences: at the border to the user what he can mend is a sentence and an exit code, and not a traceback."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"


@contextmanager
def sentences() -> Iterator[None]:
    """Turn what the user can mend into a sentence on stderr and an exit code; HYDRA_FULL_ERROR=1 shows the traceback."""
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        _stop(interrupt)
    except BrokenPipeError:  # piped into head: nobody reads on, and the interpreter must not complain at its exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        from hops.config import CAN_MEND, sentence

        first: BaseException | None = error
        while first is not None and not isinstance(first, KeyboardInterrupt):
            first = first.__context__
        if first is not None:  # numba, interrupted while it compiles or loads, may end with a RuntimeError of its own
            _stop(first)
        if WANTS_TRACEBACK or not isinstance(error, CAN_MEND):
            raise
        print("\n".join(filter(None, [sentence(error), _hint(str(error))])), file=sys.stderr)
        sys.exit(1)


def _stop(interrupt: KeyboardInterrupt) -> NoReturn:
    print(": ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
    sys.exit(130)


def _hint(error: str) -> str | None:
    """Hydra looks for a key in the group's default option before it looks at the sweep: what to write instead."""
    found = re.match(r"Could not override '(\w+)\.[\w.]+'", error)
    swept = found and any(re.match(rf"\+?{found[1]}=.*[,(]", word) for word in sys.argv)
    return f"a key that only other options of {found[1]} have goes as an axis of one value: choice(...)" if found and swept else None
