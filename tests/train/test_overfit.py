"""One batch learned by heart, one that isn't, and what the best of models could know of a batch."""

import dataclasses

import numpy as np
import pytest
import tiny
import tiny_runs

from t5x_mini.train import overfit
from t5x_mini.train.metrics import read_metrics
from t5x_mini.train.schedules import Constant, Cosine, Rsqrt


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as runs:
        yield runs


@pytest.mark.slow
def test_a_batch_is_learned_by_heart(runs, tmp_path):
    finished = runs.run(
        *("train", "--overfit_one_batch=150", "--gin.DROPOUT_RATE=0.5"), MODEL_DIR=str(tmp_path / "run"), BATCH_SIZE=8
    )
    assert finished.code == 0, finished.err
    first, last = finished.out.splitlines()
    assert "first batch of 8 rows, up to 150 times; no dropout; Adafactor at a constant 0.01" in first
    assert last.endswith(": learned by heart.") and "log V = " in last
    assert "step 1: loss " in finished.err and "what guessing evenly costs" in finished.err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [overfit.FOLDER]
    rows = read_metrics(tmp_path / "run" / overfit.FOLDER / "metrics.jsonl")
    assert rows[0]["accuracy"] < 0.5 and rows[-1]["accuracy"] >= 0.99 > rows[-2]["accuracy"]
    assert len(rows) < 150 and f"in {len(rows)} steps" in last
    assert (tmp_path / "run" / overfit.FOLDER / "loss.png").stat().st_size > 1000


def test_a_rate_of_next_to_nothing_learns_nothing(runs, tmp_path):
    finished = runs.run(
        *("train", "--overfit_one_batch=3", "--gin.Rsqrt.base=1e-6"), MODEL_DIR=str(tmp_path / "run"), BATCH_SIZE=8
    )
    assert finished.code == 1
    assert "NOT learned by heart" in finished.out
    assert "error: The batch was not learned by heart" in finished.err
    assert "The loss hardly moved. Is a learning rate of 1e-08 too low" in finished.err


def test_it_is_no_dry_run(runs):
    finished = runs.run("train", "--overfit_one_batch", "--dry_run")
    assert finished.code == 1 and "--dry_run trains nothing" in finished.err


def host_batch(architecture, examples, **changes):
    return {name: np.asarray(rows) for name, rows in tiny.batch(architecture, examples, **changes).items()}


ARCHITECTURES = ("encoder_decoder", "prefix_lm", "causal_lm")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pack", [False, True])
def test_targets_that_follow_from_their_inputs_can_all_be_known(architecture, pack):
    batch = host_batch(architecture, [([4, 5], [6]), ([4, 6], [7]), ([4, 5], [6])], pack=pack, inputs=9, targets=9)
    assert overfit.attainable_accuracy(batch, architecture) == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pack", [False, True])
def test_equal_inputs_with_different_targets_can_not(architecture, pack):
    """Of three times [token, EOS], the first token can be right twice."""
    batch = host_batch(architecture, [([4, 5], [6]), ([4, 5], [7]), ([4, 5], [6])], pack=pack, inputs=9, targets=9)
    assert overfit.attainable_accuracy(batch, architecture) == pytest.approx(5 / 6)


def test_the_first_token_of_a_language_model_is_a_guess():
    batch = host_batch("causal_lm", [([4, 5], [6]), ([5, 4], [6])])
    batch["decoder_loss_weights"] = (batch["decoder_target_tokens"] > 0).astype(np.int32)
    assert overfit.attainable_accuracy(batch, "causal_lm") == pytest.approx(9 / 10)
    # A prefix that sees itself can be copied.
    assert overfit.attainable_accuracy(batch, "prefix_lm") == 1


def test_a_batch_without_targets_has_nothing_to_know():
    batch = host_batch("encoder_decoder", [([4], [5])])
    batch["decoder_loss_weights"] = np.zeros_like(batch["decoder_loss_weights"])
    assert overfit.attainable_accuracy(batch, "encoder_decoder") == 0


@pytest.mark.parametrize(
    ("schedule", "first", "total", "expected"),
    [
        (Rsqrt(warmup_steps=100), 0, 1000, 0.1),
        (Rsqrt(warmup_steps=100), 400, 1000, 0.05),
        (Constant(learning_rate=0.5, warmup_steps=10_000), 0, 1_000_000, 0.5),
        (Cosine(peak=0.3, warmup_steps=7, total_steps=1_000_000), 0, 1_000_000, 0.3),
        (Constant(learning_rate=0.5), 50, 20, 0.5),
    ],
)
def test_the_rate_is_the_schedules_highest(schedule, first, total, expected):
    assert overfit.highest_rate(schedule, first, total) == pytest.approx(expected, rel=1e-5)


OUTCOME = overfit.Outcome(steps=100, first_loss=9.0, last_loss=4.0, accuracy=0.5, attainable=1.0, rate=0.01)


@pytest.mark.parametrize(
    ("last_loss", "words"),
    [(9.5, "too high. Write a lower one"), (8.9, "hardly moved"), (4.0, "--overfit_one_batch=400")],
)
def test_advice_depends_on_where_the_loss_went(last_loss, words):
    text = overfit.advice(dataclasses.replace(OUTCOME, last_loss=last_loss))
    assert words in text and "50.0% of its target tokens are right after 100 steps, where 99.0% should be" in text


def test_as_much_as_can_be_known_is_enough():
    outcome = dataclasses.replace(OUTCOME, accuracy=0.83, attainable=5 / 6)
    assert outcome.learnt and not dataclasses.replace(outcome, accuracy=0.8).learnt
    assert "83.0% of the target tokens are right, where 83.3% can be: learned by heart." in overfit.describe(
        outcome, 8192
    )
