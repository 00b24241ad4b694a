"""Which finetunings there are, and how long they will take."""

import pytest

from t5x_mini.glue import benchmark, plan

PARTS = benchmark.choose(["cola", "rte"])


def names(*arguments):
    return [run.name for run in plan.plan(PARTS, *arguments)]


def test_one_for_all_tasks():
    (run,) = plan.plan(PARTS, "multi_task", 1, False)
    assert (run.name, run.parts) == ("multi_task/pretrained-seed0", tuple(PARTS))


def test_one_for_each_task():
    runs = plan.plan(PARTS, "per_task", 1, False)
    assert [(run.name, [part.name for part in run.parts]) for run in runs] == [
        ("cola/pretrained-seed0", ["cola"]),
        ("rte/pretrained-seed0", ["rte"]),
    ]


def test_goes_seed_by_seed():
    assert names("multi_task", 2, True) == [
        "multi_task/pretrained-seed0",
        "multi_task/scratch-seed0",
        "multi_task/pretrained-seed1",
        "multi_task/scratch-seed1",
    ]
    assert len(names("per_task", 3, True)) == 12


@pytest.mark.parametrize(
    ("seconds", "left", "words"),
    [
        ([], 3, ""),
        ([40, 60], 1, "about 50 s left"),
        ([0.1], 1, "about 1 s left"),
        ([40, 60], 5, "about 4 min left"),
        ([3600], 3, "about 3.0 h left"),
    ],
)
def test_tells_the_time_that_is_left(seconds, left, words):
    assert plan.remaining(seconds, left) == words
