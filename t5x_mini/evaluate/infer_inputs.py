"""What `t5x-mini infer` answers: a task's split, the lines of a text file, or JSON lines.

All are read in order, as often as asked, and give the same rows each time: a run that was interrupted finds its place
again by the number of rows that are answered.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.evaluate import answers, sentinels
from t5x_mini.feed import feeds
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import files, registry, sources
from t5x_mini.tasks.definitions import TextToTextTask
from t5x_mini.tasks.vocabularies import EOS_ID

_BOM = b"\xef\xbb\xbf"
_ROWS_A_BATCH = 64  # of a feed that is only read from


@dataclasses.dataclass(frozen=True)
class Row:
    """One input.

    Attributes:
        place: where it comes from, for people: `line 17`.
        line: what is written beside its answer: `inputs`, and `targets` where there are some.
        ids: what the model reads, with EOS where inputs have one; not yet cut.
    """

    place: str
    line: Mapping[str, Any]
    ids: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Rows to answer.

    Attributes:
        name: of the file of answers, without its suffix: `glue_rte_v002-validation`.
        read: the rows in order, from the first; what is left out is counted in its argument.
    """

    name: str
    read: Callable[[sources.Skipped], Iterator[Row]]


@dataclasses.dataclass(frozen=True)
class Survey:
    """What reading all rows once shows.

    Attributes:
        rows: how many there are.
        longest: tokens of the longest.
        cut: how many are longer than the limit.
        first_cut: where the first of them is.
        digest: a hash of the rows and their tokens.
        skipped: what was left out.
    """

    rows: int
    longest: int
    cut: int
    first_cut: str
    digest: str
    skipped: sources.Skipped


def find(path: str | None, split: str, feed: FeedConfig) -> list[Inputs]:
    """The file's rows, or with `path` None those of the run's task, or of each task of its mixture which has the split.

    A task that is defined as text to text (`TextToTextTask`) is read from its source, in its order and without
    TensorFlow; others, pretraining tasks and those registered with SeqIO, come through the run's feed, unpacked.

    Raises:
        UserError: there is no such file, task or split; a task whose examples have no inputs.
    """
    if path is not None:
        return [of_file(path, feed)]
    if not feed.mixture_or_task_name:
        raise UserError(
            "Nothing to infer from. Write --gin.INFER_INPUT=FILE (.txt, an input a line, or .jsonl), or a task: "
            "--gin.MIXTURE_OR_TASK_NAME=NAME."
        )
    names = _tasks_with_split(feed, split)
    if not names:
        raise UserError(
            f"No task of {feed.mixture_or_task_name} has a split '{split}'; write another: "
            "--gin.EvaluateConfig.split=train"
        )
    return [_of_task(name, split, dataclasses.replace(feed, mixture_or_task_name=name)) for name in names]


def of_file(path: str, feed: FeedConfig) -> Inputs:
    """The rows of a text file (an input a line; an empty line is an empty input, so that answers keep the lines'
    numbers), or of a `.jsonl` file (an object a line, with a text `inputs`; its other keys are handed on, and empty
    lines are left out). Either may be `.gz` or `.zst`, and remote.

    Reading raises UserError for the first line that is not UTF-8, not JSON or without a text `inputs`.
    """
    suffix = files.suffixes(path)[0]
    if suffix in (".tsv", ".parquet"):
        raise UserError(
            f"INFER_INPUT is {path}, but inputs are read from a text file, one a line, or from JSON lines (.jsonl) "
            "with a key 'inputs'. Tables are read as a task: docs/new_task.md defines one in five lines."
        )
    if not files.exists(path):
        raise UserError(f"There is no file {path}. INFER_INPUT names a text file, one input a line, or a .jsonl file.")
    vocabulary, end = feeds.vocabulary(feed), _end(feed)
    lines = _json_lines if suffix in (".jsonl", ".json") else _text_lines

    def read(skipped: sources.Skipped) -> Iterator[Row]:
        for place, line in lines(_numbered(path), skipped):
            try:
                ids = sentinels.encode(vocabulary, line["inputs"])
            except UserError as error:
                raise UserError(f"INFER_INPUT, {place}: {error}") from None
            yield Row(place, line, [*ids, *end])

    return Inputs(PurePosixPath(path).name.partition(".")[0] or "inputs", read)


