"""`t5x-mini generate`: what a checkpoint answers to texts on the command line or, without one, on standard input."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from t5x_mini.checkpoint.source import open_source
from t5x_mini.errors import UserError
from t5x_mini.evaluate import decoding_options, sentinels
from t5x_mini.evaluate.id_predictor import BATCH_SIZE
from t5x_mini.evaluate.predictor import Predictor
from t5x_mini.inference import from_source
from t5x_mini.model import transformer


def generate(
    checkpoint: str,
    texts: Sequence[str] = (),
    *,
    raw: bool = False,
    dtype: str | None = None,
    vocabulary: str | None = None,
    extra_ids: int | None = None,
    **options: Any,
) -> None:
    """Prints an answer to each text; without texts, to each line of standard input, as it comes.

    A text with sentinels is printed with what the model wrote in their place; those that it wrote nothing for stay.
    With `num_decodes`, each of a text's answers has a line, with its score in front and the best first. What is no
    answer goes to standard error.

    Args:
        checkpoint: as `t5x_mini.load` takes it.
        texts: inputs of the model.
        raw: print what the model wrote for the sentinels as it wrote it.
        dtype: as of `t5x_mini.load`; so too the next two.
        options: as of `Predictor.generate`: method, num_decodes, max_length, ...

    Raises:
        UserError: where there is no checkpoint; for options that don't go together; for a text that isn't UTF-8.
    """
    # What can be checked is, before the checkpoint is read.
    decoding_options.make(**options)
    for number, text in enumerate(texts, 1):
        sentinels.check_text(text, f"Text {number}")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # as arguments come: the line that isn't UTF-8 can be named
    predictor = _load(checkpoint, dtype=dtype, vocabulary=vocabulary, extra_ids=extra_ids)
    if texts:
        _answer_all(predictor, texts, raw, options)
    elif sys.stdin.isatty():
        _converse(predictor, raw, options)
    else:
        _answer_lines(predictor, sys.stdin, raw, options)


def _load(checkpoint: str, **how: Any) -> Predictor:
    source, start = open_source(checkpoint), time.perf_counter()
    _tell(f"loading {source.origin.path}")
    for note in source.origin.notes:
        _tell(f"  {note}")
    predictor = from_source(source, **how)
    predictor.check_vocabulary()
    count = transformer.param_count(predictor.config) / 1e6
    _tell(
        f"{predictor.config.architecture}, {count:,.1f} M parameters, in {time.perf_counter() - start:.1f} s; the "
        "first answer of each length takes longer: its program is compiled"
    )
    return predictor


def _converse(predictor: Predictor, raw: bool, options: dict[str, Any]) -> None:
    """A text a line, until the end of the input (Ctrl-D). A mistake in one is told, and the next may be typed."""
    import readline  # noqa: F401  (`input` then has a history, and lines can be edited)

    _tell("Type a text; Ctrl-D ends.")
    while True:
        try:
            text = input("> ")
        except EOFError:
            _tell("")
            return
        if text.strip():
            try:
                sentinels.check_text(text, "The text")
                _answer_all(predictor, [text], raw, options)
            except UserError as error:
                _tell(str(error))


def _answer_lines(predictor: Predictor, stream: TextIO, raw: bool, options: dict[str, Any]) -> None:
    """Answers lines as they come. The first that isn't UTF-8 ends it; those in front of it are answered."""
    batch: list[str] = []
    for number, line in enumerate(stream, 1):
        text = line.rstrip("\r\n")
        try:
            sentinels.check_text(text, f"Line {number} of standard input")
        except UserError:
            _answer_all(predictor, batch, raw, options)
            raise
        batch.append(text)
        if len(batch) == BATCH_SIZE:
            _answer_all(predictor, batch, raw, options)
            batch = []
    _answer_all(predictor, batch, raw, options)


def _answer_all(predictor: Predictor, texts: Sequence[str], raw: bool, options: dict[str, Any]) -> None:
    """Prints the answers to these texts. An empty text has an empty line for an answer."""
    asked = [text for text in texts if text.strip()]
    answered = iter(_answers(predictor, asked, raw, options))
    for text in texts:
        print("\n".join(next(answered)) if text.strip() else "", flush=True)


def _answers(predictor: Predictor, texts: Sequence[str], raw: bool, options: dict[str, Any]) -> Iterator[list[str]]:
    """The lines to print for each text."""
    config, several = decoding_options.make(**options)
    for text, answer in zip(texts, predictor.generate_ids(predictor.inputs(texts), config), strict=True):
        made = [_one_line(_shown(predictor, text, found, raw)) for found in answer.ids]
        yield (
            [f"{score:8.3f}  {line}" for score, line in zip(answer.scores, made, strict=True)] if several else made[:1]
        )


def _shown(predictor: Predictor, text: str, answer: Sequence[int], raw: bool) -> str:
    vocabulary = predictor.vocabulary
    if raw or not sentinels.has_any(text):
        return sentinels.decode(vocabulary, answer)
    filled, missing = sentinels.fill(vocabulary, text, answer)
    if missing:
        _tell(f"the model wrote nothing for {', '.join(missing)} (--raw shows what it wrote)")
    return filled


def _one_line(text: str) -> str:
    return re.sub(r"\r\n|\r|\n", " ", text.rstrip("\r\n"))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
