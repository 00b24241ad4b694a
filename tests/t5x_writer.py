"""Writes checkpoints as T5X does: native, and through Orbax."""

from __future__ import annotations

import numpy as np
import tensorstore as ts
from flax import serialization

from t5x_mini.checkpoint import layout


def native(folder, flat, *, inline=lambda name, array: array.ndim == 0 or array.shape == (1,), driver="file"):
    """`flat` by T5X's names as its Checkpointer writes it: those that are `inline` in the msgpack file."""

    def leaf(name, array):
        if inline(name, array):
            return array
        dotted = name.replace("/", ".")
        chunks = [max(1, size // 2) if size % 2 == 0 else size for size in array.shape]
        spec = {
            "driver": "zarr",
            "dtype": array.dtype.name,
            "kvstore": {"driver": "file", "path": f"{folder}/{dotted}/"},
            "metadata": {"shape": list(array.shape), "chunks": chunks, "compressor": {"id": "gzip", "level": 1}},
        }
        ts.open(spec, create=True, open=True).result().write(array).result()
        return spec | {"kvstore": {"driver": driver, "path": f"{dotted}/"}}

    folder.mkdir(parents=True)
    tree = nested({name: leaf(name, array) for name, array in flat.items()})
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize({"version": 3, "optimizer": tree}))


def orbax(folder, flat, *, ocdbt=True):
    """`flat` by T5X's names as its OrbaxCheckpointManager writes it."""
    import orbax.checkpoint as ocp
    from etils import epath

    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt)
    ocp.Checkpointer(handler).save(epath.Path(folder) / "state", args=ocp.args.PyTreeSave(nested(flat)))


def nested(flat):
    return layout.nest(flat)


def as_state(params, moments=None, step=6):
    """T5X's state of these parameters, by name; `moments` are by name too, `.../v_row`."""
    state = {f"target/{name}": np.asarray(array) for name, array in params.items()}
    state |= {f"state/param_states/{name}": np.asarray(array) for name, array in (moments or {}).items()}
    return state | {"state/step": np.asarray(step, np.int32)}


def scanned(flat):
    """What `examples/scalable_t5` makes of unscanned parameters or gradients by our names: layers stacked on axis 1.

    Args:
        flat: `{name: array}`, kernels of attention already with heads apart (`heads_apart`).
    """
    stacks: dict[str, dict[int, np.ndarray]] = {}
    for name, array in flat.items():
        stack, _, rest = name.partition("/")
        layer, _, rest = rest.partition("/")
        if layer.startswith("layers_"):
            stacks.setdefault(f"{stack}/{stack}/{rest}", {})[int(layer.removeprefix("layers_"))] = array
        else:
            stacks[name] = {-1: array}
    return {
        name: layers[-1] if -1 in layers else np.stack([layers[i] for i in range(len(layers))], axis=1)
        for name, layers in stacks.items()
    }


def heads_apart(flat, heads):
    """Attention kernels as [embed, heads, width] and, for `out`, [heads, width, embed]."""

    def apart(name, array):
        if "attention" not in name or not name.endswith("/kernel"):
            return array
        rows, columns = array.shape
        return array.reshape((heads, -1, columns) if name.endswith("/out/kernel") else (rows, heads, -1))

    return {name: apart(name, np.asarray(array)) for name, array in flat.items()}


def scanned_moments(name, square):
    """Adafactor's moments of one stacked array, from its mean squared gradient, by `standard_logical_factor_rules`:
    `v_row` is a mean over all axes but `embed` and `layers`, `v_col` over `embed`; biases, scales and what isn't
    stacked (as long as it is small) are whole."""
    none = np.zeros(1, np.float32)
    if square.ndim < 3 or not name.endswith("/kernel"):
        return {"m": none, "v": square, "v_row": none, "v_col": none}
    embed = square.ndim - 1 if name.endswith(("/out/kernel", "/wo/kernel")) else 0
    rest = tuple(axis for axis in range(square.ndim) if axis not in (embed, 1))
    return {"m": none, "v": none, "v_row": square.mean(axis=rest), "v_col": square.mean(axis=embed)}
