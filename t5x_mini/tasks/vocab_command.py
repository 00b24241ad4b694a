"""`t5x-mini vocab`: trains a vocabulary on a task or on files, or compares two."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from tqdm import tqdm

from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import registry, sources, text_to_text, vocabularies
from t5x_mini.tasks.definitions import PretrainingTask, Source

# Where there is no validation split, one text in so many is kept out of the training, to measure on.
_HELD_OUT_EVERY = 100
# Of text that is measured on.
_MEASURED_BYTES = 1 << 20


def vocab_command(
    output: str,
    *,
    feed: FeedConfig | None = None,
    task: str | None = None,
    text: Sequence[str] = (),
    size: int = 32000,
    model_type: Literal["unigram", "bpe"] = "unigram",
    byte_fallback: bool = False,
) -> None:
    """Trains a vocabulary on the split 'train', and prints what it is like and how to use it.

    Of a pretraining task its texts are read, of a supervised one its inputs and targets, of one that is registered
    with SeqIO in Python every string of its source, and of a mixture every task once, whatever the rates. Bytes a
    token are measured on the split 'validation'; where there is none, on every hundredth text, which is then not
    trained on.

    Args:
      output: path of the model file.
      feed: says what `task` is; not needed for `text`.
      task: a task or mixture.
      text: files or patterns, as in `PretrainingTask.files`; JSON lines and Parquet with the field 'text'.
      size, model_type, byte_fallback: see `vocabularies.train`.

    Raises:
      UserError: there is no text, or too little.
    """
    skipped = sources.Skipped()
    if text:
        read = functools.partial(_texts, [_text_files(text)])
    elif feed.mixture_or_task_module and not registry.is_defined(task, feed):
        read = functools.partial(_seqio_texts, feed, task)
    else:
        read = functools.partial(_texts, _components(task, feed))
    held_out = list(_start(read("validation", sources.Skipped())))
    texts = read("train", skipped)
    kept = texts if held_out else _hold_out(texts, held_out)
    options = {"size": size, "model_type": model_type, "byte_fallback": byte_fallback}
    try:
        path = vocabularies.train(tqdm(kept, desc="Reading", unit=" texts"), output, **options)
    except UserError as error:
        if skipped:  # perhaps all there was
            raise UserError(f"{error} Left out or cut: {skipped}.") from error
        raise
    if skipped:
        print(f"Left out or cut: {skipped}")
    vocabulary = vocabularies.load(path)
    print(f"{path}: {size} ids; EXTRA_IDS come on top when it is loaded.")
    if held_out:
        measured = vocabularies.bytes_per_token(vocabulary, held_out)
        print(f"On text that it wasn't trained on: {measured:.2f} bytes a token.")
    print(f"To use it, write in a gin file:\nVOCABULARY = {path!r}")


def compare_command(a: str, b: str, *, text: Sequence[str] = (), sentence: str | None = None) -> None:
    """Prints what two vocabularies make of a sentence, or of the first text of files, and the bytes a token.

    Args:
      a, b: as in `vocabularies.load`.
      text: files or patterns; their first MiB is measured.
      sentence: what to compare on; where neither is given, one that shows words, numbers, code and accents.

    Raises:
      UserError: there is no such vocabulary, or no text.
    """
    loaded = [vocabularies.load(name) for name in (a, b)]
    if text:
        texts = list(_start(_texts([_text_files(text)], "train", sources.Skipped())))
    else:
        texts = [sentence or "In 1987 the naïve café owner said: “x = foo(bar_42)” is unbelievably inefficient."]
    if not any(texts):
        raise UserError("There is no text to compare on.")
    print(vocabularies.compare(*loaded, texts))


def _text_files(patterns: Sequence[str]) -> PretrainingTask:
    return PretrainingTask(name="text", files={"train": tuple(patterns)})


def _components(name: str, feed: FeedConfig) -> list[Source]:
    return [registry.find(task, feed) for task in registry.components(name, feed, count=lambda task: 1)]


def _texts(definitions: Iterable[Source], split: str, skipped: sources.Skipped) -> Iterator[str]:
    """Every text of the definitions that have the split."""
    for definition in definitions:
        if split not in sources.splits(definition):
            continue
        for shard in sources.shards(definition, split):
            for row in sources.read(definition, shard, skipped):
                if isinstance(definition, PretrainingTask):
                    yield row[definition.field]
                elif (written := text_to_text.write_row(definition, row)) is None:
                    skipped.add("left out by the task", definition.name)
                else:
                    yield from written.values()


def _seqio_texts(feed: FeedConfig, name: str, split: str, skipped: sources.Skipped) -> Iterator[str]:
    """Every string in the sources of what is registered with SeqIO in Python."""
    from t5x_mini.feed import seqio_lookup  # TensorFlow comes in with it
    from t5x_mini.tasks import tfds_source

    provider = seqio_lookup.load_task(dataclasses.replace(feed, mixture_or_task_name=name))
    for task in seqio_lookup.tasks_with(provider, split):
        for row in task.source.get_dataset(split, shuffle=False).as_numpy_iterator():
            values = tfds_source.plain(row if isinstance(row, dict) else {"text": row}).values()
            for text in (value for value in values if isinstance(value, str)):
                if text:
                    yield text
                else:
                    skipped.add("empty", task.name)


def _hold_out(texts: Iterable[str], held_out: list[str]) -> Iterator[str]:
    """The texts but every hundredth, which goes to `held_out` while that is small."""
    size = 0
    for number, text in enumerate(texts, 1):
        if number % _HELD_OUT_EVERY or size > _MEASURED_BYTES:
            yield text
        else:
            held_out.append(text)
            size += len(text.encode())


def _start(texts: Iterable[str]) -> Iterator[str]:
    """The first texts, about a MiB of them."""
    size = 0
    for text in texts:
        yield text
        size += len(text.encode())
        if size > _MEASURED_BYTES:
            return
