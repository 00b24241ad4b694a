"""Log-probabilities of given targets: T5X's, and those of the logits token by token."""

import goldens
import jax
import numpy as np
import pytest
import tiny

from t5x_mini.model import transformer
from t5x_mini.model.config import ARCHITECTURES
from t5x_mini.model.scoring import score

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
