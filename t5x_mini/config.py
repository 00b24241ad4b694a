"""Gin in, frozen dataclasses out.

A configuration is the last binding of every name, read in this order: `gin/defaults.gin` (every macro, and the field
it feeds), the gin files, the bindings of the command line. Everything is checked with its file and line still at
hand, and built here; gin only parses.

Scopes name tasks and what is inside them, and mean what they mean in gin: under `my_text/PretrainingTask`, a value
`@SpanCorruption()` takes `my_text/SpanCorruption.mean_span`, or where that isn't bound, `SpanCorruption.mean_span`.
`@r/SpanCorruption()` brings its own scope.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from t5x_mini import config_checks, gin_files, redaction, resources
from t5x_mini.checkpoint.steps import FOLDER
from t5x_mini.configurables import (
    DEFINITIONS,
    SCOPED,
    RunConfig,
    check_names,
    check_value,
    configurables,
    hints,
)
from t5x_mini.errors import UserError
from t5x_mini.feed.config import T5_LENGTHS, FeedConfig
from t5x_mini.gin_files import Binding, Macro, Reference, complain
from t5x_mini.storage import to_path
from t5x_mini.study.config import Study
from t5x_mini.tasks.definitions import Definition

_EXAMPLES = {
    "MODEL_DIR": "runs/my_run",
    "MIXTURE_OR_TASK_NAME": "installed_docs_span_corruption",
    "TASK_FEATURE_LENGTHS": "\"{'inputs': 512, 'targets': 114}\"",
    "BATCH_SIZE": "16",
}

_Key = tuple[str, str, str]
_Bound = dict[_Key, Binding]

_operative_config = ""


def load(
    files: Sequence[str],
    bindings: Sequence[str] = (),
    search_paths: Sequence[str] = (),
    *,
    training: bool = True,
    needs_task: bool = True,
) -> RunConfig:
    """Reads gin files and then `NAME=VALUE` bindings, the later over the earlier.

    Args:
        files: looked for in the working directory, in `search_paths`, and in the `gin/` of this package.
        bindings: `MODEL_DIR=runs/x`, as after `--gin.`; a value that is a bare word is a string.
        search_paths: further folders to find gin files in.
        training: whether the run trains, so that a number of steps is needed.
        needs_task: whether it reads a task. If not, what belongs to one need not be set, as in `load_feed`.

    Where nothing is said of the model, it is that of the checkpoint that the run starts from, or that is measured.

    A binding that nothing uses (of a class that was not chosen) is a warning on stderr.

    Raises:
        UserError: files not found; what is not gin; names that nothing knows; values of the wrong type or range;
            values that nothing sets.
    """
    global _operative_config
    defaults, chosen = _read(files, bindings, search_paths)
    defaults += () if needs_task else _FEED_DEFAULTS
    builder = _Builder([*defaults, *chosen])
    config = builder.made("RunConfig")
    if of_checkpoint := _of_checkpoint(builder, chosen, training):
        builder = _Builder([*defaults, *of_checkpoint, *chosen])
        config = builder.made("RunConfig")
    builder.check_missing()
    config_checks.check_together(config, training)
    _warn_unused(chosen, builder)
    _operative_config = gin_files.as_gin([*builder.used.values(), *builder.left.values()])
    return config


def load_feed(
    files: Sequence[str], bindings: Sequence[str] = (), search_paths: Sequence[str] = (), task: str | None = None
) -> tuple[FeedConfig, str]:
    """The feed and the architecture, for a command that reads data and makes no run.

    Takes the same files as `load`, and what belongs to a run alone need not be set: without a task, the name is `''`,
    without lengths they are T5's, without a batch size it is 8.

    Args:
        task: takes the place of `MIXTURE_OR_TASK_NAME`.

    Raises:
        UserError: as `load`.
    """
    defaults, chosen = _read(files, bindings, search_paths)
    name = [_default("mixture_or_task_name", task, owner="FeedConfig")] if task else []
    builder = _Builder([*defaults, *_FEED_DEFAULTS, *chosen, *name])
    feed, architecture = builder.made("FeedConfig"), builder.field("TransformerConfig", "architecture")
    builder.check_missing()
    _warn_unused([binding for binding in chosen if binding.owner in SCOPED], builder)
    return feed, architecture


def load_study(files: Sequence[str], bindings: Sequence[str] = (), search_paths: Sequence[str] = ()) -> Study:
    """The grid that `Study` describes in these files; what else they bind has no effect, which is said.

    Raises:
        UserError: as `load`.
    """
    defaults, chosen = _read(files, bindings, search_paths)
    builder = _Builder([*defaults, *chosen])
    study = builder.made("Study")
    builder.check_missing()
    _warn_unused(chosen, builder)
    return study


def operative_config() -> str:
    """What the last `load` resolved to, as a gin file that loads to an equal `RunConfig`. Without secrets, a password
    in a URL, say: it is refused until they are given again."""
    text = redaction.redact(_operative_config)
    return f"# Everything a run was configured with: pass this file as --gin_file.\n\n{text}"


def _read(
    files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str]
) -> tuple[list[Binding], list[Binding]]:
    """The defaults, and what was chosen over them."""
    folders = (".", *search_paths, str(resources.gin_root().parent))
    defaults = list(gin_files.read_file("defaults.gin", [str(resources.gin_root())]))
    chosen = [binding for name in files for binding in gin_files.read_file(name, folders)]
    return defaults, [*chosen, *map(gin_files.read_binding, bindings)]


def _of_checkpoint(builder: _Builder, chosen: Sequence[Binding], training: bool) -> list[Binding]:
    """What a checkpoint says of its model, where the gin files name one and say nothing of the model themselves."""
    if any((binding.owner, binding.name) == ("TransformerConfig", "emb_dim") for binding in chosen):
        return []
    path = _checkpoint_named(builder, training)
    if path is None:
        return []
    from t5x_mini import checkpoint_defaults  # Orbax takes a second to import

    return checkpoint_defaults.bindings(path, training)


def _checkpoint_named(builder: _Builder, training: bool) -> str | None:
    """The checkpoint that a run starts from, or that a command measures: the newest in MODEL_DIR, if none is named."""

    def value(owner: str, name: str) -> Any:
        return builder.written_out(builder.bound["", owner, name])[0]

    if training:
        return value("TrainConfig", "initial_checkpoint_path")
    model_dir = value("TrainConfig", "model_dir")
    has_some = isinstance(model_dir, str) and (to_path(model_dir) / FOLDER).exists()
    return value("EvaluateConfig", "checkpoint_path") or (model_dir if has_some else None)


def _default(name: str, value: object, owner: str = "") -> Binding:
    return Binding("", owner, name, value, "the command's own settings", "")


_FEED_DEFAULTS = (
    _default("MIXTURE_OR_TASK_NAME", ""),
    _default("TASK_FEATURE_LENGTHS", T5_LENGTHS),
    _default("BATCH_SIZE", 8),
)


class _Builder:
    """Makes the dataclasses out of bindings, and keeps what it `used`, what it `left` as it is by default, and what is
    `missing`."""

    def __init__(self, bindings: Sequence[Binding]):
        self.bound: _Bound = {binding.key: binding for binding in bindings}
        self.used: _Bound = {}
        self.left: _Bound = {}
        self.missing: list[str] = []
        self.making: list[tuple[str, str]] = []
        self.finished: set[tuple[str, str]] = set()
        check_names(bindings)

    def check_missing(self) -> None:
        if self.missing:
            names, examples = ", ".join(self.missing), (f"  --gin.{n}={_EXAMPLES.get(n, '...')}" for n in self.missing)
            raise UserError("\n".join((f"These have no value: {names}. Write for example", *examples)))

    def made(self, owner: str, scope: str = "") -> Any:
        """An instance; None as soon as something is missing, so that all that is missing is known in the end."""
        values: dict[str, Any] = {}
        if owner in DEFINITIONS:
            values["name"] = scope
        if owner == "FeedConfig":
            values["tasks"] = self._tasks()
        self.making.append((scope, owner))
        for field in dataclasses.fields(configurables()[owner]):
            if field.name in values:
                continue
            if self._binding(owner, field.name, scope):
                values[field.name] = self.field(owner, field.name, scope)
            else:
                self._leave(field, owner, scope)
        self.finished.add(self.making.pop())
        return None if self.missing else self._called(owner, scope, values)

    def field(self, owner: str, name: str, scope: str = "") -> Any:
        """The value that a bound field gets."""
        binding = self._binding(owner, name, scope)
        value, origin = self.written_out(binding)
        if value == gin_files.REQUIRED:
            return self._miss(origin.label)
        check_value(value, binding, origin)

        def made(leaf: object) -> Any:
            if not isinstance(leaf, Reference):
                return leaf
            inner = leaf.scope or scope
            if (inner, leaf.name) in self.making:
                complain(origin, f"{leaf!r} is part of itself.")
            return self.made(leaf.name, inner)

        return gin_files.replaced(value, made)

    def _tasks(self) -> tuple[Definition, ...]:
        names = dict.fromkeys((scope, owner) for scope, owner, _ in self.bound if owner in DEFINITIONS)
        return tuple(self.made(owner, scope) for scope, owner in names)

    def _called(self, owner: str, scope: str, values: dict[str, Any]) -> Any:
        try:
            return configurables()[owner](**values)
        except UserError as error:
            # A dataclass refused its values. Where the value was written says more.
            for name in values:
                binding = self._binding(owner, name, scope)
                if binding and str(error).startswith(f"{owner}.{name} "):
                    complain(self.written_out(binding)[1], str(error))
            raise

    def _binding(self, owner: str, name: str, scope: str) -> Binding | None:
        return self.bound.get((scope, owner, name)) or self.bound.get(("", owner, name))

    def _leave(self, field: dataclasses.Field, owner: str, scope: str) -> None:
        """Notes the default of a field that nothing binds. Without a scope: what binds it later need not have one."""
        left = Binding(scope if owner in DEFINITIONS else "", owner, field.name, None, "", "")
        if field.default is field.default_factory is dataclasses.MISSING:
            self._miss(left.label)
            return
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        literal = all(isinstance(leaf, int | float | str | None) for leaf in gin_files.inside(default))
        if literal and not config_checks.takes_function(hints(owner)[field.name]):
            self.left[left.key] = dataclasses.replace(left, value=default)

    def _miss(self, label: str) -> None:
        if label not in self.missing:
            self.missing.append(label)

    def written_out(self, binding: Binding) -> tuple[Any, Binding]:
        """The binding's value without macros, and the binding in which it was written out. Marks all as used."""
        seen = {binding.key}
        self.used[binding.key] = binding
        while isinstance(binding.value, Macro) and binding.value != gin_files.REQUIRED:
            binding = self._macro(binding.value, binding)
            if binding.key in seen:
                complain(binding, f"{binding.label} is defined by itself.")
            seen.add(binding.key)
            self.used[binding.key] = binding

        def without_macro(leaf: object) -> object:
            if isinstance(leaf, Macro) and leaf != gin_files.REQUIRED:
                return self.written_out(self._macro(leaf, binding))[0]
            return leaf

        return gin_files.replaced(binding.value, without_macro), binding

    def _macro(self, macro: Macro, binding: Binding) -> Binding:
        if ("", "", macro.name) not in self.bound:
            known = [name for _, owner, name in self.bound if not owner]
            complain(binding, f"the macro {macro!r} has no value{config_checks.closest(macro.name, known)}")
        return self.bound["", "", macro.name]


