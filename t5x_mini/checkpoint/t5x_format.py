"""T5X's checkpoints under our names: its native ones, and those that it wrote through Orbax.

T5X's state, by the names that `t5x_files.py` opens it under:

    target/encoder/layers_0/mlp/wo/kernel                  a parameter
    state/param_states/encoder/layers_0/mlp/wo/kernel/v    Adafactor's moments of it: v, or v_row and v_col
    state/step

Moments that are not used are zeros of shape [1]. The parameters of T5X's network `examples/t5` have our names and
shapes. `examples/scalable_t5`, which umT5 was trained with, differs: attention kernels have heads and their width on
axes of their own, [embed, heads, width] and, for `out`, [heads, width, embed]; every layer has a relative position
bias; and with scanned layers (`encoder/encoder/mlp/wo/kernel`) every array has the layers on axis 1.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
import re
from collections.abc import Callable, Mapping

import jax
import numpy as np

from t5x_mini.checkpoint import layout, t5x_files
from t5x_mini.checkpoint.source import Origin
from t5x_mini.checkpoint.t5x_files import Leaf
from t5x_mini.errors import UserError
from t5x_mini.model import transformer
from t5x_mini.model.config import Architecture, TransformerConfig
from t5x_mini.train.optimizers import Adafactor

Shape = tuple[int, ...]
Readers = dict[str, tuple[Shape, Callable[[], np.ndarray]]]

_SCANNED = re.compile(r"(encoder|decoder)/\1/(.+)")
_SCAN_AXIS = 1


class T5XSource:
    """A T5X checkpoint that is open for reading (`source.Source`).

    What comes of one stacked array is together in `shapes`: reading in this order reads every array once.
    """

    def __init__(self, path: str, architecture: Architecture | None = None):
        """Opens it; reads names and shapes only.

        Args:
            path: a folder `checkpoint_<step>`, or the one that holds them for the newest; `gs://` works.
            architecture: of a checkpoint without an encoder, `prefix_lm` or `causal_lm`: T5X doesn't record which.
                None: `prefix_lm`.

        Raises:
            UserError: there is no checkpoint, it is incomplete, or it isn't of a T5.
        """
        folder = t5x_files.newest(path)
        leaves = t5x_files.open_leaves(folder)
        step = int(t5x_files.read(leaves["state/step"])) if "state/step" in leaves else None
        run = t5x_files.RunConfigGin(folder)
        params = _Params(_under("target", leaves))
        moments = _Moments(params.by_name, _under("state/param_states", leaves), step)
        model, assumed = _infer_model(folder, params.shapes, architecture, run.mlp_activations)
        self._readers = params.readers() | moments.readers()
        if step is not None:
            self._readers["step"] = ((), functools.partial(np.asarray, step, np.int32))
        self.shapes: Mapping[str, Shape] = {name: shape for name, (shape, _) in self._readers.items()}
        self.origin = Origin(
            path=folder,
            kind="t5x",
            model=model,
            step=step,
            vocabulary=run.vocabulary,
            extra_ids=run.extra_ids,
            loss_normalizing_factor=run.loss_normalizing_factor,
            dropout_rate=run.dropout_rate,
            notes=(*assumed, *moments.notes),
        )

    def read(self, name: str) -> np.ndarray:
        """One array, float32 where it is of floats."""
        return self._readers[name][1]()


def is_t5x(path: str) -> bool:
    """Whether there is something that T5X wrote: a folder `checkpoint_<step>`, or one that holds such folders."""
    path = os.path.expanduser(path)
    return t5x_files.is_complete(path) or bool(t5x_files.steps(path))


def _under(prefix: str, leaves: Mapping[str, Leaf]) -> dict[str, Leaf]:
    return {name.removeprefix(f"{prefix}/"): leaf for name, leaf in leaves.items() if name.startswith(f"{prefix}/")}


# ---------------------------------------------------------------------------------------------------- parameters


@dataclasses.dataclass(frozen=True)
class _Param:
    """Where one of our parameters is in T5X's.

    Attributes:
        key: T5X's name.
        layer: of a stacked array; None: the array isn't stacked.
        theirs: the shape that it has there, without the layers.
        ours: the same with two axes at most.
    """

    key: str
    layer: int | None
    theirs: Shape
    ours: Shape

    @property
    def embed_last(self) -> bool:
        """Whether a kernel's axis of width `emb_dim` is its last one and not its first."""
        return self.key.endswith(("/out/kernel", "/wo/kernel"))


class _Arrays:
    """Arrays by T5X's names; of stacked ones the last is kept, as its layers are read one after the other."""

    def __init__(self, leaves: Mapping[str, Leaf]):
        self.leaves = leaves
        self._stacked = functools.lru_cache(maxsize=1)(lambda key: t5x_files.read(leaves[key]))

    def read(self, key: str, layer: int | None, axis: int) -> np.ndarray:
        """An array, or the layer of a stacked one that has the layers on `axis`."""
        if layer is None:
            return t5x_files.read(self.leaves[key])
        return np.ascontiguousarray(self._stacked(key).take(layer, axis))


