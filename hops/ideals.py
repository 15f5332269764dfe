"""Ideals: a case in which something is as good as can be, such as a link, an exchange, a kind of noise. Its draws stay the same draws.

Times are shares of what the cell's own model and cluster gave; orders are never planned anew.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hops.checks import no_such
from hops.costs import Costs
from hops.distributions import TERMS
from hops.graph import fused_index, lag_index, unshard_index, unshard_lag
from hops.hindrances import NEVER_LOST
from hops.paths import PATH_CLASSES
from hops.simulation import Case
from hops.transformer import Transformer
from hops.weights import Floats, question, weights

EXCHANGES = ("tp", "cp", "ep")  # within the GPUs of a rank, in the order of `Costs.forward_exchange`
NOISES = tuple(f"{term} noise" for term in TERMS)
MEANING = {
    "recompute": "no activation is computed again",
    "tp": "exchanges of tensors within a rank take no time",
    "cp": "exchanges of sequences within a rank take no time",
    "ep": "exchanges with experts take no time",
    "balance": "every rank computes as long as the mean of all",
    "pp": "messages between stages take no time",
    "host": "hosts issue at once",
    "dp": "what replicas exchange takes no time",
    "optimizer": "weights are updated at once",
    "contention": "links are never shared",
    "disturbance": "nothing is disturbed",
    "lost messages": "no message is lost",
    **{f"{term} noise": f"no noise per {term}" for term in TERMS},
}


def made_ideal(case: Case, *names: str) -> Case:
    """``case`` with ``names`` ideal: of `MEANING`, or ``rank 3`` (no slower than the mean of the others), or ``link NET`` (free messages).

    The same case where that changes nothing; an unknown name is a ``ValueError``.
    """
    known = [*MEANING, *(f"rank {rank}" for rank in range(case.scenario.pp)), *(f"link {path}" for path in PATH_CLASSES)]
    for name in names:
        if name not in known:
            raise no_such("ideal", name, known)
    for name in sorted(set(names), key=known.index):
        case = _ideal(name)(case)
    return case


def _ideal(name: str) -> Callable[[Case], Case]:
    noun, _, which = name.partition(" ")
    if noun == "rank" and which.isdecimal():
        return lambda case: _balanced(case, int(which))
    if noun == "link" and which in PATH_CLASSES:
        return lambda case: _free(case, PATH_CLASSES.index(which))
    if name in NOISES:
        return lambda case: _without_noise(case, NOISES.index(name))
    if name in EXCHANGES:
        return lambda case: _without_exchange(case, EXCHANGES.index(name))
    return OTHERS[name]


def _without_noise(case: Case, term: int) -> Case:
    if case.tables[term] is None:
        return case
    return case._replace(tables=tuple(None if i == term else table for i, table in enumerate(case.tables)))


def _without_loss(case: Case) -> Case:
    return _hindered(case, retry=NEVER_LOST) if case.lossy else case


def _without_disturbance(case: Case) -> Case:
    return _hindered(case, disturbances=()) if case.scenario.hindrances.disturbances else case


def _hindered(case: Case, **changes: Any) -> Case:
    return case._replace(scenario=replace(case.scenario, hindrances=replace(case.scenario.hindrances, **changes)))


def _uncontended(case: Case) -> Case:
    return case if case.contention in ("none", "ignored") else case._replace(scenario=replace(case.scenario, contention="none"))


def _weighed(case: Case, **changes: Any) -> Case:
    return case._replace(weights=case.weights._replace(**changes))


def _without_update(case: Case) -> Case:
    return _weighed(case, update=np.zeros_like(case.weights.update)) if case.update.any() else case


def _without_host(case: Case) -> Case:
    return _weighed(case, host=np.zeros_like(case.weights.host)) if case.weights.host.any() else case


def _without_exchange_of_replicas(case: Case) -> Case:
    w, n_seats = case.weights, case.weights.costs.n_stages
    work, lag = w.work.copy(), w.lag.copy()
    work[:, unshard_index(n_seats, 0) : unshard_index(n_seats, n_seats)] = 0
    lag[:, unshard_lag(n_seats, 0) :] = 0
    if not (w.reduce.any() or w.gather.any() or (work != w.work).any()):
        return case
    nothing = {name: np.zeros_like(getattr(w, name)) for name in ("reduce", "gather", "slow")}
    return _weighed(case, work=work, lag=lag, **nothing)


def _free(case: Case, path: int | None = None) -> Case:
    """Messages over paths of a class, None: all, take no time."""
    w, n_seats = case.weights, case.weights.costs.n_stages
    sent = slice(lag_index(0, False), lag_index(n_seats, False))
    free = np.ones_like(w.link[:, sent], bool) if path is None else w.link[:, sent] == path
    work, lag = w.work.copy(), w.lag.copy()
    work[:, 4 * n_seats : 6 * n_seats][free] = 0
    lag[:, sent][free] = 0
    return case if (work == w.work).all() and (lag == w.lag).all() else _weighed(case, work=work, lag=lag)


def but_one(case: Case, rank: int) -> Case:
    """Every rank but one computes as long as the mean of all."""
    return _balanced(case, but=rank)


def _balanced(case: Case, rank: int | None = None, but: int | None = None) -> Case:
    """Every rank computes as long as the mean of all, but for one; or ``rank`` alone, if it takes longer, as the mean of the others."""
    w, often = case.weights, case.structure.n_works
    home = _home(case)
    spent = np.stack([np.bincount(home[home >= 0], (row * often)[home >= 0], case.scenario.pp) for row in w.work])  # (v, r)
    n = np.bincount(w.variant, minlength=len(w.work))[:, None]
    factor = np.ones_like(spent)
    if rank is None:
        factor[:] = (spent * n).sum() / (n.sum() * spent.shape[1]) / spent
        if but is not None:
            factor[:, but] = 1
    elif spent.shape[1] > 1:
        others = np.delete(spent, rank, axis=1)
        factor[:, rank] = np.minimum(1.0, (others * n).sum() / (n.sum() * others.shape[1]) / spent[:, rank])
    if np.allclose(factor, 1.0, rtol=1e-12, atol=0):
        return case
    work = w.work.copy()
    work[:, home >= 0] *= factor[:, home[home >= 0]]
    return _weighed(case, work=work)


def _home(case: Case) -> NDArray[np.int64]:
    """Of every place of the work vector the rank that computes it; -1: none does."""
    ranks, n_seats = np.array(case.structure.stage_ranks), case.weights.costs.n_stages
    home = np.full(case.weights.work.shape[1], -1)
    home[: 4 * n_seats] = np.repeat(ranks, 4)
    for i, pair in enumerate(case.structure.graph.pairs):
        for seat, kind in zip(pair, "FB", strict=True):
            home[fused_index(n_seats, i, kind)] = ranks[seat]
    return home


def _without_exchange(case: Case, which: int) -> Case:
    """What GPUs of a rank exchange in one way takes no time."""
    costs = case.weights.costs
    if costs.forward_exchange is None or costs.backward_exchange is None:
        return case
    there, back = ([each[which] for each in exchange] for exchange in (costs.forward_exchange, costs.backward_exchange))
    if not any(there) and not any(back):
        return case

    def less(times: tuple[float, ...], exchanged: list[float]) -> tuple[float, ...]:
        return tuple(time - each for time, each in zip(times, exchanged, strict=True))

    def none(exchange: tuple[tuple[float, float, float], ...]) -> Any:
        return tuple(tuple(0.0 if i == which else each for i, each in enumerate(stage)) for stage in exchange)

    return _with_costs(
        case,
        replace(
            costs,
            forward=less(costs.forward, there),
            backward=less(costs.backward, back),
            backward_input=less(costs.backward_input, back),
            forward_exchange=none(costs.forward_exchange),
            backward_exchange=none(costs.backward_exchange),
        ),
    )


def _without_recompute(case: Case) -> Case:
    s, built = case.scenario, case.structure
    if not isinstance(s.model, Transformer) or s.model.recompute == "none":
        return case
    model = replace(s.model, recompute="none", recompute_repeat=False, layout=case.weights.costs.partition or s.model.layout)
    asked = question(replace(s, model=model), built.stage_ranks, built.graph.pairs, built.graph.pipelines)
    return _with_costs(case, weights(asked).costs)


def _with_costs(case: Case, costs: Costs) -> Case:
    """The case whose ops take by as much less or more time as ``costs`` are below or above its own."""
    w, old, n_seats = case.weights, case.weights.costs, costs.n_stages

    def times(each: Costs) -> Floats:
        ops = np.array([each.forward, each.backward, each.backward_input, each.backward_weight], float).T.ravel()
        halves = np.array(
            [
                each.fused(f, b, case.scenario.slowdown.ep) / (each.forward[f] + each.backward[b]) * time
                for f, b in case.structure.graph.pairs
                for time in (each.forward[f], each.backward[b])
            ]
        )
        return np.concatenate([ops, np.ones(3 * n_seats), halves])

    return _weighed(case, work=w.work * (times(costs) / times(old)), costs=costs)


OTHERS: dict[str, Callable[[Case], Case]] = {
    "recompute": _without_recompute,
    "balance": _balanced,
    "pp": _free,
    "host": _without_host,
    "dp": _without_exchange_of_replicas,
    "optimizer": _without_update,
    "contention": _uncontended,
    "disturbance": _without_disturbance,
    "lost messages": _without_loss,
}
