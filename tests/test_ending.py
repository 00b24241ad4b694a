"""Tests of t5x_mini/ending.py: what a process that ends at once does all the same."""

import subprocess
import sys

import pytest

BODY = """
import atexit, os, sys, threading, time
from t5x_mini.ending import leave

def late():
    time.sleep(0.3)
    print("a thread", end="; ")

class Trap:  # the interpreter comes to it when it is taken apart
    def __del__(self, write=os.write):
        write(1, b"taken apart")

{loaded}
sys.trap = Trap()
threading.Thread(target=late).start()
atexit.register(lambda: print("atexit", end=""))
leave(3)
"""


@pytest.mark.parametrize(
    ("loaded", "printed"),
    [("", "a thread; atexittaken apart"), ("sys.modules['tensorflow'] = object()", "a thread; atexit")],
    ids=["without_tensorflow", "with_tensorflow"],
)
def test_all_is_written_and_nothing_taken_apart_where_that_may_hang(loaded, printed):
    script = BODY.format(loaded=loaded)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, printed, "")
