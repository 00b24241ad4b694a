"""Tokens on a terminal: pieces with their ids, masked spans in colour, and the positions that carry loss marked."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Mapping, Sequence

import numpy as np

from t5x_mini.tasks.vocabularies import EOS_ID, PAD_ID
from t5x_mini.terminal import Style

# A run of alike tokens longer than both ends together shows its ends.
_ENDS = 12


def sentinels(vocabulary) -> range:
    """Ids that stand for masked spans."""
    return range(vocabulary.vocab_size - vocabulary.extra_ids, vocabulary.vocab_size)


def piece(vocabulary, token: int) -> str:
    """A token as people write it: `▁the`, `<extra_id_0>`, `</s>`. Asks nothing of the vocabulary but `decode`."""
    if token in sentinels(vocabulary):
        return f"<extra_id_{vocabulary.vocab_size - 1 - token}>"
    if token in (PAD_ID, EOS_ID):
        return "</s>" if token else "<pad>"
    if not isinstance(vocabulary.decode([token]), str):  # a vocabulary of mere numbers decodes to numbers
        return f"<{token}>"
    # Between two others, because the space before the first piece of a text is lost.
    other = vocabulary.encode("a")
    around = [vocabulary.decode(ids) for ids in (other, [*other, *other], [*other, token, *other])]
    after = len(around[1]) - len(around[0])
    return around[2][len(around[0]) : len(around[2]) - after].replace(" ", "▁") or f"<{token}>"


def spans(features: Mapping[str, np.ndarray], vocabulary) -> list[tuple[np.ndarray, bool]] | None:
    """The text before the objective masked it, in runs: (tokens, whether they were masked), without EOS.

    Sentinels of the inputs are replaced by what follows them in the targets. Where the targets are the whole text, what
    carries loss was masked, or if all of them do, what the inputs have a sentinel for. None: nothing was masked in a
    way that can be shown so.
    """
    inputs, targets = (_without_eos(features.get(name, np.zeros(0, np.int32))) for name in ("inputs", "targets"))
    weights = features.get("loss_weights", np.ones(len(targets)))[: len(targets)]
    if not np.all(weights):
        return _runs(targets, weights != 0)
    marks = sentinels(vocabulary)
    is_sentinel = np.isin(inputs, marks)
    if not is_sentinel.any():
        return None
    if len(inputs) == len(targets) and not np.isin(targets, marks).any():
        return _runs(targets, is_sentinel)
    hidden: dict[int, list[int]] = {}
    for token in targets.tolist():
        if token in marks:
            hidden[token] = []
        elif hidden:
            hidden[next(reversed(hidden))].append(token)
    found: list[tuple[np.ndarray, bool]] = []
    for tokens, masked in _runs(inputs, np.isin(inputs, list(hidden))):
        found += (
            [(np.array(hidden[token], np.int32), True) for token in tokens.tolist()] if masked else [(tokens, False)]
        )
    return found


def _runs(tokens: np.ndarray, masked: np.ndarray) -> list[tuple[np.ndarray, bool]]:
    cuts = np.flatnonzero(np.diff(masked)) + 1
    return [(run, bool(mask[0])) for run, mask in zip(np.split(tokens, cuts), np.split(masked, cuts), strict=True)]


def _without_eos(tokens: np.ndarray) -> np.ndarray:
    return tokens[:-1] if len(tokens) and tokens[-1] == EOS_ID else tokens


def masked_text(runs: Sequence[tuple[np.ndarray, bool]], vocabulary, style: Style) -> str:
    """Runs of tokens as one text, the masked ones marked."""
    parts, number = [], 0
    for tokens, masked in runs:
        text = "".join(piece(vocabulary, int(token)) for token in tokens).replace("▁", " ")
        if masked:
            bare = text.lstrip(" ")
            text, number = text[: len(text) - len(bare)] + style.span(bare, number), number + 1
        parts.append(text)
    return "".join(parts).strip()


def token_words(
    tokens: np.ndarray,
    vocabulary,
    style: Style,
    loss: np.ndarray | None = None,
    nats: np.ndarray | None = None,
) -> list[str]:
    """One word a token, `▁the(12)`, with a mark on those that carry loss and the spans' sentinels in colour.

    Of long runs that are alike (with loss, without, padding) the middle is left out. Where `nats` says what each token
    costs, all that carry loss are there, with what they cost in place of the mark.
    """
    carries = np.zeros(len(tokens), bool) if loss is None else np.asarray(loss) != 0
    padding = np.arange(len(tokens)) > np.max(np.flatnonzero(tokens), initial=-1)
    words = []
    for (empty, marked), run in itertools.groupby(range(len(tokens)), key=lambda i: (padding[i], carries[i])):
        positions = list(run)
        if empty:
            words.append(style.aside(f"({len(positions)} × padding)"))
            continue
        if marked and nats is not None:
            words += [style.cost(f"{piece(vocabulary, int(tokens[i]))}({tokens[i]})", nats[i]) for i in positions]
            continue
        shown = [_word(int(tokens[i]), vocabulary, style, bool(marked)) for i in positions]
        if len(shown) > 2 * _ENDS + 1:
            middle = style.aside(f"… {len(shown) - 2 * _ENDS} more …")
            shown = [*shown[:_ENDS], middle, *shown[-_ENDS:]]
        words += shown
    return words


def _word(token: int, vocabulary, style: Style, marked: bool) -> str:
    word = f"{piece(vocabulary, token)}({token})"
    if style.colour and token in sentinels(vocabulary):
        word = style.span(word, vocabulary.vocab_size - 1 - token)
    return style.loss(word) if marked else word


def in_context(tokens: np.ndarray, place: int, vocabulary, style: Style, around: int = 8) -> str:
    """The token at a place, in brackets, in the text that `around` tokens on both sides make."""
    first, end = max(place - around, 0), place + around + 1
    texts = [_spaced(piece(vocabulary, int(token))) for token in tokens[first:end]]
    it = texts[place - first]
    bare = it.lstrip(" ")
    texts[place - first] = it[: len(it) - len(bare)] + style.title(f"[{bare}]")
    text = "".join(texts).strip().replace("\n", "\\n")
    return f"{'… ' * (first > 0)}{text}{' …' * (end < len(tokens))}"


def _spaced(piece: str) -> str:
    """With a space for `▁`, and one before what is no text."""
    return f" {piece}" if piece.startswith("<extra_id_") or piece == "</s>" else piece.replace("▁", " ")


def ranges(positions: np.ndarray) -> str:
    """`[2, 3, 4, 7]` as '2-4, 7'; 'none' without any."""
    breaks = np.flatnonzero(np.diff(positions) != 1) + 1
    runs = [run for run in np.split(positions, breaks) if len(run)]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs) or "none"


def paragraph(label: str, words: Sequence[str], indent: int = 2, width: int = 20) -> str:
    """`label` and the words behind it, broken to the terminal's width under the first of them."""
    limit = max(shutil.get_terminal_size((120, 40)).columns, 60)
    margin = " " * (indent + width)
    lines, line, length = [], [], 0
    for word in words:
        size = _visible(word) + 1
        if line and indent + width + length + size > limit:
            lines.append(" ".join(line))
            line, length = [], 0
        line.append(word)
        length += size
    lines.append(" ".join(line))
    return f"{' ' * indent}{label:<{width}}" + f"\n{margin}".join(lines)


def _visible(text: str) -> int:
    """Characters that take room: without the colours."""
    return len(re.sub(r"\x1b\[[0-9;]*m", "", text))
