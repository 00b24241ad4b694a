"""A trained model at work: texts or ids in; answers, scores or vectors out.

Programs are compiled for a few shapes: the rows of a batch and their length are rounded up (`row_batches.py`), and what
is filled up is dropped again.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.evaluate import arguments, decoding_options, row_batches, sentinels
from t5x_mini.evaluate.row_batches import Ids, bucket, own_rows, padded
from t5x_mini.feed.config import ends_inputs
from t5x_mini.feed.convert import convert
from t5x_mini.model import decoding, encoding, scoring, transformer
from t5x_mini.model.beam_search import NEG_INF
from t5x_mini.model.config import DecodingConfig, TransformerConfig
from t5x_mini.parallel.config import PartitioningConfig
from t5x_mini.parallel.mesh import make_mesh
from t5x_mini.parallel.partitioner import MeshPartitioner, Partitioner, PmapPartitioner
from t5x_mini.tasks.vocabularies import EOS_ID, Vocabulary

INPUT_LENGTH = 512  # T5's, where a checkpoint doesn't say what it was trained with
MAX_LENGTH = 128
BATCH_SIZE = 16
# Layers written out compile in five times a loop's time, and decode up to four times as fast. XXL has 24.
MOST_WRITTEN_OUT = 24

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was decoded for one row: `num_decodes` answers, the best first.

    A beam search that found fewer gives fewer, one at least.

    Attributes:
        ids: of each, without padding; the last is EOS if it ended in time.
        scores: of each, the log-probability that decoding goes by (`model/decoding.py`).
    """

    ids: list[list[int]]
    scores: list[float]


@dataclasses.dataclass(frozen=True)
class Score:
    """How likely one row's targets are.

    Attributes:
        ids: of the targets.
        log_probabilities: of each, in nats, given the inputs and the targets before it.
    """

    ids: list[int]
    log_probabilities: list[float]

    @property
    def total(self) -> float:
        """The log-probability of the whole."""
        return sum(self.log_probabilities, 0.0)


