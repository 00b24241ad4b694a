"""What is said of a run's first loss."""

import math

import jax.numpy as jnp
import pytest

from t5x_mini.train import first_loss
from t5x_mini.train import loss as losses
from t5x_mini.train.config import LossConfig

VOCAB = 8192  # log V = 9.01


def said(loss, *, fresh=True, **changes):
    return first_loss.describe(1, loss, VOCAB, LossConfig(**changes), fresh=fresh)


def test_the_loss_stands_beside_log_v():
    assert said(9.31) == "step 1: loss 9.31 nats a token; log V = 9.01, what guessing evenly costs"


@pytest.mark.parametrize("loss", [7.1, 9.0, 9.5, 11.9])
def test_what_t5s_initialisation_may_give_is_no_warning(loss):
    assert "warning" not in said(loss)


def test_new_parameters_that_cost_too_much():
    text = said(14.0)
    assert "warning: new parameters should cost about 9.5, and this is 4.5 more" in text
    assert "not ids of this vocabulary" in text


def test_new_parameters_that_know_the_targets():
    assert "Can the model see the tokens that it predicts" in said(5.0)


def test_a_checkpoint_that_guesses():
    assert "warning" not in said(2.5, fresh=False) and "log V = 9.01" in said(2.5, fresh=False)
    for loss in (math.log(VOCAB), 12.0):
        assert "The parameters or the vocabulary are probably not the ones" in said(loss + 1e-4, fresh=False)


def test_label_smoothing_makes_guessing_cheaper():
    """The targets' own entropy is taken off the loss: 0.9 on one token, the rest spread over the others."""
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1 / (VOCAB - 1)))
    text = said(9.31 - entropy, label_smoothing=0.1)
    assert f"log V = 9.01, less label smoothing's {entropy:.2f}, what guessing evenly costs" in text
    assert "warning" not in text
    assert "probably not the ones" in said(9.02 - entropy, fresh=False, label_smoothing=0.1)
    assert "probably not the ones" not in said(9.00 - entropy, fresh=False, label_smoothing=0.1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_guessing_costs_what_the_loss_says_of_equal_logits(smoothing):
    logits, target = jnp.zeros((1, 1, VOCAB)), jnp.zeros((1, 1), jnp.int32)
    told = losses.cross_entropy(logits, target, label_smoothing=smoothing).total[0, 0]
    guessing = first_loss._guessing(VOCAB, LossConfig(label_smoothing=smoothing))
    assert guessing == pytest.approx(float(told), abs=1e-5)


def test_the_first_line_alone_names_the_step_of_a_later_start():
    text = first_loss.describe(1_000_001, 2.0, VOCAB, LossConfig(), fresh=False)
    assert text.startswith("step 1000001: loss 2.00 nats") and "\n" not in text
