"""What `eval` refuses; what it measures is in test_end_to_end.py, beside the run that made the checkpoint."""

import json

import pytest
import tiny_runs


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny


@pytest.fixture(scope="module")
def run_dir(tiny):
    folder = tiny.folder / "run"
    finished = tiny.run("train", MODEL_DIR=str(folder), TRAIN_STEPS=1)
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
    assert "has those of the steps 1." in finished.err


def test_a_checkpoint_of_another_model(tiny, run_dir):
    finished = tiny.run("eval", "--gin_file=gin/architectures/causal_lm.gin", MODEL_DIR=str(run_dir))
    assert finished.code == 1
    assert "architecture: encoder_decoder in the checkpoint, causal_lm in this run" in finished.err


def test_eval_needs_no_number_of_steps(tiny, run_dir):
    finished = tiny.run("eval", MODEL_DIR=str(run_dir), TRAIN_STEPS=None)
    assert finished.code == 0, finished.err
    assert "step 1: " in finished.out
    assert (run_dir / "eval").is_dir()


def test_answers_are_scored_by_the_tasks_metrics(tiny, tmp_path):
    file = tmp_path / "rows.tsv"
    file.write_text("side\tscore\n" + "".join(f"turn {side}\t{side}.0\n" for side in range(20)))
    task = {
        "MODEL_DIR": str(tmp_path / "run"),
        "MIXTURE_OR_TASK_MODULE": None,
        "MIXTURE_OR_TASK_NAME": "turns",
        "VOCABULARY": str(tiny.folder / "tiny.model"),
        "turns/TextToTextTask.files": {"train": str(file), "validation": str(file)},
        "turns/TextToTextTask.inputs": "{side}",
        "turns/TextToTextTask.targets": "{score}",
        "turns/TextToTextTask.postprocessor": "float",
        "turns/TextToTextTask.metrics": ["exact_match", "pearson"],
    }
    finished = tiny.run("train", TRAIN_STEPS=1, **task)
    assert finished.code == 0, finished.err
    finished = tiny.run("eval", **task)
    assert finished.code == 0, finished.err
    # After one step the model writes the same to all rows, which is no number: nothing is right, nothing correlates.
    assert "step 1: turns, validation: answers: exact_match 0.00, pearson_corrcoef nan" in finished.out
    saved = json.loads((tmp_path / "run" / "eval" / "validation-1.json").read_text())
    assert saved["metrics"] == {"turns": {"exact_match": 0.0, "pearson_corrcoef": None}}
    assert saved["tasks"]["turns"]["loss_per_nonpadding_target_token"] > 0
