"""Pretraining objectives on whole batches of tokens, in plain numpy.

Every objective maps `tokens[n, length]` and a random generator to `{'inputs': int32[n, a], 'targets': int32[n, b]}`.
All rows of one call have one length, so the results are rectangular and no row is handled on its own.

Source: Raffel et al. 2020, section 3.1.4 and 3.3.4; the statistics are those of T5's `random_spans_noise_mask`,
`noise_span_to_unique_sentinel` and `random_spans_helper`.
"""

from __future__ import annotations

import numpy as np

from t5x_mini.errors import UserError

EOS_ID = 1


def span_counts(length: int, noise_density: float = 0.15, mean_span: float = 3.0) -> tuple[int, int]:
    """(masked tokens, masked spans) of a row of `length` tokens, at least one of each and one token kept.

    Up to 30 tokens that is one span at T5's defaults, which always sits at the row's end.
    """
    # T5's mask rounds in float32, half to even. In float64 some lengths, 190 say, would have one masked token less.
    masked = int(np.rint(np.float32(length) * np.float32(noise_density)))
    masked = min(max(masked, 1), length - 1)
    spans = int(np.rint(np.float32(masked) / np.float32(mean_span)))
    # Every span holds a token and is followed by one; where T5's formula asks for more spans than that, T5 fails.
    return masked, min(max(spans, 1), masked, length - masked)


def span_corruption_lengths(inputs_length: int, noise_density: float = 0.15, mean_span: float = 3.0) -> tuple[int, int]:
    """How many tokens to cut for rows whose corrupted inputs fill `inputs_length`, and how long their targets get.

    Both `inputs_length` and the second result include the EOS. 512 gives (568, 114), as in T5's `random_spans_helper`.

    Returns:
      (window, targets_length): the longest window whose inputs, with EOS, fit in `inputs_length`.

    Raises:
      UserError: `inputs_length` is below 3, or a setting is out of range.
    """
    _check_settings(noise_density, mean_span)
    if inputs_length < 3:
        raise UserError(
            f"Span corruption needs inputs of at least 3 tokens (one token, one sentinel, EOS); found {inputs_length}. "
            "Write a larger 'inputs' in TASK_FEATURE_LENGTHS."
        )
    window = inputs_length - 1
    while corrupted_lengths(window + 1, noise_density, mean_span)[0] <= inputs_length:
        window += 1
    inputs, targets = corrupted_lengths(window, noise_density, mean_span)
    if noise_density == 0.5 and targets > inputs:  # T5 prefers targets no longer than the inputs here
        window -= 1
        targets = corrupted_lengths(window, noise_density, mean_span)[1]
    return window, targets


def corrupted_lengths(length: int, noise_density: float = 0.15, mean_span: float = 3.0) -> tuple[int, int]:
    """(inputs, targets) that a row of `length` tokens becomes, with EOS."""
    masked, spans = span_counts(length, noise_density, mean_span)
    return length - masked + spans + 1, masked + spans + 1


def noise_mask(
    n: int, length: int, rng: np.random.Generator, *, noise_density: float = 0.15, mean_span: float = 3.0
) -> np.ndarray:
    """Which tokens to mask: `bool[n, length]`, each row drawn on its own.

    Masked and kept tokens are each cut into the same number of runs, uniformly at random, and the runs alternate,
    beginning with a kept one. So the first token is never masked and the last one always is.
    """
    _check_settings(noise_density, mean_span)
    if length < 2:
        raise UserError(f"Span corruption needs rows of at least 2 tokens; found {length}.")
    masked, spans = span_counts(length, noise_density, mean_span)
    kept_runs = _random_composition(n, length - masked, spans, rng)
    masked_runs = _random_composition(n, masked, spans, rng)
    runs = np.stack([kept_runs, masked_runs], axis=2).reshape(n, 2 * spans)
    starts = np.cumsum(runs, axis=1)[:, :-1]
    switches = np.zeros((n, length), np.int32)
    np.put_along_axis(switches, starts, 1, axis=1)
    return np.cumsum(switches, axis=1) % 2 == 1


