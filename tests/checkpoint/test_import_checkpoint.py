import dataclasses
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import goldens
import jax
import numpy as np
import pytest
import tiny
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_mini import config
from t5x_mini.checkpoint import array_writer, import_checkpoint, restore_plan
from t5x_mini.checkpoint.import_checkpoint import import_checkpoint as run_import
from t5x_mini.checkpoint.locate import locate
from t5x_mini.checkpoint.run_item import identity
from t5x_mini.checkpoint.source import Origin, open_source
from t5x_mini.checkpoint.t5x_format import T5XSource
from t5x_mini.errors import UserError
from t5x_mini.model import transformer
from t5x_mini.tasks import vocabularies


class Made:
    """A source made up: two small arrays; reading the one named `breaks` fails."""

    def __init__(self, breaks=None, **origin):
        model = tiny.model(vocab_size=8320)
        self.origin = Origin(**(dict(path="google/t5-made-up", kind="hf", model=model) | origin))
        self.shapes = {"params/a": (2, 3), "params/encoder/layers_0/b": (4,)}
        self.breaks = breaks

    def read(self, name):
        if name == self.breaks:
            raise UserError(f"{name} cannot be read")
        return np.full(self.shapes[name], len(name), np.float32)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def opens(monkeypatch):
    """`opens(source)`: any path but a T5X one opens it."""
    return lambda source: monkeypatch.setattr(import_checkpoint, "open_source", lambda path, kind: source)


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5x") / "tiny_t5"
    with zipfile.ZipFile(goldens.FOLDER / "t5x_checkpoint.zip") as packed:
        packed.extractall(folder)
    return str(folder)


# --------------------------------------------------------------------------------------------------- what is written


def test_the_golden_becomes_a_run_of_ours(golden, capsys):
    folder = run_import(golden, kind="t5x")
    assert folder == "runs/tiny_t5"
    assert locate(folder) == (folder, 6)

    source, imported = T5XSource(golden), open_source(folder)
    assert imported.origin.kind == "t5x_mini"
    assert (imported.origin.step, imported.origin.model) == (6, source.origin.model)
    assert imported.shapes == source.shapes
    for name in source.shapes:
        np.testing.assert_array_equal(imported.read(name), source.read(name), err_msg=name, strict=True)

    said = capsys.readouterr().out
    assert f"Imported {golden}/checkpoint_6 to runs/tiny_t5:" in said
    assert "encoder_decoder, 62,688 parameters, step 6, with Adafactor's state" in said
    assert "t5x-mini generate --checkpoint=runs/tiny_t5" in said


def test_logits_of_what_was_imported_are_those_of_t5xs_parameters(golden):
    imported = open_source(run_import(golden, kind="t5x", output="a folder/50%20"))
    model = dataclasses.replace(imported.origin.model, dtype="float32")
    shapes = transformer.param_shapes(model)
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:1]), ("data",)), PartitionSpec())
    params = restore_plan.load_params(imported, shapes, dict.fromkeys(shapes, sharding), model)
    t5x = goldens.stacked(goldens.under("params6", np.load(goldens.FOLDER / "adafactor_6_steps.npz")))
    batch = goldens.load("encdec_t5_1_1").batch
    forward = jax.jit(lambda params: transformer.bind(model, params)(batch), compiler_options=tiny.QUICK)
    assert goldens.error(forward(params), forward(t5x)) < 1e-5


def test_a_model_and_its_vocabulary_make_a_gin_file(opens, tmp_path):
    vocabulary = vocabularies.load("docs_8k", 100)
    opens(Made(vocabulary=vocabulary.path, step=30))
    folder = Path(run_import("google/t5-made-up", kind="hf"))
    assert (folder / "spiece.model").read_bytes() == Path(vocabulary.path).read_bytes()
    bindings = ["MIXTURE_OR_TASK_NAME=installed_docs_span_corruption", "BATCH_SIZE=8", "TRAIN_STEPS=3", "MODEL_DIR=x"]
    alone = config.load([f"{folder}/config.gin"], [*bindings, "TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 32}"])
    after_a_run = config.load(["gin/quickstart.gin", f"{folder}/config.gin"])
    for run in (alone, after_a_run):
        assert identity(run.model) == identity(Made().origin.model)
        assert run.feed.vocabulary == str(tmp_path / folder / "spiece.model")
        assert run.feed.extra_ids == 100

    origin = open_source(str(folder)).origin
    assert origin.step == 30
    assert Path(origin.vocabulary).read_bytes() == Path(vocabulary.path).read_bytes()
    assert origin.vocabulary_id == vocabularies.identity(vocabulary)


