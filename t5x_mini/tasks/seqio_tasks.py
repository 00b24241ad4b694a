"""Definitions as SeqIO tasks and mixtures, and the preprocessors to write pretraining tasks with in Python.

    seqio.TaskRegistry.add(
        "my_text",
        source=seqio.TextLineDataSource({"train": "text/*.txt"}),
        preprocessors=[tokenize(), seqio.CacheDatasetPlaceholder(), apply_objective(SpanCorruption())],
        output_features={"inputs": feature, "targets": feature},
    )

tf.data can save where it stands in every task made here: its functions of Python are pure, their seeds come in with
the tokens.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from t5x_mini.errors import UserError
from t5x_mini.evaluate import metrics, postprocessors
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import files, registry, seqio_sources, vocabularies
from t5x_mini.tasks.definitions import Definition, Mixture, PretrainingTask, TextToTextTask
from t5x_mini.tasks.noise import EOS_ID
from t5x_mini.tasks.objectives import Objective, Vocabulary

Provider = seqio.Task | seqio.Mixture
Preprocessor = Callable[..., tf.data.Dataset]

# T5's choice: text is concatenated in blocks of this many documents before it is cut into windows.
_DOCUMENTS_PER_BLOCK = 128
_FEATURES = ("inputs", "targets", "loss_weights")
_BYTES_OF_A_SMALL_EXAMPLE = 16


# Preprocessors


def tokenize(text_key: str = "text") -> Preprocessor:
    """A preprocessor from documents to their tokens, the form in which SeqIO can cache them.

    It takes strings, or dictionaries with a string under `text_key`, and gives `{'targets': int32[tokens]}` in the
    vocabulary of the task's targets. A dataset without `text_key` is a UserError.
    """

    def preprocess(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]) -> tf.data.Dataset:
        if isinstance(dataset.element_spec, tf.TensorSpec):
            dataset = dataset.map(lambda line: {text_key: line})
        if text_key not in dataset.element_spec:
            raise UserError(
                f"The source has no feature {text_key!r}; it has {sorted(dataset.element_spec)}. "
                "Name the one that holds the text in text_key."
            )
        return _tokenized(dataset, {"targets": text_key}, output_features["targets"].vocabulary)

    return preprocess


def apply_objective(
    objective: Objective, *, eos_between_documents: bool = False, vocabulary: Vocabulary | None = None
) -> Preprocessor:
    """A preprocessor from tokens `{'targets': int32[tokens]}` to the examples of a pretraining objective.

    As in T5 each block of 128 documents is concatenated and cut into windows that fill the lengths; the rest of a block
    is a shorter example. Unlike T5, which keeps one random piece of a document over 65536 tokens, nothing of a long
    document is thrown away. The randomness is drawn from SeqIO's seed: one seed gives one stream, and every epoch
    something new.

    Args:
      objective: its features must be among the task's output features. `inputs` that it doesn't make are empty, and
        its `loss_weights`, if the task has them, are 1.
      eos_between_documents: end each document with EOS before documents are joined; T5 joins them without.
      vocabulary: what the objective is told; by default the targets'.

    Raises, when a dataset is made:
      UserError: the lengths leave no room for what the objective makes, the vocabulary has too few extra ids, or the
        task lacks a feature.
    """

    def preprocess(
        dataset: tf.data.Dataset,
        sequence_length: Mapping[str, int] | None,
        output_features: Mapping[str, seqio.Feature],
    ) -> tf.data.Dataset:
        features = tuple(feature for feature in _FEATURES if feature in output_features)
        _check_features(objective, features, sequence_length)
        known = vocabulary or output_features["targets"].vocabulary
        window = objective.window(sequence_length, known)
        return _windows(_joined(dataset, eos_between_documents), objective, window, features, known)

    preprocess.objective = objective
    preprocess.eos_between_documents = eos_between_documents
    return preprocess


def objective_of(task: seqio.Task) -> Objective | None:
    """What `apply_objective` was given among the task's preprocessors; None: the task has no objective from here."""
    found = [preprocessor.objective for preprocessor in task.preprocessors if hasattr(preprocessor, "objective")]
    return found[0] if found else None


