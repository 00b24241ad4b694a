"""Definitions as SeqIO tasks: what examples hold, that none is lost, and that tf.data can save its place in them."""

import dataclasses
import datetime
import gzip
import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.feed.seqio_feed import SeqioFeed
from t5x_mini.tasks import installed_docs, registry, seqio_tasks, vocabularies
from t5x_mini.tasks.definitions import Mixture, PretrainingTask, TextToTextTask
from t5x_mini.tasks.objectives import CausalLM, IidDenoising, SpanCorruption

LENGTHS = {"inputs": 64, "targets": 14}
WINDOW = 70
SENTENCES = [
    f"sentence {i} tells that {i * 13} apples and {i % 7} pears make a {'very ' * (i % 5)}good pie" for i in range(300)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return vocabularies.train(SENTENCES, tmp_path_factory.mktemp("vocabulary") / "test", size=100)


@pytest.fixture(scope="module")
def vocabulary(model):
    return vocabularies.load(model)


@pytest.fixture
def config(tmp_path, model):
    """Of one task, `text`, and what else is given."""

    def make(*tasks, name="text", lengths=LENGTHS, text_lines=SENTENCES, **fields):
        path = tmp_path / "train.txt"
        if not path.exists():
            path.write_text("\n".join(text_lines))
        text = PretrainingTask(name="text", files={"train": str(path)}, objective=SpanCorruption())
        return FeedConfig(
            mixture_or_task_name=name,
            tasks=(text, *tasks),
            vocabulary=model,
            task_feature_lengths=lengths,
            batch_size=4,
            **fields,
        )

    return make


def registered(config):
    return seqio_tasks.register(registry.find(config.mixture_or_task_name, config), config)


def examples(task, seed=0, shuffle=False, lengths=LENGTHS, **kwargs):
    dataset = task.get_dataset(lengths, "train", shuffle=shuffle, seed=seed, try_in_mem_cache=False, **kwargs)
    return list(dataset.as_numpy_iterator())


def encoded(vocabulary, texts=SENTENCES):
    return [token for text in texts for token in vocabulary.encode(text)]


def rebuild(example, vocabulary):
    """The tokens before corruption: each sentinel of the inputs replaced by what follows it in the targets."""
    first_extra_id = vocabulary.vocab_size - vocabulary.extra_ids
    spans, tokens = {}, []
    for token in example["targets"][:-1].tolist():
        if token >= first_extra_id:
            spans[token] = current = []
        else:
            current.append(token)
    for token in example["inputs"][:-1].tolist():
        tokens += spans.pop(token) if token >= first_extra_id else [token]
    assert not spans
    return tokens


def rebuilt(rows, vocabulary):
    return [token for row in rows for token in rebuild(row, vocabulary)]


# Pretraining


def test_examples_fill_the_lengths_and_end_in_eos(config):
    rows = examples(registered(config()))
    full = [row for row in rows if len(row["inputs"]) == 64 and len(row["targets"]) == 14]
    # 300 documents are three blocks, and only the end of a block may be short.
    assert len(rows) - len(full) <= 3
    assert len(full) > 20
    assert all(row[feature][-1] == 1 for row in rows for feature in ("inputs", "targets"))
    assert all((row[feature] != 0).all() for row in rows for feature in ("inputs", "targets"))


def test_no_token_is_lost_or_moved(config, vocabulary):
    assert rebuilt(examples(registered(config())), vocabulary) == encoded(vocabulary)


def test_windows_are_cut_across_documents_within_a_block(config, vocabulary):
    sizes = [len(rebuild(row, vocabulary)) for row in examples(registered(config()))]
    totals = [len(encoded(vocabulary, SENTENCES[i : i + 128])) for i in (0, 128, 256)]
    expected = []
    for total in totals:
        expected += [WINDOW] * (total // WINDOW) + ([total % WINDOW] if total % WINDOW > 1 else [])
    assert sizes == expected


def test_long_documents_are_kept_whole(config, vocabulary, tmp_path):
    long = " ".join(SENTENCES * 40)
    (tmp_path / "train.txt").write_text(f"{long}\nshort")
    assert len(vocabulary.encode(long)) > 1 << 16
    assert rebuilt(examples(registered(config())), vocabulary) == encoded(vocabulary, [long, "short"])


def test_a_seed_gives_one_stream(config):
    task = registered(config())

    def stream(**kwargs):
        return [(row["inputs"].tolist(), row["targets"].tolist()) for row in examples(task, **kwargs)]

    assert stream(seed=1, shuffle=True) == stream(seed=1, shuffle=True)
    assert stream(seed=1) == stream(seed=1)
    assert stream(seed=1) != stream(seed=2)


def test_masks_are_new_in_every_epoch_and_block(config, vocabulary):
    rows = examples(registered(config()), num_epochs=2)
    first_extra_id = vocabulary.vocab_size - vocabulary.extra_ids
    masks = {tuple(np.flatnonzero(np.concatenate([row["inputs"], row["targets"]]) >= first_extra_id)) for row in rows}
    assert len(masks) > 0.97 * len(rows)


def test_eos_between_documents(config, vocabulary):
    task = dataclasses.replace(config().tasks[0], name="ended", eos_between_documents=True)
    tokens = rebuilt(examples(registered(config(task, name="ended"))), vocabulary)
    assert tokens == [token for text in SENTENCES for token in [*vocabulary.encode(text), 1]]


def test_id_0_in_the_text_is_dropped():
    documents = tf.data.Dataset.from_generator(
        lambda: ({"targets": ids} for ids in ([5, 0, 7], [], [0], [9])),
        output_signature={"targets": tf.TensorSpec([None], tf.int32)},
    )
    joined = seqio_tasks._joined(documents, eos_between_documents=False)
    assert [block.tolist() for block in joined.as_numpy_iterator()] == [[5, 7, 9]]


@pytest.mark.parametrize(("length", "rows"), [(0, 0), (1, 0), (2, 1), (70, 1), (71, 1), (72, 2), (140, 2)])
def test_the_rest_of_a_block_is_kept_unless_it_is_one_token(vocabulary, length, rows):
    block = seqio_tasks.examples_of_block(
        np.full(length, 5, np.int32),
        SpanCorruption(),
        WINDOW,
        ("inputs", "targets"),
        np.random.default_rng(0),
        vocabulary,
    )
    assert {len(array) for array in block.values()} == {rows}


# Files


def write_txt(path, texts):
    path.with_suffix(".txt").write_text("\n".join(texts))
    return str(path.with_suffix(".txt"))


def write_gz(path, texts):
    with gzip.open(f"{path}.txt.gz", "wt") as file:
        file.write("\n".join(texts))
    return f"{path}.txt.gz"


def write_zst(path, texts):
    with pyarrow.CompressedOutputStream(f"{path}.txt.zst", "zstd") as file:
        file.write("\n".join(texts).encode())
    return f"{path}.txt.zst"


def write_jsonl(path, texts):
    path.with_suffix(".jsonl").write_text("\n".join(json.dumps({"text": text, "n": 1}) for text in texts))
    return str(path.with_suffix(".jsonl"))


def write_parquet(path, texts):
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path.with_suffix(".parquet"), row_group_size=70)
    return str(path.with_suffix(".parquet"))


FORMATS = {"txt": write_txt, "gz": write_gz, "zst": write_zst, "jsonl": write_jsonl, "parquet": write_parquet}


@pytest.fixture(params=FORMATS)
def any_file(request, tmp_path):
    """Two files of one format; the place in them and the texts."""
    write = FORMATS[request.param]
    return tuple(write(tmp_path / f"part{i}", SENTENCES[i * 150 : (i + 1) * 150]) for i in range(2))


def test_every_format_gives_the_same_text(config, vocabulary, any_file):
    task = PretrainingTask(name="of_files", files={"train": any_file}, objective=SpanCorruption())
    assert rebuilt(examples(registered(config(task, name="of_files"))), vocabulary) == encoded(vocabulary)


def test_the_place_in_every_format_is_saved_and_restored_exactly(config, any_file):
    task = PretrainingTask(name="of_files", files={"train": any_file}, objective=SpanCorruption())
    configured = config(task, name="of_files", seed=3)
    feed = SeqioFeed(configured, "encoder_decoder", snapshot_every=29)
    for _ in range(29):
        next(feed)
    position = feed.position()
    assert position.snapshot and position.batches_after_snapshot == 0
    expected = [next(feed) for _ in range(10)]
    restored = SeqioFeed(configured, "encoder_decoder")
    restored.restore(position)
    for batch in expected:
        tf.nest.map_structure(np.testing.assert_array_equal, dict(next(restored)), dict(batch))


def test_shuffling_reads_every_document_once_from_many_shards(config, vocabulary, tmp_path):
    for i in range(0, 300, 20):
        write_txt(tmp_path / f"many{i}", SENTENCES[i : i + 20])
    task = PretrainingTask(name="many", files={"train": str(tmp_path / "many*.txt")}, objective=CausalLM())
    rows = examples(
        registered(config(task, name="many", lengths={"targets": 30})), lengths={"targets": 30}, shuffle=True
    )
    tokens = sorted(token for row in rows for token in row["targets"].tolist() if token != 1)
    assert tokens == sorted(encoded(vocabulary))
    in_order = examples(seqio.TaskRegistry.get("many"), lengths={"targets": 30})
    assert [row["targets"].tolist() for row in rows] != [row["targets"].tolist() for row in in_order]


def test_what_is_left_out_is_counted_and_reported(config, vocabulary, tmp_path):
    lines = [text.encode() for text in SENTENCES[:40]]
    lines[3:3] = [b"caf\xe9"] * 10
    (tmp_path / "train.txt").write_bytes(b"\n".join(lines))
    with pytest.warns(UserWarning, match="text: invalid UTF-8: ") as warned:
        rows = examples(registered(config()))
    assert rebuilt(rows, vocabulary) == encoded(vocabulary, SENTENCES[:40])
    words = [str(warning.message) for warning in warned if "invalid UTF-8" in str(warning.message)]
    assert words[0].endswith(f"first at {tmp_path}/train.txt line 4.")
    assert "invalid UTF-8: 10 so far" in words[-1]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", "(?i)empty"),
        ("blank.txt", b"\n\n \n", "has no examples"),
        ("other.jsonl", b'{"body": "x"}', "no field 'text'; it has 'body'"),
        ("missing/*.txt", None, "There are no files"),
    ],
)
@pytest.mark.filterwarnings("ignore:bad")
def test_bad_files_are_refused_with_words(config, tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    task = PretrainingTask(name="bad", files={"train": str(tmp_path / name)}, objective=SpanCorruption())
    with pytest.raises(UserError, match=words):
        SeqioFeed(config(task, name="bad"), "encoder_decoder")


def test_installed_docs_are_read_when_a_dataset_is_made(tmp_path, monkeypatch, config):
    texts = {split: tmp_path / f"docs_{split}.txt" for split in ("train", "validation")}
    for split, path in texts.items():
        path.write_text(f"This documentation is for {split}.\n" * 200)
    monkeypatch.setattr(installed_docs, "ensure", lambda: pytest.fail("read at registration"))
    configured = dataclasses.replace(config(name="installed_docs_span_corruption"), vocabulary="docs_8k")
    task = registered(configured)
    assert tuple(task.splits) == ("train", "validation")
    monkeypatch.setattr(installed_docs, "ensure", lambda: texts)
    shipped = vocabularies.load("docs_8k")
    for split in task.splits:
        row = next(task.get_dataset(LENGTHS, split, shuffle=False).as_numpy_iterator())
        assert shipped.decode(rebuild(row, shipped)).startswith(f"This documentation is for {split}.")


def test_a_cached_copy_gives_the_same_tokens(config, vocabulary, tmp_path, monkeypatch):
    configured = config(use_cached_tasks=True, shuffle=False)
    task = registered(configured)
    folder = tmp_path / "cache" / "text"
    folder.mkdir(parents=True)
    tokens = task.preprocess_precache(task.source.get_dataset("train", shuffle=False))
    # What SeqIO's cache tool leaves behind.
    with tf.io.TFRecordWriter(f"{folder}/train.tfrecord-00000-of-00001") as writer:
        for example in tokens.as_numpy_iterator():
            writer.write(seqio.utils.dict_to_tfexample(example).SerializeToString())
    features = {"targets": {"shape": [None], "dtype": "int32"}}
    (folder / "info.train.json").write_text(
        json.dumps({"features": features, "num_shards": 1, "seqio_version": "0.0.20"})
    )
    (folder / "stats.train.json").write_text(json.dumps({"examples": len(SENTENCES)}))
    (folder / "COMPLETED").touch()
    expected = next(SeqioFeed(dataclasses.replace(configured, use_cached_tasks=False), "encoder_decoder"))

    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [str(tmp_path / "cache")])
    (tmp_path / "train.txt").unlink()
    assert rebuilt(examples(task, use_cached=True), vocabulary) == encoded(vocabulary)
    batch = next(SeqioFeed(configured, "encoder_decoder"))
    tf.nest.map_structure(np.testing.assert_array_equal, batch, expected)


