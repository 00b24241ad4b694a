"""GLUE's parts, and what they are mixed by."""

import pytest
from task_goldens import T5

from t5x_mini.errors import UserError
from t5x_mini.evaluate.metrics import _GLUE_GROUPS
from t5x_mini.glue import benchmark


def test_the_default_parts_mixed_by_t5s_sizes_are_t5s_mixture():
    sizes = T5["rates"]["glue_v002_proportional"]
    rates = benchmark.rates(benchmark.choose(benchmark.DEFAULT), sizes.__getitem__)
    assert rates == {task: rate for task, rate in sizes.items() if task != "glue_ax_v002"}


def test_the_default_parts_are_scored_by_all_that_glues_average_takes():
    scored = {task for part in benchmark.choose(benchmark.DEFAULT) for task in part.scored}
    assert scored == {key.split("/")[0] for group in _GLUE_GROUPS for key in group}


def test_tasks_that_only_score_are_not_trained_on():
    rates = benchmark.rates(benchmark.choose(["mnli"]), lambda task: 7)
    assert rates == {"glue_mnli_v002": 7.0, "glue_mnli_matched_v002": 0.0, "glue_mnli_mismatched_v002": 0.0}


@pytest.mark.parametrize("names", [["rte", "cola"], ["glue_rte_v002", "cola", "rte"]])
def test_parts_are_chosen_by_either_name_in_the_sites_order(names):
    assert [part.name for part in benchmark.choose(names)] == ["cola", "rte"]


def test_refuses_a_task_that_glue_has_not():
    with pytest.raises(UserError, match="GLUE has no task 'mrcp'.*did you mean mrpc.*cola, sst2, mrpc"):
        benchmark.choose(["cola", "mrcp"])


def test_tables_call_tasks_as_the_site_does():
    names = ("glue_sst2_v002", "glue_mnli_matched_v002", "glue_mnli_mismatched_v002")
    assert [benchmark.title(name) for name in names] == ["SST-2", "MNLI-m", "MNLI-mm"]
