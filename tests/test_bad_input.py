"""Every command with what it can't work with: bad_input.txt says what, and what is then to be read.

A case of the table is

    # what is wrong
    > a line of shell that damages a copy of the shelf (bad_input_shelf.py)
    $ t5x-mini the command < what it reads from standard input
    everything that it then writes on standard error, with ... for what differs from machine to machine

and holds when the command ends with a non-zero status and writes this, in ten lines at most, and all files are as they
were before. Cases with [process] in front of what is wrong run in a process of their own, the others in this one. With
[began] in front, the run had begun before it could be known, and only what was there before is as it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import bad_input_shelf
import pytest
import seqio
import tiny_runs

from t5x_mini import cli, strangers
from t5x_mini.commands.parser import COMMANDS

REPOSITORY = Path(__file__).parent.parent
TABLE = Path(__file__).with_name("bad_input.txt")
_PROGRESS = re.compile(r"[^\r\n]*: +\d+[^\r\n]*\[[^\]\r\n]*/s[^\]\r\n]*\]")
PROCESS, BEGAN = "[process] ", "[began] "
MOST_LINES = 10


@dataclasses.dataclass(frozen=True)
class Case:
    """One case of the table."""

    title: str
    damage: tuple[str, ...]
    command: str
    says: str

    @property
    def in_process(self) -> bool:
        return not self.title.startswith(PROCESS)

    @property
    def began(self) -> bool:
        return self.title.startswith(BEGAN)

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.command.partition(" < ")[0])[1:]

    @property
    def stdin(self) -> str:
        return self.command.partition(" < ")[2] or os.devnull


def read_table(path: Path = TABLE) -> list[Case]:
    """The cases, in the table's order."""
    return [_case(block) for block in path.read_text().split("\n\n") if "\n$ " in block]


def _case(block: str) -> Case:
    lines = block.strip("\n").splitlines()
    before, after = block.split("\n$ ", 1)
    command, _, says = after.partition("\n")
    damage = tuple(line[2:] for line in lines if line.startswith("> "))
    (title,) = (line[2:] for line in before.splitlines() if line.startswith("# "))
    return Case(title, damage, command, says.rstrip("\n"))


CASES = read_table()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory, registered):
    folder = tmp_path_factory.mktemp("shelf")
    with pytest.MonkeyPatch.context() as patch, tiny_runs.quick_compilation(folder):
        patch.chdir(folder)
        bad_input_shelf.fill(folder)
        before = snapshot(folder)
        yield folder
        assert snapshot(folder) == before, "a case changed what all cases share"


@pytest.fixture(scope="module")
def registered():
    """What SeqIO knows before the first case; the other files' tests find it again."""
    names = {registry: set(registry.names()) for registry in (seqio.TaskRegistry, seqio.MixtureRegistry)}
    yield names
    for registry, before in names.items():
        for name in set(registry.names()) - before:
            registry.remove(name)


@pytest.fixture
def here(shelf, registered, tmp_path, monkeypatch):
    """A folder to work in, with what every case may want."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SHELF", str(shelf))
    for name in ("HF_TOKEN", "WANDB_API_KEY", "TFDS_DATA_DIR", "GLUE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(strangers.NO_GIN_IMPORTS, "")  # put back after the commands that set it
    for registry, names in registered.items():  # of the case before, with files of its folder
        for name in set(registry.names()) - names:
            registry.remove(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shutil.copytree(shelf / "text", folder / "text")
    for name in ("small.gin", "words.model", "riddles.tsv"):
        shutil.copy(shelf / name, folder)
    return folder


@pytest.mark.damage("Bad input is refused in ten lines at most, and no file is changed.")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_bad_input_is_refused(case, here, capfd, monkeypatch):
    _shell(case.damage, here)
    before = snapshot(here)
    code, err = (_in_process if case.in_process else _as_process)(case, capfd, monkeypatch)
    err = _neutral(err, here)
    assert (code, err) == (code or "a status that says so", Text(case.says)), err
    assert len(err.splitlines()) <= MOST_LINES
    after = snapshot(here)
    assert {name: after.get(name) for name in before} == before
    assert case.began or after == before


class Text(str):
    """Equal to texts in which `...` is anything."""

    def __eq__(self, other: object) -> bool:
        pattern = ".*".join(re.escape(part) for part in self.split("..."))
        return isinstance(other, str) and re.fullmatch(pattern, other) is not None

    __hash__ = str.__hash__


def snapshot(folder: Path) -> dict[str, str]:
    """Every file and folder with what it holds; links aren't followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        elif path.is_file() and os.access(path, os.R_OK):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder or special"
    return {name: what for name, what in found.items() if not name.startswith("compiled")}


def _shell(lines: tuple[str, ...], folder: Path) -> None:
    if lines:
        subprocess.run(["bash", "-euc", "\n".join(lines)], cwd=folder, check=True)


def _in_process(case: Case, capfd, monkeypatch) -> tuple[int, str]:
    with open(case.stdin) as stdin, warnings.catch_warnings():
        monkeypatch.setattr(sys, "stdin", stdin)
        # As outside of pytest, which would keep them for its own summary.
        monkeypatch.setattr(
            warnings, "showwarning", lambda message, *_, **__: print("warning:", message, file=sys.stderr)
        )
        capfd.readouterr()
        try:
            code = cli.main(case.arguments)
        except SystemExit as end:
            code = end.code
    return code, capfd.readouterr().err


def _as_process(case: Case, capfd, monkeypatch) -> tuple[int, str]:
    del capfd, monkeypatch
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": ""}
    with open(case.stdin) as stdin:
        command = [sys.executable, "-m", "t5x_mini", *case.arguments]
        done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, env=environment, timeout=120)
    return done.returncode, done.stderr


def _neutral(text: str, here: Path) -> str:
    """As a terminal shows it in the end, without bars of progress and this machine's folders."""
    text = "\n".join(line for line in re.split(r"[\r\n]+", _PROGRESS.sub("", text)) if line.strip())
    return text.replace(str(here), "HERE").replace(str(REPOSITORY), "REPOSITORY")


def test_the_table_is_as_long_as_promised():
    assert len(CASES) >= 200
    assert sum(not case.in_process for case in CASES) >= 10
    assert [title for title, times in Counter(case.title for case in CASES).items() if times > 1] == []


def test_every_command_is_in_the_table():
    assert {case.arguments[0] for case in CASES if case.arguments} >= set(COMMANDS)


def test_texts_with_dots_match_anything_between():
    assert Text("a ... c") == "a b c" and Text("a ... c") != "a b d" and Text("a.c") != "abc"
