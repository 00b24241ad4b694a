"""Held-out text is the same at every measurement, and sums over it are sums over its tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from tiny_runs import TASKS

from t5x_mini import config
from t5x_mini.evaluate import held_out
from t5x_mini.train import run, step


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny


@pytest.fixture(scope="module")
def assembled(tiny):
    bindings = [f"MODEL_DIR={tiny.folder}/run", f"MIXTURE_OR_TASK_NAME={tiny_runs.MIXTURE}"]
    return run.assemble(config.load([str(tiny.folder / "tiny.gin")], bindings))


@pytest.fixture(scope="module")
def measured(assembled):
    return held_out.HeldOut(assembled)


def test_every_task_of_a_mixture_is_read_to_its_end(measured):
    assert set(measured.batches) == set(TASKS)
    for batches in measured.batches.values():
        rows = np.concatenate([batch["decoder_target_tokens"] for batch in batches])
        assert len(rows) % 16 == 0
        # The last batch is filled up with rows of zeros, which carry no loss.
        filled = ~rows.any(axis=1)
        assert filled.sum() < 16
        weights = np.concatenate([batch["decoder_loss_weights"] for batch in batches])
        assert not weights[filled].any() and weights[~filled].any(axis=1).all()


def test_the_same_text_is_read_again(assembled, measured):
    again = held_out.read_held_out(assembled, "validation", 2)
    for task, batches in again.items():
        assert len(batches) == 2
        for batch, before in zip(batches, measured.batches[task], strict=False):
            jax.tree.map(np.testing.assert_array_equal, batch, before)


def test_a_split_that_no_task_has(assembled):
    assert held_out.read_held_out(assembled, "test", None) == {}


def test_measures_are_those_of_all_tokens_at_once(assembled, measured):
    params = assembled.create_state().params
    first, *rest = measured.batches[TASKS[0]]
    whole = {name: np.concatenate([first[name], *(batch[name] for batch in rest)]) for name in first}
    sums = step.batch_sums(
        params, jax.tree.map(jnp.asarray, whole), assembled.config.model, assembled.config.loss, key=None
    )
    row = measured.measure(params)[TASKS[0]]
    weights = whole["decoder_loss_weights"].sum()
    assert row["loss_per_nonpadding_target_token"] == pytest.approx(float(sums["loss"]) / weights, rel=1e-5)
    assert row["loss"] == pytest.approx(float(sums["objective"]) / weights, rel=1e-5)
    assert row["accuracy"] == pytest.approx(float(sums["correct"]) / weights, rel=1e-6)
    cross_entropy = measured.cross_entropy(params, [first, *rest])
    assert cross_entropy == pytest.approx(float(sums["loss"] - sums["z_loss"]) / weights, rel=1e-5)
    assert cross_entropy < row["loss_per_nonpadding_target_token"]
