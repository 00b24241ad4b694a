"""The SeqIO feed on toy tasks: features, shards, and exact resumption."""

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import seqio
import toy_tasks

from t5x_mini.errors import UserError
from t5x_mini.feed.batch import feature_shapes, prefetch
from t5x_mini.feed.config import FeedConfig
from t5x_mini.feed.position import Position
from t5x_mini.feed.seqio_feed import SeqioFeed, load_task, model_vocab_size, task_vocabulary
from t5x_mini.tasks.definitions import Mixture, PretrainingTask

ROOT = Path(__file__).parents[2]
BOTH = {"inputs": 12, "targets": 10}


def make_config(task="toy", **fields):
    fields = {"task_feature_lengths": BOTH, "batch_size": 4, "seed": 1} | fields
    return FeedConfig(mixture_or_task_name=task, mixture_or_task_module="toy_tasks", **fields)


def make_feed(task="toy", architecture="encoder_decoder", **fields):
    feed_options = {"split", "repeat", "host_index", "host_count", "snapshot_every"} & set(fields)
    options = {name: fields.pop(name) for name in feed_options}
    return SeqioFeed(make_config(task, **fields), architecture, **options)


def take(feed, count):
    return list(itertools.islice(feed, count))


def assert_same(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name])


def examples_seen(batches, feature="decoder_target_tokens"):
    """Sorted example numbers: each example ends in its only EOS, which follows its number + 2."""
    tokens = np.concatenate([batch[feature] for batch in batches])
    rows, ends = np.nonzero(tokens == 1)
    return sorted((tokens[rows, ends - 1] - 2).tolist())


# What is in a batch


@pytest.mark.parametrize("pack", [False, True])
def test_prefix_and_causal_lm_get_the_same_tokens_and_weights(pack):
    prefix_lm = take(make_feed(architecture="prefix_lm", pack=pack), 3)
    causal_lm = take(make_feed(architecture="causal_lm", pack=pack), 3)
    assert_same(prefix_lm, causal_lm)


def test_decoder_only_rows_are_inputs_then_targets():
    config = dict(task_feature_lengths={"inputs": 6, "targets": 5}, batch_size=2, shuffle=False)
    batch = next(make_feed(architecture="prefix_lm", **config))
    assert batch["decoder_target_tokens"].tolist() == [
        [2, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0],
        [3, 3, 1, 3, 3, 1, 0, 0, 0, 0, 0],
    ]
    assert batch["decoder_loss_weights"].tolist() == [
        [0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0],
    ]
    everywhere = next(make_feed(architecture="prefix_lm", loss_on_targets_only=False, **config))
    assert everywhere["decoder_loss_weights"].tolist() == (batch["decoder_target_tokens"] != 0).astype(int).tolist()
    assert everywhere["decoder_causal_attention"].tolist() == batch["decoder_causal_attention"].tolist()


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    ("architecture", "task", "lengths"),
    [("encoder_decoder", "toy", BOTH), ("prefix_lm", "toy", BOTH), ("causal_lm", "toy_targets", {"targets": 10})],
)
def test_batches_have_the_shapes_that_were_promised(architecture, task, lengths, pack):
    config = make_config(task, task_feature_lengths=lengths, pack=pack)
    batch = next(SeqioFeed(config, architecture))
    promised = feature_shapes(config, architecture)
    assert {name: (rows.shape, rows.dtype) for name, rows in batch.items()} == {
        name: (shape.shape, shape.dtype) for name, shape in promised.items()
    }
    if pack:
        segments, positions = batch["decoder_segment_ids"], batch["decoder_positions"]
        assert segments.max() > 1
        assert ((segments > 0) == (batch["decoder_target_tokens"] > 0)).all()
        starts = (positions == 0) & (segments > 0)
        assert (starts.sum(axis=1) == segments.max(axis=1)).all()


def test_plain_language_modelling_has_loss_on_every_token():
    batch = next(make_feed("toy_targets", "prefix_lm", task_feature_lengths={"targets": 10}))
    np.testing.assert_array_equal(batch["decoder_loss_weights"], batch["decoder_target_tokens"] != 0)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("architecture", ["encoder_decoder", "prefix_lm", "causal_lm"])
