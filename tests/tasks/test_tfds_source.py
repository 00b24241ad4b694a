import functools

import numpy as np
import pytest
import tensorflow_datasets as tfds

from t5x_mini.errors import UserError
from t5x_mini.tasks import sources, tfds_source
from t5x_mini.tasks.definitions import PretrainingTask, TextToTextTask

COUNTS = {"train": 50, "validation_matched": 7}


class TinyTexts(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        answers = tfds.features.Sequence({"text": tfds.features.Text(), "start": np.int32})
        features = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=3), "answers": answers}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in COUNTS.items()}

    def _generate_examples(self, count):
        for i in range(count):
            answers = [{"text": f"naïve {j}", "start": j} for j in range(i % 3)]
            yield i, {"text": f"text {i}", "label": i % 3, "answers": answers}


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "builder", functools.partial(tfds.builder, data_dir=str(tmp_path)))
    config = tfds.download.DownloadConfig(num_shards=4)
    tfds.builder("tiny_texts").download_and_prepare(download_config=config)


def rows(definition, split):
    return [row for shard in sources.shards(definition, split) for row in sources.read(definition, shard)]


def test_shards_hold_every_row_once(prepared):
    definition = PretrainingTask(name="x", tfds="tiny_texts")
    assert len(sources.shards(definition, "train")) == 4
    assert sorted(row["text"] for row in rows(definition, "train")) == sorted(f"text {i}" for i in range(50))


def test_rows_are_plain_python(prepared):
    row = next(row for row in rows(TextToTextTask(name="x", tfds="tiny_texts"), "train") if row["text"] == "text 5")
    assert row == {"text": "text 5", "label": 2, "answers": {"text": ["naïve 0", "naïve 1"], "start": [0, 1]}}
    assert (type(row["label"]), type(row["answers"]["start"][0])) == (int, int)


def test_splits_may_have_other_names(prepared):
    assert sources.splits(PretrainingTask(name="x", tfds="tiny_texts")) == tuple(COUNTS)
    definition = PretrainingTask(name="x", tfds="tiny_texts:1.2.0", splits={"validation": "validation_matched"})
    assert sources.splits(definition) == ("validation",)
    assert len(rows(definition, "validation")) == sources.count(definition, "validation") == 7
    assert sources.count(definition, "validation", limit=5) == 5
    wrong = PretrainingTask(name="x", tfds="tiny_texts", splits={"validation": "dev"})
    with pytest.raises(
        UserError, match=r"'tiny_texts' has no split 'dev'; it has train, validation_matched.*x\.splits"
    ):
        sources.shards(wrong, "validation")


def test_fingerprints(prepared):
    definition = PretrainingTask(name="x", tfds="tiny_texts")
    assert sources.fingerprint(definition, "train") == sources.fingerprint(definition, "train")
    assert sources.fingerprint(definition, "train") != sources.fingerprint(definition, "validation_matched")
    assert sources.needs_tensorflow(definition)


def test_what_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "builder", functools.partial(tfds.builder, data_dir=str(tmp_path)))
    with pytest.raises(UserError, match="TensorFlow Datasets cannot find 'no_such_thing'"):
        sources.splits(PretrainingTask(name="x", tfds="no_such_thing"))

    def offline(self, **_):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(TinyTexts, "download_and_prepare", offline)
    with pytest.raises(UserError, match=r"cannot prepare 'tiny_texts': no route\. It needs the network, or a copy"):
        sources.shards(PretrainingTask(name="x", tfds="tiny_texts"), "train")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"na\xc3\xafve", "naïve"),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.array([b"a", b"b"], object), ["a", "b"]),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array(b"a", object), "a"),
        ({"a": {"b": np.bool_(True)}}, {"a": {"b": True}}),
    ],
)
def test_plain_values(value, expected):
    found = tfds_source.plain(value)
    assert found == expected and type(found) is type(expected)
