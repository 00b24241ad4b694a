"""One process of `t5x-mini tokenize`: reads parts of a source, writes their tokens, and reports.

    python -m t5x_mini.tokens.worker

A fresh Python, neither forked nor by `multiprocessing`: forking a parent that holds TensorFlow's and JAX's threads can
hang, and other start methods run the parent's main module again. Pickled pairs of a `Job` and a `Part` come in on
standard input, messages go out on standard output. Text of the source is held for some hundred documents at a time, so
memory doesn't grow with the corpus, and only a source that needs TensorFlow imports it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import files, sources, vocabularies
from t5x_mini.tasks.definitions import PretrainingTask, TextToTextTask
from t5x_mini.tasks.formats import DOCUMENT_LIMIT
from t5x_mini.tasks.text_to_text import write_row
from t5x_mini.tokens.manifest import Contents, shard_name, to_json
from t5x_mini.tokens.writer import ShardWriter

EOS_ID = 1

# Of text that is tokenised by one call: enough for threads to share, small beside the vocabulary.
_BATCH_CHARACTERS = 1 << 19

Documents = tuple[np.ndarray, np.ndarray, int]
"""(tokens of several documents, `[documents, features]` lengths, UTF-8 bytes of their text): see `ShardWriter.add`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What is the same for all parts of a split.

    Attributes:
        folder: of the store.
        contents: what is to be in it.
        definition: of the task; None for a task that is registered with SeqIO.
        feed: has the vocabulary, and the module that registers the task.
        threads: to tokenise with.
    """

    folder: str
    contents: Contents
    definition: PretrainingTask | TextToTextTask | None
    feed: FeedConfig
    threads: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """What one shard of the store is made of: shards of the source, in this order.

    Attributes:
        index: of `count`.
        shards: none for a task that is registered with SeqIO, which reads its share of `count` by the index.
        size_bytes: of the source, where known.
    """

    index: int
    count: int
    shards: tuple[sources.Shard, ...] = ()
    size_bytes: int | None = None

    @property
    def name(self) -> str:
        return shard_name(self.index, self.count)

    @property
    def file(self) -> str:
        return f"part-{self.name}.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Message: so much text of the part has been tokenised."""

    documents: int
    tokens: int
    text_bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
    """Message: the part is on disk.

    Attributes:
        peak_bytes: the most memory that this process has held so far.
        tensorflow: whether it has imported TensorFlow.
    """

    peak_bytes: int
    tensorflow: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failed:
    """Message: the user has to change something."""

    text: str


def write_part(job: Job, part: Part, report: Callable[[Progress], None]) -> None:
    """Writes a shard of the store and, when it is whole, the file that says so."""
    skipped = sources.Skipped()
    writer = ShardWriter(job.folder, part.name, job.contents)
    for tokens, lengths, text_bytes in documents(job, part, skipped):
        writer.add(tokens, lengths, text_bytes)
        report(Progress(documents=len(lengths), tokens=len(tokens), text_bytes=text_bytes))
    try:
        shard = writer.finish()
    except FileNotFoundError:  # another job has written the same part meanwhile, and cleared up
        return
    fields = {"contents": job.contents, "shard": shard, "skipped": skipped}
    text = to_json({name: dataclasses.asdict(value) for name, value in fields.items()})
    files.write_bytes(os.path.join(job.folder, part.file), text.encode())
    # Of jobs that were killed in this part, or are too late with it.
    for draft in Path(job.folder).glob(f".*-{part.name}.bin.*"):
        draft.unlink(missing_ok=True)


def documents(job: Job, part: Part, skipped: sources.Skipped) -> Iterator[Documents]:
    """The part's documents as tokens, some hundred at a time, in the order of the source."""
    if job.definition is None:
        from t5x_mini.tokens import seqio_reader

        yield from seqio_reader.documents(job.feed, job.contents, part.index, part.count)
        return
    vocabulary = vocabularies.load(job.feed.vocabulary, job.feed.extra_ids)
    for texts in batches(texts_of(job.definition, part, skipped)):
        flat = [text for document in texts for text in document]
        yield *_laid_out(job, *vocabulary.encode_batch(flat, job.threads)), sum(len(text.encode()) for text in flat)


def texts_of(
    definition: PretrainingTask | TextToTextTask, part: Part, skipped: sources.Skipped
) -> Iterator[tuple[str, ...]]:
    """The text of each document, by feature."""
    for shard in part.shards:
        rows = sources.read(definition, shard, skipped)
        if isinstance(definition, PretrainingTask):
            yield from ((row[definition.field],) for row in rows)
            continue
        for number, row in enumerate(rows, start=1):
            texts = write_row(definition, row)
            place = f"{shard.name} row {number}"
            if texts is None:
                skipped.add("left out by the task", place)
            else:
                yield tuple(_cut(texts[feature], place, skipped) for feature in ("inputs", "targets"))


def batches(documents: Iterator[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += sum(map(len, document)) + 1
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _cut(text: str, place: str, skipped: sources.Skipped) -> str:
    """No model reads this much of one example; SentencePiece would take a hundred times its memory."""
    if len(text) > DOCUMENT_LIMIT:
        skipped.add("cut", place)
    return text[:DOCUMENT_LIMIT]


def _laid_out(job: Job, tokens: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if job.contents.kind == "stream" and not tokens.all():  # T5 takes padding out of running text
        document = np.repeat(np.arange(len(lengths)), lengths)
        lengths = np.bincount(document[tokens != 0], minlength=len(lengths))
        tokens = tokens[tokens != 0]
    if isinstance(job.definition, PretrainingTask) and job.definition.eos_between_documents:
        tokens = np.insert(tokens, np.cumsum(lengths), EOS_ID)
        lengths = lengths + 1
    return tokens, lengths.reshape(-1, len(job.contents.features))


def peak_bytes() -> int:
    """The most memory that this process has held."""
    # Linux counts the parent's memory into ru_maxrss, as it was when the process was started.
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    messages = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints is no message

    def send(message: Progress | Done | Failed) -> None:
        pickle.dump(message, messages)
        messages.flush()

    try:
        while True:
            try:
                job, part = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            write_part(job, part, send)
            send(Done(peak_bytes=peak_bytes(), tensorflow="tensorflow" in sys.modules))
    except UserError as error:
        send(Failed(text=str(error)))
    except BrokenPipeError:  # the parent was killed
        os._exit(1)


if __name__ == "__main__":
    # Under its real name, or the parent could not unpickle what is sent.
    from t5x_mini.tokens import worker

    worker.main()
