import importlib
import itertools
import json

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from t5x_mini.errors import UserError
from t5x_mini.tasks import corpora, installed_docs, vocabularies

LENGTHS = {"inputs": 64, "targets": 14}
WINDOW = 70
SENTENCES = [
    f"sentence {i} tells that {i * 13} apples and {i % 7} pears make a {'very ' * (i % 5)}good pie" for i in range(300)
]

_names = (f"test_corpora_{i}" for i in itertools.count())


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = vocabularies.train_vocabulary(SENTENCES, tmp_path_factory.mktemp("vocabulary") / "test", 100)
    return vocabularies.sentencepiece_vocabulary(path)


@pytest.fixture
def text_task(tmp_path, vocabulary):
    path = tmp_path / "train.txt"
    path.write_text("\n".join(SENTENCES))
    name = next(_names)
    yield corpora.add_text_span_corruption_task(name, {"train": str(path)}, vocabulary)
    seqio.TaskRegistry.remove(name)


def examples(task, seed=0, shuffle=False, lengths=LENGTHS, **kwargs):
    dataset = task.get_dataset(lengths, "train", shuffle=shuffle, seed=seed, try_in_mem_cache=False, **kwargs)
    return list(dataset.as_numpy_iterator())


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


def test_examples_fill_the_lengths_and_end_in_eos(text_task):
    rows = examples(text_task)
    full = [row for row in rows if len(row["inputs"]) == 64 and len(row["targets"]) == 14]
    # 300 documents are three blocks, and only the end of a block may be short.
    assert len(rows) - len(full) <= 3
    assert len(full) > 20
    assert all(row[feature][-1] == 1 for row in rows for feature in ("inputs", "targets"))
    assert all((row[feature] != 0).all() for row in rows for feature in ("inputs", "targets"))


def test_no_token_is_lost_or_moved(text_task, vocabulary):
    rebuilt = [token for row in examples(text_task) for token in rebuild(row, vocabulary)]
    assert rebuilt == [token for text in SENTENCES for token in vocabulary.encode(text)]


def test_windows_are_cut_across_documents_within_a_block(text_task, vocabulary):
    sizes = [len(rebuild(row, vocabulary)) for row in examples(text_task)]
    tokens = [sum(len(vocabulary.encode(text)) for text in SENTENCES[i : i + 128]) for i in (0, 128, 256)]
    expected = []
    for total in tokens:
        expected += [WINDOW] * (total // WINDOW) + ([total % WINDOW] if total % WINDOW > 1 else [])
    assert sizes == expected


def test_id_0_in_the_text_is_dropped():
    documents = tf.data.Dataset.from_generator(
        lambda: ({"targets": ids} for ids in ([5, 0, 7], [], [0], [9])),
        output_signature={"targets": tf.TensorSpec([None], tf.int32)},
    )
    assert [block.tolist() for block in corpora._concatenate(documents).as_numpy_iterator()] == [[5, 7, 9]]


@pytest.mark.parametrize(("length", "rows"), [(0, 0), (1, 0), (2, 1), (70, 1), (71, 1), (72, 2), (140, 2)])
def test_the_rest_of_a_block_is_kept_unless_it_is_one_token(vocabulary, length, rows):
    block = corpora._corrupt_block(np.full(length, 5, np.int32), np.random.default_rng(0), WINDOW, vocabulary)
    assert len(block[0]) + len(block[2]) == rows


def test_a_seed_gives_one_stream(text_task):
    def stream(**kwargs):
        return [(row["inputs"].tolist(), row["targets"].tolist()) for row in examples(text_task, **kwargs)]

    assert stream(seed=1, shuffle=True) == stream(seed=1, shuffle=True)
    assert stream(seed=1) == stream(seed=1)
    assert stream(seed=1) != stream(seed=2)


def test_masks_are_new_in_every_epoch_and_block(text_task, vocabulary):
    rows = examples(text_task, num_epochs=2)
    first_extra_id = vocabulary.vocab_size - vocabulary.extra_ids
    masks = {tuple(np.flatnonzero(np.concatenate([row["inputs"], row["targets"]]) >= first_extra_id)) for row in rows}
    assert len(masks) > 0.97 * len(rows)


@pytest.mark.parametrize("consumed", [0, 5, 29])
def test_iterator_is_saved_and_restored_exactly(text_task, tmp_path, consumed):
    def iterator():
        dataset = seqio.get_dataset(
            text_task.name, LENGTHS, seqio.EncDecFeatureConverter(pack=False), dataset_split="train",
            shuffle=True, num_epochs=None, seed=3, batch_size=2,
        )  # fmt: skip
        return iter(dataset)

    running = iterator()
    for _ in range(consumed):
        next(running)
    path = tf.train.Checkpoint(iterator=running).write(str(tmp_path / "position"))
    expected = [next(running) for _ in range(40)]
    restored = iterator()
    next(restored)
    tf.train.Checkpoint(iterator=restored).read(path).assert_consumed()
    for batch in expected:
        tf.nest.map_structure(np.testing.assert_array_equal, dict(next(restored)), dict(batch))


def test_a_cached_copy_gives_the_same_tokens(text_task, vocabulary, tmp_path, monkeypatch):
    folder = tmp_path / "cache" / text_task.name
    folder.mkdir(parents=True)
    tokens = text_task.preprocess_precache(text_task.source.get_dataset("train", shuffle=False))
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
    (tmp_path / "train.txt").unlink()

    monkeypatch.setattr(seqio.utils, "_GLOBAL_CACHE_DIRECTORIES", [str(tmp_path / "cache")])
    rows = examples(text_task, use_cached=True)
    rebuilt = [token for row in rows for token in rebuild(row, vocabulary)]
    assert rebuilt == [token for text in SENTENCES for token in vocabulary.encode(text)]


def test_short_targets_are_refused(text_task):
    with pytest.raises(
        UserError, match=r"targets of 114 tokens from inputs of 512; found room for 100\. .*'targets': 114"
    ):
        examples(text_task, lengths={"inputs": 512, "targets": 100})


def test_missing_lengths_are_refused(text_task):
    with pytest.raises(UserError, match=r"found \{'inputs': 512\}.*\{'inputs': 512, 'targets': 114\}"):
        examples(text_task, lengths={"inputs": 512})


def test_too_few_extra_ids_are_refused(text_task):
    with pytest.raises(UserError, match="needs 114 extra ids.*the vocabulary has 100"):
        examples(text_task, lengths={"inputs": 2048, "targets": 456})


def test_a_source_without_the_text_is_refused(vocabulary):
    name = next(_names)
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensors({"body": "x", "title": "y"}),
        splits=["train"],
    )
    task = corpora.add_span_corruption_task(name, source, vocabulary)
    with pytest.raises(UserError, match=r"no feature 'text'; it has \['body', 'title'\]\. .*text_key"):
        examples(task)


