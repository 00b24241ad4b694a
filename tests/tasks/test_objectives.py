import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_checks import EOS_ID, VOCABULARY, ToyVocabulary, by_sentinel, examples, random_tokens, rebuild, text_of

from t5x_mini.errors import UserError
from t5x_mini.tasks.objectives import CausalLM, Deshuffling, IidDenoising, PrefixLM, SpanCorruption

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "t5_lengths.npz")
SETTINGS = [(float(density), float(mean)) for density, mean in GOLDEN["settings"]]
BERT = IidDenoising(style="mask", random_share=0.1, keep_share=0.1, loss_on_masked_only=True)
SINGLE = (
    *(SpanCorruption(), SpanCorruption(random_roll=True, closing_sentinel=True), Deshuffling(), PrefixLM(), CausalLM()),
    *(
        IidDenoising(),
        IidDenoising(style="sentinel_each"),
        IidDenoising(style="drop"),
        IidDenoising(style="mask"),
        BERT,
    ),
)

settings.register_profile("tasks", deadline=None, max_examples=40)
settings.load_profile("tasks")

lengths_2_to_4096 = st.integers(2, 4096)
seeds = st.integers(0, 2**32 - 1)


def rows(made):
    return zip(made["inputs"], made["targets"], strict=True)


# Lengths


@pytest.mark.parametrize(
    ("inputs", "window", "targets"),
    [(128, 141, 29), (256, 284, 58), (512, 568, 114), (1024, 1137, 229), (2048, 2274, 456)],
)
def test_lengths_are_those_of_t5(inputs, window, targets):
    span_corruption = SpanCorruption()
    assert span_corruption.window({"inputs": inputs, "targets": targets}, VOCABULARY) == window
    assert span_corruption.lengths(window) == {"inputs": inputs, "targets": targets}


@pytest.mark.parametrize(
    ("mean_span", "noise_density", "window", "targets"),
    [(8, 0.15, 588, 100), (3, 0.5, 766, 512), (8, 0.5, 908, 512), (64, 0.15, 600, 92), (64, 0.5, 1006, 512)],
)
def test_lengths_of_other_denoisers_are_those_of_t5(mean_span, noise_density, window, targets):
    denoiser = SpanCorruption(mean_span=mean_span, noise_density=noise_density)
    assert denoiser.window({"inputs": 512, "targets": targets}, VOCABULARY) == window
    assert denoiser.lengths(window)["targets"] == targets


def test_windows_are_t5s_for_every_length_of_inputs():
    windows = [SpanCorruption().window({"inputs": inputs, "targets": 9999}, VOCABULARY) for inputs in range(10, 4097)]
    # Shorter inputs T5 overfills: it forgets there that at least one token is masked.
    assert windows == GOLDEN["window"][SETTINGS.index((0.15, 3.0)), 10 - 3 :].tolist()


@pytest.mark.parametrize("setting", range(len(SETTINGS)), ids=map(str, SETTINGS))
def test_windows_are_the_longest_whose_masks_fit(setting):
    noise_density, mean_span = SETTINGS[setting]
    masked, spans = (GOLDEN[counts][setting].astype(int) for counts in ("masked", "spans"))
    inputs = np.arange(2, 4097) - masked + spans + 1
    denoiser = SpanCorruption(noise_density=noise_density, mean_span=mean_span)
    for length in range(3, 2001, 7):
        longest = np.flatnonzero(inputs <= length)[-1]
        if noise_density == 0.5 and masked[longest] + spans[longest] + 1 > inputs[longest]:
            longest -= 1  # T5's choice
        assert denoiser.window({"inputs": length, "targets": 9999}, VOCABULARY) == longest + 2


@pytest.mark.parametrize("objective", SINGLE, ids=str)
@given(lengths=st.integers(8, 600))
def test_windows_fill_the_first_feature(objective, lengths):
    limits = {"inputs": lengths, "targets": lengths if objective.features == ("targets",) else 10_000}
    window = objective.window(limits, VOCABULARY)
    first = objective.features[0]
    assert objective.lengths(window, VOCABULARY)[first] <= lengths < objective.lengths(window + 1, VOCABULARY)[first]


