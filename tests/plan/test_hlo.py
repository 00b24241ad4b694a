"""Programs compiled for the CPUs that are here, and pieces of text as the TPU compiler writes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from t5x_mini.plan import hlo_text
from t5x_mini.plan.hlo import Program

ROWS, WIDTH, LAYERS = 32, 64, 5


def layers(x, weights, unroll):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights, unroll=unroll)[0]


def compiled(function, *shapes, **options):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return Program(jax.jit(function, **options).lower(*arrays).compile().as_text())


@pytest.mark.parametrize("unroll", [1, LAYERS])
def test_flops_of_a_loop_are_those_of_the_loop_written_out(unroll):
    program = compiled(lambda x, w: layers(x, w, unroll), (ROWS, WIDTH), (LAYERS, WIDTH, WIDTH))
    assert program.flops == LAYERS * 2 * ROWS * WIDTH * WIDTH


def test_loops_inside_loops_multiply():
    def twice(x, weights):
        return jax.lax.fori_loop(0, 3, lambda _, x: layers(x, weights, 1), x)

    program = compiled(twice, (ROWS, WIDTH), (LAYERS, WIDTH, WIDTH))
    assert program.flops == 3 * LAYERS * 2 * ROWS * WIDTH * WIDTH


def test_collectives_of_a_loop_count_as_often_as_it_runs():
    mesh = Mesh(np.asarray(jax.devices()), ("x",), axis_types=(AxisType.Auto,))
    rows, columns = (NamedSharding(mesh, spec) for spec in (PartitionSpec(None, "x"), PartitionSpec(None, "x", None)))

    def summed(x, weights):
        def layer(x, w):
            y = jax.lax.with_sharding_constraint(x @ w, NamedSharding(mesh, PartitionSpec()))
            return jax.lax.with_sharding_constraint(y, rows), None

        return jax.lax.scan(layer, x, weights)[0]

    program = compiled(summed, (ROWS, WIDTH), (LAYERS, WIDTH, WIDTH), in_shardings=(rows, columns))
    (reduced,) = (one for one in program.collectives if one.kind == "all-reduce")
    assert (reduced.count, reduced.group, reduced.bytes) == (LAYERS, 8, ROWS * WIDTH * 4)
    assert reduced.sent == LAYERS * reduced.bytes * 2 * 7 / 8


# As libtpu writes it: a batch dimension is a spatial one, with a window as large and dilated so that each place meets
# its own alone; one asynchronous collective stands in three fusions; S(1) is the chip's small memory.
TPU = """HloModule jit_step, is_scheduled=true, entry_computation_layout={()->f32[]}, num_partitions=4

%started (p: bf16[8,16]) -> bf16[8,64] {
  %p = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.1 = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4], dimensions={1}
}

%done (q: bf16[8,16]) -> bf16[8,64] {
  %q = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} all-gather(%q), channel_id=7, replica_groups=[1,4]<=[4], dimensions={1}
}

%product (a: f32[6,32,16], b: f32[6,48,16]) -> f32[6,32,48] {
  %a = f32[6,32,16]{2,1,0} parameter(0)
  %b = f32[6,48,16]{2,1,0} parameter(1)
  ROOT %convolution.1 = f32[6,32,48]{2,1,0} convolution(%a, %b), window={size=6 stride=5 lhs_dilate=6}, dim_labels=0bf_0oi->0bf
}

%sliced (w: f32[24,1024], i: s32[]) -> f32[1024] {
  %w = f32[24,1024]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %dynamic-slice.1 = f32[1,1024]{1,0} dynamic-slice(%w, %i, %zero), dynamic_slice_sizes={1,1024}
  ROOT %bitcast.1 = f32[1024]{0} bitcast(%dynamic-slice.1)
}

%body (state: (s32[], f32[24,1024], bf16[8,16])) -> (s32[], f32[24,1024], bf16[8,16]) {
  %state = (s32[], f32[24,1024]{1,0}, bf16[8,16]{1,0}) parameter(0)
  %count = s32[] get-tuple-element(%state), index=0
  %weights = f32[24,1024]{1,0} get-tuple-element(%state), index=1
  %part = bf16[8,16]{1,0} get-tuple-element(%state), index=2
  %one = s32[] constant(1)
  %fusion.1 = bf16[8,64]{1,0:S(1)} fusion(%part), kind=kCustom, calls=%started
  %fusion.2 = bf16[8,64]{1,0:S(1)} fusion(%part), kind=kCustom, calls=%done
  %fusion.3 = f32[1024]{0:T(1024)S(1)} fusion(%weights, %count), kind=kLoop, calls=%sliced, backend_config={"window_config":{"estimated_cycles":"100"}}
  %next = s32[] add(%count, %one)
  ROOT %out = (s32[], f32[24,1024]{1,0}, bf16[8,16]{1,0}) tuple(%next, %weights, %part)
}

