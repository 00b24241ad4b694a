"""Records what T5X's beam search finds with a tiny recurrent model that ends answers often: `t5x_beam_search.npz`.

PYTHONPATH=<a checkout of T5X> python tests/golden/record_t5x_beam_search.py

h0       float32[rows, width]      the state before anything is read
decay    float32[width]            reading a token: h = tanh(decay * h + embed[token])
embed    float32[vocab, width]
head     float32[width, vocab]     logits: h @ head + bias
bias     float32[vocab]
settings float64[setting, 3]       beams, alpha, tokens of the prompt
first    int32[setting]            the token that is read first: BOS, or the prompt's last; h0 knows the others
tokens_i int32[rows, beams, LENGTH], without the prompt
scores_i float32[rows, beams]      both the worst first, as T5X gives them
forced   int32[rows, 3]            how the answers of `forced_tokens` and `forced_scores` begin; 4 beams, alpha 0.6
"""

import pathlib

import jax.numpy as jnp
import numpy as np
from t5x import decoding

ROWS, VOCAB, WIDTH, LENGTH = 5, 24, 8, 9
SETTINGS = [(1, 0.6, 0), (4, 0.6, 0), (4, 0.0, 0), (4, 2.0, 0), (3, 1.0, 0), (4, 0.6, 7), (2, 2.0, 3)]
FORCED = np.array([[5, 6, 7], [3, 0, 0], [0, 0, 0], [9, 8, 0], [4, 4, 4]], np.int32)


def model(rng):
    bias = np.where(np.arange(VOCAB) == 1, 0.5, 0)
    return dict(
        h0=rng.normal(0, 1, (ROWS, WIDTH)).astype(np.float32),
        decay=rng.uniform(0.5, 0.9, WIDTH).astype(np.float32),
        embed=rng.normal(0, 1, (VOCAB, WIDTH)).astype(np.float32),
        head=rng.normal(0, 0.8, (WIDTH, VOCAB)).astype(np.float32),
        bias=bias.astype(np.float32),
    )


def search(arrays, beams, alpha, inputs, initial_index=None):
    def tokens_to_logits(state):
        h = jnp.tanh(arrays["decay"] * state.cache["h"] + jnp.asarray(arrays["embed"])[state.cur_token[:, 0]])
        return h @ arrays["head"] + arrays["bias"], {"h": h}

    return decoding.beam_search(
        jnp.asarray(inputs),
        {"h": jnp.asarray(arrays["h0"])},
        tokens_to_logits,
        eos_id=1,
        num_decodes=beams,
        alpha=alpha,
        initial_index=initial_index,
    )


def main():
    arrays = model(np.random.default_rng(3))
    recorded = dict(arrays, settings=np.array(SETTINGS), forced=FORCED)
    recorded["first"] = np.array([2 if prompt else 0 for _, _, prompt in SETTINGS], np.int32)
    for i, (beams, alpha, prompt) in enumerate(SETTINGS):
        inputs = np.zeros((ROWS, prompt + LENGTH), np.int32)
        initial_index = None
        if prompt:
            inputs[:, 1 : prompt + 1] = 2
            initial_index = jnp.full(ROWS, prompt)
        tokens, scores = search(arrays, beams, alpha, inputs, initial_index)
        recorded[f"tokens_{i}"], recorded[f"scores_{i}"] = tokens[:, :, -LENGTH:] if prompt else tokens, scores
    inputs = np.zeros((ROWS, LENGTH), np.int32)
    inputs[:, 1:4] = FORCED[:, :3]
    recorded["forced_tokens"], recorded["forced_scores"] = search(arrays, 4, 0.6, inputs)
    np.savez_compressed(pathlib.Path(__file__).parent / "t5x_beam_search.npz", **recorded)
    for name, array in recorded.items():
        if "scores" in name or "tokens" in name:
            print(name, array)


if __name__ == "__main__":
    main()
