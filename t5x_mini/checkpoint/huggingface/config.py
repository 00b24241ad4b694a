"""Hugging Face's config.json of a T5, and the model that it means.

T5, mT5 and ByT5 differ in sizes alone; umT5 has a relative position bias in every layer. What ours don't do
(other activations, another epsilon, an encoder alone) is refused.

`tie_word_embeddings` says two things in these files: whether the output head is the embedding, and whether the logits
are divided by the square root of the width. transformers 5 always ties a head that the file doesn't hold, and keeps
the second meaning only (`scale_decoder_outputs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t5x_mini import config_checks
from t5x_mini.errors import UserError
from t5x_mini.model.config import TransformerConfig

MODEL_TYPES = ("t5", "mt5", "umt5")
EPSILON = 1e-6
ACTIVATIONS = {
    "relu": ("relu",),
    "gelu_new": ("gelu",),  # the tanh form, which is our gelu
    "silu": ("silu",),
    "gated-relu": ("relu", "linear"),
    "gated-gelu": ("gelu", "linear"),  # transformers takes the tanh form for this one
    "gated-silu": ("silu", "linear"),
}
# What every model of the family has, unless its config.json says otherwise; any other value is refused.
_FIXED = {
    "is_encoder_decoder": (True, "an encoder alone or a decoder alone is no T5 that can be trained here"),
    "is_decoder": (False, "a decoder alone is no T5 that can be trained here"),
    "layer_norm_epsilon": (EPSILON, "the norms here have T5's epsilon"),
    "pad_token_id": (0, "the ids are T5's: padding 0, EOS 1"),
    "eos_token_id": (1, "the ids are T5's: padding 0, EOS 1"),
    "decoder_start_token_id": (0, "the decoder's first input is padding, id 0"),
}
_SIZES = {  # of TransformerConfig: name there, default of transformers 5
    "vocab_size": ("vocab_size", None),
    "emb_dim": ("d_model", 512),
    "num_heads": ("num_heads", None),
    "head_dim": ("d_kv", 64),
    "num_encoder_layers": ("num_layers", None),
    "mlp_dim": ("d_ff", None),
    "relpos_buckets": ("relative_attention_num_buckets", 32),
    "relpos_max_distance": ("relative_attention_max_distance", 128),
}


def model_config(hf: Mapping[str, Any], path: str) -> TransformerConfig:
    """The model of a config.json. `logits_via_embedding` is whether the logits are scaled; the file's tensors say
    whether there is a head of its own after all.

    Args:
        hf: the content of config.json.
        path: where it is, for errors.

    Raises:
        UserError: where no TransformerConfig is this model.
    """
    kind = hf.get("model_type")
    if kind not in MODEL_TYPES:
        raise UserError(
            f"{path} holds a model of the type {kind!r}. T5 models can be read: {', '.join(MODEL_TYPES)} (ByT5 and "
            "Flan-T5 are of the type t5)."
        )
    for name, (wanted, why) in _FIXED.items():
        found = hf.get(name, wanted)
        if found is not None and found != wanted:
            raise UserError(f"{path}: its config.json has {name} = {found}, not {wanted}: {why}.")
    missing = [name for name, default in _SIZES.values() if default is None and name not in hf]
    if missing:
        raise UserError(f"{path}: its config.json does not say {', '.join(missing)}. Is it complete?")
    sizes = {ours: checked_size(hf.get(name, default), ours, name, path) for ours, (name, default) in _SIZES.items()}
    layers = hf.get("num_decoder_layers")
    layers = sizes["num_encoder_layers"] if layers is None else layers
    return TransformerConfig(
        **sizes,
        num_decoder_layers=checked_size(layers, "num_decoder_layers", "num_decoder_layers", path),
        mlp_activations=_activations(hf, path),
        logits_via_embedding=scales_logits(hf),
        relpos_bias_per_layer=kind == "umt5",
    )


def checked_size(value: Any, ours: str, name: str, path: str) -> int:
    """The value of `TransformerConfig.<ours>`, which config.json calls `name`. Raises UserError if it can't be one."""
    if type(value) is not int or config_checks.range_of("TransformerConfig", ours, value):
        words = config_checks.range_of("TransformerConfig", ours, -1)
        raise UserError(f"{path}: its config.json has {name} = {value!r}, not a whole number {words}. Copy it again.")
    return value


def scales_logits(hf: Mapping[str, Any]) -> bool:
    """Whether transformers 5 divides the logits by the square root of the width.

    mT5's never are: transformers writes `tie_word_embeddings: true` into their files without meaning it.
    """
    if hf["model_type"] == "mt5":
        return False
    return bool(hf.get("scale_decoder_outputs", hf.get("tie_word_embeddings") is not False))


def hf_config(model: TransformerConfig, dropout_rate: float) -> dict[str, Any]:
    """config.json of an encoder-decoder, without the dtype of its tensors.

    Raises:
        UserError: where transformers has no such model.
    """
    by_activations = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    if model.mlp_activations not in by_activations:
        raise UserError(
            f"transformers has no T5 with TransformerConfig.mlp_activations = {model.mlp_activations}, so the model "
            f"cannot be written for it. It has {', '.join(map(str, by_activations))}."
        )
    family = "UMT5" if model.relpos_bias_per_layer else "T5"
    return {
        "architectures": [f"{family}ForConditionalGeneration"],
        "model_type": family.lower(),
        **{theirs: getattr(model, ours) for ours, (theirs, _) in _SIZES.items()},
        "num_decoder_layers": model.num_decoder_layers,
        "feed_forward_proj": by_activations[model.mlp_activations],
        "tie_word_embeddings": model.logits_via_embedding,
        "layer_norm_epsilon": EPSILON,
        "dropout_rate": dropout_rate,
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "use_cache": True,
        **{name: _FIXED[name][0] for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id")},
    }


def _activations(hf: Mapping[str, Any], path: str) -> tuple[str, ...]:
    default = "relu" if hf["model_type"] == "t5" else "gated-gelu"
    name = hf.get("feed_forward_proj", default)
    if name not in ACTIVATIONS:
        raise UserError(
            f"{path}: its config.json has feed_forward_proj = {name!r}, which is no activation of ours. Known are "
            f"{', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[name]
