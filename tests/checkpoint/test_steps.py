import shutil

import pytest
from made_up_checkpoints import METADATA, earlier, make

from t5x_mini.checkpoint import manifest, steps
from t5x_mini.checkpoint.manifest import Manifest

INTERRUPTED = pytest.mark.damage("An interrupted save, copy or removal leaves nothing that counts as a checkpoint.")


@INTERRUPTED
def test_a_checkpoint_counts_once_it_has_its_manifest(tmp_path):
    make(tmp_path, 1)
    make(tmp_path, 2, with_manifest=False)
    earlier(tmp_path, 3)
    earlier(tmp_path, 4, finished=False)
    (tmp_path / "checkpoints" / "5").mkdir()  # a copy cut short
    (tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "checkpoints" / "notes").mkdir()
    assert steps.steps_of(tmp_path) == [1, 3]
    assert steps.numbered(tmp_path) == [1, 2, 3, 4, 5]
    assert steps.steps_of(tmp_path / "nothing") == []


@INTERRUPTED
@pytest.mark.parametrize("metadata", [b"", b"{", b"[]", b"\xff", b'{"custom_metadata": 3}'])
def test_metadata_that_say_nothing_make_nothing_complete(tmp_path, metadata):
    folder = earlier(tmp_path, 1)
    (folder / METADATA).write_bytes(metadata)
    assert steps.steps_of(tmp_path) == []


@INTERRUPTED
def test_a_copy_cut_short_anywhere_never_counts_as_good(tmp_path, record_property):
    """Files come in some order; up to the last one, the copy doesn't count, or is found damaged."""
    whole = make(tmp_path / "run", 1)
    names = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    record_property("trials", 2 * len(names))
    for order in (names, names[::-1]):
        for count in range(len(order)):
            shutil.rmtree(tmp_path / "copy", ignore_errors=True)
            for name in order[:count]:
                target = tmp_path / "copy" / steps.FOLDER / "1" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(whole / name, target)
            folder = tmp_path / "copy" / steps.FOLDER / "1"
            assert not steps.steps_of(tmp_path / "copy") or manifest.check(folder, manifest.read(folder))


@INTERRUPTED
def test_what_was_interrupted_is_removed(tmp_path):
    make(tmp_path, 1)
    make(tmp_path, 2, with_manifest=False)
    earlier(tmp_path, 3)
    (tmp_path / "checkpoints" / "notes").mkdir()
    assert steps.remove_interrupted(tmp_path) == [2]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "3", "notes"]
    assert steps.remove_interrupted(tmp_path / "nothing") == []


@INTERRUPTED
def test_a_removal_that_is_interrupted_leaves_no_checkpoint(tmp_path, monkeypatch):
    make(tmp_path, 1)

    def interrupted(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        steps.remove(tmp_path, 1)
    assert steps.numbered(tmp_path) == []
    (left,) = (tmp_path / "checkpoints").iterdir()
    assert left.name == "1.orbax-checkpoint-tmp-deleted"  # which the next process that saves removes


def test_what_is_set_aside_is_not_lost(tmp_path):
    for _ in range(2):
        make(tmp_path, 1)
        steps.set_aside(tmp_path, 1, steps.DAMAGED)
    assert steps.numbered(tmp_path) == []
    aside = tmp_path / "damaged_checkpoints"
    assert sorted(path.name for path in aside.iterdir()) == ["1", "1-2"]
    assert (aside / "1-2" / "state" / "data").read_bytes() == b"arrays"


def test_the_best_by_what_earlier_versions_wrote(tmp_path):
    earlier(tmp_path, 10, best=40.0)
    earlier(tmp_path, 20, best=60.0)
    earlier(tmp_path, 30)
    assert steps.best_step(tmp_path / steps.FOLDER) == 20
    assert steps.manifests(tmp_path)[20] == Manifest({}, {"average": 60.0}, "average", 5e-9)
    assert steps.best_step(tmp_path / "nothing" / steps.FOLDER) is None


def test_a_manifest_that_cannot_be_read_says_nothing(tmp_path):
    folder = make(tmp_path, 10)
    (folder / manifest.NAME).write_text("{")
    assert steps.manifests(tmp_path) == {10: Manifest({})}
    assert steps.best_step(tmp_path / steps.FOLDER) is None
