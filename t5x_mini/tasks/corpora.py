"""Pretraining corpora as SeqIO tasks: text in, span-corrupted inputs and targets out.

Importing this module registers

    installed_docs_span_corruption   the documentation of the installed Python packages, the shipped vocabulary
    c4_span_corruption               C4 (English) from TensorFlow Datasets, T5's vocabulary

and `add_text_span_corruption_task` or `add_span_corruption_task` registers one's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from t5x_mini.errors import UserError
from t5x_mini.tasks import installed_docs, objectives, vocabularies

# The version that today's TFDS can prepare. It reads an older one, 3.0.1 say, only where that was prepared before; then
# add_span_corruption_task("my_c4", seqio.TfdsDataSource("c4/en:3.0.1"), vocabulary) is the way to it.
C4 = "c4/en:3.1.0"
T5_VOCABULARY = "gs://t5-data/vocabs/cc_all.32000/sentencepiece.model"

# T5's choice: text is concatenated in blocks of this many documents before it is cut into windows.
_DOCUMENTS_PER_BLOCK = 128


def add_span_corruption_task(
    name: str, source: seqio.DataSource, vocabulary: seqio.Vocabulary | None = None, text_key: str = "text"
) -> seqio.Task:
    """Registers T5's span corruption of a text source under `name`.

    As in T5: each block of 128 documents is tokenised, concatenated without separators and cut into windows that fill
    the inputs exactly (568 tokens for inputs of 512); the rest of a block is a shorter example. Unlike T5, which keeps
    one random piece of a document over 65536 tokens, nothing of a long document is thrown away.
    The masks are drawn from SeqIO's seed, so one seed gives one stream, and new masks in every epoch.

    Args:
      name: of the new task.
      source: gives strings, or dictionaries with a string under `text_key`.
      vocabulary: for inputs and targets, with extra ids for the masked spans; the shipped one by default.
      text_key: the feature that holds the text.

    Returns:
      The task. Its examples are `{'inputs': int32[<= inputs], 'targets': int32[<= targets]}`, both ending in EOS.

    Raises:
      UserError: the name is taken; and when a dataset is made: the lengths leave no room for what the objective makes,
        the vocabulary has too few extra ids, or the source has no feature `text_key`.
    """
    if name in seqio.TaskRegistry.names():
        raise UserError(f"A SeqIO task named {name!r} is registered already. Choose another name.")
    feature = seqio.Feature(vocabulary or vocabularies.default_vocabulary(), add_eos=True)

    def tokenize(dataset, output_features):
        return _tokenize(dataset, output_features["targets"].vocabulary, text_key)

    return seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[tokenize, seqio.CacheDatasetPlaceholder(), _concatenate, _corrupt_spans],
        # Until the spans are masked, which is after the cache, there are no inputs.
        output_features={"inputs": seqio.Feature(feature.vocabulary, add_eos=True, required=False), "targets": feature},
        metric_fns=[],
    )


def add_text_span_corruption_task(
    name: str,
    split_to_filepattern: Mapping[str, str | Iterable[str]],
    vocabulary: seqio.Vocabulary | None = None,
) -> seqio.Task:
    """Registers T5's span corruption of text files with one document a line, as `add_span_corruption_task` does.

    Args:
      split_to_filepattern: such as `{'train': 'text/*.txt', 'validation': 'held_out.txt'}`.
    """
    return add_span_corruption_task(name, seqio.TextLineDataSource(split_to_filepattern), vocabulary)


class InstalledDocsSource(seqio.TextLineDataSource):
    """The corpus of `installed_docs`, which is made when its files are first asked for, not before."""

    def __init__(self):
        super().__init__({split: f"installed_docs/{split}" for split in installed_docs.SPLITS})

    def list_shards(self, split: str) -> Sequence[str]:
        return [str(installed_docs.ensure()[split])]


def _tokenize(dataset: tf.data.Dataset, vocabulary: seqio.Vocabulary, text_key: str) -> tf.data.Dataset:
    """Documents as `{'targets': int32[tokens]}`, the form in which SeqIO can cache them."""
    if isinstance(dataset.element_spec, tf.TensorSpec):
        dataset = dataset.map(lambda line: {text_key: line})
    if text_key not in dataset.element_spec:
        raise UserError(
            f"The source has no feature {text_key!r}; it has {sorted(dataset.element_spec)}. "
            "Name the one that holds the text in text_key."
        )
    return dataset.map(
        lambda example: {"targets": vocabulary.encode_tf(example[text_key])}, num_parallel_calls=tf.data.AUTOTUNE
    )


def _concatenate(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Blocks of documents as `int32[tokens]`, without id 0: in the model that is padding."""
    blocks = dataset.map(lambda example: example["targets"]).ragged_batch(_DOCUMENTS_PER_BLOCK)
    return blocks.map(lambda block: tf.boolean_mask(block.flat_values, block.flat_values != 0))


