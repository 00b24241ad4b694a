"""Rows of a TensorFlow Datasets builder. The one source that needs TensorFlow, which is imported when it is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from t5x_mini.errors import UserError
from t5x_mini.tasks.definitions import Row, Source
from t5x_mini.tasks.formats import Shard

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


def splits(definition: Source) -> tuple[str, ...]:
    # TFDS knows the splits of most datasets before they are prepared.
    return tuple(definition.splits or _builder(definition).info.splits or prepared(definition).info.splits)


def shards(definition: Source, split: str) -> tuple[Shard, ...]:
    """TFDS's own files, one a shard."""
    info = _info(definition, split)
    number = max(1, info.num_shards)
    size = info.num_bytes // number
    name = f"{definition.tfds}/{split}"
    return tuple(Shard(f"{name}:{i}", definition.tfds, i, i + 1, size, split) for i in range(number))


def read(definition: Source, shard: Shard) -> Iterator[Row]:
    import tensorflow_datasets as tfds

    part = tfds.core.ReadInstruction(shard.split, from_=shard.start, to=shard.end, unit="shard")
    return map(plain, prepared(definition).as_dataset(split=part, shuffle_files=False).as_numpy_iterator())


def fingerprint(definition: Source, split: str) -> str:
    info = _info(definition, split)
    text = f"{_builder(definition).info.full_name} {split} {info.num_examples} {info.num_bytes}"
    return hashlib.sha256(text.encode()).hexdigest()


def count(definition: Source, split: str) -> int:
    return _info(definition, split).num_examples


def _info(definition: Source, split: str) -> tfds.core.SplitInfo:
    known = prepared(definition).info.splits
    if split not in known:
        raise UserError(
            f"{definition.tfds!r} has no split {split!r}; it has {', '.join(known)}. Correct {definition.name}.splits."
        )
    return known[split]


def _builder(definition: Source) -> tfds.core.DatasetBuilder:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(definition.tfds)
    except Exception as error:  # TFDS has its own error for every reason, most of them private
        raise UserError(f"TensorFlow Datasets cannot find {definition.tfds!r}: {_first_line(error)}") from error


def prepared(definition: Source) -> tfds.core.DatasetBuilder:
    """The builder, its files in place. Raises UserError if there is none of that name, or it cannot be prepared."""
    builder = _builder(definition)
    if not builder.is_prepared():
        try:
            builder.download_and_prepare()
        except Exception as error:
            raise UserError(
                f"TensorFlow Datasets cannot prepare {definition.tfds!r}: {_first_line(error)}. It needs the network, "
                f"or a copy that was prepared elsewhere in {builder.data_dir} (TFDS_DATA_DIR names another folder)."
            ) from error
    return builder


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:500] or type(error).__name__


def plain(value: Any) -> Any:
    """NumPy's values as Python's and bytes as text, in dictionaries and arrays too."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if getattr(value, "shape", None) == ():
        return plain(value.item())
    if hasattr(value, "tolist"):
        return [plain(item) for item in value.tolist()]
    return value
