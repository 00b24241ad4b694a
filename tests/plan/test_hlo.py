"""Programs compiled for the CPUs that are here, and pieces of text as the TPU compiler writes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from t5x_mini.model import transformer
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


def test_flops_of_a_models_gradient_are_xlas_own_count():
    """XLA counts a loop's body once, and so it is asked about layers that stand one after another."""
    sizes = dict(vocab_size=512, emb_dim=256, num_heads=2, head_dim=128, mlp_dim=1024, num_decoder_layers=3)
    batch = tiny.batch("causal_lm", tiny.examples(0, 4, longest=60), inputs=64, targets=64)

    def gradient(**changes):
        model = tiny.model("causal_lm", **(sizes | changes))
        params = jax.eval_shape(lambda: transformer.init_params(model, jax.random.key(0)))
        loss = jax.grad(lambda params: jnp.sum(transformer.bind(model, params)(batch) ** 2))
        return jax.jit(loss).lower(params).compile(compiler_options=tiny.QUICK)

    scanned, unrolled = (gradient(scan_layers=scan) for scan in (True, False))
    counted = Program(scanned.as_text()).flops
    assert counted == Program(unrolled.as_text()).flops
    # XLA counts additions and the like too.
    assert 0.97 < counted / unrolled.cost_analysis()["flops"] <= 1
    assert scanned.cost_analysis()["flops"] < counted / 2


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
  %all-gather.1 = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4], dimensions={1}, frontend_attributes={chain_id="1"}
  ROOT %custom-call.1 = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%beside (r: bf16[8,16]) -> bf16[8,64] {
  %r = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.3 = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} all-gather(%r), channel_id=7, replica_groups=[1,4]<=[4], dimensions={1}, frontend_attributes={chain_id="1"}
}

%done (q: bf16[8,16]) -> bf16[8,64] {
  %q = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.2 = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} all-gather(%q), channel_id=7, replica_groups=[1,4]<=[4], dimensions={1}, frontend_attributes={chain_id="1"}
  ROOT %custom-call.2 = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} custom-call(%all-gather.2), custom_call_target="AsyncCollectiveDone"
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
  %fusion.5 = bf16[8,64]{1,0:S(1)} fusion(%part), kind=kCustom, calls=%beside
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
    read = 24 * (1024 * 4 + 4 + 8 * 16 * 2)  # a slice and its index; once the part that is gathered
    products = 4 * (6 * 32 * 16 + 6 * 48 * 16 + 6 * 32 * 48)
    scalars = 24 * 3 * 4  # the counter: two numbers in, one out
    assert tpu().hbm_bytes == read + products + scalars


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