# What does not fit


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ({"inputs": 512, "targets": 100}, r"'targets': 114"),
        ({"inputs": 512}, r"inputs and targets; found \{'inputs': 512\}.*\{'inputs': 512, 'targets': 114\}"),
        ({"inputs": 2048, "targets": 456}, "114 extra ids.* has 100"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(config, lengths, words):
    with pytest.raises(UserError, match=words):
        examples(registered(config()), lengths=lengths)


# Tasks written in Python


def add_in_python(name, dataset, vocabulary, objective=None, features=("inputs", "targets"), **options):
    feature = seqio.Feature(vocabulary.seqio())
    return seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: dataset, splits=["train"]),
        preprocessors=[
            seqio_tasks.tokenize(**options),
            seqio.CacheDatasetPlaceholder(),
            seqio_tasks.apply_objective(objective or SpanCorruption()),
        ],
        output_features=dict.fromkeys(features, feature),
    )


@pytest.fixture
def python_task(vocabulary):
    yield lambda *args, **kwargs: add_in_python("in_python", *args, vocabulary, **kwargs)
    seqio.TaskRegistry.remove("in_python")


def test_a_task_in_python(python_task, vocabulary):
    task = python_task(tf.data.Dataset.from_tensor_slices(SENTENCES))
    assert rebuilt(examples(task), vocabulary) == encoded(vocabulary)
    assert seqio_tasks.objective_of(task) == SpanCorruption()


