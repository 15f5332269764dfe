"""How numba compiles the kernels, and where it keeps what it compiled.

numba's own cache looks at one file's time stamp: after an edit of a function that a cached kernel calls, in another
file, it has returned stale results. So the cache folder is named after a hash of all sources of the package.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numba
from numba.core.registry import CPUDispatcher

MONTH = 30 * 24 * 3600.0


def kernel(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile ``function`` on first call: plain loops, no GIL, IEEE arithmetic as Python's (no fastmath), cached on disk."""
    settings: Any = numba.config
    theirs = settings.CACHE_DIR
    settings.CACHE_DIR = str(cache_folder())  # read while decorating; the user's own functions keep their folder
    try:
        njit: Any = numba.njit  # its types do not know of _nrt
        # nobody calls kernels from C: of 80 s of compilation, for a training run and an iteration, that saves 11
        compiled = njit(nogil=True, cache=True, error_model="numpy", no_cfunc_wrapper=True, **options)(function)
    finally:
        settings.CACHE_DIR = theirs
    # numba would compile a kernel anew for every constant that another passes to it: 95 instead of 68 compiled functions for one
    # training run and one iteration, 79 s instead of 72, and no faster (kernels of draws, of shared links and of training runs)
    template, whole = compiled.get_call_template, cast(Any, numba.types).unliteral
    compiled.get_call_template = lambda args, kws: template(tuple(map(whole, args)), {key: whole(kind) for key, kind in kws.items()})
    made: Callable[..., Any] = compiled
    return made


class _Inner(CPUDispatcher):
    __name__: str

    def __call__(self, *args: object, **kwargs: object) -> object:
        raise TypeError(f"{self.__name__} is called by kernels only; one that Python calls is a hops.jit.kernel")


def inner(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A `kernel` that only kernels call: what Python would call it by, with its tuples of arrays, took 13 of 69 s of compilation."""
    compiled = kernel(function, no_cpython_wrapper=True, **options)
    cast(Any, compiled).__class__ = _Inner  # numba itself would let Python call it, and crash
    return compiled


def bare(function: Callable[..., Any]) -> Callable[..., Any]:
    """An `inner` one that makes no arrays, so that nobody counts references: with tuples of many arrays that took most of the time."""
    return inner(function, _nrt=False)


def bare_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """A `kernel` that makes no arrays either; Python calls it as well as kernels."""
    return kernel(function, _nrt=False)


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``function`` part of the kernels that call it; with Philox as a call of its own, noise took 3.4 ns a factor instead of 1.2."""
    compiled: Callable[..., Any] = numba.njit(inline="always", error_model="numpy")(function)
    return compiled


@lru_cache(maxsize=1)
def cache_folder() -> Path:
    """Folder for this version of the sources; the first writable of NUMBA_CACHE_DIR, the user's cache, the temporary folder."""
    sources = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        sources.update(path.read_bytes())
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    shared = Path(tempfile.gettempdir()) / f"user-{os.getuid()}"  # everybody writes to the temporary folder: a name of our own
    for base in (os.environ.get("NUMBA_CACHE_DIR"), user, shared):
        if base:
            folder = Path(base) / "hops-numba" / sources.hexdigest()
            try:
                folder.mkdir(parents=True, exist_ok=True)
                os.utime(folder)
            except OSError:
                continue
            if os.access(folder, os.W_OK):
                _prune(folder)
                return folder
    return Path(tempfile.mkdtemp(prefix="hops-"))


def _prune(current: Path) -> None:
    for other in current.parent.iterdir():
        with contextlib.suppress(OSError):  # another process may prune at the same time
            ours = re.fullmatch("[0-9a-f]{16}", other.name) and other != current
            if ours and time.time() - other.stat().st_mtime > MONTH:
                shutil.rmtree(other, ignore_errors=True)
