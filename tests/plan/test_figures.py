import json

import made_up_plans
import pytest

from t5x_mini.plan import figures, topologies
from t5x_mini.plan.hlo_collectives import Collective


def test_a_plan_is_the_same_after_json():
    plan = made_up_plans.plan()
    assert figures.Plan.from_json(json.loads(json.dumps(plan.as_json()))) == plan


def test_json_has_what_follows_from_the_numbers():
    made = made_up_plans.plan().as_json()
    assert made["memory"]["total"] == 8 * topologies.GIB
    assert made["memory"]["fits"] is True
    assert made["times"]["fastest"] == 0.01
    assert made["times"]["slowest"] == pytest.approx(0.012)


@pytest.mark.parametrize(("available", "fits"), [(None, None), (8 * topologies.GIB, True), (7e9, False)])
def test_whether_it_fits(available, fits):
    assert made_up_plans.with_memory(available=available).memory.fits is fits


def test_times_of_a_chip():
    chip = topologies.Chip(hbm=1, hbm_bandwidth=100.0, peak_flops=1000.0, clock=10.0, link=5.0, dcn=2.0, axes=2)
    inside, between = Collective("all-reduce", 80, 8, 1, 3), Collective("all-reduce", 10, 2, 2, 3)
    times = figures.step_times(chip, flops=4000, hbm_bytes=50, cycles=20, collectives=(inside, between))
    assert (times.compute, times.memory, times.cycles) == (4.0, 0.5, 2.0)
    assert times.ici == pytest.approx(3 * 80 * 2 * 7 / 8 / 10)
    assert times.dcn == pytest.approx(3 * 10 * 2 * 1 / 2 / 2)  # half of its part there and half back
    assert times.slowest == pytest.approx(4.0 + times.ici + times.dcn)


def test_without_links_collectives_cost_nothing_that_is_known():
    chip = topologies.Chip(hbm=1, hbm_bandwidth=1.0, peak_flops=1.0)
    times = figures.step_times(chip, 2.0, collectives=(Collective("all-reduce", 80, 8, 2, 3),))
    assert (times.ici, times.dcn, times.fastest) == (0.0, 0.0, 2.0)
