"""T5X's own numbers for tiny models (`tests/golden/*.npz`), under our names: the layers of a stack on axis 0."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from t5x_mini.model.config import TransformerConfig
from t5x_mini.train.config import LossConfig

FOLDER = Path(__file__).parent / "golden"
_NO_MODELS = ("adafactor_6_steps", "t5_lengths", "t5x_beam_search")
MODELS = sorted(path.stem for path in FOLDER.glob("*.npz") if path.stem not in _NO_MODELS)
DECODED = [name for name in MODELS if not name.endswith("_packed")]


@dataclasses.dataclass(frozen=True)
class Golden:
    """One file: a tiny model, a batch, and what T5X made of them. `loss` is a sum over tokens."""

    model: TransformerConfig
    loss_config: LossConfig
    params: dict[str, jax.Array]
    batch: dict[str, jax.Array]
    logits: np.ndarray
    loss: float
    grads: dict[str, np.ndarray]
    greedy_tokens: np.ndarray | None


def load(name: str) -> Golden:
    """The golden `tests/golden/<name>.npz`."""
    arrays = np.load(FOLDER / f"{name}.npz")
    config = json.loads(str(arrays["config"]))
    loss_config = LossConfig(
        label_smoothing=config.get("label_smoothing", 0.0), z_loss=config.get("z_loss", 1e-4), normalizing_factor=None
    )
    return Golden(
        model=_model(name, config),
        loss_config=loss_config,
        params=jax.tree.map(jnp.asarray, stacked(under("params", arrays))),
        batch=jax.tree.map(jnp.asarray, under("batch", arrays)),
        logits=arrays["logits"],
        loss=float(arrays["loss"]),
        grads=stacked(under("grads", arrays)),
        greedy_tokens=arrays.get("greedy/tokens"),
    )


def under(prefix: str, arrays) -> dict[str, np.ndarray]:
    """The arrays whose names begin with `prefix/`, by the rest of their names."""
    return {name.removeprefix(f"{prefix}/"): arrays[name] for name in arrays if name.startswith(f"{prefix}/")}


def stacked(flat: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`.../layers_0/...`, `.../layers_1/...` as one array `.../layers/...`."""
    parts: dict[str, dict[int, np.ndarray]] = {}
    for name, array in flat.items():
        layer = re.search(r"/layers_(\d+)/", name)
        parts.setdefault(re.sub(r"/layers_\d+/", "/layers/", name), {})[int(layer[1]) if layer else -1] = array
    return {
        name: layers[-1] if -1 in layers else np.stack([layers[i] for i in range(len(layers))])
        for name, layers in parts.items()
    }


def error(ours, golden) -> float:
    """The project's measure: the largest difference, in units of the reference's largest value."""
    ours, golden = np.asarray(ours, np.float64), np.asarray(golden, np.float64)
    assert ours.shape == golden.shape
    return float(np.abs(ours - golden).max() / np.abs(golden).max())


def _model(name: str, config: dict) -> TransformerConfig:
    fields = {field.name for field in dataclasses.fields(TransformerConfig)}
    sizes = {key: value for key, value in config.items() if key in fields}
    if "num_layers" in config:
        sizes["num_decoder_layers"] = config["num_layers"]
    sizes["mlp_activations"] = tuple(config["mlp_activations"])
    architecture = "encoder_decoder" if name.startswith("encdec") else name.removesuffix("_packed")
    return TransformerConfig(architecture=architecture, **sizes)