def test_a_text_key_can_be_named(python_task, vocabulary):
    rows = tf.data.Dataset.from_tensor_slices({"body": SENTENCES, "title": SENTENCES})
    assert rebuilt(examples(python_task(rows, text_key="body")), vocabulary) == encoded(vocabulary)


def test_a_source_without_the_text_is_refused(python_task):
    with pytest.raises(UserError, match=r"no feature 'text'; it has \['body'\]\. .*text_key"):
        examples(python_task(tf.data.Dataset.from_tensor_slices({"body": SENTENCES})))


def test_features_that_the_objective_makes_must_be_declared(python_task):
    with pytest.raises(UserError, match="SpanCorruption makes inputs, targets.*are targets. Add inputs"):
        examples(python_task(tf.data.Dataset.from_tensor_slices(SENTENCES), features=("targets",)))


def test_a_name_taken_in_python_is_refused(python_task, config):
    python_task(tf.data.Dataset.from_tensor_slices(SENTENCES))
    mine = dataclasses.replace(config().tasks[0], name="in_python")
    with pytest.raises(UserError, match="'in_python' is registered with SeqIO by Python code"):
        registered(config(mine, name="in_python"))


# Registration


def test_a_task_is_made_anew_only_when_something_changed(config):
    configured = config()
    task = registered(configured)
    assert registered(configured) is task
    changed = dataclasses.replace(configured.tasks[0], eos_between_documents=True)
    assert registered(dataclasses.replace(configured, tasks=(changed,))) is not task
    assert (
        registered(dataclasses.replace(configured, extra_ids=50)).output_features["targets"].vocabulary.extra_ids == 50
    )


