"""`t5x-mini <command>`: parses the command line, calls one function, prints a user's mistake without a traceback."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence

from t5x_mini import config_checks, quiet_libtpu, storage_errors
from t5x_mini.commands.parser import COMMANDS, make_parser
from t5x_mini.errors import Terminated, UserError
from t5x_mini.redaction import redact
from t5x_mini.strangers import NO_GIN_IMPORTS


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
        from t5x_mini.quiet_tensorflow import hold_back_stderr

        with hold_back_stderr():
            import seqio

        if folder:
            seqio.set_tfds_data_dir_override(folder)
        seqio.add_global_cache_dirs(caches)


def _run(options: argparse.Namespace) -> None:
    COMMANDS[options.command].run(options)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with `bindings`: what followed each `--gin.`."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        raise UserError(
            f"There is no command {arguments[0]}{config_checks.closest(arguments[0], COMMANDS)} "
            f"The commands are {', '.join(COMMANDS)}."
        )
    bindings = [argument.removeprefix("--gin.") for argument in arguments if argument.startswith("--gin.")]
    parser, commands = make_parser()
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
