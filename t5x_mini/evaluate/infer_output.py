"""The file of answers that `t5x-mini infer` writes: in input order, whole or not there, no line lost or twice.

Until the last row is answered the lines stand in `<name>.jsonl.partial`, and what they were made from in
`<name>.jsonl.made_from`, so that only a command that makes the same lines goes on with them. Several hosts each write
the lines of their rows to a part, `<name>.jsonl.part-<host>`, with the row's number in front; the first host brings
them in order, when all are done or when an interrupted command begins again, on however many hosts.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from t5x_mini.errors import UserError
from t5x_mini.growing_file import GrowingFile
from t5x_mini.storage import is_remote
from t5x_mini.whole_file import write_whole


class Output:
    """The answers to one task or file, as far as they are there.

    Attributes:
        path: of the finished file.
        done: rows that were answered before; known from `prepare` or `open` on.
    """

    def __init__(self, path: pathlib.Path, made_from: Mapping[str, Any], rows: int, host: int = 0, hosts: int = 1):
        """Nothing is read or written before `prepare`.

        Args:
            path: `<name>.jsonl`.
            made_from: all that decides what is written, as JSON has it.
            rows: answers there will be.
            host: this process.
            hosts: all of them; they see one folder.
        """
        self.path, self.done = path, 0
        self._made_from, self._rows, self._host, self._hosts = json.loads(json.dumps(made_from)), rows, host, hosts
        self._partial, self._note = (_with(path, suffix) for suffix in (".partial", ".made_from"))
        self._file: GrowingFile | None = None

    def prepare(self, rows_a_batch: int) -> int:
        """Brings in order what an interrupted command left; the first host does this, alone.

        Whole batches are kept, so that the rest is decoded in the same batches as without an interruption.

        Returns:
            Rows that are answered; all where the file is complete.

        Raises:
            UserError: what is there was made from something else.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() or self._left_over():
            self._check_note()
        if self.path.exists():
            self.done = self._rows
            _remove([self._partial, *self._parts()])
            return self.done
        write_whole(self._note, json.dumps(self._made_from, indent=1, sort_keys=True) + "\n")
        lines = _cut_half_line(self._partial)
        lines = self._append(_in_order(self._parts(), lines), lines)
        self.done = lines if lines == self._rows else lines - lines % rows_a_batch
        _truncate(self._partial, self.done)
        _remove(self._parts())
        if self.done == self._rows:
            self.finish()  # all was there but the file's name
        return self.done

    def open(self, done: int) -> None:
        """Ready to write from row `done` on, which the first host has found."""
        self.done = done
        own = self._partial if self._hosts == 1 else _with(self.path, f".part-{self._host}")
        self._file = GrowingFile(own, None)

    def write(self, answered: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Adds the lines of (row number from 0, line) and returns when they are on the disk (in a bucket, before)."""
        for number, line in answered:
            text = json.dumps(line, ensure_ascii=False)
            text = text if self._hosts == 1 else f"{number}\t{text}"
            self._file.write(text.encode("utf-8", "backslashreplace") + b"\n")
        if not is_remote(self.path):
            self._file.sync()

    def close(self) -> None:
        if self._file:
            self._file.close()

    def finish(self) -> None:
        """Gives the file its name; the first host does this, once all have closed theirs."""
        parts = self._parts()
        self._append(_in_order(parts, self.done), self.done)
        lines = _count_lines(self._partial)
        if lines != self._rows:
            raise UserError(
                f"{self._partial} has {lines:,} lines for {self._rows:,} rows: another command writes to it, or the "
                f"hosts don't see one folder. Let one at a time write there, and begin again: rm {self.path}*"
            )
        self._partial.replace(self.path)
        _remove(parts)

    def _append(self, lines: Iterator[bytes], done: int) -> int:
        with contextlib.closing(GrowingFile(self._partial, None)) as file:
            for line in lines:
                file.write(line)
                done += 1
            file.sync()
        return done

    def _check_note(self) -> None:
        try:
            there = json.loads(self._note.read_text())
        except (OSError, ValueError):
            there = None
        if there == self._made_from:
            return
        changed = [f"    {line}" for line in _differences(there, self._made_from)] if isinstance(there, dict) else None
        raise UserError(
            f"{self.path} {'is complete' if self.path.exists() else 'has been begun'}, from "
            + ("something else:\n" + "\n".join(changed) if changed else f"what nothing says ({self._note} is missing).")
            + "\nGo back to the same, write elsewhere (--gin.INFER_OUTPUT_DIR=another_folder), or remove what is "
            f"there: rm {self.path}*"
        )

    def _left_over(self) -> list[pathlib.Path]:
        return [path for path in (self._partial, *self._parts()) if _count_lines(path, at_most=1)]

    def _parts(self) -> list[pathlib.Path]:
        prefix = f"{self.path.name}.part-"
        return sorted(file for file in self.path.parent.iterdir() if file.name.startswith(prefix))


def _differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs, a setting a line: `decoding.method: 'greedy' -> 'beam'`."""
    old, new = _flat(there), _flat(now)

    def shown(settings: Mapping[str, Any], name: str) -> str:
        return repr(settings[name]) if name in settings else "not noted"

    names = sorted(name for name in old | new if name not in old or name not in new or old[name] != new[name])
    return [f"{name}: {shown(old, name)} -> {shown(new, name)}" for name in names]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _with(path: pathlib.Path, suffix: str) -> pathlib.Path:
    return path.with_name(path.name + suffix)


def _remove(paths: Iterable[pathlib.Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _in_order(parts: Iterable[pathlib.Path], first: int) -> Iterator[bytes]:
    """The parts' lines without their numbers, from row `first` on, up to the first row that none of them has."""
    expected = first
    for number, line in heapq.merge(*map(_numbered_lines, parts), key=lambda pair: pair[0]):
        if number > expected:
            return
        if number == expected:
            yield line
            expected += 1


def _numbered_lines(part: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    with part.open("rb") as file:
        for text in file:
            if text.endswith(b"\n"):
                number, _, line = text.partition(b"\t")
                yield int(number), line


def _cut_half_line(path: pathlib.Path) -> int:
    """Whole lines in the file, 0 where there is none; what stands behind them is cut off."""
    lines = _count_lines(path)
    _truncate(path, lines)
    return lines


def _count_lines(path: pathlib.Path, at_most: int | None = None) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(line.endswith(b"\n") for line in itertools.islice(file, at_most))


def _truncate(path: pathlib.Path, lines: int) -> None:
    """Cuts the file behind so many lines."""
    if not path.exists():
        return
    if is_remote(path):
        with path.open("rb") as file:
            kept = b"".join(itertools.islice(file, lines))
        path.write_bytes(kept)
        return
    with path.open("r+b") as file:
        for _ in range(lines):
            file.readline()
        file.truncate(file.tell())
        os.fsync(file.fileno())
