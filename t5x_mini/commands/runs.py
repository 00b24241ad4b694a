"""The commands on a run's configuration: train, eval, infer, glue. Several processes can run each as one."""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from t5x_mini.commands import option_groups
from t5x_mini.commands.command import Command
from t5x_mini.commands.option_types import count, step_range, words
from t5x_mini.errors import UserError

if TYPE_CHECKING:
    from t5x_mini.config import RunConfig


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry_run", action="store_true", help="print the configuration and the number of parameters, and stop"
    )
    parser.add_argument(
        "--overfit_one_batch",
        nargs="?",
        const=300,
        type=count,
        metavar="STEPS",
        help="train on the first batch alone, up to so many times (300), and say whether it is learned by heart: a "
        "model that can't has a mistake in its data, masks or optimiser",
    )
    parser.add_argument(
        "--allow_changes",
        type=words,
        default=(),
        metavar="NAME,...",
        help="go on with a run although these settings are not those that its checkpoint was made with",
    )
    parser.add_argument(
        "--profile_steps",
        type=step_range,
        metavar="FIRST,LAST",
        help="trace these steps and those between with JAX's profiler, on the first process, into MODEL_DIR/profile; "
        "counted as in metrics.jsonl, so 10,13 are four. Losses stay the same, but the traced steps take longer",
    )
    _add_run_options(parser)


def _add_glue_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", metavar="PATH", help="what to finetune: as for generate")
    parser.add_argument("--output", default="runs/glue", metavar="FOLDER", help="of all runs (default: runs/glue)")
    parser.add_argument(
        "--tasks",
        type=words,
        metavar="NAME,...",
        help="of cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte and wnli (default: all but wnli, as T5)",
    )
    parser.add_argument(
        "--strategy",
        choices=["multi_task", "per_task"],
        default="multi_task",
        help="one finetuning on all tasks, mixed by their sizes, or one for each (default: multi_task)",
    )
    parser.add_argument("--seeds", type=count, default=1, metavar="N", help="repeat it with N seeds (default: 1)")
    parser.add_argument(
        "--from_scratch", action="store_true", help="train the same model from random initialisation too, to compare"
    )
    _add_run_options(parser)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    option_groups.add_gin(parser)
    option_groups.add_processes(parser)
    option_groups.add_caches(parser)


def _run_with_config(options: argparse.Namespace) -> None:
    _join_processes(options)
    with _no_garbage_expected():
        command, run = _command_and_config(options)
    if not gc.get_freeze_count():
        gc.freeze()  # what is there now stays, and need not be looked through either
    command(run)


def _command_and_config(options: argparse.Namespace) -> tuple[Callable[[RunConfig], None], RunConfig]:
    from t5x_mini import compilation_cache, config

    if options.command == "train" and options.overfit_one_batch and options.dry_run:
        raise UserError("--dry_run trains nothing: leave it out, or --overfit_one_batch.")
    if options.command == "train" and (options.overfit_one_batch or options.dry_run):
        option_groups.refuse(options, ("allow_changes",), "--allow_changes is for going on with a run")
        option_groups.refuse(options, ("profile_steps",), "--profile_steps is for a run that trains")
    command_needs = {"training": options.command == "train", "needs_task": options.command != "infer"}
    run = config.load(options.gin_file, options.bindings, options.search_paths, **command_needs)
    compilation_cache.enable(run.train.compilation_cache, run.train.model_dir)
    if options.command == "eval":
        from t5x_mini.evaluate.eval_command import evaluate as command
    elif options.command == "infer":
        from t5x_mini.evaluate.infer import infer as command
    elif options.dry_run:
        from t5x_mini.train.describe import dry_run as command
    elif options.overfit_one_batch:
        from t5x_mini.train.overfit import overfit

        command = functools.partial(overfit, steps=options.overfit_one_batch)
    else:
        from t5x_mini.train.loop import train

        chosen = {name: getattr(options, name) for name in ("allow_changes", "profile_steps", "began")}
        command = functools.partial(train, **chosen)
    return command, run


def _glue(options: argparse.Namespace) -> None:
    _join_processes(options)
    if options.checkpoint is None:
        raise UserError("Which model is to be finetuned? Write --checkpoint=runs/quickstart.")
    from t5x_mini.glue.benchmark import DEFAULT
    from t5x_mini.glue.command import glue

    names = ("output", "strategy", "seeds", "from_scratch", "bindings", "search_paths")
    chosen = {name: getattr(options, name) for name in names}
    tasks = DEFAULT if options.tasks is None else options.tasks
    glue(options.checkpoint, files=options.gin_file, tasks=tasks, **chosen)


def _join_processes(options: argparse.Namespace) -> None:
    """Before anything is read: JAX counts the devices of all processes when it is first asked."""
    with _no_garbage_expected():
        from t5x_mini.parallel import start_up

    start_up.join(options.coordinator, options.num_processes, options.process_id)


