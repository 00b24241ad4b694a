"""Checkpoints to read from, whoever wrote them: ours, Hugging Face's and T5X's under one set of names.

The names are those of our checkpoints on disk (`layout.py`): `params/encoder/layers_0/mlp/wo/kernel`,
`opt_state/encoder/layers_0/mlp/wo/kernel/v_row`. Arrays are read one at a time, so that no model has to fit in memory
twice.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from t5x_mini.checkpoint.locate import is_own
from t5x_mini.checkpoint.steps import FOLDER
from t5x_mini.errors import UserError
from t5x_mini.model.config import TransformerConfig
from t5x_mini.storage import to_path

Kind = Literal["t5x_mini", "hf", "t5x"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """What is known of a checkpoint besides its arrays.

    Attributes:
        path: where it is, as it was written down.
        kind: who wrote it.
        model: the model, as far as it says what the model is (not how it is computed).
        step: updates made so far; None where it doesn't say (Hugging Face's don't).
        vocabulary: a SentencePiece model's path or a name that `vocabularies.load` takes; None: not known.
        extra_ids: ids on top of it.
        vocabulary_id: what tells the vocabulary from others (`feeds.vocabulary_id`); None: not known.
        learning_rate: at `step`; None: not known. So too the next three.
        loss_normalizing_factor: what its loss was divided by (`LossConfig.normalizing_factor`).
        dropout_rate: that it was trained with.
        feature_lengths: tokens a row, by feature, that it was trained with.
        notes: what had to be assumed or was left out, a sentence each, for people.
    """

    path: str
    kind: Kind
    model: TransformerConfig
    step: int | None = None
    vocabulary: str | None = None
    extra_ids: int = 100
    vocabulary_id: str | None = None
    learning_rate: float | None = None
    loss_normalizing_factor: float | str | None = None
    dropout_rate: float | None = None
    feature_lengths: Mapping[str, int] | None = None
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """A checkpoint that is open for reading."""

    @property
    def origin(self) -> Origin:
        """What is known of it besides its arrays."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every array, by name."""

    def read(self, name: str) -> np.ndarray:
        """One array, float32 where it is of floats."""


@dataclasses.dataclass(frozen=True)
class Finite:
    """A checkpoint whose numbers are all numbers: a NaN among the parameters makes every loss and answer one."""

    source: Source

    @property
    def origin(self) -> Origin:
        return self.source.origin

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self.source.shapes

    def read(self, name: str) -> np.ndarray:
        """As of the source. Raises UserError where a value is NaN or infinite."""
        array = self.source.read(name)
        # The sum alone says so, without as many truth values; float32 doesn't overflow it.
        if not np.issubdtype(array.dtype, np.integer) and not np.isfinite(np.sum(array, dtype=np.float64)):
            wrong = int(np.sum(~np.isfinite(array)))
            raise UserError(
                f"The checkpoint {self.origin.path} can't be used: {wrong:,} of {array.size:,} values of {name} are "
                "NaN or infinite. Take an earlier checkpoint, or one from another place; or let a new run begin afresh "
                "with this array (ASSIGNMENT_MAP)."
            )
        return array


def open_source(path: str, kind: Kind | None = None) -> Source:
    """Opens a checkpoint of any kind: a run's folder or one of its checkpoints, a Hugging Face folder or hub name, a
    T5X checkpoint. Reading an array with NaN in it raises UserError (`Finite`).

    Args:
        path: where it is.
        kind: who wrote it; None: found out from what is there.

    Raises:
        UserError: where there is none, or it is of another kind.
    """
    return Finite(_open(path, kind or _kind_of(path)))


def _open(path: str, kind: Kind) -> Source:
    # Imported only where they are wanted: each reads with libraries of its own.
    if kind == "t5x_mini":
        from t5x_mini.checkpoint.own_source import OwnSource

        return OwnSource(path)
    if kind == "hf":
        from t5x_mini.checkpoint.huggingface.source import HuggingFaceSource

        return HuggingFaceSource(path)
    from t5x_mini.checkpoint.t5x_format import T5XSource

    return T5XSource(path)


def _kind_of(path: str) -> Kind:
    from t5x_mini.checkpoint import t5x_format

    folder = to_path(path).expanduser()
    if folder.is_file():
        raise UserError(
            f"{path} is a file, and a checkpoint is a folder: a run's (runs/quickstart) or one of its checkpoints, "
            "Hugging Face's with a config.json, or T5X's. Write the folder."
        )
    if is_own(folder):
        return "t5x_mini"
    if (folder / "config.json").exists():
        return "hf"
    if t5x_format.is_t5x(path):
        return "t5x"
    if _may_be_on_the_hub(path):
        return "hf"
    found = "and there is nothing of that name"
    if folder.exists():
        names = sorted(child.name for child in folder.iterdir())
        found = f"which holds {', '.join(names[:6])}{', ...' * (len(names) > 6)}" if names else "which is empty"
    raise UserError(
        f"There is no checkpoint in {path}, {found}. Looked for:\n"
        f"    a run's folder (runs/quickstart) or one of its checkpoints (runs/quickstart/{FOLDER}/1000)\n"
        "    a Hugging Face folder, which has a config.json, or a name on its hub (google/flan-t5-small)\n"
        "    a T5X checkpoint (checkpoint_1000000), or a folder of some"
    )


def _may_be_on_the_hub(path: str) -> bool:
    """Whether a path that nothing is found under looks like `google/flan-t5-small`, rather than a folder misspelt."""
    owner = path.partition("/")[0]
    return bool(re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path)) and not Path(owner).exists()
