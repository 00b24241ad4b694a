"""The picture's size and ink, from files as runs leave them."""

import math

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from t5x_mini.errors import UserError
from t5x_mini.train import plot
from t5x_mini.train.metrics import MetricWriter

LOSS = "loss_per_nonpadding_target_token"
HELD_OUT = f"eval/docs/{LOSS}"


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Writes rows, plots them, returns the pixels."""
    for name in ("WANDB_PROJECT", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)

    def draw(rows):
        with MetricWriter(tmp_path) as writer:
            for step, metrics in rows:
                writer.write(step, metrics)
        path = plot.loss_plot(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
        assert path == tmp_path / "loss.png"
        return matplotlib.image.imread(path)[..., :3]

    return draw


def ink(pixels, colour):
    return int(np.sum(np.abs(pixels - np.asarray(to_rgb(colour))).max(axis=-1) < 0.02))


def test_a_run_with_held_out_loss(draw):
    rows = [(step, {LOSS: 9 / step**0.2, "learning_rate": 0.01}) for step in range(1, 301)]
    rows += [(step, {HELD_OUT: 9.5 / step**0.2}) for step in (100, 200, 300)]
    pixels = draw(rows)
    assert pixels.shape == (750, 1200, 3)
    assert ink(pixels, plot._TRAINING) > 1000 and ink(pixels, plot._HELD_OUT[0]) > 100
    assert ink(pixels, plot._NOT_FINITE) == 0


def test_two_tasks_have_two_colours(draw):
    pixels = draw([(step, {HELD_OUT: 5.0 - step, f"eval/c4/{LOSS}": 6.0 - step}) for step in (1, 2)])
    assert min(ink(pixels, colour) for colour in plot._HELD_OUT[:2]) > 100


@pytest.mark.parametrize("steps", [1, 2, 39, 40, 41])
def test_few_points_and_no_evaluation(draw, steps):
    pixels = draw([(step, {LOSS: 9.0 - 0.1 * step, "learning_rate": 0.01}) for step in range(1, steps + 1)])
    assert ink(pixels, plot._TRAINING) > 10


def test_steps_that_were_not_finite_are_marked(draw):
    rows = [(1, {LOSS: 5.0}), (2, {LOSS: math.nan}), (3, {LOSS: math.inf, HELD_OUT: math.nan})]
    assert ink(draw(rows), plot._NOT_FINITE) > 10


def test_the_running_mean_is_centred_and_shorter_at_the_ends():
    mean = plot._running_mean(np.array([0.0, 3.0, 6.0, 0.0]), 3)
    assert mean == pytest.approx([1.5, 3.0, 3.0, 3.0])
    assert plot._running_mean(np.arange(5.0), 1) == pytest.approx(np.arange(5.0))


def test_a_missing_file_and_a_file_without_loss_are_explained(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(UserError, match="there is no .*metrics.jsonl. A training run writes one in its MODEL_DIR"):
        plot.loss_plot(path, tmp_path / "loss.png")
    path.write_text('{"step": 1, "accuracy": 0.5}\n')
    with pytest.raises(UserError, match=f"none of its 1 rows has '{LOSS}'"):
        plot.loss_plot(path, tmp_path / "loss.png")
