"""What changed in a configuration since the checkpoint that a run goes on from.

Every checkpoint keeps the settings that it was made with (`run_item.Training.settings`). On a resume they are compared:
what makes no difference to what is learned is listed; what does is refused, unless `--allow_changes` names it; and what
a checkpoint can't survive, another model, say, is refused in any case.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t5x_mini import config_checks, gin_files, resources
from t5x_mini.checkpoint.run_item import RunItem
from t5x_mini.errors import UserError
from t5x_mini.feed.position import Position
from t5x_mini.parallel.hosts import say
from t5x_mini.redaction import redact

if TYPE_CHECKING:
    from t5x_mini.config import RunConfig
    from t5x_mini.feed.seqio_feed import SeqioFeed
    from t5x_mini.feed.token_feed import TokenFeed
    from t5x_mini.train.run import Run

# What has no part in what is learned: where things are, how fast they go, when something is measured or saved. What
# counts only at the start, and what only says when to stop, belong here too. Whole classes end with a dot.
_FREE = (
    *("CheckpointConfig.", "PartitioningConfig.", "EvaluateConfig.", "DecodingConfig."),
    *("TransformerConfig.dtype", "TransformerConfig.scan_layers", "TransformerConfig.remat", "LossConfig.blocks"),
    "TransformerConfig.attention",
    *("FeedConfig.mixture_or_task_module", "FeedConfig.glue_dir", "FeedConfig.tokens_dir", "FeedConfig.prefetch"),
    *("TrainConfig.model_dir", "TrainConfig.train_steps", "TrainConfig.train_steps_relative"),
    *("TrainConfig.initial_checkpoint_path", "TrainConfig.reset_optimizer", "TrainConfig.reset_step"),
    *("TrainConfig.assignment_map", "TrainConfig.num_microbatches", "TrainConfig.eval_period"),
    *("TrainConfig.eval_steps", "TrainConfig.best_metric", "TrainConfig.patience", "TrainConfig.statistics_period"),
    *("TrainConfig.compilation_cache", "TrainConfig.closing_report", "TrainConfig.on_divergence"),
    *("TrainConfig.loss_spike", "TrainConfig.max_skips"),
    # Follows TRAIN_STEPS where nothing else is written.
    *("Linear.total_steps", "Cosine.total_steps"),
)
# With another value, the checkpoint's arrays or its ids would not fit.
_FIXED = ("TransformerConfig.", "RunConfig.optimizer", "FeedConfig.vocabulary", "FeedConfig.extra_ids")
_FIXED += ("TrainConfig.frozen", "TrainConfig.prng_impl")
_BUT_NOT_FIXED = ("TransformerConfig.dropout_rate",)
_ARCHITECTURE = "TransformerConfig.architecture"
_OF_VOCABULARY = ("FeedConfig.vocabulary", "FeedConfig.extra_ids")
# All others may be changed, if that is wanted. These decide what the stream of batches holds.
_STREAM = "FeedConfig."
# The settings by which a data position is known, and their names there (`Position.fingerprint`).
_IN_POSITION = {
    f"FeedConfig.{name}": name
    for name in ("batch_size", "task_feature_lengths", "pack", "loss_on_targets_only", "shuffle", "seed")
}
_SHOWN, _WIDTH = 4, 100


@dataclasses.dataclass(frozen=True)
class Change:
    """A setting that is another one now."""

    name: str
    saved: Any
    now: Any

    def __str__(self) -> str:
        return f"{shown_name(self.name)}: {_short(self.saved)} when it was saved, {_short(self.now)} now"


@dataclasses.dataclass(frozen=True)
class Changes:
    """What changed, by what it means.

    Attributes:
        free: makes no difference to what is learned.
        guarded: does, and the run can go on.
        fixed: can't be changed within a run.
    """

    free: tuple[Change, ...] = ()
    guarded: tuple[Change, ...] = ()
    fixed: tuple[Change, ...] = ()

    @property
    def of_stream(self) -> tuple[Change, ...]:
        """Those after which the batches are others."""
        return tuple(change for change in self.guarded if change.name.startswith(_STREAM) or "/" in change.name)


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Every setting of a run by name, as JSON knows values and without secrets; tasks each under its own name."""
    plain = {name: _plain(value) for name, value in config.settings.items() if name != "FeedConfig.tasks"}
    chosen = {f"RunConfig.{part}": type(getattr(config, part)).__name__ for part in ("optimizer", "schedule")}
    tasks = {f"{task.name}/{type(task).__name__}": _plain(task) for task in config.feed.tasks}
    return {**chosen, **plain, **tasks}


def compare(saved: Mapping[str, Any], now: Mapping[str, Any], *, same_vocabulary: bool | None = None) -> Changes:
    """What differs between two `settings_of`. A setting that one of them doesn't have is left out: another version
    added or dropped it, or it belongs to an optimiser or schedule that the other doesn't use.

    Args:
        same_vocabulary: whether the ids mean the same, wherever the vocabulary's file is; None: not known.
    """
    used = _used_tasks(saved) & _used_tasks(now)
    names = [name for name in now if name in saved and ("/" not in name or name.partition("/")[0] in used)]
    found: dict[str, list[Change]] = {"free": [], "guarded": [], "fixed": []}
    decoder_only = "encoder_decoder" not in (saved.get(_ARCHITECTURE), now.get(_ARCHITECTURE))
    for name in names:
        if saved[name] != now[name] and not (decoder_only and name == "TransformerConfig.num_encoder_layers"):
            kind = "free" if name in _OF_VOCABULARY and same_vocabulary else _kind(name)
            found[kind].append(Change(name, saved[name], now[name]))
    return Changes(*(tuple(found[kind]) for kind in ("free", "guarded", "fixed")))


