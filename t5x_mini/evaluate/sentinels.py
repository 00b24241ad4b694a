"""Masked spans in words: texts with `<extra_id_0>`, `<extra_id_1>`, ... and what a model writes for each.

A vocabulary's sentinels are its last ids, `<extra_id_0>` the very last.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from t5x_mini.errors import UserError
from t5x_mini.tasks.vocabularies import EOS_ID, Vocabulary

_SENTINEL = re.compile(r"<extra_id_(\d+)>")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_OPENING, _CLOSING = ("(", "[", "{"), (".", ",", ";", ":", "!", "?", ")", "]", "}", "%", "…")

Spans = dict[int, list[int]]


def sentinel_ids(vocabulary: Vocabulary) -> range:
    """The ids that mark masked spans, `<extra_id_0>`'s last."""
    return range(vocabulary.vocab_size - vocabulary.extra_ids, vocabulary.vocab_size)


def check_text(text: object, name: str) -> None:
    """Raises UserError, with this name in it, for what is no string, or has no form in UTF-8.

    A byte that isn't UTF-8 comes from the command line or standard input as a surrogate; JSON has halves of pairs.
    """
    if not isinstance(text, str):
        raise UserError(f"{name} is {text!r:.60}, of type {type(text).__name__}: write a string.")
    found = _HALF_CHARACTER.search(text)
    if found:
        byte = ord(found[0]) - 0xDC00
        what = f"the byte 0x{byte:02x}" if 0x80 <= byte <= 0xFF else f"half a character, {found[0]!r},"
        raise UserError(
            f"{name} is not UTF-8: it has {what} at place {found.start()}. Convert it (iconv -t UTF-8), or leave it "
            "out."
        )


def has_any(text: str) -> bool:
    """Whether a sentinel stands in the text."""
    return _SENTINEL.search(text) is not None


def encode(vocabulary: Vocabulary, text: str) -> list[int]:
    """Ids of a text, without EOS; `<extra_id_0>` and its like are sentinels wherever they stand, in bytes too.

    Raises:
        UserError: for a sentinel that the vocabulary doesn't have.
    """
    numbers = [int(number) for number in _SENTINEL.findall(text)]
    if not numbers:
        return vocabulary.encode(text)
    if max(numbers) >= vocabulary.extra_ids:
        last = f"the last is <extra_id_{vocabulary.extra_ids - 1}>" if vocabulary.extra_ids else "it has none"
        raise UserError(f"The model's vocabulary has no <extra_id_{max(numbers)}>: {last}.")
    if vocabulary.encode("<extra_id_0>") == [vocabulary.vocab_size - 1]:
        # A sentinel is a piece with the space in front of it.
        return vocabulary.encode(re.sub(rf"\s*({_SENTINEL.pattern})", r" \1", text))
    between, ids = _SENTINEL.split(text), []
    for place, part in enumerate(between):  # text, number, text, number, ..., text
        ids += [vocabulary.vocab_size - 1 - int(part)] if place % 2 else vocabulary.encode(part)
    return ids


def decode(vocabulary: Vocabulary, ids: Iterable[int]) -> str:
    """Text of the ids up to the first EOS, with the names of the sentinels, which bytes would leave out."""
    sentinels = sentinel_ids(vocabulary)
    return vocabulary.decode(
        [part for token in ids for part in (_name_ids(vocabulary, token) if token in sentinels else [token])]
    )


def parse_spans(targets: Sequence[int], sentinels: range) -> Spans:
    """`{sentinel: tokens behind it}` of a target row, up to EOS or padding; the first of two equal sentinels counts."""
    spans: Spans = {}
    current: list[int] = []
    for token in itertools.takewhile(lambda token: token not in (0, EOS_ID), map(int, targets)):
        if token in sentinels:
            current = spans.setdefault(token, []) if token not in spans else []
        else:
            current.append(token)
    return spans


def fill(vocabulary: Vocabulary, text: str, answer: Sequence[int]) -> tuple[str, list[str]]:
    """The text with the answer's spans in place of its sentinels, and otherwise as it was written.

    A span has the spaces that its sentinel had. Where a span is empty, one of the spaces around it goes as well.

    Returns:
        The text, and the sentinels that the answer doesn't have: they are left standing in it.
    """
    spans = parse_spans(answer, sentinel_ids(vocabulary))
    filled, rest, missing = "", text, {}
    while sentinel := _SENTINEL.search(rest):
        filled, rest = filled + rest[: sentinel.start()], rest[sentinel.end() :]
        span = spans.get(vocabulary.vocab_size - 1 - int(sentinel[1]))
        written = sentinel[0] if span is None else decode(vocabulary, span).strip()
        if span is None:
            missing[sentinel[0]] = None
        if not written:
            filled, rest = _close_gap(filled, rest)
        filled += written
    return filled + rest, list(missing)


def _close_gap(before: str, behind: str) -> tuple[str, str]:
    """Both without one of the spaces between them, where two would meet or one would stand before punctuation."""
    if behind.startswith(" ") and (not before or before[-1].isspace() or before.endswith(_OPENING)):
        return before, behind[1:]
    if before.endswith(" ") and (not behind or behind[0].isspace() or behind.startswith(_CLOSING)):
        return before[:-1], behind
    return before, behind


def _name_ids(vocabulary: Vocabulary, token: int) -> list[int]:
    return vocabulary.encode(f"<extra_id_{vocabulary.vocab_size - 1 - token}>")
