"""Whether a value fits a dataclass field, and how to say so. No gin here."""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from t5x_mini.errors import UserError

_SIMPLE = {
    int: ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    float: ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    str: ("a string", lambda value: isinstance(value, str)),
    bool: ("True or False", lambda value: isinstance(value, bool)),
    type(None): ("None", lambda value: value is None),
}

_POSITIVE = ("above 0", lambda value: value > 0)
_NOT_NEGATIVE = ("0 or more", lambda value: value >= 0)
_SHARE = ("at least 0 and below 1", lambda value: 0 <= value < 1)
_AXIS = ("above 0, or -1 for all devices that are left", lambda value: value > 0 or value == -1)
_SEED = ("from 0 to 4,294,967,295", lambda value: 0 <= value < 1 << 32)
_LAYERS = ("from 1 to 10,000", lambda value: 1 <= value <= 10_000)
_LENGTHS = ("not empty, with lengths above 0", lambda value: value and all(length > 0 for length in value.values()))

# Only what a field can be judged by alone; what depends on devices or data is checked where those are known.
_RANGES: dict[tuple[str, str], tuple[str, Callable[[Any], bool]]] = {
    ("FeedConfig", "batch_size"): _POSITIVE,
    ("FeedConfig", "task_feature_lengths"): _LENGTHS,
    ("FeedConfig", "extra_ids"): ("from 0 to 1,000,000", lambda value: 0 <= value <= 1_000_000),
    ("FeedConfig", "prefetch"): _NOT_NEGATIVE,
    ("Mixture", "limit"): _POSITIVE,
    ("Mixture", "temperature"): _POSITIVE,
    ("TransformerConfig", "dropout_rate"): _SHARE,
    ("LossConfig", "label_smoothing"): _SHARE,
    ("LossConfig", "z_loss"): _NOT_NEGATIVE,
    ("FeedConfig", "seed"): _SEED,
    ("TrainConfig", "train_steps"): _POSITIVE,
    ("TrainConfig", "train_steps_relative"): _POSITIVE,
    ("TrainConfig", "random_seed"): _SEED,
    ("TrainConfig", "reset_step"): _NOT_NEGATIVE,
    ("TrainConfig", "num_microbatches"): _POSITIVE,
    ("LossConfig", "blocks"): _POSITIVE,
    ("TrainConfig", "clip_global_norm"): _POSITIVE,
    ("TrainConfig", "eval_period"): _NOT_NEGATIVE,
    ("TrainConfig", "eval_steps"): _POSITIVE,
    ("TrainConfig", "loss_spike"): _POSITIVE,
    ("TrainConfig", "max_skips"): _POSITIVE,
    ("TrainConfig", "statistics_period"): _NOT_NEGATIVE,
    ("CheckpointConfig", "period"): _POSITIVE,
    ("CheckpointConfig", "keep"): _POSITIVE,
    ("CheckpointConfig", "keep_best"): _POSITIVE,
    ("CheckpointConfig", "keep_period"): _POSITIVE,
    ("CheckpointConfig", "retries"): _NOT_NEGATIVE,
    ("TrainConfig", "patience"): _POSITIVE,
    ("EvaluateConfig", "eval_limit"): _POSITIVE,
    ("EvaluateConfig", "infer_limit"): _POSITIVE,
    ("DecodingConfig", "max_length"): ("from 1 to 1,000,000", lambda value: 1 <= value <= 1_000_000),
    ("DecodingConfig", "min_length"): _NOT_NEGATIVE,
    ("DecodingConfig", "num_decodes"): ("from 1 to 10,000", lambda value: 1 <= value <= 10_000),
    ("DecodingConfig", "temperature"): _NOT_NEGATIVE,
    ("DecodingConfig", "top_k"): _NOT_NEGATIVE,
    ("DecodingConfig", "top_p"): ("above 0 and at most 1", lambda value: 0 < value <= 1),
    ("DecodingConfig", "length_penalty"): _NOT_NEGATIVE,
    ("DecodingConfig", "seed"): _SEED,
    ("Study", "seeds"): _POSITIVE,
    ("TransformerConfig", "num_encoder_layers"): _LAYERS,
    ("TransformerConfig", "num_decoder_layers"): _LAYERS,
    ("PartitioningConfig", "data"): _AXIS,
    ("PartitioningConfig", "fsdp"): _AXIS,
    ("PartitioningConfig", "model"): _AXIS,
} | {
    ("TransformerConfig", size): _POSITIVE
    for size in (
        *("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim", "relpos_buckets", "relpos_max_distance"),
    )
}


