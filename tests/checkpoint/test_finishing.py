import shutil
import threading

import pytest
from made_up_checkpoints import make

from t5x_mini.checkpoint import manifest, steps
from t5x_mini.checkpoint.config import CheckpointConfig
from t5x_mini.checkpoint.finishing import Finishing

ORDER = pytest.mark.damage("What is kept is removed only after the next checkpoint is complete, whatever fails.")


@pytest.fixture
def run(tmp_path):
    """Two complete checkpoints, and a third whose arrays are written."""
    for step in (1, 2):
        make(tmp_path, step, metrics={"loss": float(step)}, best_metric="loss")
    make(tmp_path, 3, with_manifest=False)
    return tmp_path


def finish(run, config, arrays_are_written=lambda: None, step=3):
    finishing = Finishing(run, config, "loss")
    finishing.start(step, {"loss": 3.0}, arrays_are_written)
    finishing.wait()
    assert not finishing.is_running


def test_the_manifest_says_what_was_saved(run):
    finish(run, CheckpointConfig(keep=None))
    checkpoint = run / "checkpoints" / "3"
    found = manifest.read(checkpoint)
    assert (found.metrics, found.best_metric) == ({"loss": 3.0}, "loss")
    assert set(found.files) == {"_CHECKPOINT_METADATA", "state/data"}
    assert manifest.check(checkpoint, found) == []
    assert steps.steps_of(run) == [1, 2, 3]


def test_what_is_not_kept_goes_when_the_next_is_complete(run):
    finish(run, CheckpointConfig(keep=1))
    assert steps.steps_of(run) == [1, 3]  # 1 is the best


@ORDER
def test_nothing_happens_before_the_arrays_are_written(run):
    written = threading.Event()
    finishing = Finishing(run, CheckpointConfig(keep=1), None)
    finishing.start(3, {}, written.wait)
    assert finishing.is_running
    assert steps.steps_of(run) == [1, 2]
    written.set()
    finishing.wait()
    assert steps.steps_of(run) == [3]


@ORDER
def test_where_the_arrays_fail_nothing_is_removed(run):
    def fail():
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        finish(run, CheckpointConfig(keep=1), fail)
    assert steps.steps_of(run) == [1, 2]


@ORDER
def test_where_the_manifest_fails_nothing_is_removed(run, monkeypatch):
    def fail(folder, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "write", fail)
    finishing = Finishing(run, CheckpointConfig(keep=1), "loss")
    finishing.start(3, {}, lambda: None)
    with pytest.raises(OSError, match="No space left"):
        finishing.wait()
    assert steps.steps_of(run) == [1, 2]
    finishing.wait()  # it is raised once
    monkeypatch.undo()
    finish(run, CheckpointConfig(keep=1))
    assert steps.steps_of(run) == [1, 3]


@ORDER
def test_a_folder_that_vanishes_during_the_save_is_an_error(run):
    def vanish():
        shutil.rmtree(run / "checkpoints")

    with pytest.raises(FileNotFoundError):
        finish(run, CheckpointConfig(), vanish)


def test_what_cannot_be_removed_is_a_warning(run, monkeypatch, caplog):
    def fail(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(steps, "remove", fail)
    finish(run, CheckpointConfig(keep=1))
    assert steps.steps_of(run) == [1, 2, 3]
    assert "could not be removed: the file system is read-only" in caplog.text
