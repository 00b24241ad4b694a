"""Gin files and `NAME=VALUE` of the command line as bindings, in the order in which they count; and back.

Gin only parses. What the names mean is looked up in `config.py`; here a file has lines, and a line that is not gin, or
is T5X's gin, is refused with its place.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
import tokenize
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence

from gin import config_parser

from t5x_mini import config_checks, resources, strangers
from t5x_mini.errors import UserError
from t5x_mini.storage import is_remote, to_path

# First parts of the names that T5X's gin files import, include and bind.
_T5X_NAMES = frozenset(
    "__gin__ __main__ t5x t5 flaxformer seqio adafactor checkpoints decoding eval_script export_lib gin_utils infer "
    "infer_script models network optimizers partitioning train train_script trainer utils".split()
)
_LARGEST = 8 * strangers.MIB
_SHOWN = 200  # characters of a line that is quoted
T5X_MACROS = frozenset(("ACTIVATION_DTYPE", "MODEL", "OPTIMIZER", "USE_HARDWARE_RNG"))


@dataclasses.dataclass(frozen=True)
class Macro:
    """`%NAME`."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


REQUIRED = Macro("gin.REQUIRED")


@dataclasses.dataclass(frozen=True)
class Reference:
    """`@Name()`, or `@scope/Name()`: an instance of a dataclass. Without the brackets it has no use here."""

    scope: str
    name: str
    called: bool

    def __repr__(self) -> str:
        return f"@{self.scope}{'/' * bool(self.scope)}{self.name}{'()' * self.called}"


@dataclasses.dataclass(frozen=True)
class Binding:
    """`scope/owner.name = value`; a macro has no owner. `where` and `text` are for the person who wrote it."""

    scope: str
    owner: str
    name: str
    value: object
    where: str
    text: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.scope, self.owner, self.name

    @property
    def label(self) -> str:
        return f"{self.scope}{'/' * bool(self.scope)}{self.owner}{'.' * bool(self.owner)}{self.name}"