%condition (state.1: (s32[], f32[24,1024], bf16[8,16])) -> pred[] {
  %state.1 = (s32[], f32[24,1024]{1,0}, bf16[8,16]{1,0}) parameter(0)
  %count.1 = s32[] get-tuple-element(%state.1), index=0
  %bound = s32[] constant(24)
  ROOT %lt.1 = pred[] compare(%count.1, %bound), direction=LT
}

ENTRY %main (x: f32[24,1024], y: bf16[8,16], m: f32[6,32,16], n: f32[6,48,16]) -> f32[6,32,48] {
  %x = f32[24,1024]{1,0} parameter(0)
  %y = bf16[8,16]{1,0} parameter(1)
  %m = f32[6,32,16]{2,1,0} parameter(2)
  %n = f32[6,48,16]{2,1,0} parameter(3)
  %start = s32[] constant(START)
  %first = (s32[], f32[24,1024]{1,0}, bf16[8,16]{1,0}) tuple(%start, %x, %y)
  %while.1 = (s32[], f32[24,1024]{1,0}, bf16[8,16]{1,0}) while(%first), condition=%condition, body=%body
  ROOT %fusion.4 = f32[6,32,48]{2,1,0:T(8,128)} fusion(%m, %n), kind=kOutput, calls=%product, metadata={op_name="jit(step)/dot_general"}, backend_config={"window_config":{"estimated_cycles":"7000"}}
}
"""  # noqa: E501


def tpu(start=0, **options):
    return Program(TPU.replace("START", str(start)), **options)


def test_a_product_written_as_a_convolution_is_the_product():
    assert tpu().flops == 2 * 6 * 32 * 16 * 48


def test_an_asynchronous_collective_counts_once_a_turn():
    (gathered,) = tpu().collectives
    assert (gathered.kind, gathered.count, gathered.bytes, gathered.group) == ("all-gather", 24, 8 * 64 * 2, 4)


@pytest.mark.parametrize("start", [0, 1])
def test_cycles_count_as_often_as_they_run(start):
    assert tpu(start).cycles == (24 - start) * 100 + 7000


def test_of_stacked_weights_a_turn_reads_its_own_alone():
    read = 24 * (1024 * 4 + 4 + 2 * 8 * 16 * 2)  # a slice and its index; twice the part that is gathered
    products = 4 * (6 * 32 * 16 + 6 * 48 * 16 + 6 * 32 * 48)
    scalars = 24 * 3 * 4  # the counter: two numbers in, one out
    assert tpu().hbm_bytes == read + products + scalars


def test_collectives_over_several_slices_are_known_by_their_devices():
    (gathered,) = tpu(slice_of=[0, 0, 1, 1]).collectives
    assert gathered.slices == 2


def test_the_largest_arrays_are_named():
    assert tpu().largest(1) == [("f32[6,32,48] dot_general", 6 * 32 * 48 * 4)]


def test_sizes_of_types():
    sizes = {
        dtype: hlo_text.Array(dtype, (8,), True).bytes for dtype in ("pred", "bf16", "s4", "f8e4m3fn", "f32", "token")
    }
    assert sizes == {"pred": 8, "bf16": 16, "s4": 4, "f8e4m3fn": 8, "f32": 32, "token": 0}


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups={{0,3},{1,2}}", [[0, 3], [1, 2]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, use_global_device_ids=true", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        ("replica_groups={}, dimensions={0}", None),
    ],
)
def test_groups_of_devices_in_every_way_they_are_written(written, groups):
    found = hlo_text.device_groups(written)
    assert groups == (None if found is None else found.tolist())


def test_groups_that_cannot_be_read_are_not_passed_over():
    with pytest.raises(ValueError, match="not known: replica_groups=new"):
        hlo_text.device_groups("replica_groups=new[3]")


def test_without_groups_all_devices_are_one():
    text = TPU.replace("replica_groups=[1,4]<=[4]", "replica_groups={}").replace("START", "0")
    (gathered,) = Program(text).collectives
    assert gathered.group == 4
