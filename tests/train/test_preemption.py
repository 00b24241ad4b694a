import os
import signal
import threading

from t5x_mini.train.preemption import Preemption


def test_the_first_sigterm_is_a_request_and_the_next_one_is_not():
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("ended"))
    seen = []
    try:
        with Preemption() as preemption:
            assert not preemption.reached(1)
            os.kill(os.getpid(), signal.SIGTERM)
            assert preemption.reached(2) and not seen
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen == ["ended"]
        assert signal.getsignal(signal.SIGTERM).__name__ == "<lambda>"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_of_the_main_thread_signals_are_left_alone():
    before, found = signal.getsignal(signal.SIGTERM), []

    def run():
        with Preemption() as preemption:
            found.append((preemption.reached(1), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(False, before)]
