"""From a configuration to shapes and shardings on the devices that are here, and what is refused."""

import dataclasses
import types

import jax
import numpy as np
import pytest
import tiny

from t5x_mini import config as run_config
from t5x_mini.errors import UserError
from t5x_mini.model import transformer
from t5x_mini.parallel.config import PartitioningConfig
from t5x_mini.train import run
from t5x_mini.train.schedules import Cosine, Rsqrt


def configured(model=None, **parts):
    """The quickstart with a tiny model, 16 rows and T5's schedule; changes by part, `train=dict(train_steps=5)`."""
    config = run_config.load(["gin/quickstart.gin"], ["BATCH_SIZE=16"])
    config = dataclasses.replace(config, model=model or tiny.model(), schedule=Rsqrt())
    for part, changes in parts.items():
        config = dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **changes)})
    return config


def test_shapes_are_those_of_the_state_that_is_made():
    made = run.assemble(configured())
    fresh = made.create_state()
    assert jax.tree.map(lambda x: (x.shape, x.dtype), fresh) == jax.tree.map(lambda x: (x.shape, x.dtype), made.shapes)
    placed = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), fresh, made.shardings)
    assert all(jax.tree.leaves(placed))


def test_the_state_is_split_as_the_mesh_says_and_is_the_same_numbers():
    split = run.assemble(configured(partitioning=dict(data=2, fsdp=2, model=2)))
    whole = run.assemble(configured(), jax.devices()[:1])
    embedding = "token_embedder/embedding"
    assert tuple(split.shardings.params[embedding].spec) == ("model", "fsdp")
    expected = whole.create_state().params
    for name, param in split.create_state().params.items():
        np.testing.assert_array_equal(param, expected[name], err_msg=name)


@pytest.mark.parametrize(
    "rows, parts, mesh, need, write",
    [
        (12, 1, dict(), 8, 8),
        (24, 2, dict(), 16, 16),
        (6, 1, dict(data=2, fsdp=4), 8, 8),
        (18, 4, dict(data=1, fsdp=2, model=4), 8, 16),
    ],
)
def test_rows_that_cannot_be_split_evenly_are_refused(rows, parts, mesh, need, write):
    config = configured(feed=dict(batch_size=rows), train=dict(num_microbatches=parts), partitioning=mesh)
    ways = need // parts
    words = rf"BATCH_SIZE is {rows}, but {parts} microbatch.* {ways} ways need a multiple of {need}; "
    with pytest.raises(UserError, match=words + rf"write --gin.BATCH_SIZE={write}$"):
        run.assemble(config)
    assert run.assemble(dataclasses.replace(config, feed=dataclasses.replace(config.feed, batch_size=write)))


def test_devices_along_model_do_not_split_rows():
    assert run.assemble(configured(feed=dict(batch_size=1), partitioning=dict(data=1, model=8)))


def test_flash_attention_without_a_tpu_is_refused():
    words = "ATTENTION = 'flash' is a kernel for TPUs, and the devices here are of the kind cpu: write --gin.ATTENTION="
    with pytest.raises(UserError, match=words):
        run.assemble(configured(model=tiny.model(attention="flash")))


def test_a_wrong_normaliser_is_refused_before_anything_is_made():
    with pytest.raises(UserError, match="LOSS_NORMALIZING_FACTOR is 'TOKENS'"):
        run.assemble(configured(loss=dict(normalizing_factor="TOKENS")))


def test_a_mesh_of_other_devices_is_refused():
    with pytest.raises(UserError, match="data=3.*there are 8 devices"):
        run.assemble(configured(partitioning=dict(data=3)))


def test_steps_are_absolute_or_beyond_the_initial_checkpoint():
    assert run.assemble(configured(train=dict(train_steps=700))).total_steps == 700
    assert run.assemble(configured(train=dict(train_steps=None))).total_steps == 0
    relative = dict(train_steps=None, train_steps_relative=5)
    assert run.assemble(configured(train=relative)).total_steps == 5


@pytest.mark.parametrize(
    ("reset", "there", "total"),
    [(None, 1000, 1005), (None, None, 5), (True, 1000, 5), (0, 1000, 5), (20, 1000, 25), (20, None, 25)],
)
def test_steps_beyond_a_checkpoint_are_added_to_its_step_or_the_one_it_is_set_to(monkeypatch, reset, there, total):
    from t5x_mini.checkpoint import source

    origin = source.Origin(path="runs/x", kind="hf", model=tiny.model(), step=there)
    monkeypatch.setattr(source, "open_source", lambda path: types.SimpleNamespace(origin=origin))
    relative = dict(train_steps=None, train_steps_relative=5, initial_checkpoint_path="runs/x", reset_step=reset)
    assert run.assemble(configured(train=relative)).total_steps == total


def test_a_schedule_ends_with_the_run():
    config = dataclasses.replace(configured(train=dict(train_steps=70)), schedule=Cosine(peak=0.1, warmup_steps=10))
    assert run.assemble(config).config.schedule.total_steps == 70


def test_the_vocabulary_comes_from_the_task():
    """The built-in one has 8000 pieces and 100 sentinels; rows are a multiple of 128."""
    made = run.assemble(configured(model=tiny.model(vocab_size=None)))
    assert made.config.model.vocab_size % 128 == 0 and made.config.model.vocab_size >= 8000
    assert made.shapes.params["token_embedder/embedding"].shape[0] == made.config.model.vocab_size


def test_evaluation_takes_the_rows_of_a_microbatch():
    made = run.assemble(configured(train=dict(num_microbatches=2)))
    assert made.eval_rows == 8
    shapes = made.batch_shapes(made.eval_rows)
    assert shapes["encoder_input_tokens"].shape == (8, 128) and shapes["decoder_target_tokens"].shape == (8, 29)


def test_pmap_holds_the_whole_state_on_every_device():
    made = run.assemble(configured(partitioning=dict(kind="pmap")))
    assert made.config.partitioning == PartitioningConfig(kind="pmap")
    assert all(sharding.is_fully_replicated for sharding in jax.tree.leaves(made.shardings))
    assert made.shapes.params.keys() == transformer.param_shapes(made.config.model).keys()
