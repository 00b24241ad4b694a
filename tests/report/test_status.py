"""Tests of t5x_mini/report/status.py: what can be said of a run from its folder, here and in a bucket."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import fake_servers
import made_up_runs
import pytest

from t5x_mini import cli
from t5x_mini.errors import UserError
from t5x_mini.report.status import duration, lines, read_status
from t5x_mini.storage import to_path
from t5x_mini.train import run_lock, run_log
from t5x_mini.train.run_lock import Holder

SPENT = {"steps": 60.0, "data": 5.0, "checkpoints": 3.0, "evaluation": 2.0, "compilation": 20.0, "start_up": 10.0}
NOTE = {"run": "abcd", "restart": 0, "step": 120, "total_steps": 1000, "spent": SPENT}
NOTE |= {"seconds_per_step": 0.5, "seconds_between_steps": 0.6}


@pytest.fixture
def folder(tmp_path):
    """A run that was killed at step 120 of 1000, on a machine that can't be seen from here."""
    return killed_run(tmp_path / "run")


def killed_run(folder):
    log(folder, ("start", 0, {"total_steps": 1000, "began": run_log.to_time(time.time() - 400)}), ago=390)
    log(folder, ("evaluation", 100, {}), ("checkpoint", 100, {"spent": {**SPENT, "steps": 50.0}}), ago=320)
    checkpoint(folder, 100)
    hold(folder, machine="elsewhere", time=run_log.to_time(time.time() - 300))
    return folder


def checkpoint(folder, step):
    """One that is complete, as far as can be seen without reading it."""
    (folder / "checkpoints" / str(step)).mkdir(parents=True)
    (folder / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").write_text('{"commit_timestamp_nsecs": 1}')


def log(folder, *events, restart=0, ago=1):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / run_log.NAME).open("a") as file:
        for event, step, more in events:
            line = {"time": run_log.to_time(time.time() - ago), "run": "abcd", "restart": restart, "level": "info"}
            file.write(json.dumps({**line, "event": event, "step": step, **more}) + "\n")


def hold(folder, **changes):
    machine, process = run_lock.this_machine(), run_lock.process_start(os.getppid())
    one = Holder("1234", "host-7", os.getppid(), machine, process, run_log.to_time(time.time()), NOTE)
    (folder / run_lock.NAME).write_bytes(dataclasses.replace(one, **changes).to_bytes())


def printed(folder):
    return "\n".join(lines(read_status(str(folder))))


def test_of_a_run_that_was_killed(folder):
    status = read_status(str(folder))
    assert (status.state, status.host, status.pid, status.step) == ("died", "host-7", os.getppid(), 120)
    assert (status.run, status.restarts, status.total_steps, status.checkpoint) == ("abcd", 0, 1000, 100)
    assert 299 < status.heartbeat_age_s < 400 and 319 < status.checkpoint_age_s < 400 and status.eta_s is None
    assert status.goodput.spent["steps"] == 60.0
    text = printed(folder)
    for words in (
        "dead: process",
        "on host-7, last heard of 5 min",
        "step          120 of 1,000 (12.0%)",
        "step 100, ",
    ):
        assert words in text
    assert "goes on from its newest checkpoint" in text and "steps that count" in text


def test_the_step_is_the_last_that_was_heard_of_be_it_a_heartbeat_or_a_line(folder):
    log(folder, ("checkpoint", 150, {}))
    assert read_status(str(folder)).step == 150  # it was killed before its next heartbeat
    hold(folder)
    assert read_status(str(folder)).step == 120  # it has rolled back since


def test_of_a_run_that_is_going_on_elsewhere_or_here(folder):
    for changes in ({"machine": "elsewhere"}, {}):
        hold(folder, **changes)
        status = read_status(str(folder))
        assert status.state == "running" and status.eta_s == pytest.approx(880 * 0.6) and status.seconds_per_step == 0.5
        text = printed(folder)
        assert "running: process" in text and "0.5 s a step; 8 min 48 s left" in text


def test_of_a_run_that_has_not_made_a_step_yet(folder):
    hold(folder, note={})
    assert read_status(str(folder)).state == "starting"
    assert read_status(str(folder)).step == 100
    (folder / run_log.NAME).unlink()
    assert read_status(str(folder)).step is None and "starting: process" in printed(folder)


def test_of_a_process_that_is_gone_from_this_machine(folder):
    hold(folder, process="1")
    assert read_status(str(folder)).state == "died"


def test_of_runs_that_have_ended(folder):
    (folder / run_lock.NAME).unlink()
    log(folder, ("stopped", 120, {"level": "warning", "text": "SIGTERM"}))
    assert read_status(str(folder)).state == "stopped" and "stopped by a signal" in printed(folder)
    log(folder, ("start", 100, {}), ("error", 110, {"level": "error", "text": "The loss is nan\nmore"}), restart=1)
    assert read_status(str(folder)).state == "failed"
    assert "step 110: The loss is nan" in printed(folder) and "more" not in printed(folder)
    log(folder, ("error", 111, {"level": "error", "text": "Traceback (most recent call last):\n  x\nKeyError: 3"}))
    assert "step 111: KeyError: 3" in printed(folder)
    (folder / "complete.json").write_text("{}")
    assert read_status(str(folder)).state == "complete"
    assert read_status(str(folder)).last_error["step"] == 111


def test_of_a_run_of_an_earlier_version(tmp_path):
    folder = made_up_runs.write_run(tmp_path / "one")
    checkpoint(folder, 50)
    status = read_status(str(folder))
    assert (status.state, status.run, status.goodput, status.checkpoint) == ("not running", None, None, 50)
    assert status.checkpoint_age_s is not None and "not running" in printed(folder)


def test_of_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        read_status(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="is not a run"):
        read_status(str(tmp_path))


def test_for_scripts_it_is_json(folder, capsys):
    assert cli.main(["status", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["state"] == "died" and found["goodput"]["spent"]["steps"] == 60.0
    assert found["goodput"]["fraction"] == pytest.approx(60 / found["goodput"]["wall_s"])
    assert found["last_error"] is None


def test_whatever_a_lock_says_it_is_told(folder):
    for note in ({"step": "x"}, {"step": True, "total_steps": 0}, {"seconds_per_step": float("nan"), "spent": 3}):
        hold(folder, note=note, time="soon")
        json.dumps(read_status(str(folder)).to_json(), allow_nan=False)
        assert printed(folder)


def test_it_works_from_any_machine_that_can_read_the_bucket(tmp_path, monkeypatch):
    folder = killed_run(tmp_path / "run")
    files = {}
    with fake_servers.serving(files) as (address, _):
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        there = to_path("gs://status-bucket/run")
        for name in (run_lock.NAME, run_log.NAME):
            (there / name).write_bytes((folder / name).read_bytes())
        status = read_status(str(there))
    assert (status.state, status.step, status.host) == ("died", 120, "host-7")


def test_it_starts_without_jax_tensorflow_or_orbax(folder):
    code = "import sys; from t5x_mini.cli import main; main(['status', sys.argv[1]]);"
    code += "print([name for name in ('jax', 'tensorflow', 'orbax', 'tensorstore') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert done.stdout.endswith("[]\n") and "dead: process" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.25, "0.2 s"),
        (45, "45 s"),
        (9.99, "10 s"),
        (125, "2 min 5 s"),
        (720, "12 min"),
        (12_000, "3 h 20 min"),
        (187_200, "2 d 4 h"),
        (5399, "1 h 30 min"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words
