"""Trains SentencePiece vocabularies with T5's special ids, on a stream of text and in bounded memory."""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from typing import Literal

import sentencepiece

from t5x_mini.errors import UserError
from t5x_mini.tasks import files

# SentencePiece leaves out, with a warning, what is longer than its limit in bytes (4192).
_MOST_PIECES = 10_000_000
_SENTENCE_CHARACTERS = 1000


def train(
    texts: Iterable[str],
    output_prefix: str | os.PathLike,
    *,
    size: int = 32000,
    model_type: Literal["unigram", "bpe"] = "unigram",
    byte_fallback: bool = False,
    max_sentences: int = 200_000,
) -> str:
    """Trains a SentencePiece model with T5's special ids (padding 0, EOS 1, unknown 2, no BOS), in one pass.

    Texts are cut at spaces into sentences of at most 1000 characters. SentencePiece holds sentences in memory, so of
    more than `max_sentences` a uniform sample is drawn while they pass (reservoir sampling, the same one every time).
    200,000 sentences are up to 200 MB of text.

    Args:
      texts: read once.
      output_prefix: where to write, with or without `.model`. Missing folders are made.
      size: pieces, padding, EOS and unknown included; extra ids come on top when the vocabulary is loaded.
      model_type: T5's is a unigram model.
      max_sentences: more than 100.
      byte_fallback: characters without a piece are written as bytes, of which 256 pieces are taken, in place of
        unknown. T5 does without.

    Returns:
      The path of the `.model` file.

    Raises:
      UserError: a setting is out of range, or the text is too small for `size` pieces.
    """
    if model_type not in ("unigram", "bpe"):
        raise UserError(f"model_type is {model_type!r}. Write 'unigram', as T5's, or 'bpe'.")
    if size > _MOST_PIECES:
        raise UserError(f"No text has {size:,} pieces. Write --size={_MOST_PIECES} or less; T5 has 32000.")
    sentences = _sentences(texts)
    if (first := next(sentences, None)) is None:
        raise UserError("There is no text to train a vocabulary on: the sources are empty.")
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(0)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], sentences),
            model_writer=model,
            vocab_size=size,
            model_type=model_type,
            byte_fallback=byte_fallback,
            input_sentence_size=max_sentences,
            shuffle_input_sentence=True,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=1,
        )
    except RuntimeError as error:
        raise UserError(
            f"SentencePiece could not make a vocabulary of {size} pieces from this text. {_advice(str(error))}"
        ) from error
    path = f"{os.fspath(output_prefix).removesuffix('.model')}.model"
    files.write_bytes(path, model.getvalue())
    return path


def _advice(message: str) -> str:
    """What to write instead, from the numbers in what SentencePiece says; or all that it says."""
    if most := re.search(r"Please set it to a value <= (\d+)", message):
        return f"There is enough for {most[1]}: write --size={most[1]} or less, or give it more text."
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return f"Its characters alone need {least[1]}: write --size={least[1]} or more."
    return f"It says: {message}."


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        while len(text) > _SENTENCE_CHARACTERS:
            end = text.rfind(" ", 1, _SENTENCE_CHARACTERS)
            end = end if end > 0 else _SENTENCE_CHARACTERS
            yield text[:end]
            text = text[end:]
        yield text.rstrip("\n")
