"""What a pretraining run learned, in words: held-out loss beside simpler models', and spans that it fills in.

For span corruption. Sentinels and EOS are left out of every loss here: they are easy, and a fifth of the targets.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np

from t5x_mini.evaluate.held_out import HeldOut, HostBatch
from t5x_mini.evaluate.sentinels import Spans, parse_spans, sentinel_ids
from t5x_mini.feed import feeds
from t5x_mini.model import decoding
from t5x_mini.model.answers import EOS_ID
from t5x_mini.train.run import Run

if TYPE_CHECKING:
    import seqio

    from t5x_mini.tasks import vocabularies

    Vocabulary = vocabularies.Vocabulary | seqio.Vocabulary

UNIGRAM_BATCHES = 400  # to count words in: a million tokens at the quickstart's sizes, so smoothing hardly matters
SAMPLES = 3
SENTENCE_CHARACTERS = (60, 240)  # of a sample: a line or two
_MARK = "\ue000"  # a character for private use: not in any text


def closing_report(run: Run, params: Mapping[str, jax.Array], held_out: HeldOut | None) -> str:
    """The text printed at the end of a run; for several tasks, of the first."""
    if held_out is None:
        return "No closing report: there is no held-out text (EVAL_PERIOD is 0, or the task has no such split)."
    if jax.process_count() > 1:
        return "No closing report: it is for runs on one host."
    if run.config.feed.pack:
        return "No closing report: rows are packed (PACK = True), and swapping inputs would cross their examples."
    if "inputs" not in run.config.feed.task_feature_lengths:
        return "No closing report: it compares a model with itself on other inputs, and this task has targets alone."
    vocabulary = feeds.vocabulary(run.config.feed)
    task, batches = next(iter(held_out.batches.items()))
    is_word = word_ids(vocabulary.vocab_size, vocabulary.extra_ids)
    batches = [real_words_only(batch, is_word) for batch in batches]

    model = held_out.cross_entropy(params, batches)
    swapped = held_out.cross_entropy(params, [swap_inputs(batch) for batch in batches])
    unigram = unigram_loss(batches, _word_counts(run, is_word))
    return "\n".join(
        [
            f"\nheld-out loss of {task}, in nats a word piece (sentinels and EOS left out):",
            f"  this model                                {model:6.3f}",
            f"  a unigram model on the same positions     {unigram:6.3f}   {_compare(model, unigram)}",
            f"  this model, given another row's inputs    {swapped:6.3f}   {_compare(model, swapped)}",
            *_samples(run, params, batches, vocabulary),
        ]
    )


def word_ids(vocab_size: int, extra_ids: int) -> np.ndarray:
    """For each id whether it is text: not padding, not EOS, not one of the sentinels at the end."""
    is_word = np.ones(vocab_size, bool)
    is_word[[0, EOS_ID]] = False
    is_word[vocab_size - extra_ids :] = False
    return is_word


def real_words_only(batch: HostBatch, is_word: np.ndarray) -> HostBatch:
    """The batch with no loss on sentinels and EOS."""
    weights = batch["decoder_loss_weights"] * is_word[batch["decoder_target_tokens"]]
    return {**batch, "decoder_loss_weights": weights.astype(np.int32)}


def swap_inputs(batch: HostBatch) -> HostBatch:
    """The batch with every row's targets behind the next row's inputs.

    A decoder-only row is put together again: the other inputs, then its own targets, cut to the row's length.
    """
    if "encoder_input_tokens" in batch:
        return {**batch, "encoder_input_tokens": np.roll(batch["encoder_input_tokens"], -1, axis=0)}
    swapped = {name: np.zeros_like(rows) for name, rows in batch.items()}
    count, length = batch["decoder_target_tokens"].shape
    inputs = _input_lengths(batch)
    for row in range(count):
        other = (row + 1) % count
        for name in ("decoder_target_tokens", "decoder_loss_weights"):
            joined = np.concatenate([batch[name][other, : inputs[other]], batch[name][row, inputs[row] :]])[:length]
            swapped[name][row, : len(joined)] = joined
        swapped["decoder_causal_attention"][row, : inputs[other] + 1] = 1
    swapped["decoder_input_tokens"][:, 1:] = swapped["decoder_target_tokens"][:, :-1]
    return swapped


def unigram_loss(batches: Iterable[HostBatch], counts: np.ndarray) -> float:
    """Nats a token of a model that knows only how often each word is, add-one smoothed, where batches carry loss."""
    log_probability = np.log((counts + 1.0) / (counts + 1.0).sum())
    weights = np.concatenate([batch["decoder_loss_weights"].ravel() for batch in batches])
    targets = np.concatenate([batch["decoder_target_tokens"].ravel() for batch in batches])
    return float(-(weights * log_probability[targets]).sum() / weights.sum())


def _word_counts(run: Run, is_word: np.ndarray) -> np.ndarray:
    """How often each word piece occurs in training text, inputs and targets."""
    feed = dataclasses.replace(run.config.feed, batch_size=run.eval_rows)
    counts = np.zeros(len(is_word), np.int64)
    train = feeds.make_feed(feed, run.config.model.architecture)
    for batch in itertools.islice(train, UNIGRAM_BATCHES):
        for name in ("encoder_input_tokens", "decoder_target_tokens"):
            if name in batch:
                counts += np.bincount(batch[name].ravel(), minlength=len(is_word))
    return counts * is_word


def _samples(run: Run, params: Mapping[str, jax.Array], batches: list[HostBatch], vocabulary: Vocabulary) -> list[str]:
    """A few sentences: as masked, what the model writes for each span, what stood there; if there are any."""
    sentinels = sentinel_ids(vocabulary)
    decode = jax.jit(functools.partial(decoding.greedy, config=run.config.model))
    lines: list[str] = []
    for batch in batches:
        batch = {name: rows[: run.eval_rows] for name, rows in batch.items()}
        written = np.asarray(decode(params, batch))
        for row in range(len(written)):
            inputs, targets = split_row(batch, row)
            sentence = _masked_sentence(inputs, sentinels, vocabulary)
            if sentence is None:
                continue
            text, wanted = sentence
            said, stood = parse_spans(written[row], sentinels), parse_spans(targets, sentinels)
            lines = lines or ["\nheld-out sentences with masked spans:"]
            lines += [
                f"\n  masked: {text}",
                f"  model:  {_filled(wanted, said, vocabulary)}",
                f"  text:   {_filled(wanted, stood, vocabulary)}",
            ]
            if len(lines) == 1 + 3 * SAMPLES:
                return lines
            break  # the next sample from another batch: other text
    return lines


def split_row(batch: HostBatch, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of one unpacked row, whatever the architecture, without padding behind the inputs."""
    targets = batch["decoder_target_tokens"][row]
    if "encoder_input_tokens" in batch:
        inputs = batch["encoder_input_tokens"][row]
        return inputs[inputs > 0], targets
    count = _input_lengths(batch)[row]
    return targets[:count], targets[count:]


