"""Rollback: what a trial goes back to, and what that makes of all it has done since."""

from hops.commits import uncommit
from hops.course import BUSY_HIGH, BUSY_LOW, COMMITTED, DONE, IDLE, KEPT, LOST, LOST_HIGH, LOST_LOW, MEMORY, NOW, TOUCHED, USEFUL, WASTED
from hops.diary import note
from hops.jit import bare, inlined


@inlined
def promote(point):  # type: ignore[no-untyped-def]
    """What was being persisted is durable."""
    for k in range(point.shape[1]):
        point[0, k] = point[1, k]


@bare
def forget(done, attempt, r):  # type: ignore[no-untyped-def]
    """Iterations from ``done`` on have been for nothing, and will be attempted again."""
    r[LOST] += r[DONE] - done
    for i in range(done, r[DONE]):
        attempt[i] += 1
    r[TOUCHED] = max(r[TOUCHED], r[DONE])
    r[DONE] = done


@bare
def back_to(row, point, attempt, gaps, diary, r):  # type: ignore[no-untyped-def]
    """Go back to a row of ``point``: the durable checkpoint, or the copy in the memory of others."""
    useful, idle, high, low = r[USEFUL], r[IDLE + USEFUL], r[BUSY_HIGH], r[BUSY_LOW]
    for k, kept in enumerate(KEPT):
        r[kept] = point[row, 1 + k]
    r[WASTED] += useful - r[USEFUL]
    note(diary, r[COMMITTED], r[NOW], LOST)
    r[IDLE + WASTED] += idle - r[IDLE + USEFUL]
    r[LOST_HIGH] += high - r[BUSY_HIGH]
    r[LOST_LOW] += low - r[BUSY_LOW]
    forget(point[row, 0], attempt, r)
    uncommit(r, gaps, r[DONE])
    r[MEMORY] = r[DONE]
    for k in range(point.shape[1]):
        point[2, k] = point[row, k]
