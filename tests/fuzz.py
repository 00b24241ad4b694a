"""Gives our own parsers what nobody would write, for as long as it is told: `python tests/fuzz.py --seconds=600`.

Each parser has a text that is right. Copies of it are damaged at random (bits, pieces, numbers, brackets), and each has
to be read, or refused with a UserError. Another exception, a value that can't be, or more than some seconds is a
finding: it is printed, kept in FOLDER, and becomes a case of test_fuzz.py. The last line is JSON: inputs and findings.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from t5x_mini import gin_files
from t5x_mini.checkpoint import manifest as checkpoint_manifest
from t5x_mini.checkpoint.huggingface import safetensors_files
from t5x_mini.errors import UserError
from t5x_mini.feed.position import Position
from t5x_mini.tasks import formats, text_to_text
from t5x_mini.tasks.definitions import TextToTextTask
from t5x_mini.tokens import manifest as token_manifest
from t5x_mini.train import metrics, run_log

SLOW_S = 5
_DIGEST = "ab" * 32
_SHARD = token_manifest.Shard(
    name="00000-of-00001", tokens=9, documents=2, text_bytes=30, tokens_crc32="0123abcd", lengths_crc32="89abcdef"
)
_CONTENTS = token_manifest.Contents(
    task="stories",
    split="train",
    kind="examples",
    features=("inputs", "targets"),
    eos=("targets",),
    dtype="uint16",
    definition={"inputs": "{a}", "targets": "{b}"},
    vocabulary={"library": "bytes", "vocab_size": 359},
    source="0f",
)
_HEADER = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"x": "y"}})
# What parsers stumble over.
_PIECES = tuple(
    piece.encode("utf-8", "surrogatepass")
    for piece in (
        *("[", "]", "{", "}", '"', "'", ",", ":", "\t", "\n", "\r\n", "\0", "\\", "\\ud800", "\ufeff", "é", "☕", "/"),
        *("null", "true", "-1", "0", "1e999", "NaN", "-Infinity", "1.5", "9" * 30, "9" * 5000, "-0.0", "1_000", "0x1F"),
        *(
            "../",
            "..",
            "%",
            "{0}",
            "{}",
            "{a.b}",
            "{a[0]}",
            "{a!r}",
            "{a:>99999}",
            "{{",
            "}}",
            "[" * 3000,
            '{"a":' * 3000,
        ),
        *("step", "format", "files", "shards", "@a/b()", "%X", "__class__", "include 'a'", "import os", "(" * 300),
    )
) + (b"\xff", b"\xc0\x80", b"\xed\xa0\x80")


@dataclasses.dataclass(frozen=True)
class Parser:
    """What is tried.

    Attributes:
        examples: that are right; each is read without an error.
        read: what a user's file is given to; returns whether what was read can be.
    """

    examples: tuple[bytes, ...]
    read: Callable[[bytes, Path], bool]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A copy with one to six damages."""
    for _ in range(rng.randint(1, 6)):
        start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        match rng.randrange(7):
            case 0 if data:
                place = min(start, len(data) - 1)
                data = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
            case 1:
                data = data[:start] + data[min(end, start + rng.choice((1, 2, 9, 99))) :]
            case 2:
                data = data[:start] + rng.choice(_PIECES) + data[start:]
            case 3:
                data = data[:start] + rng.choice(_PIECES) + data[min(end, start + 8) :]
            case 4:
                data = data[:end] + data[start:end] + data[end:]
            case 5:
                data = data[:start] if rng.random() < 0.2 else data
            case 6:
                data = data[:start] + rng.randbytes(rng.choice((1, 2, 4, 8))) + data[start:]
    return data[: 1 << 20]


def problem(parser: Parser, data: bytes, folder: Path) -> str | None:
    """What is wrong with how the parser takes this; None: nothing."""
    began = time.process_time()
    try:
        if not parser.read(data, folder):
            return "a value that can't be"
    except UserError as error:
        if not str(error).strip():
            return "an error without a word"
    except Exception:
        return traceback.format_exc()
    seconds = time.process_time() - began
    return f"{seconds:.0f} s" if seconds > SLOW_S else None


def _tokens(data: bytes, folder: Path) -> bool:
    read = token_manifest.Manifest.from_json(data.decode("utf-8", "replace"), "manifest.json")
    inside = all("/" not in shard.tokens_file and shard.tokens >= 0 for shard in read.shards)
    return inside and read.num_tokens >= 0 and token_manifest.Manifest.from_json(read.to_json(), "again") == read


def _checkpoint(data: bytes, folder: Path) -> bool:
    try:
        item = json.loads(data)
        item.pop("sha256")
        # As somebody with an intention would, or all would be refused for their checksum.
        data = json.dumps({**item, "sha256": checkpoint_manifest._digest(item)}).encode()
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        pass
    read = checkpoint_manifest.parse(data)
    inside = all((folder / path).resolve().is_relative_to(folder.resolve()) for path in read.files)
    return inside and read.size >= 0 and checkpoint_manifest.parse(read.to_bytes()) == read