class _Params:
    """The parameters."""

    def __init__(self, leaves: Mapping[str, Leaf]):
        self._arrays = _Arrays(leaves)
        named = (_named(key, tuple(leaf.shape)) for key, leaf in leaves.items())
        self.by_name: dict[str, _Param] = dict(itertools.chain.from_iterable(named))

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: param.ours for name, param in self.by_name.items()}

    def readers(self) -> Readers:
        return {
            f"params/{name}": (param.ours, functools.partial(self._read, param)) for name, param in self.by_name.items()
        }

    def _read(self, param: _Param) -> np.ndarray:
        return self._arrays.read(param.key, param.layer, _SCAN_AXIS).reshape(param.ours)


def _named(key: str, shape: Shape) -> list[tuple[str, _Param]]:
    """Our names of one of T5X's arrays: one, or one a layer."""
    scanned = _SCANNED.fullmatch(key)
    if not scanned or len(shape) <= _SCAN_AXIS:
        return [(key, _Param(key, None, shape, _joined(key, shape)))]
    stack, rest = scanned.groups()
    one = shape[:_SCAN_AXIS] + shape[_SCAN_AXIS + 1 :]
    layers = range(shape[_SCAN_AXIS])
    return [(f"{stack}/layers_{i}/{rest}", _Param(key, i, one, _joined(key, one))) for i in layers]


def _joined(key: str, shape: Shape) -> Shape:
    """Heads and their width as one axis, where a kernel has them apart."""
    if len(shape) < 3 or not key.endswith("/kernel"):
        return shape
    split = len(shape) - 1 if key.endswith("/out/kernel") else 1
    return math.prod(shape[:split]), math.prod(shape[split:])


# ----------------------------------------------------------------------------------------------- optimiser state


class _Moments:
    """Adafactor's state, as ours with its default settings has it (`train/optimizers.py`).

    Both keep running means of squared gradients, either whole (`v`) or as the means of rows and of columns. `v_row` is
    the mean over the longer axis in ours, and in T5X's where an array has two axes; where it has more, stacked layers
    included, `v_row` is the mean over all but `emb_dim`. T5X factors the latter whatever their size, and nothing if so
    configured: the means are then made from the whole, and a small matrix' whole from its means, as Adafactor does.
    """

    def __init__(self, params: Mapping[str, _Param], leaves: Mapping[str, Leaf], step: int | None):
        """`step` is the number of updates; without it nothing is read."""
        self._arrays = _Arrays(leaves)
        self._step = step
        self._params = {name: param for name, param in params.items() if step is not None and self._has(param)}

    @property
    def notes(self) -> tuple[str, ...]:
        leaves, notes = self._arrays.leaves, []
        if leaves and not self._params:
            notes.append("the optimiser's state is left out: it is not that of T5X's Adafactor")
        if any(name.endswith("/m") and tuple(leaf.shape) != (1,) for name, leaf in leaves.items()):
            notes.append("Adafactor's momentum is left out: Adafactor has none here")
        if any(_is_whole(param.ours) and not self._used(param, "v") for param in self._params.values()):
            notes.append("T5X kept means of squared gradients that Adafactor keeps whole here: made from the means")
        return tuple(notes)

    def readers(self) -> Readers:
        return {
            f"opt_state/{name}/{moment}": (shape, functools.partial(self._read, param, moment, shape))
            for moment in ("count", "v_row", "v_col", "v")
            for name, param in self._params.items()
            for shape in [_state_shapes(param.ours)[moment]]
        }

    def _read(self, param: _Param, moment: str, shape: Shape) -> np.ndarray:
        if moment == "count":
            return np.asarray(self._step, np.int32)
        factored = not _is_whole(param.ours)
        if (moment == "v") == factored:
            return np.zeros(shape, np.float32)
        if factored:
            shorter, longer = np.argsort(param.ours)
            return self._mean(param, shorter if moment == "v_row" else longer)
        if self._used(param, "v"):
            return self._whole(param)
        rows, columns = self._mean(param, 0), self._mean(param, 1)
        return np.outer(rows, columns) / rows.mean()

    def _mean(self, param: _Param, axis: int) -> np.ndarray:
        """For each row (axis 0) or column (axis 1) of the parameter, the mean of its squared gradients."""
        if self._used(param, "v"):
            return self._whole(param).mean(axis=1 - axis)
        if param.layer is None and len(param.theirs) == 2:
            return self._moment(param, "v_row" if axis == np.argsort(param.theirs)[0] else "v_col")
        # Of [embed, layers, rest] one is [embed, layers] and the other [layers, rest]; of [rest, layers, embed] too.
        of_embed = axis == (1 if param.embed_last else 0)
        return self._moment(param, "v_row" if of_embed else "v_col", 1 - axis).reshape(-1)

    def _whole(self, param: _Param) -> np.ndarray:
        return self._moment(param, "v", _SCAN_AXIS).reshape(param.ours)

    def _moment(self, param: _Param, moment: str, layer_axis: int = 0) -> np.ndarray:
        return self._arrays.read(f"{param.key}/{moment}", param.layer, layer_axis)

    def _has(self, param: _Param) -> bool:
        return self._used(param, "v") or (self._used(param, "v_row") and self._used(param, "v_col"))

    def _used(self, param: _Param, moment: str) -> bool:
        leaf = self._arrays.leaves.get(f"{param.key}/{moment}")
        return leaf is not None and tuple(leaf.shape) != (1,)