def test_loss_weights_of_a_task_stay_with_their_tokens(architecture, pack):
    batch = next(make_feed("toy_weighted", architecture, pack=pack))
    plain = next(make_feed("toy", architecture, pack=pack))
    assert batch.keys() == plain.keys()
    # Only the EOS of the targets carries loss: the last token with loss in the plain task's rows.
    eos_of_targets = (batch["decoder_target_tokens"] == 1) & (plain["decoder_loss_weights"] == 1)
    np.testing.assert_array_equal(batch["decoder_loss_weights"], eos_of_targets)
    assert batch["decoder_loss_weights"].any()
    for name in set(batch) - {"decoder_loss_weights"}:
        np.testing.assert_array_equal(batch[name], plain[name])


# Shards


@pytest.mark.parametrize("shuffle", [False, True])
def test_host_shards_are_disjoint_and_cover_everything(shuffle):
    shards = [
        set(examples_seen(take(make_feed(host_index=host, host_count=2, shuffle=shuffle), 30))) for host in range(2)
    ]
    assert not shards[0] & shards[1]
    assert shards[0] | shards[1] == set(range(toy_tasks.EXAMPLES))


@pytest.mark.parametrize("pack", [False, True])
def test_evaluation_sees_every_example_once_in_the_same_batches_on_any_hosts(pack):
    whole = list(make_feed(repeat=False, split="validation", pack=pack))
    assert examples_seen(whole) == list(range(toy_tasks.EXAMPLES))
    assert all(len(batch["decoder_target_tokens"]) == 4 for batch in whole)
    assert not whole[-1]["decoder_loss_weights"][-1].any()  # 25 examples do not fill the last batch
    hosts = [
        list(make_feed(repeat=False, split="validation", pack=pack, host_index=host, host_count=2)) for host in range(2)
    ]
    joined = [
        {name: np.concatenate([batch[name] for batch in shares]) for name in shares[0]}
        for shares in zip(*hosts, strict=True)
    ]
    assert_same(joined, whole)


# Resumption


@pytest.mark.parametrize(("pack", "depth"), [(False, 0), (False, 4), (True, 4)])
def test_a_restored_feed_goes_on_exactly(pack, depth):
    # Ten batches go well into the second epoch, and snapshots fall on batches 3, 6 and 9.
    with prefetch(make_feed(pack=pack, snapshot_every=3), lambda batch: batch, depth) as pairs:
        batches, positions = zip(*take(pairs, 10), strict=True)
    assert [position.batches_after_snapshot for position in positions[:7]] == [1, 2, 0, 1, 2, 0, 1]
    feed = make_feed(pack=pack, snapshot_every=3)
    for done in (2, 6, 8):  # before the first snapshot, right on one, between two
        feed.restore(Position.from_bytes(positions[done - 1].to_bytes()))
        assert feed.position() == positions[done - 1]
        assert_same(take(feed, 10 - done), batches[done:])


def test_without_snapshots_a_position_counts_from_the_start():
    feed = make_feed()
    take(feed, 5)
    position = feed.position()
    assert (position.snapshot, position.batches_after_snapshot) == (b"", 5)
    following = take(feed, 3)
    feed.restore(position)
    assert_same(take(feed, 3), following)


def test_a_mixture_resumes_exactly():
    feed = make_feed("toy_mixture", shuffle=False, snapshot_every=2)
    take(feed, 5)
    position = feed.position()
    following = take(feed, 5)
    feed.restore(position)
    assert_same(take(feed, 5), following)


RESUME = """
import json, sys
import numpy as np
from t5x_mini.ending import leave
from t5x_mini.feed.config import FeedConfig
from t5x_mini.feed.position import Position
from t5x_mini.feed.seqio_feed import SeqioFeed
from t5x_mini.tasks.definitions import PretrainingTask
text, jobs = sys.argv[1:]
tasks = (PretrainingTask(name="resume_text", files={"train": text}),)
for job in json.loads(jobs):
    feed = SeqioFeed(FeedConfig(**job["config"], tasks=tasks), job["architecture"], snapshot_every=3)
    feed.restore(Position.from_bytes(open(job["position"], "rb").read()))
    np.savez(job["result"], **{f"{n} {name}": rows for n in range(4) for name, rows in next(feed).items()})
leave(0)
"""


