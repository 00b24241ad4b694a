"""What a training run does, step by step."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Cross-entropy, as T5 takes it (`train/loss.py`).

    Attributes:
        label_smoothing: share of the probability spread over the wrong tokens.
        z_loss: weight of the squared log-partition, which keeps logits near zero (1e-4 in T5).
        normalizing_factor: what the sum over tokens is divided by: a number; `NUM_REAL_TARGET_TOKENS` (tokens that
            carry loss); `NUM_TOTAL_TARGET_TOKENS` (padding too); `AVERAGE_PER_SEQUENCE` (mean of the sequences'
            means); or None, the plain sum. T5X's default is None, harmless under Adafactor, which ignores the scale of
            gradients; ours is the mean over real tokens, so that gradient norms, clipping and every optimiser mean
            the same at any batch size.
    """

    label_smoothing: float = 0.0
    z_loss: float = 1e-4
    normalizing_factor: float | str | None = "NUM_REAL_TARGET_TOKENS"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop.

    Attributes:
        model_dir: where checkpoints, metrics and plots go; a run found there is resumed.
        train_steps: the step to stop at, counted from the first step of pretraining.
        train_steps_relative: instead of `train_steps`: steps beyond the initial checkpoint's.
        initial_checkpoint_path: a checkpoint of t5x_mini to start from when `model_dir` holds none.
        random_seed: of initialisation, dropout and data. T5X's default (None) draws one from the clock.
        prng_impl: `threefry` (the same numbers on any hardware and mesh) or `rbg` (faster on TPU).
        num_microbatches: parts that a batch is split into to save memory; the gradients are those of the whole.
        clip_global_norm: gradients longer than this are scaled down to it; None leaves them.
        eval_period: steps between evaluations on held-out text; 0 for none.
        eval_steps: batches an evaluation; None reads the whole split.
        closing_report: end by comparing with a unigram model and with swapped inputs, and show what the model fills
            in (for span corruption).
    """

    model_dir: str
    train_steps: int | None = None
    train_steps_relative: int | None = None
    initial_checkpoint_path: str | None = None
    random_seed: int = 0
    prng_impl: Literal["threefry", "rbg"] = "threefry"
    num_microbatches: int = 1
    clip_global_norm: float | None = None
    eval_period: int = 1000
    eval_steps: int | None = 20
    closing_report: bool = False