# Supervised tasks and mixtures

PAIRS = [{"en": f"number {i}", "de": f"zahl {i}", "label": i % 2} for i in range(30)]


def pairs_file(folder, kind):
    if kind == "tsv":
        path, lines = folder / "pairs.tsv", ["en\tde\tlabel"] + ["\t".join(map(str, row.values())) for row in PAIRS]
        path.write_text("\n".join(lines))
    elif kind == "jsonl":
        path = folder / "pairs.jsonl"
        path.write_text("\n".join(map(json.dumps, PAIRS)))
    else:
        path = folder / "pairs.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(PAIRS), path, row_group_size=7)
    return str(path)


def pairs_task(folder, kind="jsonl", **fields):
    path = pairs_file(folder, kind)
    templates = {"inputs": "translate: {en}", "targets": "{de}"} | fields
    return TextToTextTask(name="pairs", files={"train": path, "validation": path}, **templates)


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "parquet"])
def test_text_to_text_reaches_the_batch(config, vocabulary, tmp_path, kind):
    configured = config(pairs_task(tmp_path, kind), name="pairs", shuffle=False)
    batch = next(SeqioFeed(configured, "encoder_decoder"))
    assert set(batch) == {"encoder_input_tokens"} | {
        f"decoder_{name}" for name in ("input_tokens", "target_tokens", "loss_weights")
    }
    for i in range(4):
        inputs, targets = (vocabulary.encode(text) + [1] for text in (f"translate: number {i}", f"zahl {i}"))
        assert batch["encoder_input_tokens"][i].tolist() == inputs + [0] * (64 - len(inputs))
        assert batch["decoder_target_tokens"][i].tolist() == targets + [0] * (14 - len(targets))