@pytest.mark.parametrize("architecture", ["prefix_lm", "causal_lm"])
def test_gin_files_of_decoder_only_models(architecture, opens):
    model = dataclasses.replace(tiny.model(architecture), vocab_size=384, num_encoder_layers=0)
    opens(Made(model=model, vocabulary="bytes", extra_ids=125))
    folder = run_import("x", kind="hf")
    run = config.load(["gin/quickstart.gin", f"{folder}/config.gin"])
    assert run.model.architecture == architecture
    assert (run.feed.vocabulary, run.feed.extra_ids) == ("bytes", 125)
    assert identity(run.model) == identity(model)


def test_without_a_vocabulary_the_gin_file_asks_for_it(opens, capsys):
    opens(Made())
    folder = run_import("x", kind="hf")
    with pytest.raises(UserError, match="These have no value: VOCABULARY"):
        config.load(["gin/quickstart.gin", f"{folder}/config.gin"])
    config.load(["gin/quickstart.gin", f"{folder}/config.gin"], ["VOCABULARY=docs_8k"])
    assert "it has no vocabulary: import it again with --vocabulary=PATH" in capsys.readouterr().out


def test_a_vocabulary_that_cannot_be_read_is_left_out(opens, capsys):
    opens(Made(vocabulary="gone/sentencepiece.model"))
    folder = run_import("x", kind="hf")
    assert "its vocabulary is left out: The vocabulary file 'gone/sentencepiece.model' does not exist" in (
        capsys.readouterr().out
    )
    assert not Path(folder, "spiece.model").exists()
    with pytest.raises(UserError, match="The vocabulary file 'gone/other.model' does not exist"):
        run_import("y", kind="hf", vocabulary="gone/other.model")


def test_a_vocabulary_of_too_many_ids_is_refused(golden):
    with pytest.raises(UserError, match=r"docs_8k has 8100 ids with its 100 extra ones, but .* embedding for 96"):
        run_import(golden, kind="t5x", vocabulary="docs_8k")
    assert not Path("runs").exists()


def test_the_step_is_the_checkpoints_or_the_given_one_or_0(opens, capsys):
    opens(Made())
    assert locate(run_import("a", kind="hf"))[1] == 0
    assert "it doesn't say its step: taken to be 0 (--step=N sets it)" in capsys.readouterr().out
    assert open_source("runs/a").origin.step is None, "not known, as of what was imported"
    assert locate(run_import("c", kind="hf", step=1_000_000))[1] == 1_000_000
    assert open_source("runs/c").read("step") == open_source("runs/c").origin.step == 1_000_000
    opens(Made(step=7))
    assert locate(run_import("b", kind="hf"))[1] == 7
    assert "taken to be 0" not in capsys.readouterr().out
    with pytest.raises(UserError, match=r"at step 7, and not at 9: leave out --step. .* name the one that is meant"):
        run_import("d", kind="hf", step=9)


@pytest.mark.parametrize(
    "path, name",
    [
        ("google/flan-t5-small", "flan-t5-small"),
        ("gs://t5-data/pretrained_models/t5x/t5_1_1_small/checkpoint_1000000", "t5_1_1_small"),
        ("gs://t5-data/pretrained_models/t5x/t5_1_1_small/", "t5_1_1_small"),
        ("checkpoint_3", "a_folder"),
    ],
)
def test_the_folder_is_named_after_the_checkpoint(path, name, opens, tmp_path, monkeypatch):
    (tmp_path / "a_folder").mkdir()
    monkeypatch.chdir(tmp_path / "a_folder")
    opens(Made())
    assert run_import(path, kind="hf") == f"runs/{name}"


# ---------------------------------------------------------------------------------------------- what is in the way


