"""Whether a folder holds a run that was begun with other settings, for commands that make many runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from t5x_mini import config as config_module
from t5x_mini.config import RunConfig
from t5x_mini.errors import UserError

_FOLDERS = ("TrainConfig.model_dir", "TrainConfig.compilation_cache")


def begun_with(folder: Path) -> RunConfig | None:
    """The configuration of the run in the folder; None where none was begun. It is then the last one loaded."""
    file = folder / "config.gin"
    return config_module.load([str(file)]) if file.is_file() else None


def refuse_changes(folder: Path, before: RunConfig | None, now: RunConfig, but: Sequence[str] = ()) -> None:
    """Compares a run that was begun with what it would be now. Its folder may have been moved.

    Args:
        folder: of the run.
        before: what it was begun with, None for a new one.
        now: what it would be.
        but: further settings that may be others.

    Raises:
        UserError: with all settings that differ.
    """
    if before is None:
        return
    old, new = _settings(before), _settings(now)
    changed = [name for name in new if name in old and name not in but and old[name] != new[name]]
    if changed:
        lines = "".join(f"    {name}: {old[name]!r} then, {new[name]!r} now\n" for name in changed)
        raise UserError(
            f"{folder} was begun with other settings:\n{lines}Go back to them, write another --output, or remove the "
            f"folder."
        )


def _settings(config: RunConfig) -> dict[str, object]:
    """`RunConfig.settings` and the parts they are of, without folders."""
    kept = {name: value for name, value in config.settings.items() if name not in _FOLDERS}
    return kept | {"RunConfig": tuple(type(part).__name__ for part in vars(config).values())}
