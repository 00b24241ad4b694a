"""What `eval` refuses; what it measures is in test_end_to_end.py, beside the run that made the checkpoint."""

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
    assert "architecture: encoder_decoder when it was saved, causal_lm now" in finished.err


def test_eval_needs_no_number_of_steps(tiny, run_dir):
    finished = tiny.run("eval", MODEL_DIR=str(run_dir), TRAIN_STEPS=None)
    assert finished.code == 0, finished.err
    assert "step 1: " in finished.out
    assert (run_dir / "eval").is_dir()
