"""FLOPs against hand-made figures for the published sizes, and against XLA's own count."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from t5x_mini.model.config import TransformerConfig
from t5x_mini.train import flops


def t5_1_1(emb, heads, mlp, layers, **changes):
    return TransformerConfig(
        vocab_size=32128,
        emb_dim=emb,
        num_heads=heads,
        head_dim=64,
        mlp_dim=mlp,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        **changes,
    )


BASE = t5_1_1(768, 12, 2048, 12)
LARGE = t5_1_1(1024, 16, 2816, 24)
XL = t5_1_1(2048, 32, 5120, 24)
XXL = t5_1_1(4096, 64, 10240, 24)


@pytest.mark.parametrize(("config", "gflops"), [(BASE, 425), (LARGE, 1466), (XL, 5342), (XXL, 20893)])
def test_published_sizes_at_the_lengths_of_c4_span_corruption(config, gflops):
    assert flops.train_flops(config, 1, 512, 114) / 1e9 == pytest.approx(gflops, abs=0.5)


def test_shares_of_t5_base():
    no_layers = dataclasses.replace(BASE, num_encoder_layers=0, num_decoder_layers=0)
    encoder_only = dataclasses.replace(BASE, num_decoder_layers=0)
    logits = flops.train_flops(no_layers, 1, 512, 114) / 1e9
    encoder = flops.train_flops(encoder_only, 1, 512, 114) / 1e9 - logits
    decoder = flops.train_flops(BASE, 1, 512, 114) / 1e9 - logits - encoder
    assert (round(encoder), round(decoder), round(logits)) == (290, 118, 17)


def test_training_is_three_forward_passes_and_rows_add_up():
    assert flops.train_flops(BASE, 8, 512, 114) == 3 * 8 * flops.forward_flops(BASE, 1, 512, 114)


def test_language_models_differ_in_half_of_the_attention_matrix():
    prefix = dataclasses.replace(BASE, architecture="prefix_lm")
    causal = dataclasses.replace(BASE, architecture="causal_lm")
    difference = flops.forward_flops(prefix, 1, 500, 126) - flops.forward_flops(causal, 1, 500, 126)
    assert difference == 12 * 2 * 626**2 * 768
    assert flops.forward_flops(causal, 1, 500, 126) == flops.forward_flops(causal, 1, 126, 500)


def test_one_activation_instead_of_a_gated_pair_saves_a_third_of_the_mlp():
    relu = dataclasses.replace(BASE, mlp_activations=("relu",))
    saved = flops.forward_flops(BASE, 1, 512, 114) - flops.forward_flops(relu, 1, 512, 114)
    assert saved == 12 * (512 + 114) * 2 * 768 * 2048


def test_agrees_with_xla_on_a_prefix_lm_written_out():
    config = TransformerConfig(
        architecture="prefix_lm",
        vocab_size=256,
        emb_dim=64,
        num_heads=4,
        head_dim=24,
        mlp_dim=160,
        num_decoder_layers=1,
    )

    def products(x, q, k, v, o, wi_0, wi_1, wo, head):
        heads = [jnp.einsum("ble,ehd->blhd", x, kernel) for kernel in (q, k, v)]
        attended = jnp.einsum("bhqk,bkhd->bqhd", jnp.einsum("bqhd,bkhd->bhqk", heads[0], heads[1]), heads[2])
        y = jnp.einsum("blhd,hde->ble", attended, o)
        return ((y @ wi_0) * (y @ wi_1)) @ wo @ head

    shapes = [(3, 48, 64)] + [(64, 4, 24)] * 3 + [(4, 24, 64), (64, 160), (64, 160), (160, 64), (64, 256)]
    compiled = jax.jit(products).lower(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)).compile()
    assert flops.forward_flops(config, 3, 40, 8) == pytest.approx(compiled.cost_analysis()["flops"], rel=0.01)


def test_a_model_without_a_vocabulary_has_no_flops_yet():
    with pytest.raises(ValueError, match="vocab_size"):
        flops.train_flops(TransformerConfig(), 1, 8, 8)


@pytest.mark.parametrize(
    ("kind", "platform", "tera"),
    [
        ("TPU v3", "tpu", 61.5),
        ("TPU v4", "tpu", 275),
        ("TPU v5 lite", "tpu", 197),
        ("TPU v5", "tpu", 459),
        ("TPU v6 lite", "tpu", 918),
        ("TPU7x", "tpu", 1153.5),
        ("NVIDIA H200", "gpu", 989),
        ("NVIDIA H100 80GB HBM3", "gpu", 989),
        ("NVIDIA H100 PCIe", "gpu", 756),
        ("NVIDIA A100-SXM4-40GB", "gpu", 312),
    ],
)
def test_peak_of_known_devices(kind, platform, tera):
    assert flops.peak_flops(kind, platform) == tera * 1e12


@pytest.mark.parametrize(("kind", "platform"), [("cpu", "cpu"), ("TPU v99", "tpu"), ("NVIDIA T1000", "gpu")])
def test_peak_of_unknown_devices_is_not_guessed(kind, platform):
    assert flops.peak_flops(kind, platform) is None
