"""Rows of a Hugging Face dataset, from the hub or from a folder; `datasets` is imported when it is asked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from t5x_mini.errors import UserError
from t5x_mini.tasks.definitions import Row, Source
from t5x_mini.tasks.formats import Shard

if TYPE_CHECKING:
    import datasets

_SHARD_ROWS = 65536


def splits(definition: Source) -> tuple[str, ...]:
    return tuple(definition.splits or _load(definition))


def shards(definition: Source, split: str) -> tuple[Shard, ...]:
    total = len(_split(definition, split))
    bounds = [*range(0, total, _SHARD_ROWS), total]
    name = f"{definition.huggingface}/{split}"
    return tuple(
        Shard(f"{name}:{start}-{end}", definition.huggingface, start, end, split=split)
        for start, end in zip(bounds, bounds[1:], strict=False)
    )


def read(definition: Source, shard: Shard) -> Iterator[Row]:
    return iter(_split(definition, shard.split).select(range(shard.start, shard.end)))


def fingerprint(definition: Source, split: str) -> str:
    dataset = _split(definition, split)
    return hashlib.sha256(f"{dataset.info.dataset_name} {split} {dataset._fingerprint}".encode()).hexdigest()


def count(definition: Source, split: str) -> int:
    return len(_split(definition, split))


def _split(definition: Source, split: str) -> datasets.Dataset:
    known = _load(definition)
    if split not in known:
        raise UserError(
            f"{definition.huggingface!r} has no split {split!r}; it has {', '.join(known)}. Correct "
            f"{definition.name}.splits."
        )
    return known[split]


def _load(definition: Source) -> Mapping[str, datasets.Dataset]:
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"The task {definition.name!r} reads the Hugging Face dataset {definition.huggingface!r}, which takes a "
            "package that isn't installed: pip install datasets"
        ) from error
    name = definition.huggingface
    path, _, config = name.partition(":")
    try:
        loaded = datasets.load_from_disk(name) if os.path.isdir(name) else datasets.load_dataset(path, config or None)
    except Exception as error:  # the hub's errors come from several libraries
        message = str(error).strip().partition("\n")[0][:500] or type(error).__name__
        raise UserError(f"The Hugging Face dataset {name!r} cannot be loaded: {message}") from error
    return loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
