"""1F1B: a warmup of forwards, then one forward and one backward in turn, then the remaining backwards.

Also called PipeDream-flush and DAPPLE. Rank r warms up with p-1-r forwards, so that it never holds more than p-r
activations. Transfers are not hidden in the steady state: each round of p microbatches pays 2(p-1) hops.
"""

from hops.schedules import Op, Program, alternate, schedule


def n_hops(p: int, n: int, more: int = 0) -> int:
    """Transfers on the longest path of ``n`` microbatches where all ranks warm up with ``more`` forwards than 1F1B, n - 1 at most.

    Ops of a kind take the same time everywhere, and hops little beside them: so of all paths that have the whole of the compute,
    (n + p - 1)(F + B), the one with most transfers counts. All of these climb to the last rank before its first backward, and descend
    from it after its last forward: 2(p - 1). The L = n - 1 - more rounds between have a backward and a forward each. No rank idles, so a
    path may turn anywhere: it descends by backwards and climbs by forwards, p of them at most in a row. All 2 L ops end with a transfer
    but those before a turn, of which there are two for every p rounds begun.
    """
    rounds = n - 1 - more
    return 2 * (p - 1) + 2 * (rounds - -(-rounds // p))


@schedule(
    "1f1b",
    aliases=("1F1B",),
    source="Narayanan et al. 2021, Megatron-LM, fig. 4 top (arXiv:2104.04473); Fan et al. 2021, DAPPLE (arXiv:2007.01045)",
    makespan=lambda p, m, t: (m + p - 1) * (t.f + t.b) + n_hops(p, m) * t.hop,
    exact_when=lambda p, m: True,
    in_flight=lambda p, m, rank: min(p - rank, m),
    messages=lambda p, m: 2 * m * (p - 1),
)
def one_f_one_b(pp: int, microbatches: int) -> Program:
    ranks = []
    for rank in range(pp):
        forward, backward = ([Op(rank, kind, k) for k in range(microbatches)] for kind in "FB")
        ranks.append(alternate(forward, backward, warmup=pp - 1 - rank))
    return Program("1f1b", ranks)  # type: ignore[arg-type]