def inside(value: object) -> Iterator[object]:
    """The leaves of a value: what is not a dict, list or tuple of others."""
    if isinstance(value, dict):
        yield from inside([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from inside(item)
    else:
        yield value


def replaced(value: object, function: Callable[[object], object]) -> object:
    """The value with `function(leaf)` for each leaf. Lists become tuples: what gin binds is never changed."""
    if isinstance(value, dict):
        return {replaced(key, function): replaced(item, function) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(replaced(item, function) for item in value)
    return function(value)


# Reading


def read_file(name: str, folders: Sequence[str], including: tuple[pathlib.Path, ...] = ()) -> Iterator[Binding]:
    """Bindings of a file, those of its includes where they are included.

    Args:
        name: of the file, looked for in each of `folders`.
        folders: the first that holds it counts.
        including: files that include this one.

    Raises:
        UserError: there is no such file; it is no gin file, or one of T5X's; it includes itself.
    """
    path = _find(name, folders)
    including = (*including, path.resolve())
    try:
        text = strangers.read_bytes(path, "a gin file", _LARGEST).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} can't be read as a gin file: {error}. Write it as UTF-8.") from None
    for statement in _parse(text, str(path)):
        where, line = f"{path}, line {statement.location.line_num}", statement.location.line_content.strip()
        match statement:
            case config_parser.IncludeStatement(filename=included):
                if included.startswith(("t5x/", "t5/", "flaxformer/")):
                    raise t5x_error(where, line)
                try:
                    found = _find(included, folders)
                except UserError as error:
                    raise complaint(where, line, str(error)) from None
                if found.resolve() in including:
                    raise complaint(where, line, f"{included} ends up including itself.")
                yield from read_file(included, folders, including)
            case config_parser.ImportStatement(module=module):
                if is_t5x(module):
                    raise t5x_error(where, line)
                raise complaint(where, line, f"gin files don't import. Write MIXTURE_OR_TASK_MODULE = '{module}'.")
            case config_parser.BindingStatement():
                yield _binding(statement, where, line)


def read_binding(text: str) -> Binding:
    """`NAME=VALUE` of the command line. What is not a literal, `@reference()` or `%MACRO` is a string."""
    where = f"--gin.{text}"
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not name:
        raise UserError(f"{where}: a binding is written --gin.NAME=VALUE.")
    try:
        (parsed,) = _parse(f"{name} = {value}", where)
    except UserError:
        if value.startswith(("{", "[", "(", "'", '"', "@", "%")):
            raise UserError(f"{where}: can't read the value {value}; is a bracket or a quote left open?") from None
        (parsed,) = _parse(f"{name} = {value!r}", where)
    return _binding(parsed, where, "")


def _find(name: str, folders: Sequence[str]) -> pathlib.Path:
    places = [to_path(name) if is_remote(name) else to_path(folder) / name for folder in folders]
    for path in places:
        if path.is_file():
            return path
    if folders_found := [path for path in places if path.is_dir()]:
        raise UserError(f"{folders_found[0]} is a folder. Write the gin file in it: --gin_file={name}/NAME.gin.")
    shipped = resources.gin_root()
    known = [path.relative_to(shipped.parent).as_posix() for path in shipped.rglob("*.gin")]
    here = [] if is_remote(name) else [str(path) for path in pathlib.Path(name).parent.glob("*.gin")]
    first = f"There is no gin file {name}{config_checks.closest(name, (*known, *here))} Looked for:"
    raise UserError("\n  ".join((first, *dict.fromkeys(str(path.resolve()) for path in places))))


def _binding(statement: config_parser.BindingStatement, where: str, text: str) -> Binding:
    owner, name = (statement.selector, statement.arg_name) if statement.arg_name else ("", statement.selector)
    return Binding(statement.scope or "", owner, name, statement.value, where, text)


class _Delegate(config_parser.ParserDelegate):
    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        scope, _, name = scoped_configurable_name.rpartition("/")
        return Reference(scope, name, evaluate)


_Statement = config_parser.BindingStatement | config_parser.IncludeStatement | config_parser.ImportStatement


def _parse(text: str, where: str) -> Iterator[_Statement]:
    """The statements of gin text, each with its location."""
    begin = 1
    try:
        parser = config_parser.ConfigParser(io.StringIO(text), _Delegate())
        while (statement := parser.parse_statement()) is not None:
            if not isinstance(statement, config_parser.BlockDeclaration):
                yield statement
            begin = parser.current_token.start[0]
    except tokenize.TokenError:
        # The tokeniser notices an open bracket at the end of the file; the reader wants to know where it opened.
        lines = text.splitlines()
        while begin < len(lines) and lines[begin - 1].partition("#")[0].strip() == "":
            begin += 1
        text_there = lines[begin - 1].strip() if lines else ""
        raise complaint(f"{where}, line {begin}", text_there, "a bracket or a quote is left open.") from None
    except (RecursionError, MemoryError):  # of Python's own parser, which reads the values
        raise complaint(f"{where}, line {begin}", "", "brackets are nested too deep; no setting needs that.") from None
    except SyntaxError as error:
        hint = "expected NAME = value or Class.field = value; is a quote or a bracket missing?"
        raise complaint(f"{where}, line {error.lineno}", (error.text or "").strip(), hint) from None


# Writing


def as_gin(bindings: Iterable[Binding]) -> str:
    """Bindings as a gin file: macros first, then a block for each scope and class, in their order."""
    blocks: dict[tuple[str, str], list[str]] = {}
    for binding in bindings:
        blocks.setdefault((binding.scope, binding.owner), []).append(f"{binding.name} = {binding.value!r}")
    macros = "\n".join(sorted(blocks.pop(("", ""), [])))
    titles = {key: f"{key[0]}{'/' * bool(key[0])}{key[1]}:" for key in blocks}
    return "\n\n".join([macros, *("\n  ".join([titles[key], *lines]) for key, lines in blocks.items())]) + "\n"


# Complaining


def complaint(where: str, text: str, message: str) -> UserError:
    """The message with the place it is about in front, and the line that stands there behind, as far as it is text."""
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} ..."
    return UserError(f"{where}: {message}" + (f"\n    {shown}" if shown else ""))


def complain(binding: Binding, message: str) -> typing.NoReturn:
    raise complaint(binding.where, binding.text, message)


def is_t5x(name: str) -> bool:
    """Whether a module or class is T5X's."""
    return name.split(".")[0] in _T5X_NAMES


def t5x_error(where: str, text: str) -> UserError:
    return complaint(
        where,
        text,
        "this is written for T5X and binds classes that don't exist here. The macros are the same, the rest is "
        "shorter: see docs/from_t5x.md.",
    )