@pytest.mark.parametrize("objective", SINGLE, ids=str)
@given(length=st.integers(2, 200), n=st.integers(0, 5), seed=seeds)
def test_rows_end_in_eos_and_fit_the_lengths_promised(objective, length, n, seed):
    made = examples(objective, random_tokens(n, length, seed), seed)  # checks widths, features and type
    for feature in set(made) - {"loss_weights"}:
        for row in made[feature]:
            text_of(row)


@pytest.mark.parametrize("objective", SINGLE, ids=str)
def test_same_seed_same_bytes(objective):
    tokens = random_tokens(8, 568)
    first, again, other = (examples(objective, tokens, seed) for seed in (1, 1, 2))
    for feature in first:
        assert first[feature].tobytes() == again[feature].tobytes()
    assert isinstance(objective, CausalLM) or any(first[f].tobytes() != other[f].tobytes() for f in first)


@pytest.mark.parametrize("objective", SINGLE, ids=str)
def test_tokens_of_a_token_store_are_left_as_they_are(objective):
    tokens = random_tokens(4, 50).astype(np.uint16)
    before = tokens.copy()
    tokens.flags.writeable = False
    wide = examples(objective, before.astype(np.int64))
    for feature, array in examples(objective, tokens).items():
        assert (array == wide[feature]).all()


# Span corruption


@given(st.integers(1, 4), lengths_2_to_4096, st.sampled_from(SETTINGS), st.booleans(), st.booleans(), seeds)
def test_span_corruption_can_be_undone(n, length, setting, roll, closing, seed):
    noise_density, mean_span = setting
    objective = SpanCorruption(
        noise_density=noise_density, mean_span=mean_span, random_roll=roll, closing_sentinel=closing
    )
    tokens = random_tokens(n, length, seed)
    assert [rebuild(*row, closing) for row in rows(examples(objective, tokens, seed))] == tokens.tolist()


@given(st.integers(2, 300), st.floats(0.01, 0.99), st.floats(0.5, 70), st.booleans(), seeds)
def test_span_corruption_can_be_undone_at_any_setting(length, noise_density, mean_span, roll, seed):
    objective = SpanCorruption(noise_density=noise_density, mean_span=mean_span, random_roll=roll)
    tokens = random_tokens(2, length, seed)
    assert [rebuild(*row) for row in rows(examples(objective, tokens, seed))] == tokens.tolist()


def test_span_corruption_as_t5_leaves_no_padding_and_no_closing_sentinel():
    made = examples(SpanCorruption(), random_tokens(20, 568))
    assert {feature: array.shape for feature, array in made.items()} == {"inputs": (20, 512), "targets": (20, 114)}
    assert (made["inputs"] != 0).all() and (made["targets"] != 0).all()
    assert (made["inputs"][:, -2] == VOCABULARY.vocab_size - 28).all()
    assert (made["targets"][:, -2] < VOCABULARY.vocab_size - VOCABULARY.extra_ids).all()


# Single tokens


@given(lengths_2_to_4096, st.floats(0.01, 0.99), st.sampled_from(["sentinel", "sentinel_each"]), seeds)
def test_iid_denoising_with_sentinels_can_be_undone(length, noise_density, style, seed):
    objective = IidDenoising(noise_density=noise_density, style=style)
    vocabulary = ToyVocabulary(vocab_size=50_000, extra_ids=5000)
    tokens = random_tokens(2, length, seed, vocabulary)
    made = examples(objective, tokens, seed, vocabulary)
    if style == "sentinel":
        assert [rebuild(*row, vocabulary=vocabulary) for row in rows(made)] == tokens.tolist()
        return
    for row, (inputs, targets) in zip(tokens.tolist(), rows(made), strict=True):
        answers = by_sentinel(text_of(targets), vocabulary)
        assert answers.pop(None) == [] and {len(answer) for answer in answers.values()} == {1}
        assert list(answers) == vocabulary.sentinels[: len(answers)]
        assert [answers[token][0] if token in answers else token for token in text_of(inputs)] == row


