"""The first step's loss beside what guessing costs: the cheapest sign of a wrong start."""

from __future__ import annotations

import math

from t5x_mini.train import loss as losses
from t5x_mini.train.config import LossConfig

# T5's initialisation gives logits a variance of about 1, and so a loss of about log V + 1/2: 0.5 ± 0.1 was measured for
# the sizes of gin/models on random targets. Where all targets are the same few tokens (a label and EOS), that varies by
# 0.6 between seeds; this is four times as much.
_EXPECTED_ABOVE_GUESSING, _FAR_OFF = 0.5, 2.5


def describe(step: int, loss: float, vocab_size: int, config: LossConfig, *, fresh: bool) -> str:
    """The loss of a run's first step beside log V, and what is probably wrong where it is far from what it should be.

    Args:
        step: the number of the step.
        loss: nats a token that carries loss, without z-loss.
        vocab_size: V, the number of logits.
        config: label smoothing takes some of the cost off guessing too.
        fresh: the parameters are T5's initialisation; else they come from a checkpoint.
    """
    guessing = _guessing(vocab_size, config)
    smoothed = f", less label smoothing's {math.log(vocab_size) - guessing:.2f}" if config.label_smoothing else ""
    text = (
        f"step {step}: loss {loss:.2f} nats a token; log V = {math.log(vocab_size):.2f}{smoothed}, what guessing "
        "evenly costs"
    )
    warning = _of_fresh(loss, guessing) if fresh else _of_checkpoint(loss, guessing)
    return f"{text}\nwarning: {warning}" if warning else text


def _guessing(vocab_size: int, config: LossConfig) -> float:
    # By hand, and not by `losses.cross_entropy`: the device would come to it after the next step, and compile it first.
    return math.log(vocab_size) - losses.soft_target_entropy(vocab_size, config.label_smoothing)


def _of_fresh(loss: float, guessing: float) -> str | None:
    above = loss - (guessing + _EXPECTED_ABOVE_GUESSING)
    if above > _FAR_OFF:
        return (
            f"new parameters should cost about {guessing + _EXPECTED_ABOVE_GUESSING:.1f}, and this is {above:.1f} "
            "more. Logits are too large (an initialiser or a scale that isn't T5's?), or the targets are not ids of "
            "this vocabulary."
        )
    if above < -_FAR_OFF:
        return (
            f"new parameters know nothing and should cost about {guessing + _EXPECTED_ABOVE_GUESSING:.1f}. Can the "
            "model see the tokens that it predicts, or do positions carry loss that hold only padding? `t5x-mini "
            "inspect --task=NAME` shows what it gets."
        )
    return None


def _of_checkpoint(loss: float, guessing: float) -> str | None:
    if loss < guessing:
        return None
    return (
        "a trained model does better than guessing. The parameters or the vocabulary are probably not the ones that "
        "belong together (VOCABULARY, EXTRA_IDS, ASSIGNMENT_MAP), or the model computes something else than the one "
        "they were trained in. Only where targets are unlike all it was trained on (labels, after span corruption "
        "alone) is this no mistake; it then passes within a few steps."
    )