def test_an_existing_folder_is_kept_unless_it_may_be_overwritten(opens):
    opens(Made(step=3, vocabulary=vocabularies.load("docs_8k").path))
    folder = Path(run_import("x", kind="hf"))
    opens(Made(step=4))
    with pytest.raises(UserError, match=r"runs/x is there already, with checkpoints, config.gin, spiece.model\."):
        run_import("x", kind="hf")
    assert locate(str(folder))[1] == 3
    run_import("x", kind="hf", overwrite=True)
    assert [child.name for child in (folder / "checkpoints").iterdir()] == ["4"]
    assert not (folder / "spiece.model").exists()


def test_a_folder_of_other_things_is_left_alone(opens):
    Path("runs/x").mkdir(parents=True)
    Path("runs/x/notes.txt").write_text("mine")
    opens(Made())
    with pytest.raises(UserError, match=re.escape("runs/x is there already, with notes.txt. Write another folder")):
        run_import("x", kind="hf")
    run_import("x", kind="hf", overwrite=True)
    assert Path("runs/x/notes.txt").read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
def test_checkpoints_of_others_are_left_alone(opens, overwrite):
    Path("runs/x/checkpoints/lightning").mkdir(parents=True)
    opens(Made())
    with pytest.raises(UserError, match="runs/x/checkpoints holds lightning, which is no checkpoint of ours: nothing"):
        run_import("x", kind="hf", overwrite=overwrite)
    assert Path("runs/x/checkpoints/lightning").exists()


def test_a_run_with_checkpoints_of_its_own_is_never_overwritten(opens):
    Path("runs/x/checkpoints/100/position").mkdir(parents=True)
    opens(Made())
    with pytest.raises(UserError, match="runs/x holds a run with checkpoints of its own. Write another folder"):
        run_import("x", kind="hf", overwrite=True)
    assert Path("runs/x/checkpoints/100/position").exists()


def test_an_interrupted_import_leaves_no_checkpoint_and_can_be_repeated(opens, tmp_path):
    opens(Made(step=5, breaks="params/encoder/layers_0/b"))
    with pytest.raises(UserError, match="params/encoder/layers_0/b cannot be read"):
        run_import("x", kind="hf")
    with pytest.raises(UserError, match="There is no checkpoint in"):
        locate("runs/x")
    opens(Made(step=5))
    assert locate(run_import("x", kind="hf"))[1] == 5
    assert [child.name for child in Path("runs/x/checkpoints").iterdir()] == ["5"]


def test_only_t5xs_architecture_can_be_told():
    with pytest.raises(UserError, match="Only T5X's checkpoints don't say their architecture"):
        run_import("x", kind="hf", architecture="causal_lm")


def test_buckets_are_refused(opens):
    opens(Made())
    with pytest.raises(UserError, match="into a local folder, and not to gs://b/x"):
        run_import("x", kind="hf", output="gs://b/x")


# ----------------------------------------------------------------------------------------------------------- memory


def test_arrays_are_written_in_batches_that_are_not_too_large(monkeypatch):
    monkeypatch.setattr(array_writer, "_BATCH_BYTES", 10)
    assert array_writer._batches([4, 4, 4, 30, 2, 8, 1]) == [[0, 1], [2], [3], [4, 5], [6]]


MEASURE = """
import resource
import numpy as np
from t5x_mini.checkpoint import array_writer
from t5x_mini.checkpoint.run_item import RunItem
from t5x_mini.model.config import TransformerConfig

def write(folder, count):
    shapes = {f"params/{i}": (1024, 4096) for i in range(count)}
    read = lambda name: np.full((1024, 4096), int(name[7:]), np.float32) + np.arange(4096, dtype=np.float32)
    array_writer.write(folder, 1, shapes, read, RunItem(model=TransformerConfig(vocab_size=8)))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small = write("small", 1)
print((write("large", 96) - small) / (96 * 16 * 1024))
"""


@pytest.mark.slow
def test_a_model_is_never_in_memory_as_a_whole(tmp_path):
    """1.5 GiB of arrays: a batch is 256 MiB, and Orbax compresses a copy of it."""
    env = os.environ | {"PYTHONPATH": str(Path(import_checkpoint.__file__).parents[2]), "XLA_FLAGS": ""}
    ran = subprocess.run([sys.executable, "-c", MEASURE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) < 0.6