@given(st.integers(2, 500), st.floats(0.01, 0.99), seeds)
def test_dropped_tokens_are_the_targets_in_order(length, noise_density, seed):
    tokens = np.tile(np.arange(3, length + 3), (2, 1))  # so that a token's value is its place
    for inputs, targets in rows(examples(IidDenoising(noise_density=noise_density, style="drop"), tokens, seed)):
        inputs, targets = text_of(inputs), text_of(targets)
        assert inputs == sorted(inputs) and targets == sorted(targets)
        assert sorted(inputs + targets) == tokens[0].tolist()


def test_the_number_of_masked_tokens_is_the_rounded_share():
    for noise_density, masked in [(0.1, 51), (0.15, 77), (0.25, 128), (0.5, 256)]:
        made = examples(IidDenoising(noise_density=noise_density, style="drop"), random_tokens(50, 511))
        assert made["targets"].shape == (50, masked + 1) and (made["targets"] != 0).all()


def test_mask_style_has_the_whole_text_as_targets():
    tokens = random_tokens(100, 200)
    made = examples(IidDenoising(style="mask"), tokens)
    inputs, mask_id = made["inputs"][:, :-1], VOCABULARY.vocab_size - 1
    assert (made["targets"][:, :-1] == tokens).all()
    assert ((inputs == tokens) | (inputs == mask_id)).all()
    assert ((inputs == mask_id).sum(axis=1) == 30).all()


def test_berts_loss_is_on_the_masked_tokens_alone():
    tokens = random_tokens(2000, 200)
    made = examples(BERT, tokens)
    carries_loss, inputs = made["loss_weights"][:, :-1] == 1, made["inputs"][:, :-1]
    assert set(np.unique(made["loss_weights"])) == {0, 1} and not made["loss_weights"][:, -1].any()
    assert (carries_loss.sum(axis=1) == 30).all()
    assert (inputs[~carries_loss] == tokens[~carries_loss]).all()
    hidden, now = tokens[carries_loss], inputs[carries_loss]
    masked, kept = now == VOCABULARY.vocab_size - 1, now == hidden
    random = now[~masked & ~kept]
    assert [masked.mean(), kept.mean(), len(random) / len(now)] == pytest.approx([0.8, 0.1, 0.1], abs=0.006)
    assert random.min() >= 3 and random.max() < VOCABULARY.vocab_size - VOCABULARY.extra_ids
    assert random.mean() == pytest.approx((VOCABULARY.vocab_size - VOCABULARY.extra_ids + 3) / 2, rel=0.03)


def test_t5s_bert_style_has_loss_everywhere():
    made = examples(IidDenoising(style="mask", random_share=0.1), random_tokens(500, 200))
    changed = made["inputs"] != made["targets"]
    assert (made["inputs"][changed] == VOCABULARY.vocab_size - 1).mean() == pytest.approx(0.9, abs=0.01)
    assert changed.mean() == pytest.approx(30 / 201, rel=0.01)


# Order and continuation


@given(st.integers(2, 300), seeds)
def test_deshuffling_restores_the_order(length, seed):
    tokens = random_tokens(3, length, seed)
    made = examples(Deshuffling(), tokens, seed)
    assert (made["targets"][:, :-1] == tokens).all()
    assert (np.sort(made["inputs"][:, :-1], axis=1) == np.sort(tokens, axis=1)).all()


@given(st.integers(2, 300), seeds)
def test_prefix_lm_continues_the_inputs(length, seed):
    tokens = random_tokens(3, length, seed)
    made = examples(PrefixLM(), tokens, seed)
    parts = [(text_of(inputs), text_of(targets)) for inputs, targets in rows(made)]
    assert [inputs + targets for inputs, targets in parts] == tokens.tolist()
    assert all(inputs and targets for inputs, targets in parts)


def test_prefix_lm_cuts_uniformly():
    made = examples(PrefixLM(), random_tokens(20_000, 11))
    counts = np.bincount(np.count_nonzero(made["inputs"], axis=1) - 1, minlength=11)
    assert counts[0] == 0 and len(counts) == 11
    assert (np.abs(counts[1:] - 2000) < 5 * np.sqrt(2000 * 0.9)).all()


