"""Tests of t5x_mini/train/run_lock.py: one run a folder, here and in a bucket, through kills, races and lost disks."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import fake_servers
import pytest

from t5x_mini.errors import FolderLostError, UserError
from t5x_mini.storage import to_path
from t5x_mini.train import run_lock
from t5x_mini.train.run_lock import Holder, Lock, holder
from t5x_mini.train.run_log import RunLog

QUICK = {"beat_s": 0.02, "stale_s": 0.4, "watch_s": 0.2, "say": lambda _: None}
DAMAGE = pytest.mark.damage("Of two runs in one folder the second is refused; what a dead one held is taken over.")
ELSEWHERE = "another boot, another container"


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path):
    """A run's folder on a disk, and one in a bucket."""
    with contextlib.ExitStack() as stack:
        if request.param == "disk":
            yield tmp_path / "run"
            return
        address, _ = stack.enter_context(fake_servers.serving({}))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        yield to_path(f"gs://locks-{os.getpid()}-{time.monotonic_ns()}/run")


def lock(folder, **changes):
    return Lock(folder, **{**QUICK, **changes})


@contextlib.contextmanager
def held(folder, **changes):
    taken = lock(folder, **changes)
    taken.acquire()
    try:
        yield taken
    finally:
        taken.release()


def leave(folder, **changes):
    """A lock as somebody left it; without changes, a process of this machine that has ended."""
    one = Holder("1234", "host-7", 2**22 + 1, run_lock.this_machine(), "1", "2026-01-01T00:00:00.000Z", {"step": 1200})
    one = dataclasses.replace(one, **changes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / run_lock.NAME).write_bytes(one.to_bytes())
    return one


def test_a_folder_is_held_beats_and_is_given_back(folder):
    with held(folder) as taken:
        taken.note({"step": 7})
        first = holder(folder)
        assert first.alive and first.is_here and first.pid == os.getpid()
        wait_for(lambda: holder(folder).note == {"step": 7} and holder(folder).time > first.time)
        assert "process" in first.describe() and first.host in first.describe()
        taken.check()
    assert holder(folder) is None


def wait_for(condition, timeout_s=20):
    limit = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


@DAMAGE
def test_what_is_to_be_done_with_each_heartbeat_is_done(folder):
    beats = []
    with held(folder) as taken:
        taken.on_beat = lambda: beats.append(holder(folder))
        wait_for(lambda: len(beats) > 2)
    assert all(beats)


def test_a_second_run_is_refused_and_told_who_is_there(folder):
    with held(folder) as taken:
        taken.note({"step": 1200})
        wait_for(lambda: holder(folder).note)
        with pytest.raises(UserError) as refusal:
            lock(folder).acquire()
        taken.check()
    for words in (str(folder), f"process {os.getpid()} on", "at step 1,200", "t5x-mini status", "--gin.MODEL_DIR="):
        assert words in str(refusal.value)


@DAMAGE
def test_what_a_killed_process_left_is_taken_over_at_once(tmp_path):
    code = "import sys, time; from pathlib import Path; from t5x_mini.train.run_lock import Lock\n"
    code += "Lock(Path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=f"process {process.pid} on"):
        lock(tmp_path).acquire()
    process.send_signal(signal.SIGKILL)
    process.wait()
    dead = holder(tmp_path)
    assert dead.pid == process.pid and dead.is_gone and not dead.alive
    with held(tmp_path, stale_s=1000.0) as taken:  # no waiting
        assert taken.previous.pid == process.pid
        taken.check()


def test_another_process_with_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path):
    leave(tmp_path, pid=os.getppid(), process="1")
    with held(tmp_path, stale_s=1000.0):
        pass


@DAMAGE
def test_a_host_that_cant_be_seen_is_watched_and_taken_over_when_it_doesnt_beat(folder):
    left = leave(folder, machine=ELSEWHERE)
    said = []
    began = time.monotonic()
    with held(folder, say=said.append) as taken:
        assert time.monotonic() - began >= QUICK["watch_s"]
        assert taken.previous == left
    assert "process 4194305 on host-7, at step 1,200" in said[0] and "takes over" in said[0] and len(said) == 1


@DAMAGE
def test_a_host_that_cant_be_seen_is_refused_to_as_soon_as_it_beats(folder):
    stop = threading.Event()

    def beat():
        for number in range(1000):
            if stop.wait(0.02):
                return
            leave(folder, machine=ELSEWHERE, note={"step": number})

    leave(folder, machine=ELSEWHERE)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="is being trained in already: process 4194305 on host-7"):
            lock(folder, stale_s=1000.0).acquire()
    finally:
        stop.set()
        thread.join()
    assert holder(folder).host == "host-7"


def test_a_recent_heartbeat_from_elsewhere_is_waited_for_longer(tmp_path):
    leave(tmp_path, machine=ELSEWHERE, time=run_lock.to_time(time.time()))
    began = time.monotonic()
    with held(tmp_path, stale_s=0.6, watch_s=0.05):
        assert time.monotonic() - began >= 0.5