def test_a_new_process_goes_on_exactly(tmp_path):
    for part in range(3):
        lines = (f"part {part} line {n}: " + "some words to mask " * (n % 7 + 1) for n in range(200))
        (tmp_path / f"text-{part}.txt").write_text("\n".join(lines))
    pattern = str(tmp_path / "text-*.txt")
    tasks = (PretrainingTask(name="resume_text", files={"train": pattern}),)
    fields = {"mixture_or_task_name": "resume_text", "task_feature_lengths": {"inputs": 32, "targets": 16}, "seed": 5}
    jobs, expected = [], []
    for name, architecture, pack, done in [("skip", "encoder_decoder", False, 5), ("exact", "prefix_lm", True, 6)]:
        config = fields | {"batch_size": 16, "pack": pack}
        feed = SeqioFeed(FeedConfig(**config, tasks=tasks), architecture, snapshot_every=3)
        take(feed, done)
        assert feed.position().batches_after_snapshot == done % 3
        paths = {"position": str(tmp_path / f"{name}.position"), "result": str(tmp_path / f"{name}.npz")}
        Path(paths["position"]).write_bytes(feed.position().to_bytes())
        jobs.append({"config": config, "architecture": architecture, **paths})
        expected.append({f"{n} {name}": rows for n, batch in enumerate(take(feed, 4)) for name, rows in batch.items()})
    subprocess.run([sys.executable, "-c", RESUME, pattern, json.dumps(jobs)], cwd=ROOT, check=True)
    for job, arrays in zip(jobs, expected, strict=True):
        assert_same([dict(np.load(job["result"]))], [arrays])

    (tmp_path / "text-1.txt").write_text("other text")
    with pytest.raises(UserError, match="source_files: 3 files .* when it was saved, 3 files .* now"):
        feed = SeqioFeed(FeedConfig(**jobs[0]["config"], tasks=tasks), "encoder_decoder")
        feed.restore(Position.from_bytes(Path(jobs[0]["position"]).read_bytes()))


@pytest.fixture(scope="module")
def saved():
    feed = make_feed(snapshot_every=1)
    next(feed)
    return feed.position()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": "toy_cacheable"}, "mixture_or_task_name: toy when it was saved, toy_cacheable now"),
        ({"split": "validation"}, "split: train when it was saved, validation now"),
        ({"task_feature_lengths": BOTH | {"targets": 9}}, "task_feature_lengths: .*'targets': 10.*'targets': 9.* now"),
        ({"batch_size": 8}, "batch_size: 4 when it was saved, 8 now"),
        ({"seed": 2}, "seed: 1 when it was saved, 2 now"),
        ({"pack": True}, "pack: False when it was saved, True now"),
        ({"shuffle": False}, "shuffle: True when it was saved, False now"),
        ({"host_index": 1, "host_count": 2}, "host_index: 0 .*, 1 now\n    host_count: 1 when it was saved, 2 now"),
        ({"architecture": "causal_lm"}, "feature_converter: EncDecFeatureConverter .*, PrefixLMFeatureConverter now"),
        ({"loss_on_targets_only": False}, "loss_on_targets_only: True when it was saved, False now"),
        ({"task": "toy_in_order", "use_cached_tasks": True, "shuffle": False}, "use_cached_tasks: False .*, True now"),
    ],
)
def test_a_position_of_another_stream_is_refused(saved, change, words):
    with pytest.raises(UserError, match=words):
        make_feed(**change).restore(saved)


@pytest.mark.parametrize("library", ["tensorflow", "seqio"])
def test_a_position_of_another_version_is_refused(saved, library):
    older = Position({**saved.fingerprint, library: "0.1"}, saved.snapshot, saved.batches_after_snapshot)
    with pytest.raises(UserError, match=f"{library}: 0.1 when it was saved"):
        make_feed().restore(older)


def test_prefix_and_causal_lm_can_take_over_each_others_position():
    feed = make_feed(architecture="prefix_lm")
    take(feed, 2)
    other = make_feed(architecture="causal_lm")
    other.restore(feed.position())
    assert_same([next(other)], [next(feed)])


def test_a_snapshot_that_does_not_fit_is_refused(saved):
    with pytest.raises(UserError, match="does not fit the task 'toy' any more"):
        make_feed().restore(Position(saved.fingerprint, b"no iterator", 0))


def test_a_task_that_cannot_be_saved_warns_once_and_counts_from_the_start():
    feed = make_feed("toy_in_python", snapshot_every=2)
    with pytest.warns(UserWarning, match="cannot save where it stands in 'toy_in_python'") as warned:
        take(feed, 5)
    assert len(warned) == 1
    position = feed.position()
    assert (position.snapshot, position.batches_after_snapshot) == (b"", 5)
    following = next(feed)
    feed.restore(position)
    assert_same([next(feed)], [following])