def test_causal_lm_is_the_text():
    tokens = random_tokens(3, 20)
    assert examples(CausalLM(), tokens)["targets"].tolist() == [[*row, EOS_ID] for row in tokens.tolist()]
    assert CausalLM().window({"targets": 21}, VOCABULARY) == 20


# Refusals


@pytest.mark.parametrize(
    ("objective", "length", "needed"),
    [
        (SpanCorruption(), 2274, 114),
        (SpanCorruption(closing_sentinel=True), 2274, 115),
        (SpanCorruption(random_roll=True), 2274, 115),
        (SpanCorruption(noise_density=0.5), 766, 128),
        (IidDenoising(noise_density=0.25), 511, 128),
        (IidDenoising(noise_density=0.4, style="sentinel_each"), 511, 204),
        (IidDenoising(style="mask"), 511, 1),
    ],
    ids=str,
)
def test_sentinels_never_reach_real_ids(objective, length, needed):
    few, enough = (ToyVocabulary(40_000, extra_ids) for extra_ids in (needed - 1, needed))
    message = f"{type(objective).__name__} of windows of {length} tokens needs {needed} extra ids, .* has {needed - 1}"
    lengths = objective.lengths(length)
    with pytest.raises(UserError, match=message + rf"\. Write EXTRA_IDS = {needed}, or"):
        examples(objective, random_tokens(2, length), vocabulary=few)
    with pytest.raises(UserError, match="extra ids"):
        objective.window(lengths, few)
    made = examples(objective, random_tokens(200, length, vocabulary=enough), vocabulary=enough)
    assert objective.window(lengths, enough) >= length
    if needed > 1 and objective != IidDenoising(noise_density=0.25):  # whose rows hardly ever need them all
        assert max(array.max() for array in made.values()) == 40_000 - 1
        assert min(array[array >= 40_000 - needed].min() for array in made.values()) == 40_000 - needed


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: SpanCorruption(noise_density=1.5),
            r"^SpanCorruption\.noise_density must lie .*found 1\.5\. T5 uses 0\.15",
        ),
        (lambda: SpanCorruption(mean_span=0), r"^SpanCorruption\.mean_span must be positive; found 0\. T5 uses 3\.0"),
        (lambda: IidDenoising(noise_density=0.0), r"^IidDenoising\.noise_density must lie between 0 and 1, both"),
        (lambda: IidDenoising(style="bert"), r"^IidDenoising\.style must be 'sentinel', .* found 'bert'"),
        (
            lambda: IidDenoising(style="mask", keep_share=2),
            r"^IidDenoising\.keep_share must lie between 0 and 1; found 2",
        ),
        (
            lambda: IidDenoising(random_share=0.1),
            r"^IidDenoising\.random_share is for style 'mask'; found .*'sentinel'",
        ),
        (
            lambda: IidDenoising(style="drop", loss_on_masked_only=True),
            r"^IidDenoising\.loss_on_masked_only is for style",
        ),
        (
            lambda: IidDenoising(style="mask", random_share=0.6, keep_share=0.6),
            r"^IidDenoising\.random_share and keep_sh",
        ),
        (
            lambda: SpanCorruption().window({"targets": 9}, VOCABULARY),
            r"makes inputs and targets; .* has no length for inp",
        ),
        (
            lambda: CausalLM().window({"inputs": 9}, VOCABULARY),
            r"no length for targets\. Write for example \{'targets'",
        ),
        (
            lambda: SpanCorruption().window({"inputs": 2, "targets": 9}, VOCABULARY),
            r"needs inputs of at least 3 .*found 2",
        ),
        (
            lambda: SpanCorruption().window({"inputs": 128, "targets": 28}, VOCABULARY),
            r"targets of up to 29 tokens a row from windows of 141; found room for 28\. Write 'targets': 29 in",
        ),
        (lambda: examples(PrefixLM(), random_tokens(3, 1)), "PrefixLM needs rows of at least 2 tokens; found 1"),
    ],
)
def test_refusals_say_what_to_write(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_objectives_need_neither_jax_nor_tensorflow():
    code = "import sys, t5x_mini.tasks.objectives; print(sorted({'jax', 'tensorflow', 'seqio'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
