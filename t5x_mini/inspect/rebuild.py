"""A batch that a run has trained on, made once more from what its folder holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tqdm

from t5x_mini.checkpoint.steps import FOLDER, steps_of
from t5x_mini.errors import UserError
from t5x_mini.feed import feeds
from t5x_mini.feed.position import Position
from t5x_mini.storage import to_path

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

    folder = to_path(run_dir)
    if not (folder / "config.gin").is_file():
        raise UserError(f"{run_dir} is not a run: it has no config.gin. Write a MODEL_DIR, such as runs/quickstart.")
    run = config.load([str(folder / "config.gin")], training=False)
    first, last = first_step(run), _last_step(folder)
    if not first < step <= last:
        done = f"the steps {first + 1} to {last}" if last > first else "no step"
        raise UserError(f"{run_dir} has no batch {step}: it has done {done}. Write another --step.")
    if run.feed.data_feed == "tokens":
        reader = feeds.make_feed(run.feed, run.model.architecture)
        return Rebuilt(reader.batch(step - 1 - first), run, "made from the seed and the step")
    return _read_ahead(run, folder, first, step)


def _read_ahead(run: RunConfig, folder: Path, first: int, step: int) -> Rebuilt:
    """Every host's share, read from the nearest place that a checkpoint before the step has kept."""
    kept = _positions(folder, step - 1)
    start = kept[0] if kept else first
    origin = f"read from the checkpoint of step {start}" if kept else "read from the start of the data"
    shares, hosts = [], len(kept[1]) if kept else 1
    for host in range(hosts):
        reader = feeds.make_feed(run.feed, run.model.architecture, host_index=host, host_count=hosts)
        if kept:
            reader.restore(Position.from_bytes(kept[1][host].read_bytes()))
        # No bar where nobody watches it.
        for _ in tqdm.trange(step - 1 - start, desc=f"reading to batch {step}", unit=" batches", disable=None):
            next(reader)
        shares.append(next(reader))
    batch = {name: np.concatenate([share[name] for share in shares]) for name in shares[0]}
    return Rebuilt(batch, run, f"{origin}, {step - start} further on")


def _positions(folder: Path, last: int) -> tuple[int, list[Path]] | None:
    """The newest checkpoint up to step `last`, and its places in the data, one a host."""
    for step in reversed([step for step in steps_of(folder) if step <= last]):
        files = list((folder / FOLDER / str(step) / "position").glob("process_*-of-*"))
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
