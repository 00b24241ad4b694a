"""Gin in, frozen dataclasses out.

A configuration is the last binding of every name, read in this order: `gin/defaults.gin` (every macro, and the field
it feeds), the gin files, the bindings of the command line. Everything is checked with its file and line still at
hand; what is left is given to gin, which builds the dataclasses.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import pathlib
import sys
import tokenize
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import gin
from gin import config_parser

from t5x_mini import config_checks, resources
from t5x_mini.checkpoint.config import CheckpointConfig
from t5x_mini.errors import UserError
from t5x_mini.evaluate.config import EvaluateConfig
from t5x_mini.feed.config import FeedConfig
from t5x_mini.model.config import TransformerConfig
from t5x_mini.parallel.config import PartitioningConfig
from t5x_mini.train.config import LossConfig, TrainConfig

if TYPE_CHECKING:
    from t5x_mini.train.optimizers import Optimizer
    from t5x_mini.train.schedules import Schedule

# First parts of the names that T5X's gin files import, include and bind.
_T5X_NAMES = frozenset(
    "__gin__ __main__ t5x t5 flaxformer seqio adafactor checkpoints decoding eval_script export_lib gin_utils infer "
    "infer_script models network optimizers partitioning train train_script trainer utils".split()
)
_T5X_MACROS = frozenset(("ACTIVATION_DTYPE", "MODEL", "OPTIMIZER", "USE_HARDWARE_RNG", "VOCABULARY"))

_EXAMPLES = {
    "MODEL_DIR": "runs/my_run",
    "MIXTURE_OR_TASK_NAME": "installed_docs_span_corruption",
    "TASK_FEATURE_LENGTHS": "\"{'inputs': 512, 'targets': 114}\"",
    "BATCH_SIZE": "16",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All that a run needs to know, one dataclass a part."""

    model: TransformerConfig
    feed: FeedConfig
    loss: LossConfig
    optimizer: Optimizer
    schedule: Schedule
    train: TrainConfig
    checkpoint: CheckpointConfig
    partitioning: PartitioningConfig
    evaluate: EvaluateConfig


