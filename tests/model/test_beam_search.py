"""Beam search: what T5X's finds with a model that ends answers often, and the best of all answers there are."""

import functools
import itertools

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from t5x_mini.model import answers, beam_search
from t5x_mini.model.cache import Cache
from t5x_mini.model.config import DecodingConfig
from t5x_mini.model.decoding import decode
from t5x_mini.model.scoring import score

T5X = np.load(goldens.FOLDER / "t5x_beam_search.npz")
LENGTH = T5X["tokens_0"].shape[-1]


def read(h, tokens):
    """What the golden's model knows after these tokens."""
    return np.tanh(T5X["decay"] * h + T5X["embed"][tokens])


def search(h, begun, beams, alpha, prompt):
    """Our search with the golden's model, whose state stands where a transformer has its keys and values."""

    def logits_of(h):
        return h @ T5X["head"] + T5X["bias"]

    def step(cache, tokens):
        h = jnp.tanh(T5X["decay"] * cache.layers[0] + jnp.asarray(T5X["embed"])[tokens])
        return logits_of(h), Cache([h], cache.written + 1)

    @functools.partial(jax.jit, compiler_options=tiny.QUICK)
    def run(h, begun):
        return beam_search.search(
            step,
            Cache([jnp.repeat(h, beams, axis=0)], jnp.zeros((), jnp.int32)),
            logits_of(h),
            begun,
            beams=beams,
            length_penalty=alpha,
            prompt_lengths=jnp.full(len(h), prompt),
            change=answers.changed_by(None, 0),
        )

    return [np.asarray(array)[:, ::-1] for array in run(h, begun)]  # T5X gives the worst first


@pytest.mark.parametrize("setting", range(len(T5X["settings"])))
def test_finds_what_t5x_finds(setting):
    beams, alpha, prompt = T5X["settings"][setting]
    h = read(T5X["h0"], T5X["first"][setting])
    tokens, scores = search(h, answers.begin(len(h), LENGTH, None), int(beams), float(alpha), int(prompt))
    np.testing.assert_array_equal(tokens, T5X[f"tokens_{setting}"])
    np.testing.assert_allclose(scores, T5X[f"scores_{setting}"], rtol=1e-5)


def test_goes_on_from_what_is_forced_as_t5x_does():
    h, forced = read(T5X["h0"], 0), T5X["forced"]
    for token in forced.T:
        h = np.where((token > 0)[:, None], read(h, token), h)
    tokens, scores = search(h, answers.begin(len(h), LENGTH, jnp.asarray(forced)), 4, 0.6, 0)
    np.testing.assert_array_equal(tokens, T5X["forced_tokens"])
    np.testing.assert_allclose(scores, T5X["forced_scores"], rtol=1e-5)


def test_answers_that_are_forced_to_their_end_stay_alone():
    h = read(T5X["h0"][:3], 0)
    forced = np.zeros((3, LENGTH), np.int32)
    forced[0, :3] = 5, 6, 1
    forced[1] = 7
    tokens, scores = search(h, answers.begin(3, LENGTH, jnp.asarray(forced)), 2, 0.6, 0)
    np.testing.assert_array_equal(tokens[:2, -1], forced[:2])
    np.testing.assert_array_equal(scores[:2], [[-1e7, 0.0]] * 2)
    np.testing.assert_array_equal(tokens[2], search(h[2:], answers.begin(1, LENGTH, None), 2, 0.6, 0)[0][0])


def without_padding(logits, tokens, place):
    return logits.at[:, 0].set(-jnp.inf)


@pytest.mark.parametrize("architecture", ["encoder_decoder", pytest.param("prefix_lm", marks=pytest.mark.slow)])
def test_with_beams_enough_finds_all_answers_in_order(architecture):
    """Words are 2 and 3; answers have up to 3 of them and EOS."""
    config, length, alpha = tiny.model(architecture, vocab_size=4), 4, 0.9
    params = tiny.params(config, 1)
    everything = [list(words) for count in range(length) for words in itertools.product((2, 3), repeat=count)]
    batch = tiny.batch(architecture, [([2, 3, 3], words) for words in everything], inputs=4, targets=length)
    log_probs = jax.jit(score, static_argnums=2, compiler_options=tiny.QUICK)(params, batch, config).sum(1)
    lengths = np.array([len(words) + 1 for words in everything]) + (0 if config.has_encoder else 4)
    wanted = np.asarray(log_probs) / ((5 + lengths) / 6) ** alpha

    decoding = DecodingConfig(method="beam", num_decodes=len(everything), length_penalty=alpha)
    find = functools.partial(decode, config=config, decoding=decoding, length=length, logit_callback=without_padding)
    found = jax.jit(find, compiler_options=tiny.QUICK)(params, jnp.asarray([[2, 3, 3, 1]]))
    order = np.argsort(-wanted)
    np.testing.assert_allclose(found.scores[0], wanted[order], rtol=1e-5)
    for tokens, number in zip(np.asarray(found.tokens[0]), order, strict=True):
        words = everything[number]
        assert tokens.tolist() == [*words, 1, *[0] * (length - 1 - len(words))]