# As libtpu writes a product with a matrix that is gathered on the way (two parts a turn), and gradients that are summed
# and split: those that XLA combined share channel 1, whatever they are.
WINDOWED = """HloModule jit_step, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (state: (f32[16,32], f32[32,64], f32[16,64], u32[], u32[])) -> (f32[16,32], f32[32,64], f32[16,64], u32[], u32[]) {
  %state = (f32[16,32], f32[32,64], f32[16,64], u32[]{:T(128)}, u32[]{:T(128)}) parameter(0)
  %x = f32[16,32]{1,0} get-tuple-element(%state), index=0
  %w = f32[32,64]{1,0} get-tuple-element(%state), index=1
  %count = u32[]{:T(128)} get-tuple-element(%state), index=3
  %two = u32[]{:T(128)} STEP
  %collective-permute-start.1 = (f32[32,64]{1,0}, f32[32,64]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%w), channel_id=4, source_target_pairs={{0,1},{1,2},{2,3},{3,4},{4,5},{5,6},{6,7},{7,0}}
  %collective-permute-done.1 = f32[32,64]{1,0} collective-permute-done(%collective-permute-start.1)
  %convolution.1 = f32[16,64]{1,0} convolution(%x, %w), dim_labels=bf_io->bf
  %add.1 = u32[]{:T(128)} add(%count, %two)
  %copy.1 = u32[]{:T(128)} copy(%add.1)
  ROOT %tuple.1 = (f32[16,32], f32[32,64], f32[16,64], u32[]{:T(128)}, u32[]{:T(128)}) tuple(%x, %collective-permute-done.1, %convolution.1, %copy.1, %two)
}

%condition (state.1: (f32[16,32], f32[32,64], f32[16,64], u32[], u32[])) -> pred[] {
  %bound = u32[]{:T(128)} constant(8)
  %state.1 = (f32[16,32], f32[32,64], f32[16,64], u32[]{:T(128)}, u32[]{:T(128)}) parameter(0)
  %count.1 = u32[]{:T(128)} get-tuple-element(%state.1), index=3
  ROOT %compare.1 = pred[]{:T(512)} compare(%count.1, %bound), direction=LT
}

%all-reduce-scatter.1.clone (g: f32[32,64]) -> f32[4,64] {
  %g = f32[32,64]{1,0} parameter(0)
  %all-reduce.1 = f32[32,64]{1,0} all-reduce(%g), channel_id=1, replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %dynamic-slice.1 = f32[4,64]{1,0} dynamic-slice(%all-reduce.1), dynamic_slice_sizes={4,64}
}

%all-reduce-scatter.2.clone (h: f32[32,64], i: f32[16,32]) -> (f32[4,64], f32[2,32]) {
  %h = f32[32,64]{1,0} parameter(0)
  %i = f32[16,32]{1,0} parameter(1)
  %all-reduce.2 = (f32[32,64]{1,0}, f32[16,32]{1,0}) all-reduce(%h, %i), channel_id=1, replica_groups=[1,8]<=[8], to_apply=%add
  %get-tuple-element.1 = f32[32,64]{1,0} get-tuple-element(%all-reduce.2), index=0
  %get-tuple-element.2 = f32[16,32]{1,0} get-tuple-element(%all-reduce.2), index=1
  %dynamic-slice.2 = f32[4,64]{1,0} dynamic-slice(%get-tuple-element.1), dynamic_slice_sizes={4,64}
  %dynamic-slice.3 = f32[2,32]{1,0} dynamic-slice(%get-tuple-element.2), dynamic_slice_sizes={2,32}
  ROOT %tuple.3 = (f32[4,64]{1,0}, f32[2,32]{1,0}) tuple(%dynamic-slice.2, %dynamic-slice.3)
}

ENTRY %main (x0: f32[16,32], w0: f32[32,64], y0: f32[16,64]) -> f32[4,64] {
  %x0 = f32[16,32]{1,0} parameter(0)
  %w0 = f32[32,64]{1,0} parameter(1)
  %y0 = f32[16,64]{1,0} parameter(2)
  %zero = u32[]{:T(128)} constant(0)
  %copy.2 = u32[]{:T(128)} copy(%zero)
  %step = u32[]{:T(128)} constant(2)
  %tuple.2 = (f32[16,32], f32[32,64], f32[16,64], u32[]{:T(128)}, u32[]{:T(128)}) tuple(%x0, %w0, %y0, %copy.2, %step)
  %while.1 = (f32[16,32], f32[32,64], f32[16,64], u32[]{:T(128)}, u32[]{:T(128)}) while(%tuple.2), condition=%condition, body=%body
  %fusion.1 = f32[4,64]{1,0} fusion(%w0), kind=kCustom, calls=%all-reduce-scatter.1.clone
  ROOT %fusion.2 = (f32[4,64]{1,0}, f32[2,32]{1,0}) fusion(%w0, %x0), kind=kCustom, calls=%all-reduce-scatter.2.clone
}
"""  # noqa: E501


@pytest.mark.parametrize("step", ["constant(2)", "get-tuple-element(%state), index=4"])
def test_a_loop_over_parts_counts_by_its_step(step):
    program = Program(WINDOWED.replace("STEP", step))
    assert program.flops == 4 * 2 * 16 * 32 * 64
    (sent,) = (one for one in program.collectives if one.kind == "collective-permute")
    assert (sent.count, sent.bytes) == (4, 32 * 64 * 4)


def test_collectives_of_one_channel_are_told_apart():
    found = Program(WINDOWED.replace("STEP", "constant(2)")).collectives
    scattered = {one.bytes: one.count for one in found if one.kind == "reduce-scatter"}
    assert scattered == {32 * 64 * 4: 1, (32 * 64 + 16 * 32) * 4: 1}


SENT = """HloModule jit_step, is_scheduled=true, num_partitions=4

ENTRY %main (x: bf16[4,8,128]) -> token[] {{
  %x = bf16[4,8,128]{{2,1,0:T(8,128)(2,1)}} parameter(0)
  %after-all.1 = token[] after-all()
  %send.1 = (bf16[4,8,128]{{2,1,0:T(8,128)(2,1)}}, u32[], token[]) send(%x, %after-all.1), channel_id=4, is_host_transfer=true, frontend_attributes={{_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_host_transfer_rendezvous="all-reduce.163_0",_xla_megascale_reduce_operation="SUM",_xla_megascale_target={target},_xla_megascale_transfer_type="{kind}"}}
  ROOT %send-done.1 = token[] send-done(%send.1), channel_id=4, is_host_transfer=true, frontend_attributes={{_xla_host_transfer_handler_name="xla_megascale_runtime"}}
}}
"""  # noqa: E501


@pytest.mark.parametrize(
    ("kind", "target", "slices", "whole"),
    [
        ("ALL_REDUCE", '"{1,2}x{0:3}"', 2, 1),
        ("ALL_GATHER", '"{1,2,3,4}x{0:3}"', 4, 4),
        ("REDUCE_SCATTER", '"{1:4}x{0:3}"', 4, 1),
        ("ALL_TO_ALL", "{{100000,100001,200001,200000}}", 2, 1),
    ],
)
def test_what_goes_to_other_slices_is_handed_to_their_runtime(kind, target, slices, whole):
    (one,) = Program(SENT.format(kind=kind, target=target)).collectives
    assert (one.kind, one.slices, one.group, one.count) == (kind.lower().replace("_", "-"), slices, slices, 1)
    assert one.bytes == 4 * 8 * 128 * 2 * whole
