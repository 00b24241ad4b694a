"""The same features as SeqIO's converters, number by number."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_mini.feed.batch import feature_shapes
from t5x_mini.feed.config import FeedConfig
from t5x_mini.feed.convert import convert

LENGTHS = {"inputs": 7, "targets": 5}
ARCHITECTURES = ("encoder_decoder", "prefix_lm", "causal_lm")


def random_examples(count, lengths, shortest):
    """Examples of lists of tokens that end in EOS, of `shortest` tokens by feature up to `lengths`."""
    rng = np.random.default_rng(0)

    def tokens(name):
        length = rng.integers(shortest[name], lengths[name] + 1)
        return [*rng.integers(2, 10, length - 1).tolist(), 1] if length else []

    return [{name: tokens(name) for name in lengths} for _ in range(count)]


def with_seqio(examples, lengths, architecture, *, pack=False, loss_on_targets_only=True):
    """One dict of rows, made by SeqIO from lists of tokens."""
    signature = {name: tf.TensorSpec([None], tf.int32) for name in lengths}
    dataset = tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=signature)
    if architecture == "encoder_decoder":
        converter = seqio.EncDecFeatureConverter(pack=pack)
    elif "inputs" in lengths:
        converter = seqio.PrefixLMFeatureConverter(pack=pack, loss_on_targets_only=loss_on_targets_only)
    else:
        converter = seqio.LMFeatureConverter(pack=pack)
    rows = list(converter(dataset, lengths).as_numpy_iterator())
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def padded(examples, lengths):
    arrays = {name: np.zeros((len(examples), length), np.int32) for name, length in lengths.items()}
    for row, example in enumerate(examples):
        for name, ids in example.items():
            arrays[name][row, : len(ids)] = ids
    return arrays


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        np.testing.assert_array_equal(found[name], rows, err_msg=name)
        assert found[name].dtype == np.int32


@pytest.mark.parametrize("loss_on_targets_only", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_unpacked_rows_are_seqios(architecture, loss_on_targets_only):
    examples = random_examples(200, LENGTHS, {"inputs": 0, "targets": 0})
    expected = with_seqio(examples, LENGTHS, architecture, loss_on_targets_only=loss_on_targets_only)
    found = convert(padded(examples, LENGTHS), architecture, LENGTHS, loss_on_targets_only=loss_on_targets_only)
    assert_same(found, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_edges_are_seqios(architecture):
    full = {"inputs": [2, 3, 4, 5, 6, 7, 1], "targets": [2, 3, 4, 5, 1]}
    cut = {"inputs": [2, 3, 4, 5, 6, 7, 8], "targets": [2, 3, 4, 5, 6]}  # without EOS
    examples = [full, cut, {"inputs": [], "targets": [1]}, {"inputs": [5, 1], "targets": []}, full]
    assert_same(convert(padded(examples, LENGTHS), architecture, LENGTHS), with_seqio(examples, LENGTHS, architecture))


def test_an_unpacked_row_shows_the_decoder_its_last_eos_and_a_packed_one_does_not():
    examples = {"targets": np.array([[5, 1, 0, 0], [6, 1, 0, 0]])}
    assert convert(examples, "causal_lm", {"targets": 4})["decoder_input_tokens"].tolist() == [
        [0, 5, 1, 0],
        [0, 6, 1, 0],
    ]
    packed = convert(examples, "causal_lm", {"targets": 8}, examples_per_row=2)
    assert packed["decoder_input_tokens"].tolist() == [[0, 5, 0, 6, 0, 0, 0, 0]]


@pytest.mark.parametrize("loss_on_targets_only", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_rows_are_seqios(architecture, loss_on_targets_only):
    # SeqIO packs as many as fit. Any two of these fit in a row of twice their room, and no three do. It packs groups of
    # as many examples as the longer feature has tokens: an even number.
    examples = random_examples(70, LENGTHS, {"inputs": 5, "targets": 4})
    double = {name: 2 * length for name, length in LENGTHS.items()}
    expected = with_seqio(examples, double, architecture, pack=True, loss_on_targets_only=loss_on_targets_only)
    found = convert(
        padded(examples, LENGTHS), architecture, double, examples_per_row=2, loss_on_targets_only=loss_on_targets_only
    )
    assert_same(found, expected)


@pytest.mark.parametrize("pack", [False, True])
def test_targets_alone_are_language_modelling(pack):
    examples = random_examples(70, {"targets": 5}, {"targets": 4})
    lengths = {"targets": 10 if pack else 5}
    expected = with_seqio(examples, lengths, "causal_lm", pack=pack)
    found = convert(padded(examples, {"targets": 5}), "causal_lm", lengths, examples_per_row=2 if pack else None)
    assert_same(found, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pack", [False, True])
def test_loss_weights_go_where_their_targets_go(architecture, pack):
    examples = padded([{"inputs": [2, 1], "targets": [3, 4, 1]}, {"inputs": [6, 7, 1], "targets": [9, 1]}], LENGTHS)
    examples["loss_weights"] = np.isin(examples["targets"], (4, 9)).astype(np.int32)
    found = convert(examples, architecture, LENGTHS, examples_per_row=2 if pack else None)
    np.testing.assert_array_equal(found["decoder_loss_weights"], np.isin(found["decoder_target_tokens"], (4, 9)))
    assert found["decoder_loss_weights"].sum() == 2


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("pack", [False, True])
def test_the_features_are_those_that_were_promised(architecture, pack):
    config = FeedConfig(mixture_or_task_name="any", task_feature_lengths=LENGTHS, batch_size=2, pack=pack)
    examples = padded([{"inputs": [2, 1], "targets": [3, 1]}] * 2, LENGTHS)
    found = convert(examples, architecture, LENGTHS, examples_per_row=1 if pack else None)
    assert {name: rows.shape for name, rows in found.items()} == {
        name: shape.shape for name, shape in feature_shapes(config, architecture).items()
    }
