"""The single objectives: what to read and what to write, made of windows of text in plain numpy.

An objective maps `tokens[n, length]`, a random generator and a vocabulary to `{'inputs': int32[n, a], 'targets':
int32[n, b]}`. All rows of one call have one length, so that no row is handled on its own; and the widths `a` and `b`
depend on that length alone, never on what was drawn.

Source: Raffel et al. 2020, sections 3.1.4 and 3.3, and the objectives of `t5.data.preprocessors`.
"""

from __future__ import annotations

import abc
import bisect
import dataclasses
from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.tasks import noise

# T5's ids below this are padding, EOS and unknown: no random token is one of them.
_RESERVED_IDS = 3


class Vocabulary(Protocol):
    """What an objective knows of a vocabulary (`tasks/vocabularies.py`; SeqIO's fit too).

    Its `extra_ids` are its last ids, `vocab_size` includes them.
    """

    vocab_size: int
    extra_ids: int

    def encode(self, text: str) -> list[int]: ...


class Objective(abc.ABC):
    """Makes examples of windows of text. One of your own defines `features`, `lengths` and `__call__`.

    Attributes:
        features: names of what it returns: `('inputs', 'targets')`, or `('targets',)` for language modelling; with
            `'loss_weights'` behind where not all of the targets carry loss.
        examples_per_row: how many examples, one after the other as they are returned, are sure to fit a packed row.
    """

    features: tuple[str, ...] = ("inputs", "targets")
    examples_per_row: int = 1

    @abc.abstractmethod
    def lengths(self, length: int, vocabulary: Vocabulary) -> dict[str, int]:
        """Tokens that inputs and targets take at most for a window of `length` tokens (2 or more), EOS included."""

    @abc.abstractmethod
    def __call__(self, tokens: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
        """`tokens` int[n, 2 up to window] without padding or EOS, to int32[n, lengths()] by feature.

        Rows end in EOS; shorter ones are filled up with 0. `loss_weights` is 0 or 1, as long as the targets. The same
        generator state gives the same bytes.

        Raises:
          UserError: rows of a single token; more sentinels than the vocabulary has extra ids. T5 goes on silently
            with ids that mean words.
        """

    def extra_ids(self, length: int) -> int:
        """Sentinels that a window of `length` tokens takes at most."""
        return 0

    def row_lengths(self, length: int, vocabulary: Vocabulary) -> dict[str, int]:
        """Tokens that the examples of a row take together at most: `lengths` where a row is one example."""
        return self.lengths(length, vocabulary)

    def window(self, lengths: Mapping[str, int], vocabulary: Vocabulary) -> int:
        """Tokens of text to cut for an example: as many as are sure to fit rows of `lengths`, EOS included.

        The first feature decides; T5 too cuts for the inputs.

        Raises:
          UserError: a feature has no length; the inputs are too short for any example; there is not enough room for
            the targets; the vocabulary has too few extra ids.
        """
        name, needed = type(self).__name__, self.row_lengths(2, vocabulary)
        if missing := [feature for feature in needed if feature not in lengths]:
            example = {feature: {"inputs": 512, "targets": 114}[feature] for feature in needed}
            raise UserError(
                f"{name} makes {' and '.join(needed)}; TASK_FEATURE_LENGTHS = {dict(lengths)} has no length for "
                f"{' and '.join(missing)}. Write for example {example}."
            )
        window = self._longest(lengths, vocabulary)
        for feature, length in self.row_lengths(window, vocabulary).items():
            if length > lengths[feature]:
                raise UserError(
                    f"{name} makes {feature} of up to {length} tokens a row from windows of {window}; found room for "
                    f"{lengths[feature]}. Write '{feature}': {length} in TASK_FEATURE_LENGTHS, or shorter "
                    f"{self.features[0]}."
                )
        self._check(window, vocabulary)
        return window

    def _longest(self, lengths: Mapping[str, int], vocabulary: Vocabulary) -> int:
        """The longest window whose first feature fits."""
        feature = self.features[0]

        def too_long(window: int) -> bool:
            return self.row_lengths(window, vocabulary)[feature] > lengths[feature]

        if too_long(2):
            raise UserError(
                f"{type(self).__name__} needs {feature} of at least {self.row_lengths(2, vocabulary)[feature]} tokens, "
                f"EOS included; found {lengths[feature]}. Write a larger '{feature}' in TASK_FEATURE_LENGTHS."
            )
        above = 4
        while not too_long(above):
            above *= 2
        return bisect.bisect_left(range(above), True, lo=3, key=too_long) - 1

    def _check(self, length: int, vocabulary: Vocabulary) -> None:
        name = type(self).__name__
        if length < 2:
            raise UserError(f"{name} needs rows of at least 2 tokens; found {length}.")
        needed = self.extra_ids(length)
        if needed > vocabulary.extra_ids:
            raise UserError(
                f"{name} of windows of {length} tokens needs {needed} extra ids, one for each sentinel; the vocabulary "
                f"has {vocabulary.extra_ids}. Write EXTRA_IDS = {needed}, or shorter lengths, or mask less."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpanCorruption(Objective):
    """T5's objective: each masked span becomes a sentinel, and the targets say what stood there.

        tokens   a b c d e f            with c and f masked
        inputs   a b S0 d e S1 EOS
        targets  S0 c S1 f EOS

    The last token is always masked and the first never is, as in T5; a window of up to 30 tokens loses its end.

    Attributes:
        noise_density: share of tokens to mask.
        mean_span: mean length of a masked span, in tokens.
        random_roll: turn each mask by a random number of places, so that every position is masked equally often. A
            span turned over the end becomes two. Each span keeps its own sentinel; with T5's option of that name those
            of the targets are one off where a row begins with a masked token.
        closing_sentinel: end the targets with one more sentinel, as in the figures of T5's paper but not in its code.
    """

    noise_density: float = 0.15
    mean_span: float = 3.0
    random_roll: bool = False
    closing_sentinel: bool = False

    def __post_init__(self):
        _check_density(self)
        if not self.mean_span > 0:
            raise UserError(f"SpanCorruption.mean_span must be positive; found {self.mean_span}. T5 uses 3.0.")

    def lengths(self, length: int, vocabulary: Vocabulary | None = None) -> dict[str, int]:
        masked, spans = self._counts(length)
        return {"inputs": length - masked + spans + 1, "targets": masked + spans + self.closing_sentinel + 1}

    def extra_ids(self, length: int) -> int:
        return self._counts(length)[1] + self.closing_sentinel

    def _counts(self, length: int) -> tuple[int, int]:
        """Masked tokens, and the most spans that they can stand in."""
        masked, spans = noise.span_counts(length, self.noise_density, self.mean_span)
        return masked, min(spans + self.random_roll, masked)

    def _longest(self, lengths: Mapping[str, int], vocabulary: Vocabulary) -> int:
        return _with_short_targets(self, super()._longest(lengths, vocabulary))

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
        n, length = tokens.shape
        self._check(length, vocabulary)
        spans = {"noise_density": self.noise_density, "mean_span": self.mean_span, "random_roll": self.random_roll}
        mask = noise.random_spans(n, length, rng, **spans)
        widths = self.lengths(length).values()
        corrupted = noise.spans_to_sentinels(tokens, mask, vocabulary.vocab_size, *widths, self.closing_sentinel)
        return dict(zip(self.features, corrupted, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class IidDenoising(Objective):
    """Single tokens are masked rather than spans: BERT's objective and its kin (Raffel et al. 2020, section 3.3).

    With tokens `a b c d e f`; `b`, `c` and `f` masked; sentinels S0 > S1 > S2:

        style             inputs               targets
        'sentinel'        a S0 d e S1 EOS      S0 b c S1 f EOS         one sentinel a run of masked tokens
        'sentinel_each'   a S0 S1 d e S2 EOS   S0 b S1 c S2 f EOS      one sentinel a masked token
        'drop'            a d e EOS            b c f EOS
        'mask'            a S0 S0 d e S0 EOS   a b c d e f EOS

    T5's names for them: `iid_15_u_u` is `'sentinel'`, `iid_15_d_d` is `'drop'`, `iid_15_m_f` (MASS-style) is `'mask'`,
    and `iid_15_r10s90_f` (BERT-style) is `'mask'` with `random_share` 0.1.

    T5 flips a coin for each token and trims targets that get too long. Here the number of masked tokens is the rounded
    share of the window, all choices equally likely, so that every example fits. For `'drop'` T5 cuts windows of the
    inputs' length; here they are longer, so that the inputs are full.

    Attributes:
        noise_density: share of tokens to mask.
        style: see above.
        random_share: with `'mask'`, share of the masked tokens that a random token replaces in place of the mask.
        keep_share: with `'mask'`, share of the masked tokens that are left as they are; BERT has 0.1 of each.
        loss_on_masked_only: with `'mask'`, loss on the masked positions alone, as in BERT; T5 has it on all.
    """

    noise_density: float = 0.15
    style: Literal["sentinel", "sentinel_each", "drop", "mask"] = "sentinel"
    random_share: float = 0.0
    keep_share: float = 0.0
    loss_on_masked_only: bool = False

    def __post_init__(self):
        _check_density(self)
        if self.style not in ("sentinel", "sentinel_each", "drop", "mask"):
            raise UserError(
                f"IidDenoising.style must be 'sentinel', 'sentinel_each', 'drop' or 'mask'; found {self.style!r}."
            )
        for field in ("random_share", "keep_share", "loss_on_masked_only"):
            value = getattr(self, field)
            if not 0 <= value <= 1:
                raise UserError(f"IidDenoising.{field} must lie between 0 and 1; found {value}. BERT uses 0.1.")
            if value and self.style != "mask":
                raise UserError(f"IidDenoising.{field} is for style 'mask'; found style {self.style!r}.")
        if self.random_share + self.keep_share > 1:
            raise UserError(
                f"IidDenoising.random_share and keep_share must not exceed 1 together; found {self.random_share} and "
                f"{self.keep_share}. BERT uses 0.1 and 0.1."
            )

    @property
    def features(self) -> tuple[str, ...]:
        return ("inputs", "targets", "loss_weights") if self.loss_on_masked_only else ("inputs", "targets")

    def lengths(self, length: int, vocabulary: Vocabulary | None = None) -> dict[str, int]:
        masked, runs = self._counts(length)
        inputs, targets = {
            "sentinel": (length - masked + runs, masked + runs),
            "sentinel_each": (length, 2 * masked),
            "drop": (length - masked, masked),
            "mask": (length, length),
        }[self.style]
        return {"inputs": inputs + 1, "targets": targets + 1}

    def extra_ids(self, length: int) -> int:
        masked, runs = self._counts(length)
        return {"sentinel": runs, "sentinel_each": masked, "drop": 0, "mask": 1}[self.style]

    def _counts(self, length: int) -> tuple[int, int]:
        """Masked tokens, and the most runs that they can stand in."""
        masked = noise.masked_tokens(length, self.noise_density)
        return masked, min(masked, length - masked + 1)

    def _longest(self, lengths: Mapping[str, int], vocabulary: Vocabulary) -> int:
        return _with_short_targets(self, super()._longest(lengths, vocabulary))

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
        n, length = tokens.shape
        self._check(length, vocabulary)
        masked = self._counts(length)[0]
        mask = noise.random_subsets(n, length, masked, rng)
        if self.style == "sentinel":
            widths = self.lengths(length).values()
            examples = noise.spans_to_sentinels(tokens, mask, vocabulary.vocab_size, *widths)
        elif self.style == "sentinel_each":
            examples = noise.tokens_to_sentinels(tokens, mask, vocabulary.vocab_size, masked)
        elif self.style == "drop":
            sides = ((~mask, length - masked), (mask, masked))
            examples = [noise.with_eos(noise.pack_left(tokens, side, width)) for side, width in sides]
        else:
            targets = noise.with_eos(tokens)
            weights = np.pad(mask, ((0, 0), (0, 1))).astype(np.int32)
            examples = (self._masked(targets, weights, rng, vocabulary), targets, weights)[: len(self.features)]
        return dict(zip(self.features, examples, strict=True))

    def _masked(
        self, targets: np.ndarray, masked: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary
    ) -> np.ndarray:
        """`targets` with masked tokens replaced by the mask, by a random token, or not at all."""
        inputs, places = targets.copy(), np.flatnonzero(masked)
        fate = rng.random(len(places))
        hidden, random = places[fate >= self.keep_share], places[fate >= 1 - self.random_share]
        inputs.reshape(-1)[hidden] = vocabulary.vocab_size - 1
        words = vocabulary.vocab_size - vocabulary.extra_ids
        inputs.reshape(-1)[random] = rng.integers(_RESERVED_IDS, words, len(random))
        return inputs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deshuffling(Objective):
    """Put shuffled tokens in order: the inputs are the window's tokens in random order, the targets as they were.

    T5's `all_permute` (Raffel et al. 2020, section 3.3.1), on concatenated text rather than on single documents.
    """

    def lengths(self, length: int, vocabulary: Vocabulary | None = None) -> dict[str, int]:
        return {"inputs": length + 1, "targets": length + 1}

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
        self._check(tokens.shape[1], vocabulary)
        return {"inputs": noise.with_eos(rng.permuted(tokens, axis=1)), "targets": noise.with_eos(tokens)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixLM(Objective):
    """Continue a text: a window is cut in two at a place drawn uniformly, inputs before it and targets behind.

    Each has at least one token. T5's `prefix_lm` does this to the pieces of single documents, which leaves many short
    rows; here as everywhere windows are cut from concatenated text.
    """

    def lengths(self, length: int, vocabulary: Vocabulary | None = None) -> dict[str, int]:
        return {"inputs": length, "targets": length}

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
        n, length = tokens.shape
        self._check(length, vocabulary)
        row, place = noise.with_eos(tokens), np.arange(length + 1)
        read = place < rng.integers(1, length, (n, 1))
        return {
            "inputs": noise.pack_left(row, read | (place == length), length),
            "targets": noise.pack_left(row, ~read, length),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalLM(Objective):
    """Language modelling: the targets are the window and there are no inputs. T5's `lm`."""

    features = ("targets",)

    def lengths(self, length: int, vocabulary: Vocabulary | None = None) -> dict[str, int]:
        return {"targets": length + 1}

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
        self._check(tokens.shape[1], vocabulary)
        return {"targets": noise.with_eos(tokens)}


def _check_density(objective: SpanCorruption | IidDenoising) -> None:
    if not 0 < objective.noise_density < 1:
        raise UserError(
            f"{type(objective).__name__}.noise_density must lie between 0 and 1, both excluded; found "
            f"{objective.noise_density}. T5 uses 0.15."
        )


def _with_short_targets(objective: SpanCorruption | IidDenoising, window: int) -> int:
    """`window`, or one token less: masking half, T5 wants targets no longer than inputs, so that 512 and 512 do."""
    sizes = objective.lengths(window)
    return window - 1 if objective.noise_density == 0.5 and sizes["targets"] > sizes["inputs"] else window
