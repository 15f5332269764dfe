"""A team of threads that share tasks; kernels let go of the interpreter, so threads run side by side."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Self


class Team:
    """The calling thread and ``n - 1`` others; the caller takes its share of the tasks, as waking another takes some 50 us."""

    def __init__(self, n: int) -> None:
        self.n, self.others = n, ThreadPoolExecutor(max(1, n - 1))

    @classmethod
    def of(cls, threads: int | None) -> Self:
        """So many threads; None: as many as the process may use."""
        return cls(threads or os.process_cpu_count() or 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.others.shutdown(cancel_futures=True)

    def run(self, task: Callable[..., None], todo: Iterable[tuple[int, ...]]) -> None:
        """Call ``task`` with every item of ``todo``, on whichever thread is free; after an error, or Ctrl-C, nothing new begins."""
        left = list(todo)[::-1]

        def work() -> None:
            try:
                while left:
                    try:
                        item = left.pop()
                    except IndexError:  # another thread took the last one
                        return
                    task(*item)
            except BaseException:
                left.clear()
                raise

        busy = [self.others.submit(work) for _ in range(min(self.n, len(left)) - 1)]
        try:
            work()
        except BaseException:
            wait(busy)  # they write into the same arrays; what befell them, as a compilation cut short, is not what is told
            raise
        for each in busy:
            each.result()
