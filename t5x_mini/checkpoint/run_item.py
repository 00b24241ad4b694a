"""The `run` item of a checkpoint: JSON that says what the arrays are, and what they were trained with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_mini import config_checks
from t5x_mini.errors import UserError
from t5x_mini.model.config import TransformerConfig

FORMAT = 1
# What may differ between the run that saved and the run that restores: how the model is computed, not what it is.
_FREE = ("attention", "dropout_rate", "dtype", "scan_layers", "remat")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What a run that goes on from a checkpoint is compared with; None: not known.

    Attributes:
        learning_rate: of the next step.
        loss_normalizing_factor: `LossConfig.normalizing_factor`, with 1 for the plain sum.
        dropout_rate: `TransformerConfig.dropout_rate`.
        feature_lengths: `FeedConfig.task_feature_lengths`.
        settings: every setting of the run by name (`drift.settings_of`).
    """

    learning_rate: float | None = None
    loss_normalizing_factor: float | str | None = None
    dropout_rate: float | None = None
    feature_lengths: Mapping[str, int] | None = None
    settings: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunItem:
    """What a checkpoint is, besides its arrays.

    Attributes:
        model: the model.
        vocabulary: what tells its vocabulary from others (`feeds.vocabulary_id`); None: not known.
        vocabulary_source: name or path and extra ids to read it again with (`feeds.vocabulary_source`); a relative path
            may be one in the run's folder. None: not known.
        training: None in checkpoints that say nothing of it.
        step_known: False for an import of a checkpoint that doesn't say its step; its folder's name is then 0.
    """

    model: TransformerConfig
    vocabulary: str | None = None
    vocabulary_source: tuple[str, int] | None = None
    training: Training | None = None
    step_known: bool = True

    def to_json(self) -> dict[str, Any]:
        source = self.vocabulary_source
        return {
            "format": FORMAT,
            "model": dataclasses.asdict(self.model),
            "vocabulary": self.vocabulary,
            "vocabulary_source": source and {"vocabulary": source[0], "extra_ids": source[1]},
            "training": self.training and dataclasses.asdict(self.training),
            "step_known": self.step_known,
        }

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> RunItem:
        """Settings that the checkpoint is too old to know have their defaults; what it knows besides is left out."""
        model = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in _known(item["model"], TransformerConfig).items()
        }
        config_checks.check_fields(TransformerConfig, model, "what the checkpoint says of its model")
        source, training = item.get("vocabulary_source"), item.get("training")
        return cls(
            model=TransformerConfig(**model),
            vocabulary=item.get("vocabulary"),
            vocabulary_source=source and (source["vocabulary"], source["extra_ids"]),
            training=training and Training(**_known(training, Training)),
            step_known=item.get("step_known", True),
        )


def _known(values: Mapping[str, Any], of: type) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(of)}
    return {name: value for name, value in values.items() if name in fields}


def identity(model: TransformerConfig) -> dict[str, Any]:
    """The settings that say which model it is, without how it is computed: `{'emb_dim': 512, ...}`."""
    free = _FREE if model.has_encoder else (*_FREE, "num_encoder_layers")
    return {name: value for name, value in dataclasses.asdict(model).items() if name not in free}


def model_differences(saved: TransformerConfig, now: TransformerConfig) -> dict[str, tuple[Any, Any]]:
    """Settings in which the models are not the same model: `{'emb_dim': (16, 32)}`."""
    both = {name: (getattr(saved, name), getattr(now, name)) for name in identity(saved) | identity(now)}
    return {name: (one, other) for name, (one, other) in both.items() if one != other}


def array_differences(missing: Sequence[str], extra: Sequence[str], reshaped: Sequence[str]) -> str:
    """Three lines of an error: how many arrays a checkpoint lacks, has besides, and has in another shape."""

    def line(arrays: Sequence[str], what: str) -> str:
        return f"    {len(arrays)} arrays {what}" + (f", {arrays[0]} for one" if arrays else "")

    lines = (line(missing, "are not in it"), line(extra, "are not wanted"), line(reshaped, "have another shape"))
    return "\n".join(lines)


def check_vocabulary(path: str, trained_on: str | None, now: str | None) -> None:
    """Raises UserError where both are known, and not the same."""
    if trained_on and now and trained_on != now:
        raise UserError(
            f"The checkpoint {path} was trained on another vocabulary: {trained_on} when it was saved, {now} now. Its "
            "ids would mean other words. Set VOCABULARY and EXTRA_IDS as in the config.gin of the run that made it."
        )
