"""Safetensors files, read and written one tensor at a time.

The format (github.com/huggingface/safetensors): the length of a header in 8 bytes, little-endian; the header, JSON of
`{name: {dtype, shape, data_offsets}}`; the tensors' bytes. A model in several files has an index beside them, JSON
with `weight_map`, from a tensor's name to its file. The library holds all tensors of a file at once when it writes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import ml_dtypes
import numpy as np

from t5x_mini import strangers
from t5x_mini.errors import UserError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
Dtype = Literal["float32", "bfloat16"]

_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_WRITTEN = {"float32": "F32", "bfloat16": "BF16"}
_LONGEST_HEADER = 100_000_000  # the format's own limit
_ALIGNMENT = 8  # of the tensors' first byte


class Tensor(NamedTuple):
    """A tensor to be written; `read` makes it when its turn comes."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Tensors:
    """The tensors of a folder's safetensors files; their bytes stay on disk until they are read.

    Attributes:
        shapes: of every tensor, by name.
    """

    def __init__(self, folder: Path):
        """Reads the headers.

        Raises:
            UserError: there are no such files, or they are not complete.
        """
        self._places: dict[str, tuple[Path, int, dict]] = {}
        for path in _files(folder):
            start, header = _read_header(path)
            self._places |= {name: (path, start, entry) for name, entry in header.items()}
        self.shapes = {name: tuple(entry["shape"]) for name, (_, _, entry) in self._places.items()}

    def read(self, name: str) -> np.ndarray:
        """One tensor as float32, read-only where the file has it so.

        Raises:
            UserError: it is of integers, or of a dtype that needs a scale beside it.
        """
        path, start, entry = self._places[name]
        if entry["dtype"] not in _DTYPES:
            raise UserError(
                f"{path}: {name} is {entry['dtype']}. {', '.join(_DTYPES)} can be read: load a quantised model with "
                "transformers, and save it in float32 (model.float().save_pretrained(FOLDER))."
            )
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        if not math.prod(entry["shape"]):
            return np.zeros(entry["shape"], np.float32)
        offset = start + entry["data_offsets"][0]
        array = np.memmap(path, dtype, "r", offset=offset, shape=tuple(entry["shape"]))
        return np.asarray(array).astype(np.float32, copy=False)


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], dtype: Dtype, shard_bytes: int) -> None:
    """Writes `model.safetensors`, or several files of at most `shard_bytes` (unless one tensor is larger) and an index.

    No more than one tensor is in memory at a time.
    """
    size = np.dtype(_DTYPES[_WRITTEN[dtype]]).itemsize
    shards = list(_shards({name: math.prod(tensor.shape) * size for name, tensor in tensors.items()}, shard_bytes))
    if len(shards) == 1:
        _write_file(folder / SINGLE, tensors, dtype)
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file, {name: tensors[name] for name in shard}, dtype)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(math.prod(tensor.shape) for tensor in tensors.values())
    index = {"metadata": {"total_parameters": total, "total_size": total * size}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        index = strangers.read_json(folder / INDEX, "the index of safetensors files", _LONGEST_HEADER)
        names = index["weight_map"].values() if isinstance(index.get("weight_map"), dict) else [None]
        if outside := [name for name in names if not isinstance(name, str) or Path(name).name != name]:
            raise UserError(
                f"{folder / INDEX} has no `weight_map` to the names of files beside it: {outside[0]!r} is none. Copy "
                "it again, from where you trust it."
            )
        paths = [folder / name for name in sorted(set(names))]
        if absent := [path.name for path in paths if not path.is_file()]:
            raise UserError(f"{folder} lacks {', '.join(absent)}, which its {INDEX} names. Copy it there too.")
        return paths
    torch_files = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if torch_files:
        raise UserError(
            f"{folder} has its tensors in {torch_files[0]}, a pickle, which can run code when it is opened. Turn it "
            "into safetensors where you trust it: "
            f"AutoModelForSeq2SeqLM.from_pretrained({str(folder)!r}).save_pretrained('NEW_FOLDER'), and copy its "
            "tokenizer's files there."
        )
    raise UserError(f"{folder} has a config.json, but no {SINGLE} and no {INDEX}.")


def _read_header(path: Path) -> tuple[int, dict[str, dict]]:
    """Where the tensors begin in the file, and what there is."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LONGEST_HEADER:
            raise UserError(f"{path} is not a safetensors file: its header would have {length:,} bytes. Copy it again.")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for name, entry in header.items():
                _check_entry(name, entry)
            end = _end_of(header)
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
            reason = str(error) if isinstance(error, _Misplaced) else "its header can't be read"
            raise UserError(f"{path} is not a safetensors file: {reason}. Copy it again.") from None
    if 8 + length + end != path.stat().st_size:
        raise UserError(
            f"{path} is {path.stat().st_size} bytes long, where its header says {8 + length + end}. Copy it again."
        )
    return 8 + length, header


class _Misplaced(ValueError):
    """What is said of a tensor can't be."""


def _check_entry(name: str, entry: dict) -> None:
    """Whether shape and place of a tensor are such as can be, and go together where its dtype is known."""
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if not all(type(number) is int and 0 <= number < 1 << 62 for number in (*shape, start, end)):
        raise _Misplaced(f"{name} has the shape {shape} at {start} to {end}")
    width = np.dtype(_DTYPES[entry["dtype"]]).itemsize if entry["dtype"] in _DTYPES else None
    if end < start or (width and math.prod(shape) * width != end - start):
        raise _Misplaced(f"{name} has the shape {shape}, and {end - start} bytes")


def _end_of(header: Mapping[str, dict]) -> int:
    """Where the last tensor ends; they lie one behind the other."""
    position = 0
    for start, end, name in sorted((*entry["data_offsets"], name) for name, entry in header.items()):
        if start != position:
            raise _Misplaced(f"{name} begins at {start}, and what is before it ends at {position}")
        position = end
    return position


def _shards(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    shard, total = [], 0
    for name, size in sizes.items():
        if shard and total + size > most:
            yield shard
            shard, total = [], 0
        shard.append(name)
        total += size
    yield shard


def _write_file(path: Path, tensors: Mapping[str, Tensor], dtype: Dtype) -> None:
    kind = _WRITTEN[dtype]
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + math.prod(tensor.shape) * np.dtype(_DTYPES[kind]).itemsize
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            _write_tensor(file, name, tensor, _DTYPES[kind])


def _write_tensor(file: BinaryIO, name: str, tensor: Tensor, dtype: type) -> None:
    array = tensor.read()
    if array.shape != tensor.shape:
        raise ValueError(f"{name} has the shape {array.shape}, where {tensor.shape} was announced")
    file.write(memoryview(np.ascontiguousarray(array, dtype).view(np.uint8).reshape(-1)))
