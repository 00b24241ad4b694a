"""What each target token of a run's batch costs under the checkpoint that is nearest to it, and where it costs most."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from t5x_mini.checkpoint.steps import FOLDER, steps_of
from t5x_mini.errors import UserError
from t5x_mini.inspect.rebuild import first_step
from t5x_mini.storage import to_path

if TYPE_CHECKING:
    from t5x_mini.config import RunConfig

Batch = Mapping[str, np.ndarray]

# Rows a forward pass: few enough for the logits of long rows to fit in a laptop's memory.
_ROWS_AT_ONCE = 8
_QUARTERS = 4


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint near a batch.

    Attributes:
        path: as `source.open_source` takes it.
        step: updates that its parameters have had.
        met: updates that the parameters had which met the batch: those of the step before it.
    """

    path: str
    step: int
    met: int

    @property
    def distance(self) -> str:
        """How far it is from the parameters that met the batch, in words."""
        away = abs(self.step - self.met)
        if not away:
            return "the very parameters that met the batch"
        steps = f"{away} step{'s' * (away > 1)}"
        if self.step < self.met:
            return f"{steps} before the parameters that met the batch"
        return f"{steps} after the parameters that met the batch, which it has been trained on since"


@dataclasses.dataclass(frozen=True)
class TokenLoss:
    """What the tokens of a batch cost.

    Attributes:
        nats: float `[rows, length]`, minus the log-probability of each target token, without dropout; 0 where the
            batch has no loss.
        carries: bool, of the same shape: whether there is loss.
        examples: int, of the same shape: which of a packed row's examples a token belongs to; all 1 in other rows.
    """

    nats: np.ndarray
    carries: np.ndarray
    examples: np.ndarray

    @property
    def mean(self) -> float:
        """Nats a token that carries loss; NaN without any."""
        return _mean(self.nats[self.carries])

    @property
    def of_rows(self) -> list[float]:
        """`mean` of each row."""
        return [_mean(nats[carries]) for nats, carries in zip(self.nats, self.carries, strict=True)]

    @property
    def rows(self) -> list[int]:
        """Rows, the costliest first; those without loss last."""
        means = np.array(self.of_rows)
        empty = ~self.carries.any(axis=1)
        return np.lexsort((-np.nan_to_num(means, nan=np.inf), empty)).tolist()

    @property
    def of_quarters(self) -> list[float]:
        """Nats a token in the first to the last quarter of each example's tokens with loss; NaN where none falls."""
        quarter = np.full(self.nats.shape, -1)
        for row, carries in enumerate(self.carries):
            for example in np.unique(self.examples[row, carries]):
                places = np.flatnonzero(carries & (self.examples[row] == example))
                quarter[row, places] = np.arange(len(places)) * _QUARTERS // len(places)
        return [_mean(self.nats[quarter == number]) for number in range(_QUARTERS)]

    def costliest(self, count: int) -> list[tuple[int, int]]:
        """Up to `count` (row, position) of tokens with loss, the costliest first; what is not a number leads."""
        places = np.argwhere(self.carries)
        nats = np.nan_to_num(self.nats[self.carries], nan=np.inf)
        return [(int(row), int(position)) for row, position in places[np.argsort(-nats, kind="stable")[:count]]]


def nearest_checkpoint(config: RunConfig, run_dir: str, step: int) -> Checkpoint:
    """The run's checkpoint that is nearest to what batch `step` met; of two, the earlier.

    The one that the run started from counts as one of the run's, unless ASSIGNMENT_MAP took it apart.

    Raises:
        UserError: there is none.
    """
    found = [(kept, str(to_path(run_dir) / FOLDER / str(kept))) for kept in steps_of(run_dir)]
    if config.train.initial_checkpoint_path is not None and not config.train.assignment_map:
        found.append((first_step(config), config.train.initial_checkpoint_path))
    if not found:
        raise UserError(f"{run_dir} has no checkpoint yet, so it can't be said what the tokens cost.")
    kept, path = min(found, key=lambda candidate: (abs(candidate[0] - (step - 1)), candidate[0]))
    return Checkpoint(path, kept, step - 1)


