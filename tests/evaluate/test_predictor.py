"""Tests of t5x_mini/evaluate/predictor.py: batches of few shapes, and nothing of it to be seen in the answers."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_runs

from t5x_mini.errors import UserError
from t5x_mini.evaluate import sentinels
from t5x_mini.evaluate.id_predictor import Score, _answer
from t5x_mini.evaluate.predictor import Predictor
from t5x_mini.feed.convert import convert
from t5x_mini.model import decoding, scoring, transformer
from t5x_mini.model.config import DecodingConfig
from t5x_mini.parallel.config import PartitioningConfig
from t5x_mini.parallel.partitioner import make_partitioner
from t5x_mini.tasks.vocabularies import ByteVocabulary

VOCABULARY = ByteVocabulary(10)
TEXTS = ["a house", "b", "<extra_id_0> and a longer text, of 40 bytes or so", "", "the end"]
LENGTH = 8
SHORT = DecodingConfig(max_length=LENGTH)


def config_of(architecture="encoder_decoder"):
    return tiny.model(architecture, vocab_size=384, num_encoder_layers=1, num_decoder_layers=1)


def predictor(architecture="encoder_decoder", partitioning=None, *, vocabulary=VOCABULARY, **options):
    """On one device unless `partitioning` says otherwise."""
    devices = None if partitioning else jax.devices()[:1]
    partitioner = make_partitioner(partitioning or PartitioningConfig(), devices)
    config = config_of(architecture)
    return Predictor(tiny.params(config), config, vocabulary, partitioner, **options)


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory):
    with tiny_runs.quick_compilation(tmp_path_factory.mktemp("compiled")):
        yield


@pytest.fixture(scope="module")
def model():
    return predictor()


def ids_of(texts, end=(1,)):
    return [[*VOCABULARY.encode(text), *end] for text in texts]


def decoded_alone(ids, architecture="encoder_decoder", how=SHORT, **given):
    """Each row by itself, without padding."""
    config = config_of(architecture)
    decode = jax.jit(lambda inputs: decoding.decode(tiny.params(config), inputs, config, how, length=LENGTH, **given))
    return [decode(jnp.asarray([row], jnp.int32)) for row in ids]


def test_answers_are_those_of_each_row_alone_in_the_rows_order(model):
    ids = ids_of(["a house", "b", "a longer text", "the end"])
    answers = model.generate_ids(ids, SHORT, batch_size=3)  # a ragged last batch
    for answer, alone in zip(answers, decoded_alone(ids), strict=True):
        (tokens,) = alone.tokens[0].tolist()
        assert answer.ids == [[token for token in tokens if token]]
        np.testing.assert_allclose(answer.scores, alone.scores[0], rtol=1e-5)


def test_a_batch_of_one_host_may_be_ragged_or_empty(model):
    ids = ids_of(["a house", "b"])
    two = model.decode(ids, SHORT, rows=4, input_length=12)
    assert [answer.ids for answer in two] == [answer.ids for answer in model.generate_ids(ids, SHORT)]
    assert model.decode([], SHORT, rows=4, input_length=12) == []


def test_few_programs_are_compiled():
    model = predictor()
    for count, length in itertools.product((3, 4), (9, 10, 11)):
        model.generate_ids([[5] * length] * count, SHORT)
    (program,) = model._programs.values()
    assert program._jitted._cache_size() == 1


def test_texts_go_in_and_come_out(model):
    answers = model.generate(["a house", "b"], max_length=LENGTH)
    ids = [answer.ids[0] for answer in model.generate_ids(ids_of(["a house", "b"]), SHORT)]
    assert answers == [sentinels.decode(VOCABULARY, row) for row in ids]
    assert model.generate("a house", max_length=LENGTH) == answers[:1]


def test_several_answers_and_beams(model):
    one = model.generate(TEXTS[:2], method="beam", max_length=LENGTH)
    four = model.generate(TEXTS[:2], method="beam", num_decodes=4, max_length=LENGTH)
    assert [len(answers) for answers in four] == [4, 4]
    assert one == [answers[0] for answers in four]


def test_places_that_a_beam_search_found_no_answer_for_are_left_out(model):
    how = DecodingConfig(method="beam", num_decodes=2, max_length=LENGTH)
    ended, open_ = model.generate_ids(ids_of(TEXTS[:2]), how, forced=[[5, 1], [5]])
    assert (ended.ids, ended.scores) == ([[5, 1]], [0.0])
    assert (len(open_.ids), len(open_.scores)) == (2, 2)


def test_one_answer_is_there_even_if_none_was_found():
    nothing = _answer(np.zeros((2, 3), np.int32), np.full(2, -1e7, np.float32))
    assert (nothing.ids, nothing.scores) == ([[]], [-1e7])
    empty = _answer(np.zeros((2, 3), np.int32), np.array([-0.5, -0.5], np.float32))  # padding alone was chosen
    assert empty.scores == [-0.5, -0.5]


def test_samples_depend_on_the_seed_and_the_temperature_of_their_row(model):
    def sample(**options):
        return model.generate(TEXTS[:2], method="sample", max_length=LENGTH, **options)

    assert sample(seed=1) == sample(seed=1) != sample(seed=2)
    greedy = model.generate(TEXTS[:2], max_length=LENGTH)
    mixed = sample(temperature=[0.0, 3.0])
    assert mixed[0] == greedy[0]
    assert mixed[1] != greedy[1]
    assert sample(temperature=0.0) == greedy
    (program,) = [program for key, program in model._programs.items() if key[1:2] and key[1].method == "sample"]
    assert program._jitted._cache_size() == 1


def test_batches_draw_differently(model):
    ids, how = ids_of(["a house"]), DecodingConfig(method="sample", max_length=LENGTH)
    draw = lambda batch: model.decode(ids, how, rows=1, input_length=8, seed_offset=batch)  # noqa: E731
    assert draw(0) == draw(0) != draw(1)


def test_answers_begin_as_forced(model):
    one, other = model.generate(TEXTS[:2], forced=["ab", "c"], max_length=LENGTH)
    assert one.startswith("ab") and other.startswith("c")
    assert all(text.startswith("xy") for text in model.generate(TEXTS[:2], forced="xy", max_length=LENGTH))


def test_a_callback_changes_the_logits(model):
    def only_a(logits, tokens, place):
        return jnp.where(jnp.arange(logits.shape[-1]) == VOCABULARY.encode("a")[0], logits, -jnp.inf)

    assert model.generate(TEXTS[:2], max_length=4, logit_callback=only_a) == ["aaaa", "aaaa"]


@pytest.mark.parametrize("architecture", ["encoder_decoder", "prefix_lm", "causal_lm"])
def test_scores_are_those_of_the_features_that_training_makes(architecture):
    model = predictor(architecture, feature_lengths={"inputs": 32, "targets": LENGTH})
    inputs, targets = ["a house", "the end"], ["one", "two"]
    scores = model.score(inputs, targets)
    for score, source, target in zip(scores, ids_of(inputs), ids_of(targets), strict=True):
        examples = {"inputs": np.asarray([source]), "targets": np.asarray([target])}
        batch = convert(examples, architecture, {"inputs": len(source), "targets": len(target)})
        score_ = jax.jit(functools.partial(scoring.score, config=model.config))
        expected = score_(tiny.params(model.config), batch)
        assert score.ids == target
        assert len(score.log_probabilities) == len(target)
        np.testing.assert_allclose(score.total, float(expected.sum()), rtol=1e-4)


@pytest.mark.parametrize("partitioning", [None, PartitioningConfig(data=2, fsdp=2, model=2)])
def test_choices_are_scored_as_targets_are(model, partitioning):
    split = predictor(partitioning=partitioning) if partitioning else model
    inputs, labels = ids_of(TEXTS), ids_of(["no", "yes", "perhaps"])
    choices = [labels[: 2 + row % 2] for row in range(len(TEXTS))]
    found = split.score_choices(inputs, choices, batch_size=2)
    assert [len(row) for row in found] == [2, 3, 2, 3, 2]
    for row, ids, targets in zip(found, inputs, choices, strict=True):
        alone = model.score_ids({"inputs": [ids] * len(targets), "targets": targets})
        np.testing.assert_allclose(row, [score.total for score in alone], rtol=1e-5)


def test_other_parameters_need_no_other_program(model):
    config = config_of()
    other = predictor()
    first = other.score_choices(ids_of(["a"]), [ids_of(["no", "yes"])])
    other.params = tiny.params(config, 1)
    second = other.score_choices(ids_of(["a"]), [ids_of(["no", "yes"])])
    assert first == model.score_choices(ids_of(["a"]), [ids_of(["no", "yes"])]) != second
    (program,) = other._programs.values()
    assert program._jitted._cache_size() == 1
    laid_out = other.params
    other.params = laid_out
    assert all(
        array.unsafe_buffer_pointer() == laid_out[name].unsafe_buffer_pointer() for name, array in other.params.items()
    )


def test_a_greedy_answer_scores_what_decoding_says(model):
    def no_padding(logits, tokens, place):
        return logits.at[:, 0].set(-jnp.inf)

    ids = ids_of(["a house", "the end"])
    answers = model.generate_ids(ids, SHORT, logit_callback=no_padding)
    scores = model.score_ids({"inputs": ids, "targets": [answer.ids[0] for answer in answers]})
    np.testing.assert_allclose([score.total for score in scores], [answer.scores[0] for answer in answers], rtol=1e-4)


def test_a_language_model_without_inputs_goes_on_from_its_prompt():
    model = predictor("causal_lm", feature_lengths={"targets": 24})
    assert (model.input_length, model.max_length, model.ends_inputs) == (24, 24, False)
    assert model.inputs(["ab"]) == [VOCABULARY.encode("ab")]
    (alone,) = decoded_alone(ids_of(["ab"], end=()), "causal_lm")
    (answer,) = model.generate_ids(model.inputs(["ab"]), SHORT)
    assert answer.ids[0] == [token for token in alone.tokens[0, 0].tolist() if token]
    (score,) = model.score(None, "abc")
    assert score.ids == VOCABULARY.encode("abc")
    assert model.score(None, "")[0] == Score([], [])


def test_encode_gives_a_vector_for_each_token(model):
    short, long = model.encode(["ab", "a longer text"])
    assert (short.shape, long.shape, short.dtype) == ((3, 16), (14, 16), np.float32)
    np.testing.assert_allclose(model.encode("ab")[0], short, rtol=1e-5, atol=1e-6)


def test_eight_devices_answer_as_one_does(model):
    split = predictor(partitioning=PartitioningConfig(data=2, fsdp=2, model=2))
    how = DecodingConfig(method="beam", num_decodes=2, max_length=LENGTH)
    for one, other in zip(model.generate_ids(ids_of(TEXTS), how), split.generate_ids(ids_of(TEXTS), how), strict=True):
        assert one.ids == other.ids
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-5)
    for one, other in zip(model.encode(TEXTS), split.encode(TEXTS), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    for one, other in zip(model.score(TEXTS, TEXTS), split.score(TEXTS, TEXTS), strict=True):
        assert one.total == pytest.approx(other.total, rel=1e-5)


def test_a_run_under_pmap_answers_too(model):
    pmap = predictor(partitioning=PartitioningConfig(kind="pmap"))
    assert pmap.generate(TEXTS[:2], max_length=LENGTH) == model.generate(TEXTS[:2], max_length=LENGTH)


def test_long_inputs_are_cut_as_in_training_and_counted():
    model = predictor(feature_lengths={"inputs": 4, "targets": 5})
    with pytest.warns(UserWarning, match="1 of 2 inputs are longer than 4 tokens and were cut; the longest has 7"):
        short, long = model.inputs(["abc", "abcdef"])
    assert short == long == [*VOCABULARY.encode("abc"), 1]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: model.generate(["a", "b"], method="sample", temperature=[1.0]), "1 temperature for 2 texts"),
        (lambda model: model.generate(["a", "b"], forced=["a"]), "1 forced for 2 texts"),
        (lambda model: model.generate(["a"], temperature=[0.5]), "the decoding method 'sample'"),
        (lambda model: model.generate(["a"], forced="abcdefghi", max_length=4), "can't begin with 9 forced ones"),
        (lambda model: model.generate(["a", "b"], method="sample", temperature=[1, -0.5]), r"temperature\[1\] is -0.5"),
        (lambda model: model.generate(["a"], method="sample", temperature=[np.nan]), "is nan: write a number"),
        (lambda model: model.generate(["a"], method="sample", temperature=[np.inf]), "is inf: write a number"),
        (lambda model: model.generate(["a"], method="sample", temperature=["1"]), "is '1': write a number"),
        (lambda model: model.generate(["a"], method="sample", temperature=np.inf), "is inf: write a value"),
        (lambda model: model.generate(["a"], batch_size=0), "batch_size is 0: write a whole number above 0"),
        (lambda model: model.encode(["a"], batch_size=-1), "batch_size is -1"),
        (lambda model: model.generate(None), "texts is None, of type NoneType: write a string or a list of strings"),
        (lambda model: model.generate(b"a"), "texts is b'a', of type bytes"),
        (lambda model: model.generate(["a", 5]), r"texts\[1\] is 5, of type int: write a string"),
        (lambda model: model.encode(["a", "\udce9"]), r"texts\[1\] is not UTF-8: it has the byte 0xe9"),
        (lambda model: model.score(["a"], [None]), r"targets\[0\] is None"),
        (lambda model: model.score([1], ["a"]), r"inputs\[0\] is 1"),
        (lambda model: model.generate(["a"], forced=[3]), r"forced\[0\] is 3"),
        (lambda model: model.generate("a", min_length=129), "min_length is 129, and max_length 128"),
        (lambda model: model.generate("a", min_length=9, max_length=8), "min_length is 9 and max_length 8"),
        (lambda model: model.score(["a"], ["b", "c"]), "1 inputs for 2 texts"),
        (lambda model: model.score(None, ["b"]), "scores targets given inputs"),
        (lambda model: predictor(vocabulary=None).generate("a"), "doesn't say which vocabulary"),
    ],
)
def test_mistakes_are_told(model, call, words):
    with pytest.raises(UserError, match=words):
        call(model)


def test_training_settings_do_not_count():
    trained = dataclasses.replace(config_of(), dropout_rate=0.5, remat="full", scan_layers=False)
    assert Predictor(tiny.params(trained), trained, VOCABULARY).config == config_of()
    assert transformer.param_shapes(trained) == transformer.param_shapes(config_of())
