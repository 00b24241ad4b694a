"""Which tokens of a window are masked, and what is written in their place: numpy on whole batches.

Source: Raffel et al. 2020, sections 3.1.4 and 3.3.4. Counts and distribution of masked spans are those of T5's
`random_spans_noise_mask`; sentinels are placed as by its `noise_span_to_unique_sentinel`.
"""

from __future__ import annotations

import numpy as np

EOS_ID = 1


def masked_tokens(length: int, noise_density: float) -> int:
    """How many of `length` tokens (2 or more) T5 masks: the rounded share, but at least one, and one is kept."""
    # T5's mask rounds in float32, half to even. In float64 some lengths, 190 say, would have one masked token less.
    masked = int(np.rint(np.float32(length) * np.float32(noise_density)))
    return min(max(masked, 1), length - 1)


def span_counts(length: int, noise_density: float = 0.15, mean_span: float = 3.0) -> tuple[int, int]:
    """(masked tokens, masked spans) of a row of `length` tokens, at least one of each and one token kept.

    Up to 30 tokens that is one span at T5's defaults, which sits at the row's end unless masks are rolled.
    """
    masked = masked_tokens(length, noise_density)
    spans = int(np.rint(np.float32(masked) / np.float32(mean_span)))
    # Every span holds a token and is followed by one; where T5's formula asks for more spans than that, T5 fails.
    return masked, min(max(spans, 1), masked, length - masked)


def random_spans(
    n: int, length: int, rng: np.random.Generator, *, noise_density: float, mean_span: float, random_roll: bool = False
) -> np.ndarray:
    """Which tokens to mask in spans: `bool[n, length]`, each row drawn on its own.

    Masked and kept tokens are each cut into the same number of runs, uniformly at random, and the runs alternate,
    beginning with a kept one. So the first token is never masked and the last one always is.

    Args:
      random_roll: turn each row by a random number of places, so that every position is masked equally often. A span
        that is turned over the end becomes two.
    """
    masked, spans = span_counts(length, noise_density, mean_span)
    kept_runs = _random_composition(n, length - masked, spans, rng)
    masked_runs = _random_composition(n, masked, spans, rng)
    run_ends = np.cumsum(np.stack([kept_runs, masked_runs], axis=2))
    switches = np.zeros(n * length + 1, np.uint8)
    switches[run_ends] = 1
    mask = np.bitwise_xor.accumulate(switches[:-1]).view(bool).reshape(n, length)
    if not random_roll:
        return mask
    # A window onto each row written twice.
    twice = np.concatenate([mask, mask], axis=1).reshape(-1)
    begin = np.arange(n) * 2 * length + rng.integers(0, length, n)
    return twice[begin[:, None] + np.arange(length)]


def random_subsets(n: int, size: int, chosen: int, rng: np.random.Generator) -> np.ndarray:
    """`bool[n, size]` with `chosen` true in each row, every such row equally likely.

    Floyd's algorithm on all rows at once: as many steps as there are places to choose, however long the rows.
    """
    if chosen > size // 2:
        return ~random_subsets(n, size, size - chosen, rng)
    taken = np.zeros(n * size, bool)
    row_starts = np.arange(n) * size
    last = np.arange(size - chosen, size)
    draws = rng.integers(0, last[:, None] + 1, (chosen, n)) + row_starts
    for place, drawn in zip(last, draws, strict=True):
        taken[np.where(taken[drawn], row_starts + place, drawn)] = True
    return taken.reshape(n, size)


def _random_composition(n: int, total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """`int[n, parts]` of positive numbers that sum to `total`, uniform over all such rows.

    A composition is a choice of `parts - 1` of the `total - 1` places between two tokens.
    """
    cuts = np.ones((n, total + 1), bool)
    cuts[:, 1:-1] = random_subsets(n, total - 1, parts - 1, rng)
    return np.diff(np.flatnonzero(cuts).reshape(n, parts + 1), axis=1)


def with_eos(tokens: np.ndarray) -> np.ndarray:
    """`int[n, length]` to `int32[n, length + 1]` that ends in EOS."""
    n, length = tokens.shape
    ended = np.empty((n, length + 1), np.int32)
    ended[:, :-1] = tokens
    ended[:, -1] = EOS_ID
    return ended


def pack_left(values: np.ndarray, keep: np.ndarray, width: int) -> np.ndarray:
    """The values of each row where `keep` is true, `width` at most, filled up with 0: `int32[n, width]`."""
    kept = values[keep]
    if kept.size == len(values) * width:  # every row is full
        return kept.reshape(len(values), width)
    packed = np.zeros((len(values), width), np.int32)
    packed[np.arange(width) < np.count_nonzero(keep, axis=1)[:, None]] = kept
    return packed


def spans_to_sentinels(
    tokens: np.ndarray,
    mask: np.ndarray,
    vocab_size: int,
    inputs_length: int,
    targets_length: int,
    closing_sentinel: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs with a sentinel for each run of masked tokens, and targets that say what each sentinel stands for.

    With tokens `a b c d e f`, `c` and `f` masked, and sentinels S0 > S1 > S2:

        inputs   a b S0 d e S1 EOS
        targets  S0 c S1 f EOS          with a closing sentinel: S0 c S1 f S2 EOS

    Args:
      tokens: int[n, length].
      mask: bool[n, length]; at least one true in each row.
      inputs_length: width of the inputs, enough for every row.
      targets_length: width of the targets, enough for every row.

    Returns:
      (inputs, targets): int32[n, inputs_length], int32[n, targets_length], filled up with 0.
    """
    n, length = tokens.shape
    # A place for the sentinel of a span at the very beginning, the tokens, one for the closing sentinel, EOS.
    row = np.zeros((n, length + 3), np.int32)
    row[:, 1:-2], row[:, -1] = tokens, EOS_ID
    masked = np.zeros((n, length + 3), bool)
    masked[:, 1:-2] = mask

    first_masked = masked.copy()
    first_masked[:, 1:] &= ~masked[:, :-1]
    spans_of_row = np.count_nonzero(first_masked, axis=1)
    first = np.flatnonzero(first_masked)
    place_in_row = np.arange(len(first)) - np.repeat(np.cumsum(spans_of_row) - spans_of_row, spans_of_row)
    sentinel = vocab_size - 1 - place_in_row

    in_inputs = ~masked | first_masked
    in_inputs[:, [0, -2]] = False
    in_targets = masked
    in_targets.reshape(-1)[first - 1] = True
    in_targets[:, -2:] = closing_sentinel, True

    flat = row.reshape(-1)
    first_tokens = flat[first]
    flat[first] = sentinel
    inputs = pack_left(row, in_inputs, inputs_length)
    flat[first], flat[first - 1] = first_tokens, sentinel
    row[:, -2] = vocab_size - 1 - spans_of_row
    return inputs, pack_left(row, in_targets, targets_length)


def tokens_to_sentinels(
    tokens: np.ndarray, mask: np.ndarray, vocab_size: int, masked: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs with a sentinel for each masked token, and targets that say what each stands for.

    Args:
      tokens: int[n, length].
      mask: bool[n, length], `masked` true in each row.

    Returns:
      (inputs, targets): int32[n, length + 1], int32[n, 2 * masked + 1].
    """
    sentinels = np.broadcast_to(np.arange(vocab_size - 1, vocab_size - 1 - masked, -1), (len(tokens), masked))
    inputs = with_eos(tokens)
    inputs[:, :-1][mask] = sentinels.reshape(-1)
    answers = np.stack([sentinels, pack_left(tokens, mask, masked)], axis=2)
    return inputs, with_eos(answers.reshape(len(tokens), 2 * masked))
