"""Tests of t5x_mini/train/presence.py: what others see of a run, through the real command line."""

import json
import logging
import signal
import subprocess
import sys
import time

import fake_servers
import pytest
import tiny_runs

from t5x_mini import cli
from t5x_mini.errors import FolderLostError, Terminated, UserError
from t5x_mini.report.status import read_status
from t5x_mini.storage import to_path
from t5x_mini.train import run_lock
from t5x_mini.train.metrics import Clock
from t5x_mini.train.presence import Presence
from t5x_mini.train.run_log import read_log

DAMAGE = pytest.mark.damage("Of two runs in one folder the second is refused; what a dead one held is taken over.")
QUIET = logging.getLogger("t5x_mini.tests")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with tiny_runs.tiny(tmp_path_factory.mktemp("tiny")) as tiny:
        yield tiny


def events(folder):
    return [(line["restart"], line["event"], line["step"], line["level"]) for line in read_log(folder)]


def test_a_run_writes_down_what_happens_to_it(tmp_path):
    folder = tmp_path / "run"
    clock = Clock()
    with Presence(folder, 10) as presence:
        assert run_lock.holder(folder).alive
        presence.begin(0, clock)
        presence.note(0)
        with clock.lost("evaluation"):
            pass
        presence.event("evaluation", 4)
        QUIET.warning("the disk is slow")
        presence.event("checkpoint", 5)
    assert run_lock.holder(folder) is None
    assert events(folder) == [
        *((0, "start", 0, "info"), (0, "evaluation", 4, "info"), (0, "warning", 4, "warning")),
        *((0, "checkpoint", 5, "info"), (0, "complete", 5, "info")),
    ]
    last = read_log(folder)[-1]["spent"]
    assert set(last) == {*("steps", "data", "checkpoints", "evaluation", "compilation", "start_up", "other")}
    QUIET.warning("later")
    assert len(read_log(folder)) == 5


@pytest.mark.parametrize(
    "error, line",
    [
        (UserError("The loss is nan, says https://me:hunter2@host"), ("error", "error", "The loss is nan, says https")),
        (KeyError("surprise"), ("error", "error", "Traceback (most recent call last):")),
        (Terminated("SIGTERM: stopped after step 3.", signal.SIGTERM), ("stopped", "warning", "SIGTERM: stopped")),
        (KeyboardInterrupt(), ("stopped", "warning", "KeyboardInterrupt")),
    ],
)
def test_whatever_ends_a_run_is_its_last_line_and_gives_the_folder_back(tmp_path, error, line):
    with pytest.raises(type(error)), Presence(tmp_path, 10) as presence:
        presence.begin(2, Clock())
        presence.note(3)
        raise error
    last = read_log(tmp_path)[-1]
    assert (last["event"], last["level"], last["text"][: len(line[2])], last["step"]) == (*line, 3)
    assert "hunter2" not in json.dumps(last) and last["spent"]["steps"] >= 0
    assert run_lock.holder(tmp_path) is None


def test_a_refused_run_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="no such task"), Presence(tmp_path / "run", 10):
        QUIET.warning("on the way")
        raise UserError("no such task")
    assert not (tmp_path / "run").exists()


@DAMAGE
@pytest.mark.parametrize("place", ["disk", "bucket"])
def test_a_run_whose_folder_was_taken_writes_nothing_more(tmp_path, monkeypatch, place):
    with fake_servers.serving({}) as (address, _):
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        folder = tmp_path if place == "disk" else to_path(f"gs://presence-{time.monotonic_ns()}/run")
        with pytest.raises(FolderLostError, match="taken over"), Presence(folder, 10) as presence:
            presence.begin(0, Clock())
            presence.event("evaluation", 1)
            presence._lock._thief = "process 1 on host-7"
            (folder / "log.jsonl").write_bytes(b"the other's\n")
            presence.note(1)
        assert (folder / "log.jsonl").read_bytes() == b"the other's\n"