def _check_features(objective: Objective, features: Sequence[str], lengths: Mapping[str, int] | None) -> None:
    name = type(objective).__name__
    if lacking := set(objective.features) - set(features):
        raise UserError(
            f"{name} makes {', '.join(objective.features)}, and the task's output_features are {', '.join(features)}. "
            f"Add {', '.join(sorted(lacking))} to them."
        )
    needed = [feature for feature in objective.features if feature != "loss_weights"]
    if not set(needed) <= set(lengths or ()):
        example = {feature: {"inputs": 512, "targets": 114}[feature] for feature in needed}
        raise UserError(
            f"{name} needs the lengths of {' and '.join(needed)}; found {dict(lengths or {})}. "
            f"Write for example TASK_FEATURE_LENGTHS = {example}."
        )


def _tokenized(dataset: tf.data.Dataset, text_keys: Mapping[str, str], vocabulary: seqio.Vocabulary) -> tf.data.Dataset:
    """Adds tokens by feature, `{feature: int32[tokens]}`, of the strings under `{feature: key}`.

    Strings are kept as `<feature>_pretokenized`, SeqIO's name, where there is more than one feature: in examples that
    somebody will look at. Blocks of documents share a call into Python, which leaves TensorFlow's slower tokeniser out.
    """
    supervised = len(text_keys) > 1

    encode = _encoder(vocabulary)

    def tokens(texts: tf.Tensor) -> tf.RaggedTensor:
        flat, lengths = tf.numpy_function(encode, [texts], [tf.int32, tf.int64], stateful=False)
        flat, lengths = tf.ensure_shape(flat, [None]), tf.ensure_shape(lengths, [None])
        return tf.RaggedTensor.from_row_lengths(flat, lengths, validate=False)

    def tokenize_block(block: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor | tf.RaggedTensor]:
        encoded = {feature: tokens(block[key]) for feature, key in text_keys.items()}
        if not supervised:
            return encoded
        others = {key: values for key, values in block.items() if key not in text_keys.values()}
        return others | encoded | {f"{feature}_pretokenized": block[key] for feature, key in text_keys.items()}

    if not supervised:
        (key,) = text_keys.values()
        dataset = dataset.map(lambda example: {key: example[key]}) if len(dataset.element_spec) > 1 else dataset
    blocks = dataset.batch(_DOCUMENTS_PER_BLOCK)
    return blocks.map(tokenize_block, num_parallel_calls=tf.data.AUTOTUNE).unbatch()


