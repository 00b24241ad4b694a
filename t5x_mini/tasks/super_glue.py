"""Five tasks of the SuperGLUE benchmark as text, under T5's names: BoolQ, CB, COPA, RTE and WiC.

T5's `super_glue_v102_proportional` also holds MultiRC, ReCoRD and WSC, so it is not defined here.
"""

from __future__ import annotations

import functools

from t5x_mini.tasks.definitions import Row, TextToTextTask
from t5x_mini.tasks.glue import label_word, write_inputs

# Features in the order in which T5 writes them: alphabetic, but for WiC.
_FEATURES = {
    "boolq": ("passage", "question"),
    "cb": ("hypothesis", "premise"),
    "copa": ("choice1", "choice2", "premise", "question"),
    "rte": ("hypothesis", "premise"),
    "wic": ("sentence1", "sentence2", "word"),
}
_LABELS = {
    "boolq": ("False", "True"),
    "cb": ("entailment", "contradiction", "neutral"),
    "copa": ("choice1", "choice2"),
    "rte": ("entailment", "not_entailment"),
    "wic": ("False", "True"),
}
_METRICS = {"cb": ("mean_3class_f1", "accuracy")}

# RTE has none: 'rte' is GLUE's.
ALIASES = {name: f"super_glue_{name}_v102" for name in _FEATURES if name != "rte"}
"""Short names, and what T5 calls them."""


# One object for one task, so that definitions that say the same are equal.
_partial = functools.cache(functools.partial)


def definitions() -> list[TextToTextTask]:
    """The tasks, read from TensorFlow Datasets."""
    return [
        TextToTextTask(
            name=f"super_glue_{name}_v102",
            tfds=f"super_glue/{name}:1.0.2",
            labels=labels,
            metrics=_METRICS.get(name, ("accuracy",)),
            postprocessor="label",
            write=_partial(write, name),
        )
        for name, labels in _LABELS.items()
    ]


def write(name: str, row: Row) -> dict[str, str]:
    """T5's texts for a row of TensorFlow Datasets' form. WiC's word positions are not written, as in T5.

    Raises:
      UserError: a text or the label is missing, or there is no such label.
    """
    full_name = f"super_glue_{name}_v102"
    return {
        "inputs": write_inputs(name, _FEATURES[name], row, full_name),
        "targets": label_word(row["label"], _LABELS[name], full_name),
    }
