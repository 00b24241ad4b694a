"""Disks that are full, read-only or gone while a run trains on them: a real, small one, in a mount namespace."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs
from tiny_runs import steps_on_disk, training_rows, without_times

STEPS = 40
MACROS = {"TRAIN_STEPS": STEPS, "CHECKPOINT_PERIOD": 10, "EVAL_PERIOD": 20}
PROMISE = "A full, read-only or vanished disk: training goes on if it can, and what is safe is said."


def namespaces_are_missing():
    """Why no disk can be mounted here; None: one can."""
    try:
        command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return "there is no unshare here"
    return done.stderr.strip() or None


pytestmark = [
    pytest.mark.damage(PROMISE),
    pytest.mark.skipif(bool(namespaces_are_missing()), reason=f"no disk can be mounted: {namespaces_are_missing()}"),
]


# What TensorStore prints of writes that ended after Orbax had given up; the manager holds most of it back.
LOOP_CLOSED = r"Traceback [^\n]*\n(?:  [^\n]*\n)+RuntimeError: Event loop is closed\n"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny


@pytest.fixture(scope="module")
def undisturbed(tiny):
    folder = tiny.folder / "undisturbed"
    finished = tiny.run("train", MODEL_DIR=str(folder), **MACROS)
    assert finished.code == 0, finished.err
    return without_times(training_rows(folder))


def train(tiny, scenario, folder, **macros):
    """Exit status, what was printed, and the folder with what is left of the run."""
    arguments = tiny.arguments("train", MODEL_DIR=str(folder / "disk" / "run"), **MACROS | macros)
    script = [sys.executable, Path(__file__).with_name("small_disk.py"), scenario, folder, *arguments]
    command = ["unshare", "--map-root-user", "--mount", *script]
    done = subprocess.run(command, env=tiny.environment(), cwd=folder, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    assert "it came to nothing" not in done.stderr, done.stderr
    printed = (folder / "printed").read_text()
    assert "Traceback" not in re.sub(LOOP_CLOSED, "", printed)
    return done.returncode, printed, folder / "run"


def assert_nothing_is_lost(run, undisturbed):
    assert without_times(training_rows(run)) == undisturbed
    assert steps_on_disk(run)[-1] == STEPS
    assert not [path for path in (run / "checkpoints").iterdir() if "tmp" in path.name]


def test_a_disk_that_fills_up_and_is_freed_costs_nothing(tiny, undisturbed, tmp_path):
    code, printed, run = train(tiny, "fills_up_for_a_while", tmp_path)
    assert code == 0, printed
    assert_nothing_is_lost(run, undisturbed)
    assert "the disk is full (df -h, and df -i for the number of files): remove what isn't needed there." in printed
    assert re.search(r"Safe is the checkpoint of step \d+0. Training goes on; the next attempt is in 1 s", printed)


@pytest.mark.slow
def test_a_disk_that_stays_full_ends_the_run_which_goes_on_later(tiny, undisturbed, tmp_path):
    code, printed, run = train(tiny, "stays_full", tmp_path, SAVE_RETRIES=1)
    assert code == 1
    error = printed[printed.index("t5x-mini: error: ") :]
    assert re.search(r"The state of step \d+ could not be saved, 2 times in a row \(SAVE_RETRIES = 1\)", error)
    safe = int(re.search(r"Safe is the checkpoint of step (\d+), and what came after it is lost", error)[1])
    assert safe == steps_on_disk(run)[-1]
    assert len(error.splitlines()) <= 10
    finished = tiny.run("train", MODEL_DIR=str(run), **MACROS)
    assert finished.code == 0, finished.err
    assert f"resuming from step {safe} in" in finished.out
    assert_nothing_is_lost(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "words"), [("is_full_from_the_start", "the disk is full"), ("is_read_only", "is read-only")]
)
def test_a_disk_that_takes_nothing_is_refused_at_the_start(tiny, tmp_path, scenario, words):
    code, printed, _ = train(tiny, scenario, tmp_path)
    assert code == 1
    assert words in printed[printed.index("t5x-mini: error: ") :]
    assert "step 1/" not in printed


@pytest.mark.slow
def test_a_folder_that_vanishes_and_comes_back_costs_nothing(tiny, undisturbed, tmp_path):
    code, printed, run = train(tiny, "run_vanishes_for_a_while", tmp_path)
    assert code == 0, printed
    assert "it is not there any more: mount it again, or make the folder again" in printed
    assert_nothing_is_lost(run, undisturbed)


@pytest.mark.slow
def test_a_folder_that_was_removed_is_not_made_again_behind_its_owners_back(tiny, tmp_path):
    code, printed, run = train(tiny, "run_is_removed", tmp_path, SAVE_RETRIES=2)
    assert code == 1
    assert "it is not there any more" in printed
    assert "There is no checkpoint there now, and what was trained is lost" in printed
    assert not run.exists()
