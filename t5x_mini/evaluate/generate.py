"""`t5x-mini generate`: what a checkpoint answers to texts on the command line or, without one, on standard input."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from t5x_mini.checkpoint.source import open_source
from t5x_mini.errors import UserError
from t5x_mini.evaluate import decoding_options, sentinels
from t5x_mini.evaluate.predictor import BATCH_SIZE, Predictor
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
        UserError: where there is no checkpoint; for options that don't go together.
    """
    decoding_options.make(**options)  # before the checkpoint is read
    predictor = _load(checkpoint, dtype=dtype, vocabulary=vocabulary, extra_ids=extra_ids)
    if texts:
        _answer_all(predictor, texts, raw, options)
    elif sys.stdin.isatty():
        _converse(predictor, raw, options)
    else:
        lines = _lines(sys.stdin)
        while batch := list(itertools.islice(lines, BATCH_SIZE)):
            _answer_all(predictor, batch, raw, options)


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
                _answer_all(predictor, [text], raw, options)
            except UserError as error:
                _tell(str(error))


def _answer_all(predictor: Predictor, texts: Sequence[str], raw: bool, options: dict[str, Any]) -> None:
    """Prints the answers to these texts. An empty text has an empty line for an answer."""
    asked = [text for text in texts if text.strip()]
    answered = iter(_answers(predictor, asked, raw, options))
    for text in texts:
        print("\n".join(next(answered)) if text.strip() else "", flush=True)


def _answers(predictor: Predictor, texts: Sequence[str], raw: bool, options: dict[str, Any]) -> Iterator[list[str]]:
    """The lines to print for each text."""
    inputs = predictor.inputs(texts)
    config, several = decoding_options.make(**options)
    for ids, answer in zip(inputs, predictor.generate_ids(inputs, config), strict=True):
        made = [_one_line(_shown(predictor, ids, found, raw)) for found in answer.ids]
        yield (
            [f"{score:8.3f}  {text}" for score, text in zip(answer.scores, made, strict=True)] if several else made[:1]
        )


def _shown(predictor: Predictor, inputs: Sequence[int], answer: Sequence[int], raw: bool) -> str:
    vocabulary = predictor.vocabulary
    if raw or not set(inputs) & set(sentinels.sentinel_ids(vocabulary)):
        return sentinels.decode(vocabulary, answer)
    text, missing = sentinels.fill(vocabulary, inputs, answer)
    if missing:
        _tell(f"the model wrote nothing for {', '.join(missing)} (--raw shows what it wrote)")
    return text


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _lines(stream: TextIO) -> Iterator[str]:
    return (line.rstrip("\r\n") for line in stream)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
