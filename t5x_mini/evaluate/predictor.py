"""A trained model at work: texts in; texts, scores or vectors out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.evaluate import arguments, decoding_options, sentinels
from t5x_mini.evaluate.id_predictor import BATCH_SIZE, IdPredictor, Score
from t5x_mini.feed.config import ends_inputs
from t5x_mini.model.config import TransformerConfig
from t5x_mini.parallel.partitioner import Partitioner
from t5x_mini.tasks.vocabularies import EOS_ID, Vocabulary


class Predictor(IdPredictor):
    """A model that reads and writes texts. `t5x_mini.load` makes one from a checkpoint.

    Texts are cut to `input_length` tokens, with a warning; they end with EOS if the inputs of training did.

    Attributes:
        vocabulary: None where it isn't known, and then only what takes ids works.
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
        super().__init__(params, config, partitioner, feature_lengths=feature_lengths)
        self.vocabulary = vocabulary
        self.ends_inputs = ends_inputs(config.architecture, feature_lengths)

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
        return self.encode_ids(self.inputs(arguments.as_list(texts, "texts")), batch_size=batch_size)

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

    def _ids(self, text: str) -> list[int]:
        self.check_vocabulary()
        return sentinels.encode(self.vocabulary, text)

    @property
    def _end(self) -> list[int]:
        return [EOS_ID] if self.ends_inputs else []