@DAMAGE
@pytest.mark.parametrize("content", [b"", b"{}", b"nonsense", b"[1]", b'{"token": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_lock_that_cant_be_read_is_taken_over_after_a_while(tmp_path, content):
    (tmp_path / run_lock.NAME).write_bytes(content)
    assert holder(tmp_path) is None
    with held(tmp_path, stale_s=0.1, watch_s=0.05) as taken:
        assert taken.previous is None and holder(tmp_path).alive


@DAMAGE
def test_a_run_whose_folder_was_taken_over_stops_and_leaves_it_to_the_other(folder):
    with held(folder) as taken:
        thief = leave(folder, machine=ELSEWHERE)
        wait_for(lambda: taken.is_stolen)
        with pytest.raises(FolderLostError, match="was taken over by another run: process 4194305 on host-7"):
            taken.check()
    assert holder(folder) == thief


def test_a_lock_that_was_removed_is_written_again(folder, caplog):
    with held(folder) as taken:
        (folder / run_lock.NAME).unlink()
        wait_for(lambda: holder(folder))
        taken.check()
        assert "was gone, and is written again" in caplog.text
    assert holder(folder) is None


@DAMAGE
def test_a_disk_that_was_away_is_no_thief(tmp_path, caplog):
    folder, away = tmp_path / "run", tmp_path / "away"
    with held(folder) as taken:
        folder.rename(away)
        wait_for(lambda: "The heartbeat in" in caplog.text)
        time.sleep(0.1)
        assert caplog.text.count("The heartbeat in") == 1
        away.rename(folder)
        before = holder(folder).time
        wait_for(lambda: holder(folder).time > before)
        taken.check()


def test_a_run_that_was_followed_by_one_that_has_ended_stops(tmp_path):
    with held(tmp_path, beat_s=1000.0) as taken:
        taken.note({"restart": 0})
        for restart in (0, 1):
            log = RunLog(tmp_path)
            assert log.id.restart == restart
            log.open()
            log.write("start", "", 0)
            log.close()
        (tmp_path / run_lock.NAME).unlink()
        taken._beat()
        with pytest.raises(UserError, match="taken over by another run: it has ended since"):
            taken.check()


@pytest.mark.parametrize("name", ["file/run", "file"])
def test_a_folder_that_cant_be_made_is_an_error_with_a_cause(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"{name} can't be written to: "):
        lock(tmp_path / name).acquire()


@DAMAGE
def test_a_run_that_was_suspended_finds_out_before_its_heart_beats_again(folder):
    with held(folder, beat_s=1000.0, stale_s=0.05) as taken:
        taken.check()
        leave(folder, machine=ELSEWHERE)
        time.sleep(0.1)
        with pytest.raises(UserError, match="taken over"):
            taken.check()


@DAMAGE
def test_a_heartbeat_that_fails_is_warned_of_and_tried_again(folder, caplog, monkeypatch):
    with held(folder) as taken:
        swap = taken._slot.swap

        def broken(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(taken._slot, "swap", broken)
        wait_for(lambda: "No space left on device" in caplog.text)
        monkeypatch.setattr(taken._slot, "swap", swap)
        before = holder(folder).time
        wait_for(lambda: holder(folder).time > before)
        taken.check()


def test_an_answer_that_came_too_late_is_not_taken_for_a_thief(folder, monkeypatch):
    with held(folder, beat_s=1000.0) as taken:
        swap = taken._slot.swap
        monkeypatch.setattr(taken._slot, "swap", lambda *arguments: swap(*arguments) and False)
        taken._beat()
        monkeypatch.setattr(taken._slot, "swap", swap)
        taken._beat()
        taken.check()
    assert holder(folder) is None


def test_a_refused_start_leaves_no_folder(tmp_path):
    taken = lock(tmp_path / "deep" / "run")
    taken.acquire()
    taken.release()
    assert not (tmp_path / "deep" / "run").exists()
    with held(tmp_path):
        pass
    assert tmp_path.exists()


def test_the_same_process_may_train_twice_one_after_another_but_not_at_once(tmp_path):
    for _ in range(2):
        with held(tmp_path), pytest.raises(UserError, match="is being trained in already"):
            lock(tmp_path).acquire()


RACER = """
import sys
from pathlib import Path
from t5x_mini.errors import UserError
from t5x_mini.train.run_lock import Lock

print("ready", flush=True)
sys.stdin.readline()
try:
    Lock(Path(sys.argv[1])).acquire()
    print("held", flush=True)
except UserError:
    print("refused", flush=True)
sys.stdin.readline()
"""


@DAMAGE
@pytest.mark.parametrize("stale", [False, True])
def test_of_many_that_come_at_once_one_gets_the_folder(tmp_path, stale):
    if stale:
        leave(tmp_path)
    command, pipe = [sys.executable, "-c", RACER, str(tmp_path)], subprocess.PIPE
    with contextlib.ExitStack() as stack:
        start = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(8)]
        racers = [stack.enter_context(racer) for racer in start]  # which end when their input does
        assert [racer.stdout.readline() for racer in racers] == ["ready\n"] * 8
        for racer in racers:
            print(file=racer.stdin, flush=True)
        found = [racer.stdout.readline().strip() for racer in racers]
    assert sorted(found) == ["held", *["refused"] * 7]


@DAMAGE
def test_of_many_that_come_at_once_one_gets_the_bucket(monkeypatch):
    files = {}
    with fake_servers.serving(files) as (address, _):
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        folder, found = to_path(f"gs://race-{os.getpid()}/run"), []

        def take():
            taken = lock(folder, beat_s=1000.0)
            try:
                taken.acquire()
                found.append(taken)
            except UserError:
                found.append(None)

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [taken for taken in found if taken]
        assert len(found) == 8 and len(winners) == 1
        winners[0].check()
        winners[0].release()
        assert not files


def test_what_a_lock_says_is_read_back(tmp_path):
    one = leave(tmp_path, note={"step": 3, "spent": {"steps": 1.5}})
    assert holder(tmp_path) == one == Holder.from_bytes(one.to_bytes())
    assert json.loads(one.to_bytes())["host"] == "host-7"
    assert Holder.from_bytes(one.to_bytes().replace(b'"host-7"', b"7")) is None
    assert one.age_s > 1e6 and dataclasses.replace(one, time="soon").age_s == float("inf")