def check(item: RunItem, run: Run, allowed: Sequence[str], folder: Path) -> Changes:
    """Compares a run with the checkpoint that it goes on from, and says what changed; `allowed` names what may.

    Raises:
        UserError: for a change that is not harmless and not allowed, with all of them; for a name that is no setting.
    """
    now = settings_of(run.config)
    names = {_setting(name, now) for name in allowed}
    saved = item.training.settings if item.training else None
    if not saved:  # of an earlier version: the model, the vocabulary, the arrays and the position are compared
        return Changes()
    same = item.vocabulary == run.vocabulary if item.vocabulary and run.vocabulary else None
    changes = compare(saved, now, same_vocabulary=same)
    refused = tuple(change for change in changes.guarded if shown_name(change.name) not in names)
    if refused or changes.fixed:
        raise UserError(_refusal(folder, refused, changes))
    for change in (*changes.free, *changes.guarded):
        if change.name != "TrainConfig.model_dir":
            say(f"changed: {change}")
    return changes


def place(changes: Changes, saved: Position, feed: SeqioFeed | TokenFeed) -> Position:
    """Where a feed goes on whose stream may have been changed on purpose; says what is read again or left out.

    The token feed goes on behind as many rows as were read, at the next whole batch. SeqIO's stream has no such place:
    it begins anew.

    Raises:
        UserError: where the stream differs in what nobody allowed.
    """
    of_stream = changes.of_stream
    if not of_stream:
        return saved
    start = feed.position()
    known = {_IN_POSITION.get(change.name) for change in of_stream}
    if None not in known:
        kept = {name: start.fingerprint[name] for name in known if name in start.fingerprint}
        dataclasses.replace(saved, fingerprint={**saved.fingerprint, **kept}).check(start.fingerprint)
    before, after = saved.fingerprint, start.fingerprint
    what = ", ".join(dict.fromkeys(shown_name(change.name) for change in of_stream))
    if before.get("data_feed") != "tokens" or after.get("data_feed") != "tokens":
        say(f"the data is read from its start, because {what} changed: what was read before comes again")
        return start
    rows = saved.batches_after_snapshot * before["batch_size"]
    batches = -(-rows // after["batch_size"])
    say(f"the data goes on behind row {batches * after['batch_size']:,}, with another {what}")
    return dataclasses.replace(start, batches_after_snapshot=batches)


def shown_name(setting: str) -> str:
    """A setting by its macro (`BATCH_SIZE`) where it has one, else by its field."""
    return _macros().get(setting, setting)


def _kind(name: str) -> str:
    if name in _BUT_NOT_FIXED:
        return "guarded"
    return "free" if name.startswith(_FREE) else "fixed" if name.startswith(_FIXED) else "guarded"


def _refusal(folder: Path, refused: tuple[Change, ...], changes: Changes) -> str:
    lines = [f"{folder} was trained with other settings:"]
    both = {shown_name(change.name): f"    {change}" for change in (*changes.fixed, *refused)}
    lines += list(both.values())[:_SHOWN]
    if len(both) > _SHOWN:
        lines.append(textwrap.shorten(f"and {', '.join(list(both)[_SHOWN:])}", _WIDTH, placeholder=" ..."))
        lines[-1] = f"    {lines[-1]}"
    lines.append(f"Go back to the saved values ({folder}/config.gin has them).")
    if changes.fixed:
        fixed = ", ".join(dict.fromkeys(shown_name(change.name) for change in changes.fixed))
        lines.append(
            f"{fixed} can't be changed within a run. A run of its own can start from its parameters, as far as they "
            f"fit: --gin.MODEL_DIR=runs/another_name --gin.INITIAL_CHECKPOINT_PATH={folder}"
        )
    else:
        allowed = ",".join(dict.fromkeys(shown_name(change.name) for change in changes.guarded))
        again = " (the data is then read from another place)" if Changes(guarded=refused).of_stream else ""
        lines.append(f"To go on with the new ones all the same{again}, add --allow_changes={allowed}")
    return "\n".join(lines)


def _setting(name: str, settings: Mapping[str, Any]) -> str:
    """The shown name of what a person wrote: a macro or a field."""
    shown = {shown_name(setting) for setting in settings}
    found = shown_name(name)
    if found not in shown:
        raise UserError(
            f"--allow_changes={name}: there is no such setting{config_checks.closest(name, shown)} Write the names "
            "that the refusal lists, as in --allow_changes=BATCH_SIZE,RunConfig.schedule"
        )
    return found


@functools.cache
def _macros() -> dict[str, str]:
    """`{'FeedConfig.batch_size': 'BATCH_SIZE', ...}`, as `gin/defaults.gin` binds them."""
    bindings = gin_files.read_file("defaults.gin", [str(resources.gin_root())])
    fed = (binding for binding in bindings if binding.owner and isinstance(binding.value, gin_files.Macro))
    return {binding.label: binding.value.name for binding in fed}


def _used_tasks(settings: Mapping[str, Any]) -> set[str]:
    """The tasks and mixtures of the configuration that are trained on."""
    defined = {name.partition("/")[0]: task for name, task in settings.items() if "/" in name}
    found: set[str] = set()
    wanted = [settings.get("FeedConfig.mixture_or_task_name")]
    while wanted:
        name = wanted.pop()
        if name in defined and name not in found:
            found.add(name)
            wanted += list(defined[name].get("tasks", ()))
    return found


def _plain(value: Any) -> Any:
    """A value as JSON gives it back, so that what was saved can be compared with what is."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact(value if isinstance(value, str) else getattr(value, "__qualname__", type(value).__name__))


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str | int | float | None) else json.dumps(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 4]} ..."