def closest(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing if no known name is close. Case doesn't count."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return f"; did you mean {by_folded[matches[0]]}?" if matches else "."


def dataclass_choices(hint: Any) -> list[type]:
    """The dataclasses that a field annotated with `hint` takes, alone or as items."""
    if dataclasses.is_dataclass(hint):
        return [hint]
    return [choice for part in typing.get_args(hint) for choice in dataclass_choices(part)]


def takes_function(hint: Any) -> bool:
    """Whether the field takes a function, which a gin file can't write."""
    return any(typing.get_origin(member) is collections.abc.Callable for member in _members(hint))


def fits(value: object, hint: Any) -> bool:
    """Whether a literal from a gin file may stand in a field annotated with `hint`.

    In place of an instance of a dataclass that is yet to be made stands its class.
    """
    return any(_fits_one(value, member) for member in _members(hint))


def describe(hint: Any) -> str:
    """The annotation in words: `'a whole number or None'`."""
    return " or ".join(_describe_one(member) for member in _members(hint))


def limits(owner: str, field: str) -> str:
    """What the field's values must be besides well-typed, in words; empty where nothing is said."""
    return _RANGES.get((owner, field), ("", None))[0]


def range_of(owner: str, field: str, value: object) -> str | None:
    """What the field's values must be, in words, if this (well-typed) one is not."""
    if isinstance(value, float) and not math.isfinite(value):
        return "finite"
    words, within = _RANGES.get((owner, field), ("", lambda _: True))
    return None if value is None or within(value) else words


def check_fields(cls: type, values: Mapping[str, object], where: str) -> None:
    """Raises UserError, with `where` they stand, unless these values can be the dataclass's fields of these names."""
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if not fits(value, hints[name]):
            raise UserError(f"{where}: {name} is {value!r}, not {describe(hints[name])}. It is damaged: copy it again.")
        if words := range_of(cls.__name__, name, value):
            raise UserError(f"{where}: {name} is {value!r}, and must be {words}. It is damaged: copy it again.")


def check_together(config: Any, training: bool) -> None:
    """Checks of a whole `RunConfig` that no single field can answer.

    Raises UserError: for how long to train is said twice or (when `training`) never; nothing is there to choose the
    best checkpoint by; the batch doesn't divide into its microbatches; `pmap` with a mesh; how to start from a
    checkpoint without one; SeqIO's cached tasks for a feed that doesn't read them.
    """
    absolute, relative = config.train.train_steps, config.train.train_steps_relative
    if absolute is not None and relative is not None:
        raise UserError(
            f"TRAIN_STEPS = {absolute} and TRAIN_STEPS_RELATIVE = {relative} both say when to stop: set one of them "
            "to None, as in --gin.TRAIN_STEPS=None."
        )
    if training and absolute is None and relative is None:
        raise UserError(
            "Nothing says when to stop training. Write for example --gin.TRAIN_STEPS=1000 (counted from the first "
            "step of pretraining) or --gin.TRAIN_STEPS_RELATIVE=1000 (counted from the initial checkpoint)."
        )
    _check_start(config.train)
    _check_best(config.train)
    batch, parts = config.feed.batch_size, config.train.num_microbatches
    if batch % parts:
        raise UserError(f"BATCH_SIZE = {batch} can't be split into NUM_MICROBATCHES = {parts} equal parts.")
    if config.feed.data_feed == "tokens" and config.feed.use_cached_tasks:
        raise UserError(
            "DATA_FEED = 'tokens' reads what `t5x-mini tokenize` wrote, and USE_CACHED_TASKS = True what SeqIO's cache "
            "tool wrote: set USE_CACHED_TASKS = False, or DATA_FEED = 'seqio'."
        )
    mesh = config.partitioning
    if mesh.kind == "pmap" and (mesh.fsdp, mesh.model) != (1, 1):
        raise UserError(
            f"PARTITIONING = 'pmap' copies the whole model to every device, but MESH_FSDP = {mesh.fsdp} and "
            f"MESH_MODEL = {mesh.model} ask to split it. Set both to 1, or PARTITIONING = 'mesh'."
        )


def _check_start(train: Any) -> None:
    """Whether what says how to start from a checkpoint has one to start from."""
    set_ = {"RESET_OPTIMIZER": train.reset_optimizer, "RESET_STEP": train.reset_step is not None}
    set_["ASSIGNMENT_MAP"] = bool(train.assignment_map)
    for macro, is_set in set_.items():
        if is_set and train.initial_checkpoint_path is None:
            raise UserError(
                f"{macro} says how to start from a checkpoint, and INITIAL_CHECKPOINT_PATH names none: write "
                f"--gin.INITIAL_CHECKPOINT_PATH=runs/another, or leave {macro} out."
            )


def _check_best(train: Any) -> None:
    """Whether there is something to choose the best checkpoint by, and to stop early for."""
    of_training = train.best_metric is not None and train.best_metric.startswith("train/")
    if train.best_metric is not None and not of_training and not train.eval_period:
        raise UserError(
            f"BEST_METRIC = {train.best_metric!r} is measured at evaluations, and EVAL_PERIOD = 0 makes none: write "
            "--gin.EVAL_PERIOD=1000, or BEST_METRIC=None."
        )
    if train.patience is not None and of_training:
        raise UserError(
            f"PATIENCE = {train.patience} counts evaluations, and BEST_METRIC = {train.best_metric!r} is measured in "
            "training: leave one of them out, or choose by --gin.BEST_METRIC=loss."
        )
    if train.patience is not None and train.best_metric is None:
        raise UserError(
            f"PATIENCE = {train.patience} waits for a better BEST_METRIC, and none is named: write "
            "--gin.BEST_METRIC=average (of the scored tasks) or --gin.BEST_METRIC=loss."
        )


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _fits_one(value: object, hint: Any) -> bool:
    if hint in _SIMPLE:
        return _SIMPLE[hint][1](value)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if origin is tuple and ... not in arguments:
        return (
            isinstance(value, tuple | list)
            and len(value) == len(arguments)
            and all(fits(item, argument) for item, argument in zip(value, arguments, strict=True))
        )
    if origin in (tuple, collections.abc.Sequence):
        return isinstance(value, tuple | list) and all(fits(item, arguments[0]) for item in value)
    if origin is collections.abc.Mapping:
        return isinstance(value, Mapping) and all(
            fits(key, arguments[0]) and fits(item, arguments[1]) for key, item in value.items()
        )
    return value is hint


def _describe_one(hint: Any) -> str:
    if hint in _SIMPLE:
        return _SIMPLE[hint][0]
    if dataclasses.is_dataclass(hint):
        return f"@{hint.__name__}()"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(repr(choice) for choice in arguments)
    if origin is tuple and ... not in arguments:
        return f"({', '.join(describe(argument) for argument in arguments)})"
    if origin in (tuple, collections.abc.Sequence):
        return f"a tuple, each item {describe(arguments[0])}"
    return f"a dict, each key {describe(arguments[0])} and each value {describe(arguments[1])}"
