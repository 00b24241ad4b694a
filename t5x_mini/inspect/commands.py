"""The commands `tasks` and `inspect`: what can be read, what a model gets to see of it, and what a run has seen."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.feed import feeds
from t5x_mini.feed.config import FeedConfig
from t5x_mini.inspect import stages, token_loss, token_text
from t5x_mini.inspect.rebuild import rebuild_batch
from t5x_mini.inspect.stages import Example
from t5x_mini.inspect.task_list import list_tasks
from t5x_mini.inspect.token_loss import Checkpoint, TokenLoss
from t5x_mini.inspect.token_text import paragraph
from t5x_mini.model.config import ARCHITECTURES
from t5x_mini.terminal import Style, cost_legend, style_for

if TYPE_CHECKING:
    from t5x_mini.config import RunConfig

__all__ = ["inspect_run", "inspect_task", "list_tasks", "padding_shares"]

# Enough for a histogram and for a share to two digits, and read in seconds.
_MEASURED_EXAMPLES = 500
_MEASURED_BATCHES = 4
_RAW_CHARACTERS = 400
_RAW_FIELDS = 6
# Of the rows and tokens that cost most.
_LISTED = 20


def inspect_task(feed: FeedConfig, architecture: str | None, split: str, examples: int, output: str | None) -> None:
    """Prints examples at every stage, and draws how long they are.

    The examples are the first ones of the split, unshuffled; a mixture shows some of each of its tasks. How much is
    padding is measured on the first batches of the feed itself.

    Args:
        architecture: what to show of the model's side; None: every architecture that can read the task.
        examples: how many to print, of each task.
        output: the PNG of lengths to write; None: no picture.

    Raises:
        UserError: for what cannot be read, or an architecture that cannot read it.
    """
    found = stages.examples(feed, split, max(examples, _MEASURED_EXAMPLES))
    vocabulary = feeds.vocabulary(feed)
    style = style_for(sys.stdout)
    everything = [example for some in found.values() for example in some]
    architectures = _readers(architecture, everything[0])
    for task, some in found.items():
        for number, example in enumerate(some[:examples], start=1):
            print(style.title(f"{task}, {split}, example {number} of {min(examples, len(some))}") + "\n")
            _print_stages(example, vocabulary, style)
            _print_received(_received([example], feed, architectures), vocabulary, style)
    lengths = _lengths(everything, feed)
    _print_lengths(lengths, feed, len(everything))
    shares = {name: padding_shares(feed, name, split) for name in architectures}
    _print_shares(shares)
    if output is not None:
        from t5x_mini.inspect.figure import draw_lengths

        title = f"{feed.mixture_or_task_name}, {split}"
        print(draw_lengths(lengths, dict(feed.task_feature_lengths), shares, title, output))


def padding_shares(feed: FeedConfig, architecture: str, split: str) -> dict[str, dict[str, float]]:
    """Of the positions of the first batches, by part (`encoder`, `decoder`): the shares that are `loss`, `no loss`
    (tokens that are only read) and `padding`."""
    reader = feeds.make_feed(dataclasses.replace(feed, shuffle=False), architecture, split=split)
    batches = [next(reader) for _ in range(_MEASURED_BATCHES)]
    arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    shares = {}
    for part, tokens in (("encoder", "encoder_input_tokens"), ("decoder", "decoder_target_tokens")):
        if tokens in arrays:
            filled = arrays[tokens] != 0
            loss = filled & (arrays[f"{part}_loss_weights"] != 0) if part == "decoder" else np.zeros_like(filled)
            kinds = {"loss": loss, "no loss": filled & ~loss, "padding": ~filled}
            shares[part] = {kind: float(mask.mean()) for kind, mask in kinds.items()}
    return shares


def _readers(architecture: str | None, example: Example) -> Sequence[str]:
    if architecture is not None and architecture not in ARCHITECTURES:
        raise UserError(f"There is no architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}.")
    able = [name for name in ARCHITECTURES if name != "encoder_decoder" or "inputs" in example.features]
    if architecture is None:
        return able
    if architecture not in able:
        raise UserError(
            f"An {architecture} reads inputs, and this task makes {', '.join(example.features)}. Write "
            f"--architecture={able[0]}, or choose an objective with inputs."
        )
    return [architecture]


def _received(
    examples: Sequence[Example], feed: FeedConfig, architectures: Sequence[str]
) -> dict[tuple[str, ...], dict[str, np.ndarray]]:
    """Features by the architectures that receive them: two that receive the same stand together."""
    received: dict[tuple[str, ...], dict[str, np.ndarray]] = {}
    for name in architectures:
        features = stages.model_features(examples, feed, name)
        for others, known in received.items():
            if known.keys() == features.keys() and all(np.array_equal(known[key], features[key]) for key in known):
                received[(*others, name)] = received.pop(others)
                break
        else:
            received[(name,)] = features
    return received


def _print_stages(example: Example, vocabulary, style: Style) -> None:
    fields = list(example.raw.items())
    for name, text in fields[:_RAW_FIELDS]:
        print(paragraph(name, [*_shortened(text, style)]))
    if len(fields) > _RAW_FIELDS:
        print(paragraph("", [style.aside(f"… and {len(fields) - _RAW_FIELDS} more")]))
    for name, text in example.texts.items():
        print(paragraph(f"{name} as text", _shortened(text, style)))
    for name, tokens in example.tokens.items():
        print(_tokens(f"{name} as tokens", tokens, vocabulary, style))
    runs = token_text.spans(example.features, vocabulary)
    if runs is not None:
        print(paragraph("masked", token_text.masked_text(runs, vocabulary, style).split()))
    for name, tokens in example.features.items():
        if name != "loss_weights":
            print(_tokens(name, tokens, vocabulary, style))
    print()


def _print_received(received: Mapping[tuple[str, ...], dict[str, np.ndarray]], vocabulary, style: Style) -> None:
    for names, features in received.items():
        same = "" if len(names) == 1 else style.aside(" (the same arrays; they differ in the attention mask)")
        print(f"  {style.title(', '.join(names))}{same}")
        print_row({name: rows[0] for name, rows in features.items()}, vocabulary, style)
        print()


def print_row(row: Mapping[str, np.ndarray], vocabulary, style: Style, nats: np.ndarray | None = None) -> None:
    """Prints what a model receives as one row: int[length] by SeqIO's names; and what each target costs, if given."""
    if "encoder_input_tokens" in row:
        print(_tokens("encoder reads", row["encoder_input_tokens"], vocabulary, style, indent=4))
    print(_tokens("decoder reads", row["decoder_input_tokens"], vocabulary, style, indent=4))
    targets, loss = row["decoder_target_tokens"], row["decoder_loss_weights"]
    print(_tokens("decoder writes", targets, vocabulary, style, loss, nats, indent=4))
    positions = np.flatnonzero(loss)
    print(paragraph("loss on", [f"{len(positions)} of {len(loss)} positions:", token_text.ranges(positions)], indent=4))
    if "decoder_causal_attention" in row:
        prefix = np.flatnonzero(row["decoder_causal_attention"])
        print(paragraph("prefix", ["positions", token_text.ranges(prefix)], indent=4))


