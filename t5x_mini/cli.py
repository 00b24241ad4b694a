"""`t5x-mini <command>`: parses the command line, calls one function, prints a user's mistake without a traceback."""

from __future__ import annotations

import argparse
import os
import sys
import typing
from collections.abc import Sequence

from t5x_mini import __version__, config_checks
from t5x_mini.errors import UserError

_COMMANDS = {
    "train": (
        "pretrain or finetune",
        "Trains what the gin files describe. A run found in MODEL_DIR is resumed.",
        """examples:
  t5x-mini train --gin_file=gin/quickstart.gin
  t5x-mini train --gin_file=gin/quickstart.gin --gin_file=gin/architectures/prefix_lm.gin --gin.MODEL_DIR=runs/prefix
  t5x-mini train --gin_file=gin/runs/pretrain.gin --gin.MODEL_DIR=runs/c4 --dry_run
  t5x-mini train --gin_file=runs/quickstart/config.gin --gin.TRAIN_STEPS=2000""",
    ),
    "eval": (
        "measure a checkpoint",
        "Measures a checkpoint on its task's held-out text.",
        """examples:
  t5x-mini eval --gin_file=runs/quickstart/config.gin
  t5x-mini eval --gin_file=runs/quickstart/config.gin --gin.CHECKPOINT_PATH=runs/quickstart/checkpoints/500""",
    ),
    "infer": (
        "write a checkpoint's predictions",
        "Writes what a checkpoint predicts for its task's held-out text.",
        """examples:
  t5x-mini infer --gin_file=runs/quickstart/config.gin
  t5x-mini infer --gin_file=runs/quickstart/config.gin --gin.INFER_OUTPUT_DIR=predictions""",
    ),
    "show": (
        "draw the attention masks",
        "Draws the attention masks of the three architectures side by side.",
        """examples:
  t5x-mini show masks --inputs 5 --targets 4 --output masks.png
  t5x-mini show masks --inputs 5 --targets 4 --style=lines --output masks.png""",
    ),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message}. `{self.prog} --help` shows what is possible.")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 after a user's mistake, 130 after Ctrl-C."""
    # TensorFlow (which only reads data here) otherwise greets everyone with what it didn't find on the machine.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        _run(_parse(sys.argv[1:] if arguments is None else arguments))
    except UserError as error:
        print(f"t5x-mini: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("t5x-mini: interrupted.", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.command == "show":
        from t5x_mini.model.mask_figure import draw_masks

        draw_masks(options.inputs, options.targets, options.style, options.output)
        print(options.output)
        return
    from t5x_mini import config

    run = config.load(options.gin_file, options.bindings, options.search_paths, training=options.command == "train")
    if options.tfds_data_dir:
        import seqio

        seqio.set_tfds_data_dir_override(options.tfds_data_dir)
    if options.command == "eval":
        from t5x_mini.evaluate.evaluator import evaluate as command
    elif options.command == "infer":
        from t5x_mini.evaluate.infer import infer as command
    elif options.dry_run:
        from t5x_mini.train.loop import dry_run as command
    else:
        from t5x_mini.train.loop import train as command
    command(run)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options, with `bindings`: what followed each `--gin.`."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in _COMMANDS:
        raise UserError(
            f"There is no command {arguments[0]}{config_checks.closest(arguments[0], _COMMANDS)} "
            f"The commands are {', '.join(_COMMANDS)}."
        )
    bindings = [argument.removeprefix("--gin.") for argument in arguments if argument.startswith("--gin.")]
    parser, commands = _parser()
    options, unknown = parser.parse_known_args([text for text in arguments if not text.startswith("--gin.")])
    if unknown:
        flags = [flag for flag in commands[options.command]._option_string_actions if flag.startswith("--")]
        name = unknown[0].partition("=")[0]
        hint = config_checks.closest(name, flags) if name.startswith("-") else "."
        if bindings and not name.startswith("-"):
            hint = "; a binding is one word, --gin.NAME=VALUE."
        raise UserError(f"`t5x-mini {options.command}` doesn't know {unknown[0]}{hint}")
    if bindings and options.command == "show":
        raise UserError(f"`t5x-mini show` reads no configuration: leave out --gin.{bindings[0]}.")
    options.bindings = bindings
    return options


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(
        prog="t5x-mini",
        description="Pretrains, finetunes and evaluates T5-style transformers.",
        epilog="`t5x-mini <command> --help` has the options and examples. Where to begin:\n"
        "  t5x-mini train --gin_file=gin/quickstart.gin",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"t5x-mini {__version__}")
    choices = parser.add_subparsers(dest="command", metavar="<command>", required=True)
    commands = {
        name: choices.add_parser(
            name,
            help=summary,
            description=description,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for name, (summary, description, examples) in _COMMANDS.items()
    }
    for name in ("train", "eval", "infer"):
        _add_run_options(commands[name])
    commands["train"].add_argument(
        "--dry_run", action="store_true", help="print the configuration and the number of parameters, and stop"
    )
    _add_mask_options(commands["show"])
    return parser, commands


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="a configuration; may be repeated, the later over the earlier. Looked for in the working directory, in "
        "--gin_search_paths, and among those that come with the package (gin/quickstart.gin)",
    )
    # Taken out before argparse sees the line, for names with dots; here for --help.
    parser.add_argument(
        "--gin.NAME=VALUE",
        dest="bindings",
        action="store_true",
        help="set a macro (--gin.BATCH_SIZE=32) or a field (--gin.TransformerConfig.emb_dim=256); may be repeated, "
        "and wins over the files. A bare word is a string. gin/defaults.gin explains every macro",
    )
    parser.add_argument(
        "--gin_search_paths",
        dest="search_paths",
        type=lambda paths: paths.split(","),
        default=[],
        metavar="FOLDER,...",
        help="more folders to find gin files in",
    )
    parser.add_argument("--tfds_data_dir", metavar="FOLDER", help="where TensorFlow Datasets keeps its data")


def _add_mask_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["masks"], help="what to draw")
    parser.add_argument("--inputs", type=_length, default=5, metavar="N", help="tokens of the inputs (default: 5)")
    parser.add_argument("--targets", type=_length, default=4, metavar="N", help="tokens of the targets (default: 4)")
    parser.add_argument(
        "--style",
        choices=["matrix", "lines"],
        default="matrix",
        help="rows see columns, or nodes joined by lines as in the T5 paper (default: matrix)",
    )
    parser.add_argument("--output", default="masks.png", metavar="FILE", help="the PNG to write (default: masks.png)")


def _length(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
