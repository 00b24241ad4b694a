"""Records how many tokens and spans T5 masks, and which lengths it computes from that: `t5_lengths.npz`.

    pip install t5 && python tests/golden/record_t5_lengths.py

Of `t5.data.preprocessors`:

    masked, spans   int16[setting, length - 2]: counted in a mask of `random_spans_noise_mask`, for lengths 2 to 4096
    window, targets int16[setting, inputs - 3]: of `random_spans_helper`, for inputs of 3 to 4096 tokens, 0 where T5
                    has no answer or one above 32767
    settings        float64[setting, 2]: noise density, mean length of a span

-1: T5 fails there.
"""

import os
import pathlib

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np
import tensorflow as tf
from t5.data import preprocessors

# T5's, its ablations', and UL2's.
SETTINGS = [
    *((0.15, 3), (0.1, 3), (0.25, 3), (0.5, 3)),
    *((0.15, 2), (0.15, 5), (0.15, 8), (0.15, 10)),
    *((0.15, 64), (0.5, 8), (0.5, 64)),
]
LENGTHS = np.arange(2, 4097)
INPUTS = np.arange(3, 4097)


def record_masks(noise_density: float, mean_span: float) -> np.ndarray:
    """int16[2, lengths]: masked tokens and spans."""

    def counts(length):
        mask = preprocessors.random_spans_noise_mask(
            length, noise_density, seeds=tf.constant([[1, 2], [3, 4]]), mean_noise_span_length=mean_span
        )
        mask = tf.cast(mask, tf.int32)
        return tf.stack([tf.reduce_sum(mask), tf.reduce_sum(tf.nn.relu(mask[1:] - mask[:-1])) + mask[0]])

    counts = tf.function(counts, input_signature=[tf.TensorSpec([], tf.int32)])

    def one(length):
        try:
            return counts(tf.constant(length)).numpy()
        except tf.errors.InvalidArgumentError:
            return np.array([-1, -1])

    return np.stack([one(length) for length in LENGTHS.tolist()], axis=1).astype(np.int16)


def record_lengths(noise_density: float, mean_span: float) -> np.ndarray:
    """int16[2, inputs lengths]: window and targets."""
    found = [
        preprocessors.random_spans_helper(
            inputs,
            noise_density,
            mean_span,
            extra_tokens_per_span_inputs=1,
            extra_tokens_per_span_targets=1,
            verbose=False,
        )
        for inputs in INPUTS.tolist()
    ]
    return np.array(found, np.int16).T


masks = np.stack([record_masks(*setting) for setting in SETTINGS])
lengths = np.stack([record_lengths(*setting) for setting in SETTINGS])
np.savez_compressed(
    pathlib.Path(__file__).with_name("t5_lengths.npz"),
    settings=np.array(SETTINGS),
    masked=masks[:, 0],
    spans=masks[:, 1],
    window=lengths[:, 0],
    targets=lengths[:, 1],
)