def span_corruption(
    tokens: np.ndarray,
    rng: np.random.Generator,
    *,
    vocab_size: int,
    extra_ids: int = 100,
    noise_density: float = 0.15,
    mean_span: float = 3.0,
) -> dict[str, np.ndarray]:
    """T5's span corruption: inputs with each masked span replaced by a sentinel, targets with each kept one replaced.

    With tokens `a b c d e f`, `c` and `f` masked, and sentinels S0 > S1:

        inputs   a b S0 d e S1 EOS
        targets  S0 c S1 f EOS

    Sentinels count down from `vocab_size - 1`, where a vocabulary of T5's layout has its extra ids. The targets need no
    closing sentinel, as the last token is always masked.

    Args:
      tokens: int[n, length], length >= 2, without padding or EOS.
      rng: the same generator state gives the same bytes.
      vocab_size: ids of the vocabulary, its extra ids included.
      extra_ids: how many of them may be used as sentinels.
      noise_density: share of tokens to mask.
      mean_span: mean length of a masked span, in tokens.

    Returns:
      `{'inputs': int32[n, a], 'targets': int32[n, b]}`, both ending in EOS.

    Raises:
      UserError: more spans than extra ids. T5 goes on silently with ids that mean words.
    """
    n, length = tokens.shape
    mask = noise_mask(n, length, rng, noise_density=noise_density, mean_span=mean_span)
    check_extra_ids(length, extra_ids, noise_density, mean_span)
    inputs, targets = corrupted_lengths(length, noise_density, mean_span)
    return {
        "inputs": _replace_spans(tokens, mask, inputs, vocab_size),
        "targets": _replace_spans(tokens, ~mask, targets, vocab_size),
    }


def check_extra_ids(length: int, extra_ids: int, noise_density: float = 0.15, mean_span: float = 3.0) -> None:
    """Raises UserError if corrupting rows of `length` tokens takes more sentinels than there are extra ids."""
    spans = span_counts(length, noise_density, mean_span)[1]
    if spans > extra_ids:
        raise UserError(
            f"Span corruption of {length} tokens needs {spans} extra ids, one for each masked span; the vocabulary has "
            f"{extra_ids}. Use a vocabulary with extra_ids={spans} or more, shorter inputs, or longer spans."
        )


def _check_settings(noise_density: float, mean_span: float) -> None:
    if not 0 < noise_density < 1:
        raise UserError(f"noise_density must lie between 0 and 1, both excluded; found {noise_density}. T5 uses 0.15.")
    if not mean_span > 0:
        raise UserError(f"mean_span must be positive; found {mean_span}. T5 uses 3.0.")


def _random_composition(n: int, total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """`int[n, parts]` of positive numbers that sum to `total`, uniform over all such rows.

    A composition is a choice of `parts - 1` of the `total - 1` places between two tokens.
    """
    cuts = np.zeros((n, total - 1), bool)
    cuts[:, : parts - 1] = True
    cuts = rng.permuted(cuts, axis=1)
    part_of_token = np.cumsum(cuts, axis=1)
    part_of_token = np.concatenate([np.zeros((n, 1), part_of_token.dtype), part_of_token], axis=1)
    rows = np.arange(n)[:, None] * parts
    return np.bincount((part_of_token + rows).ravel(), minlength=n * parts).reshape(n, parts)


def _replace_spans(tokens: np.ndarray, mask: np.ndarray, length: int, vocab_size: int) -> np.ndarray:
    """Tokens where `mask` is false, one sentinel for each run where it is true, EOS: `int32[n, length]`.

    All rows get the same length because their masks have equal counts; hence the reshape.
    """
    first = mask.copy()
    first[:, 1:] &= ~mask[:, :-1]
    sentinels = vocab_size - np.cumsum(first, axis=1)
    replaced = np.where(first, sentinels, tokens)[~mask | first].reshape(len(tokens), length - 1)
    return np.pad(replaced, ((0, 0), (0, 1)), constant_values=EOS_ID).astype(np.int32)
