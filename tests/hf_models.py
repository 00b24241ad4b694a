"""Random models of transformers' T5 family in every variant, with files like their authors'; and ours as a source."""

from __future__ import annotations

import json

import numpy as np

from t5x_mini.checkpoint import layout
from t5x_mini.checkpoint.source import Origin
from t5x_mini.model import transformer
from t5x_mini.model.transformer import is_stacked
from t5x_mini.train.param_names import of_layers

_SIZES = dict(vocab_size=48, d_model=16, d_kv=8, num_heads=3, d_ff=24, num_layers=2, num_decoder_layers=2)
_GATED = dict(feed_forward_proj="gated-gelu", tie_word_embeddings=False)
# What each family's published config.json says, with small sizes. A scaled head is the embedding.
VARIANTS = {
    "t5": dict(model_type="t5", feed_forward_proj="relu", **_SIZES),
    "t5_1_1": dict(model_type="t5", **_GATED, **_SIZES),
    "mt5": dict(model_type="mt5", **_GATED, **_SIZES | {"vocab_size": 56}),
    "byt5": dict(model_type="t5", **_GATED, **_SIZES | {"num_layers": 3, "num_decoder_layers": 1, "vocab_size": 384}),
    "umt5": dict(model_type="umt5", **_GATED, **_SIZES),
    "umt5_tied": dict(model_type="umt5", feed_forward_proj="gated-gelu", **_SIZES),
}
CLASSES = {"t5": "T5", "mt5": "MT5", "umt5": "UMT5"}


def config_json(variant, **changes):
    """config.json, as its family's authors wrote it."""
    chosen = VARIANTS[variant] | changes
    ids = dict(pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, is_encoder_decoder=True)
    name = f"{CLASSES[chosen['model_type']]}ForConditionalGeneration"
    return {"architectures": [name], "layer_norm_epsilon": 1e-6, "dropout_rate": 0.1, **ids, **chosen}


def write(folder, variant, *, dtype="float32", shard_size="5GB", seed=0, **changes):
    """Writes a random model's folder, norms and biases of positions random too; gives its tensors by name.

    transformers ties the head of a model that it makes, so that its tensors are drawn here, by their names in its
    state_dict, and the head apart from the embedding where config.json has `tie_word_embeddings: false`.
    """
    import torch
    import transformers
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    content = config_json(variant, **changes)
    (folder / "config.json").write_text(json.dumps(content))
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForSeq2SeqLM.from_config(config)
    tied = content.get("tie_word_embeddings") is not False
    rng = np.random.default_rng(seed)
    tensors = {
        name: torch.from_numpy(_drawn(rng, name, tuple(tensor.shape), config.d_kv)).to(getattr(torch, dtype))
        for name, tensor in model.state_dict().items()
        if "embed_tokens" not in name and not (tied and name == "lm_head.weight")
    }
    if shard_size == "5GB":
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        from huggingface_hub import save_torch_state_dict

        save_torch_state_dict(tensors, folder, max_shard_size=shard_size)
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def load(folder, **options):
    """The model as `from_pretrained` makes it, in float32, without dropout."""
    import torch
    import transformers

    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32, **options).eval()
    content = json.loads((folder / "config.json").read_text())
    if content["model_type"] == "umt5" and content.get("tie_word_embeddings") is False:
        # transformers 5 overwrites it, and scales the logits of a model that was trained without (transformers 4 and
        # T5X don't).
        model.config.tie_word_embeddings = False
    return model


def _drawn(rng, name, shape, head_dim):
    """About as large as T5's: no layer's numbers vanish, and attention reads from more than one place."""
    if "layer_norm" in name:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if "relative_attention_bias" in name or name == "shared.weight":
        return rng.normal(0, 1, shape).astype(np.float32)
    deviation = shape[-1] ** -0.5 * (head_dim**-0.5 if name.endswith(".q.weight") else 1)
    return rng.normal(0, deviation, shape).astype(np.float32)


class MemorySource:
    """A model in memory as a checkpoint; `reads` lists what was read."""

    def __init__(self, model, params, vocabulary=None, extra_ids=0, **known):
        arrays = {name: np.asarray(array) for name, array in params.items()}  # compiles nothing
        self._arrays = layout.flatten(layout.to_disk({"params": arrays}))
        self.shapes = {name: array.shape for name, array in self._arrays.items()}
        known = {"path": "memory", "kind": "t5x_mini"} | known
        self.origin = Origin(model=model, vocabulary=vocabulary, extra_ids=extra_ids, **known)
        self.reads = []

    def read(self, name):
        self.reads.append(name)
        return self._arrays[name]


def params(source, config):
    """A source's parameters as the model takes them."""
    shapes = transformer.param_shapes(config)
    layers = {name: [source.read(f"params/{layer}") for layer in of_layers(name, shapes[name])] for name in shapes}
    return {name: np.stack(arrays) if is_stacked(name) else arrays[0] for name, arrays in layers.items()}


def perturbed(config, seed=0):
    """Random parameters of ours, about as large as T5's, with norms that are not all ones."""
    rng = np.random.default_rng(seed)
    return {
        name: _our_array(rng, name, shape.shape, config.head_dim)
        for name, shape in transformer.param_shapes(config).items()
    }


def _our_array(rng, name, shape, head_dim):
    if name.endswith("/scale"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if name.endswith("embedding"):
        return rng.normal(0, 1, shape).astype(np.float32)
    deviation = shape[-2] ** -0.5 * (head_dim**-0.5 if name.endswith("query/kernel") else 1)
    return rng.normal(0, deviation, shape).astype(np.float32)