def test_rows_may_hold_what_json_has_not(config, tmp_path):
    row = {"en": "a house", "de": "ein Haus", "when": datetime.date(2020, 1, 2), "raw": b"\xff"}
    path = tmp_path / "dated.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    task = TextToTextTask(name="dated", files={"train": str(path)}, inputs="{en}", targets="{de}")
    (example,) = examples(registered(config(task, name="dated")))
    assert json.loads(example["row"])["when"] == "2020-01-02"


def test_cut_texts_keep_their_eos(config, tmp_path):
    configured = config(pairs_task(tmp_path), name="pairs", lengths={"inputs": 5, "targets": 3})
    batch = next(SeqioFeed(configured, "encoder_decoder"))
    assert (batch["encoder_input_tokens"][:, -1] == 1).all() and (batch["decoder_target_tokens"][:, -1] == 1).all()


def test_rows_reach_the_postprocessor_and_the_metrics(config, tmp_path):
    task = pairs_task(tmp_path, targets="{label}", postprocessor="label", labels=("0", "1"), metrics=("accuracy",))
    task = registered(config(task, name="pairs"))
    rows = examples(task)
    assert json.loads(rows[1]["row"]) == PAIRS[1]
    targets = [
        task.postprocess_fn(row["targets_pretokenized"].decode(), example=row, is_target=True) for row in rows[:4]
    ]
    predictions = [task.postprocess_fn(text, example=rows[0], is_target=False) for text in ("0", "1", "1", "what")]
    assert (targets, predictions) == ([0, 1, 0, 1], [0, 1, 1, -1])
    (metric,) = task.metric_fns
    assert metric(targets, predictions) == {"accuracy": 50.0}


def test_a_field_that_is_not_there_is_named(config, tmp_path):
    task = pairs_task(tmp_path, inputs="{english}")
    with pytest.raises(UserError, match="uses the field 'english'.*'en', 'de', 'label'"):
        SeqioFeed(config(task, name="pairs"), "encoder_decoder")


def test_a_mixture_draws_by_its_rates(config, vocabulary, tmp_path):
    both = Mixture(name="both", tasks={"text": 3.0, "pairs": 1.0})
    configured = config(pairs_task(tmp_path), both, name="both")
    task = registered(configured)
    assert {part.name: task.get_rate(part) for part in task.tasks} == {"text": 3.0, "pairs": 1.0}
    feed = SeqioFeed(configured, "encoder_decoder")
    inputs = np.concatenate([next(feed)["encoder_input_tokens"] for _ in range(100)])
    translations = (inputs[:, : len(vocabulary.encode("translate"))] == vocabulary.encode("translate")).all(axis=1)
    assert 0.15 < translations.mean() < 0.35


