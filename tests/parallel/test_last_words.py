import subprocess
import sys

import pytest

CODE = "import os; from t5x_mini.parallel.last_words import leave_behind; take_back = leave_behind('it was {}'); "


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("os.kill(os.getpid(), 9)", -9, "it was {}\n"),
        ("os._exit(3)", 3, "it was {}\n"),
        ("take_back(); os.kill(os.getpid(), 9)", -9, ""),
    ],
)
def test_they_are_said_unless_taken_back(end, code, said):
    process = subprocess.run([sys.executable, "-c", CODE + end], capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stderr, process.stdout) == (code, said, "")