@contextlib.contextmanager
def _no_garbage_expected() -> Iterator[None]:
    """For imports: a million objects that stay, which Python's collector looks through again and again meanwhile."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _add_study_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("study", nargs="+", metavar="STUDY", help="gin files that bind Study: gin/studies has some")
    parser.add_argument(
        "--output", metavar="FOLDER", help="of all runs (default: runs/studies and the name of the first file)"
    )
    parser.add_argument(
        "--jobs", type=count, metavar="N", help="runs side by side at most (default: one a GPU, or one a CPU core)"
    )
    parser.add_argument(
        "--pretraining",
        action="append",
        default=[],
        metavar="SETTING",
        help="of every pretraining, over the study's: a gin file or a binding (--pretraining=TRAIN_STEPS=100); may be "
        "repeated",
    )
    parser.add_argument(
        "--finetuning",
        action="append",
        default=[],
        metavar="SETTING",
        help="of every finetuning, in the same way (--finetuning=TRAIN_STEPS_RELATIVE=50)",
    )
    parser.add_argument("--dry_run", action="store_true", help="say what would be trained, and stop")
    option_groups.add_gin(parser)


def _study(options: argparse.Namespace) -> None:
    from t5x_mini.study.command import study

    names = ("output", "jobs", "pretraining", "finetuning", "dry_run", "bindings", "search_paths")
    study([*options.study, *options.gin_file], **{name: getattr(options, name) for name in names})


COMMANDS = {
    "train": Command(
        "pretrain or finetune",
        "Trains what the gin files describe. A run found in MODEL_DIR is resumed.",
        """examples:
  t5x-mini train --gin_file=gin/quickstart.gin
  t5x-mini train --gin_file=gin/quickstart.gin --gin_file=gin/architectures/prefix_lm.gin --gin.MODEL_DIR=runs/prefix
  t5x-mini train --gin_file=gin/runs/pretrain.gin --gin.MODEL_DIR=runs/c4 --dry_run
  t5x-mini train --gin_file=runs/quickstart/config.gin --gin.TRAIN_STEPS=2000
  t5x-mini train --gin_file=gin/quickstart.gin --gin.MODEL_DIR=runs/check --overfit_one_batch""",
        _add_train_options,
        _run_with_config,
    ),
    "eval": Command(
        "measure a checkpoint",
        "Measures a checkpoint on its task's held-out text.",
        """examples:
  t5x-mini eval --gin_file=runs/quickstart/config.gin
  t5x-mini eval --gin_file=runs/quickstart/config.gin --gin.CHECKPOINT_PATH=runs/quickstart/checkpoints/500""",
        _add_run_options,
        _run_with_config,
    ),
    "infer": Command(
        "write a checkpoint's answers to many inputs",
        "Writes a checkpoint's answers to a task, a text file or JSONL. Interrupted, it goes on where it was when it "
        "is run again.",
        """examples:
  t5x-mini infer --gin_file=runs/quickstart/config.gin
  t5x-mini infer --gin_file=runs/quickstart/config.gin --gin_file=gin/runs/infer.gin --gin.INFER_INPUT=questions.txt""",
        _add_run_options,
        _run_with_config,
    ),
    "glue": Command(
        "finetune on the GLUE benchmark and evaluate",
        "Finetunes a checkpoint on all of GLUE by gin/runs/finetune.gin (T5's recipe), and prints the table of its "
        "metrics beside chance. Writes the table, and a submission to gluebenchmark.com. Interrupted, it goes on where "
        "it was when it is run again. Gin files and bindings come after the recipe.",
        """examples:
  t5x-mini glue --checkpoint=google/flan-t5-small --output=runs/flan_t5_glue
  t5x-mini glue --checkpoint=runs/quickstart --gin_file=gin/runs/finetune_small.gin --tasks=cola,rte --seeds=3
  t5x-mini glue --checkpoint=runs/x --gin_file=gin/runs/finetune_small.gin --gin.GLUE_DIR=tiny --from_scratch""",
        _add_glue_options,
        _glue,
    ),
    "study": Command(
        "train a grid of models and compare them",
        "Pretrains and finetunes every cell of a grid (architectures, objectives, whatever gin can set) with several "
        "seeds, and sets what came out beside what others found: a table, pictures, and one HTML page. What is "
        "finished isn't made again, and what was interrupted goes on. Each run is an ordinary one, in a folder of its "
        "own.",
        """examples:
  t5x-mini study gin/studies/architectures.gin
  t5x-mini study gin/studies/span_length.gin --jobs=4
  t5x-mini study gin/studies/architectures.gin --dry_run
  t5x-mini study gin/studies/architectures.gin --gin.Study.seeds=1 --pretraining=TRAIN_STEPS=100 --output=runs/quick""",
        _add_study_options,
        _study,
    ),
}
