"""Our own checkpoints as a `Source`: arrays read one at a time, straight from the files that Orbax wrote."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from etils import epath

from t5x_mini.checkpoint import layout, manifest, manifest_of_hosts
from t5x_mini.checkpoint.locate import locate
from t5x_mini.checkpoint.run_item import RunItem, Training
from t5x_mini.checkpoint.source import Origin
from t5x_mini.checkpoint.steps import FOLDER
from t5x_mini.storage import to_path

logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax reports every phase of every read


# Where a checkpoint says what it is.
_DESCRIPTION = ("run/", "state/_", "state/manifest.ocdbt")


class OwnSource:
    """A run's checkpoint, or one that `t5x-mini import` made. See `source.Source`.

    What it is, is compared with its manifest when it is opened, and all of it before the first array is read. Several
    hosts share that: they read together.
    """

    def __init__(self, path: str):
        """Opens `runs/x` (its newest checkpoint) or `runs/x/checkpoints/1000`.

        Raises:
            UserError: where there is no complete checkpoint, or it is damaged.
        """
        run_dir, step = locate(path)
        self._folder, self._is_verified = to_path(run_dir) / FOLDER / str(step), False
        folder = self._folder
        manifest.require(folder, _DESCRIPTION)
        self._state = epath.Path(folder.absolute()) / "state"  # Orbax wants it so
        run = json.loads((folder / "run" / "metadata").read_text())
        self.origin = _origin(str(folder), step, RunItem.from_json(run), to_path(run_dir))
        try:
            arrays = layout.flatten(ocp.PyTreeCheckpointHandler().metadata(self._state).tree)
        except Exception:
            manifest.require(folder)  # the shapes stand among the arrays; if those are damaged, that is why
            raise
        self.shapes: Mapping[str, tuple[int, ...]] = {name: tuple(array.shape) for name, array in arrays.items()}

    def read(self, name: str) -> np.ndarray:
        """One array. Reads the file itself: a restore of Orbax's goes through the names of all arrays each time."""
        if not self._is_verified:
            manifest_of_hosts.require(self._folder)
            self._is_verified = True
        base = os.fspath(self._state)
        store = {"driver": "ocdbt", "base": base if "://" in base else Path(base).as_uri()}
        spec = {"driver": "zarr", "kvstore": store | {"path": name.replace("/", ".") + "/"}}
        return tensorstore.open(spec, open=True, read=True).result().read().result()


def _origin(path: str, step: int, run: RunItem, run_dir: Path) -> Origin:
    training = run.training or Training()
    name, extra_ids = run.vocabulary_source or (None, 100)
    beside = name and os.path.join(run_dir, name)
    if beside and to_path(beside).exists():  # an imported checkpoint's lies beside it
        name = beside
    return Origin(
        path=path,
        kind="t5x_mini",
        model=run.model,
        step=step if run.step_known else None,
        vocabulary=name,
        extra_ids=extra_ids,
        vocabulary_id=run.vocabulary,
        learning_rate=training.learning_rate,
        loss_normalizing_factor=training.loss_normalizing_factor,
        dropout_rate=training.dropout_rate,
        feature_lengths=training.feature_lengths,
    )
