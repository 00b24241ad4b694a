import os
import subprocess
import sys

import pytest

from t5x_mini import huge_pages

KERNEL = "always [madvise] never\n"


@pytest.fixture
def restarted(monkeypatch, tmp_path):
    """A Linux machine with huge pages for those who ask; what the process would be replaced by."""
    calls = []
    monkeypatch.setattr(huge_pages, "_KERNEL", tmp_path / "enabled")
    (tmp_path / "enabled").write_text(KERNEL)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "t5x_mini", "train"])
    monkeypatch.setattr(os, "execv", lambda path, arguments: calls.append((path, arguments)))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return calls


def test_the_same_command_starts_again_with_huge_pages(restarted):
    huge_pages.restart_with_huge_pages()
    assert restarted == [(sys.executable, [sys.executable, "-m", "t5x_mini", "train"])]
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    huge_pages.restart_with_huge_pages()
    assert len(restarted) == 1


def test_other_tunables_stay(restarted, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    huge_pages.restart_with_huge_pages()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"


@pytest.mark.parametrize(
    ("kernel", "libc", "tunables"),
    [
        ("[always] madvise never\n", ("glibc", "2.36"), ""),
        ("always madvise [never]\n", ("glibc", "2.36"), ""),
        (KERNEL, ("glibc", "2.31"), ""),
        (KERNEL, ("", ""), ""),
        (KERNEL, ("glibc", "2.36"), "glibc.malloc.hugetlb=0"),
    ],
)
def test_where_they_are_not_to_be_had_nothing_happens(restarted, monkeypatch, tmp_path, kernel, libc, tunables):
    (tmp_path / "enabled").write_text(kernel)
    monkeypatch.setattr("platform.libc_ver", lambda: libc)
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    huge_pages.restart_with_huge_pages()
    assert not restarted and os.environ["GLIBC_TUNABLES"] == tunables


def test_a_kernel_without_the_file_is_no_error(restarted, tmp_path):
    (tmp_path / "enabled").unlink()
    huge_pages.restart_with_huge_pages()
    assert not restarted


def test_a_process_that_starts_again_is_the_same_command():
    """Once more at most, with its arguments and its standard input."""
    script = (
        "import sys; from t5x_mini.huge_pages import restart_with_huge_pages as restart; print('started', flush=True);"
        "restart(); print(sys.argv[1:], input())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    ran = subprocess.run(
        [sys.executable, "-c", script, "a b", "--c"], input="x\n", env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    *started, last = ran.stdout.splitlines()
    assert last == "['a b', '--c'] x" and started in (["started"], ["started", "started"])
