"""Countdown: what a terminal is told, and that nobody else is told anything."""

from io import StringIO

from hops.countdown import PATIENCE, PAUSE, Countdown


class Terminal(StringIO):
    def isatty(self):
        return True


def told(out, n=100, each=0.25):
    """What is written while ``n`` parts take ``each`` seconds."""
    now = 0.0
    with Countdown("cells", n, out, lambda: now) as countdown:
        for _ in range(n):
            now += each
            countdown.tick()
    return out.getvalue()


def test_countdown__says_how_much_is_done_and_how_long_it_takes_and_goes_away():
    first, *lines = told(Terminal()).split("\r")
    assert first == ""
    assert lines[0] == "cells: 8 %, 4 a second, 23 s left"
    assert len(lines) == (100 * 0.25 - PATIENCE) / PAUSE + 1 + 2
    longest = max(map(len, lines))
    assert lines[-2].strip() == lines[-1] == ""
    assert len(lines[-2]) == len(lines[-3]) <= longest


def test_countdown__is_silent_where_nobody_looks_or_nothing_takes_long():
    assert told(StringIO()) == ""
    assert told(Terminal(), n=7) == ""


def test_countdown__knows_nothing_before_a_part_is_done():
    """Where runs are parts, cells may be done that have none left."""
    out, now = Terminal(), 0.0
    with Countdown("cells", 10, out, lambda: now) as countdown:
        now = PATIENCE + 1
        countdown.tick(0)
    assert out.getvalue() == ""