def measure(checkpoint: Checkpoint, config: RunConfig, batch: Batch) -> TokenLoss:
    """What a batch's tokens cost, computed in the run's dtype on the devices that are here.

    Raises:
        UserError: the checkpoint isn't there, or holds another model or vocabulary than the run's configuration says.
    """
    import jax

    from t5x_mini.checkpoint.restore_plan import load_params
    from t5x_mini.checkpoint.source import open_source
    from t5x_mini.evaluate.id_predictor import param_shardings
    from t5x_mini.feed import feeds
    from t5x_mini.model import scoring, transformer
    from t5x_mini.parallel.config import PartitioningConfig
    from t5x_mini.parallel.mesh import make_mesh
    from t5x_mini.parallel.partitioner import MeshPartitioner

    source = open_source(checkpoint.path)
    # Not the run's mesh nor its kernels: a batch is also looked at on other machines than the one that trained on it.
    model = dataclasses.replace(config.model, vocab_size=source.origin.model.vocab_size, attention="plain")
    partitioner = MeshPartitioner(make_mesh(PartitioningConfig()))
    shardings = param_shardings(partitioner, model)
    shapes = transformer.param_shapes(model)
    params = load_params(source, shapes, shardings, model, feeds.vocabulary_id(config.feed))
    score = partitioner.jit(
        functools.partial(scoring.score, config=model), (shardings, partitioner.rows), partitioner.rows
    )

    carries = batch["decoder_loss_weights"] > 0
    size = -(-min(_ROWS_AT_ONCE, len(carries)) // partitioner.row_ways) * partitioner.row_ways
    log_probs = [
        jax.device_get(score(params, partitioner.put(_rows(batch, start, size))))
        for start in range(0, len(carries), size)
    ]
    nats = -np.concatenate(log_probs)[: len(carries)].astype(np.float64)
    weights = np.where(carries, batch["decoder_loss_weights"], 1)
    examples = batch.get("decoder_segment_ids", np.ones(carries.shape, np.int32))
    return TokenLoss(np.where(carries, nats / weights, 0.0), carries, examples)


def recorded_loss(run_dir: str, step: int) -> tuple[float, float] | None:
    """Nats a token that training measured in this step, without and with z-loss; None where it isn't written down."""
    from t5x_mini.train.metrics import LOSS, METRICS_FILE, read_metrics

    wanted = ("cross_ent_loss_per_all_target_tokens", "non_padding_fraction/loss_weights")
    for row in reversed(read_metrics(to_path(run_dir) / METRICS_FILE)):
        if row["step"] == step and all(name in row for name in wanted) and row[wanted[1]]:
            return row[wanted[0]] / row[wanted[1]], row[LOSS]
    return None


def why_they_differ(checkpoint: Checkpoint, config: RunConfig) -> list[str]:
    """What makes training's own loss of the batch another one than `measure`'s, as far as the run has it."""
    reasons = {
        "the checkpoint is of another step": checkpoint.step != checkpoint.met,
        f"training dropped out {config.model.dropout_rate:g}": config.model.dropout_rate > 0,
        f"training smoothed labels by {config.loss.label_smoothing:g}": config.loss.label_smoothing > 0,
    }
    return [reason for reason, holds in reasons.items() if holds]


def _rows(batch: Batch, start: int, size: int) -> dict[str, np.ndarray]:
    """`size` rows from `start` on; padding where the batch has ended, so that all shapes are the same."""
    missing = max(start + size - len(batch["decoder_loss_weights"]), 0)
    return {name: np.pad(rows[start : start + size], ((0, missing), (0, 0))) for name, rows in batch.items()}


def _mean(nats: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(nats)) if len(nats) else float("nan")
