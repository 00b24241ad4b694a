"""What a run starts with: a configuration that fits its data, its first state, and its compiled step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from t5x_mini.errors import UserError
from t5x_mini.feed import feeds
from t5x_mini.train import memory
from t5x_mini.train.run import Run, assemble
from t5x_mini.train.state import TrainState
from t5x_mini.train.step import make_train_step

if TYPE_CHECKING:
    from t5x_mini.config import RunConfig


def assemble_to_train(config: RunConfig) -> Run:
    """`assemble`, with the vocabulary looked up in any case, and checked against the model's embedding.

    Raises:
        UserError: what `assemble` raises; a vocabulary with more ids than the embedding has rows; a state or a batch
            that no memory here can hold.
    """
    run = assemble(config)
    memory.check_fits(run)
    if run.vocabulary is None:  # a model whose size was written down
        run = dataclasses.replace(run, vocabulary=feeds.vocabulary_id(config.feed))
        _check_vocabulary_fits(run)
    return run


def initial_state(run: Run) -> tuple[TrainState, str | None]:
    """The state before the first step: fresh, or from INITIAL_CHECKPOINT_PATH, and then what was taken, in words.

    Raises:
        UserError: for a checkpoint that is not there, or does not fit.
    """
    initial = run.config.train.initial_checkpoint_path
    if initial is None:
        return run.create_state(), None
    from t5x_mini.checkpoint import restore_plan, restore_report  # Orbax takes a second to import
    from t5x_mini.checkpoint.source import open_source

    source = open_source(initial)
    plan = restore_plan.make_plan(source, run)
    return restore_plan.restore(plan, source, run), restore_report.describe(plan, run)


def compile_step(run: Run) -> Callable:
    """The compiled step, `(state, batch) -> (state, sums)`, or with a limit to the loss (`train/step.py`)."""
    config, partitioner = run.config, run.partitioner
    step = make_train_step(
        config.model, config.loss, config.optimizer, config.schedule, config.train, partitioner.axis_name
    )
    shapes = run.batch_shapes(config.feed.batch_size)
    numbers = 1 if config.train.on_divergence == "skip" else 0
    return partitioner.compile_train_step(step, run.shapes, run.shardings, shapes, numbers)


def _check_vocabulary_fits(run: Run) -> None:
    """Ids without a row in the embedding would be NaN, and so would the loss."""
    vocabulary, rows = feeds.vocabulary(run.config.feed), run.config.model.vocab_size
    if vocabulary.vocab_size > rows:
        raise UserError(
            f"The task's vocabulary has {vocabulary.vocab_size} ids, its {vocabulary.extra_ids} EXTRA_IDS included, "
            f"and the model's embedding {rows} rows (TransformerConfig.vocab_size). Write the vocabulary that the "
            "model is made for (VOCABULARY, EXTRA_IDS), or for a new model leave vocab_size at None."
        )
