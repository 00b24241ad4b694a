"""Log-probabilities of given targets: T5X's, and those of the logits token by token."""

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from t5x_mini.model import transformer
from t5x_mini.model.config import ARCHITECTURES
from t5x_mini.model.scoring import score, score_choices

quick_choices = jax.jit(score_choices, static_argnums=3, compiler_options=tiny.QUICK)
quick_score = jax.jit(score, static_argnums=2, compiler_options=tiny.QUICK)
SCORED = [name for name in goldens.DECODED if name.startswith("encdec")]


@pytest.mark.parametrize("name", SCORED)
def test_sum_is_t5xs_score(name):
    golden = goldens.load(name)
    ours = quick_score(golden.params, golden.batch, golden.model).sum(1)
    assert goldens.error(ours, np.load(goldens.FOLDER / f"{name}.npz")["score"]) < 1e-5


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_token_has_its_log_probability_and_what_is_given_none(architecture):
    config = tiny.model(architecture)
    params = tiny.params(config, 2)
    batch = tiny.batch(architecture, tiny.examples(0, 3))
    logits = jax.jit(lambda params: transformer.bind(config, params)(batch), compiler_options=tiny.QUICK)(params)
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    weights, targets = np.asarray(batch["decoder_loss_weights"]), np.asarray(batch["decoder_target_tokens"])
    scores = np.asarray(quick_score(params, batch, config))
    assert (weights == 0).any() and not scores[weights == 0].any()
    wanted = np.take_along_axis(log_probs, targets[..., None], -1)[..., 0]
    np.testing.assert_allclose(scores[weights > 0], wanted[weights > 0], rtol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_choices_have_the_scores_of_each_target_by_itself(architecture):
    config = tiny.model(architecture)
    params = tiny.params(config, 2)
    inputs, choices = [[5, 6, 7], [8], [9, 10, 11, 12]], [[4], [4, 17, 20], [30, 31]]
    ids = jnp.asarray([[*row, 1, 0, 0, 0, 0][:6] for row in inputs])
    targets = jnp.asarray([[*choice, 1, 0, 0, 0][:5] for choice in choices] + [[0] * 5])  # one is no choice
    found = np.asarray(quick_choices(params, ids, jnp.stack([targets, targets[::-1], targets]), config))
    assert found.shape == (3, 4) and found[0, 3] == found[1, 0] == 0
    pairs = [(row, choice) for row in inputs for choice in choices]
    batch = tiny.batch(architecture, pairs, inputs=6, targets=5)
    wanted = np.asarray(quick_score(params, batch, config)).sum(1).reshape(3, 3)
    np.testing.assert_allclose(found[[0, 2], :3], wanted[[0, 2]], rtol=1e-5)
    np.testing.assert_allclose(found[1, :0:-1], wanted[1], rtol=1e-5)
    assert np.ptp(wanted, axis=0).max() > 1e-3  # inputs count


def test_a_choice_of_one_token_has_the_probability_of_that_token():
    config = tiny.model()
    params, ids = tiny.params(config, 2), jnp.asarray([[5, 6, 1]])
    every_token = jnp.arange(1, tiny.VOCAB)[None, :, None]
    found = np.asarray(quick_choices(params, ids, every_token, config))
    assert 0.9 < np.exp(found).sum() < 1  # but for padding's
