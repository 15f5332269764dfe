"""Results that are remembered for as long as together they take no more than so many bytes; those asked for longest ago go first."""

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Any


def remembered[**P, T](most: int, size: Callable[[T], int]) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Remember the results of a function of hashable arguments, ``size`` bytes each, up to ``most`` bytes; the last one in any case."""

    def remember(function: Callable[P, T]) -> Callable[P, T]:
        kept, lock, taken = OrderedDict[Any, T](), Lock(), 0

        @wraps(function)
        def asked(*args: P.args, **kwargs: P.kwargs) -> T:
            nonlocal taken
            key = args, tuple(kwargs.items())
            with lock:
                if key in kept:
                    kept.move_to_end(key)
                    return kept[key]
            made = function(*args, **kwargs)
            with lock:
                if key not in kept:
                    kept[key], taken = made, taken + size(made)
                while taken > most and len(kept) > 1:
                    taken -= size(kept.popitem(last=False)[1])
            return made

        return asked

    return remember