# What a user may get wrong


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"split": "empty"}, "The split 'empty' of 'toy' has no examples"),
        ({"task": "toy_filtered"}, "'toy_filtered' has no examples: .* preprocessors drop every example"),
        ({"host_index": 25, "host_count": 26, "batch_size": 26}, "no examples for host 25 of 26"),
        ({"split": "test"}, "'toy' has no split 'test'; it has empty, train, validation"),
        ({"host_count": 3}, "BATCH_SIZE is 4; it must be a positive multiple of the 3 host"),
        ({"task": "toy_cacheable", "use_cached_tasks": True}, "write --gin.USE_CACHED_TASKS=False.*--seqio_add"),
        ({"task": "toy_cached_only"}, "only be read from a cache.*--gin.USE_CACHED_TASKS=True"),
        ({"task": "toy_in_order"}, "forbids shuffling .*--gin.SHUFFLE_TRAIN_EXAMPLES=False"),
        ({"task": "toy_no_files"}, "'toy_no_files' finds no files .*/nonexistent/text-"),
        (
            {"task": "toy_targets", "task_feature_lengths": {"targets": 9}},
            "no feature 'inputs'.*prefix_lm or causal_lm",
        ),
        ({"task": "toy_inputs", "architecture": "causal_lm"}, "no feature 'targets', which architecture 'causal_lm'"),
        ({"task_feature_lengths": {"inputs": 8}}, "{'inputs': 8}, without a length for 'targets'"),
        ({"task": "toy_targets", "architecture": "causal_lm"}, "no feature 'inputs' here. Write {'targets': …}"),
        ({"architecture": "encdec"}, "no architecture 'encdec'; there are encoder_decoder, prefix_lm, causal_lm"),
    ],
)
def test_errors_say_what_to_write_instead(fields, words):
    with pytest.raises(UserError, match=f"(?is){words}"):
        make_feed(**fields)


def test_a_mixture_with_an_empty_task_is_refused_rather_than_waited_for(tmp_path):
    (tmp_path / "text.txt").write_text("some words and some more of them\n" * 50)
    (tmp_path / "latin.txt").write_bytes(b"\xe9\n")
    tasks = (
        *(PretrainingTask(name=name, files={"train": str(tmp_path / f"{name}.txt")}) for name in ("text", "latin")),
        Mixture(name="some", tasks={"text": 100.0, "latin": 1.0}),
        Mixture(name="none", tasks={"text": 1.0, "latin": 0.0}),
    )
    config = FeedConfig(mixture_or_task_name="some", tasks=tasks, task_feature_lengths=BOTH, batch_size=4)
    with pytest.warns(UserWarning, match="invalid UTF-8"), pytest.raises(UserError, match="of 'latin' has no examples"):
        SeqioFeed(config, "encoder_decoder")
    next(SeqioFeed(dataclasses.replace(config, mixture_or_task_name="none"), "encoder_decoder"))


def test_a_feature_that_no_preprocessor_makes_is_named():
    toy = seqio.TaskRegistry.get("toy")
    keep_inputs = seqio.map_over_dataset(lambda example: {"inputs": example["inputs"]})
    seqio.TaskRegistry.add(
        "toy_without_targets",
        source=toy.source,
        preprocessors=[*toy.preprocessors, keep_inputs],
        output_features=toy.output_features,
    )
    with pytest.raises(UserError, match="missing expected output feature.* targets.*preprocessors have to make every"):
        make_feed("toy_without_targets")


def test_an_unknown_task_is_answered_with_the_closest_names():
    with pytest.raises(UserError, match="named 'toy_mixtur'. The closest names: toy_mixture.*MIXTURE_OR_TASK_MODULE"):
        load_task(make_config("toy_mixtur"))


def test_a_missing_module_is_answered_with_pythons_words():
    with pytest.raises(UserError, match="MIXTURE_OR_TASK_MODULE = 'no_tasks' cannot be imported: No module named"):
        load_task(dataclasses.replace(make_config(), mixture_or_task_module="no_tasks"))


def test_a_module_is_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "tasks_of_mine.py").write_text("import toy_tasks\ntoy_tasks.add('mine')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    config = dataclasses.replace(make_config("mine"), mixture_or_task_module="tasks_of_mine")
    assert load_task(config).name == "mine"


def test_vocabulary_sizes():
    assert task_vocabulary(make_config("toy_mixture")) is toy_tasks.VOCABULARY
    assert [model_vocab_size(seqio.PassThroughVocabulary(size)) for size in (32100, 8100, 384)] == [32128, 8192, 384]
