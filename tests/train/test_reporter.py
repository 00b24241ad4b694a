"""How the loop reports; whole runs are in test_end_to_end.py."""

import math

import pytest
import tiny_runs

from t5x_mini import config
from t5x_mini.errors import UserError
from t5x_mini.train import metrics, run
from t5x_mini.train.reporter import Reporter


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny


@pytest.fixture(scope="module")
def assembled(tiny):
    return run.assemble(config.load([str(tiny.folder / "tiny.gin")], [f"MODEL_DIR={tiny.folder}/run"]))


def sums(**changes):
    names = ("objective", "normalizer", "loss", "weights", "seqs", "target_tokens", "all_tokens", "nonpadding_tokens")
    rest = {"z_loss": 0.0, "correct": 0.0, "grad_norm": 1.0, "param_norm": 2.0, "learning_rate": 0.01}
    return dict.fromkeys(names, 4.0) | rest | changes


@pytest.fixture
def reporter(assembled, tmp_path):
    with Reporter(assembled, metrics.Clock(), tmp_path, 0, None, enabled=True) as reporter:
        yield reporter


def steps(folder):
    return [row["step"] for row in metrics.read_metrics(folder / metrics.METRICS_FILE)]


def test_a_step_is_reported_when_the_next_one_is_added(reporter, tmp_path):
    reporter.add(1, sums())
    assert steps(tmp_path) == []
    reporter.add(2, sums())
    assert steps(tmp_path) == [1]
    reporter.flush()
    reporter.flush()
    assert steps(tmp_path) == [1, 2]


def test_evaluation_is_reported_by_task(reporter, tmp_path, capsys):
    row = {"loss_per_nonpadding_target_token": 2.5, "accuracy": 0.25}
    reporter.add_evaluation(7, {"one": row, "two": row | {"accuracy": 0.5}})
    first, second = metrics.read_metrics(tmp_path / metrics.METRICS_FILE)
    assert first == {"step": 7, "eval/one/loss_per_nonpadding_target_token": 2.5, "eval/one/accuracy": 0.25}
    assert second["eval/two/accuracy"] == 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_written_down_and_stops_the_run(reporter, tmp_path, value):
    reporter.add(1, sums())
    reporter.add(2, sums(objective=value))
    with pytest.raises(UserError, match=rf"The loss of step 2 is {value}; the run stops\. There is no checkpoint"):
        reporter.flush()
    assert steps(tmp_path) == [1, 2]


def test_parameters_that_are_not_finite_stop_the_run(reporter):
    reporter.last_good = "runs/x/checkpoints/20"
    reporter.add(3, sums(param_norm=math.nan))
    with pytest.raises(
        UserError, match="The parameter norm of step 3 is nan.*checkpoint is runs/x/checkpoints/20"
    ) as e:
        reporter.flush()
    assert "learning rate 0.01: a lower rate, a longer warm-up or --gin.CLIP_GLOBAL_NORM=1.0" in str(e.value)


def test_other_processes_write_nothing_and_still_stop(assembled, tmp_path):
    with Reporter(assembled, metrics.Clock(), tmp_path, 0, None, enabled=False) as reporter:
        reporter.add(1, sums(objective=math.nan))
        with pytest.raises(UserError, match="The loss of step 1 is nan"):
            reporter.flush()
    assert list(tmp_path.iterdir()) == []


def test_a_task_without_held_out_text_trains_without_evaluation(tiny, tmp_path):
    finished = tiny.run(
        "train",
        "--gin.EvaluateConfig.split=test",
        MODEL_DIR=str(tmp_path / "run"),
        TRAIN_STEPS=2,
        EVAL_PERIOD=1,
        CLOSING_REPORT=True,
    )
    assert finished.code == 0, finished.err
    assert "no evaluation: the task has no split 'test'" in finished.out
    assert "No closing report: there is no held-out text" in finished.out
    assert tiny_runs.evaluation_rows(tmp_path / "run") == []
    assert len(tiny_runs.training_rows(tmp_path / "run")) == 2
