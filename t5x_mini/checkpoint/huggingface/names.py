"""What Hugging Face calls the parameters of an encoder-decoder, and which way round it keeps them.

A kernel is `[in, out]` with us and `[out, in]` in PyTorch; a relative position bias `[heads, buckets]` with us and
`[buckets, heads]` there. T5 keeps the bias that a stack shares in the stack's first block, umT5 has one in each.
"""

from __future__ import annotations

from typing import NamedTuple

from t5x_mini.checkpoint import layout
from t5x_mini.model import transformer
from t5x_mini.model.config import TransformerConfig

EMBEDDING = "params/token_embedder/embedding"
HEAD = "params/decoder/logits_dense/kernel"
SHARED, LM_HEAD = "shared.weight", "lm_head.weight"
# The stacks' own names for the one embedding, which older files repeat.
COPIES_OF_SHARED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Files made by transformers 2 and 3 hold it; no version reads it.
UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)

_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "out": "o"}
# Of each stack, the sublayers in the order of their numbers there: our norm's name, our name, its name.
_SUBLAYERS = {
    "encoder": (
        ("pre_attention_layer_norm", "attention", "SelfAttention"),
        ("pre_mlp_layer_norm", "mlp", "DenseReluDense"),
    ),
    "decoder": (
        ("pre_self_attention_layer_norm", "self_attention", "SelfAttention"),
        ("pre_cross_attention_layer_norm", "encoder_decoder_attention", "EncDecAttention"),
        ("pre_mlp_layer_norm", "mlp", "DenseReluDense"),
    ),
}
# The encoder's name for a sublayer, or its norm, by the decoder's.
_OF_ENCODER = {
    name: twin
    for *names, theirs in _SUBLAYERS["decoder"]
    for *twins, same in _SUBLAYERS["encoder"]
    if same == theirs
    for name, twin in zip(names, twins, strict=True)
}


class Stored(NamedTuple):
    """Where one of our parameters is in a Hugging Face file.

    Attributes:
        name: of the tensor there.
        transposed: whether its two axes are the other way round.
    """

    name: str
    transposed: bool


def names(model: TransformerConfig) -> dict[str, Stored]:
    """Where every parameter of an encoder-decoder is in a Hugging Face file, by its name on our disk."""
    return {name: stored(name) for name in disk_shapes(model)}


def written(model: TransformerConfig) -> list[tuple[str, Stored]]:
    """Every tensor of the file with the parameter that it is made of: transformers has no layers that stacks share, and
    gets those twice."""
    once = list(names(model).items())
    of_encoder = [(name, stored(twin)) for name, _ in once if model.share_layers and (twin := _encoders_name(name))]
    return [*once, *of_encoder]


def _encoders_name(name: str) -> str | None:
    """What a parameter of a decoder's layer is called in an encoder's; None for those that encoders don't have."""
    top, stack, *path = name.split("/")
    if stack != "decoder" or len(path) < 3 or path[1] not in _OF_ENCODER:
        return None
    return "/".join((top, "encoder", path[0], _OF_ENCODER[path[1]], *path[2:]))


def stored(name: str) -> Stored:
    """Where one parameter is: `params/encoder/layers_0/mlp/wo/kernel` in `encoder.block.0.layer.1.DenseReluDense.wo`.

    Raises:
        KeyError: no encoder-decoder has a parameter of that name.
    """
    if name == EMBEDDING:
        return Stored(SHARED, False)
    if name == HEAD:
        return Stored(LM_HEAD, True)
    stack, *path = name.removeprefix("params/").split("/")
    if path == [f"{stack}_norm", "scale"]:
        return Stored(f"{stack}.final_layer_norm.weight", False)
    if path == ["relpos_bias", "rel_embedding"]:  # shared by the stack's layers
        path = ["layers_0", *path]
    block = f"{stack}.block.{path[0].removeprefix('layers_')}"
    if path[1:] == ["relpos_bias", "rel_embedding"]:
        return Stored(f"{block}.layer.0.SelfAttention.relative_attention_bias.weight", True)
    return _in_block(stack, block, path[1], path[2])


def disk_shapes(model: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter, by its name on our disk."""
    return layout.shapes_by_name({"params": transformer.param_shapes(model)})


def _in_block(stack: str, block: str, part: str, leaf: str) -> Stored:
    for number, (norm, ours, theirs) in enumerate(_SUBLAYERS[stack]):
        if part == norm:
            return Stored(f"{block}.layer.{number}.layer_norm.weight", False)
        if part == ours:
            return Stored(f"{block}.layer.{number}.{theirs}.{_PROJECTIONS.get(leaf, leaf)}.weight", True)
    raise KeyError(f"{block}: {part}/{leaf}")
