"""Whether the files of a mixture's tasks are there: of all at once, with the mixture of those that are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from t5x_mini.errors import UserError
from t5x_mini.feed.config import FeedConfig
from t5x_mini.tasks import files, registry
from t5x_mini.tasks.definitions import Mixture, Source


def check(config: FeedConfig, split: str, *, training: bool) -> None:
    """Raises UserError where some of a mixture's tasks have no files for the split, and says which and what to write.

    For training only tasks with a rate count. Files on a network are left to whoever reads them, and so is the one task
    of a run that has no mixture.
    """
    name = config.mixture_or_task_name
    if not registry.is_defined(name, config) or not isinstance(mixture := registry.find(name, config), Mixture):
        return
    rates = registry.components(name, config, count=lambda task: 1)
    missing = {
        task: paths
        for task, rate in rates.items()
        if (rate or not training) and (paths := _missing(registry.find(task, config), split))
    }
    if missing:
        tasks = {task: registry.find(task, config) for task in rates}
        here = {task: rates[task] for task in rates if not _missing(tasks[task], *(tasks[task].files or {}))}
        raise UserError(_message(mixture, split, here, missing))


def _missing(task: Source, *splits: str) -> list[str]:
    """The paths on this machine that the task names for the splits, and that lead to nothing."""
    named = [(task.files or {}).get(split, ()) for split in splits]
    patterns = [path for paths in named for path in ((paths,) if isinstance(paths, str) else paths)]
    return [pattern for pattern in patterns if not files.is_remote(pattern) and not _leads_somewhere(pattern)]


def _leads_somewhere(pattern: str) -> bool:
    try:
        return bool(files.expand(pattern))
    except UserError:
        return False


def _message(mixture: Mixture, split: str, here: Mapping[str, float], missing: Mapping[str, Sequence[str]]) -> str:
    lacking = ", ".join(f"{task} ({paths[0]})" for task, paths in missing.items())
    found = f"The mixture {mixture.name!r} needs files of the split {split!r} that are not there: {lacking}."
    drawn = [task for task, rate in here.items() if rate]
    if not drawn:
        return f"{found} None of its tasks has its files there: is it another folder?"
    tasks = here if isinstance(mixture.tasks, Mapping) else drawn
    return (
        f"{found} Those of {', '.join(drawn)} are there. To take these alone, write "
        f'--gin.MIXTURE_OR_TASK_NAME=those_here --gin.those_here/Mixture.tasks="{tasks}"'
    )