# Telling


def _warn_unused(chosen: Sequence[Binding], builder: _Builder) -> None:
    """Names the bindings that the run doesn't use, which would otherwise be believed in."""
    places = {binding.key: place for place, binding in enumerate(chosen)}
    for key, place in places.items():
        binding = builder.bound[key]
        if key in builder.used:
            continue
        choices = _choices(binding.owner, builder)
        # A file's settings for an optimiser are no mistake when a later one chooses another optimiser.
        if binding.text and any(places.get(choice.key, -1) > place for choice in choices):
            continue
        because = _why_unused(binding, choices, builder)
        print(f"warning: {binding.where}: {binding.label} has no effect, because {because}.", file=sys.stderr)


def _why_unused(binding: Binding, choices: Sequence[Binding], builder: _Builder) -> str:
    scopes = [scope for scope, owner in builder.finished if owner == binding.owner]
    if not binding.owner:
        return "the field that it fed is bound to something else"
    if binding.scope:
        suggestion = config_checks.closest(binding.scope, scopes).removesuffix(".")
        return f"no value is @{binding.scope}/{binding.owner}(), and no task {binding.scope} has one{suggestion}"
    if scopes:
        return "every scope that is used binds its own"
    of_the_run = [f": {choice.label} is {choice.value!r}" for choice in choices if not choice.scope]
    return f"{binding.owner} is not used" + "".join(of_the_run[:1])


def _choices(owner: str, builder: _Builder) -> list[Binding]:
    """The used bindings that chose a class where this one could stand, as they were written out."""
    return [
        builder.written_out(binding)[1]
        for binding in list(builder.used.values())
        if binding.owner
        and owner in {cls.__name__ for cls in config_checks.dataclass_choices(hints(binding.owner)[binding.name])}
    ]
