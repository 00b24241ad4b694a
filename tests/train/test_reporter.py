"""How the loop reports; whole runs are in test_end_to_end.py."""

import math

import numpy as np
import pytest
import tensorboard_events
import tiny_runs

from t5x_mini import config
from t5x_mini.errors import UserError
from t5x_mini.evaluate.results import Results
from t5x_mini.train import blocks, metrics, run
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


def opened(assembled, folder):
    """What is on the screen can be read by tests that open it themselves: it writes to the stderr of that moment."""
    return Reporter(assembled, metrics.Clock(), folder, 0, None, resumed=False, enabled=True)


@pytest.fixture
def reporter(assembled, tmp_path):
    with opened(assembled, tmp_path) as reporter:
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


def test_an_evaluation_is_one_row_and_a_line_a_task(assembled, tmp_path, capsys):
    row = {"loss_per_nonpadding_target_token": 2.5, "accuracy": 0.25}
    scores = {"one": {"accuracy": 80.0, "f1": 60.0}, "three": {"accuracy": 50.0}}
    with opened(assembled, tmp_path) as reporter:
        reporter.add_evaluation(7, Results(7, "validation", {"one": row, "two": row}, scores))
    (found,) = metrics.read_metrics(tmp_path / metrics.METRICS_FILE)
    assert found["step"] == 7
    assert found["eval/two/accuracy"] == 0.25 and found["inference_eval/one/f1"] == 60.0
    assert found["inference_eval/average"] == 60.0
    assert capsys.readouterr().err.splitlines() == [
        "step 7: one: held-out loss 2.500 nats a token, accuracy 25.0%; answers: accuracy 80.00, f1 60.00",
        "step 7: two: held-out loss 2.500 nats a token, accuracy 25.0%",
        "step 7: three: answers: accuracy 50.00",
        "step 7: average 60.00",
    ]


def shown(folder):
    """Tags of texts and pictures in TensorBoard's files, with their steps."""
    values = [(e.step, v) for e in tensorboard_events.events(folder / "tensorboard") for v in e.summary.value]
    return [(step, value.tag) for step, value in values if not value.HasField("simple_value")]


def test_tensorboard_shows_what_the_run_is_what_it_answers_and_its_plot(reporter, tmp_path):
    reporter.describe("BATCH_SIZE = 16", "a table")
    reporter.add(1, sums())
    reporter.flush()
    reporter.add_examples(1, {"one": [{"inputs": "a", "targets": "b", "prediction": "b", "correct": True}], "two": []})
    assert reporter.finish(1) == tmp_path / "loss.png"
    assert shown(tmp_path) == [
        *((0, tag) for tag in ("config.gin", "model-info", "pictures/masks", "pictures/mixture")),
        *((1, tag) for tag in ("examples/one", "pictures/loss")),
    ]


def test_the_first_step_does_not_wait_for_pictures(reporter, tmp_path):
    reporter.describe("BATCH_SIZE = 16", "a table")
    reporter.add(1, sums())
    assert not list(tmp_path.glob("*.png"))
    reporter.add(2, sums())
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["masks.png", "mixture.png"]


def test_pictures_that_cannot_be_drawn_are_a_warning(reporter, tmp_path, caplog):
    (tmp_path / "masks.png").mkdir()
    reporter.describe("BATCH_SIZE = 16", "a table")
    reporter.add(1, sums())
    reporter.flush()
    assert [record.getMessage() for record in caplog.records] == [
        f"The pictures of {tmp_path} can't be drawn: [Errno 21] Is a directory: '{tmp_path}/masks.png'"
    ]
    assert steps(tmp_path) == [1]


def with_vectors(assembled, **changes):
    names = blocks.names(assembled.shapes.params)
    return sums(**changes) | {name: np.arange(len(names), dtype=np.float32) for name in ("grad_rms", "update_ratio")}


@pytest.mark.parametrize(("resumed", "first_step", "expected"), [(False, 98, [99, 100]), (True, 98, [100])])
def test_blocks_are_written_once_a_period_and_at_the_runs_first_step(
    assembled, tmp_path, resumed, first_step, expected
):
    with Reporter(assembled, metrics.Clock(), tmp_path, first_step, None, resumed=resumed, enabled=True) as reporter:
        for step in (99, 100, 101):
            reporter.add(step, with_vectors(assembled))
        reporter.flush()
    rows = {row["step"]: row for row in metrics.read_metrics(tmp_path / metrics.METRICS_FILE)}
    names = blocks.names(assembled.shapes.params)
    assert [step for step, row in rows.items() if f"grad_rms/{names[0]}" in row] == expected
    assert [rows[100][f"update_ratio/{name}"] for name in names] == list(range(len(names)))
    assert "grad_rms" not in rows[100]


def test_the_first_loss_stands_beside_log_v_once(assembled, tmp_path, capsys):
    with opened(assembled, tmp_path) as reporter:
        for step in (1, 2):
            reporter.add(step, sums(loss=88.0, weights=4.0))
        reporter.flush()
    lines = capsys.readouterr().err.splitlines()
    vocabulary = assembled.config.model.vocab_size
    assert f"step 1: loss 22.00 nats a token; log V = {math.log(vocabulary):.2f}, what guessing evenly costs" in lines
    assert len([line for line in lines if line.startswith("warning: new parameters")]) == 1


def test_a_resumed_run_has_no_first_loss(assembled, tmp_path, capsys):
    with Reporter(assembled, metrics.Clock(), tmp_path, 4, None, resumed=True, enabled=True) as reporter:
        reporter.add(5, sums(loss=88.0))
        reporter.flush()
    assert "log V" not in capsys.readouterr().err


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
    with Reporter(assembled, metrics.Clock(), tmp_path, 0, None, resumed=False, enabled=False) as reporter:
        reporter.add(1, sums(objective=math.nan))
        with pytest.raises(UserError, match="The loss of step 1 is nan"):
            reporter.flush()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
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
