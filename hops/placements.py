"""Placements: which rank holds which stage."""

from collections.abc import Callable

from hops.routes import routes_of

# placement name -> (pp, stage) -> rank, of a single pipeline
PLACEMENTS: dict[str, Callable[[int, int], int]] = {
    "line": lambda pp, stage: stage,
    "loop": lambda pp, stage: stage % pp,
    "wave": lambda pp, stage: stage % pp if stage // pp % 2 == 0 else pp - 1 - stage % pp,  # to and fro; with two chunks a V
}

BIDIRECTIONAL = "bidirectional"  # of two pipelines; bidirectional:4 and so on of more


def n_pipelines(placement: str) -> int:
    """Pipelines of a placement; of several each has all stages, and weights of its own for them. Routes count as pipelines."""
    if (routes := routes_of(placement)) is not None:
        return len(routes.ranks)
    name, _, n = placement.partition(":")
    if name != BIDIRECTIONAL:
        return 1
    found = int(n) if n.isdecimal() else 0 if n else 2
    if found < 2 or found % 2:
        raise ValueError(f"placement {placement!r} needs an even number of pipelines behind the colon, such as {BIDIRECTIONAL}:4")
    return found


def seat_rank(placement: str, pp: int, seat: int) -> int:
    """Rank of a seat, see `Program.first_seats`: of a stage where there is one pipeline.

    Of 2f pipelines the first f go down the ranks and begin pp / f of them apart; the others go the opposite way over the same ranks
    (Li & Hoefler 2021, arXiv:2107.06925, more than two pipelines, from memory).
    """
    if (routes := routes_of(placement)) is not None:
        return routes.ranks[seat // routes.n_stages][seat % routes.n_stages]
    n = n_pipelines(placement)
    if n == 1:
        return PLACEMENTS[placement](pp, seat)
    pipeline, stage = divmod(seat, pp)
    along = stage if pipeline < n // 2 else pp - 1 - stage
    return (along + pipeline % (n // 2) * (2 * pp // n)) % pp


def pipelines_of(placement: str, microbatches: int) -> tuple[int, ...]:
    """Pipeline of every microbatch: they are dealt out in equal runs, or have their routes."""
    if (routes := routes_of(placement)) is not None:
        return routes.route
    n = n_pipelines(placement)
    return tuple(k * n // microbatches for k in range(microbatches))


def unserved(placement: str, pp: int, n_stages: int, microbatches: int) -> str | None:
    """What a placement of several pipelines needs and does not find in these sizes."""
    found = f"{pp} ranks, {n_stages} stages and {microbatches} microbatches"
    if (routes := routes_of(placement)) is not None:
        wanted = routes.n_ranks, routes.n_stages, len(routes.route)
        text = f"{wanted[0]} ranks, {wanted[1]} stages and {wanted[2]} microbatches"
        return None if wanted == (pp, n_stages, microbatches) else f"needs {text}; got {found}"
    n = n_pipelines(placement)
    if n == 1 or (pp % n == 0 and n_stages == pp and microbatches >= n):
        return None
    return f"needs a multiple of {n} ranks, as many stages, and {n} microbatches or more; got {found}"
