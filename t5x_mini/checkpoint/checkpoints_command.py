"""`t5x-mini checkpoints`: which ones a run has, whether their bytes are what was written, and deleting some.

Like `t5x-mini status` it works from any machine that can read the folder, and imports neither JAX nor Orbax.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from t5x_mini.checkpoint import manifest, retention, steps
from t5x_mini.checkpoint.manifest import Manifest, ManifestError, Problem
from t5x_mini.errors import UserError
from t5x_mini.report.status import duration
from t5x_mini.storage import is_remote, to_path
from t5x_mini.train import run_lock

NEWEST, BEST = "newest", "best"
State = Literal["complete", "good", "damaged", "not verified", "interrupted"]
_IN_WORDS = {
    "complete": "complete",
    "good": "good: every byte is as it was written",
    "damaged": "DAMAGED",
    "not verified": "complete, of an earlier version: it has no checksums",
    "interrupted": "interrupted: not a checkpoint, and removed when the run goes on",
}
_TRAINING = ("train/loss", "train/accuracy")


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint as it is found.

    Attributes:
        step: of the run.
        state: what is known of its bytes; `complete`, where they weren't looked at.
        manifest: what it says of itself; without files, where it says nothing.
        size: in bytes; None where it isn't known.
        problems: what is damaged.
    """

    step: int
    state: State
    manifest: Manifest
    size: int | None
    problems: Sequence[Problem] = ()


def checkpoints(
    run: str, *, verify: bool = False, keep: Sequence[str] = (), delete: Sequence[str] = (), yes: int = 0
) -> None:
    """Lists a run's checkpoints, a line each, and deletes those that are to go.

    Args:
        run: the folder of the run.
        verify: read all bytes of them.
        keep: steps, `newest` and `best`: all others are deleted.
        delete: steps of those to delete.
        yes: how often it was said that nobody is to be asked; twice, to delete the last good one too.

    Raises:
        UserError: there are none; one is damaged; what is to be deleted is not there or in use, or nobody agreed.
    """
    folder = _run_dir(run)
    numbered = steps.numbered(folder)
    if not numbered:
        raise UserError(f"There are no checkpoints in {run}. Write the MODEL_DIR of a run: runs/quickstart, say.")
    found = [_look(folder, step) for step in numbered]
    if verify:
        found = _verified(folder, found)
    print("\n".join(listing(folder, found)))
    if keep or delete:
        _delete(folder, found, _doomed(found, keep, delete, folder), yes)
    damaged = [one for one in found if one.state == "damaged" and (folder / steps.FOLDER / str(one.step)).exists()]
    if damaged:
        raise UserError(
            f"{len(damaged)} of {len(found)} checkpoints in {folder} are damaged: "
            f"{', '.join(f'{one.step:,}' for one in damaged)}. A run that goes on there falls back to the newest good "
            "one. Copy the damaged ones once more from where they came from, or delete them: "
            f"--delete={','.join(str(one.step) for one in damaged)}"
        )


def listing(folder: pathlib.Path, found: Sequence[Found], now: float | None = None) -> list[str]:
    """The lines that are printed of a run's checkpoints, and of those beside them."""
    now = time.time() if now is None else now
    best, newest = _best(found), _newest(found)
    names = _columns(found)
    rows = [("step", "size", "age", *names, "")]
    for one in found:
        values = (f"{one.manifest.metrics[name]:.4g}" if name in one.manifest.metrics else "" for name in names)
        marks = [mark for mark, step in ((NEWEST, newest), (BEST, best)) if one.step == step]
        notes = "; ".join([*marks, _IN_WORDS[one.state]])
        saved_at = one.manifest.saved_at
        age = f"{duration(max(0.0, now - saved_at))} ago" if saved_at else "?"
        rows.append((f"{one.step:,}", _bytes(one.size), age, *values, notes))
    lines = [str(folder), *_aligned(rows)]
    for one in found:
        if one.problems:
            lines += manifest.damage(folder / steps.FOLDER / str(one.step), one.problems).splitlines()
    for name, why in ((steps.DAMAGED, "damaged"), (steps.ABANDONED, "left behind by a roll-back")):
        aside = sorted(path.name for path in (folder / name).iterdir()) if (folder / name).exists() else []
        if aside:
            lines.append(f"Set aside in {folder / name}, {why}: {', '.join(aside)}")
    return lines


def _run_dir(run: str) -> pathlib.Path:
    path = to_path(run).expanduser()
    return path.parent if path.name == steps.FOLDER else path


def _look(folder: pathlib.Path, step: int) -> Found:
    checkpoint = folder / steps.FOLDER / str(step)
    if not steps.is_complete(checkpoint):
        return Found(step, "interrupted", Manifest({}), _size(checkpoint))
    try:
        known = manifest.read(checkpoint)
    except ManifestError:
        broken = Problem(manifest.NAME, "cannot be read")
        return Found(step, "damaged", Manifest({}), _size(checkpoint), [broken])
    if known is None:
        return Found(step, "not verified", steps.of_earlier_version(checkpoint), _size(checkpoint))
    return Found(step, "complete", known, known.size)


