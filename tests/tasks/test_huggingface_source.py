import sys
import types

import pytest

from t5x_mini.errors import UserError
from t5x_mini.tasks import huggingface_source, sources
from t5x_mini.tasks.definitions import PretrainingTask


class Rows(list):
    """As much of `datasets.Dataset` as is used."""

    split, _fingerprint = None, "0123"
    info = types.SimpleNamespace(dataset_name="tiny")

    def select(self, indices):
        return [self[i] for i in indices]


@pytest.fixture(params=["stand-in", "datasets"])
def library(request, monkeypatch, tmp_path):
    """The name of a dataset with two splits: of a stand-in, and of the real library where it is installed."""
    content = {"train": [{"text": f"text {i}"} for i in range(10)], "test": [{"text": "held out"}]}
    if request.param == "datasets":
        datasets = pytest.importorskip("datasets")
        parts = {split: datasets.Dataset.from_list(rows) for split, rows in content.items()}
        datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
        return str(tmp_path / "saved")

    def load_dataset(path, config):
        if (path, config) != ("team/tiny", "en"):
            raise ConnectionError(f"no {path}\nmore")
        return {split: Rows(rows) for split, rows in content.items()}

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return "team/tiny:en"


def test_rows_in_shards(library, monkeypatch):
    monkeypatch.setattr(huggingface_source, "_SHARD_ROWS", 4)
    definition = PretrainingTask(name="x", huggingface=library)
    assert sources.splits(definition) == ("train", "test")
    shards = sources.shards(definition, "train")
    assert [(shard.start, shard.end) for shard in shards] == [(0, 4), (4, 8), (8, 10)]
    assert len({shard.name for shard in shards}) == 3
    texts = [row["text"] for shard in shards for row in sources.read(definition, shard)]
    assert texts == [f"text {i}" for i in range(10)]
    assert sources.count(definition, "train") == 10
    assert sources.fingerprint(definition, "train") != sources.fingerprint(definition, "test")
    assert not sources.needs_tensorflow(definition)


def test_splits_may_have_other_names(library):
    definition = PretrainingTask(name="x", huggingface=library, splits={"validation": "test"})
    assert sources.count(definition, "validation") == 1
    wrong = PretrainingTask(name="x", huggingface=library, splits={"validation": "dev"})
    with pytest.raises(UserError, match=r"has no split 'dev'; it has train, test.*x\.splits"):
        sources.shards(wrong, "validation")


def test_a_dataset_that_cannot_be_loaded(monkeypatch, tmp_path):
    def load(*_):
        raise ConnectionError("cannot reach the hub\nmore")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load, load_from_disk=load))
    for name in ("team/none", str(tmp_path)):
        with pytest.raises(UserError, match=rf"dataset '{name}' cannot be loaded: cannot reach the hub$"):
            sources.splits(PretrainingTask(name="x", huggingface=name))


def test_the_library_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"'x' reads the Hugging Face dataset 'team/tiny'.*pip install datasets"):
        sources.splits(PretrainingTask(name="x", huggingface="team/tiny"))
