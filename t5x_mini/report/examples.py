"""Example answers as HTML: spans in colour inside their text, or an answer beside its target.

Spans are read from what the files have, texts with `<extra_id_0>`, `<extra_id_1>`, ...: no vocabulary is needed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from t5x_mini.report.html import Html, element, join, run_colour, run_dot
from t5x_mini.report.run_data import RunData

SHOWN, COLOURS = 6, 6
_SENTINEL = re.compile(r"<extra_id_(\d+)>")
# Where a model goes on behind its last span, or writes something else altogether.
_LONGEST = 1200


def spans(text: str) -> dict[int, str]:
    """`{0: 'for inviting', 1: 'last'}` of '<extra_id_0> for inviting <extra_id_1> last'; the first of two equal ones
    counts."""
    _, *parts = _SENTINEL.split(text)
    found: dict[int, str] = {}
    for number, span in zip(parts[::2], parts[1::2], strict=True):
        found.setdefault(int(number), span.strip())
    return found


def fill(inputs: str, written: Mapping[int, str], wanted: Mapping[int, str] | None = None) -> Html:
    """The inputs with `written` in place of their sentinels, each span in its colour.

    Args:
        wanted: the right spans; what is another is marked as wrong. None: nothing is judged.
    """
    children: list[str] = []
    for place, part in enumerate(_SENTINEL.split(inputs)):
        if place % 2 == 0:
            children.append(part)
        else:
            children.append(_span(int(part), written.get(int(part)), wanted))
    return join(*children)


def _span(number: int, text: str | None, wanted: Mapping[int, str] | None) -> Html:
    colour = f"span s{number % COLOURS}"
    if text is None:
        return element("mark", f"<extra_id_{number}>", class_=f"{colour} wrong", title="the answer has no such span")
    if wanted is None:
        return element("mark", text or "∅", class_=colour)
    right = wanted.get(number)
    if right is None:  # the target was cut before it
        return element("mark", text or "∅", class_=colour, title="the target has no such span")
    if text == right:
        return element("mark", text or "∅", class_=f"{colour} right", title="right")
    return element("mark", text or "∅", class_=f"{colour} wrong", title=f"wrong; the target: {right or 'nothing'}")


def sections(runs: Sequence[RunData]) -> list[Html]:
    """For each task its examples, with what every run answered to them."""
    tasks = sorted({task for run in runs for task in run.predictions})
    return [_task(task, runs) for task in tasks]


def _task(task: str, runs: Sequence[RunData]) -> Html:
    answered = [(index, run, run.predictions[task]) for index, run in enumerate(runs) if task in run.predictions]
    said = [
        f"{run.name}: {found.count:,} answers at step {found.step:,}{f', {found.split}' if found.split else ''}"
        for _, run, found in answered
    ]
    examples: dict[tuple[str, str], list[tuple[int, RunData, Mapping[str, Any]]]] = {}
    for index, run, found in answered:
        for row in found.rows:
            examples.setdefault((_text(row.get("inputs")), _text(row.get("targets"))), []).append((index, run, row))
    # First those that most runs have answered.
    ordered = sorted(examples.items(), key=lambda pair: -len(pair[1]))
    cards = [_example(inputs, targets, rows, len(runs) > 1) for (inputs, targets), rows in ordered]
    children = [element("h3", task), element("p", "; ".join(said), class_="note")]
    if any(_SENTINEL.search(inputs) for inputs, _ in examples):
        children.append(_key())
    children.append(element("div", *cards[:SHOWN], class_="examples"))
    if cards[SHOWN:]:
        more = element("summary", f"{len(cards) - SHOWN} more examples")
        children.append(element("details", more, element("div", *cards[SHOWN:], class_="examples")))
    return element("section", *children, class_="task")


def _key() -> Html:
    return element(
        "p",
        "Masked spans are filled into their text: ",
        element("mark", "as in the target", class_="span s0 right"),
        " ",
        element("mark", "another than the target", class_="span s1 wrong"),
        ".",
        class_="note",
    )


def _example(inputs: str, targets: str, rows: Sequence[tuple[int, RunData, Mapping[str, Any]]], several: bool) -> Html:
    masked = bool(_SENTINEL.search(inputs)) and bool(_SENTINEL.search(targets) or not targets)
    wanted = spans(targets) if masked and targets else None
    lines: list[Html] = []
    if masked and wanted is not None:
        lines.append(_line("target", fill(inputs, wanted)))
    else:
        lines.append(_line("inputs", join(_cut(inputs) or "(none)")))
        if targets:
            lines.append(_line("target", join(_cut(targets))))
    for index, run, row in rows:
        prediction = _first(row.get("prediction"))
        label = run.name if several else "prediction"
        if masked:
            lines.append(_line(label, fill(inputs, spans(prediction), wanted), run=index if several else None))
        else:
            correct = is_correct(row)
            lines.append(_line(label, _verdict(prediction, correct), run=index if several else None))
        lines += _score_bars(row.get("scores"), targets, run_colour(index))
    return element("article", *lines, class_="example")


def is_correct(row: Mapping[str, Any]) -> bool | None:
    """What the row says, or whether the answer is the target, word for word; None where there is no target."""
    if isinstance(row.get("correct"), bool):
        return row["correct"]
    return _first(row.get("prediction")).split() == _text(row["targets"]).split() if "targets" in row else None


def _verdict(prediction: str, correct: bool | None) -> Html:
    text = _cut(prediction) or "(nothing)"
    if correct is None:
        return join(text)
    mark = element("span", "✓ right" if correct else "✗ wrong", class_="verdict")
    return element("span", text, " ", mark, class_="answer right" if correct else "answer wrong")


def _line(label: str, content: Html, run: int | None = None) -> Html:
    dot = None if run is None else run_dot(run)
    return element(
        "div", element("div", dot, label, class_="who"), element("div", content, class_="text"), class_="line"
    )


def _score_bars(scores: object, targets: str, colour: str) -> Iterator[Html]:
    """Each label's share of the probability that the labels have together."""
    if not isinstance(scores, Mapping) or not scores:
        return
    known = {str(label): float(value) for label, value in scores.items() if isinstance(value, int | float)}
    finite = [value for value in known.values() if math.isfinite(value)]
    if not finite:
        return
    weights = {label: math.exp(value - max(finite)) if math.isfinite(value) else 0.0 for label, value in known.items()}
    bars = []
    for label, weight in sorted(weights.items(), key=lambda pair: -pair[1]):
        share = weight / math.fsum(weights.values())
        bars += [
            element("dt", label, " (target)" if label == targets else None),
            element(
                "dd",
                element("span", element("span", class_=f"fill {colour}", style=f"width:{share:.1%}"), class_="bar"),
                element("span", f"{share:.0%}", class_="share", title=f"log-probability {known[label]:.3f}"),
            ),
        ]
    yield _line("labels", element("dl", *bars, class_="scores"))


def _first(prediction: object) -> str:
    """The best of several answers."""
    return _text(prediction[0] if isinstance(prediction, list) and prediction else prediction)


def _text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text) - _LONGEST:,} more characters)"
