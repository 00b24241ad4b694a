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

Spans = dict[int, list[int]]


def sentinel_ids(vocabulary: Vocabulary) -> range:
    """The ids that mark masked spans, `<extra_id_0>`'s last."""
    return range(vocabulary.vocab_size - vocabulary.extra_ids, vocabulary.vocab_size)


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


def fill(vocabulary: Vocabulary, inputs: Sequence[int], answer: Sequence[int]) -> tuple[str, list[str]]:
    """The inputs' text with the answer's spans in place of its sentinels.

    Returns:
        The text, and the names of the sentinels that the answer doesn't have: they are left standing in it.
    """
    sentinels = sentinel_ids(vocabulary)
    spans = parse_spans(answer, sentinels)
    missing = [token for token in dict.fromkeys(inputs) if token in sentinels and token not in spans]
    filled = itertools.chain.from_iterable(spans.get(token, [token]) for token in inputs)
    return decode(vocabulary, filled), [_name(vocabulary, token) for token in missing]


def _name(vocabulary: Vocabulary, token: int) -> str:
    return f"<extra_id_{vocabulary.vocab_size - 1 - token}>"


def _name_ids(vocabulary: Vocabulary, token: int) -> list[int]:
    return vocabulary.encode(_name(vocabulary, token))
