"""What a signal does to a process; whole runs are in test_stopping.py, several hosts in test_multi_host.py."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import jax
import pytest

from t5x_mini.errors import Terminated
from t5x_mini.train import preemption as preemption_module
from t5x_mini.train.preemption import SIGNALS, Preemption

STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130}


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_request_where_there_is_something_to_save(capsys, number):
    before = handlers()
    with Preemption() as preemption:
        with preemption.as_request(afterwards="after its last step"):
            assert not preemption.reached()
            os.kill(os.getpid(), number)
            assert preemption.reached() and preemption.reached()
            assert preemption.signal == number
            time.sleep(0.1)  # for the thread that says so
        assert preemption.stage == "after its last step"
    assert handlers() == before
    assert f"{signal.Signals(number).name}: stops when this step is done and saved" in capsys.readouterr().err


@pytest.mark.parametrize("number", SIGNALS)
def test_where_there_is_nothing_to_save_it_ends_the_run_there(number):
    with pytest.raises(Terminated, match="stopped before it made a step. Nothing is lost") as raised, Preemption():
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert raised.value.status == STATUS[number]


def test_nobodys_except_exception_takes_it():
    with pytest.raises(Terminated), Preemption():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Exception:
            pytest.fail("swallowed")


def test_outside_of_the_main_thread_signals_are_left_alone():
    before, found = handlers(), []

    def run():
        with Preemption() as preemption:
            found.append((preemption.reached(), handlers()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(False, before)]


def ended(body, number, count):
    """Exit status and stderr of a process that gets so many signals while it runs `body`."""
    program = textwrap.dedent("""
        from t5x_mini.train import preemption as module
        from t5x_mini.train.preemption import Preemption

        def hang():  # as in a compiler: no Python in between, and so no signal's handler
            import hashlib
            print("ready", flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

        with Preemption() as preemption:
    """) + textwrap.indent(textwrap.dedent(body), "    ")
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            for _ in range(count):
                time.sleep(0.5)  # until it hangs, or has taken note of the signal before
                process.send_signal(number)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, err


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_ends_the_process_though_its_main_thread_hangs(number):
    body = """
        with preemption.as_request(afterwards=""):
            hang()
    """
    status, err = ended(body, number, 2)
    assert status == STATUS[number]
    assert err.splitlines()[-1] == (
        f"t5x-mini: {signal.Signals(number).name}, the second signal: left at once. What is saved stays; the rest is "
        "lost."
    )


def test_where_there_is_nothing_to_save_a_main_thread_that_hangs_is_not_waited_for_long():
    status, err = ended("module._GRACE_S = 0.2; hang()", signal.SIGTERM, 1)
    assert status == 143
    assert err == "t5x-mini: SIGTERM: stopped before it made a step. Nothing is lost.\n"


class Store:
    """A key-value store that several hosts share, as JAX's coordination service has one."""

    def __init__(self):
        self._values, self._changed = {}, threading.Condition()

    def key_value_set(self, key, value, allow_overwrite=False):
        with self._changed:
            assert allow_overwrite or key not in self._values
            self._values[key] = value
            self._changed.notify_all()

    def key_value_try_get(self, key):
        if key not in self._values:
            raise jax.errors.JaxRuntimeError("NOT_FOUND")
        return self._values[key]

    def blocking_key_value_get(self, key, timeout_ms):
        with self._changed:
            if not self._changed.wait_for(lambda: key in self._values, timeout_ms / 1000):
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED")
            return self._values[key]


class Host(threading.Thread):
    """One host's loop, at a pace of its own: asks after each step, and stops when it is told to."""

    def __init__(self, preemption, pace_s, steps=10**6):
        super().__init__()
        self.preemption, self._pace, self._steps, self.stopped_at = preemption, pace_s, steps, None

    def run(self):
        with self.preemption, self.preemption.as_request(afterwards=""):
            for step in range(1, self._steps + 1):
                time.sleep(self._pace)
                if self.preemption.reached():
                    self.stopped_at = step
                    return


@pytest.fixture
def three_hosts(monkeypatch):
    store, indices = Store(), threading.local()
    monkeypatch.setattr(preemption_module, "_POLL_S", 0.02)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(preemption_module.distributed.global_state, "client", store)
    made = [Preemption() for _ in range(3)]
    own = {id(one): number for number, one in enumerate(made)}
    for one in made:
        one._prefix = "preemption"  # each process counts its own
        agree = one._agree
        monkeypatch.setattr(
            one, "_agree", lambda one=one, agree=agree: setattr(indices, "own", own[id(one)]) or agree()
        )
    monkeypatch.setattr(jax, "process_index", lambda: indices.own)
    return made


@pytest.mark.parametrize("asked", [(0,), (2,), (0, 1, 2)])
def test_hosts_of_any_pace_stop_at_the_same_step(three_hosts, asked):
    hosts = [Host(one, pace) for one, pace in zip(three_hosts, (0.001, 0.002, 0.004), strict=True)]
    for host in hosts:
        host.start()
    time.sleep(0.1)
    for number in asked:
        three_hosts[number].signal = signal.SIGINT
    for host in hosts:
        host.join(timeout=30)
    steps = {host.stopped_at for host in hosts}
    assert len(steps) == 1 and steps != {None}
    assert [one.signal for one in three_hosts] == [signal.SIGINT] * 3


def test_hosts_of_which_one_has_not_come_to_its_first_step_all_leave(three_hosts, monkeypatch):
    left = []
    for number, one in enumerate(three_hosts):
        monkeypatch.setattr(one, "_leave", lambda text, number=number: left.append((number, text)))
    first, second, third = three_hosts
    first._as_request = second._as_request = True  # they wait for the third, which still compiles
    second.signal = signal.SIGTERM
    threads = [threading.Thread(target=one._agree) for one in three_hosts]
    first.signal = third.signal = signal.SIGTERM
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    text = "SIGTERM: stopped before it made a step. Nothing is lost."
    assert sorted(left) == [(number, text) for number in range(3)]
