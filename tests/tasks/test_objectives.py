from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_mini.errors import UserError
from t5x_mini.tasks.objectives import (
    EOS_ID,
    check_extra_ids,
    corrupted_lengths,
    noise_mask,
    span_corruption,
    span_corruption_lengths,
    span_counts,
)

VOCAB_SIZE = 40_000
EXTRA_IDS = 1000
FIRST_SENTINEL = VOCAB_SIZE - 1

settings.register_profile("tasks", deadline=None, max_examples=40)
settings.load_profile("tasks")


def corrupt(tokens, seed, **kwargs):
    return span_corruption(tokens, np.random.default_rng(seed), vocab_size=VOCAB_SIZE, extra_ids=EXTRA_IDS, **kwargs)


def random_tokens(n, length, seed):
    return np.random.default_rng(seed).integers(3, VOCAB_SIZE - EXTRA_IDS, (n, length))


def by_sentinel(row):
    """{sentinel: the tokens after it, up to the next one}; what stands before the first has key None."""
    spans, current = {None: []}, None
    for token in row.tolist():
        if token >= VOCAB_SIZE - EXTRA_IDS:
            assert token not in spans
            current, spans[token] = token, []
        else:
            spans[current].append(token)
    return spans


def rebuild(inputs, targets):
    assert inputs[-1] == targets[-1] == EOS_ID
    kept, masked = by_sentinel(inputs[:-1]), by_sentinel(targets[:-1])
    assert masked.pop(None) == []
    row = kept.pop(None)
    assert list(kept) == list(masked) == list(range(FIRST_SENTINEL, FIRST_SENTINEL - len(kept), -1))
    for sentinel in kept:
        row = row + masked[sentinel] + kept[sentinel]
    return row


@pytest.mark.parametrize(
    ("inputs", "window", "targets"),
    [(128, 141, 29), (256, 284, 58), (512, 568, 114), (1024, 1137, 229), (2048, 2274, 456)],
)
def test_lengths_are_those_of_t5(inputs, window, targets):
    assert span_corruption_lengths(inputs) == (window, targets)


@pytest.mark.parametrize(
    ("mean_span", "noise_density", "window", "targets"),
    [(8, 0.15, 588, 100), (3, 0.5, 766, 512), (8, 0.5, 908, 512), (64, 0.15, 600, 92), (64, 0.5, 1006, 512)],
)
def test_lengths_of_other_denoisers_are_those_of_t5(mean_span, noise_density, window, targets):
    assert span_corruption_lengths(512, noise_density, mean_span) == (window, targets)


@given(st.integers(3, 3000), st.sampled_from([0.1, 0.15, 0.3]), st.sampled_from([2.0, 3.0, 8.0]))
def test_window_is_the_longest_that_fits(inputs_length, noise_density, mean_span):
    window, targets = span_corruption_lengths(inputs_length, noise_density, mean_span)
    assert corrupted_lengths(window, noise_density, mean_span)[0] <= inputs_length
    assert corrupted_lengths(window, noise_density, mean_span)[1] == targets
    assert corrupted_lengths(window + 1, noise_density, mean_span)[0] > inputs_length


def test_counts_are_t5s_formula_in_float32():
    lengths = np.arange(2, 4097)
    masked = np.clip(np.round(lengths.astype(np.float32) * np.float32(0.15)), 1, lengths - 1).astype(int)
    spans = np.maximum(np.round(masked.astype(np.float32) / np.float32(3)), 1).astype(int)
    assert [span_counts(int(length)) for length in lengths] == list(zip(masked, spans, strict=True))
    assert span_counts(190) == (29, 10)  # 28.5 in float64 would round to 28


@given(st.integers(1, 4), st.integers(2, 4096), st.integers(0, 2**32 - 1))
def test_original_tokens_can_be_rebuilt(n, length, seed):
    tokens = random_tokens(n, length, seed)
    corrupted = corrupt(tokens, seed)
    assert (corrupted["inputs"].shape[1], corrupted["targets"].shape[1]) == corrupted_lengths(length)
    assert corrupted["inputs"].dtype == corrupted["targets"].dtype == np.int32
    rebuilt = [rebuild(*row) for row in zip(corrupted["inputs"], corrupted["targets"], strict=True)]
    assert rebuilt == tokens.tolist()


@given(st.integers(2, 300), st.floats(0.01, 0.99), st.floats(0.5, 70), st.integers(0, 2**32 - 1))
def test_original_tokens_can_be_rebuilt_at_any_setting(length, noise_density, mean_span, seed):
    tokens = random_tokens(2, length, seed)
    corrupted = corrupt(tokens, seed, noise_density=noise_density, mean_span=mean_span)
    rebuilt = [rebuild(*row) for row in zip(corrupted["inputs"], corrupted["targets"], strict=True)]
    assert rebuilt == tokens.tolist()


