import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from t5x_mini import kept_memory

TUNABLES = "glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1:glibc.malloc.trim_threshold=1099511627776"


@pytest.fixture
def restarted(monkeypatch):
    """A Linux machine with glibc; what the process would be replaced by."""
    calls = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "t5x_mini", "train"])
    monkeypatch.setattr(os, "execv", lambda path, arguments: calls.append((path, arguments)))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return calls


def test_the_same_command_starts_again_keeping_memory(restarted):
    kept_memory.restart_keeping_memory()
    assert restarted == [(sys.executable, [sys.executable, "-m", "t5x_mini", "train"])]
    assert os.environ["GLIBC_TUNABLES"] == TUNABLES
    kept_memory.restart_keeping_memory()
    assert len(restarted) == 1


def test_other_tunables_stay(restarted, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    kept_memory.restart_keeping_memory()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1:" + TUNABLES


@pytest.mark.parametrize(
    ("libc", "tunables"),
    [
        (("glibc", "2.25"), ""),
        (("", ""), ""),
        (("glibc", "2.36"), "glibc.malloc.arena_max=4"),
    ],
)
def test_where_it_cannot_be_or_is_not_wanted_nothing_happens(restarted, monkeypatch, libc, tunables):
    monkeypatch.setattr("platform.libc_ver", lambda: libc)
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    kept_memory.restart_keeping_memory()
    assert not restarted and os.environ["GLIBC_TUNABLES"] == tunables


def test_the_tests_run_as_the_commands_do():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    assert re.findall(r"GLIBC_TUNABLES \?= (\S+)", makefile) == [TUNABLES]


def test_a_process_that_starts_again_is_the_same_command():
    """Once more at most, with its arguments and its standard input."""
    script = (
        "import sys; from t5x_mini.kept_memory import restart_keeping_memory as restart; print('started', flush=True);"
        "restart(); print(sys.argv[1:], input())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    ran = subprocess.run(
        [sys.executable, "-c", script, "a b", "--c"], input="x\n", env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    *started, last = ran.stdout.splitlines()
    assert last == "['a b', '--c'] x" and started in (["started"], ["started", "started"])


@pytest.mark.skipif(not kept_memory._has_tunables(), reason="no glibc whose heap could be told to stay")
def test_a_large_block_costs_page_faults_once():
    """What it is for: a block of 64 MiB that is freed and taken again is not cleared again."""
    script = (
        "import ctypes, resource; libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p\n"
        "def use():\n"
        "    block = ctypes.c_void_p(libc.malloc(2**26)); ctypes.memset(block, 1, 2**26); libc.free(block)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "first, second = use(), use(); print(second - first)"
    )

    def faults(tunables: str) -> int:
        environment = {**os.environ, "GLIBC_TUNABLES": tunables}
        return int(subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True).stdout)

    assert faults(TUNABLES) < 100 < faults("")