@dataclasses.dataclass(frozen=True)
class _Macro:
    """`%NAME`."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class _Reference:
    """`@Name()`: an instance of a dataclass; `@Name`, without the brackets, is the class and has no use here."""

    name: str
    called: bool

    def __repr__(self) -> str:
        return f"@{self.name}()" if self.called else f"@{self.name}"


_REQUIRED = _Macro("gin.REQUIRED")


@dataclasses.dataclass(frozen=True)
class _Binding:
    """`owner.name = value`; a macro has no owner. `where` and `text` are for the person who wrote it."""

    owner: str
    name: str
    value: object
    where: str
    text: str

    @property
    def key(self) -> tuple[str, str]:
        return self.owner, self.name

    @property
    def label(self) -> str:
        return f"{self.owner}.{self.name}" if self.owner else self.name


_Bound = dict[tuple[str, str], _Binding]


class _Delegate(config_parser.ParserDelegate):
    def macro(self, macro_name: str) -> _Macro:
        return _Macro(macro_name)

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> _Reference:
        return _Reference(scoped_configurable_name, evaluate)


def load(
    gin_files: Sequence[str], bindings: Sequence[str] = (), search_paths: Sequence[str] = (), *, training: bool = True
) -> RunConfig:
    """Reads gin files and then `NAME=VALUE` bindings, the later over the earlier.

    Args:
        gin_files: looked for in the working directory, in `search_paths`, and in the `gin/` of this package.
        bindings: `MODEL_DIR=runs/x`, as after `--gin.`; a value that is a bare word is a string.
        search_paths: further folders to find gin files in.
        training: whether the run trains, so that a number of steps is needed.

    A binding that nothing uses (of a class that was not chosen) is a warning on stderr.

    Raises:
        UserError: files not found; what is not gin; names that nothing knows; values of the wrong type or range;
            values that nothing sets.
    """
    folders = (".", *search_paths, str(resources.gin_root().parent))
    defaults = list(_read_file(resources.gin_root() / "defaults.gin", folders))
    chosen = [binding for name in gin_files for binding in _read_file(_find(name, folders), folders)]
    chosen += [_read_binding(text) for text in bindings]
    macros = _known_macros([*defaults, *chosen])
    for binding in (*defaults, *chosen):
        _check_name(binding, macros)
    bound = {binding.key: binding for binding in (*defaults, *chosen)}
    used: _Bound = {}
    missing: list[str] = []
    _check_fields("RunConfig", bound, used, missing)
    if missing:
        raise UserError(f"These have no value: {', '.join(missing)}. Write for example\n{_examples(missing)}")
    config = _build(used)
    config_checks.check_together(config, training)
    _warn_unused(chosen, bound, used)
    return config


def operative_config() -> str:
    """What the last `load` resolved to, as a gin file that loads to an equal `RunConfig`."""
    return f"# Everything a run was configured with: pass this file as --gin_file.\n\n{gin.operative_config_str()}"


@functools.cache
def _configurables() -> dict[str, type]:
    """The dataclasses that gin files can bind, by name, registered with gin."""
    # Imported here because they bring JAX, which `t5x-mini --help` does without.
    from t5x_mini.train import optimizers, schedules

    classes = (
        *(RunConfig, TransformerConfig, FeedConfig, LossConfig, TrainConfig, CheckpointConfig, PartitioningConfig),
        *(EvaluateConfig, *typing.get_args(optimizers.Optimizer), *typing.get_args(schedules.Schedule)),
    )
    for cls in classes:
        gin.register(cls)
    return {cls.__name__: cls for cls in classes}


@functools.cache
def _hints(owner: str) -> dict[str, object]:
    """Field annotations of a configurable."""
    cls = _configurables()[owner]
    if cls is not RunConfig:
        return typing.get_type_hints(cls)
    from t5x_mini.train import optimizers, schedules

    return typing.get_type_hints(cls, localns={"Optimizer": optimizers.Optimizer, "Schedule": schedules.Schedule})


def _build(used: _Bound) -> RunConfig:
    gin.clear_config()
    gin.parse_config([f"{binding.label} = {binding.value!r}" for binding in used.values()])
    try:
        return gin.get_configurable(RunConfig)()
    except UserError as error:
        # A dataclass refused its values. Gin has added which call it was in; where the value was written says more.
        message = str(error).partition("\n  In call to")[0]
        blamed = [binding for binding in used.values() if message.startswith(f"{binding.label} ")]
        raise _complaint(blamed[0].where, blamed[0].text, message) if blamed else UserError(message) from None


# Reading


def _find(name: str, folders: Sequence[str]) -> pathlib.Path:
    places = [pathlib.Path(folder, name) for folder in folders]
    for path in places:
        if path.is_file():
            return path
    shipped = resources.gin_root()
    known = [path.relative_to(shipped.parent).as_posix() for path in shipped.rglob("*.gin")]
    here = [str(path) for path in pathlib.Path(name).parent.glob("*.gin")]
    first = f"There is no gin file {name}{config_checks.closest(name, (*known, *here))} Looked for:"
    raise UserError("\n  ".join((first, *dict.fromkeys(str(path.resolve()) for path in places))))


def _read_file(
    path: pathlib.Path, folders: Sequence[str], including: tuple[pathlib.Path, ...] = ()
) -> Iterator[_Binding]:
    """Bindings of a file, those of its includes where they are included."""
    including = (*including, path.resolve())
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} can't be read as a gin file: {error}.") from None
    for statement in _parse(text, str(path)):
        where, line = f"{path}, line {statement.location.line_num}", statement.location.line_content.strip()
        match statement:
            case config_parser.IncludeStatement(filename=included):
                if included.startswith(("t5x/", "t5/", "flaxformer/")):
                    raise _t5x_error(where, line)
                try:
                    found = _find(included, folders)
                except UserError as error:
                    raise _complaint(where, line, str(error)) from None
                if found.resolve() in including:
                    raise _complaint(where, line, f"{included} ends up including itself.")
                yield from _read_file(found, folders, including)
            case config_parser.ImportStatement(module=module):
                if module.split(".")[0] in _T5X_NAMES:
                    raise _t5x_error(where, line)
                raise _complaint(where, line, f"gin files don't import. Write MIXTURE_OR_TASK_MODULE = '{module}'.")
            case config_parser.BindingStatement(scope=scope, selector=owner, arg_name=field, value=value):
                owner = f"{scope}/{owner}" if scope else owner
                owner, field = (owner, field) if field else ("", owner)
                yield _Binding(owner, field, value, where, line)


def _read_binding(text: str) -> _Binding:
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
    owner = f"{parsed.scope}/{parsed.selector}" if parsed.scope else parsed.selector
    owner, field = (owner, parsed.arg_name) if parsed.arg_name else ("", owner)
    return _Binding(owner, field, parsed.value, where, "")


def _parse(text: str, where: str) -> Iterator[config_parser.BindingStatement]:
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
        raise _complaint(f"{where}, line {begin}", text_there, "a bracket or a quote is left open.") from None
    except SyntaxError as error:
        hint = "expected NAME = value or Class.field = value; is a quote or a bracket missing?"
        raise _complaint(f"{where}, line {error.lineno}", (error.text or "").strip(), hint) from None


# Checking


def _complaint(where: str, text: str, message: str) -> UserError:
    return UserError(f"{where}: {message}" + (f"\n    {text}" if text else ""))


def _complain(binding: _Binding, message: str) -> typing.NoReturn:
    raise _complaint(binding.where, binding.text, message)


def _t5x_error(where: str, text: str) -> UserError:
    return _complaint(
        where,
        text,
        "this is written for T5X and binds classes that don't exist here. The macros are the same, the rest is "
        "shorter: see docs/from_t5x.md.",
    )


def _inside(value: object) -> Iterator[_Macro | _Reference]:
    """The macros and references in a value, at any depth."""
    if isinstance(value, _Macro | _Reference):
        yield value
    elif isinstance(value, dict):
        yield from _inside([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _inside(item)


def _known_macros(bindings: Iterable[_Binding]) -> frozenset[str]:
    """Macros that some value refers to: every other one would be bound in vain."""
    return frozenset(
        part.name for binding in bindings for part in _inside(binding.value) if isinstance(part, _Macro)
    ) - {_REQUIRED.name}


def _check_name(binding: _Binding, macros: frozenset[str]) -> None:
    """Whether the name that is bound, and those it is bound to, exist."""
    known = _configurables()
    owner = binding.owner
    if owner.split(".")[0].split("/")[-1] in _T5X_NAMES or (not owner and binding.name in _T5X_MACROS):
        raise _t5x_error(binding.where, binding.text)
    if "/" in binding.label:
        _complain(binding, f"scopes ({binding.label}) are not used here: write {binding.label.rpartition('/')[2]}.")
    if not owner and binding.name not in macros:
        suggestion = config_checks.closest(binding.name, macros)
        _complain(binding, f"nothing uses a macro {binding.name}{suggestion} gin/defaults.gin lists them all.")
    if owner and owner not in known:
        _complain(binding, f"there is no class {owner}{config_checks.closest(owner, known)}")
    if owner and binding.name not in _hints(owner):
        _complain(binding, f"{owner} has no field {binding.name}{config_checks.closest(binding.name, _hints(owner))}")
    for reference in _inside(binding.value):
        if isinstance(reference, _Reference) and reference.name not in known:
            if reference.name.split(".")[0].split("/")[-1] in _T5X_NAMES:
                raise _t5x_error(binding.where, binding.text)
            _complain(binding, f"there is no class {reference.name}{config_checks.closest(reference.name, known)}")


def _check_fields(owner: str, bound: _Bound, used: _Bound, missing: list[str]) -> None:
    """Checks the bindings of a class and of all that it refers to; collects what is `used` and what is `missing`."""
    for field in dataclasses.fields(_configurables()[owner]):
        binding = bound.get((owner, field.name))
        if binding is not None:
            _check_field(binding, _hints(owner)[field.name], bound, used, missing)
        elif field.default is field.default_factory is dataclasses.MISSING:
            missing.append(f"{owner}.{field.name}")


def _check_field(binding: _Binding, hint: object, bound: _Bound, used: _Bound, missing: list[str]) -> None:
    value, origin = _resolve(binding, bound, used)
    if value == _REQUIRED:
        if origin.label not in missing:
            missing.append(origin.label)
        return
    classes = {cls.__name__ for cls in config_checks.dataclass_choices(hint)}
    if isinstance(value, _Reference) and value.called and value.name in classes:
        _check_fields(value.name, bound, used, missing)
        return
    through = "" if origin is binding else f" (for {binding.label})"
    if not config_checks.fits(value, hint):
        found = f"{value!r} ({type(value).__name__})" if not isinstance(value, _Reference) else repr(value)
        _complain(origin, f"{origin.label}{through} must be {config_checks.describe(hint)}, not {found}.")
    if words := config_checks.range_of(binding.owner, binding.name, value):
        _complain(origin, f"{origin.label}{through} must be {words}, not {value!r}.")
    if isinstance(origin.value, list) and config_checks.is_sequence(hint):
        used[origin.key] = dataclasses.replace(origin, value=tuple(origin.value))


def _resolve(binding: _Binding, bound: _Bound, used: _Bound) -> tuple[object, _Binding]:
    """The binding's value without macros, and the binding in which it was written out. Marks the macros as used."""
    seen = {binding.key}
    used[binding.key] = binding
    while isinstance(binding.value, _Macro) and binding.value != _REQUIRED:
        binding = _macro(binding.value, binding, bound)
        if binding.key in seen:
            _complain(binding, f"{binding.label} is defined by itself.")
        seen.add(binding.key)
        used[binding.key] = binding

    def substitute(value: object) -> object:
        if isinstance(value, _Macro) and value != _REQUIRED:
            return _resolve(_macro(value, binding, bound), bound, used)[0]
        if isinstance(value, dict):
            return {substitute(key): substitute(item) for key, item in value.items()}
        return type(value)(map(substitute, value)) if isinstance(value, list | tuple) else value

    return substitute(binding.value), binding


