"""Tokenising tasks that are registered with SeqIO in Python: SeqIO reads them, so here TensorFlow is imported.

A task whose text is made into examples by `seqio_tasks.apply_objective` is kept as running text, as it is before that
(where SeqIO's own cache would take it); the token feed applies the objective. Of any other task the examples are kept,
as all its preprocessors make them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import sentencepiece

from t5x_mini.errors import UserError
from t5x_mini.feed import seqio_lookup
from t5x_mini.feed.config import FeedConfig
from t5x_mini.quiet_tensorflow import hold_back_stderr
from t5x_mini.tasks import vocabularies
from t5x_mini.tasks.noise import EOS_ID
from t5x_mini.tokens.manifest import Contents, token_dtype

with hold_back_stderr():
    import seqio
    import tensorflow as tf
    import tensorflow_text

    from t5x_mini.tasks import seqio_tasks

_FEATURES = ("inputs", "targets")
_DOCUMENTS_PER_BATCH = 256
# Of tf.data's buffers, which would otherwise grow with the machine's memory.
_BUFFER_BYTES = 64 << 20


def tasks(feed: FeedConfig, name: str) -> list[seqio.Task]:
    """The task, or the tasks of the mixture, of that name in SeqIO's registry.

    Raises UserError if there is none, or `feed.mixture_or_task_module` cannot be imported.
    """
    return list(seqio.get_subtasks(seqio_lookup.load_task(dataclasses.replace(feed, mixture_or_task_name=name))))


def contents(task: seqio.Task, split: str) -> Contents:
    """What a store of the task's tokens holds. Raises UserError for a task that cannot be kept as tokens."""
    kind = "examples" if seqio_tasks.objective_of(task) is None else "stream"
    found = dataset(task, split, kind, seqio.ShardInfo(0, len(task.source.list_shards(split)))).element_spec
    features = tuple(feature for feature in _FEATURES if feature in found and (kind, feature) != ("stream", "inputs"))
    for feature in features:
        if found[feature].shape.rank != 1 or not found[feature].dtype.is_integer:
            raise UserError(
                f"The task {task.name!r} gives {feature!r} as {found[feature]}; only rows of token ids can be kept. "
                "Tokenise before seqio.CacheDatasetPlaceholder(), or train on it with DATA_FEED = 'seqio'."
            )
    if "targets" not in features:
        raise UserError(f"The task {task.name!r} gives no 'targets'; it gives {', '.join(found)}.")
    ends = _appends_eos(task) and kind == "examples"
    sizes = [task.output_features[feature].vocabulary.vocab_size for feature in features]
    return Contents(
        task=task.name,
        split=split,
        kind=kind,
        features=features,
        eos=tuple(feature for feature in features if ends and task.output_features[feature].add_eos),
        dtype=token_dtype(max(sizes)),
        definition={
            "seqio_preprocessors": [_name(step) for step in task.preprocessors],
            "eos_between_documents": any(
                step.eos_between_documents for step in task.preprocessors if hasattr(step, "objective")
            ),
        },
        vocabulary=vocabulary_fingerprint(task.output_features["targets"].vocabulary),
        source=_source_fingerprint(task, split),
    )


def vocabulary_fingerprint(vocabulary: seqio.Vocabulary) -> dict[str, Any]:
    """Which vocabulary it is, and the libraries that may tokenise with it, as `fingerprint()` of the project's own."""
    versions = {"seqio": seqio, "tensorflow_text": tensorflow_text, "sentencepiece": sentencepiece}
    fingerprint = {
        "library": type(vocabulary).__name__,
        "version": ", ".join(f"{name} {library.__version__}" for name, library in versions.items()),
        "vocab_size": vocabulary.vocab_size,
        "extra_ids": vocabulary.extra_ids,
    }
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        model = vocabularies.load(vocabulary.sentencepiece_model_file, vocabulary.extra_ids).fingerprint()
        fingerprint["sha256"] = model["sha256"]
    return fingerprint


