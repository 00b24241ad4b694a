"""Means and spreads over seeds, averages, and how the table is written."""

import math
import statistics

import pytest

from t5x_mini.evaluate.metrics import glue_average
from t5x_mini.evaluate.spread import Spread
from t5x_mini.glue import benchmark, plan, table

COLA, RTE = "glue_cola_v002", "glue_rte_v002"
CHANCE = {COLA: {"matthews_corrcoef": 0.0}, RTE: {"accuracy": 53.0}}


def outcome(start, seed, cola, rte, strategy="multi_task"):
    parts = tuple(benchmark.choose(["cola", "rte"]))
    scores = {COLA: {"matthews_corrcoef": cola}, RTE: {"accuracy": rte}}
    return table.Outcome(plan.Finetuning(strategy, parts, start, seed), 10, scores, 1.0)


OUTCOMES = [
    outcome("pretrained", 0, 40.0, 70.0),
    outcome("scratch", 0, 4.0, 56.0),
    outcome("pretrained", 1, 50.0, 74.0),
    outcome("scratch", 1, math.nan, 54.0),
]


def test_a_row_for_each_metric_and_one_for_the_average():
    rows = table.rows(OUTCOMES, CHANCE)
    assert [(row.task, row.metric) for row in rows] == [
        ("CoLA", "matthews_corrcoef"),
        ("RTE", "accuracy"),
        ("average of these tasks", ""),
    ]
    assert {name: cell.values for name, cell in rows[0].cells.items()} == {
        "pretrained": (40.0, 50.0),
        "from scratch": (4.0, 0.0),
        "chance": (0.0,),
    }
    assert rows[-1].cells["pretrained"].values == (55.0, 62.0)
    assert rows[-1].cells["chance"].values == (26.5,)


def test_a_task_each_makes_the_same_table():
    apart = [
        table.Outcome(plan.Finetuning(task, (part,), o.run.start, o.run.seed), 10, {task: o.scores[task]}, 1.0)
        for o in OUTCOMES
        for part in o.run.parts
        for task in part.scored
    ]
    assert table.as_text(table.rows(apart, CHANCE)) == table.as_text(table.rows(OUTCOMES, CHANCE))


def test_all_of_glue_has_its_average():
    parts = tuple(benchmark.choose(benchmark.DEFAULT))
    metrics = {"glue_cola_v002": ["matthews_corrcoef"], "glue_stsb_v002": ["pearson_corrcoef", "spearman_corrcoef"]}
    metrics |= {f"glue_{name}_v002": ["f1", "accuracy"] for name in ("mrpc", "qqp")}
    tasks = [task for part in parts for task in part.scored]
    scores = {
        task: {metric: 10.0 * place + nr for nr, metric in enumerate(metrics.get(task, ["accuracy"]))}
        for place, task in enumerate(tasks)
    }
    run = plan.Finetuning("multi_task", parts, "pretrained", 0)
    last = table.rows([table.Outcome(run, 1, scores, 1.0)], scores)[-1]
    assert (last.task, last.cells["pretrained"].values) == ("GLUE average", (glue_average(scores),))


def test_spread_is_the_sample_standard_deviation():
    cell = Spread((40.0, 50.0, 45.5))
    assert cell.deviation == pytest.approx(statistics.stdev([40.0, 50.0, 45.5]))
    assert cell.text() == "45.2 ± 5.0"
    assert Spread((45.16,)).text() == "45.2"


def test_text_is_aligned():
    lines = table.as_text(table.rows(OUTCOMES, CHANCE)).splitlines()
    assert lines[0].split() == ["pretrained", "from", "scratch", "chance"]
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["CoLA", "matthews_corrcoef", "45.0", "±", "7.1", "2.0", "±", "2.8", "0.0"]
    assert set(lines[-2]) == {"-"}


def test_markdown_has_the_same_cells():
    lines = table.as_markdown(table.rows(OUTCOMES, CHANCE)).splitlines()
    assert lines[0] == "| task | metric | pretrained | from scratch | chance |"
    assert lines[2] == "| CoLA | matthews_corrcoef | 45.0 ± 7.1 | 2.0 ± 2.8 | 0.0 |"


def test_says_how_far_apart_the_averages_are():
    scratch, chance = table.comparison(table.rows(OUTCOMES, CHANCE)).splitlines()
    # Averages: 55 and 62, spread 4.95; from scratch 30 and 27; chance 26.5.
    assert scratch == "pretrained - from scratch: +30.0, 6.1 times the spread over seeds (4.9)"
    assert chance == "pretrained - chance: +32.0, 6.5 times the spread over seeds (4.9)"


def test_one_seed_has_no_spread():
    assert table.comparison(table.rows(OUTCOMES[:1], CHANCE)) == "pretrained - chance: +28.5"
