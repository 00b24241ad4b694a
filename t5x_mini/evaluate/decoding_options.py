"""How to decode, from options that a person gave: those left out are what the method wants."""

from __future__ import annotations

import typing
from typing import Any

from t5x_mini import config_checks
from t5x_mini.errors import UserError
from t5x_mini.model.config import DecodingConfig

BEAMS = 4  # T5's, for all tasks with long answers (Raffel et al. 2020, section 3.1.2)


def make(**options: Any) -> tuple[DecodingConfig, bool]:
    """The options as a `DecodingConfig`, and whether several answers were asked for.

    Args:
        options: fields of `DecodingConfig`; None: not given. `beam` without `num_decodes` searches with 4, for one
            answer.

    Raises:
        UserError: for a method that doesn't exist, a value that can't be, an option of another method.
    """
    given = {name: value for name, value in options.items() if value is not None}
    hints = typing.get_type_hints(DecodingConfig)
    for name, value in given.items():
        if name != "method" and not config_checks.fits(value, hints[name]):
            raise UserError(f"{name} is {value!r}: write {config_checks.describe(hints[name])}.")
    if given.get("method") == "beam":
        given.setdefault("num_decodes", BEAMS)
    return DecodingConfig(**given), options.get("num_decodes") is not None
