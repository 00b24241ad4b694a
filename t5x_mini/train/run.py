"""What every command starts from: a configuration made concrete on the devices that are here."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from t5x_mini import storage
from t5x_mini.errors import UserError
from t5x_mini.feed import feeds
from t5x_mini.feed.batch import feature_shapes
from t5x_mini.parallel import hosts, replicas
from t5x_mini.parallel.partitioner import Partitioner, PmapPartitioner, make_partitioner
from t5x_mini.redaction import redact
from t5x_mini.train import loss, schedules, state

if TYPE_CHECKING:
    from t5x_mini.checkpoint.source import Origin
    from t5x_mini.config import RunConfig
    from t5x_mini.train.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration with nothing left open, and how its state lies on the devices.

    Attributes:
        config: with the vocabulary's size and the schedule's length filled in.
        partitioner: `mesh` or `pmap`.
        shapes: shape and dtype of every array of the state.
        shardings: and how each is split.
        total_steps: the step to stop at; 0 where nothing is trained.
        vocabulary: what tells the task's vocabulary from others (`feeds.vocabulary_id`); None where it isn't known.
    """

    config: RunConfig
    partitioner: Partitioner
    shapes: state.TrainState
    shardings: state.TrainState
    total_steps: int
    vocabulary: str | None = None

    def batch_shapes(self, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a global batch of so many rows."""
        feed = dataclasses.replace(self.config.feed, batch_size=rows)
        return feature_shapes(feed, self.config.model.architecture)

    def create_state(self) -> state.TrainState:
        """A fresh state, made in place on the devices."""
        made = self.partitioner.jit(self._create, (), self.shardings)()
        # The program's own 0 is there when all else is: who asks for the step would wait for the parameters.
        step = jax.make_array_from_callback((), self.shardings.step, lambda _: np.zeros((), np.int32))
        return dataclasses.replace(made, step=step)

    def create_leaves(self, wanted: Sequence[bool]) -> list[jax.Array]:
        """Those arrays of a fresh state that are wanted, in `jax.tree.leaves`' order; the others are not made."""

        def create():
            return list(itertools.compress(jax.tree.leaves(self._create()), wanted))

        shardings = list(itertools.compress(jax.tree.leaves(self.shardings), wanted))
        return self.partitioner.jit(create, (), shardings)() if shardings else []

    def _create(self) -> state.TrainState:
        return state.create(self.config.model, self.config.optimizer, self.config.train)

    @property
    def eval_rows(self) -> int:
        """Rows that answers are scored or written for at once: a microbatch's, so that what trains also evaluates."""
        return self.config.feed.batch_size // self.config.train.num_microbatches


def assemble(config: RunConfig, devices: list[jax.Device] | None = None) -> Run:
    """Looks up the task's vocabulary and lays the state out over `devices` (default: all). Makes no arrays.

    Raises:
        UserError: for a task, mesh or batch size that cannot be.
    """
    hosts.check_same({name: redact(repr(value)) for name, value in config.settings.items()})
    loss.check_normalizing_factor(config.loss.normalizing_factor)
    _check_folders(config)
    partitioner = make_partitioner(config.partitioning, devices)
    _check_batch(config, partitioner)
    _check_attention(config, partitioner)
    vocabulary = None
    if config.model.vocab_size is None:  # after all that can be refused without importing TensorFlow
        vocab_size, vocabulary = feeds.model_vocab_size(config.feed), feeds.vocabulary_id(config.feed)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocab_size))
    loss.check_vocab_blocks(config.model.vocab_size, config.loss.blocks, partitioner.mesh.shape.get("model", 1))
    total_steps = _total_steps(config)
    config = dataclasses.replace(config, schedule=schedules.resolve(config.schedule, total_steps))
    shapes = jax.eval_shape(lambda: state.create(config.model, config.optimizer, config.train))
    if isinstance(partitioner, PmapPartitioner):
        trained = {name: shapes.params[name] for name in shapes.opt_state}
        replicas.check_replicated(shapes, trained, partitioner.devices)
    shardings = partitioner.shardings(shapes, state.axes(config.model, config.optimizer, shapes))
    return Run(config, partitioner, shapes, shardings, total_steps, vocabulary)


def first_step(train: TrainConfig, origin: Origin | None = None) -> int:
    """The step that a run starts from when nothing of it is there yet.

    Args:
        origin: the initial checkpoint, where it is open already.

    Raises:
        UserError: where there is no such checkpoint.
    """
    if train.initial_checkpoint_path is None or train.reset_step is True:
        return 0
    if train.reset_step is not None:
        return train.reset_step
    if origin is None:
        from t5x_mini.checkpoint.source import open_source  # Orbax takes a second to import

        origin = open_source(train.initial_checkpoint_path).origin
    return origin.step or 0


def _check_attention(config: RunConfig, partitioner: Partitioner) -> None:
    device = partitioner.mesh.devices.flat[0]
    if config.model.attention == "flash" and device.platform != "tpu":
        raise UserError(
            f"ATTENTION = 'flash' is a kernel for TPUs, and the devices here are of the kind {device.platform}: write "
            "--gin.ATTENTION=plain. The numbers are the same."
        )


def _check_folders(config: RunConfig) -> None:
    folders = {
        "MODEL_DIR": config.train.model_dir,
        "EVAL_OUTPUT_DIR": config.evaluate.eval_output_dir,
        "INFER_OUTPUT_DIR": config.evaluate.infer_output_dir,
    }
    if not config.train.model_dir.strip():
        raise UserError("MODEL_DIR is empty: write the folder of the run, for example --gin.MODEL_DIR=runs/my_run.")
    for macro, folder in folders.items():
        if folder:
            storage.check_writable(folder, macro)


def _total_steps(config: RunConfig) -> int:
    train = config.train
    if train.train_steps_relative is None:
        return train.train_steps or 0
    return first_step(train) + train.train_steps_relative


def _check_batch(config: RunConfig, partitioner: Partitioner) -> None:
    rows, parts, ways = config.feed.batch_size, config.train.num_microbatches, partitioner.row_ways
    if rows % (parts * ways):
        raise UserError(
            f"BATCH_SIZE is {rows}, but {parts} microbatch(es) on devices that split the rows {ways} ways need a "
            f"multiple of {parts * ways}; write --gin.BATCH_SIZE={max(rows // (parts * ways), 1) * parts * ways}"
        )
