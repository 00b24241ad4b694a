"""The matrix products of a transformer and of their gradients: operands in the compute dtype, sums in float32.

What autodiff would make of them is right everywhere, and fast on GPUs and TPUs. XLA's kernels for CPUs multiply
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

_BY_ROWS = (((3,), (2,)), ((0, 1), (0, 1)))  # [b h m k] x [b h k n]
_BY_COLUMNS = (((3,), (3,)), ((0, 1), (0, 1)))  # [b h m k] x [b h n k]


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
    to_kernel = jax.lax.platform_dependent(x.astype(dtype), grad, cpu=_outer_by_rows, default=_outer)
    return to_x.astype(x.dtype), to_kernel.astype(kernel.dtype)


dense.defvjp(_dense_forward, _dense_backward)


def _outer(x: Float[Array, "*b l e"], grad: Float[Array, "*b l f"]) -> Float[Array, "e f"]:
    """The sum over positions of `x` times `grad`, in their dtype: so do devices add up their shares."""
    positions = tuple(range(x.ndim - 1))
    return jax.lax.dot_general(x, grad, ((positions, positions), ((), ()))).astype(jnp.float32)


def _outer_by_rows(x: Float[Array, "*b l e"], grad: Float[Array, "*b l f"]) -> Float[Array, "e f"]:
    turned = jnp.moveaxis(x.reshape(-1, *x.shape[-2:]), -1, 0).reshape(x.shape[-1], -1)
    return jnp.dot(turned, grad.reshape(-1, grad.shape[-1]), preferred_element_type=jnp.float32)


@jax.custom_vjp
def scores(query: Float[Array, "b h q d"], keys: Float[Array, "b h k d"]) -> Float[Array, "b h q k"]:
    """Every query times every key, in their dtype."""
    return _product(_in_memory_order(query), _in_memory_order(keys), _BY_COLUMNS)


def _scores_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    query, keys = saved
    to_keys = _product(_in_memory_order(query.swapaxes(2, 3)), grad, _BY_ROWS)
    return _product(grad, _in_memory_order(keys), _BY_ROWS), to_keys.swapaxes(2, 3)


scores.defvjp(lambda query, keys: (scores(query, keys), (query, keys)), _scores_backward)


@jax.custom_vjp
def mix(weights: Float[Array, "b h q k"], values: Float[Array, "b h k d"]) -> Float[Array, "b h q d"]:
    """For each query the sum of the values by its weights, in their dtype."""
    return _product(weights, _in_memory_order(values), _BY_ROWS)


def _mix_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    weights, values = saved
    to_values = _product(_in_memory_order(grad.swapaxes(2, 3)), weights, _BY_ROWS)
    return _product(_in_memory_order(grad), _in_memory_order(values), _BY_COLUMNS), to_values.swapaxes(2, 3)


mix.defvjp(lambda weights, values: (mix(weights, values), (weights, values)), _mix_backward)


def _product(a: Array, b: Array, dimensions: tuple) -> Array:
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32).astype(a.dtype)


def _in_memory_order(x: Float[Array, "b h m n"]) -> Float[Array, "b h m n"]:
    """`x`, which may be a transpose, as a CPU's products want it."""

    def reshaped_twice(x: Array) -> Array:
        joined = x.reshape(*x.shape[:2], -1)
        return jax.lax.optimization_barrier(joined).reshape(x.shape)  # else the two reshapes become none

    return jax.lax.platform_dependent(x, cpu=reshaped_twice, default=lambda x: x)
