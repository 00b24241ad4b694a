"""Where the settings of runs differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from t5x_mini.gin_files import Macro, replaced

# Every run has its own.
_NOT_COMPARED = ("MODEL_DIR", "TrainConfig.model_dir")
_MISSING = object()


@dataclasses.dataclass(frozen=True)
class Difference:
    """A setting that is not the same in all runs; `values` as gin writes them, None where a run doesn't have it."""

    name: str
    values: tuple[str | None, ...]


def differences(configs: Sequence[Mapping[str, object]]) -> list[Difference]:
    """Settings that differ between `RunData.config`s, macros first; empty for one, or where none was kept.

    A field that takes its value from a macro in all of them is left out, since the macro itself is there.
    """
    known = [config for config in configs if config]  # a run without config.gin differs in nothing that can be said
    names = dict.fromkeys(name for config in known for name in config if name not in _NOT_COMPARED)
    found = [name for name in names if _differs(name, known)]
    values = [(name, tuple(repr(config[name]) if name in config else None for config in configs)) for name in found]
    return [Difference(name, row) for name, row in sorted(values, key=lambda pair: "." in pair[0])]


def _differs(name: str, configs: Sequence[Mapping[str, object]]) -> bool:
    written = [config.get(name, _MISSING) for config in configs]
    there = [value for value in written if value is not _MISSING]
    if isinstance(there[0], Macro) and all(value == there[0] for value in there):
        return False
    resolved = [_resolve(value, config) for value, config in zip(written, configs, strict=True)]
    return any(value != resolved[0] for value in resolved)


def _resolve(value: object, config: Mapping[str, object]) -> object:
    def leaf(part: object) -> object:
        return config.get(part.name, part) if isinstance(part, Macro) else part

    return replaced(value, leaf)
