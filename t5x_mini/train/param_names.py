"""Parameters chosen by name: regexes that name parameters as a checkpoint does, `encoder/layers_0/mlp/wo/kernel`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from t5x_mini.errors import UserError
from t5x_mini.model.transformer import is_stacked


def of_layers(name: str, array: Any) -> tuple[str, ...]:
    """The names on disk of an array in memory: one a layer where it stacks the layers of a stack, else its own."""
    if not is_stacked(name):
        return (name,)
    return tuple(name.replace("/layers/", f"/layers_{i}/", 1) for i in range(array.shape[0]))


def pattern(option: str, regex: str) -> re.Pattern:
    """The regex, compiled. Raises UserError, naming `option`, where it isn't one."""
    try:
        return re.compile(regex)
    except re.error as error:
        raise UserError(f"{option} has {regex!r}, which is not a regular expression: {error}.") from None


def near(text: str, names: Iterable[str]) -> str:
    """The closest of the names to a name or regex, to be shown in an error."""
    names = sorted(names)
    closest = difflib.get_close_matches(text.replace("\\", ""), names, n=3, cutoff=0.4) or names[:3]
    return ", ".join(closest)


def frozen(params: Mapping[str, Any], patterns: Sequence[str]) -> frozenset[str]:
    """The parameters that are not trained: those that a regex of FROZEN matches as a whole.

    A regex may name a stacked parameter as `model-info.txt` does (`encoder/layers/mlp/wo/kernel`), or all of its
    layers (`encoder/layers_\\d+/mlp/wo/kernel`). The layers of a stack are one array, which is frozen as a whole.

    Args:
        params: arrays or their shapes, by name in memory.
        patterns: `TrainConfig.frozen`.

    Raises:
        UserError: for a regex that matches nothing, or some layers of a stack only; where nothing is left to train.
    """
    chosen: set[str] = set()
    for regex in patterns:
        matched = _matched(regex, params)
        if not matched:
            raise UserError(
                f"FROZEN has {regex!r}, which matches no parameter. A regex has to match the whole name. Close to it: "
                f"{near(regex, _all_names(params))}. model-info.txt in a run's folder lists them all."
            )
        chosen |= matched
    if params and chosen == params.keys():
        raise UserError("FROZEN matches every parameter, and leaves nothing to train.")
    return frozenset(chosen)


def _matched(regex: str, params: Mapping[str, Any]) -> set[str]:
    matches = pattern("FROZEN", regex).fullmatch
    found = set()
    for name, array in params.items():
        layers = of_layers(name, array)
        hit = [layer for layer in layers if matches(layer)]
        if matches(name) or len(hit) == len(layers):
            found.add(name)
        elif hit:
            left = next(layer for layer in layers if layer not in hit)
            raise UserError(
                f"FROZEN has {regex!r}, which matches {hit[0]} and not {left}. The layers of a stack are one array and "
                f"can only be frozen together: write {name!r}."
            )
    return found


def _all_names(params: Mapping[str, Any]) -> set[str]:
    return {*params, *(layer for name, array in params.items() for layer in of_layers(name, array))}