def _verified(folder: pathlib.Path, found: Sequence[Found]) -> list[Found]:
    with manifest.progress_bar(sum(one.manifest.size for one in found if one.state == "complete")) as bar:
        return [_verify(folder, one, bar.update) for one in found]


def _verify(folder: pathlib.Path, one: Found, progress: manifest.Progress = lambda _: None) -> Found:
    if one.state != "complete":
        return one
    problems = manifest.check(folder / steps.FOLDER / str(one.step), one.manifest, progress=progress)
    return dataclasses.replace(one, state="damaged" if problems else "good", problems=problems)


# Deleting


def _doomed(found: Sequence[Found], keep: Sequence[str], delete: Sequence[str], folder: pathlib.Path) -> list[Found]:
    if keep and delete:
        raise UserError("--keep and --delete both say which checkpoints are to go: write one of them.")
    there = {one.step for one in found}
    if delete:
        chosen = {_step(word, there, folder, "--delete") for word in delete}
        return [one for one in found if one.step in chosen]
    chosen = {_named(word, found) if word in (NEWEST, BEST) else _step(word, there, folder, "--keep") for word in keep}
    return [one for one in found if one.step not in chosen]


def _step(word: str, there: Collection[int], folder: pathlib.Path, option: str) -> int:
    steps_there = ", ".join(map(str, sorted(there)))
    if not (word.isascii() and word.isdigit()):
        words = " or newest and best" if option == "--keep" else ""
        raise UserError(f"{option} takes steps, separated by commas{words}, and not {word[:40]!r}: {steps_there}.")
    if int(word) not in there:
        raise UserError(f"{option}: {folder} has no checkpoint of step {word[:40]}. There are {steps_there}.")
    return int(word)


def _named(word: str, found: Sequence[Found]) -> int:
    step = _newest(found) if word == NEWEST else _best(found)
    if step is None:
        raise UserError(f"--keep={word}: there is no {word} one" + (" (BEST_METRIC)." if word == BEST else "."))
    return step


def _delete(folder: pathlib.Path, found: Sequence[Found], doomed: Sequence[Found], yes: int) -> None:
    if not doomed:
        print("There is nothing to delete.")
        return
    _check_not_in_use(folder)
    staying = [one for one in found if one not in doomed]
    size = _bytes(sum(one.size or 0 for one in doomed))
    print(f"To be deleted: {_steps(doomed)} ({size}). To stay: {_steps(staying) or 'nothing'}.")
    if not yes and not _agrees("Delete them? [y/N] "):
        raise UserError("Nothing was deleted. Answer y, or write --yes where nobody can.")
    # Whether any of those that stay is good is worth the time to read it: the newest first, and mostly no other.
    good = any(_verify(folder, one).state in ("good", "not verified") for one in reversed(staying))
    if not good and yes < 2:
        print("No good checkpoint would be left: the run could not go on, and what it has learned would be gone.")
        if yes or not _agrees("Delete them all the same? [y/N] "):
            raise UserError("Nothing was deleted. To delete the last good checkpoint, say it twice: --yes --yes")
    _check_not_in_use(folder)  # it may have begun in the meantime
    for one in doomed:
        steps.remove(folder, one.step)
    print(f"Deleted: {_steps(doomed)} ({size}).")


def _check_not_in_use(folder: pathlib.Path) -> None:
    holder = run_lock.holder(folder)
    if holder is not None and holder.alive:
        raise UserError(
            f"A run is going on in {folder}: {holder.describe()}. Nothing was deleted. Which checkpoints it keeps, its "
            "configuration says: CHECKPOINTS_TO_KEEP, BEST_CHECKPOINTS_TO_KEEP, CHECKPOINT_KEEP_PERIOD."
        )


def _agrees(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


# What is shown


def _newest(found: Sequence[Found]) -> int | None:
    return max((one.step for one in found if one.state != "interrupted"), default=None)


def _best(found: Sequence[Found]) -> int | None:
    return retention.best(_manifests(found))


def _manifests(found: Sequence[Found]) -> Mapping[int, Manifest]:
    return {one.step: one.manifest for one in found if one.state != "interrupted"}


def _columns(found: Sequence[Found]) -> list[str]:
    """The metrics that are shown: of training, the held-out loss, averages, and what the best is chosen by."""
    there = {name for one in found for name in one.manifest.metrics}
    wanted = [*_TRAINING, "loss", "average", "glue_average", retention.best_metric(_manifests(found))]
    return [name for name in dict.fromkeys(wanted) if name in there]


def _size(checkpoint: pathlib.Path) -> int | None:
    if is_remote(checkpoint):
        return None  # a bucket would be asked for each file
    return sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())


def _bytes(size: int | None) -> str:
    """`1.2 GB`; a GB has 10^9 bytes."""
    if size is None:
        return "?"
    power = min(int(math.log10(max(size, 1)) // 3), 4)
    return f"{size} B" if power == 0 else f"{size / 1000**power:.1f} {'KMGT'[power - 1].replace('K', 'k')}B"


def _steps(found: Sequence[Found]) -> str:
    return ", ".join(f"{one.step:,}" for one in found)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of numbers, and one of words behind them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join([*map(str.rjust, row[:-1], widths[:-1]), row[-1]]).rstrip() for row in rows]