@pytest.mark.slow
def test_objectives_with_other_features_mix(config, tmp_path):
    file = config().tasks[0].files
    parts = [
        PretrainingTask(name="lm", files=file, objective=CausalLM()),
        PretrainingTask(name="bert", files=file, objective=IidDenoising(style="mask", loss_on_masked_only=True)),
        pairs_task(tmp_path),
        Mixture(name="all", tasks={"lm": 1.0, "bert": 1.0, "pairs": 1.0}),
    ]
    lengths = {"inputs": 40, "targets": 40}
    configured = config(*parts, name="all", lengths=lengths)
    for architecture, pack in (("encoder_decoder", False), ("prefix_lm", False), ("causal_lm", True)):
        feed = SeqioFeed(dataclasses.replace(configured, pack=pack), architecture)
        rows = [next(feed) for _ in range(10)]
        weights = np.concatenate([batch["decoder_loss_weights"] for batch in rows])
        tokens = np.concatenate([batch["decoder_target_tokens"] for batch in rows])
        assert ((tokens > 0) | (weights == 0)).all() and tokens.max() < 1 << 20
        assert 0.1 < weights.sum() / (tokens > 0).sum() < 0.9
    # A part on its own, as evaluation reads it, still has the features that the mixture gave it.
    alone = SeqioFeed(dataclasses.replace(configured, mixture_or_task_name="lm"), "prefix_lm")
    assert next(alone)["decoder_target_tokens"].shape == (4, 80)


# TensorFlow Datasets


def documents(builder, *args, **kwargs):
    assert {"text", "url", "timestamp"} <= set(builder.info.features)
    empty = {name: [""] * len(SENTENCES) for name in builder.info.features}
    return tf.data.Dataset.from_tensor_slices(empty | {"text": SENTENCES})


def test_c4_examples(config, vocabulary):
    with tfds.testing.mock_data(as_dataset_fn=documents):
        rows = examples(registered(config(name="c4_span_corruption")))
    assert rebuilt(rows, vocabulary) == encoded(vocabulary)


def test_nested_rows_of_tfds_are_written_as_texts(config):
    def squad(builder, *args, **kwargs):
        rows = {"context": ["c d", "e"], "question": ["who", "why"], "answers": {"text": [["a", "b"], ["f", "g"]]}}
        return tf.data.Dataset.from_tensor_slices(rows)

    task = TextToTextTask(
        name="tfds_squad", tfds="squad/v1.1:3.0.0", inputs="q: {question} c: {context}", targets="{answers[text][0]}"
    )
    with tfds.testing.mock_data(as_dataset_fn=squad):
        rows = examples(registered(config(task, name="tfds_squad")))
    assert [row["inputs_pretokenized"].decode() for row in rows] == ["q: who c: c d", "q: why c: e"]
    assert [row["targets_pretokenized"].decode() for row in rows] == ["a", "f"]
    assert json.loads(rows[0]["row"])["answers"] == {"text": ["a", "b"]}


def test_what_is_left_out_is_counted_in_the_first_epoch_alone(tmp_path, model):
    (tmp_path / "text.txt").write_bytes(b"\xff\n" + "\n".join(SENTENCES[:5]).encode())
    task = PretrainingTask(name="epochs", files={"train": str(tmp_path / "text.txt")})
    config = FeedConfig(
        mixture_or_task_name="epochs",
        tasks=(task,),
        vocabulary=model,
        task_feature_lengths={"inputs": 30, "targets": 30},
        batch_size=2,
    )
    source = seqio_tasks.register(registry.find("epochs", config), config).source
    with pytest.warns(UserWarning) as caught:
        read = list(source.get_dataset("train", shuffle=False).repeat(20).as_numpy_iterator())
    assert len(read) == 20 * 5
    assert [str(warning.message).split(", first")[0] for warning in caught] == ["epochs: invalid UTF-8: 1 so far"]


@pytest.mark.parametrize(("lines", "buffer"), [(1, 1), (40, 100), (5000, 1000)])
def test_a_small_corpus_has_a_small_shuffle_buffer(tmp_path, model, lines, buffer):
    (tmp_path / "text.txt").write_text("a line of text, 40 characters with its\n\n" * lines)
    task = PretrainingTask(name="small", files={"train": str(tmp_path / "text.txt")})
    config = FeedConfig(
        mixture_or_task_name="small", tasks=(task,), vocabulary=model, task_feature_lengths={}, batch_size=1
    )
    made = seqio_tasks.register(registry.find("small", config), config)
    assert made.shuffle_buffer_size == pytest.approx(buffer, abs=2)
