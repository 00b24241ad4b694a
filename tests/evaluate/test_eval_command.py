"""`t5x-mini eval`: which checkpoints it measures, what it prints and writes, and what it refuses."""

import json

import pytest
import tiny_runs

from t5x_mini.evaluate import eval_command
from t5x_mini.evaluate.results import Results
from t5x_mini.train.metrics import LOSS


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny


@pytest.fixture(scope="module")
def run_dir(tiny):
    folder = tiny.folder / "run"
    finished = tiny.run("train", MODEL_DIR=str(folder), TRAIN_STEPS=2, CHECKPOINT_PERIOD=1)
    assert finished.code == 0, finished.err
    return folder


def test_a_split_that_no_task_has(tiny, run_dir):
    finished = tiny.run("eval", "--gin.EvaluateConfig.split=test", MODEL_DIR=str(run_dir))
    assert finished.code == 1
    assert f"No task of {tiny_runs.TASKS[0]} has a split 'test'" in finished.err
    assert "--gin.EvaluateConfig.split=train" in finished.err


def test_a_checkpoint_that_is_not_there(tiny, run_dir):
    finished = tiny.run("eval", MODEL_DIR=str(run_dir), CHECKPOINT_PATH=str(run_dir / "checkpoints" / "7"))
    assert finished.code == 1
    assert f"There is no checkpoint {run_dir / 'checkpoints' / '7'}" in finished.err
    assert "has those of the steps 1, 2." in finished.err


def test_a_checkpoint_of_another_model(tiny, run_dir):
    finished = tiny.run("eval", "--gin_file=gin/architectures/causal_lm.gin", MODEL_DIR=str(run_dir))
    assert finished.code == 1
    assert "architecture: encoder_decoder in the checkpoint, causal_lm in this run" in finished.err


def test_eval_needs_no_number_of_steps(tiny, run_dir):
    finished = tiny.run("eval", MODEL_DIR=str(run_dir), TRAIN_STEPS=None)
    assert finished.code == 0, finished.err
    assert "step 2, validation (loss in nats a token, accuracy token by token):" in finished.out
    assert (run_dir / "eval").is_dir()


def test_all_checkpoints_are_measured_and_compared(tiny, run_dir):
    finished = tiny.run("eval", MODEL_DIR=str(run_dir), EVAL_CHECKPOINTS="all")
    assert finished.code == 0, finished.err
    saved = [json.loads((run_dir / "eval" / f"validation-{step}.json").read_text()) for step in (1, 2)]
    losses = [found["tasks"][tiny_runs.TASKS[0]][LOSS] for found in saved]
    assert losses[0] > losses[1]
    lines = [line.split() for line in finished.out.splitlines()]
    assert ["1", f"{losses[0]:.4f}"] in lines and ["2", f"{losses[1]:.4f}", "<-", "best"] in lines
    assert "validation, the best by loss:" in finished.out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"EVAL_CHECKPOINTS": "best"}, "has no best checkpoint: it was trained without a BEST_METRIC"),
        ({"EVAL_CHECKPOINTS": "all", "CHECKPOINT_PATH": "/nowhere"}, "and /nowhere is no run's folder"),
        ({"EVAL_CHECKPOINTS": "bets"}, "must be 'last' or 'best' or 'all', not 'bets'"),
    ],
)
def test_checkpoints_that_are_not_there(tiny, run_dir, settings, words):
    finished = tiny.run("eval", **{"MODEL_DIR": str(run_dir)} | settings)
    assert finished.code == 1
    assert words in finished.err


def _results(step, accuracy, loss):
    losses = {task: {LOSS: loss, "accuracy": 0.5} for task in ("a", "b")}
    return Results(step, "validation", losses, {"a": {"f1": accuracy, "accuracy": 50.0}, "b": {"f1": float("nan")}})


def test_tables_can_be_read():
    assert eval_command.table(_results(5, 87.5, 0.25)) == [
        "step 5, validation (loss in nats a token, accuracy token by token):",
        "         loss  accuracy  answers",
        "  a    0.2500    50.00%  f1 87.50, accuracy 50.00",
        "  b    0.2500    50.00%  f1 nan",
        "  all  0.2500            average 34.38",
    ]


def test_the_best_of_several_checkpoints_is_marked():
    results = [_results(5, 80.0, 0.1), _results(10, 90.0, 0.2), _results(15, 90.0, 0.3)]
    assert eval_command.comparison(results) == [
        "validation, the best by average:",
        "  step    loss  average",
        "  5     0.1000    32.50",
        "  10    0.2000    35.00  <- best",
        "  15    0.3000    35.00",
    ]
    assert eval_command.comparison(results, "loss")[2].endswith("<- best")
    by_task = eval_command.comparison(results, "a/f1")
    assert by_task[1].split() == ["step", "loss", "average", "a/f1"] and by_task[3].endswith("90.00  <- best")
    assert eval_command.comparison(results, "another/f1") == eval_command.comparison(results)