def _macro(macro: _Macro, binding: _Binding, bound: _Bound) -> _Binding:
    if ("", macro.name) not in bound:
        known = [name for owner, name in bound if not owner]
        _complain(binding, f"the macro {macro!r} has no value{config_checks.closest(macro.name, known)}")
    return bound["", macro.name]


def _examples(missing: Iterable[str]) -> str:
    return "\n".join(f"  --gin.{name}={_EXAMPLES.get(name, '...')}" for name in missing)


def _warn_unused(chosen: Sequence[_Binding], bound: _Bound, used: _Bound) -> None:
    """Names the bindings that the run doesn't use, which would otherwise be believed in."""
    places = {binding.key: place for place, binding in enumerate(chosen)}
    for key, place in places.items():
        binding = bound[key]
        if key in used:
            continue
        choice = _choice(binding.owner, bound)
        # A file's settings for an optimiser are no mistake when a later one chooses another optimiser.
        if choice and binding.text and places.get(choice.key, -1) > place:
            continue
        reason = f"{binding.owner} is not used" if binding.owner else "the field that it fed is bound to something else"
        because = f"{reason}: {choice.label} is {choice.value!r}" if choice else reason
        print(f"warning: {binding.where}: {binding.label} has no effect, because {because}.", file=sys.stderr)


def _choice(owner: str, bound: _Bound) -> _Binding | None:
    """The binding that chose another class where this one could stand, for an optimiser or a schedule."""
    for field, hint in _hints("RunConfig").items():
        if owner in {cls.__name__ for cls in config_checks.dataclass_choices(hint)}:
            return bound["RunConfig", field]
    return None
