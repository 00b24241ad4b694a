"""Which feed is made of which configuration, and what is refused before a batch is read."""

import dataclasses

import pytest

from t5x_mini.errors import UserError
from t5x_mini.feed import feeds
from t5x_mini.feed.config import FeedConfig
from t5x_mini.feed.seqio_feed import SeqioFeed
from t5x_mini.feed.token_feed import TokenFeed
from t5x_mini.tasks import vocabularies
from t5x_mini.tasks.definitions import Mixture, PretrainingTask, TextToTextTask
from t5x_mini.tasks.objective_mixtures import ObjectiveMixture
from t5x_mini.tasks.objectives import CausalLM, SpanCorruption
from t5x_mini.tokens.tokenize import tokenize

BOTH = {"inputs": 24, "targets": 10}


def config_of(folder, **fields):
    text = {split: str(folder / f"text_{split}.txt") for split in ("train", "validation")}
    pairs = {split: str(folder / f"pairs_{split}.tsv") for split in ("train", "validation")}
    tasks = (
        PretrainingTask(name="text", files=text),
        TextToTextTask(name="pairs", files=pairs, inputs="say {a}", targets="{b}"),
        Mixture(name="both", tasks=("text", "pairs")),
        Mixture(name="weighted", tasks={"text": 3.0, "pairs": 1.0}),
        PretrainingTask(name="untouched", files=text),
        Mixture(name="with_untouched", tasks=("text", "untouched")),
    )
    fields = (
        dict(
            mixture_or_task_name="text",
            tasks=tasks,
            vocabulary="bytes",
            task_feature_lengths=BOTH,
            batch_size=4,
            data_feed="tokens",
            tokens_dir=str(folder / "tokens"),
        )
        | fields
    )
    return FeedConfig(**fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Text of 60 lines and 20 pairs, tokenised."""
    folder = tmp_path_factory.mktemp("feeds")
    for split, count in (("train", 60), ("validation", 12)):
        (folder / f"text_{split}.txt").write_text("\n".join(f"line {n} of the {split} text" for n in range(count)))
        rows = [f"{n}\t{n * n}" for n in range(count // 3)]
        (folder / f"pairs_{split}.tsv").write_text("\n".join(["a\tb", *rows]))
    tokenize(config_of(folder), "both", workers=1)
    return folder


def test_the_feed_is_the_one_that_is_named(folder):
    assert isinstance(feeds.make_feed(config_of(folder), "encoder_decoder"), TokenFeed)
    assert isinstance(feeds.make_feed(config_of(folder, data_feed="seqio"), "encoder_decoder"), SeqioFeed)


@pytest.mark.parametrize("data_feed", ["tokens", "seqio"])
def test_tasks_with_a_split(folder, data_feed):
    def having(name, split):
        return feeds.tasks_with_split(config_of(folder, data_feed=data_feed, mixture_or_task_name=name), split)

    assert having("text", "validation") == ["text"]
    assert having("text", "test") == []
    assert sorted(having("both", "validation")) == ["pairs", "text"]
    with pytest.raises(UserError, match="no .*task or mixture named 'texts'.*text"):
        having("texts", "train")


@pytest.mark.parametrize("data_feed", ["tokens", "seqio"])
def test_the_vocabulary_is_the_runs(folder, data_feed):
    config = config_of(folder, data_feed=data_feed, extra_ids=20)
    assert feeds.vocabulary(config).vocab_size == 3 + 256 + 20
    assert feeds.model_vocab_size(config) == 384
    assert feeds.vocabulary(config).decode(feeds.vocabulary(config).encode("text")) == "text"


def decoded(batch, feature, row):
    ids = batch[feature][row]
    return bytes(int(token) - 3 for token in ids if 3 <= token < 259).decode()


@pytest.mark.parametrize("data_feed", ["tokens", "seqio"])
def test_both_feeds_evaluate_the_same_pairs(folder, data_feed):
    config = config_of(folder, data_feed=data_feed, mixture_or_task_name="pairs")
    batches = list(feeds.make_feed(config, "encoder_decoder", split="validation", repeat=False))
    texts = [
        (decoded(batch, "encoder_input_tokens", row), decoded(batch, "decoder_target_tokens", row))
        for batch in batches
        for row in range(4)
    ]
    assert texts == [(f"say {n}", str(n * n)) for n in range(4)]


@pytest.mark.parametrize("data_feed", ["tokens", "seqio"])
def test_both_feeds_cut_the_text_into_the_same_windows(folder, data_feed):
    tasks = (dataclasses.replace(config_of(folder).tasks[0], objective=CausalLM()),)
    config = config_of(folder, data_feed=data_feed, tasks=tasks, task_feature_lengths={"targets": 31}, batch_size=1)
    batches = list(feeds.make_feed(config, "causal_lm", split="validation", repeat=False))
    lines = (folder / "text_validation.txt").read_text().splitlines()
    text = "".join(lines)
    windows = [text[start : start + 30] for start in range(0, len(text) - 29, 30)]
    assert [decoded(batch, "decoder_target_tokens", 0) for batch in batches][: len(windows)] == windows


def test_both_feeds_make_the_same_features(folder):
    for name in ("text", "pairs"):
        made = [
            next(feeds.make_feed(config_of(folder, data_feed=data_feed, mixture_or_task_name=name), "prefix_lm"))
            for data_feed in ("tokens", "seqio")
        ]
        shapes = [{name: (rows.shape, rows.dtype) for name, rows in batch.items()} for batch in made]
        assert shapes[0] == shapes[1]


def test_a_mixture_has_its_rates_and_counts_from_the_manifests(folder, monkeypatch):
    monkeypatch.setattr("t5x_mini.tasks.sources.count", lambda *_: pytest.fail("the source was read again"))
    by_count = feeds.make_feed(config_of(folder, mixture_or_task_name="both"), "encoder_decoder").position()
    assert [by_count.fingerprint[f"rate of {name}"] for name in ("text", "pairs")] == [60, 20]
    weighted = feeds.make_feed(config_of(folder, mixture_or_task_name="weighted"), "encoder_decoder").position()
    assert [weighted.fingerprint[f"rate of {name}"] for name in ("text", "pairs")] == [3, 1]


# What does not fit


def refused(config, split="train"):
    with pytest.raises(UserError) as error:
        feeds.make_feed(config, "encoder_decoder", split=split)
    return str(error.value)


@pytest.mark.parametrize("data_feed", ["tokens", "seqio"])
@pytest.mark.parametrize("name", ["pairs", "both"])
def test_scoring_that_cannot_be_is_refused_before_training(folder, data_feed, name):
    tasks = tuple(
        dataclasses.replace(task, postprocessor="lable") if task.name == "pairs" else task
        for task in config_of(folder).tasks
    )
    words = refused(config_of(folder, data_feed=data_feed, tasks=tasks, mixture_or_task_name=name))
    assert "no postprocessor 'lable'" in words


def test_tokens_that_were_not_made(folder):
    words = refused(config_of(folder, mixture_or_task_name="untouched"))
    assert "there are no tokens of 'untouched', split 'train'" in words
    assert "t5x-mini tokenize --task=untouched" in words
    assert "DATA_FEED=seqio" in words
    assert "(there are of train, validation)" in refused(config_of(folder), "test")
    # A declared split without tokens is an error, not a split that isn't there.
    config = config_of(folder, mixture_or_task_name="with_untouched")
    assert feeds.tasks_with_split(config, "validation") == ["text", "untouched"]
    assert "--task=untouched" in refused(config)


def test_tokens_of_another_vocabulary(folder):
    words = refused(config_of(folder, extra_ids=50))
    assert "another vocabulary" in words and "extra_ids: 100 in the store, 50 now" in words


def test_tokens_of_another_tokenizer_version(folder, monkeypatch):
    made = vocabularies.ByteVocabulary.fingerprint
    monkeypatch.setattr(vocabularies.ByteVocabulary, "fingerprint", lambda self: made(self) | {"library": "bytes 2"})
    assert "library: 'bytes' in the store, 'bytes 2' now" in refused(config_of(folder))


def test_tokens_of_another_definition(folder):
    config = config_of(folder, mixture_or_task_name="pairs")
    tasks = tuple(
        dataclasses.replace(task, inputs="tell {a}") if task.name == "pairs" else task for task in config.tasks
    )
    words = refused(dataclasses.replace(config, tasks=tasks))
    assert "inputs: 'say {a}' in the store, 'tell {a}' now" in words


def test_another_objective_needs_no_new_tokens(folder):
    config = config_of(folder, objective=SpanCorruption(mean_span=2.0))
    assert next(feeds.make_feed(config, "encoder_decoder"))["encoder_input_tokens"].shape == (4, 24)


@pytest.mark.parametrize("data_feed", ["tokens", "seqio"])
@pytest.mark.parametrize("name", ["text", "both"])
def test_room_for_several_examples_without_packing(folder, data_feed, name):
    tasks = config_of(folder).tasks
    objective = ObjectiveMixture(objectives=(SpanCorruption(),), rates=(1.0,), examples_per_row=2)
    several = (dataclasses.replace(tasks[0], objective=objective), *tasks[1:])
    config = config_of(folder, data_feed=data_feed, tasks=several, mixture_or_task_name=name)
    words = refused(config)
    assert "ObjectiveMixture.examples_per_row is 2" in words and "examples of 'text'" in words
    assert "PACK is False" in words and "--gin.PACK=True" in words
    if name == "text":  # the token feed doesn't pack examples of unequal lengths
        batch = next(feeds.make_feed(dataclasses.replace(config, pack=True), "encoder_decoder"))
        assert batch["encoder_segment_ids"].max() == 2


@pytest.mark.parametrize("damage", ["missing", "shorter", "changed"])
def test_shards_that_are_missing_or_damaged(folder, tmp_path, damage):
    config = config_of(folder, tokens_dir=str(tmp_path / "tokens"))
    tokenize(config, "text", splits=("train",), workers=1)
    (path,) = (tmp_path / "tokens" / "text" / "train").glob("tokens-*.bin")
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "shorter":
        path.write_bytes(data[:-2])
    else:
        path.write_bytes(data[:10] + b"\x00" + data[11:])
    with pytest.raises(
        UserError, match={"missing": "is missing", "shorter": "bytes, and", "changed": "is damaged"}[damage]
    ):
        next(feeds.make_feed(config, "encoder_decoder"))


def test_an_unfinished_store(folder, tmp_path):
    config = config_of(folder, tokens_dir=str(tmp_path / "tokens"))
    tokenize(config, "text", splits=("train",), workers=1)
    (tmp_path / "tokens" / "text" / "train" / "manifest.json").unlink()
    assert "is not finished" in refused(config)


# Tasks that are registered in Python


PYTHON_TASKS = """
import pathlib
import seqio
from t5x_mini.tasks.objective_mixtures import ObjectiveMixture
from t5x_mini.tasks.objectives import CausalLM
from t5x_mini.tasks.seqio_tasks import apply_objective

def to_targets(dataset):
    return dataset.map(lambda line: {"targets": line})

feature = seqio.Feature(seqio.ByteVocabulary(extra_ids=100), add_eos=True)
source = seqio.TextLineDataSource({"train": str(pathlib.Path(__file__).parent / "text_train.txt")})
first = [to_targets, seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder()]
for name, last in (("text", apply_objective(CausalLM())), ("lines", seqio.preprocessors.append_eos_after_trim)):
    options = dict(output_features={"targets": feature}, metric_fns=[])
    seqio.TaskRegistry.add(f"python_{name}", source=source, preprocessors=[*first, last], **options)
seqio.MixtureRegistry.add("python_both", [("python_text", 3.0), ("python_lines", 1.0)])
"""


@pytest.mark.slow  # a worker imports TensorFlow
def test_tasks_registered_with_seqio_can_be_read_from_tokens(folder, monkeypatch):
    (folder / "python_feed_tasks.py").write_text(PYTHON_TASKS)
    monkeypatch.syspath_prepend(folder)
    names = dict(mixture_or_task_name="python_both", mixture_or_task_module="python_feed_tasks")
    config = config_of(folder, task_feature_lengths={"targets": 31}, batch_size=64, **names)
    tokenize(config, "python_both", splits=("train",), workers=1)
    assert feeds.tasks_with_split(config, "train") == ["python_lines", "python_text"]
    assert feeds.model_vocab_size(config) == 384
    feed = feeds.make_feed(config, "causal_lm")
    assert [feed.position().fingerprint[f"rate of python_{name}"] for name in ("text", "lines")] == [3, 1]
    batch = feed.batch(0)
    texts = [decoded(batch, "decoder_target_tokens", row) for row in range(64)]
    lines = (folder / "text_train.txt").read_text().splitlines()
    whole = "".join(lines)
    assert all(text in lines or text in whole for text in texts)
    assert {text in lines for text in texts} == {True, False}


def test_vocabularies_of_one_size_are_told_apart(folder, tmp_path):
    sentence = "the quick brown fox jumps over the lazy dog"
    texts = {"a": sentence, "b": f"{sentence} and the lazy cat"}
    names = [vocabularies.train([text] * 20, tmp_path / name, size=30) for name, text in texts.items()]
    known = [feeds.vocabulary_id(config_of(folder, vocabulary=name)) for name in names]
    assert len(set(known)) == 2
    assert feeds.vocabulary_id(config_of(folder, vocabulary=names[0], extra_ids=7)) not in known


def test_a_vocabulary_is_the_same_one_in_seqio(folder, monkeypatch):
    config = config_of(folder, vocabulary="docs_8k")
    expected = feeds.vocabulary_id(config)
    monkeypatch.setattr(feeds, "vocabulary", lambda config: vocabularies.load("docs_8k").seqio())
    assert feeds.vocabulary_id(config) == expected
