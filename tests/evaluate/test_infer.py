"""What `infer` refuses, and which rows it writes."""

import json

import numpy as np
import pytest
import tiny_runs
from tiny_runs import TASKS

from t5x_mini.evaluate import infer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny


def test_packed_rows_are_refused(tiny, tmp_path):
    finished = tiny.run("infer", MODEL_DIR=str(tmp_path), PACK=True)
    assert finished.code == 1
    assert "PACK is True; write --gin.PACK=False" in finished.err


def test_every_example_of_every_task_once(tiny, tmp_path):
    macros = {"MODEL_DIR": str(tmp_path), "MIXTURE_OR_TASK_NAME": tiny_runs.MIXTURE, "TRAIN_STEPS": 1}
    finished = tiny.run("train", **macros)
    assert finished.code == 0, finished.err
    finished = tiny.run("infer", EVAL_STEPS=None, **macros)
    assert finished.code == 0, finished.err
    for task in TASKS:
        lines = (tmp_path / "infer" / f"{task}-1.jsonl").read_text().splitlines()
        # None of the rows that fill up the last batch; with their spans put back, the whole split is there.
        rows = [json.loads(line) for line in lines]
        assert all(row["inputs"] and row["targets"] for row in rows)
        words = sum(len(row[name].split()) for row in rows for name in ("inputs", "targets"))
        assert words >= len((tiny.folder / f"{task}_validation.txt").read_text().split())


def test_padding_is_not_decoded():
    assert infer._until_padding(np.array([5, 6, 1, 0, 0])) == [5, 6, 1]
