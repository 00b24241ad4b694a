"""What can be read: every task and mixture that a configuration knows, with what is known of it without reading it."""

from __future__ import annotations

import dataclasses
import glob
import itertools
import json
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.quiet_tensorflow import hold_back_stderr
from t5x_mini.tasks import files, registry
from t5x_mini.tasks.definitions import Definition, Mixture, PretrainingTask, Source
from t5x_mini.tasks.objectives import Objective

_COLUMNS = ("name", "kind", "source", "splits", "size", "objective, metrics or rates")
_WIDTHS = (48, 14, 36, 24, 20, 40)
_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}


def list_tasks(feed: FeedConfig) -> None:
    """Prints a table of all tasks and mixtures. Downloads, counts and prepares nothing.

    Those that `feed.mixture_or_task_module` registers with SeqIO stand last; without one TensorFlow isn't imported.

    Raises:
        UserError: the module cannot be imported, or two tasks have one name.
    """
    known = registry.definitions(feed)
    short = {name: alias for alias, name in registry.aliases().items()}
    rows = [_row(definition, short.get(name)) for name, definition in known.items()]
    if feed.mixture_or_task_module is not None:
        rows += _registered_rows(feed, known)
    _print_table(_COLUMNS, rows)


def _row(definition: Definition, alias: str | None) -> tuple[str, ...]:
    name = definition.name if alias is None else f"{definition.name} ({alias})"
    if isinstance(definition, Mixture):
        named = isinstance(definition.tasks, Mapping)
        rates = [f"{task} {rate:g}" for task, rate in definition.tasks.items()] if named else definition.tasks
        without = f" without {', '.join(definition.without)}" if definition.without else ""
        return name, "mixture", f"{len(rates)} tasks{without}", "", "", _joined(rates)
    if isinstance(definition, PretrainingTask):
        kind, learned = "pretraining", _objective(definition.objective)
    else:
        kind, learned = "text to text", ", ".join(definition.metrics)
    return name, kind, _source(definition), *_splits_and_size(definition), learned


def _objective(objective: Objective) -> str:
    """As it is written in gin: with the fields that differ from their defaults."""
    fields = {field.name: getattr(objective, field.name) for field in dataclasses.fields(objective)}
    defaults = {field.name: field.default for field in dataclasses.fields(objective)}
    changed = [f"{name}={value}" for name, value in fields.items() if value != defaults[name]]
    return f"{type(objective).__name__}({', '.join(changed)})"


def _source(definition: Source) -> str:
    if definition.files is None:
        return f"tfds {definition.tfds}" if definition.tfds else f"huggingface {definition.huggingface}"
    patterns = [pattern for some in definition.files.values() for pattern in _patterns(some)]
    if len(patterns) == 1:
        return _from_here(patterns[0])
    shared = os.path.commonprefix(patterns)
    folder = shared[: shared.rfind("/") + 1]
    return f"{_from_here(folder)}…" if folder else _joined(patterns)


def _splits_and_size(definition: Source) -> tuple[str, str]:
    if definition.files is not None:
        sizes = [_size_of_files(_patterns(patterns)) for patterns in definition.files.values()]
        unknown = next((size for size in sizes if isinstance(size, str)), None)
        return ", ".join(definition.files), unknown or _bytes(sum(sizes))
    if definition.tfds is None:
        return ", ".join(definition.splits or {}), ""
    return _of_tfds(definition)


def _size_of_files(patterns: Iterable[str]) -> int | str:
    """Bytes; in words where that would take a network or finding out."""
    total = 0
    for pattern in patterns:
        if files.is_made(pattern):
            made = files.made_before(pattern)
            if made is None:
                return "made at first use"
            paths = [str(made)]
        elif files.is_remote(pattern):
            return "remote"
        else:
            try:
                paths = files.expand(pattern)
            except UserError:
                return "no files"
        total += sum(map(os.path.getsize, paths))
    return total


def _of_tfds(definition: Source) -> tuple[str, str]:
    """What TensorFlow Datasets noted of a builder when it was prepared on this machine."""
    name, _, version = definition.tfds.partition(":")
    root = os.environ.get("TFDS_DATA_DIR") or os.path.expanduser("~/tensorflow_datasets")
    found = sorted(glob.glob(os.path.join(root, name, version or "*", "dataset_info.json")))
    if not found:
        return ", ".join(definition.splits or {}), "not prepared here"
    noted = {split["name"]: split for split in json.loads(Path(found[-1]).read_text())["splits"]}
    read = {split: noted[its] for split, its in (definition.splits or {name: name for name in noted}).items()}
    sizes = [f"{split} {sum(map(int, info['shardLengths'])):,} rows" for split, info in read.items()]
    return ", ".join(read), "; ".join(sizes)


def _registered_rows(feed: FeedConfig, known: Mapping[str, Definition]) -> list[tuple[str, ...]]:
    from t5x_mini.feed import seqio_lookup  # TensorFlow: only where a module is named

    with hold_back_stderr():
        import seqio

    seqio_lookup.import_module(feed)

    rows = []
    for name in sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()} - known.keys()):
        provider = seqio.get_mixture_or_task(name)
        splits = ", ".join(sorted(provider.splits))
        if isinstance(provider, seqio.Mixture):
            tasks = [f"{task.name} {provider.get_rate(task):g}" for task in provider.tasks]
            rows.append((name, "SeqIO mixture", f"{len(tasks)} tasks", splits, "", _joined(tasks)))
            continue
        metrics = ", ".join(map(_name_of, provider.metric_fns))
        rows.append((name, "SeqIO task", type(provider.source).__name__, splits, "", metrics))
    return rows


def _name_of(function: Callable) -> str:
    function = getattr(function, "func", function)  # of a functools.partial
    return getattr(function, "__name__", type(function).__name__)


def _patterns(patterns: str | Iterable[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _joined(words: Iterable[str], most: int = 3) -> str:
    words = list(words)
    return ", ".join(words[:most]) + (f", … ({len(words)})" if len(words) > most else "")


def _from_here(path: str) -> str:
    return path.removeprefix(f"{os.getcwd()}/")


def _bytes(size: int) -> str:
    unit, size = next((unit, size / scale) for unit, scale in _UNITS.items() if size < 1000 * scale)
    return f"{size:.1f} {unit}" if size < 10 and unit != "B" else f"{size:.0f} {unit}"


def _print_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Cells that are longer than their column may be go on in the next line."""
    widths = [min(limit, max(len(row[i]) for row in (columns, *rows))) for i, limit in enumerate(_WIDTHS)]
    for row in (columns, tuple("-" * width for width in widths), *rows):
        cells = [textwrap.wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        for line in itertools.zip_longest(*cells, fillvalue=""):
            print("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
