"""Prefix and causal language models in Hugging Face's format, with the few lines of PyTorch that run them.

No class of transformers is such a model, so the folder carries one (`remote_code/`), which
`AutoModelForCausalLM.from_pretrained(PATH, trust_remote_code=True)` loads. Its tensors have our names, a little
shorter: without `params/decoder/`, with `layers.0` for `layers_0`, and with `weight` for whatever a module calls its
array.
"""

from __future__ import annotations

import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any

from t5x_mini import config_checks
from t5x_mini.checkpoint.huggingface.names import Stored, disk_shapes
from t5x_mini.errors import UserError
from t5x_mini.model.config import TransformerConfig
from t5x_mini.tasks.vocabularies import EOS_ID, PAD_ID

MODEL_TYPE = "t5x_mini"
CODE = pathlib.Path(__file__).parent / "remote_code"

# TransformerConfig's fields by the names in config.json.
_FIELDS = {
    "architecture": "architecture",
    "vocab_size": "vocab_size",
    "emb_dim": "emb_dim",
    "num_layers": "num_decoder_layers",
    "num_heads": "num_heads",
    "head_dim": "head_dim",
    "mlp_dim": "mlp_dim",
    "mlp_activations": "mlp_activations",
    "tie_word_embeddings": "logits_via_embedding",
    "relpos_buckets": "relpos_buckets",
    "relpos_max_distance": "relpos_max_distance",
    "relpos_bias_per_layer": "relpos_bias_per_layer",
}


def hf_config(
    model: TransformerConfig, dropout_rate: float, feature_lengths: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """config.json of a prefix or causal LM, without the dtype of its tensors.

    `feature_lengths` (TASK_FEATURE_LENGTHS of training) is for reading it back: whether inputs end in EOS hangs on it.
    """
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["T5XMiniForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_t5x_mini.T5XMiniConfig",
            "AutoModelForCausalLM": "modeling_t5x_mini.T5XMiniForCausalLM",
        },
        "pad_token_id": PAD_ID,
        "bos_token_id": PAD_ID,
        "eos_token_id": EOS_ID,
        **{theirs: getattr(model, ours) for theirs, ours in _FIELDS.items()},
        "dropout_rate": dropout_rate,
        **({"feature_lengths": dict(feature_lengths)} if feature_lengths else {}),
    }


def model_config(hf: Mapping[str, Any], path: str) -> TransformerConfig:
    """The inverse of `hf_config`.

    Raises:
        UserError: where `path`'s config.json, which `hf` is, lacks a size or names an unknown architecture.
    """
    missing = [name for name in _FIELDS if name not in hf]
    if missing:
        raise UserError(
            f"{path}/config.json does not say {', '.join(missing)} of its {MODEL_TYPE} model. Export the model again: "
            "t5x-mini export --to=hf CKPT PATH"
        )
    if hf["architecture"] not in ("prefix_lm", "causal_lm"):
        raise UserError(
            f"{path}/config.json is of the architecture {hf['architecture']!r}; a {MODEL_TYPE} model is prefix_lm or "
            "causal_lm."
        )
    fields = {ours: hf[theirs] for theirs, ours in _FIELDS.items()}
    config_checks.check_fields(TransformerConfig, fields, f"{path}/config.json")
    return TransformerConfig(**fields | {"mlp_activations": tuple(hf["mlp_activations"])})


def names(model: TransformerConfig) -> dict[str, Stored]:
    """Where each array is in the file, by its name in our checkpoints."""
    return {name: _stored(name) for name in disk_shapes(model)}


def write_code(folder: pathlib.Path) -> None:
    """Puts the model's PyTorch files beside its tensors."""
    for name in ("configuration_t5x_mini.py", "modeling_t5x_mini.py"):
        shutil.copyfile(CODE / name, folder / name)


def _stored(name: str) -> Stored:
    module, _, array = name.removeprefix("params/decoder/").rpartition("/")
    theirs = re.sub(r"^layers_(\d+)/", r"layers/\1/", module).replace("/", ".")
    return Stored(f"{theirs}.weight", transposed=array in ("kernel", "rel_embedding"))