def test_time_before_the_first_step_is_the_start_and_lost_time_is_none_of_the_steps(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock(lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    with Presence(tmp_path, 10, began=time.time() - 3) as presence:
        presence.begin(0, clock)
        passes(2)
        with clock.lost("compilation"):
            passes(20)
        presence.note(0)
        for step in range(1, 5):
            with clock.lost("data"):
                passes(0.5)
            passes(1)
            presence.note(step)
        with clock.lost("evaluation"):
            passes(7)
        presence.event("evaluation", 4)
        note = presence._lock._note
        passes(4)
    last = {name: round(seconds, 1) for name, seconds in read_log(tmp_path)[-1]["spent"].items()}
    expected = {"steps": 4.0, "data": 2.0, "checkpoints": 0.0, "evaluation": 7.0, "compilation": 20.0}
    assert last == {**expected, "start_up": 5.0, "other": 4.0}
    assert note["seconds_per_step"] == pytest.approx(1.5) and note["seconds_between_steps"] == pytest.approx(13 / 4)


# The real command


HOLD = """
import sys, time
from pathlib import Path
from t5x_mini.train.run_lock import Lock

Lock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(1000)
"""
SECRETS = {"HF_TOKEN": "hunter2-of-the-hub", "AWS_SECRET_ACCESS_KEY": "hunter2+of/amazon"}
URL = "https://me:hunter2@host/x.txt?X-Goog-Signature=hunter2"


@pytest.fixture(scope="module")
def taken_over(tiny):
    """The folder of a run that was refused while another process held it, and trained when that was dead; the refusal;
    what was in the folder then; the number of the process."""
    folder = tiny.folder / "runs" / "taken_over"
    arguments = (f"--gin.unused/PretrainingTask.files={{'train': '{URL}', 'test': '{SECRETS['HF_TOKEN']}'}}",)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as first:
            assert first.stdout.readline() == "held\n"
            refused = tiny.run("train", *arguments, MODEL_DIR=str(folder), TRAIN_STEPS=2)
            left = [path.name for path in folder.iterdir()]
            first.kill()
        finished = tiny.run("train", *arguments, MODEL_DIR=str(folder), TRAIN_STEPS=2)
        assert finished.code == 0, finished.err
        QUIET.warning("never seen")
    return folder, refused, left, first.pid


@DAMAGE
def test_a_second_run_is_refused_and_goes_on_once_the_first_is_dead(taken_over, capsys):
    folder, refused, left, pid = taken_over
    assert refused.code == 1 and f"is being trained in already: process {pid} on" in refused.err
    assert left == [run_lock.NAME]
    assert events(folder)[0] == (0, "start", 0, "info") and "previous" in read_log(folder)[0]
    assert not (folder / run_lock.NAME).exists()
    assert cli.main(["status", str(folder)]) == 0
    assert "complete" in capsys.readouterr().out


@pytest.mark.damage("Secrets reach neither logs nor saved configurations.")
def test_no_file_of_a_run_holds_a_secret(taken_over):
    folder = taken_over[0]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if b"hunter2" in path.read_bytes()]
    for path in (folder / "config.gin", *folder.glob("checkpoints/*/run/metadata"), *folder.glob("tensorboard/*")):
        assert b"https://[redacted]@host/x.txt?X-Goog-Signature=[redacted]" in path.read_bytes(), path


@DAMAGE
@pytest.mark.slow
def test_of_two_real_runs_the_second_is_refused_and_status_knows_of_the_killed_one(tiny, tmp_path):
    folder = tmp_path / "run"
    arguments = tiny.arguments("train", MODEL_DIR=str(folder), CHECKPOINT_PERIOD=10, TRAIN_STEPS=100_000)
    command = [sys.executable, "-m", "t5x_mini", *arguments]
    with subprocess.Popen(command, env=tiny.environment(), stdout=subprocess.DEVNULL) as first:
        limit = time.monotonic() + 240
        while not folder.exists() or not tiny_runs.steps_on_disk(folder):
            assert first.poll() is None and time.monotonic() < limit
            time.sleep(0.05)
        second = tiny.run("train", MODEL_DIR=str(folder), TRAIN_STEPS=100_000, CHECKPOINT_PERIOD=10)
        assert second.code == 1 and f"is being trained in already: process {first.pid} on" in second.err
        assert first.poll() is None
        running = read_status(str(folder))
        assert running.state in ("starting", "running") and running.pid == first.pid  # it has yet to say how far it is
        first.kill()
    dead = read_status(str(folder))
    assert dead.state == "died" and dead.checkpoint is not None
    steps = dead.checkpoint + 10
    finished = tiny.run("train", MODEL_DIR=str(folder), TRAIN_STEPS=steps, CHECKPOINT_PERIOD=10)
    assert finished.code == 0, finished.err
    status = read_status(str(folder))
    assert (status.state, status.step, status.restarts) == ("complete", steps, 1)
    assert status.goodput.spent["steps"] > 0 and status.goodput.spent["down"] > 0
    assert {line["run"] for line in read_log(folder)} == {status.run}
