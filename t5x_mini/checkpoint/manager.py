"""Saving and restoring runs: Orbax's CheckpointManager, async, with the state and the data position in one save.

A checkpoint is a folder `checkpoints/<step>` with three items,

    state      step, parameters, optimiser state and random key, as `layout.py` lays them out
    position   where every host's stream of batches stood, after the last batch that was trained on
    run        JSON: what the model is and which vocabulary it was trained on, so that a checkpoint of another model, or
               one that reads other words into the same ids, is refused with the reason (`run_item.py`)

and `manifest.json`, written last: sizes and checksums of all files, and the metrics of the step (`manifest.py`). What
follows the arrays happens in a thread behind the steps (`finishing.py`): the manifest, and then the removal of what
isn't kept (`retention.py`). Orbax would remove it before.

An imported checkpoint has no position, no random key and perhaps no optimiser state: runs start from it, and none goes
on in its folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from t5x_mini import storage_errors
from t5x_mini.checkpoint import layout, manifest, manifest_of_hosts, retention, run_item, steps
from t5x_mini.checkpoint.config import CheckpointConfig
from t5x_mini.checkpoint.finishing import Finishing
from t5x_mini.checkpoint.manifest import Problem
from t5x_mini.checkpoint.position_handler import PositionHandler, PositionRestore, PositionSave
from t5x_mini.checkpoint.run_item import RunItem, Training
from t5x_mini.checkpoint.steps import FOLDER
from t5x_mini.errors import SaveError, UserError
from t5x_mini.model.config import TransformerConfig
from t5x_mini.parallel import hosts
from t5x_mini.parallel.hosts import wait_for_all
from t5x_mini.parallel.partitioner import Partitioner
from t5x_mini.storage import is_remote, to_path
from t5x_mini.train.state import TrainState

_DRAFT = "orbax-checkpoint-tmp"  # behind the name of what is being saved

# Orbax reports every phase of every save, warns of what was asked for, and logs what it raises; so does asyncio.
for _name in ("absl", "orbax", "asyncio"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def _show_unless_of_a_closed_loop(kind: type[BaseException], error: BaseException, *rest: object) -> None:
    # Once a write has failed, Orbax closes the event loop, and TensorStore prints a traceback for each other one.
    if not (kind is RuntimeError and str(error) == "Event loop is closed"):
        _show(kind, error, *rest)


_show, sys.excepthook = sys.excepthook, _show_unless_of_a_closed_loop

# Orbax would ask Google's own client whether a bucket keeps folders, to remove empty ones. `BucketPath` sees none.
gcs_utils.is_hierarchical_namespace_enabled = lambda path: False


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint in memory."""

    state: TrainState
    position: bytes
    step: int


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
            best_metric: what the best checkpoints are chosen by, which are kept beside the newest ones: one of the
                metrics that they are saved with.
        """
        self._vocabulary, self._vocabulary_source = vocabulary, vocabulary_source
        self._run_dir, self._config = to_path(run_dir).absolute(), config or CheckpointConfig()
        self._metric = best_metric
        self.directory = epath.Path(self._run_dir) / FOLDER
        is_here = jax.process_index() == 0 and not is_remote(self.directory)
        self._made_folder = config is not None and is_here and not self.directory.exists()
        if config:
            if jax.process_index() == 0:
                self._tidy()
            wait_for_all(f"{self.directory} is looked through")
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.PreserveAll(),
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
        self._begun: int | None = None  # the step of the last save
        self._finishing = Finishing(self._run_dir, self._config, best_metric)
        self._verified: int | None = None
        self._damaged: list[int] = []  # that are newer

    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step; None where there is none."""
        return max(steps.steps_of(self._run_dir), default=None)

    def run_item(self, step: int) -> RunItem:
        """What a checkpoint says of itself."""
        return RunItem.from_json(
            self._manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))["run"]
        )

    def newest_good(self) -> int | None:
        """The newest checkpoint whose bytes are all as they were written; None where there is none at all.

        Damaged ones that are newer are said, and `restore` of the good one sets them aside. All hosts call it together,
        and each reads a part. Checkpoints of earlier versions have nothing to compare with: they pass.

        Raises:
            UserError: none is good; the newest is not, and the run is to stop then (`CheckpointConfig.on_damage`).
        """
        there = hosts.on_first(lambda: steps.steps_of(self._run_dir))
        damaged: dict[int, list[Problem]] = {}
        self._verified, self._damaged = None, []
        for step in reversed(there):
            found = manifest_of_hosts.problems(self._run_dir / FOLDER / str(step))
            if not found:
                if found is None:
                    hosts.say(manifest_of_hosts.unverified(self._run_dir / FOLDER / str(step)))
                self._verified, self._damaged = step, list(damaged)
                return step
            damaged[step] = found
            if self._config.on_damage == "fall_back":
                hosts.say(manifest.damage(self._run_dir / FOLDER / str(step), found))
            if self._config.on_damage == "stop":
                break
        if damaged:
            raise UserError(self._refusal(damaged, there))
        return None

    def discard_after(self, step: int) -> None:
        """Sets newer checkpoints aside, in `abandoned_checkpoints`, so that their steps can be saved again. All hosts
        call it together, with no save on its way."""
        self._move([newer for newer in steps.numbered(self._run_dir) if newer > step], steps.ABANDONED)

    def best(self) -> list[tuple[int, float]]:
        """Steps and values of the checkpoints that the run's metric is known of, the best first."""
        known = steps.manifests(self._run_dir)
        return [(step, known[step].metrics[self._metric]) for step in retention.ranked(known, self._metric)]

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds what was measured of a checkpoint after it was saved. One of an earlier version stays as it is."""
        if jax.process_index() == 0 and (known := manifest.read(self._run_dir / FOLDER / str(step))):
            more = dataclasses.replace(known, metrics={**known.metrics, **metrics}, best_metric=self._metric)
            manifest.write(self._run_dir / FOLDER / str(step), more)

    def save(
        self,
        state: TrainState,
        position: bytes,
        model: TransformerConfig,
        partitioner: Partitioner,
        training: Training | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts a save and returns once the arrays are copied; the files are written behind the next steps.

        Args:
            metrics: what was logged of the step, by name; the best checkpoints are chosen by one of them.

        Raises:
            SaveError: it can't be saved, or the one before could not be; either way this one is not begun. It may be
                tried again, and other checkpoints are as they were.
        """
        if self._take_apart is None:
            shapes = layout.shapes_on_disk(_with_sharding(state))
            self._take_apart = partitioner.jit(layout.to_disk, None, jax.tree.map(lambda shape: shape.sharding, shapes))
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(self._take_apart(state)),
            position=PositionSave(position),
            run=self._run_item(model, training),
        )
        with self._clearing_up():
            self._settle()
            self._begun = int(state.step)
            self._manager.save(self._begun, args=items, custom_metadata=steps.MARK, force=True)
            self._finishing.start(self._begun, dict(metrics or {}), self._manager.wait_until_finished)

    def is_saving(self) -> bool:
        """Whether files of a save that was started are still being written."""
        return self._finishing.is_running or self._manager.is_saving_in_progress()

    def restore(
        self,
        step: int,
        shapes: TrainState,
        shardings: TrainState,
        model: TransformerConfig,
        partitioner: Partitioner,
    ) -> Restored:
        """Reads a checkpoint into the given shardings, whatever mesh, pmap or scan it was saved under.

        Damaged ones, if `newest_good` found any that are newer, go to `damaged_checkpoints`, beside `checkpoints`.

        Raises:
            UserError: where it is damaged, or holds another model, or another optimiser's state.
        """
        if step != self._verified:
            manifest_of_hosts.require(self._run_dir / FOLDER / str(step))
        self._check_run(step, model)
        self._check_arrays(step, shapes)
        state = self._read(step, shapes, shardings, partitioner)
        position = self._manager.restore(step, args=ocp.args.Composite(position=PositionRestore()))["position"]
        self._set_damaged_aside(step)
        return Restored(state, position, step)

    def wait(self) -> None:
        """Returns once all started saves are complete on disk. Raises SaveError where one could not be completed."""
        with self._clearing_up():
            self._settle()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._manager.close()
            if self._made_folder:
                with contextlib.suppress(OSError):
                    (self._run_dir / FOLDER).rmdir()  # empty: a start that was refused leaves no empty folder

    def _settle(self) -> None:
        """Returns once the last save is complete, or raises what went wrong in it, once."""
        try:
            self._manager.wait_until_finished()
        except BaseException:
            with contextlib.suppress(Exception):  # the same once more
                self._finishing.wait()
            raise
        self._finishing.wait()

    def _tidy(self) -> None:
        for step in steps.remove_interrupted(self._run_dir):
            hosts.say(f"removed what an interrupted save left of step {step}")
        if is_remote(self._run_dir):
            steps.declare_complete(self._run_dir / FOLDER)

    def _set_damaged_aside(self, good: int) -> None:
        """Moves damaged checkpoints out of the way of those that are saved once more, and says so."""
        damaged, self._damaged = self._damaged, []
        if damaged:
            self._move(damaged, steps.DAMAGED)
            hosts.say(
                f"The newest good checkpoint is that of step {good}; what is damaged is in "
                f"{self._run_dir / steps.DAMAGED} now."
            )

    def _move(self, some: Sequence[int], where: str) -> None:
        hosts.on_first(lambda: [str(steps.set_aside(self._run_dir, step, where)) for step in some])
        self._manager.reload()

    def _refusal(self, damaged: Mapping[int, list[Problem]], there: Sequence[int]) -> str:
        newest = max(damaged)
        text = manifest.damage(self._run_dir / FOLDER / str(newest), damaged[newest])
        if len(damaged) == len(there):
            others = f"So are the others ({', '.join(map(str, there[:-1]))}), and n" if len(there) > 1 else "N"
            return (
                f"{text}\n{others}othing was changed. Copy them once more from where they came from, or begin afresh: "
                "--gin.MODEL_DIR=runs/another_name"
            )
        return (
            f"{text}\nTo go on from the newest good checkpoint, and set this one aside, write "
            "--gin.ON_DAMAGED_CHECKPOINT=fall_back"
        )

    @contextlib.contextmanager
    def _clearing_up(self) -> Iterator[None]:
        """Makes a SaveError of what the disk or the bucket raises, and removes what the failed save left behind."""
        try:
            yield
        except (OSError, ValueError, UserError) as error:
            if jax.process_count() == 1:  # of several, another may still be writing
                with contextlib.suppress(OSError, UserError):
                    self._remove_torn()
                    self._manager.reload()  # Orbax has forgotten those that this one would have replaced
            raise SaveError(f"{self.directory} can't be written: {storage_errors.in_words(error)}.") from error

    def _remove_torn(self) -> None:
        begun = str(self._begun)
        drafts = {child.name for child in self.directory.iterdir() if child.name.startswith(f"{begun}.{_DRAFT}")}
        if self._begun not in steps.steps_of(self._run_dir) and (self.directory / begun).exists():
            drafts.add(begun)  # it has the name already, and no manifest
        for name in drafts:
            (self.directory / name).rmtree()

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
        item = self.run_item(step)
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


def _with_sharding(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
