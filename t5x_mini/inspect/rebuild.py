"""A batch that a run has trained on, made once more from what its folder holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tqdm

from t5x_mini.checkpoint import manifest
from t5x_mini.checkpoint.steps import FOLDER, steps_of
from t5x_mini.errors import UserError
from t5x_mini.feed import feeds
from t5x_mini.feed.position import Position
from t5x_mini.storage import to_path
from t5x_mini.train import config_file

if TYPE_CHECKING:
    from t5x_mini.config import RunConfig


@dataclasses.dataclass(frozen=True)
class Rebuilt:
    """What the model saw in one step.

    Attributes:
        batch: int32 `[batch_size, length]` by SeqIO's names, the rows of all hosts.
        config: the run's.
        origin: where reading began, in words.
    """

    batch: dict[str, np.ndarray]
    config: RunConfig
    origin: str


def rebuild_batch(run_dir: str, step: int) -> Rebuilt:
    """The batch of a step, 1 for the first one, as in the run's metrics.

    The token feed makes any batch at once. The SeqIO feed reads from the last checkpoint before the step, which keeps
    its place in the data, or from the start of the data.

    Raises:
        UserError: there is no such run, it has not done that step, or its data or configuration has changed since.
    """
    from t5x_mini import config
    from t5x_mini.train import roll_back

    folder = to_path(run_dir)
    if not (folder / "config.gin").is_file():
        raise UserError(f"{run_dir} is not a run: it has no config.gin. Write a MODEL_DIR, such as runs/quickstart.")
    run = config.load([str(config_file.of_step(folder, step))], training=False)
    changed = _changed_before(folder, step, run)
    first, last = first_step(run), _last_step(folder)
    if not first < step <= last:
        done = f"the steps {first + 1} to {last}" if last > first else "no step"
        raise UserError(f"{run_dir} has no batch {step}: it has done {done}. Write another --step.")
    if run.feed.data_feed == "tokens" and changed is None:
        reader = feeds.make_feed(run.feed, run.model.architecture)
        number = step - 1 - first + roll_back.batches_before(folder, step)
        return Rebuilt(reader.batch(number), run, "made from the seed and the step")
    return _read_ahead(run, folder, first, step, changed)


def _changed_before(folder: Path, step: int, run: RunConfig) -> int | None:
    """The last step before this one behind which the run went on with another stream of batches."""
    from t5x_mini import config
    from t5x_mini.train import drift

    now = drift.settings_of(run)
    for last in reversed([last for last in config_file.changes(folder) if last < step]):
        before = config.load([str(config_file.of_step(folder, last))], training=False)
        if drift.compare(drift.settings_of(before), now).of_stream:
            return last
    return None


def _read_ahead(run: RunConfig, folder: Path, first: int, step: int, changed: int | None) -> Rebuilt:
    """Every host's share, read from the nearest place that a checkpoint before the step has kept.

    `changed` is the step behind which the stream became another one.
    """
    from t5x_mini.train import roll_back

    kept = _positions(folder, step - 1)
    if changed is not None and (not kept or kept[0] <= changed):
        raise UserError(
            f"The settings of the data were changed behind step {changed} (config-{changed}.gin), and no checkpoint "
            f"between that and step {step} is left to know its place by. Write a --step behind a later checkpoint."
        )
    start = kept[0] if kept else first
    ahead = step - start + roll_back.batches_before(folder, step, since=start)
    origin = f"read from the checkpoint of step {start}" if kept else "read from the start of the data"
    shares, hosts = [], len(kept[1]) if kept else 1
    for host in range(hosts):
        reader = feeds.make_feed(run.feed, run.model.architecture, host_index=host, host_count=hosts)
        if kept:
            reader.restore(Position.from_bytes(kept[1][host].read_bytes()))
        # No bar where nobody watches it.
        for _ in tqdm.trange(ahead - 1, desc=f"reading to batch {step}", unit=" batches", disable=None):
            next(reader)
        shares.append(next(reader))
    batch = {name: np.concatenate([share[name] for share in shares]) for name in shares[0]}
    return Rebuilt(batch, run, f"{origin}, {ahead} further on")


def _positions(folder: Path, last: int) -> tuple[int, list[Path]] | None:
    """The newest checkpoint up to step `last`, and its places in the data, one a host."""
    for step in reversed([step for step in steps_of(folder) if step <= last]):
        files = list((folder / FOLDER / str(step) / "position").glob("process_*-of-*"))
        manifest.require(folder / FOLDER / str(step), ("position/",))
        if files and len(files) == int(files[0].name.rpartition("-")[2]):
            return step, sorted(files, key=lambda path: int(path.name.split("_")[1].partition("-")[0]))
    return None


def first_step(run: RunConfig) -> int:
    """The step that the run started from: not 0 where it took up another run's parameters; its data starts anew."""
    from t5x_mini.train import run as runs

    return runs.first_step(run.train)


def _last_step(folder: Path) -> int:
    from t5x_mini.train.metrics import METRICS_FILE, read_metrics

    rows = read_metrics(folder / METRICS_FILE) if (folder / METRICS_FILE).is_file() else []
    return max((row["step"] for row in rows), default=0)
