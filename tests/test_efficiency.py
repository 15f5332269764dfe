"""Efficiency: one law, steadily rising in every size, of which a constant share is the case without losses."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_costs import GPT, line

import hops
from hops.checks import Infeasible
from hops.collectives import Groups, Ring
from hops.efficiency import Efficiency, constant, make_efficiency
from hops.hardware import GPUS

LAW = Efficiency(0.9, 0.7, half_tokens=400, half_width=600, half_hidden=1000)
sizes = st.floats(1, 1e6)


@given(sizes, sizes, sizes, sizes, st.floats(1.0, 4.0))
def test_share__rises_in_every_size_and_stays_below_the_peak(tokens, n, k, hidden, factor):
    here = LAW.share(tokens, n, k, hidden)
    assert 0 < here < 0.9
    for grown in (
        (tokens * factor, n, k, hidden),
        (tokens, n * factor, k, hidden),
        (tokens, n, k * factor, hidden),
        (tokens, n, k, hidden * factor),
    ):
        assert LAW.share(*grown) >= here


def test_share__is_a_half_where_a_size_equals_its_number():
    huge = 1e12
    assert LAW.share(400, huge, huge, huge) == pytest.approx(0.45)
    assert LAW.share(huge, 600, huge, huge) == pytest.approx(0.45)
    assert LAW.share(huge, huge, huge, 1000) == pytest.approx(0.45)
    assert constant(0.45).share(1, 2, 3, 4) == 0.45


def test_costs__a_law_without_losses_is_the_constant():
    assert GPT.costs(GPUS["h100"], line(8), 2, efficiency=Efficiency(0.5, 0.5)) == GPT.costs(GPUS["h100"], line(8), 2)


def test_costs__by_hand():
    """A stage of 6 layers: every product at its own share, the core at the attention's, not less than the floor, collectives on top."""
    two, h, t = Ring(2, 1e-6, 1e11), 6144, 2048
    law = replace(LAW, collective_step=5e-6, iteration=0.25)
    costs = GPT.costs(GPUS["h100"], line(8), 1, (Groups(two, expert_tensor=two),) * 8, law)
    products = [(3 * h / 2, h), (h, h / 2), (4 * h / 2, h), (h, 4 * h / 2)]
    linear = sum(2 * t * n * k / (989e12 * law.share(t, n, k, h)) for n, k in products)
    core = 4 * t * t * h / 2 / (989e12 * 0.7)
    exchange = 2 * (two.all_reduce(t * h * 2) + 2 * 5e-6)
    assert costs.forward[3] == pytest.approx(6 * (linear + core + exchange))
    assert costs.backward_input[3] == pytest.approx(6 * (linear + 2 * core + exchange))
    assert costs.backward_weight[3] == pytest.approx(6 * linear)
    head = 2 * t * h * 25600 / (989e12 * law.share(t, 25600, h, h))
    assert costs.forward[7] - costs.forward[3] == pytest.approx(head)
    assert costs.overhead == 0.25
    slow = GPT.costs(GPUS["h100"], line(8), 1, (Groups(two, expert_tensor=two),) * 8, replace(law, floor=0.1))
    assert slow.forward[3] == slow.backward_input[3] == pytest.approx(6 * (0.1 + exchange))
    assert slow.backward_weight[3] == costs.backward_weight[3]


def test_costs__experts_see_their_share_of_the_tokens():
    mixture = replace(GPT, experts=8, active_experts=2)
    layer = mixture.kinds[1]
    assert [each.rows for each in layer.matrices()] == [1.0, 1.0, 1.0]
    assert layer.expert_matrices() == ((4 * 6144, 6144, 0.25, 8), (6144, 4 * 6144, 0.25, 8))
    every = (*layer.matrices(), *layer.expert_matrices())
    assert sum(each.rows * each.parameters for each in every) == layer.active_parameters


def test_iteration__ends_with_the_law_s_overhead():
    words = ("topology.gpu=a100", "latency=none", "microbatches=8", "efficiency=a100_megatron")
    with_it, without = hops.simulate(*words), hops.simulate(*words, "efficiency.iteration=0")
    assert float(with_it["iteration_time"][0] - without["iteration_time"][0]) == pytest.approx(2.9e-3, abs=1e-9)
    assert float(with_it["makespan"][0]) == float(without["makespan"][0])


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"peak_share": 0.5}, "efficiency.attention_share is not set"),
        ({"peak_share": 1.5, "attention_share": 0.5}, "efficiency.peak_share must be a share of the peak, above 0 and at most 1; got 1.5"),
        ({"peak_share": 0.5, "attention_share": 0.5, "floor": -1}, "efficiency.floor must be a finite number at least 0; got -1"),
        ({"peak_shar": 0.5}, "no key of efficiency named 'peak_shar'; did you mean 'peak_share'?"),
    ],
)
def test_bad_input__is_refused_by_name(section, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_efficiency(section)


def test_bad_input__a_law_of_another_device():
    with pytest.raises(Infeasible, match="calibrated on a100, not h100"):
        GPT.costs(GPUS["h100"], line(8), 1, efficiency=replace(LAW, device="a100"))
    cube = hops.sweep_cube("efficiency=a100_megatron", "topology.gpu=a100,h100", "draws=2", "microbatches=4")
    assert cube["evaluated"].values.tolist() == [True, False]