@given(st.integers(2, 4096), st.integers(0, 2**32 - 1))
def test_mask_has_t5s_counts_and_ends(length, seed):
    mask = noise_mask(3, length, np.random.default_rng(seed))
    masked, spans = span_counts(length)
    assert mask.sum(axis=1).tolist() == [masked] * 3
    assert (mask[:, 1:] & ~mask[:, :-1]).sum(axis=1).tolist() == [spans] * 3
    assert not mask[:, 0].any()
    assert mask[:, -1].all()


@pytest.mark.parametrize("length", [2, 10, 30])
def test_a_short_row_has_one_span_at_its_end(length):
    masked = span_counts(length)[0]
    expected = np.arange(length) >= length - masked
    assert (noise_mask(5, length, np.random.default_rng(0)) == expected).all()


def exact_mask_probabilities(length, masked, spans):
    """P(token j is masked), by counting the masks in which `before` masked tokens precede a masked token j."""
    kept = length - masked

    def ways(total, parts):  # compositions of total
        return comb(total - 1, parts - 1) if min(total, parts) > 0 else int(total == parts == 0)

    counts = [0] * length
    for j in range(length):
        for before in range(max(j - kept, 0), min(masked, j)):
            for span in range(1, min(spans, before + 1) + 1):  # the one that token j is in
                kept_ways = ways(j - before, span) * ways(kept - j + before, spans - span)
                counts[j] += kept_ways * comb(before, span - 1) * comb(masked - 1 - before, spans - span)
    return np.array([count / (ways(masked, spans) * ways(kept, spans)) for count in counts])


def test_mask_probabilities_by_position_are_exact():
    rows = 50_000
    share = noise_mask(rows, 120, np.random.default_rng(0)).mean(axis=0)
    exact = exact_mask_probabilities(120, 18, 6)
    assert exact.sum() == pytest.approx(18)
    assert (np.abs(share - exact) <= 5 * np.sqrt(exact * (1 - exact) / rows)).all()


def test_mask_probabilities_at_568_are_those_measured_on_t5():
    share = noise_mask(20_000, 568, np.random.default_rng(0)).mean(axis=0)
    np.testing.assert_allclose(share[:4], [0, 0.057, 0.093, 0.114], atol=0.01)
    np.testing.assert_allclose(share[-5:], [0.27, 0.34, 0.47, 0.68, 1], atol=0.015)
    assert share[20:-20].mean() == pytest.approx(0.1464, abs=0.0005)


def test_all_masks_are_equally_likely():
    # 40 tokens: 6 masked in 2 spans, so 5 ways to cut them times 33 ways to cut the 34 others.
    masks = noise_mask(50_000, 40, np.random.default_rng(0))
    counts = np.unique(masks, axis=0, return_counts=True)[1]
    expected = 50_000 / (5 * 33)
    assert len(counts) == 5 * 33
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 230  # the 99.95 % quantile for 164 degrees of freedom


def test_rows_are_drawn_independently():
    masks = noise_mask(200, 568, np.random.default_rng(0))
    assert len(np.unique(masks, axis=0)) == 200


def test_same_seed_same_bytes():
    tokens = random_tokens(8, 568, 0)
    first, again, other = corrupt(tokens, 1), corrupt(tokens, 1), corrupt(tokens, 2)
    for feature in ("inputs", "targets"):
        assert first[feature].tobytes() == again[feature].tobytes()
        assert first[feature].tobytes() != other[feature].tobytes()


def test_no_rows():
    corrupted = corrupt(np.zeros((0, 568), np.int32), 0)
    assert corrupted["inputs"].shape == (0, 512)
    assert corrupted["targets"].shape == (0, 114)


def test_sentinels_never_reach_real_ids():
    with pytest.raises(UserError, match=r"2274 tokens needs 114 extra ids.* the vocabulary has 100.*extra_ids=114"):
        span_corruption(np.ones((1, 2274), np.int32), np.random.default_rng(0), vocab_size=32_100, extra_ids=100)
    check_extra_ids(2274, 114)


def test_refusals_say_what_to_write():
    with pytest.raises(UserError, match=r"inputs of at least 3 tokens.*found 2\. Write a larger 'inputs'"):
        span_corruption_lengths(2)
    with pytest.raises(UserError, match="rows of at least 2 tokens; found 1"):
        corrupt(np.ones((1, 1), np.int32), 0)
    with pytest.raises(UserError, match=r"noise_density must lie between 0 and 1.*found 1\.5\. T5 uses 0\.15"):
        span_corruption_lengths(512, noise_density=1.5)
    with pytest.raises(UserError, match=r"mean_span must be positive; found 0\. T5 uses 3\.0"):
        span_corruption_lengths(512, mean_span=0)
