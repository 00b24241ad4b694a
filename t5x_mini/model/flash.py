"""Attention that never writes queries x keys numbers to main memory, for TPUs (a Pallas kernel).

Scores are made, used and forgotten a tile at a time, forwards (Dao et al. 2022, FlashAttention, algorithm 1) and
backwards (algorithm 4). Two things of T5's make that simple:

- The relative position bias saturates: all distances from `relpos_max_distance` on share a bucket. So the tiles of a
  few offsets from the diagonal are all that there are, at any length, and they are made of the bias at each distance.
  Its gradient is the sum of the scores' gradients over tiles of equal offset, and then along their diagonals.
- Attention dropout shares its draw among the queries (`layers.dropout`): a dropped weight is a dropped value, and
  dropping is none of the kernel's business.

What a query sees is worked out from a number for each token (`masks.Visible`). The heads stay side by side in the last
dimension, as the products with parameters leave them: no transposed copies of queries, keys and values are made. A TPU
works on 128 columns at a time, which are two heads of 64: a head is picked by putting zeros into the other's columns of
one operand, which costs a product of that width nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from t5x_mini.model.attention import along_diagonals
from t5x_mini.model.masks import Visible
from t5x_mini.parallel.sharding import mesh_in_use, partition_spec

LANES = 128
_NOTHING_YET = -1e10  # the largest score so far; finite, so that a row with nothing to see gives 0 and no NaN
# What a kernel may take of a chip's fast memory; it takes what it needs, 14 MiB at 4096 tokens. The compiler's own
# limit is 16 MiB, of v5e's 128.
_VMEM_LIMIT = 64 * 2**20
_BEYOND = -6  # at the positions that lengths are padded with: no code of `Visible`, nor seen by any


def block_of(queries: int, keys: int) -> int:
    """Rows and columns of a tile."""
    return 256 if min(queries, keys) > LANES else LANES


def tile_offsets(queries: int, keys: int, max_distance: int) -> int:
    """Tiles with an offset of so many from the diagonal, or more, have a bias of one value each."""
    block = block_of(queries, keys)
    return min(-(-max_distance // block) + 1, -(-max(queries, keys) // block))


def bias_span(queries: int, keys: int, max_distance: int) -> int:
    """The bias is wanted at the distances from `-span` to `span - 1`."""
    return (tile_offsets(queries, keys, max_distance) + 1) * block_of(queries, keys)


@dataclasses.dataclass(frozen=True)
class _Shape:
    """What the kernels have to know and arrays don't say."""

    heads: int
    head_dim: int
    block: int
    causal: bool
    prefix: bool


def flash_attention(
    query: Float[Array, "b q h d"],
    keys: Float[Array, "b k h d"],
    values: Float[Array, "b k h d"],
    visible: Visible,
    bias: Float[Array, "h distances"] | None = None,
) -> Float[Array, "b q h d"]:
    """What `dot_product_attention` gives, but for a query that sees nothing: 0 here, and a mean of all values there.

    The softmax is in float32. Under a mesh, every device works on its rows and heads.

    Args:
        query: of any length, as all others.
        keys: to be compared with.
        values: to be read.
        visible: which keys each query sees.
        bias: at the distances `key - query` from `-span` to `span - 1` (`bias_span`); added to the scores.
    """
    (rows, length, heads, width), read = query.shape, keys.shape[1]
    block = block_of(length, read)
    shape = _Shape(heads, width, block, visible.causal, visible.prefix)

    def joined(x: Array) -> Array:
        return _padded(x.reshape(*x.shape[:2], heads * width), 1, block, 0)

    codes = (_padded(code[:, None], 2, block, _BEYOND) for code in (visible.queries, visible.keys))
    arrays = (joined(query), joined(keys), joined(values), *codes, bias)
    mixed = _attend(shape, *arrays)
    return mixed[:, :length].reshape(rows, length, heads, width)


def _padded(x: Array, axis: int, multiple: int, value: int) -> Array:
    missing = -x.shape[axis] % multiple
    widths = [(0, missing if place == axis else 0) for place in range(x.ndim)]
    return jnp.pad(x, widths, constant_values=value) if missing else x


# ------------------------------------------------------------------------------------------------ over the devices


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(shape: _Shape, query, keys, values, query_codes, key_codes, bias):
    return _attend_forward(shape, query, keys, values, query_codes, key_codes, bias)[0]


