"""Which kind of checkpoint a path stands for."""

import sys
import types

import ml_dtypes
import numpy as np
import pytest

from t5x_mini.checkpoint import source
from t5x_mini.errors import UserError


@pytest.fixture
def opened(monkeypatch):
    """`opened(path)` is the name of the class that would open it."""
    for module, name in (
        ("own_source", "OwnSource"),
        ("huggingface.source", "HuggingFaceSource"),
        ("t5x_format", "T5XSource"),
    ):
        fake = types.ModuleType(f"t5x_mini.checkpoint.{module}")
        setattr(fake, name, lambda path, name=name: (name, path))
        fake.is_t5x = lambda path: path.rstrip("/").split("/")[-1].startswith("checkpoint_")
        monkeypatch.setitem(sys.modules, fake.__name__, fake)
        monkeypatch.setattr(f"t5x_mini.checkpoint.{module}", fake, raising=False)
    return lambda path, kind=None: source.open_source(str(path), kind).source[0]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


@pytest.mark.parametrize("path", ["runs/x", "runs/x/", "runs/x/checkpoints", "runs/x/checkpoints/10"])
def test_a_run_and_its_checkpoints_are_ours(opened, here, path):
    make(here, "runs/x/checkpoints/10/manifest.json", "runs/x/config.json")
    assert opened(path) == "OwnSource"


def test_a_folder_with_a_config_is_of_hugging_face(opened, here):
    make(here, "flan/config.json")
    assert opened("flan") == "HuggingFaceSource"


def test_t5x(opened, here):
    make(here, "t5/checkpoint_1000/checkpoint")
    assert opened("t5/checkpoint_1000") == "T5XSource"


@pytest.mark.parametrize("name", ["google/flan-t5-small", "t5-small", "google/t5-v1_1-small"])
def test_what_is_not_here_may_be_on_the_hub(opened, here, name):
    assert opened(name) == "HuggingFaceSource"


def test_the_kind_can_be_said(opened, here):
    make(here, "both/config.json", "both/checkpoints/10/state/_METADATA")
    assert opened("both", "hf") == "HuggingFaceSource" and opened("both", "t5x") == "T5XSource"


def test_a_folder_misspelt_is_not_looked_for_on_the_hub(opened, here):
    make(here, "runs/quickstart/checkpoints/10/state/_METADATA")
    with pytest.raises(UserError) as error:
        opened("runs/quikstart")
    assert str(error.value) == (
        "There is no checkpoint in runs/quikstart, and there is nothing of that name. Looked for:\n"
        "    a run's folder (runs/quickstart) or one of its checkpoints (runs/quickstart/checkpoints/1000)\n"
        "    a Hugging Face folder, which has a config.json, or a name on its hub (google/flan-t5-small)\n"
        "    a T5X checkpoint (checkpoint_1000000), or a folder of some"
    )


def test_what_is_in_a_folder_without_a_checkpoint_is_said(opened, here):
    make(here, "other/notes.txt", "other/a.bin")
    with pytest.raises(UserError, match="There is no checkpoint in ./other, which holds a.bin, notes.txt. Looked for"):
        opened("./other")
    (here / "empty").mkdir()
    with pytest.raises(UserError, match="There is no checkpoint in ./empty, which is empty. Looked for"):
        opened("./empty")


class Held:
    """A checkpoint of one array."""

    origin, shapes = types.SimpleNamespace(path="runs/x"), {}

    def __init__(self, array):
        self.array = array

    def read(self, name):
        return self.array


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_array_with_a_value_that_is_no_number_is_refused(value, dtype):
    array = np.ones((4, 5), dtype)
    array[2, 3] = value
    words = r"runs/x can't be used: 1 of 20 values of params/a are NaN or infinite\. Take an earlier checkpoint"
    with pytest.raises(UserError, match=words):
        source.Finite(Held(array)).read("params/a")


@pytest.mark.parametrize("array", [np.full(9, 3e38, np.float32), np.arange(3), np.zeros(0, np.float32), np.ones(())])
def test_an_array_of_numbers_is_read(array):
    assert source.Finite(Held(array)).read("params/a") is array
