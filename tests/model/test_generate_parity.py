"""The tokens and scores of transformers' `generate`, with random weights.

The two beam searches differ in their length penalty and in when they stop, so they are compared where neither matters:
without a penalty, on answers that all have the same length, each with EOS in the last place.
"""

import dataclasses
import functools

import hf_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from t5x_mini.checkpoint.huggingface.source import HuggingFaceSource
from t5x_mini.model.config import DecodingConfig
from t5x_mini.model.decoding import decode

torch = pytest.importorskip("torch")

LENGTH = 8
INPUTS = np.random.default_rng(5).integers(2, 48, (4, 7)) * (np.arange(7) < np.array([[7], [3], [5], [6]]))
VARIANTS = ["t5", "t5_1_1", "umt5"]  # a tied head, a head of its own, position biases of each layer


@pytest.fixture(scope="module", params=VARIANTS)
def models(request, tmp_path_factory):
    """transformers' model, our configuration and our parameters."""
    folder = tmp_path_factory.mktemp(request.param)
    hf_models.write(folder, request.param)
    source = HuggingFaceSource(str(folder))
    config = dataclasses.replace(source.origin.model, dtype="float32")
    return hf_models.load(folder), config, hf_models.params(source, config)


def theirs(model, **options):
    inputs = torch.from_numpy(INPUTS)
    options = dict(max_length=LENGTH + 1, do_sample=False, return_dict_in_generate=True, output_scores=True) | options
    return model.generate(input_ids=inputs, attention_mask=(inputs > 0).long(), **options)


def ours(config, params, decoding, **options):
    function = functools.partial(decode, config=config, decoding=decoding, length=LENGTH, **options)
    return jax.tree.map(np.asarray, jax.jit(function, compiler_options=tiny.QUICK)(params, jnp.asarray(INPUTS)))


def filled_up(tokens):
    """Without BOS, as long as ours."""
    tokens = tokens.numpy()[:, 1:]
    return np.pad(tokens, ((0, 0), (0, LENGTH - tokens.shape[1])))


def test_greedy(models):
    model, config, params = models
    found = ours(config, params, DecodingConfig())
    np.testing.assert_array_equal(found.tokens[:, 0], filled_up(theirs(model).sequences))


def test_beam(models):
    model, config, params = models

    def eos_last(logits, tokens, place):
        return logits.at[:, 1].set(jnp.where(place == LENGTH - 1, logits[:, 1] + 20.0, -jnp.inf))

    class EosLast:
        def __call__(self, input_ids, scores):
            scores[:, 1] = scores[:, 1] + 20.0 if input_ids.shape[1] == LENGTH else -torch.inf
            return scores

    beams = DecodingConfig(method="beam", num_decodes=4, length_penalty=0.0)
    found = ours(config, params, beams, logit_callback=eos_last)
    wanted = theirs(
        model,
        num_beams=4,
        num_return_sequences=4,
        length_penalty=0.0,
        early_stopping=False,
        logits_processor=[EosLast()],
    )
    np.testing.assert_array_equal(found.tokens.reshape(16, LENGTH), filled_up(wanted.sequences))
    np.testing.assert_allclose(found.scores.reshape(16), wanted.sequences_scores.numpy(), rtol=1e-4)