def _rows(suffix: str) -> Callable[[bytes, Path], bool]:
    def read(data: bytes, folder: Path) -> bool:
        path = folder / f"rows{suffix}"
        path.write_bytes(data)
        rows = [row for shard in formats.shards(str(path)) for _, row in formats.read(shard, formats.Skipped())]
        return all(isinstance(row, dict) and "\ud800" not in json.dumps(row, ensure_ascii=False) for row in rows)

    return read


def _template(data: bytes, folder: Path) -> bool:
    task = TextToTextTask(name="riddles", files={}, inputs=data.decode("utf-8", "replace"), targets="{b}")
    texts = text_to_text.write_row(task, {"a": "a house", "b": 3, "none": None})
    return texts is None or (isinstance(texts["inputs"], str) and len(texts["inputs"]) < 1 << 24)


def _metrics(data: bytes, folder: Path) -> bool:
    path = folder / "metrics.jsonl"
    path.write_bytes(data)
    rows = metrics.read_metrics(path)
    return all(
        type(row["step"]) is int
        and all(value is None or float(value) <= 1e400 or value != value for value in row.values())
        for row in rows
    )


def _log(data: bytes, folder: Path) -> bool:
    (folder / run_log.NAME).write_bytes(data)
    return all(isinstance(line, dict) for line in run_log.read_log(folder))


def _position(data: bytes, folder: Path) -> bool:
    position = Position.from_bytes(data)
    position.check(position.fingerprint)
    return position.batches_after_snapshot >= 0


def _safetensors(data: bytes, folder: Path) -> bool:
    (folder / safetensors_files.SINGLE).write_bytes(data)
    tensors = safetensors_files.Tensors(folder)
    return all(tensors.read(name).shape == shape for name, shape in tensors.shapes.items())


def _gin(data: bytes, folder: Path) -> bool:
    (folder / "a.gin").write_bytes(data)
    return all(binding.name for binding in gin_files.read_file("a.gin", [str(folder)]))


def _safetensors_example() -> bytes:
    return len(_HEADER).to_bytes(8, "little") + _HEADER.encode() + bytes(24)


PARSERS = {
    "token_manifest": Parser(
        (token_manifest.Manifest(contents=_CONTENTS, shards=(_SHARD,), skipped={}).to_json().encode(),), _tokens
    ),
    "checkpoint_manifest": Parser(
        (
            checkpoint_manifest.Manifest(
                {"state/d/1": checkpoint_manifest.Entry(9, _DIGEST)}, {"train/loss": 2.5}, "loss", 1.5e9
            ).to_bytes(),
        ),
        _checkpoint,
    ),
    "tsv": Parser((b"question\tanswer\nwhat\tthat\nwho\tthey\n",), _rows(".tsv")),
    "jsonl": Parser((b'{"text": "a house"}\n{"text": "caf\\u00e9", "n": [1, 2.5, null]}\n',), _rows(".jsonl")),
    "template": Parser((b"what is {a} and {b:>5}? {{braces}} {a!s}", b"{none}"), _template),
    "metrics": Parser((b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": "NaN", "eval/a/loss": 3}\n',), _metrics),
    "log": Parser((b'{"time": "2026-01-01T00:00:00Z", "event": "start", "step": 1, "text": "a"}\n',), _log),
    "position": Parser((Position({"seed": 1, "lengths": {"inputs": 3}}, b"\x01\x02", 7).to_bytes(),), _position),
    "safetensors": Parser((_safetensors_example(),), _safetensors),
    "gin": Parser((b"A = 1\na/B.c = {'x': @C(), 'y': (1, %A)}\nB:\n  d = 'e'\n",), _gin),
}


def fuzz(name: str, seed: int, goes_on: Callable[[int], bool], keep: Path) -> tuple[int, int]:
    """(inputs, findings); findings that fail at the same place count once.

    Args:
        name: of the parser.
        seed: of the damages.
        goes_on: asked after each input, with how many there were.
        keep: folder for what was found.
    """
    parser, rng, seen, inputs = PARSERS[name], random.Random(f"{seed} {name}"), set(), 0
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        while goes_on(inputs):
            data, inputs = damaged(rng.choice(parser.examples), rng), inputs + 1
            found = problem(parser, data, Path(folder))
            if found and (place := "\n".join(found.splitlines()[-4:-1]) or found) not in seen:
                seen.add(place)
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{name}_{inputs}").write_bytes(data)
                print(f"{name}, input {inputs}: {data[:300]!r}\n{found}", flush=True)
    return inputs, len(seen)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    options.add_argument("--seconds", type=float, default=600, help="for each parser (600)")
    options.add_argument("--parsers", nargs="+", choices=PARSERS, default=list(PARSERS))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz", metavar="FOLDER")
    chosen = options.parse_args()
    counts = {}
    for name in chosen.parsers:
        end = time.monotonic() + chosen.seconds
        inputs, findings = fuzz(name, chosen.seed, lambda _, end=end: time.monotonic() < end, chosen.keep)
        counts[name] = {"inputs": inputs, "findings": findings}
        print(f"{name}: {inputs:,} inputs, {findings} findings", flush=True)
    print(json.dumps({"seed": chosen.seed, "seconds": chosen.seconds, "parsers": counts}))
    return int(any(found["findings"] for found in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
