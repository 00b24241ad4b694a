"""Where T5X's checkpoints are and what is in them: the arrays by T5X's names, and the run's `config.gin`.

A checkpoint is a folder `checkpoint_<step>` with one array for each name of T5X's state (`target/encoder/...`). Native
ones have a zarr folder an array (`target.encoder.layers_0.mlp.wo.kernel`) and a msgpack file `checkpoint` that names
them and holds the small ones. Those that T5X wrote through Orbax have the same zarr arrays in the folder `state`, as
folders or in one OCDBT store, and those of 2022 and 2023 a msgpack file too. Everything is read through TensorStore, so
that a bucket (`gs://`) is as good as a folder.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import tensorstore as ts

from t5x_mini import remote, strangers
from t5x_mini.errors import UserError
from t5x_mini.tasks import files

Leaf = np.ndarray | ts.TensorStore

_PLACEHOLDER = "PLACEHOLDER://"  # of Orbax, where the msgpack file stands for an array beside it
_LARGEST = 4 << 30
_ZARR = {"/.zarray": "zarr", "/zarr.json": "zarr3"}
_ORBAX = {"_METADATA", "manifest.ocdbt", "checkpoint"}
_EXAMPLE = "gs://t5-data/pretrained_models/t5x/t5_1_1_small/checkpoint_1000000"


def newest(path: str) -> str:
    """The folder of the checkpoint that `path` means."""
    path = os.path.expanduser(path).rstrip("/")
    if is_complete(path):
        return path
    for step in reversed(steps(path)):
        if is_complete(f"{path}/checkpoint_{step}"):
            return f"{path}/checkpoint_{step}"
    raise UserError(
        f"There is no T5X checkpoint in {path}. Write a folder with a file `checkpoint` or a folder `state` in it, "
        f"such as {_EXAMPLE}, or the one that holds such folders."
    )


def steps(path: str) -> list[int]:
    return sorted(int(match[1]) for match in map(re.compile(r"checkpoint_(\d+)").fullmatch, _entries(path)) if match)


def is_complete(folder: str) -> bool:
    """T5X and Orbax write to a folder of another name first, and rename it."""
    entries = _entries(folder)
    return "checkpoint" in entries or ("state" in entries and bool(_entries(f"{folder}/state") & _ORBAX))


def _entries(folder: str) -> set[str]:
    """Names in the folder; none where there is no such folder."""
    folder = folder.rstrip("/") + "/"
    if not files.is_remote(folder):
        return set(os.listdir(folder)) if os.path.isdir(folder) else set()
    return {name.removeprefix(folder).partition("/")[0] for name in remote.listing(folder)}


def open_leaves(folder: str) -> dict[str, Leaf]:
    """Every array of the checkpoint by its name (`target/encoder/...`, `state/step`), opened and not read."""
    entries = _entries(folder)
    if "state" in entries:
        folder, entries = f"{folder}/state", _entries(f"{folder}/state")
    url = folder + "/" if files.is_remote(folder) else Path(folder).absolute().as_uri() + "/"
    spec = {"driver": "ocdbt", "base": url} if "manifest.ocdbt" in entries else url
    store = ts.KvStore.open(spec).result()
    if "checkpoint" in entries:
        leaves = _msgpack_leaves(f"{folder}/checkpoint")
        drivers = dict.fromkeys((name for name in leaves.values() if isinstance(name, str)), "zarr")
    else:
        drivers = _zarr_arrays(store)
        leaves = {name.replace(".", "/"): name for name in drivers}
    opening = {name: ts.open({"driver": driver}, kvstore=store / f"{name}/") for name, driver in drivers.items()}
    return {
        name.removeprefix("_optimizer/"): leaf if isinstance(leaf, np.ndarray) else _opened(opening[leaf], leaf, folder)
        for name, leaf in leaves.items()
    }


def _opened(opening: ts.Future, name: str, folder: str) -> ts.TensorStore:
    try:
        return opening.result()
    except ValueError as error:
        raise UserError(
            f"The checkpoint {folder} is incomplete: its array {name} cannot be opened. Copy the whole folder again. "
            f"({' '.join(str(error).split())[:200]})"
        ) from error


def _zarr_arrays(store: ts.KvStore) -> dict[str, str]:
    """Name and driver of every zarr array."""
    keys = [key.decode() for key in store.list().result()]
    return {key.removesuffix(end): driver for key in keys for end, driver in _ZARR.items() if key.endswith(end)}


def _msgpack_leaves(path: str) -> dict[str, np.ndarray | str]:
    """What the file holds by name: an array, or the name of the zarr array beside the file."""
    from flax import serialization

    data = strangers.read_bytes(path, "T5X's file of small arrays", _LARGEST)
    if data.startswith(b"model_checkpoint_path"):
        raise UserError(
            f"{path} is of a TensorFlow checkpoint (Mesh TensorFlow's T5). Import the same model from T5X's or Hugging "
            "Face's checkpoints, or convert it with T5X's convert_tf_checkpoint."
        )
    try:
        tree = serialization.msgpack_restore(data)
        if not isinstance(tree, dict) or not isinstance(tree.get("version", 3), int):
            raise ValueError("it holds no tree of arrays")
    except Exception as error:  # of msgpack's and flax's, for whatever bytes there are
        raise UserError(
            f"{path} is not a checkpoint that T5X wrote ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:120]}). Copy the whole folder again, or write the path of another."
        ) from None
    if tree.get("version", 3) < 2:
        raise UserError(f"{path} has version {tree['version']} of T5X's format; versions 2 and 3 can be read.")
    found = {name: _array_or_name(leaf) for name, leaf in _flat(tree.get("optimizer", tree))}
    return {name: leaf for name, leaf in found.items() if leaf is not None}


def _flat(tree: Mapping, prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in tree.items():
        inner = isinstance(value, Mapping) and not {"driver", "kvstore"} <= value.keys()
        yield from _flat(value, f"{prefix}{key}/") if inner else [(f"{prefix}{key}", value)]


def _array_or_name(leaf: object) -> np.ndarray | str | None:
    if isinstance(leaf, str):
        return leaf.removeprefix(_PLACEHOLDER)
    if isinstance(leaf, Mapping):  # a TensorStore spec; where it was written, and in which bucket, is of no matter
        path = leaf["kvstore"].get("path") or leaf["path"]
        return path.rstrip("/").rpartition("/")[2]
    return None if leaf is None else np.asarray(leaf)


def read(leaf: Leaf) -> np.ndarray:
    """The whole array, float32 where it is of floats."""
    if isinstance(leaf, ts.TensorStore):
        if leaf.fill_value is None and not leaf.storage_statistics(query_fully_stored=True).result().fully_stored:
            # TensorStore would give zeros for a chunk that wasn't copied.
            raise UserError(
                f"The checkpoint is incomplete: parts of {leaf.kvstore.url} are missing. Copy the whole folder again."
            )
        array = leaf.read().result()
    else:
        array = leaf
    if array.dtype == np.uint16:  # bfloat16, in version 2
        array = array.view(ml_dtypes.bfloat16)
    return array if np.issubdtype(array.dtype, np.integer) else array.astype(np.float32, copy=False)


class RunConfigGin:
    """What the `config.gin` says that T5X writes into a run's folder; defaults where there is none."""

    def __init__(self, folder: str):
        path = f"{folder.rpartition('/')[0]}/config.gin"
        text = strangers.read_bytes(path, "T5X's config.gin", 8 * strangers.MIB) if files.exists(path) else b""
        self._text = text.decode("utf-8", "replace")
        self.vocabulary: str | None = self._value(r"SentencePieceVocabulary\.sentencepiece_model_file")
        if self.vocabulary is None and re.search(r"(?m)^\w+ *= *@seqio\.ByteVocabulary\(\)", self._text):
            self.vocabulary = "bytes"
        self.extra_ids: int = self._value(r"Vocabulary\.extra_ids", 100)
        self.loss_normalizing_factor: float | str | None = self._value("LOSS_NORMALIZING_FACTOR")
        self.dropout_rate: float | None = self._value("DROPOUT_RATE")
        activations = self._value(r"Config\.mlp_activations")
        self.mlp_activations: tuple[str, ...] | None = tuple(activations) if activations else None

    def _value(self, name: str, default: object = None) -> object:
        found = re.search(rf"(?m)^(?:[\w./]*{name}) *= *\\?\s*(['\"(\[\d].*)$", self._text)
        try:
            return ast.literal_eval(found[1]) if found else default
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return default