def _input_lengths(batch: HostBatch) -> np.ndarray:
    """Input tokens at the start of each decoder-only row; the marked prefix is one longer (`masks.decoder_mask`)."""
    if "decoder_causal_attention" not in batch:  # plain language modelling
        return np.zeros(len(batch["decoder_target_tokens"]), int)
    return np.maximum(batch["decoder_causal_attention"].sum(axis=1) - 1, 0)


def _masked_sentence(inputs: np.ndarray, sentinels: range, vocabulary: Vocabulary) -> tuple[str, list[int]] | None:
    """The first whole sentence of a masked text that has spans in it: its text, and their sentinels in order."""
    found: list[int] = []
    text = ""
    for is_sentinel, group in itertools.groupby(map(int, inputs), key=lambda token: token in sentinels):
        tokens = list(group)
        if is_sentinel:
            text += "".join(f" {_MARK}{number}{_MARK}" for number in range(len(found), len(found) + len(tokens)))
            found += tokens
        else:
            text += _text_after_a_word([token for token in tokens if token != EOS_ID], vocabulary)
    for sentence in re.split(r"(?<=[.!?]) ", text)[1:-1]:  # the first and the last are cut off by the window
        marks = [int(number) for number in re.findall(f"{_MARK}(\\d+){_MARK}", sentence)]
        if marks and SENTENCE_CHARACTERS[0] <= len(sentence) <= SENTENCE_CHARACTERS[1]:
            for position, mark in enumerate(marks, start=1):
                sentence = sentence.replace(f"{_MARK}{mark}{_MARK}", f"[{position}]")
            return sentence, [found[mark] for mark in marks]
    return None


def _filled(sentinels: Sequence[int], spans: Spans, vocabulary: Vocabulary) -> str:
    texts = (vocabulary.decode(spans.get(sentinel, [])).strip() for sentinel in sentinels)
    return "   ".join(f"[{position}] {text or '(nothing)'}" for position, text in enumerate(texts, start=1))


def _text_after_a_word(tokens: list[int], vocabulary: Vocabulary) -> str:
    """The text of tokens in the middle of a row: decoded alone, they would lose a space in front."""
    anchor = vocabulary.encode("a")
    return vocabulary.decode([*anchor, *tokens]).removeprefix(vocabulary.decode(anchor))


def _compare(model: float, other: float) -> str:
    return f"({abs(other - model):.3f} {'worse' if other > model else 'better'})"
