"""How much arithmetic a step is, counted by hand, and how much a device could do: together, the MFU.

Only matrix products count, a multiply and an add as two operations. Embedding lookups, biases, norms and softmax are
left out, and what remat computes again is not counted: model FLOPs say what the step is for, not how it was executed.
6 * parameters * tokens, the usual shortcut, is twice too much for an encoder-decoder, where a token visits half of the
layers.
"""

from __future__ import annotations

from t5x_mini.model.config import TransformerConfig

# Dense bfloat16 operations per second of one JAX device, by `device.device_kind`. Where a chip is two JAX devices
# (TPU v2, v3 and 7x: one a core) this is half of the chip's figure.
# TPU: cloud.google.com/tpu/docs, "Peak compute per chip" of each generation. JAX calls v5e "TPU v5 lite", v5p "TPU v5".
# NVIDIA: data sheets; those of Hopper print the figure with 2:4 sparsity, which is twice this.
_PEAK_FLOPS = {
    "TPU v2": 45e12 / 2,
    "TPU v3": 123e12 / 2,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12 / 2,
}
# A GPU's kind names its board as well ("NVIDIA A100-SXM4-80GB"), so that these are looked for inside it, in order:
# the H100 was sold in three strengths.
_GPU_PEAK_FLOPS = (
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H200", 989e12),
    ("A100", 312e12),
)


def peak_flops(device_kind: str, platform: str) -> float | None:
    """Peak dense bfloat16 FLOP/s of one JAX device, or None where it is not known (every CPU among them).

    Args:
        device_kind: `jax.Device.device_kind`, such as `TPU v5 lite` or `NVIDIA H100 80GB HBM3`.
        platform: `jax.Device.platform`: `tpu`, `gpu` or `cpu`.
    """
    if platform == "tpu":
        return _PEAK_FLOPS.get(device_kind)
    if platform in ("gpu", "cuda"):
        return next((peak for name, peak in _GPU_PEAK_FLOPS if name in device_kind), None)
    return None


def forward_flops(config: TransformerConfig, batch: int, inputs: int, targets: int) -> float:
    """FLOPs of one forward pass over `batch` rows of `inputs` and `targets` positions, padding included.

    A language model sees rows of `inputs + targets` positions. Causal attention counts as half of a full matrix;
    a prefix LM's counts as full, because its visible prefix varies from row to row.

    Args:
        config: with `vocab_size` resolved.
        batch: rows.
        inputs: positions of a row's inputs.
        targets: positions of a row's targets.
    """
    if config.vocab_size is None:
        raise ValueError("the model has no vocab_size yet; it is resolved from the task's vocabulary")
    if config.has_encoder:
        encoder = config.num_encoder_layers * (_self_attention(config, inputs, causal=False) + _mlp(config, inputs))
        decoder_layer = _self_attention(config, targets, causal=True) + _mlp(config, targets)
        decoder_layer += _cross_attention(config, inputs, targets)
        row = encoder + config.num_decoder_layers * decoder_layer + _logits(config, targets)
    else:
        length = inputs + targets
        causal = config.architecture == "causal_lm"
        layer = _self_attention(config, length, causal=causal) + _mlp(config, length)
        row = config.num_decoder_layers * layer + _logits(config, length)
    return float(batch * row)


def train_flops(config: TransformerConfig, batch: int, inputs: int, targets: int) -> float:
    """FLOPs of one training step: the backward pass takes two matrix products for each of the forward pass."""
    return 3.0 * forward_flops(config, batch, inputs, targets)


def _attention_width(config: TransformerConfig) -> int:
    return config.num_heads * config.head_dim


def _self_attention(config: TransformerConfig, length: int, *, causal: bool) -> int:
    width = _attention_width(config)
    projections = 4 * 2 * length * config.emb_dim * width
    scores_and_values = 2 * 2 * length**2 * width
    return projections + (scores_and_values // 2 if causal else scores_and_values)


def _cross_attention(config: TransformerConfig, inputs: int, targets: int) -> int:
    width = _attention_width(config)
    query_and_out = 2 * 2 * targets * config.emb_dim * width
    key_and_value = 2 * 2 * inputs * config.emb_dim * width
    return query_and_out + key_and_value + 2 * 2 * targets * inputs * width


def _mlp(config: TransformerConfig, length: int) -> int:
    return 2 * length * config.emb_dim * config.mlp_dim * (len(config.mlp_activations) + 1)


def _logits(config: TransformerConfig, length: int) -> int:
    return 2 * length * config.emb_dim * config.vocab_size
