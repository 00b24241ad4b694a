"""Refuses settings outside their range, in one form of words."""

from __future__ import annotations

from typing import Any

from t5x_mini.errors import UserError


def require(config: Any, field: str, is_valid: bool, wanted: str) -> None:
    """Raises UserError with the setting's name, its value and what to write instead, unless `is_valid`."""
    if not is_valid:
        raise UserError(f"{type(config).__name__}.{field} is {getattr(config, field)!r}: write {wanted}.")