def _attend_forward(shape: _Shape, *arrays):
    whole, codes, by_head, statistics, _ = _specs(shape, arrays)
    run = functools.partial(_forward, shape)
    given = (whole, whole, whole, codes, codes, by_head)
    mixed, log_sums = _on_each_device(run, given, (whole, statistics))(*arrays)
    return mixed, (arrays, mixed, log_sums)


def _attend_backward(shape: _Shape, residuals, gradient):
    arrays, mixed, log_sums = residuals
    whole, codes, by_head, statistics, row_axes = _specs(shape, arrays)

    def run(*given):
        *others, bias = _backward(shape, *given)
        if bias is not None and row_axes:
            bias = jax.lax.psum(bias, row_axes)
        return *others, bias

    given = (whole, whole, whole, codes, codes, by_head, whole, statistics, whole)
    made = (whole, whole, whole, by_head)
    query, keys, values, bias = _on_each_device(run, given, made)(*arrays, mixed, log_sums, gradient)
    no_codes = (np.zeros(code.shape, jax.dtypes.float0) for code in arrays[3:5])
    return query, keys, values, *no_codes, bias


_attend.defvjp(_attend_forward, _attend_backward)


def _specs(shape: _Shape, arrays: tuple):
    """How the arrays are split over the devices: rows and heads are, lengths are not."""
    mesh = mesh_in_use()
    if mesh is None:
        return None, None, None, None, ()
    rows, by_head = partition_spec(("batch", "heads"), (arrays[0].shape[0], shape.heads), mesh)
    spec = jax.sharding.PartitionSpec
    bias = None if arrays[5] is None else spec(by_head, None)
    return spec(rows, None, by_head), spec(rows), bias, spec(rows, by_head), rows


def _on_each_device(function: Callable, given, made) -> Callable:
    if mesh_in_use() is None:
        return function
    return jax.shard_map(function, in_specs=given, out_specs=made, check_vma=False)


# ------------------------------------------------------------------------------------------------- on one device


def _forward(shape: _Shape, query, keys, values, query_codes, key_codes, bias):
    """The mixed values, and the logarithm of the softmax's sum, `[b, groups, heads, q]`."""
    call = _Call(shape, query, keys, bias)
    tiles = _tiles(bias, shape.block)
    outputs = [(query, call.own), (call.statistics_shape, call.own_statistics)]
    given = [call.own, call.all, call.all, call.own_codes, call.all_codes, call.tiles]
    arrays = query, keys, values, query_codes, key_codes, tiles
    return call.run(_forward_kernel, given, outputs, [], *arrays)


def _backward(shape: _Shape, query, keys, values, query_codes, key_codes, bias, mixed, log_sums, gradient):
    """The gradients of query, keys, values and bias."""
    call = _Call(shape, query, keys, bias)
    tiles, tiles_vjp = jax.vjp(functools.partial(_tiles, block=shape.block), bias)
    outputs = [(query, call.own), (keys, call.all), (values, call.all), (tiles, call.tiles)]
    given = [call.own, call.all, call.all, call.own_codes, call.all_codes, call.tiles]
    given += [call.own, call.own_statistics, call.own]
    sums = [pltpu.VMEM((keys.shape[1], call.columns), jnp.float32)] * 2
    arrays = query, keys, values, query_codes, key_codes, tiles, mixed, log_sums, gradient
    *made, dtiles = call.run(_backward_kernel, given, outputs, sums, *arrays)
    return *made, *tiles_vjp(dtiles)


def _tiles(bias: Float[Array, "h distances"] | None, block: int) -> Float[Array, "h offsets block block"] | None:
    """The bias of the tiles at every offset from the diagonal."""
    if bias is None:
        return None
    starts = range(0, bias.shape[1] - block, block)
    return jnp.stack([along_diagonals(bias[:, at : at + 2 * block], block, block) for at in starts], axis=1)


