"""Products against plain twins, as they are made for CPUs and for all else; and what XLA makes of them on CPUs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_mini.model import products
from t5x_mini.model.config import TransformerConfig
from t5x_mini.model.transformer import param_shapes
from t5x_mini.train.config import LossConfig
from t5x_mini.train.step import batch_sums

F32, BF16 = jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)
TOLERANCE = {F32: 1e-5, BF16: 1e-2}


def normal(seed: int, *shape: int, dtype=F32):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def values_and_gradients(function, *arguments):
    """Of the product and a fixed random cotangent."""
    value, backward = jax.vjp(function, *arguments)
    return value, *backward(normal(9, *value.shape, dtype=value.dtype))


def plain_dense(x, kernel, dtype, result):
    return jnp.dot(x.astype(dtype), kernel.astype(dtype)).astype(result)


def check(made, expected, dtype):
    for a, b in zip(made, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert np.max(np.abs(a - b)) <= TOLERANCE[dtype] * np.max(np.abs(b))


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("shape", [(5, 8), (3, 5, 8), (2, 3, 5, 8)])
def test_dense(monkeypatch, dtype, platform, shape):
    monkeypatch.setattr(products, "platform", lambda: platform)
    x, kernel = normal(0, *shape, dtype=dtype), normal(1, 8, 6)

    def of(function):
        return values_and_gradients(lambda x, kernel: function(x, kernel, dtype, dtype), x, kernel)

    check(of(products.dense), of(plain_dense), dtype)


def test_the_gradient_of_a_kernel_is_not_rounded_on_cpus():
    x, grad = normal(0, 4, 512, 8, dtype=BF16), normal(1, 4, 512, 6, dtype=BF16)
    _, backward = jax.vjp(lambda kernel: products.dense(x, kernel, BF16, BF16), normal(2, 8, 6))
    exact = np.einsum("ble,blf->ef", np.asarray(x, np.float64), np.asarray(grad, np.float64))
    np.testing.assert_allclose(backward(grad)[0], exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_products_of_attention(monkeypatch, platform, dtype):
    monkeypatch.setattr(products, "platform", lambda: platform)
    queries, keys = normal(0, 2, 5, 3, 4, dtype=dtype), normal(1, 2, 3, 7, 4, dtype=dtype)
    weights = normal(2, 2, 3, 5, 7, dtype=dtype)
    for function, subscripts, operands in [
        (products.scores, "bqhd,bhkd->bhqk", (queries, keys)),
        (products.mix, "bhqk,bhkd->bhqd", (weights, keys)),
        (products.mix_queries, "bhqk,bqhd->bhkd", (weights, queries)),
    ]:
        check([jax.jit(function)(*operands)], [jnp.einsum(subscripts, *operands)], dtype)
    exact = products.mix(weights, keys, F32)
    check([exact], [jnp.einsum("bhqk,bhkd->bhqd", weights.astype(F32), keys.astype(F32))], F32)


@pytest.mark.parametrize(("architecture", "scan_layers"), [("encoder_decoder", False), ("prefix_lm", True)])
def test_no_product_of_a_step_falls_back_to_float32_operands(architecture, scan_layers):
    """XLA for CPUs upcasts bfloat16 operands, without a word, where it doesn't like how they lie in memory."""
    layers = dict(num_encoder_layers=2, num_decoder_layers=2, scan_layers=scan_layers)
    widths = dict(vocab_size=256, emb_dim=64, num_heads=2, head_dim=32, mlp_dim=128)
    config = TransformerConfig(architecture=architecture, **layers, **widths)
    length = jax.ShapeDtypeStruct((4, 48), jnp.int32)
    names = ["decoder_target_tokens", "decoder_input_tokens", "decoder_loss_weights", "decoder_causal_attention"]
    batch = dict.fromkeys([*names, "encoder_input_tokens"], length)

    def loss(params, batch):
        return batch_sums(params, batch, config, LossConfig(), None)["objective"]

    compiled = jax.jit(jax.grad(loss)).lower(param_shapes(config), batch).compile().as_text()
    types = dict(re.findall(r"%([\w.\-]+) = (\w+)\[", compiled))
    dots = re.findall(r"\sdot\(%([\w.\-]+), .*", compiled)
    left = [types[name] for name in dots]
    # The two products of a relative position bias ask for float32, and so do their gradients.
    of_bias = compiled.count("operand_precision={highest,highest}")
    assert left.count("bf16") > 20 and left.count("f32") == of_bias, left
