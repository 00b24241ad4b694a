"""Read from the folders that runs leave."""

import types

import made_up_runs
import pytest

from t5x_mini.study.outcomes import read_outcome


@pytest.fixture
def trial(tmp_path):
    made_up_runs.write_run(tmp_path / "pretraining")
    made_up_runs.write_run(tmp_path / "finetuning")
    rows = [{"step": 50, "accuracy": 91.0}, {"step": 100, "accuracy": 80.0}]
    made_up_runs.write_lines(tmp_path / "finetuning" / "inference_eval" / "sst2-metrics.jsonl", rows)
    rows = [{"step": 50, "matthews_corrcoef": 12.0}, {"step": 100, "matthews_corrcoef": None}]
    made_up_runs.write_lines(tmp_path / "finetuning" / "inference_eval" / "cola-metrics.jsonl", rows)
    runs = {name: types.SimpleNamespace(folder=tmp_path / name) for name in ("pretraining", "finetuning")}
    return types.SimpleNamespace(cell=types.SimpleNamespace(name="a cell"), seed=1, **runs)


def test_losses_are_those_of_the_end_and_scores_those_of_the_best_checkpoint(trial):
    made_up_runs.write_best(trial.finetuning.folder, 50, "average", 51.5)
    outcome = read_outcome(trial)
    assert (outcome.cell, outcome.seed) == ("a cell", 1)
    assert outcome.training_loss == pytest.approx(1.0303, abs=1e-3)  # of the last five steps
    assert outcome.held_out_loss == 1.0
    assert outcome.curve[0][0] == 1 and outcome.curve[-1][0] == 100 and len(outcome.curve) == 100
    assert outcome.scores == {"cola": {"matthews_corrcoef": 12.0}, "sst2": {"accuracy": 91.0}}


def test_without_a_best_one_those_of_the_last_evaluation_where_a_missing_correlation_is_0(trial):
    assert read_outcome(trial).scores == {"cola": {"matthews_corrcoef": 0.0}, "sst2": {"accuracy": 80.0}}


def test_a_trial_without_finetuning_has_no_scores(trial):
    trial.finetuning = None
    assert read_outcome(trial).values == {}