class _Call:
    """The grid of a kernel, and the part of each array that a point of it works on.

    The grid is (groups of heads, rows, blocks of queries), the last fastest. A group's heads fill the columns that a
    TPU works on; where that is not to be had, all of a device's are one group.
    """

    def __init__(self, shape: _Shape, query: Array, keys: Array, bias: Array | None):
        rows, queries, width = query.shape
        columns = math.lcm(shape.head_dim, LANES)
        columns = columns if width % columns == 0 else width
        groups, block = width // columns, shape.block
        self.shape, self.columns, self.heads = shape, columns, columns // shape.head_dim
        self.query_blocks, self.key_blocks = queries // block, keys.shape[1] // block
        self.grid = (groups, rows, self.query_blocks)
        self.offsets = 0 if bias is None else bias.shape[1] // (2 * block) - 1
        self.own = pl.BlockSpec((1, block, columns), lambda g, b, i: (b, i, g))
        self.own_codes = pl.BlockSpec((1, 1, block), lambda g, b, i: (b, 0, i))
        self.all_codes = pl.BlockSpec((1, 1, keys.shape[1]), lambda g, b, i: (b, 0, 0))
        self.own_statistics = pl.BlockSpec((1, 1, self.heads, block), lambda g, b, i: (b, g, 0, i))
        self.statistics_shape = jax.ShapeDtypeStruct((rows, groups, self.heads, queries), jnp.float32)
        once = {"pipeline_mode": pl.Buffered(1)}  # seldom another one: two at a time would only take room
        self.all = pl.BlockSpec((1, keys.shape[1], columns), lambda g, b, i: (b, 0, g), **once)
        tiles = (self.heads, 2 * self.offsets + 1, block, block)
        self.tiles = None if bias is None else pl.BlockSpec(tiles, lambda g, b, i: (g, 0, 0, 0), **once)

    def columns_of(self, head: int, x: Float[Array, "n columns"]) -> Float[Array, "n columns"]:
        """`x`, and zeros in the columns of other heads."""
        if self.heads == 1:
            return x
        column, start = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1), head * self.shape.head_dim
        inside = (column >= start) & (column < start + self.shape.head_dim)
        return jnp.where(inside, x, jnp.zeros((), x.dtype))

    def run(self, kernel, given, outputs, scratch, *arrays):
        """The kernel at every point of the grid; emulated where there is no TPU."""
        call = functools.partial(
            pl.pallas_call,
            functools.partial(kernel, self),
            grid=self.grid,
            in_specs=given,
            out_specs=[spec for _, spec in outputs],
            out_shape=[None if like is None else jax.ShapeDtypeStruct(like.shape, like.dtype) for like, _ in outputs],
            scratch_shapes=scratch,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=_VMEM_LIMIT
            ),
        )
        return jax.lax.platform_dependent(*arrays, tpu=call(interpret=False), default=call(interpret=True))


def _forward_kernel(call: _Call, q, k, v, query_codes, key_codes, tiles, mixed, log_sums):
    """A block of queries and all their keys, with the running maximum and sum of each query's softmax."""
    block = call.shape.block
    queries = [call.columns_of(head, q[0]) for head in range(call.heads)]
    codes, i = _as_column(query_codes[0]), pl.program_id(2)

    def step(c: Int[Array, ""], sums: list) -> list:
        at = pl.ds(pl.multiple_of(c * block, block), block)
        keys, values = k[0, at, :], v[0, at, :]
        seen = _seen(call, i, c, codes, key_codes[0, :, at])
        new = []
        for head, (top, total, mix) in enumerate(sums):
            scores = _scores(call, i, c, head, queries[head], keys, tiles, seen)
            new_top = jnp.maximum(top, jnp.max(scores, axis=1, keepdims=True))
            weights, shrink = jnp.exp(scores - new_top), jnp.exp(top - new_top)
            total = shrink * total + jnp.sum(weights, axis=1, keepdims=True)
            mix = shrink * mix + _product(weights.astype(values.dtype), values)
            new.append((new_top, total, mix))
        return new

    column = jnp.zeros((block, 1), jnp.float32)
    nothing = [(column + _NOTHING_YET, column, jnp.zeros((block, call.columns), jnp.float32))] * call.heads
    sums = jax.lax.fori_loop(0, _last_block(call, i), step, nothing)
    result = jnp.zeros((block, call.columns), jnp.float32)
    for head, (top, total, mix) in enumerate(sums):
        total = jnp.where(total == 0.0, 1.0, total)
        result += call.columns_of(head, mix / total)
        log_sums[0, 0, head : head + 1, :] = _as_row(top + jnp.log(total))
    mixed[0] = result.astype(mixed.dtype)


