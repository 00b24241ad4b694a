"""Saving and restoring runs: Orbax's CheckpointManager, async, with the state and the data position in one save.

A checkpoint is a folder `checkpoints/<step>` with three items, and a fourth where it was the best so far:

    state      step, parameters, optimiser state and random key, as `layout.py` lays them out
    position   where every host's stream of batches stood, after the last batch that was trained on
    run        JSON: what the model is and which vocabulary it was trained on, so that a checkpoint of another model, or
               one that reads other words into the same ids, is refused with the reason (`run_item.py`)
    metrics    JSON: the metric that the run chooses by, and its value. The newest checkpoint that has it is the best

An imported checkpoint has no position, no random key and perhaps no optimiser state: runs start from it, and none goes
on in its folder.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from t5x_mini.checkpoint import layout, run_item
from t5x_mini.checkpoint.config import CheckpointConfig
from t5x_mini.checkpoint.position_handler import PositionHandler, PositionRestore, PositionSave
from t5x_mini.checkpoint.run_item import RunItem, Training
from t5x_mini.checkpoint.steps import FOLDER, best_step, declare_complete, steps_of
from t5x_mini.errors import UserError
from t5x_mini.model.config import TransformerConfig
from t5x_mini.parallel.hosts import wait_for_all
from t5x_mini.parallel.partitioner import Partitioner
from t5x_mini.storage import is_remote, to_path
from t5x_mini.train.state import TrainState

BEST = "best"

for _name in ("absl", "orbax"):  # Orbax reports every phase of every save, and warns of what was asked for
    logging.getLogger(_name).setLevel(logging.ERROR)

# Orbax would ask Google's own client whether a bucket keeps folders, to remove empty ones. `BucketPath` sees none.
gcs_utils.is_hierarchical_namespace_enabled = lambda path: False


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint in memory."""

    state: TrainState
    position: bytes
    step: int


