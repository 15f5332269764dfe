"""Countdown: a line on a terminal that says how far a long evaluation is and how long it will still take; wiped off at the end."""

import sys
from collections.abc import Callable
from threading import Lock
from time import monotonic
from typing import Self, TextIO

PATIENCE, PAUSE = 2.0, 0.5  # s: before it says anything, and between two times that it does


class Countdown:
    """Of ``n`` parts that take about as long each; silent where ``out`` is no terminal, and about what is soon done."""

    def __init__(self, what: str, n: int, out: TextIO | None = None, clock: Callable[[], float] = monotonic) -> None:
        self.what, self.n, self.out, self.clock = what, n, out or sys.stderr, clock
        self.done, self.begun, self.width, self.lock = 0, clock(), 0, Lock()
        self.said = self.begun + PATIENCE - PAUSE if self.out.isatty() else float("inf")

    def tick(self, n: int = 1) -> None:
        """``n`` more parts are done."""
        with self.lock:
            self.done += n
            now = self.clock()
            if self.done and now - self.said >= PAUSE:
                rate = self.done / (now - self.begun)
                self._write(f"{self.what}: {100 * self.done // self.n} %, {rate:.3g} a second, {(self.n - self.done) / rate:.0f} s left")
                self.said = now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.width:
            self._write("")  # over all that stands there
            self._write("")  # and back to the beginning of the line

    def _write(self, line: str) -> None:
        self.out.write(f"\r{line:<{self.width}}")
        self.out.flush()
        self.width = len(line)
