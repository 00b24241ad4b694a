"""From a checkpoint to a model that answers, in one call: `t5x_mini.load`."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax

from t5x_mini.checkpoint.restore_plan import load_params
from t5x_mini.checkpoint.source import Origin, Source, open_source
from t5x_mini.errors import UserError
from t5x_mini.evaluate.id_predictor import param_shardings
from t5x_mini.evaluate.predictor import Predictor
from t5x_mini.model import transformer
from t5x_mini.parallel.config import PartitioningConfig
from t5x_mini.parallel.mesh import make_mesh
from t5x_mini.parallel.partitioner import MeshPartitioner
from t5x_mini.tasks import vocabularies

Dtype = Literal["float32", "bfloat16"]


def load(
    path: str,
    *,
    dtype: Dtype | None = None,
    vocabulary: str | None = None,
    extra_ids: int | None = None,
    mesh: PartitioningConfig | None = None,
) -> Predictor:
    """A trained model, ready to `.generate(texts)`, `.score(inputs, targets)` and `.encode(texts)`.

        model = t5x_mini.load("runs/quickstart")
        model.generate(["The function returns <extra_id_0> if the list is empty."])

    Args:
        path: a run's folder or one of its checkpoints, an imported one, a Hugging Face folder or hub name
            (`google/flan-t5-small`), or a T5X checkpoint.
        dtype: of activations and matrix products; None: float32 on CPUs, bfloat16 elsewhere. T5 1.0's and 1.1's
            public models overflow in float16, which is why there is none.
        vocabulary: a name or path that `VOCABULARY` takes; None: the one that the checkpoint names.
        extra_ids: on top of it; None: as many as the checkpoint says, or T5's 100.
        mesh: how several devices share the work; None: each has the whole model, and takes a part of the rows.

    Raises:
        UserError: where there is no checkpoint, or its vocabulary isn't found or doesn't fit.
    """
    return from_source(open_source(path), dtype=dtype, vocabulary=vocabulary, extra_ids=extra_ids, mesh=mesh)


def from_source(
    source: Source,
    *,
    dtype: Dtype | None = None,
    vocabulary: str | None = None,
    extra_ids: int | None = None,
    mesh: PartitioningConfig | None = None,
) -> Predictor:
    """`load` of a checkpoint that is open already."""
    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype = {dtype!r} must be 'float32' or 'bfloat16'.")
    origin = source.origin
    found = _vocabulary(origin, vocabulary, extra_ids)
    config = dataclasses.replace(origin.model, dtype=dtype)
    partitioner = MeshPartitioner(make_mesh(mesh or PartitioningConfig()))
    shapes = transformer.param_shapes(config)
    known = vocabularies.identity(found) if found else None
    params = load_params(source, shapes, param_shardings(partitioner, config), config, vocabulary=known)
    return Predictor(params, config, found, partitioner, feature_lengths=origin.feature_lengths)


def _vocabulary(origin: Origin, name: str | None, extra_ids: int | None) -> vocabularies.Vocabulary | None:
    name = name or origin.vocabulary
    if name is None:
        return None
    found = vocabularies.load(name, origin.extra_ids if extra_ids is None else extra_ids)
    if found.vocab_size > origin.model.vocab_size:
        raise UserError(
            f"The vocabulary {name} has {found.vocab_size} ids with its {found.extra_ids} extra ones, but the model in "
            f"{origin.path} knows {origin.model.vocab_size}. Name the one that it was trained with, and its extra_ids."
        )
    return found
