"""Metrics of tasks that are registered in Python with SeqIO, computed by `seqio.Evaluator`.

The task's own `postprocess_fn` and metric functions run as in T5X, on `(targets, predictions)`, on `(targets, scores)`,
the log-probability of each row's targets, or on `(targets, predictions, aux_values)`, which are `{'scores': ...}`, the
log-probability that decoding goes by. What is no number, such as a text or a picture, is left out.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t5x_mini.errors import UserError
from t5x_mini.evaluate.answers import batch_size
from t5x_mini.evaluate.id_predictor import Answer, IdPredictor
from t5x_mini.parallel.hosts import say
from t5x_mini.quiet_tensorflow import hold_back_stderr
from t5x_mini.train.run import Run

with hold_back_stderr():
    import seqio

    from t5x_mini.feed import seqio_lookup


class SeqioTask:
    """A task with metrics: its rows, read once, and SeqIO's evaluator.

    Attributes:
        name: of the task.
    """

    def __init__(self, run: Run, task: seqio.Task, split: str, limit: int | None):
        """Reads the first `limit` rows (None: all)."""
        feed = run.config.feed
        self.name, self._run, self._split = task.name, run, split
        self._has_inputs = "inputs" in task.output_features
        # Rows are taken out of the evaluator's copy of them. They are not packed, whatever the run's batches are.
        converter = seqio.EncDecFeatureConverter if self._has_inputs else seqio.LMFeatureConverter
        with hold_back_stderr():
            self._evaluator = seqio.Evaluator(
                task.name,
                converter(pack=False),
                eval_split=split,
                use_cached=feed.use_cached_tasks,
                sequence_length=dict(feed.task_feature_lengths),
                num_examples=limit,
                async_compute_metrics=False,
            )
            self.rows = list(self._evaluator.cached_task_datasets[task.name].as_numpy_iterator())
        self._vocabulary = task.output_features["targets"].vocabulary
        self._left_out: set[str] = set()

    def measure(self, predictor: IdPredictor) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """The metrics, as the task's functions return them, and a line for each row's answer. All hosts call it.

        Raises:
            UserError: a metric function asks for what isn't offered, or raises.
        """
        written: list[Answer] = []

        def predict(_: Any) -> list[tuple[int, Sequence[int]]]:
            written[:] = written or self._decode(predictor)
            ids = [answer.ids[0] for answer in written]
            longest = max(map(len, ids))
            return list(enumerate([*row, *[0] * (longest - len(row))] for row in ids))

        def predict_with_scores(_: Any) -> tuple[list[tuple[int, Sequence[int]]], dict[str, list[float]]]:
            predicted = predict(_)
            return predicted, {"scores": [answer.scores[0] for answer in written]}

        functions = {
            "predict_fn": predict,
            "predict_with_aux_fn": predict_with_scores,
            "score_fn": lambda _: list(enumerate(self._scores(predictor))),
        }
        try:
            found, outputs = self._evaluator.evaluate(compute_metrics=True, **functions)
            values = found.result()[self.name]
        except (KeyError, ValueError) as error:
            raise UserError(
                f"The metrics of {self.name!r} cannot be computed on its split {self._split!r}: {error}. Metric "
                "functions take (targets, predictions), (targets, scores) or (targets, predictions, aux_values)."
            ) from error
        return self._numbers(values), self._lines(outputs[self.name])

    def _ids(self, feature: str) -> list[list[int]]:
        return [row[feature].tolist() for row in self.rows]

    def _inputs(self) -> list[list[int]]:
        return self._ids("inputs") if self._has_inputs else [[]] * len(self.rows)

    def _decode(self, predictor: IdPredictor) -> list[Answer]:
        inputs, decoding = self._inputs(), self._run.config.decoding
        size = batch_size(self._run, max(map(len, inputs)))
        return predictor.generate_ids(inputs, decoding, batch_size=size, progress=self.name)

    def _scores(self, predictor: IdPredictor) -> list[float]:
        examples = {"targets": self._ids("targets")} | ({"inputs": self._ids("inputs")} if self._has_inputs else {})
        return [score.total for score in predictor.score_ids(examples, batch_size=self._run.eval_rows)]

    def _numbers(self, values: Mapping[str, Any]) -> dict[str, float]:
        scalars: dict[str, float] = {}
        for name, value in values.items():
            value = value.value if isinstance(value, seqio.metrics.Scalar) else value
            if isinstance(value, numbers.Real) or getattr(value, "shape", None) == ():
                scalars[name] = float(value)
            elif name not in self._left_out:
                self._left_out.add(name)
                say(f"{self.name}: {name} is no number, but of type {type(value).__name__}, and is left out.")
        return scalars

    def _lines(self, outputs: Mapping[Any, Any]) -> list[dict[str, Any]]:
        kinds = seqio.metrics.ModelOutputType
        predictions = outputs.get(kinds.PREDICTION)
        if kinds.PREDICTION_WITH_AUX in outputs:
            predictions = outputs[kinds.PREDICTION_WITH_AUX][0]
        scores = outputs.get(kinds.SCORE)
        lines = []
        for place, row in enumerate(self.rows):
            line = {"inputs": self._text(row, "inputs")} if self._has_inputs else {}
            if predictions is not None:
                line["prediction"] = self._vocabulary.decode([int(token) for token in predictions[place]])
            if scores is not None:
                line["score"] = float(scores[place])
            lines.append(line | {"targets": self._text(row, "targets")})
        return lines

    def _text(self, row: Mapping[str, Any], feature: str) -> str:
        text = row.get(f"{feature}_pretokenized")
        if isinstance(text, bytes | np.bytes_):
            return text.decode("utf-8", "replace")
        return text if isinstance(text, str) else self._vocabulary.decode(row[feature].tolist())


def find(run: Run, names: Sequence[str], split: str, limit: int | None) -> list[SeqioTask]:
    """Those of the tasks that have metrics and are registered with SeqIO; `names` are all known there.

    Raises:
        UserError: a task's rows cannot be read.
    """
    seqio_lookup.load_task(run.config.feed)  # registers them
    tasks = [seqio.TaskRegistry.get(name) for name in names]
    return [SeqioTask(run, task, split, limit) for task in tasks if task.metric_objs]