def _encoder(vocabulary: seqio.Vocabulary) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """From texts (bytes) to (all tokens one after the other int32, tokens of each text int64)."""
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        # The model is loaded here and now, because SentencePiece must not load in several of tf.data's threads at once.
        processor = vocabulary.tokenizer
        encode = functools.partial(processor.encode, return_type="numpy", num_threads=1)  # tf.data brings the threads
    else:

        def encode(texts: list[bytes]) -> list[np.ndarray]:
            return [np.array(vocabulary.encode(text.decode("utf-8", "replace")), np.int32) for text in texts]

    def flat_and_lengths(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = encode(list(texts))
        return np.concatenate(rows), np.array([len(row) for row in rows])

    return flat_and_lengths


def _joined(dataset: tf.data.Dataset, eos_between_documents: bool) -> tf.data.Dataset:
    """Blocks of documents as `int32[tokens]`, without id 0: in the model that is padding."""

    def join(block: Mapping[str, tf.RaggedTensor]) -> tf.Tensor:
        tokens = block["targets"]
        if eos_between_documents:
            tokens = tf.concat([tokens, tf.fill([tokens.nrows(), 1], tf.cast(EOS_ID, tokens.dtype))], axis=1)
        return tf.boolean_mask(tokens.flat_values, tokens.flat_values != 0)

    if len(dataset.element_spec) > 1:
        dataset = dataset.map(lambda example: {"targets": example["targets"]})
    return dataset.ragged_batch(_DOCUMENTS_PER_BLOCK).map(join)


def _windows(
    blocks: tf.data.Dataset,
    objective: Objective,
    window: int,
    features: Sequence[str],
    vocabulary: Vocabulary,
) -> tf.data.Dataset:
    """Blocks `int32[tokens]` to examples `{feature: int32[up to its length]}`."""

    def make(tokens: np.ndarray, *seed: int) -> list[np.ndarray]:
        made = examples_of_block(tokens, objective, window, features, np.random.default_rng(seed), vocabulary)
        lengths = {name: np.count_nonzero(rows, axis=1) for name, rows in made.items()}
        lengths["loss_weights"] = lengths["targets"]
        return [made[name] for name in features] + [lengths[name] for name in features]

    @seqio.map_over_dataset(num_seeds=1)
    def to_examples(tokens: tf.Tensor, seed: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        # tf.data cannot save an iterator over a stateful function. This one is not: its seed comes in with the tokens.
        types = [tf.int32] * len(features) + [tf.int64] * len(features)
        arrays = tf.numpy_function(make, [tokens, *seed], types, stateful=False)
        rows, lengths = arrays[: len(features)], arrays[len(features) :]
        return (
            {name: tf.ensure_shape(array, [None, None]) for name, array in zip(features, rows, strict=True)},
            {name: tf.ensure_shape(array, [None]) for name, array in zip(features, lengths, strict=True)},
        )

    def trim(rows: Mapping[str, tf.Tensor], lengths: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {name: rows[name][: lengths[name]] for name in features}

    return to_examples(blocks).unbatch().map(trim, num_parallel_calls=tf.data.AUTOTUNE)


def examples_of_block(
    tokens: np.ndarray,
    objective: Objective,
    window: int,
    features: Sequence[str],
    rng: np.random.Generator,
    vocabulary: Vocabulary,
) -> dict[str, np.ndarray]:
    """The examples of `int[tokens]`, int32[n, length] by feature: of its whole windows, then one of the rest.

    A rest of one token is left out: nothing is there to predict it from.
    """
    cut = len(tokens) - len(tokens) % window
    parts = [tokens[:cut].reshape(-1, window), tokens[None, cut:]]
    made = [_with_all(objective(part, rng, vocabulary), features) for part in parts if len(part) and part.shape[1] > 1]
    return {name: _stacked([part[name] for part in made]) for name in features}


def _with_all(made: Mapping[str, np.ndarray], features: Sequence[str]) -> dict[str, np.ndarray]:
    rows = len(made["targets"])
    others = {"inputs": np.zeros((rows, 0), np.int32), "loss_weights": np.ones_like(made["targets"])}
    return {name: made[name] if name in made else others[name] for name in features}


def _stacked(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Rows of all arrays, filled up with 0 to the longest, one column at least.

    With rows of no columns, `unbatch` crashed TensorFlow 2.21 in a mixture of tasks with and without inputs.
    """
    width = max([1, *(array.shape[1] for array in arrays)])
    padded = [np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in arrays]
    return np.concatenate([np.zeros((0, width), np.int32), *padded]).astype(np.int32, copy=False)


# Registering


# What each name in SeqIO's registries was made of, to make it anew when that has changed.
_registered: dict[str, tuple] = {}


def register(definition: Definition, feed: FeedConfig) -> Provider:
    """The SeqIO task or mixture of a definition, registered under its name.

    It is made anew when the definition, its objective or the vocabulary is another one than before.

    Args:
      definition: from `registry.find`.
      feed: says the vocabulary, and for a mixture the definitions of its tasks.

    Raises:
      UserError: Python code has registered the name before; a name in a mixture is unknown; or there is no such
        vocabulary.
    """
    if not isinstance(definition, Mixture):
        return _register_task(definition, feed, _features([definition]))
    rates = registry.components(definition.name, feed)
    parts = [registry.find(name, feed) for name in rates]
    features = _features(parts)  # SeqIO mixes only tasks that have the same ones
    tasks = [_register_task(part, feed, features) for part in parts]
    made_of = (definition, rates, tuple(map(id, tasks)))
    return _register(seqio.MixtureRegistry, definition.name, made_of, lambda: {"tasks": list(rates.items())})


def is_foreign(name: str) -> bool:
    """Whether SeqIO knows the name from Python code, and not from here."""
    return name not in _registered and name in {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}


def _register_task(
    definition: PretrainingTask | TextToTextTask, feed: FeedConfig, features: Sequence[str]
) -> seqio.Task:
    before = _registered.get(definition.name, ((), ()))
    vocabulary = (feed.vocabulary, feed.extra_ids)
    if before[0] == (definition, vocabulary):
        features = [name for name in _FEATURES if name in {*features, *before[1]}]  # a mixture's do no harm alone
    made_of = ((definition, vocabulary), tuple(features))
    return _register(seqio.TaskRegistry, definition.name, made_of, lambda: _task(definition, feed, features))


def _register(provider_registry: type, name: str, made_of: tuple, arguments: Callable[[], Mapping]) -> Provider:
    if is_foreign(name):
        raise UserError(
            f"The name {name!r} is registered with SeqIO by Python code, and is a task of a gin file or of this "
            "project too. Choose another name."
        )
    if _registered.get(name) != made_of or name not in provider_registry.names():
        made = arguments()
        for other in (seqio.TaskRegistry, seqio.MixtureRegistry):
            if name in other.names():
                other.remove(name)
        provider_registry.add(name, **made)
        _registered[name] = made_of
    return provider_registry.get(name)


def _features(tasks: Sequence[PretrainingTask | TextToTextTask]) -> tuple[str, ...]:
    made = {name for task in tasks for name in getattr(getattr(task, "objective", None), "features", _FEATURES[:2])}
    return tuple(name for name in _FEATURES if name in made)


def _task(definition: PretrainingTask | TextToTextTask, feed: FeedConfig, features: Sequence[str]) -> dict:
    """Arguments of `seqio.TaskRegistry.add`."""
    vocabulary = vocabularies.load(feed.vocabulary, feed.extra_ids)
    # Before the cache there is no more than targets of a pretraining task, and nobody caches loss weights.
    seqio_vocabulary = vocabulary.seqio()
    output_features = {
        name: seqio.Feature(seqio_vocabulary, add_eos=name != "loss_weights", required=name == "targets")
        for name in features
    }
    common = {
        "source": seqio_sources.source_of(definition),
        "output_features": output_features,
        "shuffle_buffer_size": _shuffle_buffer_size(definition),
    }
    if isinstance(definition, PretrainingTask):
        # SeqIO's vocabulary does not count the extra ids that a model file brings itself, as mT5's does.
        options = {"eos_between_documents": definition.eos_between_documents, "vocabulary": vocabulary}
        objective = apply_objective(definition.objective, **options)
        return common | {"preprocessors": [tokenize(), seqio.CacheDatasetPlaceholder(), objective], "metric_fns": []}
    return common | {
        "preprocessors": [
            _tokenize_pairs,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
            *([_weigh_all] if "loss_weights" in features else []),
        ],
        "postprocess_fn": functools.partial(_postprocess, definition),
        "metric_fns": [_metric(name) for name in definition.metrics],
    }


def _shuffle_buffer_size(definition: PretrainingTask | TextToTextTask) -> int:
    """SeqIO's 1000 examples, or so many as a small corpus may have.

    SeqIO repeats a corpus before it shuffles: one of three lines would be read hundreds of times for the first batch.
    """
    patterns = (definition.files or {}).get("train", ())
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns or any("://" in pattern for pattern in patterns):
        return seqio.SHUFFLE_BUFFER_SIZE
    try:
        paths = [path for pattern in patterns for path in files.expand(pattern)]
    except UserError:  # whoever reads them says what is wrong
        return seqio.SHUFFLE_BUFFER_SIZE
    size = sum(files.size(path) * (4 if files.suffixes(path)[1] else 1) for path in paths)
    return min(max(size // _BYTES_OF_A_SMALL_EXAMPLE, 1), seqio.SHUFFLE_BUFFER_SIZE)


def _tokenize_pairs(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]) -> tf.data.Dataset:
    return _tokenized(dataset, {"inputs": "inputs", "targets": "targets"}, output_features["targets"].vocabulary)


@seqio.map_over_dataset
def _weigh_all(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {**example, "loss_weights": tf.ones_like(example["targets"])}


def _metric(name: str) -> Callable[[Sequence, Sequence], dict[str, float]]:
    metric = metrics.by_name(name)

    def score(targets: Sequence, predictions: Sequence) -> dict[str, float]:  # SeqIO asks for these argument names
        return metric(targets, predictions)

    return score


def _postprocess(definition: TextToTextTask, text: str, example: Mapping | None = None, is_target: bool = False):
    row = json.loads(example["row"]) if example and "row" in example else {}
    return postprocessors.by_name(definition.postprocessor)(text, row, is_target, definition)