@dataclasses.dataclass(frozen=True)
class BestSoFar:
    """Why a checkpoint is the best of its run.

    Attributes:
        metric: `BEST_METRIC`.
        value: of it, as it is reported.
        rank: more is better.
    """

    metric: str
    value: float
    rank: float


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(
        self,
        run_dir: str,
        config: CheckpointConfig | None = None,
        vocabulary: str | None = None,
        vocabulary_source: tuple[str, int] | None = None,
        best_metric: str | None = None,
    ):
        """Opens (and with a `config` creates) the run's checkpoints; left-overs of interrupted saves are removed.

        Args:
            vocabulary: what tells the run's from others (`feeds.vocabulary_id`); None: not known, and not checked.
            vocabulary_source: how to read it again (`feeds.vocabulary_source`), for those who find the checkpoint.
            best_metric: what the best checkpoint is chosen by; it is kept beside the newest ones.
        """
        self._vocabulary, self._vocabulary_source = vocabulary, vocabulary_source
        self.directory = epath.Path(to_path(run_dir)).absolute() / FOLDER
        if config and is_remote(self.directory):
            if jax.process_index() == 0:
                declare_complete(self.directory)
            wait_for_all(f"{self.directory} is looked through")
        rank = functools.partial(_rank, metric=best_metric)
        best = preservation_policy.BestN(get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False)
        newest = preservation_policy.LatestN(config.keep if config else None)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy([newest, best]) if best_metric else newest,
            best_fn=rank,  # without it, Orbax neither writes nor reads metrics
            create=config is not None,
            read_only=config is None,
            cleanup_tmp_directories=config is not None,
            enable_async_checkpointing=True,
        )
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(),
            "position": PositionHandler(),
            "run": ocp.JsonCheckpointHandler(),
        }
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        self._take_apart: Callable[[TrainState], layout.Tree] | None = None  # jitted at the first save

    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step; None where there is none."""
        return self._manager.latest_step()

    def best(self) -> tuple[int, BestSoFar] | None:
        """The best checkpoint's step, and why it is that; None where none was chosen."""
        step = best_step(self.directory)
        return None if step is None else (step, BestSoFar(**self._manager.metrics(step)))

    def save(
        self,
        state: TrainState,
        position: bytes,
        model: TransformerConfig,
        partitioner: Partitioner,
        training: Training | None = None,
        best: BestSoFar | None = None,
    ) -> None:
        """Starts a save and returns once the arrays are copied; the files are written behind the next steps.

        `best` marks it as the best so far: it stays until a better one is saved.
        """
        if self._take_apart is None:
            shapes = layout.shapes_on_disk(_with_sharding(state))
            self._take_apart = partitioner.jit(layout.to_disk, None, jax.tree.map(lambda shape: shape.sharding, shapes))
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(self._take_apart(state)),
                position=PositionSave(position),
                run=self._run_item(model, training),
            ),
            metrics=best and dataclasses.asdict(best),
            force=True,
        )

    def restore(
        self,
        step: int,
        shapes: TrainState,
        shardings: TrainState,
        model: TransformerConfig,
        partitioner: Partitioner,
    ) -> Restored:
        """Reads a checkpoint into the given shardings, whatever mesh, pmap or scan it was saved under.

        Raises:
            UserError: where it holds another model, or another optimiser's state.
        """
        self._check_run(step, model)
        self._check_arrays(step, shapes)
        state = self._read(step, shapes, shardings, partitioner)
        position = self._manager.restore(step, args=ocp.args.Composite(position=PositionRestore()))["position"]
        return Restored(state, position, step)

    def wait(self) -> None:
        """Returns once all started saves are complete on disk; raises what went wrong in them."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()

    def _run_item(self, model: TransformerConfig, training: Training | None) -> ocp.args.JsonSave:
        item = RunItem(
            model=model, vocabulary=self._vocabulary, vocabulary_source=self._vocabulary_source, training=training
        )
        return ocp.args.JsonSave(item.to_json())

    def _read(self, step: int, shapes: TrainState, shardings: TrainState, partitioner: Partitioner) -> TrainState:
        like = jax.tree.map(
            lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, shardings
        )
        wanted = layout.shapes_on_disk(like)
        arguments = ocp.args.PyTreeRestore(
            item=wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted), partial_restore=True
        )
        read = self._manager.restore(step, args=ocp.args.Composite(state=arguments))["state"]
        read_shardings = jax.tree.map(lambda shape: shape.sharding, wanted)
        join = partitioner.jit(lambda tree: layout.from_disk(tree, shapes), (read_shardings,), shardings)
        return join(read)

    def _check_run(self, step: int, model: TransformerConfig) -> None:
        checkpoint = self.directory / str(step)
        item = RunItem.from_json(
            self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
        )
        if differences := run_item.model_differences(item.model, model):
            raise UserError(
                f"The checkpoint {checkpoint} holds another model:\n"
                + "".join(
                    f"    {name}: {saved} when it was saved, {now} now\n" for name, (saved, now) in differences.items()
                )
                + "Go back to the same values, or choose a new folder: --gin.MODEL_DIR=runs/another_name"
            )
        run_item.check_vocabulary(str(checkpoint), item.vocabulary, self._vocabulary)

    def _check_arrays(self, step: int, shapes: TrainState) -> None:
        on_disk = self._manager.item_metadata(step)["state"].tree
        saved = {name: tuple(array.shape) for name, array in layout.flatten(on_disk).items()}
        if "rng" not in saved:
            raise UserError(
                f"The checkpoint {self.directory / str(step)} was imported: it has no random key and no place in any "
                f"data, so no run can go on in its folder. Start a run of its own from it: "
                f"--gin.INITIAL_CHECKPOINT_PATH={self.directory.parent} --gin.MODEL_DIR=runs/another_name"
            )
        wanted = layout.shapes_by_name(shapes)
        if saved != wanted:
            missing, extra = sorted(wanted.keys() - saved.keys()), sorted(saved.keys() - wanted.keys())
            reshaped = [
                f"{name}, {saved[name]} when it was saved, {wanted[name]} now"
                for name in sorted(saved.keys() & wanted.keys())
                if saved[name] != wanted[name]
            ]
            raise UserError(
                f"The checkpoint {self.directory / str(step)} does not fit this run's optimiser:\n"
                f"{run_item.array_differences(missing, extra, reshaped)}\n"
                "Go back to the optimiser that saved it (RunConfig.optimizer in the run's config.gin, and its FROZEN), "
                "or choose a new folder: --gin.MODEL_DIR=runs/another_name"
            )


def locate(path: str) -> tuple[str, int]:
    """The run folder and step that a path stands for: `runs/x` (its newest checkpoint), `runs/x/checkpoints/1000`, or
    `runs/x/checkpoints/best`.

    Raises:
        UserError: where there is no complete checkpoint.
    """
    run_dir, step = _run_and_step(to_path(path).expanduser())
    steps = steps_of(run_dir)
    if not steps:
        raise UserError(
            f"There is no checkpoint in {path}. Write a run's folder (runs/quickstart) or one of its checkpoints "
            f"(runs/quickstart/{FOLDER}/1000)."
        )
    if step == BEST:
        step = best_step(run_dir / FOLDER)
        if step is None:
            raise UserError(
                f"{run_dir} has no best checkpoint: it was trained without a BEST_METRIC to choose by. It has those of "
                f"the steps {', '.join(map(str, steps))}."
            )
    if step is not None and step not in steps:
        raise UserError(
            f"There is no checkpoint {path}. {run_dir} has those of the steps {', '.join(map(str, steps))}."
        )
    return str(run_dir), step if step is not None else steps[-1]


def is_own(path: pathlib.Path) -> bool:
    """Whether the path stands for a run that has checkpoints, or for one of them."""
    run_dir, step = _run_and_step(path)
    return step is not None or bool(steps_of(run_dir))


def _run_and_step(path: pathlib.Path) -> tuple[pathlib.Path, int | str | None]:
    if path.parent.name == FOLDER and (path.name.isdigit() or path.name == BEST):
        return path.parent.parent, int(path.name) if path.name.isdigit() else BEST
    return (path.parent if path.name == FOLDER else path), None


def _rank(metrics: Mapping[str, Any], metric: str | None) -> float:
    # What was the best by another metric isn't any more.
    return metrics["rank"] if metrics["metric"] == metric else -math.inf


def _with_sharding(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