def documents(
    feed: FeedConfig, contents: Contents, index: int, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """One of `count` parts of the split, as `worker.documents` gives it."""
    [task] = tasks(feed, contents.task)
    examples = dataset(task, contents.split, contents.kind, seqio.ShardInfo(index, count), feed.seed)
    batch = []
    for example in examples.as_numpy_iterator():
        batch.append([_without_eos(example[feature], feature in contents.eos) for feature in contents.features])
        if len(batch) == _DOCUMENTS_PER_BATCH:
            yield _laid_out(batch, contents)
            batch = []
    if batch:
        yield _laid_out(batch, contents)


def dataset(task: seqio.Task, split: str, kind: str, shard: seqio.ShardInfo, seed: int = 0) -> tf.data.Dataset:
    """The part of the task that is to be kept. Raises UserError if it cannot be had."""
    if kind == "stream" and not task.supports_caching:
        raise UserError(
            f"The task {task.name!r} applies an objective without a place before it from which text can be kept. Write "
            "seqio.CacheDatasetPlaceholder() before seqio_tasks.apply_objective among its preprocessors."
        )
    try:
        if kind == "stream":
            found = task.preprocess_precache(task.source.get_dataset(split, shuffle=False, shard_info=shard), seed)
        else:
            options = dict(shuffle=False, shard_info=shard, seed=seed, try_in_mem_cache=False)
            found = task.get_dataset(None, split, **options)
    except UserError:
        raise
    except Exception as error:  # whatever a preprocessor of the user's own raises
        raise UserError(
            f"The task {task.name!r} cannot be kept as tokens: read without TASK_FEATURE_LENGTHS, which may be others "
            f"in every run, it fails with {type(error).__name__}: {' '.join(str(error).split())[:300]}. Train on it "
            "with DATA_FEED = 'seqio'. A pretraining task can end in seqio_tasks.apply_objective in place of its own "
            "preprocessors."
        ) from error
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.ram_budget = _BUFFER_BYTES
    return found.with_options(options)


def _laid_out(batch: Sequence[Sequence[np.ndarray]], contents: Contents) -> tuple[np.ndarray, np.ndarray, int]:
    rows = [ids for document in batch for ids in document]
    if contents.kind == "stream":  # T5 takes padding out of running text
        rows = [ids[ids != 0] for ids in rows]
        if contents.definition["eos_between_documents"]:
            rows = [np.append(ids, EOS_ID) for ids in rows]
    lengths = np.array([len(ids) for ids in rows]).reshape(-1, len(contents.features))
    return np.concatenate(rows), lengths, 0


def _without_eos(ids: np.ndarray, ends_in_eos: bool) -> np.ndarray:
    return ids[:-1] if ends_in_eos and len(ids) and ids[-1] == EOS_ID else ids


def _appends_eos(task: seqio.Task) -> bool:
    return any(_name(step) in ("append_eos", "append_eos_after_trim") for step in task.preprocessors)


def _name(step: Any) -> str:
    step = getattr(step, "func", step)  # of a functools.partial
    return getattr(step, "__name__", type(step).__name__)


def _source_fingerprint(task: seqio.Task, split: str) -> str:
    shards = task.source.list_shards(split)
    sizes: Mapping[str, Any] = {shard: os.path.getsize(shard) if os.path.exists(shard) else "" for shard in shards}
    lines = [type(task.source).__name__, *(f"{os.path.basename(shard)} {size}" for shard, size in sizes.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def plans(feed: FeedConfig, name: str, splits: Sequence[str] | None) -> Iterator[tuple[Contents, int]]:
    """(contents, parts) of each split of each task."""
    from t5x_mini.tokens.tokenize import wanted_splits

    found = tasks(feed, name)
    wanted = wanted_splits(name, {task.name: sorted(task.splits) for task in found}, splits)
    for task in found:
        for split in sorted(set(task.splits) & set(wanted)):
            yield contents(task, split), len(task.source.list_shards(split))
