"""A model with its parameters on the devices: ids in; answers, scores or vectors out.

Programs are compiled for a few shapes: the rows of a batch and their length are rounded up (`row_batches.py`), and what
is filled up is dropped again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.evaluate import arguments, row_batches
from t5x_mini.evaluate.progress import progress_bar
from t5x_mini.evaluate.row_batches import Ids, bucket, own_rows, padded, power_of_two
from t5x_mini.feed.convert import convert
from t5x_mini.model import decoding, encoding, scoring, transformer
from t5x_mini.model.beam_search import NEG_INF
from t5x_mini.model.config import DecodingConfig, TransformerConfig
from t5x_mini.parallel import hosts, plain
from t5x_mini.parallel.config import PartitioningConfig
from t5x_mini.parallel.mesh import make_mesh
from t5x_mini.parallel.partitioner import MeshPartitioner, Partitioner, PmapPartitioner

INPUT_LENGTH = 512  # T5's, where a checkpoint doesn't say what it was trained with
MAX_LENGTH = 128
BATCH_SIZE = 16
# Layers written out compile in five times a loop's time, and decode up to four times as fast. XXL has 24.
MOST_WRITTEN_OUT = 24
_QUIET_S = 10  # before a bar is shown

T = TypeVar("T")


@plain.told
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


@plain.told
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


class IdPredictor:
    """A model at work on ids.

    Its methods work on several hosts too, `decode` aside: all hosts call them with the same rows, each computes its
    share of every batch, and all get all answers.

    Attributes:
        config: the model.
        input_length: tokens of an input at most.
        max_length: tokens of an answer at most, if not said otherwise.
        between_batches: called before each batch, which it can end with an exception.
    """

    def __init__(
        self,
        params: Mapping[str, jax.Array] | None,
        config: TransformerConfig,
        partitioner: Partitioner | None = None,
        *,
        feature_lengths: Mapping[str, int] | None = None,
    ):
        """
        Args:
            params: as trained, or as read by `restore_plan.load_params`; None: they are set before the first call.
            config: the model they are of.
            partitioner: how the devices share the work; None: each takes a part of the rows.
            feature_lengths: TASK_FEATURE_LENGTHS of training; None: not known.
        """
        self.config = dataclasses.replace(config, attention="plain", scan_layers=True, dropout_rate=0.0, remat="none")
        self.input_length, self.max_length = INPUT_LENGTH, MAX_LENGTH
        if feature_lengths:
            self.input_length = feature_lengths.get("inputs", feature_lengths["targets"])
            self.max_length = feature_lengths["targets"]
        self._partitioner = _over_mesh(partitioner)
        self._shardings = param_shardings(self._partitioner, config)
        self._programs: dict[Hashable, Callable] = {}
        self._params: dict[str, jax.Array] = {}
        self.between_batches: Callable[[], None] = lambda: None
        if params is not None:
            self.params = params

    @property
    def params(self) -> Mapping[str, jax.Array]:
        """The parameters. Others of the same model may be set at any time, and nothing is compiled again.

        Those that lie where they are needed, as a run's do, are not copied.
        """
        return self._params

    @params.setter
    def params(self, params: Mapping[str, jax.Array]) -> None:
        self._params = jax.device_put(dict(params), self._shardings)

    def generate_ids(
        self,
        inputs: Sequence[Ids],
        config: DecodingConfig,
        *,
        forced: Sequence[Ids] | None = None,
        temperature: Sequence[float] | None = None,
        logit_callback: Callable | None = None,
        batch_size: int = BATCH_SIZE,
        progress: str | None = None,
    ) -> list[Answer]:
        """What the model answers to each row; rows of similar length are decoded together.

        Args:
            inputs: with EOS where the model wants it.
            config: how to decode; without `max_length`, the predictor's.
            forced: how each row's answers begin.
            temperature: of each row, over the config's.
            logit_callback: changes the logits before a token is chosen.
            batch_size: rows decoded at once, at most.
            progress: name of a bar, which is shown where this takes long.

        Raises:
            UserError: for a temperature that can't be; a `min_length` above the answers' length.
        """
        arguments.check_temperature(temperature)

        def run(rows: list[int], own: list[int], share: int, number: int) -> list[Answer]:
            return self.decode(
                [inputs[row] for row in own],
                config,
                rows=share,
                input_length=bucket(max(len(inputs[row]) for row in rows)),
                seed_offset=number,
                forced=None if forced is None else _as_long(forced, rows, own or rows[:1]),
                temperature=None if temperature is None else [temperature[row] for row in own or rows[:1]],
                logit_callback=logit_callback,
            )

        return self._in_batches([len(ids) for ids in inputs], batch_size, run, progress)

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
        """How likely the model finds each row's targets.

        Args:
            examples: `targets`, and `inputs` unless the model was trained on targets alone.
            batch_size: rows scored at once, at most.
        """

        def run(rows: list[int], own: list[int], share: int, number: int) -> list[Score]:
            lengths = {name: bucket(max(len(ids[row]) for row in rows)) for name, ids in examples.items()}
            chosen = {name: [ids[row] for row in own] for name, ids in examples.items()}
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

    def score_choices(
        self,
        inputs: Sequence[Ids],
        choices: Sequence[Sequence[Ids]],
        *,
        batch_size: int = BATCH_SIZE,
        progress: str | None = None,
    ) -> list[list[float]]:
        """The log-probability, in nats, of each choice given its row's inputs (`model/scoring.py::score_choices`).

        Args:
            inputs: with EOS where the model wants it.
            choices: targets of each row, one at least, with EOS.
            batch_size: rows scored at once, at most.
            progress: name of a bar, which is shown where this takes long.
        """
        most = max(map(len, choices), default=0)
        longest = max((len(ids) for row in choices for ids in row), default=0)

        def run(rows: list[int], own: list[int], share: int, number: int) -> list[list[float]]:
            length = power_of_two(max(len(inputs[row]) for row in rows), self.input_length)
            targets = np.zeros((share, most, longest), np.int32)
            for place, row in enumerate(own):
                targets[place, : len(choices[row])] = padded(choices[row], len(choices[row]), longest)
            batch = {"inputs": padded([inputs[row] for row in own], share, length), "choices": targets}
            found = self._run("choices", functools.partial(_score_choices, config=self.config), batch)
            return [found[place, : len(choices[row])].astype(float).tolist() for place, row in enumerate(own)]

        return self._in_batches([len(ids) for ids in inputs], batch_size, run, progress)

    def encode_ids(self, inputs: Sequence[Ids], *, batch_size: int = BATCH_SIZE) -> list[np.ndarray]:
        """A vector for each id of each row: float32 `[ids, emb]` (`model/encoding.py`)."""

        def run(rows: list[int], own: list[int], share: int, number: int) -> list[np.ndarray]:
            chosen = [inputs[row] for row in own]
            length = bucket(max(len(inputs[row]) for row in rows), self.input_length)
            batch = {"inputs": padded(chosen, share, length)}
            vectors = self._run("encode", functools.partial(_encode, config=self.config), batch)
            return [vector[: len(ids)] for vector, ids in zip(vectors, chosen, strict=False)]

        return self._in_batches([len(ids) for ids in inputs], batch_size, run)

    # ------------------------------------------------------------------------------------------------ inside

    def _run(self, key: Hashable, function: Callable, batch: Mapping[str, np.ndarray], *numbers: np.uint32) -> Any:
        """This host's rows of what `function(params, batch, *numbers)` gives; compiled once for each key and shape."""
        partitioner = self._partitioner
        if key not in self._programs:
            given = (self._shardings, partitioner.rows, *[partitioner.replicated] * len(numbers))
            self._programs[key] = partitioner.jit(function, given, partitioner.rows)
        return jax.tree.map(own_rows, self._programs[key](self._params, partitioner.put(batch), *numbers))

    def _in_batches(
        self, lengths: Sequence[int], batch_size: int, run: Callable[..., list[T]], progress: str | None = None
    ) -> list[T]:
        """What `run` gives for each row, in the rows' order. The longest rows go first.

        Args:
            lengths: of each row.
            batch_size: rows of a batch at most.
            run: called as `run(rows, own, share, number)` with the rows of batch `number`, those of them that are this
                host's, and how many rows to fill its part up to; gives what its own rows get.
            progress: name of a bar, which is shown where this takes long; None: no bar.
        """
        arguments.check_batch_size(batch_size)
        found: dict[int, T] = {}
        batches = row_batches.batches(lengths, batch_size, self._partitioner.row_ways)
        part = self._partitioner.row_share
        with progress_bar(progress or "", len(lengths), after_s=_QUIET_S, shown=progress is not None) as bar:
            for number, (rows, count) in enumerate(batches):
                self.between_batches()
                share = count // part.count
                own = rows[part.index * share :][:share]
                found.update(zip(own, run(rows, own, share, number), strict=True))
                bar.update(len(rows))
        for others in hosts.gather(found):
            found |= others
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


def _score_choices(params, batch, *, config):
    return scoring.score_choices(params, batch["inputs"], batch["choices"], config)


def _as_long(ids: Sequence[Ids], rows: list[int], own: list[int]) -> list[list[int]]:
    """The ids of a host's own rows, filled up to the longest of all rows: the hosts run one program."""
    longest = max(len(ids[row]) for row in rows)
    return [[*ids[row], *[0] * (longest - len(ids[row]))] for row in own]


def _answer(tokens: np.ndarray, scores: np.ndarray) -> Answer:
    """Without the places that a beam search found no answer for."""
    answers = [[token for token in ids if token > 0] for ids in tokens.tolist()]
    found = [place for place, ids in enumerate(answers) if ids or scores[place] > NEG_INF] or [0]
    return Answer([answers[place] for place in found], scores[found].tolist())