def _tokens(label: str, tokens, vocabulary, style: Style, loss=None, nats=None, indent: int = 2) -> str:
    words = token_text.token_words(tokens, vocabulary, style, loss, nats)
    return paragraph(label, [f"{len(tokens)}:", *words], indent, 22 - indent)


def _shortened(text: str, style: Style) -> list[str]:
    if len(text) <= _RAW_CHARACTERS:
        return text.split()
    return [*text[:_RAW_CHARACTERS].split(), style.aside(f"… ({len(text):,} characters)")]


def _lengths(found: Sequence[Example], feed: FeedConfig) -> dict[str, np.ndarray]:
    """Tokens of each example by feature, EOS included, before they are cut."""
    names = [name for name in feed.task_feature_lengths if name in found[0].features]
    return {name: np.array([len(example.features[name]) for example in found]) for name in names}


def _print_lengths(lengths: Mapping[str, np.ndarray], feed: FeedConfig, count: int) -> None:
    print(f"lengths of {count:,} examples, in tokens with EOS")
    for name, values in lengths.items():
        limit = feed.task_feature_lengths[name]
        cut = np.mean(values > limit)
        middle, high = np.percentile(values, [50, 99])
        words = f"median {middle:.0f}, 99 % up to {high:.0f}, longest {values.max()}; limit {limit}, {cut:.1%} are cut"
        print(paragraph(name, words.split()))


