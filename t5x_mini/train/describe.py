"""What a run is: on the terminal when it begins, in its folder, and in place of it (`--dry_run`)."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from t5x_mini import config as config_module
from t5x_mini.errors import UserError
from t5x_mini.parallel import mesh
from t5x_mini.parallel.hosts import say
from t5x_mini.storage_errors import in_words
from t5x_mini.train import completion, config_file
from t5x_mini.train.model_info import model_info, summary
from t5x_mini.train.run import Run, assemble
from t5x_mini.whole_file import write_whole

if TYPE_CHECKING:
    from t5x_mini.config import RunConfig


def dry_run(config: RunConfig) -> None:
    """Prints the resolved configuration and the parameters, and makes nothing."""
    run = assemble(config)
    print(config_module.operative_config())
    print(model_info(run))
    if config.train.initial_checkpoint_path is not None:
        from t5x_mini.checkpoint import restore_plan, restore_report, source  # Orbax takes a second to import

        plan = restore_plan.make_plan(source.open_source(config.train.initial_checkpoint_path), run)
        print(restore_report.describe(plan, run))
    print(f"would train to step {run.total_steps:,} in {config.train.model_dir}; this was a dry run")


def announce(run: Run) -> None:
    """Two lines: the architecture with its size, and the devices."""
    say(f"{run.config.model.architecture}, {summary(run).removeprefix('total: ')}")
    say(f"{run.config.partitioning.kind} over {mesh.describe(run.partitioner.mesh)}")


def write_down(run: Run, folder: pathlib.Path, step: int) -> None:
    """Writes `config.gin` and `model-info.txt` of a run that goes on at `step`.

    Raises:
        UserError: the folder can't be written.
    """
    try:
        completion.unmark(folder)
        config_file.write(folder, config_module.operative_config(), step)
        write_whole(folder / "model-info.txt", model_info(run))
    except OSError as error:
        raise UserError(
            f"{folder} can't be written: {in_words(error)}. Nothing was trained, and its checkpoints are as they were."
        ) from error
