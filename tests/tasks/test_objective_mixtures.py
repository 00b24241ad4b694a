import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_checks import EOS_ID, VOCABULARY, ToyVocabulary, examples, random_tokens, rebuild, text_of

from t5x_mini import config, resources
from t5x_mini.errors import UserError
from t5x_mini.tasks.objective_mixtures import OBJECTIVES, UL2, UL2_DENOISERS, ObjectiveMixture, Prompted
from t5x_mini.tasks.objectives import CausalLM, IidDenoising, PrefixLM, SpanCorruption

BERT = IidDenoising(style="mask", random_share=0.1, keep_share=0.1, loss_on_masked_only=True)
MODES = {mode: VOCABULARY.encode(mode) for mode in ("[NLU]", "[S2S]", "[NLG]")}
EVERY_KIND = ObjectiveMixture(objectives=(SpanCorruption(), CausalLM(), BERT, UL2()), rates=(0.4, 0.3, 0.2, 0.1))

settings.register_profile("tasks", deadline=None, max_examples=40)
settings.load_profile("tasks")

seeds = st.integers(0, 2**32 - 1)


def rows(made):
    return list(zip(made["inputs"], made["targets"], strict=True))


def undo_ul2(inputs, targets):
    """(mode, window): what an example of UL2 was made of."""
    inputs = text_of(inputs)
    mode = next(mode for mode, ids in MODES.items() if inputs[: len(ids)] == ids)
    inputs = inputs[len(MODES[mode]) :]
    if mode == "[S2S]":
        return mode, inputs + text_of(targets)
    return mode, rebuild(np.array([*inputs, EOS_ID]), targets)


# Mixtures


def test_each_objective_gets_its_share_of_every_batch():
    mixture = ObjectiveMixture(objectives=(CausalLM(), PrefixLM(), SpanCorruption()), rates=(1, 2, 7))
    made = examples(mixture, random_tokens(1000, 50))
    inputs = np.count_nonzero(made["inputs"], axis=1)
    causal = inputs == 1
    spans = (made["inputs"] >= VOCABULARY.vocab_size - VOCABULARY.extra_ids).any(axis=1)
    assert (causal.sum(), spans.sum()) == (100, 700)
    assert not (causal & spans).any()


def test_rates_hold_on_average_for_a_single_row():
    mixture = ObjectiveMixture(objectives=(CausalLM(), PrefixLM()), rates=(0.3, 0.7))
    tokens = random_tokens(1, 10)
    causal = [examples(mixture, tokens, seed)["inputs"][0, 1] == 0 for seed in range(2000)]
    # A prefix of one token and its EOS is longer than CausalLM's EOS alone.
    assert np.mean(causal) == pytest.approx(0.3, abs=0.04)


def test_which_row_gets_which_objective_is_random():
    mixture = ObjectiveMixture(objectives=(CausalLM(), PrefixLM()))
    causal = np.stack([examples(mixture, random_tokens(10, 10), seed)["inputs"][:, 1] == 0 for seed in range(400)])
    assert (causal.sum(axis=1) == 5).all()
    assert (np.abs(causal.mean(axis=0) - 0.5) < 0.13).all()


def test_objectives_without_inputs_or_weights_are_filled_in():
    mixture = ObjectiveMixture(objectives=(CausalLM(), BERT))
    assert mixture.features == ("inputs", "targets", "loss_weights")
    made = examples(mixture, random_tokens(20, 40))
    causal = np.count_nonzero(made["inputs"], axis=1) == 1
    assert causal.sum() == 10
    assert (made["inputs"][causal, 0] == EOS_ID).all()
    assert (made["loss_weights"][causal] == (made["targets"][causal] != 0)).all()
    assert (made["loss_weights"][~causal].sum(axis=1) == 6).all()


@given(st.integers(0, 30), st.integers(2, 200), seeds)
def test_every_example_of_a_mixture_fits_and_ends_in_eos(n, length, seed):
    made = examples(EVERY_KIND, random_tokens(n, length, seed), seed)
    for inputs, targets in rows(made):
        text_of(inputs), text_of(targets)


def test_one_window_fits_all_objectives():
    lengths = {"inputs": 512, "targets": 512}
    single = [SpanCorruption(), SpanCorruption(noise_density=0.5, mean_span=64.0), PrefixLM()]
    windows = [objective.window(lengths, VOCABULARY) for objective in single]
    assert windows == [568, 1006, 512]
    assert ObjectiveMixture(objectives=tuple(single)).window(lengths, VOCABULARY) == 512


