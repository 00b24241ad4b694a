"""Tests of t5x_mini/train/run_log.py: lines are never lost, never torn, and say nothing that is secret."""

import contextlib
import json
import re
import time

import fake_servers
import pytest

from t5x_mini.storage import to_path
from t5x_mini.train.run_log import NAME, RunLog, from_time, read_log, to_time


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path):
    with contextlib.ExitStack() as stack:
        if request.param == "disk":
            yield tmp_path
            return
        address, _ = stack.enter_context(fake_servers.serving({}))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        yield to_path(f"gs://log-{time.monotonic_ns()}/run")


def write(folder, *events):
    log = RunLog(folder)
    log.open()
    for event in events:
        log.write(event, "", 1)
    log.close()
    return log.id


def test_a_line_says_when_which_run_which_restart_and_which_step(folder):
    log = RunLog(folder)
    log.open()
    log.write("checkpoint", "it is saved", 120, spent={"steps": 1.5})
    log.close()
    (line,) = read_log(folder)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    expected = {"step": 120, "level": "info", "event": "checkpoint", "text": "it is saved", "spent": {"steps": 1.5}}
    assert line == {"run": log.id.run, "restart": 0, **expected}


def test_a_restart_goes_on_with_the_same_run_behind_what_is_there(folder):
    first = write(folder, "start", "error")
    second = write(folder, "start")
    assert second.run == first.run and (first.restart, second.restart) == (0, 1)
    assert [(line["restart"], line["event"]) for line in read_log(folder)] == [(0, "start"), (0, "error"), (1, "start")]


def test_nothing_is_written_before_the_run_is_accepted(folder):
    log = RunLog(folder)
    log.write("warning", "early", None)
    log.close()
    assert not (folder / NAME).exists() and read_log(folder) == []
    log = RunLog(folder)
    log.write("warning", "early", None)
    log.open()
    log.write("start", "now", 0)
    log.close()
    log.write("late", "too late", 0)
    assert [line["text"] for line in read_log(folder)] == ["early", "now"]


def test_a_line_that_a_kill_cut_short_costs_no_other(folder):
    write(folder, "start", "checkpoint")
    whole = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(whole[:-20])
    identity = write(folder, "start")
    assert identity.restart == 1
    assert [line["event"] for line in read_log(folder)] == ["start", "start"]


def test_lines_are_in_a_bucket_once_they_are_synced(folder):
    log = RunLog(folder)
    log.sync()
    log.open()
    for number in range(3):
        log.write("evaluation", "", number)
        log.sync()
        assert [line["step"] for line in read_log(folder)] == list(range(number + 1))


def test_lines_that_are_none_are_left_out(tmp_path):
    lines = [b"", b"[1]", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b'{"restart": "x", "run": 3}', b'{"event": "y"}']
    (tmp_path / NAME).write_bytes(b"\n".join(lines))
    assert [line.get("event") for line in read_log(tmp_path)] == [None, "y"]
    assert RunLog(tmp_path).id.restart == 0


def test_secrets_and_endless_texts_stay_out(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    log = RunLog(tmp_path)
    log.open()
    log.write("error", "no answer from https://me:hunter2@host for 0123456789abcdef" + "!" * 100_000)
    log.close()
    text = (tmp_path / NAME).read_text()
    assert "hunter2" not in text and "0123456789abcdef" not in text and len(text) < 30_000
    assert "https://[redacted]@host" in json.loads(text)["text"]


def test_a_log_that_warns_of_itself_goes_on(tmp_path):
    log = RunLog(tmp_path)
    log.open()
    inner = log._file.write

    def warns(data):
        log.write("warning", "the disk is full")
        inner(data)

    log._file.write = warns
    log.write("checkpoint", "", 3)
    assert [line["event"] for line in read_log(tmp_path)] == ["checkpoint"]


def test_times_are_read_back():
    assert from_time(to_time(1_700_000_000.123)) == pytest.approx(1_700_000_000.123, abs=1e-3)
    assert [from_time(text) for text in (None, "", "yesterday", 3, "9" * 400)] == [None] * 5
