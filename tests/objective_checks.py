"""What the tests of objectives share: a vocabulary of numbers, and reading examples back into the text they hide."""

from __future__ import annotations

import dataclasses

import numpy as np

EOS_ID = 1


@dataclasses.dataclass(frozen=True)
class ToyVocabulary:
    """Ids without a meaning; a text is written in the ids of its characters."""

    vocab_size: int = 42_000
    extra_ids: int = 3000

    def encode(self, text: str) -> list[int]:
        return [3 + ord(character) for character in text]

    def is_sentinel(self, token: int) -> bool:
        return token >= self.vocab_size - self.extra_ids

    @property
    def sentinels(self) -> list[int]:
        """In the order of their use."""
        return list(range(self.vocab_size - 1, self.vocab_size - 1 - self.extra_ids, -1))


VOCABULARY = ToyVocabulary()


def random_tokens(n: int, length: int, seed: int = 0, vocabulary: ToyVocabulary = VOCABULARY) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, vocabulary.vocab_size - vocabulary.extra_ids, (n, length))


def examples(objective, tokens, seed=0, vocabulary=VOCABULARY) -> dict[str, np.ndarray]:
    """What the objective makes, after the checks that hold for every objective."""
    made = objective(tokens, np.random.default_rng(seed), vocabulary)
    n, length = tokens.shape
    widths = objective.lengths(length, vocabulary)
    widths["loss_weights"] = widths["targets"]
    assert tuple(made) == objective.features
    assert {feature: array.shape for feature, array in made.items()} == {f: (n, widths[f]) for f in made}
    assert {array.dtype for array in made.values()} == {np.dtype(np.int32)}
    return made


def text_of(row: np.ndarray) -> list[int]:
    """A row without its EOS and the padding behind."""
    row = row.tolist()
    end = row.index(EOS_ID)
    assert not any(row[end + 1 :]), "something stands behind EOS"
    assert 0 not in row[:end], "padding stands before EOS"
    return row[:end]


def by_sentinel(row: list[int], vocabulary: ToyVocabulary = VOCABULARY) -> dict[int | None, list[int]]:
    """{sentinel: the tokens after it, up to the next one}; what stands before the first has key None."""
    spans, current = {None: []}, None
    for token in row:
        if vocabulary.is_sentinel(token):
            assert token not in spans, "a sentinel twice"
            current, spans[token] = token, []
        else:
            spans[current].append(token)
    return spans


def rebuild(inputs: np.ndarray, targets: np.ndarray, closing: bool = False, vocabulary=VOCABULARY) -> list[int]:
    """The window that inputs with sentinels and targets were made of."""
    kept, masked = by_sentinel(text_of(inputs), vocabulary), by_sentinel(text_of(targets), vocabulary)
    assert masked.pop(None) == []
    row = kept.pop(None)
    assert list(kept) == vocabulary.sentinels[: len(kept)], "sentinels that don't count down from the last id"
    assert list(masked) == vocabulary.sentinels[: len(kept) + closing]
    if closing:
        assert masked.popitem()[1] == []
    for sentinel in kept:
        assert masked[sentinel], "an empty span"
        row = row + masked[sentinel] + kept[sentinel]
    return row
