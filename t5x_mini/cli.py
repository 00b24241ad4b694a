"""`t5x-mini <command>`: parses the command line, calls one function, prints a user's mistake without a traceback."""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import os
import select
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from t5x_mini import cli_options, config_checks, quiet_libtpu, storage_errors
from t5x_mini.errors import Terminated, UserError
from t5x_mini.redaction import redact
from t5x_mini.strangers import NO_GIN_IMPORTS

if TYPE_CHECKING:
    from t5x_mini.config import RunConfig
    from t5x_mini.feed.config import FeedConfig

_GIN_OPTIONS = ("gin_file", "bindings")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 after a user's mistake, 130 after Ctrl-C, 143 after SIGTERM."""
    status = _main(arguments)
    if _shares_its_run():
        from t5x_mini.parallel import start_up

        start_up.leave(status)
    return status


def _main(arguments: Sequence[str] | None) -> int:
    # TensorFlow (which only reads data here) otherwise greets everyone with what it didn't find on the machine.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    quiet_libtpu.hush()
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"  # not where in the code it was thought of
    try:
        options = _parse(sys.argv[1:] if arguments is None else arguments)
        with _imports_forbidden(getattr(options, "no_gin_imports", False)):
            _set_data_folders(options)
            _run(options)
    except UserError as error:
        print(f"t5x-mini: error: {redact(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        return 1
    except OSError as error:
        if not (storage_errors.is_of_the_disk(error) or storage_errors.is_of_a_path(error)):
            raise
        where = f"{error.filename} can't be written or read: " if error.filename else ""
        print(f"t5x-mini: error: {where}{storage_errors.of_a_command(error)} ({error.strerror}).", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("t5x-mini: interrupted.", file=sys.stderr)
        return 130
    except Terminated as terminated:
        command = shlex.join(["t5x-mini", *(sys.argv[1:] if arguments is None else arguments)])
        print(f"t5x-mini: {terminated} Go on with the same command:\n    {command}", file=sys.stderr)
        return terminated.status
    except Exception:
        if not _shares_its_run():
            raise
        from t5x_mini.parallel import start_up

        traceback.print_exc()
        print(
            "t5x-mini: this process stops here, and with it the others of the run. If what is above says that a "
            f"connection was lost, it is another process that failed first: {start_up.GO_ON}",
            file=sys.stderr,
        )
        return 1
    return 0


def _shares_its_run() -> bool:
    if "jax" not in sys.modules:
        return False
    from t5x_mini.parallel import start_up

    return start_up.is_joined()


def _nobody_reads() -> bool:
    """Whether who read the output has gone, as `| head` does. What is still to be written then goes nowhere."""
    output = select.poll()
    output.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(event & select.POLLERR for _, event in output.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


@contextlib.contextmanager
def _imports_forbidden(forbidden: bool) -> Iterator[None]:
    """In the environment, and so for the processes that a command starts too."""
    if not forbidden:
        yield
        return
    before = os.environ.get(NO_GIN_IMPORTS)
    os.environ[NO_GIN_IMPORTS] = "1"
    try:
        yield
    finally:
        os.environ.pop(NO_GIN_IMPORTS)
        if before is not None:
            os.environ[NO_GIN_IMPORTS] = before


def _set_data_folders(options: argparse.Namespace) -> None:
    folder, caches = getattr(options, "tfds_data_dir", None), getattr(options, "cache_dirs", ())
    if folder:
        # Read when TensorFlow Datasets is imported, by the processes that a command starts too.
        os.environ["TFDS_DATA_DIR"] = folder
    if hasattr(options, "cache_dirs") and (folder or caches):
        from t5x_mini.feed.quiet import hold_back_stderr

        with hold_back_stderr():
            import seqio

        if folder:
            seqio.set_tfds_data_dir_override(folder)
        seqio.add_global_cache_dirs(caches)


def _run(options: argparse.Namespace) -> None:
    """Calls the one function that is the command."""
    if options.command in cli_options.SHARED_COMMANDS:
        with _no_garbage_expected():
            from t5x_mini.parallel import start_up

        processes = options.coordinator, options.num_processes, options.process_id
        start_up.join(*processes)
    match options.command:
        case "show":
            from t5x_mini.model.mask_figure import draw_masks

            draw_masks(options.inputs, options.targets, options.style, options.output)
            print(options.output)
        case "tasks":
            from t5x_mini.inspect.task_list import list_tasks

            list_tasks(_feed(options)[0])
        case "inspect":
            _inspect(options)
        case "report":
            from t5x_mini.report.page import report

            print(report(options.runs, options.output))
        case "checkpoints":
            from t5x_mini.checkpoint.checkpoints_command import checkpoints

            names = ("verify", "keep", "delete", "yes")
            checkpoints(options.run, **{name: getattr(options, name) for name in names})
        case "status":
            from t5x_mini.report.status import status

            status(options.run, options.json)
        case "compare":
            from t5x_mini.report.compare import compare

            compare(options.runs)
        case "plan":
            from t5x_mini.plan.command import plan_command

            names = ("topology", "slices", "step", "search", "output")
            chosen = {name: getattr(options, name) for name in names}
            plan_command(options.gin_file, options.bindings, options.search_paths, **chosen)
        case "vocab":
            _vocab(options)
        case "tokenize":
            from t5x_mini.tokens.tokenize import tokenize

            feed, _ = _feed(options, options.task)
            chosen = {"splits": options.split, "workers": options.workers}
            tokenize(feed, options.task, **chosen, shard=options.shard, output=options.output)
        case "glue":
            _glue(options)
        case "generate":
            _generate(options)
        case "import":
            _import(options)
        case "export":
            _export(options)
        case _:
            _run_with_config(options)


def _run_with_config(options: argparse.Namespace) -> None:
    with _no_garbage_expected():
        command, run = _command_and_config(options)
    if not gc.get_freeze_count():
        gc.freeze()  # what is there now stays, and need not be looked through either
    command(run)


@contextlib.contextmanager
def _no_garbage_expected() -> Iterator[None]:
    """For imports: a million objects that stay, which Python's collector looks through again and again meanwhile."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _command_and_config(options: argparse.Namespace) -> tuple[Callable[[RunConfig], None], RunConfig]:
    from t5x_mini import compilation_cache, config

    if options.command == "train" and options.overfit_one_batch and options.dry_run:
        raise UserError("--dry_run trains nothing: leave it out, or --overfit_one_batch.")
    if options.command == "train" and (options.overfit_one_batch or options.dry_run):
        _refuse(options, ("allow_changes",), "--allow_changes is for going on with a run")
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

        command = functools.partial(train, allow_changes=options.allow_changes, began=options.began)
    return command, run


def _glue(options: argparse.Namespace) -> None:
    if options.checkpoint is None:
        raise UserError("Which model is to be finetuned? Write --checkpoint=runs/quickstart.")
    from t5x_mini.glue.benchmark import DEFAULT
    from t5x_mini.glue.command import glue

    names = ("output", "strategy", "seeds", "from_scratch", "bindings", "search_paths")
    chosen = {name: getattr(options, name) for name in names}
    tasks = DEFAULT if options.tasks is None else options.tasks
    glue(options.checkpoint, files=options.gin_file, tasks=tasks, **chosen)


def _generate(options: argparse.Namespace) -> None:
    if options.checkpoint is None:
        raise UserError("Which model is to answer? Write --checkpoint=runs/quickstart.")
    from t5x_mini.evaluate.generate import generate

    chosen = {name: value for name, value in vars(options).items() if name not in ("command", "bindings", "began")}
    generate(chosen.pop("checkpoint"), chosen.pop("texts"), **chosen)


def _import(options: argparse.Namespace) -> None:
    if options.kind is None:
        raise UserError("Who wrote the checkpoint? Write --from=hf or --from=t5x.")
    from t5x_mini.checkpoint.import_checkpoint import import_checkpoint

    names = ("kind", "output", "step", "vocabulary", "extra_ids", "architecture", "overwrite")
    import_checkpoint(options.path, **{name: getattr(options, name) for name in names})


def _export(options: argparse.Namespace) -> None:
    from t5x_mini.checkpoint.huggingface.export import export_checkpoint

    names = ("push_to", "dtype", "overwrite")
    where = export_checkpoint(options.checkpoint, options.path, **{name: getattr(options, name) for name in names})
    print(f"written to {where}")


def _inspect(options: argparse.Namespace) -> None:
    if options.run is not None:
        if options.step is None:
            raise UserError(f"Which batch of {options.run}? Write --step=K.")
        of_task = ("task", "split", "architecture", "examples", "output", *_GIN_OPTIONS)
        _refuse(options, of_task, "A batch of a run is rebuilt as the run made it")
        from t5x_mini.inspect.commands import inspect_run

        inspect_run(options.run, options.step, options.rows or 8)
        return
    _refuse(options, ("rows",), "Rows are of a run's batch (--run=FOLDER --step=K)")
    if options.step is not None:
        raise UserError("--step=K is a step of a run: write --run=FOLDER too.")
    if options.task is None:
        raise UserError("Nothing to inspect. Write --task=NAME, or --run=FOLDER --step=K.")
    from t5x_mini.inspect.commands import inspect_task

    feed, _ = _feed(options, options.task)
    shown = options.split or "train", options.examples or 3, options.output or "lengths.png"
    inspect_task(feed, options.architecture, *shown)


def _vocab(options: argparse.Namespace) -> None:
    if options.compare:
        of_training = ("output", "task", "size", "model_type", "byte_fallback", *_GIN_OPTIONS)
        _refuse(options, of_training, "--compare trains nothing")
        if options.text and options.sentence:
            raise UserError("--compare takes one of --text FILE and --sentence TEXT.")
        from t5x_mini.tasks.vocab_command import compare_command

        compare_command(*options.compare, text=tuple(options.text), sentence=options.sentence)
        return
    _refuse(options, ("sentence",), "A sentence is to compare two vocabularies on")
    if not options.output:
        raise UserError("Where to write the vocabulary? Write --output=my_vocabulary.model.")
    if bool(options.task) == bool(options.text):
        raise UserError("A vocabulary is trained on one of --task=NAME and --text FILE.")
    if options.text:
        _refuse(options, _GIN_OPTIONS, "Files of text are read as they are")
    from t5x_mini.tasks.vocab_command import vocab_command

    vocab_command(
        options.output,
        feed=_feed(options, options.task)[0] if options.task else None,
        task=options.task,
        text=tuple(options.text),
        size=options.size or 32000,
        model_type=options.model_type or "unigram",
        byte_fallback=options.byte_fallback,
    )


def _refuse(options: argparse.Namespace, names: Sequence[str], because: str) -> None:
    """Options that would do nothing are not taken in silence."""
    for name in names:
        if getattr(options, name):
            raise UserError(f"{because}: leave out --{name.replace('bindings', 'gin.NAME=VALUE')}.")


def _feed(options: argparse.Namespace, task: str | None = None) -> tuple[FeedConfig, str]:
    from t5x_mini import config

    return config.load_feed(options.gin_file, options.bindings, options.search_paths, task)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with `bindings`: what followed each `--gin.`."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in cli_options.COMMANDS:
        raise UserError(
            f"There is no command {arguments[0]}{config_checks.closest(arguments[0], cli_options.COMMANDS)} "
            f"The commands are {', '.join(cli_options.COMMANDS)}."
        )
    bindings = [argument.removeprefix("--gin.") for argument in arguments if argument.startswith("--gin.")]
    parser, commands = cli_options.make_parser()
    options, unknown = parser.parse_known_args([text for text in arguments if not text.startswith("--gin.")])
    if unknown:
        flags = [flag for flag in commands[options.command]._option_string_actions if flag.startswith("--")]
        name = unknown[0].partition("=")[0]
        hint = config_checks.closest(name, flags) if name.startswith("-") else "."
        if bindings and not name.startswith("-"):
            hint = "; a binding is one word, --gin.NAME=VALUE."
        raise UserError(f"`t5x-mini {options.command}` doesn't know {unknown[0]}{hint}")
    if bindings and "--gin_file" not in commands[options.command]._option_string_actions:
        raise UserError(f"`t5x-mini {options.command}` reads no configuration: leave out --gin.{bindings[0]}.")
    options.bindings = bindings
    options.began = time.time()
    return options


if __name__ == "__main__":
    sys.exit(main())
