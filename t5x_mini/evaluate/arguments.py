"""What people give to a `Predictor`, checked: each mistake is a UserError that names its place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from t5x_mini import config_checks
from t5x_mini.errors import UserError
from t5x_mini.evaluate import sentinels


def as_list(texts: str | Iterable[str], name: str) -> list[str]:
    """One text or several, as a list."""
    if not isinstance(texts, str | Iterable) or isinstance(texts, bytes):
        raise UserError(
            f"{name} is {texts!r:.60}, of type {type(texts).__name__}: write a string or a list of strings."
        )
    texts = [texts] if isinstance(texts, str) else list(texts)
    for place, text in enumerate(texts):
        sentinels.check_text(text, f"{name}[{place}]")
    return texts


def check_temperature(temperature: Sequence[float] | None) -> None:
    """Of each row; None: not given."""
    for row, value in enumerate([] if temperature is None else temperature):
        if not isinstance(value, int | float | np.number) or not 0 <= value < np.inf:
            raise UserError(f"temperature[{row}] is {value!r}: write a number that is 0 or more, and not infinite.")


def each(values: Any, texts: Sequence[str], name: str) -> list[Any]:
    """A value for each text: the one there is, or as many as there are texts."""
    values = [values] * len(texts) if isinstance(values, str) or np.ndim(values) == 0 else list(values)
    if len(values) != len(texts):
        raise UserError(f"There are {len(values)} {name} for {len(texts)} texts. Give one for each.")
    return values


def check_batch_size(batch_size: int) -> None:
    if not config_checks.fits(batch_size, int) or batch_size < 1:
        raise UserError(f"batch_size is {batch_size!r}: write a whole number above 0.")
