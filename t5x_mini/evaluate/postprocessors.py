"""From a text that a model wrote, or a target's, to what a task's metrics take; by name.

A postprocessor is called as `(text, row, is_target, definition)`: `row` is the source's, `definition` the task's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from t5x_mini import config_checks
from t5x_mini.errors import UserError
from t5x_mini.evaluate import metrics
from t5x_mini.tasks.definitions import Row, TextToTextTask
from t5x_mini.tasks.squad import pad_punctuation

Postprocessor = Callable[[str, Row, bool, TextToTextTask], Any]


def by_name(name: str | None) -> Postprocessor:
    """The postprocessor of that name: a key of `POSTPROCESSORS`, or None for the text as it is.

    Raises:
      UserError: there is none.
    """
    if name is None:
        return as_it_is
    if name not in POSTPROCESSORS:
        hint = config_checks.closest(name, POSTPROCESSORS)
        raise UserError(f"There is no postprocessor {name!r}{hint} There are {', '.join(POSTPROCESSORS)}.")
    return POSTPROCESSORS[name]


def check_scoring(definition: TextToTextTask) -> None:
    """Raises UserError if the task names a postprocessor or a metric that doesn't exist, or lacks labels it needs."""
    if by_name(definition.postprocessor) is label:
        _check_labels(definition)
    for name in definition.metrics:
        metrics.by_name(name)


def as_it_is(text: str, row: Row, is_target: bool, definition: TextToTextTask) -> str:
    """The text."""
    return text


def lower(text: str, row: Row, is_target: bool, definition: TextToTextTask) -> str:
    """The text in lower case."""
    return text.lower()


def label(text: str, row: Row, is_target: bool, definition: TextToTextTask) -> int:
    """Index of the text in the task's `labels`; -1, an invalid answer, if it isn't exactly one of them.

    Raises:
      UserError: the task has no labels.
    """
    _check_labels(definition)
    return definition.labels.index(text) if text in definition.labels else -1


def _check_labels(definition: TextToTextTask) -> None:
    if not definition.labels:
        raise UserError(
            f"{definition.name}: the postprocessor 'label' needs the words of the classes. Write "
            f"{definition.name}/TextToTextTask.labels = ('no', 'yes')"
        )


def number(text: str, row: Row, is_target: bool, definition: TextToTextTask) -> float:
    """The text as a number; -1.0, an invalid answer, if it isn't one."""
    try:
        return float(text)
    except ValueError:
        return -1.0


def qa(text: str, row: Row, is_target: bool, definition: TextToTextTask) -> str | list[str]:
    """For a target all answers in the row's field `answers`, for a prediction the text.

    SQuAD's form, `{'text': [...]}`, is padded with spaces as its targets are; a list, or one text, is taken as it is.

    Raises:
      UserError: the row has no `answers`.
    """
    if not is_target:
        return text
    answers = row.get("answers")
    if isinstance(answers, Mapping) and "text" in answers:
        return [pad_punctuation(answer) for answer in answers["text"]]
    if answers is None or isinstance(answers, Mapping):
        raise UserError(
            f"{definition.name}: the postprocessor 'qa' needs a field 'answers' with a list of texts; a row has "
            f"{', '.join(map(repr, row))}."
        )
    return [answers] if isinstance(answers, str) else list(answers)


POSTPROCESSORS: dict[str, Postprocessor] = {"label": label, "float": number, "lower": lower, "qa": qa}
"""By the names that `TextToTextTask.postprocessor` takes."""
