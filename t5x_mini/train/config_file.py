"""The `config.gin` in a run's folder, and those that it had before."""

from __future__ import annotations

import re
from pathlib import Path

from t5x_mini.whole_file import write_whole

NAME = "config.gin"
_KEPT = re.compile(r"config-(\d+)\.gin")


def write(folder: Path, config: str, step: int) -> None:
    """Writes the configuration of a run that goes on from `step`. Another one that it had until then is kept as
    `config-<step>.gin`, the first such one of a step: those after it have trained nothing."""
    path, kept = folder / NAME, folder / f"config-{step}.gin"
    before = path.read_bytes() if path.is_file() else None
    if before == config.encode():
        return
    if before is not None and step and not kept.is_file():
        write_whole(kept, before)
    write_whole(path, config)


def changes(folder: Path) -> list[int]:
    """The steps that the configuration was another one until, ascending."""
    return sorted(int(kept[1]) for path in folder.glob("config-*.gin") if (kept := _KEPT.fullmatch(path.name)))


def of_step(folder: Path, step: int) -> Path:
    """The configuration that a step was made with."""
    until = next((last for last in changes(folder) if step <= last), None)
    return folder / (NAME if until is None else f"config-{until}.gin")
