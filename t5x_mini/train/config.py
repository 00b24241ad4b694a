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
        blocks: parts of the vocabulary that logits are computed for in turn, so that no array of batch x length x
            vocabulary is made; each costs one more product with its part of the output head in the backward pass.
    """

    label_smoothing: float = 0.0
    z_loss: float = 1e-4
    normalizing_factor: float | str | None = "NUM_REAL_TARGET_TOKENS"
    blocks: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop.

    Attributes:
        model_dir: where checkpoints, metrics and plots go; a run found there is resumed.
        train_steps: the step to stop at, counted from the first step of pretraining.
        train_steps_relative: instead of `train_steps`: steps beyond the initial checkpoint's.
        initial_checkpoint_path: a checkpoint to start from when `model_dir` holds none: a run's folder or one of its
            checkpoints, a Hugging Face folder or hub name, or one of T5X's.
        reset_optimizer: leave the initial checkpoint's optimiser state where it is, and begin with a fresh one.
        reset_step: the step that a run from an initial checkpoint goes on from: a number, or True for 0. None: the
            checkpoint's, or 0 where it doesn't say. The optimiser's own counts are the age of its running means, and
            stay with them.
        assignment_map: which of the initial checkpoint's parameters a parameter is taken from: pairs of a regex that
            matches the whole name of this model's parameter (`encoder/layers_0/mlp/wo/kernel`), and the name in the
            checkpoint, which may use the regex's groups (`r'decoder/layers_\\1/\\2'`), or None for a fresh one. The
            first match counts; a name that none matches is taken from the same name. Optimiser state goes with its
            parameter. As T5X's `assignment_map`.
        frozen: regexes; the parameters whose whole names one of them matches are not trained, and take no optimiser
            memory (`train/param_names.py`).
        random_seed: of initialisation, dropout and data. T5X's default (None) draws one from the clock.
        prng_impl: `threefry` (the same numbers on any hardware and mesh) or `rbg` (faster on TPU).
        num_microbatches: parts that a batch is split into to save memory, in training and on held-out text; losses
            and gradients are those of the whole.
        clip_global_norm: gradients longer than this are scaled down to it; None leaves them.
        eval_period: steps between evaluations on held-out text; 0 for none.
        eval_steps: batches an evaluation; None reads the whole split.
        best_metric: what the best checkpoints are chosen by: `average`, `glue_average`, `<task>/<metric>`, `loss`, any
            name of an evaluation's row, or `train/<name>` of a training row's (`train/best.py`); None: none are chosen.
        patience: evaluations without a better `best_metric` after which the run stops; None: it never does.
        on_divergence: what to do about a step whose loss, gradient or parameters are not finite, or whose loss is a
            spike: `stop`; `skip` its update; or `roll_back` to the newest checkpoint and leave out the batches from
            there to that step (`train/divergence.py`).
        loss_spike: standard deviations above the mean of the last 128 losses from which on a loss is a spike; None:
            no finite one is (OLMo takes 6).
        max_skips: updates that are skipped in a row, or roll-backs that get the run no further, after which it stops.
        statistics_period: steps between rows with the RMS of the gradient and the size of the update of each block;
            0 for none, and then they are not computed.
        compilation_cache: a folder, here or in a bucket, for what XLA compiles, so that a run that is started again
            begins at once; `auto`: in `model_dir` where that is in a bucket, or else `~/.cache/t5x_mini`; None: none
            is kept (`compilation_cache.py`).
        closing_report: end by comparing with a unigram model and with swapped inputs, and show what the model fills
            in (for span corruption).
    """

    model_dir: str
    train_steps: int | None = None
    train_steps_relative: int | None = None
    initial_checkpoint_path: str | None = None
    reset_optimizer: bool = False
    reset_step: Literal[True] | int | None = None
    assignment_map: tuple[tuple[str, str | None], ...] = ()
    frozen: tuple[str, ...] = ()
    random_seed: int = 0
    prng_impl: Literal["threefry", "rbg"] = "threefry"
    num_microbatches: int = 1
    clip_global_norm: float | None = None
    eval_period: int = 1000
    eval_steps: int | None = 20
    best_metric: str | None = None
    patience: int | None = None
    on_divergence: Literal["stop", "skip", "roll_back"] = "stop"
    loss_spike: float | None = None
    max_skips: int = 10
    statistics_period: int = 100
    compilation_cache: str | None = "auto"
    closing_report: bool = False