def test_an_objective_of_rate_0_takes_no_part():
    mixture = ObjectiveMixture(objectives=(SpanCorruption(), PrefixLM(), BERT), rates=(1.0, 0.0, 0.0))
    tokens = random_tokens(6, 568)
    assert mixture.window({"inputs": 512, "targets": 114}, VOCABULARY) == 568
    assert [rebuild(*row) for row in rows(examples(mixture, tokens))] == tokens.tolist()


@given(
    st.lists(st.sampled_from([0.05, 0.3, 1.0, 2.0]), min_size=3, max_size=3),
    st.integers(1, 9),
    st.integers(2, 60),
    seeds,
)
def test_any_group_of_examples_fits_its_row(rates, examples_per_row, length, seed):
    half = SpanCorruption(noise_density=0.5)
    mixture = ObjectiveMixture(
        objectives=(SpanCorruption(), half, PrefixLM()), rates=tuple(rates), examples_per_row=examples_per_row
    )
    room = mixture.row_lengths(length, VOCABULARY)
    assert mixture.window(room | {"targets": 9999}, VOCABULARY) >= length
    made = examples(mixture, random_tokens(10 * examples_per_row, length, seed), seed)
    for feature, array in made.items():
        taken = np.count_nonzero(array, axis=1).reshape(10, examples_per_row).sum(axis=1)
        assert taken.max() <= room[feature]


# UL2


def test_ul2s_denoisers_are_those_of_its_table():
    table = [
        (kind, getattr(one, "mean_span", None), getattr(one, "noise_density", None)) for kind, one in UL2_DENOISERS
    ]
    extreme = [("X", 3.0, 0.5), ("X", 8.0, 0.5), ("X", 64.0, 0.15), ("X", 64.0, 0.5)]
    assert table == [("R", 3.0, 0.15), ("R", 8.0, 0.15), ("S", None, None), *extreme]


@given(st.integers(2, 600), st.booleans(), seeds)
def test_ul2_can_be_undone_and_trims_nothing(length, roll, seed):
    tokens = random_tokens(7, length, seed)
    undone = [undo_ul2(*row) for row in rows(examples(UL2(random_roll=roll), tokens, seed))]
    assert [window for _, window in undone] == tokens.tolist()
    assert sorted(mode for mode, _ in undone) == ["[NLG]"] * 4 + ["[NLU]"] * 2 + ["[S2S]"]


def test_ul2_keeps_room_for_its_mode_token():
    lengths = {"inputs": 512, "targets": 512}
    assert UL2().window(lengths, VOCABULARY) == 512 - len("[S2S]")
    assert UL2(mode_tokens=None).window(lengths, VOCABULARY) == 512
    made = examples(UL2(), random_tokens(700, 507))
    longest = np.count_nonzero(made["inputs"], axis=1).max()
    assert 500 < longest <= 512


def test_ul2_follows_its_rates():
    only = UL2(rates=(0, 0, 1, 0, 0, 0, 3))
    modes = [undo_ul2(*row)[0] for row in rows(examples(only, random_tokens(40, 60)))]
    assert (modes.count("[S2S]"), modes.count("[NLG]")) == (10, 30)


def test_ul2_without_modes_has_none():
    tokens = random_tokens(14, 100)
    made = examples(UL2(mode_tokens=None, rates=(1, 1, 0, 1, 1, 1, 1)), tokens)
    assert [rebuild(*row) for row in rows(made)] == tokens.tolist()


def test_seven_examples_a_row_leave_little_padding():
    packed = UL2(examples_per_row=7)
    room = packed.row_lengths(256, VOCABULARY)
    made = examples(packed, random_tokens(700, 256))
    fill = {feature: np.count_nonzero(array) / (100 * room[feature]) for feature, array in made.items()}
    assert fill["inputs"] > 0.9 and fill["targets"] > 0.83
    alone = UL2().row_lengths(256, VOCABULARY)
    assert sum(np.count_nonzero(array) for array in made.values()) < 0.56 * 700 * sum(alone.values())


def test_a_prompt_stands_before_the_inputs():
    made = examples(Prompted(objective=PrefixLM(), prompt="ab"), random_tokens(5, 20))
    assert (made["inputs"][:, :2] == VOCABULARY.encode("ab")).all()
    assert Prompted(objective=PrefixLM(), prompt="ab").lengths(20, VOCABULARY) == {"inputs": 22, "targets": 20}


# All of them


@pytest.mark.parametrize("objective", [EVERY_KIND, UL2(), UL2(examples_per_row=7)], ids=["mixture", "ul2", "grouped"])
def test_same_seed_same_bytes(objective):
    tokens = random_tokens(21, 300)
    first, again, other = (examples(objective, tokens, seed) for seed in (1, 1, 2))
    for feature in first:
        assert first[feature].tobytes() == again[feature].tobytes()
        assert first[feature].tobytes() != other[feature].tobytes()


