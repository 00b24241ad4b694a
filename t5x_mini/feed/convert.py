"""From a task's examples to the features a model takes, in numpy: the twin of SeqIO's feature converters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]


def convert(
    examples: Arrays,
    architecture: str,
    lengths: Mapping[str, int],
    *,
    examples_per_row: int | None = None,
    loss_on_targets_only: bool = True,
) -> dict[str, np.ndarray]:
    """The features of `feed/batch.py::feature_shapes`, equal to what SeqIO's converters make of the same examples.

    Args:
        examples: int `[n, length]`, filled up with 0: `targets`, `inputs` where the task has them, and `loss_weights`
            (as long as the targets) where not all of the targets carry loss.
        architecture: `encoder_decoder` keeps inputs and targets apart. The decoder-only ones see them in one row;
            targets alone are plain language modelling there.
        lengths: of a row, `task_feature_lengths`.
        examples_per_row: None: one example a row, as long as `lengths` say. A number packs so many consecutive examples
            into each row, kept apart by segment ids; together they have to fit.
        loss_on_targets_only: for the decoder-only architectures: no loss on the inputs.

    Returns:
        int32 `[rows, length]` by SeqIO's names of features.
    """
    targets = examples["targets"]
    decoder = {"target_tokens": targets, "loss_weights": examples.get("loss_weights", targets != 0)}
    width = lengths["targets"]
    encoder = {}
    if architecture == "encoder_decoder":
        encoder = {"input_tokens": examples["inputs"]}
        if examples_per_row is not None:
            encoder = _pack(encoder, examples["inputs"] != 0, examples_per_row, lengths["inputs"])
    elif "inputs" in examples:
        width += lengths["inputs"]
        decoder = _behind_inputs(decoder, examples["inputs"], loss_on_targets_only)
    if examples_per_row is not None:
        decoder = _pack(decoder, decoder["target_tokens"] != 0, examples_per_row, width)
    decoder["input_tokens"] = _decoder_inputs(decoder["target_tokens"], decoder.get("segment_ids"))
    return _named("encoder", encoder) | _named("decoder", decoder)


def _behind_inputs(decoder: Arrays, inputs: np.ndarray, loss_on_targets_only: bool) -> dict[str, np.ndarray]:
    """Rows of inputs and then targets, without a gap between them."""
    tokens = np.concatenate([inputs, decoder["target_tokens"]], axis=1)
    width = tokens.shape[1]
    close_gaps = _gap_closer(tokens != 0, width)
    input_weights = np.zeros_like(inputs) if loss_on_targets_only else inputs != 0
    return {
        "target_tokens": close_gaps(tokens),
        "loss_weights": close_gaps(np.concatenate([input_weights, decoder["loss_weights"]], axis=1)),
        # One position more than the inputs have: where their last token is read, the first target is predicted.
        "causal_attention": np.arange(width) <= np.count_nonzero(inputs, axis=1)[:, None],
    }


def _decoder_inputs(targets: np.ndarray, segment_ids: np.ndarray | None) -> np.ndarray:
    """The targets, one to the right. In packed rows no example sees the end of the one before it."""
    shifted = _one_to_the_right(targets)
    return shifted if segment_ids is None else shifted * (segment_ids == _one_to_the_right(segment_ids))


def _pack(rows: Arrays, is_token: np.ndarray, examples_per_row: int, width: int) -> dict[str, np.ndarray]:
    """Every `examples_per_row` rows in one, with the number and the position of each token's example."""
    n, length = is_token.shape
    rows = dict(rows)
    rows["positions"] = np.broadcast_to(np.arange(length), is_token.shape)
    rows["segment_ids"] = np.broadcast_to(np.arange(n)[:, None] % examples_per_row + 1, is_token.shape)
    shape = (n // examples_per_row, examples_per_row * length)
    close_gaps = _gap_closer(is_token.reshape(shape), width)
    return {name: close_gaps(values.reshape(shape)) for name, values in rows.items()}


def _gap_closer(keep: np.ndarray, width: int) -> Callable[[np.ndarray], np.ndarray]:
    """Moves each row's kept values to its start, and puts zeros behind: `[rows, any]` to int32 `[rows, width]`."""
    kept = np.flatnonzero(keep)
    places = np.flatnonzero(np.arange(width) < np.count_nonzero(keep, axis=1)[:, None])

    def close(rows: np.ndarray) -> np.ndarray:
        closed = np.zeros((len(rows), width), np.int32)
        if len(kept) == rows.size:  # span corruption's are full, and a plain copy is several times as fast
            closed[:, : rows.shape[1]] = rows
        else:
            closed.reshape(-1)[places] = rows.reshape(-1)[kept]
        return closed

    return close


def _one_to_the_right(rows: np.ndarray) -> np.ndarray:
    shifted = np.zeros(rows.shape, np.int32)
    shifted[:, 1:] = rows[:, :-1]
    return shifted


def _named(part: str, rows: Arrays) -> dict[str, np.ndarray]:
    return {f"{part}_{name}": values.astype(np.int32, copy=False) for name, values in rows.items()}