def survey(inputs: Inputs, limit: int, count: int | None = None) -> Survey:
    """Reads the first `count` rows (None: all) to see that they can be read, and which are longer than `limit` tokens.

    Raises:
        UserError: there are none, or one cannot be read.
    """
    skipped = sources.Skipped()
    rows = longest = cut = 0
    first_cut, digest = "", hashlib.sha256()
    for row in itertools.islice(inputs.read(skipped), count):
        rows, longest = rows + 1, max(longest, len(row.ids))
        if len(row.ids) > limit:
            cut, first_cut = cut + 1, first_cut or row.place
        digest.update(json.dumps(row.line, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
        digest.update(np.asarray(row.ids, np.int32).tobytes())
    if not rows:
        left_out = f": everything was left out ({skipped})" if skipped else ""
        raise UserError(f"There is nothing to answer in {inputs.name}{left_out}.")
    return Survey(rows, longest, cut, first_cut, digest.hexdigest(), skipped)


def input_limit(feed: FeedConfig) -> int:
    """Tokens of an input at most. A language model's prompts, which training knows no inputs of, may fill its row."""
    return feed.task_feature_lengths.get("inputs", feed.task_feature_lengths["targets"])


def _end(feed: FeedConfig) -> list[int]:
    """EOS, unless the model goes on with the text, as a language model does that was trained without inputs."""
    return [EOS_ID] if "inputs" in feed.task_feature_lengths else []


def _tasks_with_split(feed: FeedConfig, split: str) -> list[str]:
    if not registry.is_defined(feed.mixture_or_task_name, feed):
        return feeds.tasks_with_split(feed, split)
    names = registry.components(feed.mixture_or_task_name, feed, count=lambda task: 1)
    return [name for name in names if split in sources.splits(registry.find(name, feed))]


def _of_task(name: str, split: str, feed: FeedConfig) -> Inputs:
    if "inputs" not in feed.task_feature_lengths:
        raise UserError(
            f"The examples of {name} have no inputs: TASK_FEATURE_LENGTHS is {dict(feed.task_feature_lengths)}. Give "
            "the prompts to go on from in a file, one a line: --gin.INFER_INPUT=prompts.txt"
        )
    task = registry.find(name, feed) if registry.is_defined(name, feed) else None
    rows = _written_out(task, split, feed) if isinstance(task, TextToTextTask) else _fed(split, feed)
    return Inputs(f"{name}-{split}", rows)


def _written_out(task: TextToTextTask, split: str, feed: FeedConfig) -> Callable[[sources.Skipped], Iterator[Row]]:
    vocabulary = feeds.vocabulary(feed)

    def read(skipped: sources.Skipped) -> Iterator[Row]:
        for number, (_, texts) in enumerate(answers.read(task, split, skipped=skipped), 1):
            yield Row(f"row {number}", texts, [*vocabulary.encode(texts["inputs"]), EOS_ID])

    return read


def _fed(split: str, feed: FeedConfig) -> Callable[[sources.Skipped], Iterator[Row]]:
    """Examples of a feed. It cuts them itself, to the run's lengths."""
    vocabulary = feeds.vocabulary(feed)
    feed = dataclasses.replace(feed, pack=False, batch_size=_ROWS_A_BATCH, shuffle=False, prefetch=0)

    def read(skipped: sources.Skipped) -> Iterator[Row]:
        numbers = itertools.count(1)
        # As an encoder-decoder's, whatever the model: it keeps inputs and targets apart.
        for batch in feeds.make_feed(feed, "encoder_decoder", split=split, repeat=False):
            for inputs, targets in zip(batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True):
                if targets.any():  # others fill up the last batch
                    ids = {"inputs": _without_padding(inputs), "targets": _without_padding(targets)}
                    texts = {feature: sentinels.decode(vocabulary, values) for feature, values in ids.items()}
                    yield Row(f"row {next(numbers)}", texts, ids["inputs"])

    return read


def _without_padding(ids: np.ndarray) -> list[int]:
    return [int(token) for token in ids if token > 0]


def _numbered(path: str) -> Iterator[tuple[str, str]]:
    """Lines with their places, without what ends them. Only `\\n` ends a line, as for `wc` and `paste`."""
    with files.open_stream(path) as stream:
        for number, line in enumerate(stream, 1):
            line = line.removeprefix(_BOM) if number == 1 else line
            try:
                yield f"line {number}", line.removesuffix(b"\n").removesuffix(b"\r").decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"Line {number} of {path} is not UTF-8: {line[error.start : error.start + 8]!r} at byte "
                    f"{error.start}. Convert the file (iconv -t UTF-8), or leave the line out."
                ) from None


def _text_lines(lines: Iterable[tuple[str, str]], skipped: sources.Skipped) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for place, text in lines:
        if not text.strip():
            skipped.add("empty, and answered all the same", place)
        yield place, {"inputs": text}


def _json_lines(lines: Iterable[tuple[str, str]], skipped: sources.Skipped) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for place, text in lines:
        if not text.strip():
            skipped.add("empty, and left out", place)
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"INFER_INPUT, {place} is not JSON: {error}. It begins with {text[:60]!r}.") from None
        if not isinstance(row, dict) or not isinstance(row.get("inputs"), str):
            found = f"the keys {', '.join(map(repr, row))}" if isinstance(row, dict) else f"{text[:60]!r}"
            raise UserError(
                f"INFER_INPUT, {place} has no text 'inputs', but {found}. Each line of a .jsonl file is an object: "
                '{"inputs": "translate English to German: The house is small."}'
            )
        _check_text(row["inputs"], place)
        yield place, row


def _check_text(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"INFER_INPUT, {place} has half a character in 'inputs', {text[error.start]!r} at place {error.start}: "
            "JSON writes characters outside the basic plane as pairs of \\u escapes. Leave it out."
        ) from None
