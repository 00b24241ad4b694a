"""What a gin file can bind: the dataclasses of a configuration with their fields; and whether a binding does."""

from __future__ import annotations

import dataclasses
import functools
import operator
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from t5x_mini import config_checks, gin_files
from t5x_mini.checkpoint.config import CheckpointConfig
from t5x_mini.evaluate.config import EvaluateConfig
from t5x_mini.feed.config import FeedConfig
from t5x_mini.gin_files import Binding, Macro, Reference, complain
from t5x_mini.model.config import DecodingConfig, TransformerConfig
from t5x_mini.parallel.config import PartitioningConfig
from t5x_mini.redaction import REDACTED
from t5x_mini.study.config import Study
from t5x_mini.tasks import definitions, objective_mixtures, squad
from t5x_mini.train.config import LossConfig, TrainConfig

if TYPE_CHECKING:
    from t5x_mini.train.optimizers import Optimizer
    from t5x_mini.train.schedules import Schedule

DEFINITIONS = {cls.__name__: cls for cls in (*typing.get_args(definitions.Definition), squad.SquadTask)}
_OBJECTIVES = {cls.__name__: cls for cls in objective_mixtures.OBJECTIVES}
SCOPED = {**DEFINITIONS, **_OBJECTIVES}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All that a run needs to know, one dataclass a part.

    Attributes:
        model: sizes, architecture and numerics.
        feed: the task, its lengths and its batches.
        loss: how the cross-entropy is taken.
        optimizer: chosen by naming one: `@Adafactor()`, T5's; `@AdamW()`; `@Muon()`.
        schedule: of the learning rate, chosen by naming one: `@Rsqrt()`, T5's; `@Constant()`; `@Linear()`; `@Cosine()`.
        train: how long, from where, how often it is evaluated.
        checkpoint: how often, and which are kept.
        partitioning: how the devices share the work.
        evaluate: what `eval` and `infer` read and write.
        decoding: how answers are written.
    """

    model: TransformerConfig
    feed: FeedConfig
    loss: LossConfig
    optimizer: Optimizer
    schedule: Schedule
    train: TrainConfig
    checkpoint: CheckpointConfig
    partitioning: PartitioningConfig
    evaluate: EvaluateConfig
    decoding: DecodingConfig = DecodingConfig()

    @property
    def settings(self) -> dict[str, Any]:
        """Every field of every part: `{'TrainConfig.train_steps': 300, ...}`."""
        return {
            f"{type(part).__name__}.{field.name}": getattr(part, field.name)
            for part in vars(self).values()
            for field in dataclasses.fields(part)
        }


@functools.cache
def configurables() -> dict[str, type]:
    """The dataclasses that gin files can bind, by name."""
    # Imported here because they bring JAX, which `t5x-mini --help` does without.
    from t5x_mini.train import optimizers, schedules

    classes = (
        *(RunConfig, TransformerConfig, FeedConfig, LossConfig, TrainConfig, CheckpointConfig, PartitioningConfig),
        *(EvaluateConfig, DecodingConfig, Study),
        *(*typing.get_args(optimizers.Optimizer), *typing.get_args(schedules.Schedule)),
    )
    return {cls.__name__: cls for cls in classes} | SCOPED


@functools.cache
def hints(owner: str) -> dict[str, Any]:
    """Annotations of the fields that gin files can bind, with the classes there are in place of their common name."""
    from t5x_mini.train import optimizers, schedules

    names = {"Optimizer": optimizers.Optimizer, "Schedule": schedules.Schedule}
    names["Objective"] = functools.reduce(operator.or_, _OBJECTIVES.values())
    return typing.get_type_hints(configurables()[owner], localns=names)


def check_names(bindings: Sequence[Binding]) -> None:
    """Raises UserError for the first name that doesn't exist, is bound or is bound to where it can't be."""
    leaves = [leaf for binding in bindings for leaf in gin_files.inside(binding.value)]
    # A macro that no value refers to would be bound in vain.
    macros = frozenset(leaf.name for leaf in leaves if isinstance(leaf, Macro)) - {gin_files.REQUIRED.name}
    tasks: dict[str, list[Binding]] = {}
    for binding in bindings:
        _check_name(binding, macros)
        if binding.owner in DEFINITIONS:
            tasks.setdefault(binding.scope, []).append(binding)
    for name, parts in tasks.items():
        _check_task(parts, [other for other in tasks if other != name])


def _check_task(bindings: Sequence[Binding], others: Sequence[str]) -> None:
    """Whether the bindings under one name define one task. A misspelt name would define another, without a source."""
    first = bindings[0]
    for binding in bindings:
        if binding.owner != first.owner:
            complain(binding, f"{first.scope} is a {first.owner} already ({first.where}).")
    sources = {"files", "tfds", "huggingface"} & set(hints(first.owner))
    if sources.isdisjoint(binding.name for binding in bindings) and sources:
        write = f"Write for example {first.scope}/{first.owner}.files = {{'train': 'text/*.txt'}}."
        complain(first, f"the task {first.scope} has no source{config_checks.closest(first.scope, others)} {write}")


def _check_name(binding: Binding, macros: frozenset[str]) -> None:
    """Whether the name that is bound, and those it is bound to, exist."""
    known, owner = configurables(), binding.owner
    if gin_files.is_t5x(owner) or (not owner and binding.name in gin_files.T5X_MACROS):
        raise gin_files.t5x_error(binding.where, binding.text)
    if owner and owner not in known:
        complain(binding, f"there is no class {owner}{config_checks.closest(owner, known)}")
    _check_scope(binding, binding.scope, owner, binding.label)
    if not owner and binding.name not in macros:
        suggestion = config_checks.closest(binding.name, macros)
        complain(binding, f"nothing uses a macro {binding.name}{suggestion} gin/defaults.gin lists them all.")
    if owner:
        _check_field_name(binding)
    for reference in gin_files.inside(binding.value):
        if isinstance(reference, Reference) and reference.name not in known:
            if gin_files.is_t5x(reference.name):
                raise gin_files.t5x_error(binding.where, binding.text)
            complain(binding, f"there is no class {reference.name}{config_checks.closest(reference.name, known)}")
        if isinstance(reference, Reference):
            _check_scope(binding, reference.scope, reference.name, repr(reference))


def _check_scope(binding: Binding, scope: str, owner: str, label: str) -> None:
    """Whether a scope stands where one may, and only there."""
    if scope and owner not in SCOPED:
        bare = label.replace(f"{scope}/", "", 1)
        complain(binding, f"scopes ({label}) are only for tasks and objectives: write {bare}.")
    if "/" in scope:
        complain(binding, f"{label} has more than one scope: write one name before the slash.")
    if owner in DEFINITIONS and not scope:
        complain(binding, f"a {owner} has its name in front: write for example my_task/{label}.")


def _check_field_name(binding: Binding) -> None:
    owner, name, fields = binding.owner, binding.name, hints(binding.owner)
    if (owner, name) == ("FeedConfig", "tasks"):
        complain(binding, "tasks are defined one by one: my_text/PretrainingTask.files = {'train': 'text/*.txt'}.")
    if owner in DEFINITIONS and name == "name":
        complain(binding, f"the name of a task is its scope, here {binding.scope}: leave this line out.")
    if name not in fields:
        complain(binding, f"{owner} has no field {name}{config_checks.closest(name, fields)}")
    if config_checks.takes_function(fields[name]):
        complain(binding, f"{owner}.{name} is a function, which only Python can give.")


def check_value(value: object, binding: Binding, origin: Binding) -> None:
    """Whether a value, written out in `origin`, fits the field of `binding`."""
    through = "" if origin is binding else f" (for {binding.label})"
    hint = hints(binding.owner)[binding.name]

    def made_class(leaf: object) -> object:
        return configurables()[leaf.name] if isinstance(leaf, Reference) and leaf.called else leaf

    if not config_checks.fits(gin_files.replaced(value, made_class), hint):
        found = repr(value) if isinstance(value, Reference) else f"{value!r} ({type(value).__name__})"
        complain(origin, f"{origin.label}{through} must be {config_checks.describe(hint)}, not {found}.")
    if any(REDACTED in leaf for leaf in gin_files.inside(value) if isinstance(leaf, str)):
        again = f"Give it again: --gin.{origin.label}=..."
        complain(origin, f"{origin.label}{through} was saved without its secret. {again}")
    if words := config_checks.range_of(binding.owner, binding.name, value):
        complain(origin, f"{origin.label}{through} must be {words}, not {value!r}.")
