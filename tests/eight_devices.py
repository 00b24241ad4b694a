"""Runs of tiny models on eight devices: their configuration, batches, and states without compiling anything."""

from __future__ import annotations

import jax
import numpy as np
import tiny

from t5x_mini.checkpoint.config import CheckpointConfig
from t5x_mini.config import RunConfig
from t5x_mini.evaluate.config import EvaluateConfig
from t5x_mini.feed.config import FeedConfig
from t5x_mini.parallel.config import PartitioningConfig
from t5x_mini.train.config import LossConfig, TrainConfig
from t5x_mini.train.optimizers import Adafactor
from t5x_mini.train.run import Run, assemble
from t5x_mini.train.schedules import Constant
from t5x_mini.train.state import TrainState

ROWS = 16
PMAP = PartitioningConfig(kind="pmap")
FACTORED = Adafactor(min_dim_size_to_factor=8)  # factors tiny matrices too


def mesh(data: int, fsdp: int, model: int) -> PartitioningConfig:
    """A mesh of these sizes."""
    return PartitioningConfig(data=data, fsdp=fsdp, model=model)


def run(
    partitioning, architecture="encoder_decoder", *, optimizer=FACTORED, microbatches=1, devices=None, **model
) -> Run:
    """A run with eight heads, so that each of eight devices can have one; `model` changes the model."""
    config = RunConfig(
        model=tiny.model(architecture, **(dict(num_heads=8, head_dim=4) | model)),
        feed=FeedConfig(
            mixture_or_task_name="made by hand", task_feature_lengths={"inputs": 6, "targets": 6}, batch_size=ROWS
        ),
        loss=LossConfig(),
        optimizer=optimizer,
        schedule=Constant(learning_rate=0.01),
        train=TrainConfig(model_dir="unused", train_steps=5, num_microbatches=microbatches),
        checkpoint=CheckpointConfig(),
        partitioning=partitioning,
        evaluate=EvaluateConfig(),
    )
    return assemble(config, devices)


def one_device(**changes) -> Run:
    """The same run on one device, against which all others are measured."""
    return run(mesh(1, 1, 1), devices=jax.devices()[:1], **changes)


def batches(architecture: str, count: int) -> list[dict[str, np.ndarray]]:
    """Batches of a host: rows of all lengths, so that devices and microbatches have unequal numbers of tokens."""
    made = [tiny.batch(architecture, tiny.examples(seed, ROWS)) for seed in range(count)]
    return [{name: np.asarray(rows) for name, rows in batch.items()} for batch in made]


def random_state(run: Run, step: int = 7) -> TrainState:
    """A state in which no two numbers are the same, split as `run` splits it."""
    rng = np.random.default_rng(0)

    def fill(shape, sharding):
        if shape.shape == ():
            return jax.device_put(np.asarray(step, shape.dtype), sharding)
        random = rng.random(shape.shape) if shape.dtype == np.float32 else rng.integers(1, 2**31 - 1, shape.shape)
        return jax.device_put(random.astype(shape.dtype), sharding)

    return jax.tree.map(fill, run.shapes, run.shardings)