class Predictor:
    """A model with its parameters on the devices. `t5x_mini.load` makes one from a checkpoint.

    Texts are cut to `input_length` tokens, with a warning; they end with EOS if the inputs of training did. `decode`
    alone works on several hosts; the others are for one.

    Attributes:
        config: the model.
        vocabulary: None where it isn't known, and then only `decode` works.
        input_length: tokens of an input at most.
        max_length: tokens of an answer at most, if not said otherwise.
        ends_inputs: whether EOS is put behind inputs, and behind the targets that are scored.
    """

    def __init__(
        self,
        params: Mapping[str, jax.Array],
        config: TransformerConfig,
        vocabulary: Vocabulary | None,
        partitioner: Partitioner | None = None,
        *,
        feature_lengths: Mapping[str, int] | None = None,
    ):
        """
        Args:
            params: as trained, or as read by `restore_plan.load_params`.
            config: the model they are of.
            vocabulary: that it was trained with.
            partitioner: how the devices share the work; None: each takes a part of the rows.
            feature_lengths: TASK_FEATURE_LENGTHS of training; None: not known.
        """
        self.config = dataclasses.replace(config, scan_layers=True, dropout_rate=0.0, remat="none")
        self.vocabulary = vocabulary
        self.input_length, self.max_length = INPUT_LENGTH, MAX_LENGTH
        self.ends_inputs = ends_inputs(config.architecture, feature_lengths)
        if feature_lengths:
            self.input_length = feature_lengths.get("inputs", feature_lengths["targets"])
            self.max_length = feature_lengths["targets"]
        self._partitioner = _over_mesh(partitioner)
        self._shardings = param_shardings(self._partitioner, config)
        self._params = jax.device_put(dict(params), self._shardings)
        self._programs: dict[Hashable, Callable] = {}

    # ------------------------------------------------------------------------------------------------ texts

    def generate(
        self,
        texts: str | Sequence[str],
        *,
        method: str | None = None,
        num_decodes: int | None = None,
        max_length: int | None = None,
        min_length: int | None = None,
        temperature: float | Sequence[float] | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        length_penalty: float | None = None,
        seed: int | None = None,
        forced: str | Sequence[str] | None = None,
        logit_callback: Callable | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[str] | list[list[str]]:
        """What the model answers to each text.

        Args:
            texts: inputs; of a decoder-only model, what it goes on from.
            method: `greedy` (the default), `sample` or `beam`.
            num_decodes: answers to each text, the best first; fewer, one at least, where `beam` found no more. `beam`
                without it searches with 4 and gives the best.
            max_length: tokens of an answer at most, EOS included.
            min_length: no EOS before so many tokens.
            temperature: of `sample`; one number, or one for each text.
            top_k: `sample` draws from the so many likeliest tokens.
            top_p: `sample` draws from the likeliest tokens that have this probability together.
            length_penalty: of `beam`, T5's alpha.
            seed: of `sample`; the same seed gives the same answers.
            forced: how the answers begin: one text, or one for each input.
            logit_callback: changes the logits before a token is chosen (`model/decoding.py`).
            batch_size: texts decoded at once, at most.

        Returns:
            An answer to each text; with `num_decodes`, a list of them.

        Raises:
            UserError: for options that don't exist or don't go together; for texts that aren't strings.
        """
        texts = arguments.as_list(texts, "texts")
        per_row = (
            None
            if temperature is None or np.ndim(temperature) == 0
            else arguments.each(temperature, texts, "temperature")
        )
        config, several = decoding_options.make(
            method=method,
            num_decodes=num_decodes,
            max_length=max_length,
            min_length=min_length,
            temperature=1.0 if per_row is not None else temperature,
            top_k=top_k,
            top_p=top_p,
            length_penalty=length_penalty,
            seed=seed,
        )
        begun = (
            None
            if forced is None
            else list(map(self._ids, arguments.as_list(arguments.each(forced, texts, "forced"), "forced")))
        )
        answers = self.generate_ids(
            self.inputs(texts),
            config,
            forced=begun,
            temperature=per_row,
            logit_callback=logit_callback,
            batch_size=batch_size,
        )
        decoded = [[sentinels.decode(self.vocabulary, ids) for ids in answer.ids] for answer in answers]
        return decoded if several else [best for best, *_ in decoded]

    def score(
        self, inputs: str | Sequence[str] | None, targets: str | Sequence[str], *, batch_size: int = BATCH_SIZE
    ) -> list[Score]:
        """How likely the model finds each target, given its input.

        Args:
            inputs: None for a language model that was trained on targets alone.
            targets: one for each input. EOS is put behind them if the model's inputs have one.
            batch_size: rows scored at once, at most.

        Raises:
            UserError: where there are not as many inputs as targets; for an encoder-decoder without inputs.
        """
        targets = arguments.as_list(targets, "targets")
        if inputs is None and self.config.has_encoder:
            raise UserError("An encoder-decoder scores targets given inputs: score(inputs, targets).")
        examples = {"targets": [[*self._ids(text), *self._end] for text in targets]}
        if inputs is not None:
            examples["inputs"] = self.inputs(arguments.each(arguments.as_list(inputs, "inputs"), targets, "inputs"))
        return self.score_ids(examples, batch_size=batch_size)

    def encode(self, texts: str | Sequence[str], *, batch_size: int = BATCH_SIZE) -> list[np.ndarray]:
        """A vector for each token of each text: float32 `[tokens, emb]`, the text's EOS included.

        The encoder's output; of a decoder-only model, the decoder's last hidden states (`model/encoding.py`).
        """
        inputs = self.inputs(arguments.as_list(texts, "texts"))

        def run(rows: list[int], share: int, number: int) -> list[np.ndarray]:
            chosen = [inputs[row] for row in rows]
            length = bucket(max(map(len, chosen)), self.input_length)
            batch = {"inputs": padded(chosen, share, length)}
            vectors = self._run("encode", functools.partial(_encode, config=self.config), batch)
            return [vector[: len(ids)] for vector, ids in zip(vectors, chosen, strict=False)]

        return self._in_batches([len(ids) for ids in inputs], batch_size, run)

    def inputs(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of the texts as the model takes them, cut as the feeds cut them: what ends in EOS still does."""
        encoded = [self._ids(text) for text in texts]
        room = self.input_length - len(self._end)
        cut = sum(len(ids) > room for ids in encoded)
        if cut:
            longest = max(map(len, encoded)) + len(self._end)
            warnings.warn(
                f"{cut} of {len(encoded)} inputs are longer than {self.input_length} tokens and were cut; the longest "
                f"has {longest}.",
                stacklevel=3,
            )
        return [[*ids[:room], *self._end] for ids in encoded]

    def check_vocabulary(self) -> None:
        """Raises UserError if the vocabulary isn't known."""
        if self.vocabulary is None:
            raise UserError(
                "The checkpoint doesn't say which vocabulary its ids are of. Name it: "
                "t5x_mini.load(path, vocabulary='spiece.model'), or --vocabulary=spiece.model."
            )

    # ------------------------------------------------------------------------------------------------ ids

    def generate_ids(
        self,
        inputs: Sequence[Ids],
        config: DecodingConfig,
        *,
        forced: Sequence[Ids] | None = None,
        temperature: Sequence[float] | None = None,
        logit_callback: Callable | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> list[Answer]:
        """`generate` from ids to ids; rows of similar length are decoded together.

        Args:
            inputs: with EOS where the model wants it.
            config: how to decode; without `max_length`, the predictor's.
            forced: how each row's answers begin.
            temperature: of each row, over the config's.
            logit_callback: changes the logits before a token is chosen.
            batch_size: rows decoded at once, at most.

        Raises:
            UserError: for a temperature that can't be; a `min_length` above the answers' length.
        """
        arguments.check_temperature(temperature)

        def run(rows: list[int], share: int, number: int) -> list[Answer]:
            chosen = [inputs[row] for row in rows]
            return self.decode(
                chosen,
                config,
                rows=share,
                input_length=bucket(max(map(len, chosen))),
                seed_offset=number,
                forced=None if forced is None else [forced[row] for row in rows],
                temperature=None if temperature is None else [temperature[row] for row in rows],
                logit_callback=logit_callback,
            )

        return self._in_batches([len(ids) for ids in inputs], batch_size, run)

    def decode(
        self,
        inputs: Sequence[Ids],
        config: DecodingConfig,
        *,
        rows: int,
        input_length: int,
        seed_offset: int = 0,
        forced: Sequence[Ids] | None = None,
        temperature: Sequence[float] | None = None,
        logit_callback: Callable | None = None,
    ) -> list[Answer]:
        """One batch. With several hosts each gives its own rows and gets their answers; all call it together.

        Args:
            inputs: up to `rows` rows of up to `input_length` ids.
            config: how to decode.
            rows: of this host's part of the batch; all hosts together have a multiple of the parts it is split into.
            input_length: that rows are filled up to; the same on all hosts.
            seed_offset: number of the batch: `sample` draws from the seed and it.
            forced: how each row's answers begin; with several hosts, all as long.
            temperature: of each row, over the config's.
            logit_callback: changes the logits before a token is chosen.

        Raises:
            UserError: as `generate_ids` does.
        """
        length = config.max_length or self.max_length
        if config.min_length > length:
            raise UserError(
                f"min_length is {config.min_length}, and max_length {length}, as long as the model's answers are where "
                "nothing is said: write a min_length that is no larger, or a larger max_length."
            )
        batch = {"inputs": padded(inputs, rows, input_length)}
        if forced is not None:
            longest = max(map(len, forced), default=0)
            batch["forced"] = padded(forced, rows, max(longest, bucket(longest, length)))
        if config.method == "sample" and temperature is None:
            temperature = [config.temperature]
        if temperature is not None:
            arguments.check_temperature(temperature)
            batch["temperature"] = np.resize(np.asarray(temperature, np.float32), rows)
        # Seed and temperature are arguments, so that others need no other program.
        how = dataclasses.replace(config, seed=0, temperature=1.0)
        static = dict(how=how, length=length, logit_callback=logit_callback)
        function = functools.partial(_decode, config=_written_out(self.config), **static)
        key = ("decode", *static.values(), *batch)
        tokens, scores = self._run(key, function, batch, np.uint32(config.seed % 2**32), np.uint32(seed_offset))
        return [_answer(tokens[row], scores[row]) for row in range(len(inputs))]

    def score_ids(self, examples: Mapping[str, Sequence[Ids]], *, batch_size: int = BATCH_SIZE) -> list[Score]:
        """`score` of ids: `targets`, and `inputs` unless the model was trained on targets alone."""

        def run(rows: list[int], share: int, number: int) -> list[Score]:
            chosen = {name: [ids[row] for row in rows] for name, ids in examples.items()}
            lengths = {name: bucket(max(map(len, ids))) for name, ids in chosen.items()}
            arrays = {name: padded(ids, share, lengths[name]) for name, ids in chosen.items()}
            batch = convert(arrays, self.config.architecture, lengths)
            found = self._run("score", functools.partial(_score, config=self.config), batch)
            of_targets = batch["decoder_loss_weights"] > 0
            return [
                Score(list(ids), values[places].astype(float).tolist())
                for ids, values, places in zip(chosen["targets"], found, of_targets, strict=False)
            ]

        lengths = [sum(map(len, row)) for row in zip(*examples.values(), strict=True)]
        return self._in_batches(lengths, batch_size, run)

    # ------------------------------------------------------------------------------------------------ inside

    def _ids(self, text: str) -> list[int]:
        self.check_vocabulary()
        return sentinels.encode(self.vocabulary, text)

    @property
    def _end(self) -> list[int]:
        return [EOS_ID] if self.ends_inputs else []

    def _run(self, key: Hashable, function: Callable, batch: Mapping[str, np.ndarray], *numbers: np.uint32) -> Any:
        """This host's rows of what `function(params, batch, *numbers)` gives; compiled once for each key and shape."""
        partitioner = self._partitioner
        if key not in self._programs:
            given = (self._shardings, partitioner.rows, *[partitioner.replicated] * len(numbers))
            self._programs[key] = partitioner.jit(function, given, partitioner.rows)
        return jax.tree.map(own_rows, self._programs[key](self._params, partitioner.put(batch), *numbers))

    def _in_batches(self, lengths: Sequence[int], batch_size: int, run: Callable[..., list[T]]) -> list[T]:
        """What `run(rows, share, number)` gives for each row, in the rows' order. The longest rows go first."""
        if jax.process_count() > 1:
            raise UserError("With several processes, `t5x-mini infer` shares the rows, or Predictor.decode.")
        arguments.check_batch_size(batch_size)
        found: dict[int, T] = {}
        batches = row_batches.batches(lengths, batch_size, self._partitioner.row_ways)
        for number, (rows, share) in enumerate(batches):
            found.update(zip(rows, run(rows, share, number), strict=True))
        return [found[row] for row in range(len(lengths))]


def param_shardings(partitioner: MeshPartitioner, config: TransformerConfig) -> dict[str, jax.sharding.Sharding]:
    """Where each parameter goes, by name in memory."""
    return partitioner.shardings(transformer.param_shapes(config), transformer.param_axes(config))


def _over_mesh(partitioner: Partitioner | None) -> MeshPartitioner:
    """Under pmap every device has the whole model already: that is a mesh which splits rows alone."""
    if isinstance(partitioner, MeshPartitioner):
        return partitioner
    devices = partitioner.devices if isinstance(partitioner, PmapPartitioner) else None
    return MeshPartitioner(make_mesh(PartitioningConfig(), devices))


def _written_out(config: TransformerConfig) -> TransformerConfig:
    """A loop over layers copies each one's parameters out of the stack for every token; written out, none does."""
    return dataclasses.replace(config, scan_layers=config.num_decoder_layers > MOST_WRITTEN_OUT)


def _decode(params, batch, seed, number, *, config, how, length, logit_callback):
    key = jax.random.fold_in(jax.random.key(seed), number)
    given = {name: batch.get(name) for name in ("temperature", "forced")}
    answers = decoding.decode(
        params, batch["inputs"], config, how, length=length, key=key, logit_callback=logit_callback, **given
    )
    return answers.tokens, answers.scores


def _encode(params, batch, *, config):
    return encoding.encode(params, batch["inputs"], config).astype(jnp.float32)


def _score(params, batch, *, config):
    return scoring.score(params, batch, config)


def _answer(tokens: np.ndarray, scores: np.ndarray) -> Answer:
    """Without the places that a beam search found no answer for."""
    answers = [[token for token in ids if token > 0] for ids in tokens.tolist()]
    found = [place for place, ids in enumerate(answers) if ids or scores[place] > NEG_INF] or [0]
    return Answer([answers[place] for place in found], scores[found].tolist())
