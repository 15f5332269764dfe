"""Partitions: layers to stages, evenly, by time, or by Megatron's string."""

import itertools
import random

import pytest

from hops.checks import Infeasible
from hops.partition import Slice, balanced, even, parse, slices, written


def times_of(counts, times, first, last):
    cuts = [0, *itertools.accumulate(counts)]
    found = [sum(times[a:b]) for a, b in itertools.pairwise(cuts)]
    found[0] += first
    found[-1] += last
    return found


def test_even__is_as_even_as_can_be_and_the_last_stage_has_fewest():
    assert [even(10, n) for n in (4, 3, 10, 1)] == [(3, 2, 3, 2), (4, 3, 3), (1,) * 10, (10,)]


def test_balanced__no_partition_is_faster():
    """Against all partitions in which every stage but the last has a layer."""
    chance = random.Random(0)
    for _ in range(300):
        n = chance.randint(1, 8)
        n_stages = chance.randint(1, n)
        times = [chance.choice([1.0, 2.0, 0.3, chance.random()]) for _ in range(n)]
        first, last = chance.choice([0.0, 0.5]), chance.choice([0.0, 1.0, 3.3])
        found = balanced(times, first, last, n_stages)
        least = 0 if last else 1
        cuts = ([0, *each, n] for each in itertools.combinations(range(1, n + 1), n_stages - 1))
        every = [counts for counts in ([b - a for a, b in itertools.pairwise(each)] for each in cuts) if counts[-1] >= least]
        best = min(max(times_of(counts, times, first, last)) for counts in every)
        assert sum(found) == n
        assert all(found[:-1])
        assert found[-1] >= least
        assert max(times_of(found, times, first, last)) == pytest.approx(best)


def test_balanced__alike_layers_are_spread_evenly_and_the_head_takes_the_place_of_some():
    assert balanced([1.0] * 12, 0.0, 0.0, 4) == (3, 3, 3, 3)
    assert balanced([1.0] * 126, 0.0, 2.0, 16) == (8,) * 15 + (6,)
    assert balanced([1.0] * 4, 0.0, 9.0, 3) == (2, 2, 0)
    with pytest.raises(Infeasible, match="the model has 3 layers, too few for 4 stages"):
        balanced([1.0] * 3, 0.0, 0.0, 4)


def test_parse__megatrons_example():
    """DeepSeek-V3 on 16 ranks of two chunks: 61 layers, its MTP layer and its head on stages of their own."""
    found = parse("Et*3|(tt|)*29,m|L")
    assert len(found) == 32
    assert found[0] == Slice(0, 3, embedding=True)
    assert found[1:30] == tuple(Slice(a, a + 2) for a in range(3, 61, 2))
    assert found[30:] == (Slice(61, 61, mtp=1), Slice(61, 61, head=True))


def test_parse__first_and_last_stage_one_layer_fewer():
    """Llama 3 405B (Grattafiori et al. 2024, section 3.3.2): 126 layers on 16 ranks."""
    assert parse("Et*7|(t*8|)*14,t*7,L") == slices([7, *[8] * 14, 7])


@pytest.mark.parametrize("text", ["EttL", "Ett|ttL", "E|tt|m|L", "Et*7|(t*8|)*14t*7L", "Et|((t|)*2tt|)*3L", "EttmmL", "Et|tm|m|L"])
def test_written__reads_back(text):
    assert parse(written(parse(text))) == parse(text)


def test_written__is_short():
    assert written(parse("Ettt|tt|tt|tt|tt|L")) == "Et*3|(tt|)*4L"
    assert written(slices([2, 2, 1], mtp=1)) == "Ett|tt|tmL"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("tt|ttL", "needs one E, on the first of its 2 stages; it has none"),
        ("Ett|Etl", "got 'l' in 'Ett|Etl'"),
        ("Ett|EtL", "needs one E, on the first of its 2 stages; it has one on stage 1"),
        ("Ett|tt", "needs one L, on the last of its 2 stages; it has none"),
        ("EttL|ttL", "needs one L, on the last of its 2 stages; it has one on stage 0"),
        ("Ett||ttL", "stage 1 of 3 is empty"),
        ("Ett|Lt", "stage 1 reads 'Lt'; a stage has E, t, m, L in this order"),
        ("Em|tL", "has an m on stage 0 before the t of stage 1"),
        ("E(tt|ttL", "opens 1 more bracket"),
        ("Ett|)*2L", "closes a bracket that it never opened"),
        ("Et*|tL", r"has a \* without a number"),
        ("E(t*60000)*60000L", "repeats .* 60000 times; at most 65536 symbols"),
        ("Et*9999999L", "repeats 't' 9999999 times"),
        ("", "needs one E"),
    ],
)
def test_parse__what_cannot_be_meant(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse(text)
