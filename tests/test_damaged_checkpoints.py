"""Checkpoints that are damaged on purpose, and what every command makes of them, through the real command line."""

import json
import random
import shutil

import jax
import numpy as np
import pytest
from processes import command_line
from tiny_runs import arrays, run, steps_on_disk, tiny, training_rows, without_times

from t5x_mini.checkpoint import manifest

FALLS_BACK = pytest.mark.damage("A run falls back to the newest good checkpoint, or stops if it is told to be strict.")
NAMED = pytest.mark.damage("A damaged checkpoint is found, and its files named, before anything is restored.")
KEEP_ALL = {"CHECKPOINTS_TO_KEEP": None, "DROPOUT_RATE": 0.1}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    with tiny(tmp_path_factory.mktemp("damage")) as made:
        yield made


@pytest.fixture(scope="module")
def trained(work):
    """A run of 30 steps that nobody touches, with checkpoints of 10, 20 and 30."""
    folder = work.folder / "trained"
    done = work.run("train", MODEL_DIR=str(folder), **KEEP_ALL)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def copy(trained, tmp_path):
    """The same, to be damaged."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def missing(path, rng):
    path.unlink()


def cut_short(path, rng):
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def files_of(run_dir, step):
    """What the manifest lists, the largest first."""
    checkpoint = run_dir / "checkpoints" / str(step)
    found = manifest.read(checkpoint)
    return sorted(
        (checkpoint / name for name in found.files if found.files[name].size), key=lambda path: -path.stat().st_size
    )


@FALLS_BACK
@pytest.mark.parametrize(
    "damage", [flip, pytest.param(missing, marks=pytest.mark.slow), pytest.param(cut_short, marks=pytest.mark.slow)]
)
def test_a_run_goes_on_from_the_newest_good_checkpoint_as_if_nothing_had_been(work, trained, copy, damage):
    rng = random.Random(7)
    arrays_of_30 = files_of(copy, 30)[0]
    for path in (arrays_of_30, rng.choice(files_of(copy, 20))):
        damage(path, rng)
    done = work.run("train", MODEL_DIR=str(copy), **KEEP_ALL)
    assert done.code == 0, done.err
    name = arrays_of_30.relative_to(copy / "checkpoints" / "30")
    assert f"The checkpoint {copy}/checkpoints/30 is damaged:\n    {name} " in done.out
    assert f"The checkpoint {copy}/checkpoints/20 is damaged:" in done.out
    assert "The newest good checkpoint is that of step 10; what is damaged is in" in done.out
    assert f"resuming from step 10 in {copy}" in done.out
    assert sorted(path.name for path in (copy / "damaged_checkpoints").iterdir()) == ["20", "30"]
    assert steps_on_disk(copy) == [10, 20, 30]
    for step in (20, 30):
        checkpoint = copy / "checkpoints" / str(step)
        assert manifest.check(checkpoint, manifest.read(checkpoint)) == []
    jax.tree.map(np.testing.assert_array_equal, arrays(copy, 30), arrays(trained, 30))
    assert without_times(training_rows(copy)) == without_times(training_rows(trained))


@FALLS_BACK
def test_a_strict_run_stops_and_changes_nothing(work, copy):
    flip(files_of(copy, 30)[0], random.Random(1))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    done = work.run("train", MODEL_DIR=str(copy), ON_DAMAGED_CHECKPOINT="stop", **KEEP_ALL)
    assert done.code == 1
    assert len(done.err.splitlines()) <= 10
    assert f"{copy}/checkpoints/30 is damaged:" in done.err and "ON_DAMAGED_CHECKPOINT=fall_back" in done.err
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


@NAMED
@pytest.mark.parametrize("item", ["state", "run"])
def test_every_command_that_reads_a_damaged_checkpoint_names_the_file(work, copy, tmp_path, item):
    path = max((path for path in files_of(copy, 30) if f"/{item}/" in str(path)), key=lambda path: path.stat().st_size)
    flip(path, random.Random(2))
    checkpoint = f"{copy}/checkpoints/30"
    text = tmp_path / "questions.txt"
    text.write_text("the old captain <extra_id_0>\n")
    elsewhere = {"MODEL_DIR": str(tmp_path / "other")}
    commands = {
        "eval": work.arguments("eval", CHECKPOINT_PATH=checkpoint, **elsewhere),
        "infer": work.arguments("infer", CHECKPOINT_PATH=checkpoint, INFER_INPUT=str(text), **elsewhere),
        "train": work.arguments("train", INITIAL_CHECKPOINT_PATH=checkpoint, **elsewhere),
        "generate": ["generate", f"--checkpoint={checkpoint}", "the old captain <extra_id_0>"],
        "export": ["export", checkpoint, str(tmp_path / "exported")],
    }
    for name, arguments in commands.items():
        done = run(arguments)
        assert done.code == 1, (name, done)
        assert f"The checkpoint {checkpoint} is damaged:" in done.err, (name, done.err)
        assert f"    {path.relative_to(checkpoint)} has other bytes than were written" in done.err, name
        assert f"or name another of this run's checkpoints (10, 20): {copy}/checkpoints/STEP" in done.err, name
        assert len(done.err.splitlines()) <= 10


def test_a_row_of_metrics_is_beside_each_checkpoint(trained):
    rows = {row["step"]: row for row in training_rows(trained)}
    for step in (10, 20, 30):
        found = manifest.read(trained / "checkpoints" / str(step))
        assert found.metrics["train/loss"] == rows[step]["loss"]


@pytest.mark.slow
def test_the_best_by_a_training_metric_are_kept(work, tmp_path):
    macros = {"BEST_METRIC": "train/accuracy", "BEST_CHECKPOINTS_TO_KEEP": 2, "CHECKPOINTS_TO_KEEP": 1}
    done = work.run("train", MODEL_DIR=str(tmp_path / "run"), CHECKPOINT_PERIOD=3, CHECKPOINT_KEEP_PERIOD=12, **macros)
    assert done.code == 0, done.err
    accuracy = {row["step"]: row["accuracy"] for row in training_rows(tmp_path / "run") if row["step"] % 3 == 0}
    best = sorted(accuracy, key=lambda step: (-accuracy[step], step))[:2]
    assert steps_on_disk(tmp_path / "run") == sorted({*best, 30, 12, 24})
    done = work.run("train", MODEL_DIR=str(tmp_path / "other"), BEST_METRIC="train/acuracy")
    assert done.code == 1 and "did you mean train/accuracy" in done.err
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
@NAMED
def test_many_random_damages_are_all_found(trained, tmp_path, record_property):
    """Each of 200 is in another file or at another place, and found without the arrays being touched."""
    trials, rng = 200, random.Random(20260)
    record_property("trials", trials)
    for trial in range(trials):
        target = tmp_path / "30"
        shutil.copytree(trained / "checkpoints" / "30", target)
        files = [path for path in target.rglob("*") if path.is_file() and path.stat().st_size]
        # As often as bytes are damaged: by size; and every other time any file alike.
        weights = [path.stat().st_size for path in files] if trial % 2 else None
        (path,) = rng.choices(files, weights)
        damage = rng.choice((flip, missing, cut_short))
        damage(path, rng)
        found = None
        try:
            known = manifest.read(target)
            found = known and [problem.path for problem in manifest.check(target, known)]
        except manifest.ManifestError:
            found = [manifest.NAME]
        wanted = path.relative_to(target).as_posix()
        if wanted == manifest.NAME and damage is missing:
            assert known is None
        elif wanted == manifest.NAME and found == []:
            assert json.loads(path.read_bytes())  # the space between two words
        else:
            assert found == [wanted], (trial, damage.__name__)
        shutil.rmtree(target)


@pytest.mark.slow
@FALLS_BACK
def test_two_hosts_fall_back_together(work, tmp_path):
    run_dir = tmp_path / "run"

    def train(name, steps):
        arguments = work.arguments("train", MODEL_DIR=str(run_dir), TRAIN_STEPS=steps, **KEEP_ALL)
        with command_line(work.folder, name, arguments, count=2, devices=1) as hosts:
            return hosts.succeed()[0]

    train("first", 30)
    before = without_times(training_rows(run_dir))
    flip(files_of(run_dir, 30)[0], random.Random(3))
    printed = train("second", 35)
    assert "The newest good checkpoint is that of step 20; what is damaged is in" in printed
    assert steps_on_disk(run_dir) == [10, 20, 30, 35]
    assert [path.name for path in (run_dir / "damaged_checkpoints").iterdir()] == ["30"]
    assert without_times(training_rows(run_dir))[:30] == before
    for step in (30, 35):
        checkpoint = run_dir / "checkpoints" / str(step)
        assert manifest.check(checkpoint, manifest.read(checkpoint)) == []
