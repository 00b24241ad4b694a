"""Writes a row of a supervised task as two texts: what the model reads, and what it should write."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping

from t5x_mini.errors import UserError
from t5x_mini.tasks.definitions import Row, TextToTextTask


def write_row(definition: TextToTextTask, row: Row) -> dict[str, str] | None:
    """`{'inputs': str, 'targets': str}` of a row, by the definition's templates or its `write` function.

    None where the row is to be left out: `write` said so, or a field of the templates is null.

    Raises:
      UserError: a template names a field that the row hasn't got, or isn't a template; or `write` refused the row.
    """
    if definition.write is not None:
        texts = definition.write(row)
        return None if texts is None else {feature: _checked(texts, feature, definition.name) for feature in _FEATURES}
    texts = {feature: _fill(getattr(definition, feature), row, f"{definition.name}.{feature}") for feature in _FEATURES}
    return None if None in texts.values() else texts


_FEATURES = ("inputs", "targets")


def _fill(template: str, row: Row, where: str) -> str | None:
    values = _Fields(row)
    try:
        text = _FORMATTER.vformat(template, (), values)
    except (KeyError, IndexError) as error:
        wanted = "an empty field" if isinstance(error, IndexError) else f"the field {error.args[0]!r}"
        raise UserError(
            f"The template {where} = {template!r} uses {wanted}, which the rows don't have. A row has "
            f"{', '.join(map(repr, row))}: write one of these in braces, and {{{{ or }}}} for a brace itself."
        ) from None
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{where} = {template!r} isn't a template: {error}. Write a field's name in braces, as in "
            "'translate English to German: {en}', and {{ or }} for a brace itself."
        ) from None
    return None if values.null else text


class _Fields(Mapping):
    """A row that remembers whether a null was asked for: format() would write it out as 'None'."""

    def __init__(self, row: Row):
        self._row = row
        self.null = False

    def __getitem__(self, name):
        value = self._row[name]
        self.null |= value is None
        return _decoded(name, value) if isinstance(value, bytes) else value

    def __iter__(self):
        return iter(self._row)

    def __len__(self):
        return len(self._row)


class _Formatter(string.Formatter):
    """Fills in fields, and fields in fields, `{translation[en]}`: nothing that Python's objects have besides."""

    def get_field(self, field_name, args, kwargs):
        parts = re.fullmatch(r"([^.\[\]]*)((?:\[[^\]]*\])*)", field_name)
        if not parts:
            raise ValueError(f"{{{field_name}}} asks for more than a field")
        first = parts[1]
        value = self.get_value(int(first) if first.isdecimal() else first, args, kwargs)
        for key in re.findall(r"\[([^\]]*)\]", parts[2]):
            if not isinstance(value, Mapping | list):
                raise ValueError(f"{{{field_name}}} asks for more than a field")
            value = value[int(key) if isinstance(value, list) else key]
        return value, first

    def format_field(self, value, format_spec):
        if re.search(r"\d{5}", format_spec):
            raise ValueError(f"{format_spec!r} is wider than any example")
        return super().format_field(value, format_spec)


_FORMATTER = _Formatter()


def _decoded(name: str, value: bytes) -> str:
    """Text that Parquet holds as bytes: format() would write it out as `b'...'`."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"The field {name!r} is not text: {value[:50]!r} is not UTF-8. Use another field.") from error


def _checked(texts: Mapping[str, str], feature: str, name: str) -> str:
    text = texts.get(feature)
    if not isinstance(text, str):
        raise UserError(
            f"The `write` function of {name!r} returned {texts!r}; it has to return {{'inputs': str, 'targets': str}}."
        )
    return text