def _print_shares(shares: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    print(f"padding in {_MEASURED_BATCHES} batches of the feed")
    for architecture, parts in shares.items():
        words = [f"{part} {kinds['padding']:.1%}" for part, kinds in parts.items()]
        words.append(f"loss on {parts['decoder']['loss']:.1%} of the decoder's positions")
        print(paragraph(architecture, ", ".join(words).split()))


def inspect_run(run_dir: str, step: int, rows: int) -> None:
    """Prints the batch of a step of a run, and what each token costs under the checkpoint that is nearest to it.

    Without such a checkpoint it says so, and shows the batch alone.

    Args:
        step: 1 for the first one, as in the run's metrics.
        rows: how many to print at most, the costliest first.

    Raises:
        UserError: as `rebuild.rebuild_batch`.
    """
    rebuilt = rebuild_batch(run_dir, step)
    feed, batch = rebuilt.config.feed, rebuilt.batch
    vocabulary, style = feeds.vocabulary(feed), style_for(sys.stdout)
    count = len(batch["decoder_target_tokens"])
    print(style.title(f"batch {step} of {run_dir}: {count} rows of {feed.mixture_or_task_name}"))
    print(style.aside(rebuilt.origin))
    try:
        checkpoint = token_loss.nearest_checkpoint(rebuilt.config, run_dir, step)
        losses = token_loss.measure(checkpoint, rebuilt.config, batch)
    except UserError as error:
        print(f"no losses: {error}\n")
        _print_rows(batch, range(count), rows, None, vocabulary, style)
        return
    print(style.aside(f"losses are those of {checkpoint.path}, {checkpoint.distance}"))
    print(f"nats a token: {cost_legend(style)}\n")
    _print_rows(batch, losses.rows, rows, losses, vocabulary, style)
    _print_losses(losses, token_loss.recorded_loss(run_dir, step), checkpoint, rebuilt.config)
    _print_costliest(losses, batch["decoder_target_tokens"], vocabulary, style)


def _print_rows(
    batch: Mapping[str, np.ndarray], order: Sequence[int], most: int, losses: TokenLoss | None, vocabulary, style: Style
) -> None:
    for row in order[:most]:
        mean = "" if losses is None else f", {losses.of_rows[row]:.2f} nats a token"
        print(f"  {style.title(f'row {row}')}{mean}")
        nats = None if losses is None else losses.nats[row]
        print_row({name: values[row] for name, values in batch.items()}, vocabulary, style, nats)
        print()
    if len(order) > most:
        print(f"  {len(order) - most} more rows are not shown; --rows={len(order)} shows all.\n")


def _print_losses(
    losses: TokenLoss, recorded: tuple[float, float] | None, checkpoint: Checkpoint, run: RunConfig
) -> None:
    """The batch's loss beside the one that training measured, and how it lies over targets and rows."""
    vocab_size = feeds.model_vocab_size(run.feed)
    print(paragraph("this batch", f"{losses.mean:.3f} nats a token, a guess {math.log(vocab_size):.2f}".split()))
    if recorded is not None:
        words = f"{recorded[0]:.3f} in metrics.jsonl, {recorded[1]:.3f} with z-loss"
        reasons = ", ".join(token_loss.why_they_differ(checkpoint, run))
        print(paragraph("in training", [*words.split(), *(f"({reasons})".split() if reasons else [])]))
    quarters = [f"{mean:.2f}" for mean in losses.of_quarters]
    print(paragraph("quarters of targets", [*quarters, "(from their beginning to their end)"]))
    rows = [f"row {row} {losses.of_rows[row]:.2f}," for row in losses.rows[:_LISTED]]
    print(paragraph("costliest rows", [*rows[:-1], rows[-1].rstrip(",")]))


def _print_costliest(losses: TokenLoss, targets: np.ndarray, vocabulary, style: Style) -> None:
    print("\ncostliest tokens")
    for row, position in losses.costliest(_LISTED):
        places = np.flatnonzero(losses.examples[row] == losses.examples[row, position])
        places = places[targets[row, places] != 0]
        text = token_text.in_context(targets[row, places], int(np.searchsorted(places, position)), vocabulary, style)
        print(f"  {losses.nats[row, position]:>6.2f}  row {row:<3} position {position:<4} {text}")