def _backward_kernel(
    call: _Call, q, k, v, query_codes, key_codes, tiles, mixed, log_sums, gradient, dq, dk, dv, dtiles, dk_sum, dv_sum
):
    """A block of queries and all their keys again; gradients of what many blocks read are summed as these go by."""
    block = call.shape.block
    row, i = pl.program_id(1), pl.program_id(2)

    @pl.when(i == 0)
    def start_row():
        dk_sum[...] = jnp.zeros(dk_sum.shape, jnp.float32)
        dv_sum[...] = jnp.zeros(dv_sum.shape, jnp.float32)

    if tiles is not None:

        @pl.when((i == 0) & (row == 0))
        def start_heads():
            dtiles[...] = jnp.zeros(dtiles.shape, jnp.float32)

    codes, each = _as_column(query_codes[0]), range(call.heads)
    queries = [call.columns_of(head, q[0]) for head in each]
    gradients = [call.columns_of(head, gradient[0]) for head in each]
    log_sum = [_as_column(log_sums[0, 0, head : head + 1, :]) for head in each]
    # The gradient along the weights, of which a softmax takes off the mean.
    means = [
        jnp.sum(one.astype(jnp.float32) * mixed[0].astype(jnp.float32), axis=1, keepdims=True) for one in gradients
    ]

    def step(c: Int[Array, ""], dqs: list) -> list:
        at = pl.ds(pl.multiple_of(c * block, block), block)
        keys, values = k[0, at, :], v[0, at, :]
        seen, new = _seen(call, i, c, codes, key_codes[0, :, at]), []
        for head in each:
            weights = jnp.exp(_scores(call, i, c, head, queries[head], keys, tiles, seen) - log_sum[head])
            dscores = weights * (_product(gradients[head], values, by=1) - means[head])
            if tiles is not None:
                dtiles[head, _offset(call, i, c)] += dscores
            dscores, weights = dscores.astype(keys.dtype), weights.astype(keys.dtype)
            dk_sum[at, :] += _product(dscores.T, queries[head])
            dv_sum[at, :] += _product(weights.T, gradients[head])
            new.append(dqs[head] + _product(dscores, keys))
        return new

    nothing = [jnp.zeros((block, call.columns), jnp.float32)] * call.heads
    dqs = jax.lax.fori_loop(0, _last_block(call, i), step, nothing)
    dq[0] = sum(call.columns_of(head, one) for head, one in enumerate(dqs)).astype(dq.dtype)

    @pl.when(i == call.query_blocks - 1)
    def end_row():
        dk[0] = dk_sum[...].astype(dk.dtype)
        dv[0] = dv_sum[...].astype(dv.dtype)


# ---------------------------------------------------------------------------------------------------- on one tile


def _scores(call: _Call, i, c, head: int, queries, keys, tiles, seen) -> Float[Array, "block block"]:
    """Of one head's queries and the keys of block `c`, in float32; minus infinity where the key isn't seen."""
    scores = _product(queries, keys, by=1)
    if tiles is not None:
        scores = scores + tiles[head, _offset(call, i, c)]
    return jnp.where(seen, scores, -jnp.inf)


def _seen(call: _Call, i, c, query_codes, key_codes):
    """Which keys of block `c` each query sees: `masks.Visible`, for one tile."""
    seen = (query_codes >> 1) == (key_codes >> 1)
    if call.shape.causal:
        block, tile = call.shape.block, (call.shape.block, call.shape.block)
        ahead = jax.lax.broadcasted_iota(jnp.int32, tile, 1) - jax.lax.broadcasted_iota(jnp.int32, tile, 0)
        before = ahead <= (i - c) * block
        if call.shape.prefix:
            before = before | ((query_codes & key_codes & 1) == 1)
        seen = seen & before
    return seen


def _offset(call: _Call, i, c) -> Int[Array, ""]:
    return jnp.clip(c - i, -call.offsets, call.offsets) + call.offsets


def _last_block(call: _Call, i):
    """The blocks of keys that are read: the causal mask leaves none of those after the queries'."""
    return i + 1 if call.shape.causal and not call.shape.prefix else call.key_blocks


def _product(x: Float[Array, "n m"], y: Array, by: int = 0) -> Float[Array, "n p"]:
    """Contracts the columns of `x` with dimension `by` of `y`; in float32."""
    return jax.lax.dot_general(x, y, (((1,), (by,)), ((), ())), preferred_element_type=jnp.float32)


def _as_column(row: Array) -> Array:
    """`[1, n] -> [n, n]`, equal along the columns: a TPU turns whole tiles, not vectors."""
    return jnp.broadcast_to(row, (row.shape[1], row.shape[1])).T


def _as_row(column: Array) -> Array:
    """`[n, 1] -> [1, n]`."""
    return jnp.broadcast_to(column, (column.shape[0], LANES)).T[:1]
