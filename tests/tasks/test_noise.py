from collections import Counter
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_mini.tasks import noise

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "t5_lengths.npz")
SETTINGS = [(float(density), float(mean)) for density, mean in GOLDEN["settings"]]

settings.register_profile("tasks", deadline=None, max_examples=40)
settings.load_profile("tasks")


def spans(n, length, seed=0, noise_density=0.15, mean_span=3.0, **options):
    rng = np.random.default_rng(seed)
    return noise.random_spans(n, length, rng, noise_density=noise_density, mean_span=mean_span, **options)


def starts(mask):
    return mask[:, 1:] & ~mask[:, :-1]


def chi_squared(rows, possible):
    """Of the rows of a table against all `possible` ones being equally likely."""
    counts = Counter(map(tuple, rows.tolist()))
    assert len(counts) == possible, "some rows never come up"
    expected = len(rows) / possible
    return sum((count - expected) ** 2 / expected for count in counts.values())


@pytest.mark.parametrize("setting", range(len(SETTINGS)), ids=map(str, SETTINGS))
def test_counts_are_those_of_t5s_masks_at_every_length(setting):
    counts = [noise.span_counts(length, *SETTINGS[setting]) for length in range(2, 4097)]
    recorded = zip(GOLDEN["masked"][setting].tolist(), GOLDEN["spans"][setting].tolist(), strict=True)
    assert counts == list(recorded)


def test_counts_round_in_float32():
    assert noise.span_counts(190) == (29, 10)  # 28.5 in float64 would round to 28


@given(st.integers(2, 4096), st.sampled_from(SETTINGS), st.integers(0, 2**32 - 1))
def test_masks_have_these_counts_and_t5s_ends(length, setting, seed):
    mask = spans(3, length, seed, *setting)
    masked, runs = noise.span_counts(length, *setting)
    assert mask.sum(axis=1).tolist() == [masked] * 3
    assert starts(mask).sum(axis=1).tolist() == [runs] * 3
    assert not mask[:, 0].any()
    assert mask[:, -1].all()


@given(st.integers(2, 300), st.floats(0.01, 0.99), st.floats(0.5, 70), st.integers(0, 2**32 - 1))
def test_masks_have_these_counts_at_any_setting(length, noise_density, mean_span, seed):
    mask = spans(2, length, seed, noise_density, mean_span)
    masked, runs = noise.span_counts(length, noise_density, mean_span)
    assert mask.sum(axis=1).tolist() == [masked] * 2
    assert starts(mask).sum(axis=1).tolist() == [runs] * 2


@pytest.mark.parametrize("length", [2, 10, 30])
def test_a_short_row_has_one_span_at_its_end(length):
    masked = noise.span_counts(length)[0]
    assert (spans(5, length) == (np.arange(length) >= length - masked)).all()


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
    share = spans(rows, 120).mean(axis=0)
    exact = exact_mask_probabilities(120, 18, 6)
    assert exact.sum() == pytest.approx(18)
    assert (np.abs(share - exact) <= 5 * np.sqrt(exact * (1 - exact) / rows)).all()


def test_mask_probabilities_at_568_are_those_measured_on_t5():
    share = spans(20_000, 568).mean(axis=0)
    np.testing.assert_allclose(share[:4], [0, 0.057, 0.093, 0.114], atol=0.01)
    np.testing.assert_allclose(share[-5:], [0.27, 0.34, 0.47, 0.68, 1], atol=0.015)
    assert share[20:-20].mean() == pytest.approx(0.1464, abs=0.0005)


def test_all_masks_are_equally_likely():
    # 40 tokens: 6 masked in 2 spans, so 5 ways to cut them times 33 ways to cut the 34 others.
    assert chi_squared(spans(50_000, 40), 5 * 33) < 230  # the 99.95 % quantile for 164 degrees of freedom


@pytest.mark.parametrize(("size", "chosen"), [(6, 0), (6, 1), (6, 2), (6, 3), (6, 4), (6, 6), (12, 3), (12, 9)])
def test_all_subsets_are_equally_likely(size, chosen):
    subsets = noise.random_subsets(20_000, size, chosen, np.random.default_rng(0))
    assert (subsets.sum(axis=1) == chosen).all()
    freedom = comb(size, chosen) - 1
    assert chi_squared(subsets, freedom + 1) <= freedom + 4 * np.sqrt(2 * freedom)


def test_a_rolled_mask_is_masked_equally_often_everywhere():
    rows = 40_000
    mask = spans(rows, 60, random_roll=True)
    assert (mask.sum(axis=1) == 9).all()
    assert (np.abs(mask.mean(axis=0) - 0.15) < 5 * np.sqrt(0.15 * 0.85 / rows)).all()
    # On a circle the 3 spans are still 3.
    around = np.concatenate([mask[:, -1:], mask], axis=1)
    assert (starts(around).sum(axis=1) == 3).all()


def test_rows_are_drawn_independently():
    assert len(np.unique(spans(200, 568), axis=0)) == 200


def test_packing_left_fills_up_with_zeros():
    values, keep = np.array([[5, 6, 7], [8, 9, 4]]), np.array([[True, False, True], [False, False, True]])
    assert noise.pack_left(values, keep, 3).tolist() == [[5, 7, 0], [4, 0, 0]]
    assert noise.pack_left(values, values > 0, 3).tolist() == values.tolist()


def test_spans_become_sentinels():
    mask = np.array([[0, 0, 1, 0, 0, 1], [1, 1, 0, 0, 1, 0]], bool)
    tokens = np.arange(10, 16) + np.array([[0], [10]])
    inputs, targets = noise.spans_to_sentinels(tokens, mask, 100, 7, 7, closing_sentinel=True)
    assert inputs.tolist() == [[10, 11, 99, 13, 14, 98, 1], [99, 22, 23, 98, 25, 1, 0]]
    assert targets.tolist() == [[99, 12, 98, 15, 97, 1, 0], [99, 20, 21, 98, 24, 97, 1]]
    assert noise.spans_to_sentinels(tokens, mask, 100, 7, 6)[1].tolist() == [
        [99, 12, 98, 15, 1, 0],
        [99, 20, 21, 98, 24, 1],
    ]
