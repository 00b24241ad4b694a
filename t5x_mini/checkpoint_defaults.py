"""The model of a checkpoint as bindings, for configurations that start from one and say nothing of the model."""

from __future__ import annotations

from t5x_mini.checkpoint.locate import locate
from t5x_mini.checkpoint.run_item import identity
from t5x_mini.checkpoint.source import open_source
from t5x_mini.feed.config import T5_LENGTHS
from t5x_mini.gin_files import Binding

BATCH_SIZE = 32


def bindings(path: str, training: bool) -> list[Binding]:
    """What a checkpoint says of its model: sizes, ARCHITECTURE, VOCABULARY and EXTRA_IDS.

    For a command that does not train, also the lengths of training, where known, a BATCH_SIZE, and MODEL_DIR where it
    is a run's.

    Raises:
        UserError: there is no such checkpoint.
    """
    origin = open_source(path).origin
    macros: dict[str, object] = {"ARCHITECTURE": origin.model.architecture}
    if origin.vocabulary is not None:
        macros |= {"VOCABULARY": origin.vocabulary, "EXTRA_IDS": origin.extra_ids}
    if not training:
        macros |= {"TASK_FEATURE_LENGTHS": dict(origin.feature_lengths or T5_LENGTHS), "BATCH_SIZE": BATCH_SIZE}
        if origin.kind == "t5x_mini":
            macros["MODEL_DIR"] = locate(path)[0]
    where = f"the checkpoint {origin.path}"
    fields = [
        Binding("", "TransformerConfig", name, value, where, "")
        for name, value in identity(origin.model).items()
        if name != "architecture"  # it has a macro
    ]
    return [*(Binding("", "", name, value, where, "") for name, value in macros.items()), *fields]
