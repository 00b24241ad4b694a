"""Tests of t5x_mini/report/run_data.py and differences.py: what a run's folder says."""

import json
import math
import subprocess
import sys

import made_up_runs
import pytest
from made_up_runs import LOSS, training_row, write_answers, write_lines, write_run

from t5x_mini.errors import UserError
from t5x_mini.report.differences import Difference, differences
from t5x_mini.report.run_data import Best, read_run, read_runs


def test_a_run_is_read(tmp_path):
    run = read_run(write_run(tmp_path / "one"))
    assert (run.name, run.last_step, run.total_steps) == ("one", 100, 100)
    assert run.config["TransformerConfig.emb_dim"] == 32
    assert repr(run.config["FeedConfig.batch_size"]) == "%BATCH_SIZE"
    assert run.series("grad_norm")[:2] == [(1, 0.7), (2, 0.7)] and run.last("grad_norm") == 0.7
    assert run.series("nothing") == [] and run.last("nothing") is None
    assert run.held_out == {"letters": {LOSS: [(50, 1.5), (100, 1.0)], "accuracy": [(50, 0.4), (100, 0.4)]}}
    assert "40 parameters" in run.model_info
    assert (run.best, run.scores, run.averages, run.predictions, run.pictures, run.measured) == (
        None,
        {},
        {},
        {},
        {},
        {},
    )


def test_answers_and_their_scores_are_read(tmp_path):
    folder = write_run(tmp_path / "one")
    rows = [{"step": 50, "inference_eval/sst2/accuracy": 60.0, "inference_eval/average": 55.0}]
    write_lines(folder / "metrics.jsonl", [training_row(1), *rows])
    # The file repeats what metrics.jsonl says, and knows of a task more.
    write_lines(folder / "inference_eval" / "sst2-metrics.jsonl", [{"step": 50, "accuracy": 60.0}])
    write_lines(folder / "inference_eval" / "cola-metrics.jsonl", [{"step": 50, "matthews_corrcoef": "NaN"}])
    for step in (50, 100, 1000):
        write_answers(folder, "sst2-v1", step, [{"inputs": str(step), "prediction": "a"}] * 30)
    made_up_runs.write_best(folder, 50, "average", 55.0)
    (folder / "masks.png").write_bytes(made_up_runs.PIXEL)
    run = read_run(folder, answers=3)
    assert list(run.scores) == ["cola", "sst2"] and run.scores["sst2"] == {"accuracy": [(50, 60.0)]}
    assert math.isnan(run.scores["cola"]["matthews_corrcoef"][0][1])
    assert run.averages == {"average": [(50, 55.0)]}
    assert run.best == Best(50, "average", 55.0)
    found = run.predictions["sst2-v1"]
    assert (found.step, found.split, found.count, len(found.rows)) == (1000, None, 30, 3)
    assert found.rows[0]["inputs"] == "1000"
    assert list(run.pictures) == ["masks"]


def test_answers_of_training_come_before_those_of_eval_and_infer(tmp_path):
    folder = write_run(tmp_path / "one")
    write_lines(folder / "infer" / "letters-validation-100.jsonl", [{"inputs": "a"}])
    write_lines(folder / "infer" / "questions-100.jsonl", [{"inputs": "a"}])
    assert {task: found.split for task, found in read_run(folder).predictions.items()} == {
        "letters": "validation",
        "questions": None,
    }
    write_lines(folder / "eval" / "test" / "inference_eval" / "letters-50.jsonl", [{"inputs": "b"}])
    assert read_run(folder).predictions["letters"].split == "test"
    write_answers(folder, "letters", 10, [{"inputs": "c"}])
    assert read_run(folder).predictions["letters"].rows[0]["inputs"] == "c"


def test_what_eval_measured_is_read(tmp_path):
    folder = write_run(tmp_path / "one")
    (folder / "eval").mkdir()
    for step in (100, 50):
        results = {"step": step, "split": "test", "tasks": {}, "metrics": {"sst2": {"accuracy": 70.0}}}
        (folder / "eval" / f"test-{step}.json").write_text(json.dumps(results))
    (folder / "eval" / "test-7.json").write_text("{")
    assert [row["step"] for row in read_run(folder).measured["test"]] == [50, 100]