def _corrupt_spans(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None,
    output_features: Mapping[str, seqio.Feature],
) -> tf.data.Dataset:
    """Blocks `int32[tokens]` to examples `{'inputs': int32[a], 'targets': int32[b]}`."""
    vocabulary = output_features["targets"].vocabulary
    window = _window(sequence_length, vocabulary)

    def corrupt_block(tokens, *seed):
        return _corrupt_block(tokens, np.random.default_rng(seed), window, vocabulary)

    @seqio.map_over_dataset(num_seeds=1)
    def corrupt(tokens, seed):
        # tf.data cannot save an iterator over a stateful function. This one is not: its seed comes in with the tokens.
        arrays = tf.numpy_function(corrupt_block, [tokens, *seed], [tf.int32] * 4, stateful=False)
        inputs, targets, rest_inputs, rest_targets = (tf.ensure_shape(array, [None, None]) for array in arrays)
        return {"inputs": inputs, "targets": targets}, {"inputs": rest_inputs, "targets": rest_targets}

    return corrupt(dataset).flat_map(
        lambda whole, rest: tf.data.Dataset.from_tensor_slices(whole).concatenate(
            tf.data.Dataset.from_tensor_slices(rest)
        )
    )


def _corrupt_block(
    tokens: np.ndarray, rng: np.random.Generator, window: int, vocabulary: seqio.Vocabulary
) -> list[np.ndarray]:
    """[inputs, targets] of the whole windows, then of the rest: one row, or none if it is too short."""
    cut = len(tokens) - len(tokens) % window
    whole, rest = tokens[:cut].reshape(-1, window), tokens[None, cut:]
    if rest.shape[1] < 2:  # a single token leaves nothing to predict it from
        rest = np.zeros((0, 2), tokens.dtype)
    sizes = {"vocab_size": vocabulary.vocab_size, "extra_ids": vocabulary.extra_ids}
    corrupted = [objectives.span_corruption(rows, rng, **sizes) for rows in (whole, rest)]
    return [part[feature] for part in corrupted for feature in ("inputs", "targets")]


def _window(sequence_length: Mapping[str, int] | None, vocabulary: seqio.Vocabulary) -> int:
    """Tokens to cut for one example. Checked here, where an error can still reach the user as it is."""
    missing = {"inputs", "targets"} - set(sequence_length or ())
    if missing:
        raise UserError(
            f"Span corruption needs the lengths of inputs and targets; found {dict(sequence_length or {})}. "
            "Write for example TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 114}."
        )
    window, targets = objectives.span_corruption_lengths(sequence_length["inputs"])
    if sequence_length["targets"] < targets:
        raise UserError(
            f"Span corruption makes targets of {targets} tokens from inputs of {sequence_length['inputs']}; found room "
            f"for {sequence_length['targets']}. Write 'targets': {targets} in TASK_FEATURE_LENGTHS, or shorter inputs."
        )
    objectives.check_extra_ids(window, vocabulary.extra_ids)
    return window


def _register_built_in_tasks() -> None:
    registered = seqio.TaskRegistry.names()  # this module may be reloaded
    if "installed_docs_span_corruption" not in registered:
        add_span_corruption_task("installed_docs_span_corruption", InstalledDocsSource())
    if "c4_span_corruption" not in registered:
        add_span_corruption_task(
            "c4_span_corruption",
            seqio.TfdsDataSource(tfds_name=C4),
            vocabularies.sentencepiece_vocabulary(T5_VOCABULARY),
        )


_register_built_in_tasks()
