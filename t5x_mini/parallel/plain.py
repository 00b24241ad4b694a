"""Values of plain Python and numpy as bytes, and back: what hosts tell one another. Reading them runs no code."""

from __future__ import annotations

import base64
import json
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
_KINDS = "biuf"  # of numpy: truth values, integers and floats
_classes: dict[str, type] = {}


def told(cls: type[T]) -> type[T]:
    """A decorator for dataclasses of plain fields: hosts tell one another such ones too."""
    _classes[cls.__name__] = cls
    return cls


def to_bytes(value: Any) -> bytes:
    """The value as JSON.

    Args:
        value: None, a truth value, a number, text, bytes, an array or a scalar of numpy's; lists, tuples, dicts and
            `told` dataclasses of such.

    Raises:
        TypeError: it is, or holds, something else.
    """
    return json.dumps(_described(value)).encode()


def from_bytes(data: bytes) -> Any:
    """The inverse of `to_bytes`."""
    return _value(json.loads(data))


def _described(value: Any) -> Any:
    """Numbers and text as they are; all else as a list that begins with what it is."""
    if value is None or isinstance(value, str) or type(value) in (bool, int, float):
        return value
    if isinstance(value, bytes):
        return ["bytes", base64.b64encode(value).decode()]
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _KINDS:
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return ["array" if isinstance(value, np.ndarray) else "scalar", value.dtype.str, list(value.shape), data]
    if type(value) in (list, tuple):
        return [type(value).__name__, *map(_described, value)]
    if isinstance(value, dict):
        return ["dict", *([_described(key), _described(item)] for key, item in value.items())]
    if _classes.get(type(value).__name__) is type(value):
        return ["made", type(value).__name__, _described(vars(value))]
    raise TypeError(f"{type(value).__name__} is not told to other hosts")


def _value(described: Any) -> Any:
    if not isinstance(described, list):
        return described
    match described:
        case ["bytes", data]:
            return base64.b64decode(data)
        case ["array" | "scalar" as kind, dtype, shape, data]:
            array = np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape).copy()
            return array if kind == "array" else array[()]
        case ["list", *items]:
            return list(map(_value, items))
        case ["tuple", *items]:
            return tuple(map(_value, items))
        case ["dict", *items]:
            return {_value(key): _value(item) for key, item in items}
        case ["made", name, fields] if name in _classes:
            return _classes[name](**_value(fields))
    raise ValueError(f"no value is described by {described[:1]}")