@functools.cache
def _state_shapes(shape: Shape) -> dict[str, Shape]:
    """Shapes of the state of a parameter of this shape, by name."""
    state = jax.eval_shape(Adafactor().transform("").init, jax.ShapeDtypeStruct(shape, np.float32))
    return {moment: tuple(leaf.shape) for moment, leaf in state[0]._asdict().items()}


def _is_whole(shape: Shape) -> bool:
    """Whether a parameter of this shape is too small to be factored."""
    return _state_shapes(shape)["v"] == shape


# ----------------------------------------------------------------------------------------------------- the model


def _infer_model(
    path: str,
    shapes: Mapping[str, Shape],
    architecture: Architecture | None,
    mlp_activations: tuple[str, ...] | None,
) -> tuple[TransformerConfig, list[str]]:
    """The model that has parameters of these names and shapes, and what had to be assumed of it."""
    has_encoder = any(name.startswith("encoder/") for name in shapes)
    if architecture and has_encoder != (architecture == "encoder_decoder"):
        raise UserError(
            f"{path} has {'an' if has_encoder else 'no'} encoder, so that its architecture is "
            f"{'encoder_decoder' if has_encoder else 'prefix_lm or causal_lm'}, and not {architecture}."
        )
    try:
        model = _sizes(shapes, has_encoder)
    except KeyError as error:
        raise UserError(
            f"{path} holds no T5 as it is known here: it has no parameter {error}. What T5X's networks examples/t5, "
            "examples/scalable_t5 and examples/decoder_only wrote can be read."
        ) from None
    _check_parameters(path, shapes, model)
    assumed = []
    if mlp_activations is None:
        gated = len(model.mlp_activations) > 1
        assumed.append(f"T5X doesn't say what the activation is: taken to be {'a gated GELU' if gated else 'ReLU'}")
    if not has_encoder and architecture is None:
        assumed.append("T5X doesn't say whether it is a prefix_lm or a causal_lm: taken to be a prefix_lm")
    return (
        dataclasses.replace(
            model,
            architecture=architecture or model.architecture,
            mlp_activations=mlp_activations or model.mlp_activations,
        ),
        assumed,
    )


def _sizes(shapes: Mapping[str, Shape], has_encoder: bool) -> TransformerConfig:
    vocab_size, emb_dim = shapes["token_embedder/embedding" if has_encoder else "decoder/token_embedder/embedding"]
    per_layer = "decoder/layers_0/relpos_bias/rel_embedding" in shapes
    heads, buckets = shapes[f"decoder/{'layers_0/' if per_layer else ''}relpos_bias/rel_embedding"]
    gated = "decoder/layers_0/mlp/wi_0/kernel" in shapes
    return TransformerConfig(
        architecture="encoder_decoder" if has_encoder else "prefix_lm",
        vocab_size=vocab_size,
        emb_dim=emb_dim,
        num_heads=heads,
        head_dim=shapes["decoder/layers_0/self_attention/query/kernel"][1] // heads,
        num_encoder_layers=_layers("encoder", shapes),
        num_decoder_layers=_layers("decoder", shapes),
        mlp_dim=shapes["decoder/layers_0/mlp/wo/kernel"][0],
        mlp_activations=("gelu", "linear") if gated else ("relu",),
        logits_via_embedding="decoder/logits_dense/kernel" not in shapes,
        relpos_buckets=buckets,
        relpos_bias_per_layer=per_layer,
    )


def _layers(stack: str, shapes: Mapping[str, Shape]) -> int:
    return len({match[1] for name in shapes if (match := re.match(rf"{stack}/layers_(\d+)/", name))})


def _check_parameters(path: str, shapes: Mapping[str, Shape], model: TransformerConfig) -> None:
    on_disk = layout.shapes_by_name({"params": transformer.param_shapes(model)})
    wanted = {name.removeprefix("params/"): shape for name, shape in on_disk.items()}
    for names, what in ((wanted.keys() - shapes.keys(), "lacks"), (shapes.keys() - wanted.keys(), "has besides")):
        if names:
            raise UserError(f"{path} holds no T5 as it is known here: it {what} {', '.join(sorted(names)[:3])}.")
    for name in wanted:
        if shapes[name] != wanted[name]:
            raise UserError(f"{path} holds no T5 as it is known here: {name} is {shapes[name]}, not {wanted[name]}.")