@pytest.mark.parametrize("objective", [SpanCorruption(), BERT, PrefixLM(), EVERY_KIND, UL2()], ids=repr)
def test_objectives_are_plain_data(objective):
    assert pickle.loads(pickle.dumps(objective)) == objective
    assert hash(objective) == hash(dataclasses.replace(objective))
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.features = ()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ObjectiveMixture(objectives=()), r"^ObjectiveMixture\.objectives is empty"),
        (lambda: ObjectiveMixture(objectives=(BERT,), rates=(1, 2)), r"^ObjectiveMixture\.rates must be 1 numbers"),
        (lambda: UL2(rates=(1.0, -1.0, 1, 1, 1, 1, 1)), r"^UL2\.rates must be 7 numbers, for the denoisers R, R, S"),
        (lambda: Prompted(objective=CausalLM(), prompt="a"), r"^Prompted\.objective must make inputs .* CausalLM"),
        (lambda: UL2(rates=(0,) * 7), r"^UL2\.rates .* not all 0"),
        (lambda: UL2(examples_per_row=0), r"^UL2\.examples_per_row must be 1 or more; found 0"),
        (lambda: UL2(mode_tokens=("[R]", "[S]")), r"^UL2\.mode_tokens must be three different texts.*found \('\[R\]'"),
        (lambda: UL2().window({"inputs": 512, "targets": 114}, VOCABULARY), r"UL2 makes targets of up to 507 .* 114\."),
        (
            lambda: UL2().window({"inputs": 512, "targets": 512}, ToyVocabulary(32_028, 28)),
            r"UL2 of windows of 507 tokens needs 85 extra ids, .* has 28\. Write EXTRA_IDS = 85",
        ),
    ],
)  # fmt: skip
def test_refusals_say_what_to_write(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_mode_tokens_that_the_vocabulary_cannot_tell_apart_are_refused():
    class Unknown(ToyVocabulary):
        def encode(self, text):
            return [2]

    with pytest.raises(UserError, match=r"UL2\.mode_tokens .* are not told apart by the vocabulary"):
        UL2().window({"inputs": 512, "targets": 512}, Unknown())


# Gin


ABLATIONS = sorted(path.stem for path in (resources.gin_root() / "tasks" / "ablations").glob("*.gin"))
GRID = {
    **{f"span_{mean}": SpanCorruption(mean_span=float(mean)) for mean in (2, 3, 5, 10)},
    **{f"iid_{rate}": IidDenoising(noise_density=rate / 100) for rate in (10, 15, 25, 50)},
    "drop": IidDenoising(style="drop"),
    "mass_style": IidDenoising(style="mask"),
    "bert_style": IidDenoising(style="mask", random_share=0.1),
}


def feed_of(name):
    return config.load(["gin/quickstart.gin", f"gin/tasks/{name}.gin"]).feed


def test_every_row_of_t5s_grid_has_a_file():
    assert ABLATIONS == sorted([*GRID, "deshuffling", "prefix_lm"])


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_is_what_it_says_and_its_lengths_are_exact(name):
    feed = feed_of(f"ablations/{name}")
    assert feed.objective == GRID.get(name, feed.objective)
    assert type(feed.objective) in OBJECTIVES
    vocabulary = ToyVocabulary(8100, feed.extra_ids)
    window = feed.objective.window(feed.task_feature_lengths, vocabulary)
    lengths = feed.objective.lengths(window, vocabulary)
    assert lengths["targets"] == feed.task_feature_lengths["targets"]
    header = (resources.gin_root() / "tasks" / "ablations" / f"{name}.gin").read_text()
    assert f"{window} tokens of text" in header and f"targets of {lengths['targets']}" in header.replace("up to ", "")


def test_the_grid_is_also_right_for_t5s_own_lengths():
    for name in [name for name in ABLATIONS if name in GRID and "_style" not in name]:
        window = GRID[name].window({"inputs": 512, "targets": 512}, VOCABULARY)
        targets = GRID[name].lengths(window)["targets"]
        header = (resources.gin_root() / "tasks" / "ablations" / f"{name}.gin").read_text()
        assert f"For inputs of 512: {window} and {targets}." in header or f"512: up to {targets}." in header, name


def test_ul2s_file_fills_its_rows():
    feed = feed_of("ul2")
    assert feed.pack and feed.objective == UL2(examples_per_row=7)
    pieces = ToyVocabulary(8100, feed.extra_ids)  # five ids a mode token, as many as the shipped vocabulary takes
    assert feed.objective.window(feed.task_feature_lengths, pieces) == 128
