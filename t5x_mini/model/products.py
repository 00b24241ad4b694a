"""The matrix products of a transformer and of its gradients: operands in the compute dtype, sums in float32.

What autodiff and einsum make of them is right everywhere, and fast on GPUs and TPUs. XLA's kernels for CPUs multiply
`[m, k] x [k, n]` and `[m, k] x [n, k]`, rows in the order of memory, bfloat16 into float32: twice as fast as float32
with AVX-512, five times with AMX. All else falls back to float32, or to something slower: first of all products of
columns with columns, which the gradients of kernels are. So each product is given to CPUs in that form.

XLA decides by the layout that an operand was written down with, before it optimises anything: a transpose changes it,
and a reshape behind the transpose sets it back. `benchmarks/NOTES.md` has the figures.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from t5x_mini.parallel.sharding import platform


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def dense(
    x: Float[Array, "*b l e"], kernel: Float[Array, "e f"], dtype: jnp.dtype, result: jnp.dtype
) -> Float[Array, "*b l f"]:
    """`x @ kernel`, multiplied in `dtype` and rounded to `result`."""
    return jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32).astype(result)


def _dense_forward(x: Array, kernel: Array, dtype: jnp.dtype, result: jnp.dtype) -> tuple[Array, tuple[Array, Array]]:
    return dense(x, kernel, dtype, result), (x, kernel)


def _dense_backward(dtype: jnp.dtype, _: jnp.dtype, saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    (x, kernel), grad = saved, grad.astype(dtype)
    shared_last = (((grad.ndim - 1,), (1,)), ((), ()))
    to_x = jax.lax.dot_general(grad, kernel.astype(dtype), shared_last, preferred_element_type=jnp.float32)
    return to_x.astype(x.dtype), _to_kernel(x.astype(dtype), grad).astype(kernel.dtype)


dense.defvjp(_dense_forward, _dense_backward)


def _to_kernel(x: Float[Array, "*b l e"], grad: Float[Array, "*b l f"]) -> Float[Array, "e f"]:
    """The sum over positions of `x` times `grad`."""
    if platform() == "cpu":
        turned = jnp.moveaxis(x.reshape(-1, *x.shape[-2:]), -1, 0).reshape(x.shape[-1], -1)
        return jnp.dot(turned, grad.reshape(-1, grad.shape[-1]), preferred_element_type=jnp.float32)
    positions = tuple(range(x.ndim - 1))  # summed in the operands' dtype, in which devices then add up their shares
    return jax.lax.dot_general(x, grad, ((positions, positions), ((), ())))


def scores(query: Float[Array, "b q h d"], keys: Float[Array, "b h k d"]) -> Float[Array, "b h q k"]:
    """Every query times every key."""
    if platform() == "cpu":
        return _on_cpu("bhqd,bhkd->bhqk", _in_memory_order(query.swapaxes(1, 2)), _in_memory_order(keys), query.dtype)
    return jnp.einsum("bqhd,bhkd->bhqk", query, keys)


def mix(
    weights: Float[Array, "b h q k"], values: Float[Array, "b h k d"], result: jnp.dtype | None = None
) -> Float[Array, "b h q d"]:
    """For each query the sum of the values by its weights, in `result`; None: in the values' dtype."""
    result = result or values.dtype
    if platform() == "cpu":
        return _on_cpu("bhqk,bhkd->bhqd", weights, _in_memory_order(values), result)
    return jnp.einsum("bhqk,bhkd->bhqd", weights, values, preferred_element_type=result)


def mix_queries(weights: Float[Array, "b h q k"], queries: Float[Array, "b q h d"]) -> Float[Array, "b h k d"]:
    """For each key the sum of what belongs to the queries by their weights."""
    if platform() == "cpu":
        turned = _in_memory_order(queries.transpose(0, 2, 3, 1))
        return _on_cpu("bhdq,bhqk->bhdk", turned, weights, queries.dtype).swapaxes(2, 3)
    return jnp.einsum("bhqk,bqhd->bhkd", weights, queries)


def _on_cpu(subscripts: str, a: Array, b: Array, result: jnp.dtype) -> Array:
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32).astype(result)


def _in_memory_order(x: Float[Array, "b h m n"]) -> Float[Array, "b h m n"]:
    """`x`, which may be a transpose, so that its rows are written down in the order of memory."""
    joined = x.reshape(*x.shape[:2], -1)
    return jax.lax.optimization_barrier(joined).reshape(x.shape)  # without the barrier, two reshapes become none