def test_time_counts_all_processes_of_a_resumed_run(tmp_path):
    rows = [training_row(1), training_row(2), training_row(3, **{"time_lost/data": 0.05, "time_lost/compilation": 4.0})]
    write_lines(tmp_path / "metrics.jsonl", rows)
    spent = read_run(tmp_path).time_spent
    assert spent == pytest.approx({"steps": 1.25, "data": 0.25, "compilation": 7.0})


def test_a_run_that_has_only_begun(tmp_path):
    (tmp_path / "config.gin").write_text("TRAIN_STEPS = 5\n")
    run = read_run(tmp_path)
    assert (run.last_step, run.rows, run.time_spent, run.total_steps) == (0, [], {}, 5)


def test_half_written_lines_are_left_out(tmp_path):
    write_run(tmp_path, steps=3)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "loss')
    made_up_runs.write_best(tmp_path, 1, "average", 55.0)
    (tmp_path / "checkpoints" / "1" / "manifest.json").write_text('{"metrics": {"av')
    write_answers(tmp_path, "letters", 3, [{"inputs": "a"}])
    with (tmp_path / "inference_eval" / "letters-3.jsonl").open("a") as file:
        file.write('{"inputs": "b')
    run = read_run(tmp_path)
    assert (run.last_step, run.best, len(run.predictions["letters"].rows)) == (3, None, 1)


def test_infinite_and_missing_values_are_kept_as_they_are(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "loss": "NaN"}, {"step": 2, "loss": "Infinity"}])
    (_, first), (_, second) = read_run(tmp_path).series("loss")
    assert math.isnan(first) and second == math.inf


def test_folders_that_are_no_runs(tmp_path):
    run = write_run(tmp_path / "baseline")
    (run / "checkpoints" / "100").mkdir(parents=True)
    with pytest.raises(UserError, match=r"There is no folder .*baselin; did you mean .*baseline\?"):
        read_run(tmp_path / "baselin")
    with pytest.raises(UserError, match=r"is not a run: .* Runs in it: .*baseline\."):
        read_run(tmp_path)
    with pytest.raises(UserError, match=r"is a part of a run: write its folder, .*baseline\."):
        read_run(run / "checkpoints" / "100")
    with pytest.raises(UserError, match="given twice"):
        read_runs([str(run), f"{run}/"])


def test_names_tell_runs_apart(tmp_path):
    paths = [str(write_run(tmp_path / name, steps=1)) for name in ("a/seed_0", "b/seed_0")]
    assert [run.name for run in read_runs(paths)] == ["a/seed_0", "b/seed_0"]
    assert [run.name for run in read_runs(paths[:1])] == ["seed_0"]


def test_differences_are_said_once(tmp_path):
    one = read_run(write_run(tmp_path / "one"))
    two = read_run(write_run(tmp_path / "two", batch_size=32, emb_dim=64))
    assert differences([one.config, two.config]) == [
        Difference("BATCH_SIZE", ("16", "32")),
        Difference("TransformerConfig.emb_dim", ("32", "64")),
    ]
    assert differences([one.config]) == [] == differences([one.config, one.config])


def test_a_setting_that_one_run_lacks_differs():
    assert differences([{"A": 1}, {"A": 1, "B": None}]) == [Difference("B", (None, "None"))]
    assert differences([{}, {"A": 1}]) == []  # nothing is known of the first


def test_a_literal_is_compared_with_what_the_others_macro_stands_for(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "config.gin").write_text("RATE = 0.1\nLossConfig.z_loss = %RATE\n")
    (tmp_path / "two" / "config.gin").write_text("RATE = 0.1\nLossConfig.z_loss = 0.1\n")
    configs = [read_run(tmp_path / name).config for name in ("one", "two")]
    assert differences(configs) == []
    (tmp_path / "two" / "config.gin").write_text("RATE = 0.1\nLossConfig.z_loss = 0.2\n")
    configs[1] = read_run(tmp_path / "two").config
    assert differences(configs) == [Difference("LossConfig.z_loss", ("%RATE", "0.2"))]


def test_reading_imports_neither_jax_nor_tensorflow():
    program = (
        "import sys; import t5x_mini.report.page, t5x_mini.report.run_data\n"
        "print(sorted({'jax', 'tensorflow', 'flax'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout.strip() == "[]", ran.stderr