def test_a_text_key_can_be_named(vocabulary):
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices({"body": SENTENCES}),
        splits=["train"],
    )
    task = corpora.add_span_corruption_task(next(_names), source, vocabulary, text_key="body")
    assert rebuild(examples(task)[0], vocabulary) == sum(map(vocabulary.encode, SENTENCES), [])[:WINDOW]


def test_a_taken_name_is_refused(text_task, vocabulary):
    with pytest.raises(UserError, match=f"'{text_task.name}' is registered already. Choose another name"):
        corpora.add_text_span_corruption_task(text_task.name, {"train": "x"}, vocabulary)


def test_import_is_idempotent():
    task = seqio.TaskRegistry.get("installed_docs_span_corruption")
    importlib.reload(corpora)
    assert seqio.TaskRegistry.get("installed_docs_span_corruption") is task


def test_installed_docs_are_read_when_a_dataset_is_made(tmp_path, monkeypatch):
    texts = {split: tmp_path / f"{split}.txt" for split in ("train", "validation")}
    for split, path in texts.items():
        path.write_text(f"This documentation is for {split}.\n" * 200)
    monkeypatch.setattr(installed_docs, "ensure", lambda: texts)
    task = seqio.TaskRegistry.get("installed_docs_span_corruption")
    assert tuple(task.splits) == ("train", "validation")
    shipped = task.output_features["targets"].vocabulary
    for split in task.splits:
        row = next(task.get_dataset(LENGTHS, split, shuffle=False).as_numpy_iterator())
        assert shipped.decode(rebuild(row, shipped)).startswith(f"This documentation is for {split}.")


def test_registering_makes_no_corpus(monkeypatch):
    monkeypatch.setattr(installed_docs, "ensure", lambda: pytest.fail("read at registration"))
    corpora.InstalledDocsSource()


def test_c4_has_t5s_vocabulary():
    vocabulary = seqio.TaskRegistry.get("c4_span_corruption").output_features["targets"].vocabulary
    assert vocabulary.sentencepiece_model_file == "gs://t5-data/vocabs/cc_all.32000/sentencepiece.model"
    assert vocabulary.extra_ids == 100


def test_c4_examples(vocabulary):
    task = seqio.TaskRegistry.get("c4_span_corruption")
    features = {
        name: seqio.Feature(vocabulary, add_eos=feature.add_eos, required=feature.required)
        for name, feature in task.output_features.items()
    }

    def documents(builder, *args, **kwargs):
        assert {"text", "url", "timestamp"} <= set(builder.info.features)
        empty = {name: [""] * len(SENTENCES) for name in builder.info.features}
        return tf.data.Dataset.from_tensor_slices(empty | {"text": SENTENCES})

    with tfds.testing.mock_data(as_dataset_fn=documents):
        rows = examples(task.replace(name=next(_names), output_features=features))
    rebuilt = [token for row in rows for token in rebuild(row, vocabulary)]
    assert rebuilt == [token for text in SENTENCES for token in vocabulary.encode(text)]
