"""All commands of `t5x-mini`, and their parser. The options of each stand in the module of its group."""

from __future__ import annotations

import argparse
import textwrap
import typing

from t5x_mini import __version__
from t5x_mini.commands import data, looking, models, runs
from t5x_mini.errors import UserError

_IN_HELP = (
    *("train", "eval", "glue", "study", "infer", "generate", "import", "export", "tasks", "inspect"),
    *("checkpoints", "status", "report", "compare", "plan", "vocab", "tokenize", "show"),
)
_GROUPS = runs.COMMANDS | models.COMMANDS | data.COMMANDS | looking.COMMANDS
COMMANDS = {name: _GROUPS[name] for name in sorted(_GROUPS, key=_IN_HELP.index)}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message}. `{self.prog} --help` shows what is possible.")


def make_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and that of each command."""
    parser = Parser(
        prog="t5x-mini",
        description="Pretrains, finetunes and evaluates T5-style transformers.",
        epilog="`t5x-mini <command> --help` has the options and examples. Where to begin:\n"
        "  t5x-mini train --gin_file=gin/quickstart.gin",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"t5x-mini {__version__}")
    choices = parser.add_subparsers(dest="command", metavar="<command>", required=True)
    parsers = {
        name: choices.add_parser(
            name,
            help=command.summary,
            description=textwrap.fill(command.description, 100),
            epilog=command.examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        for name, command in COMMANDS.items()
    }
    for name, command in COMMANDS.items():
        command.add_options(parsers[name])
    return parser, parsers
