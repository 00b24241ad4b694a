import eight_devices
import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from t5x_mini.checkpoint import layout
from t5x_mini.train.optimizers import Adafactor, AdamW, Muon

OPTIMIZERS = {"adafactor": eight_devices.FACTORED, "adamw": AdamW(), "muon": Muon()}
QUERY = "encoder/layers_0/attention/query/kernel"


def names(run):
    return layout.flatten(layout.shapes_on_disk(with_shardings(run))).keys()


def with_shardings(run):
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding),
        run.shapes,
        run.shardings,
    )


@pytest.mark.parametrize("architecture", ["encoder_decoder", "causal_lm"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_there_and_back(architecture, optimizer):
    run = eight_devices.one_device(architecture=architecture, optimizer=OPTIMIZERS[optimizer])
    state = jax.device_get(eight_devices.random_state(run))
    back = layout.from_disk(layout.to_disk(state), run.shapes)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, back, state)


def test_each_layer_is_an_array_of_its_own():
    run = eight_devices.one_device()
    state = jax.device_get(eight_devices.random_state(run))
    disk = layout.flatten(layout.to_disk(state))
    kernel = state.params["encoder/layers/attention/query/kernel"]
    means = state.opt_state["encoder/layers/attention/query/kernel"][0]
    for layer in (0, 1):
        name = f"encoder/layers_{layer}/attention/query/kernel"
        np.testing.assert_array_equal(disk[f"params/{name}"], kernel[layer])
        np.testing.assert_array_equal(disk[f"opt_state/{name}/v_row"], means.v_row[layer])
    assert disk["step"] == state.step
    np.testing.assert_array_equal(disk["rng"], state.rng)


def test_the_names_are_t5xs():
    parameters = {name for name in names(eight_devices.one_device()) if name.startswith("params/")}
    attention = ("query", "key", "value", "out")
    mlp = ("mlp/wi_0", "mlp/wi_1", "mlp/wo")
    expected = {
        *("token_embedder/embedding", "decoder/logits_dense/kernel"),
        *(f"{stack}/{name}" for stack in ("encoder", "decoder") for name in ("relpos_bias/rel_embedding",)),
        *(f"{stack}/{stack}_norm/scale" for stack in ("encoder", "decoder")),
    }
    for layer in ("layers_0", "layers_1"):
        expected |= {f"encoder/{layer}/{name}/kernel" for name in (*(f"attention/{a}" for a in attention), *mlp)}
        expected |= {f"encoder/{layer}/{name}/scale" for name in ("pre_attention_layer_norm", "pre_mlp_layer_norm")}
        inner = [f"{block}/{a}" for block in ("self_attention", "encoder_decoder_attention") for a in attention]
        expected |= {f"decoder/{layer}/{name}/kernel" for name in (*inner, *mlp)}
        norms = ("pre_self_attention_layer_norm", "pre_cross_attention_layer_norm", "pre_mlp_layer_norm")
        expected |= {f"decoder/{layer}/{name}/scale" for name in norms}
    assert parameters == {f"params/{name}" for name in expected}


@pytest.mark.parametrize(
    ("optimizer", "leaves"),
    [("adafactor", {"count", "v_row", "v_col", "v"}), ("adamw", {"count", "mu", "nu"})],
)
def test_the_optimizers_state_has_the_names_of_its_parameters(optimizer, leaves):
    found = names(eight_devices.one_device(optimizer=OPTIMIZERS[optimizer]))
    prefix = f"opt_state/{QUERY}/"
    assert {name.removeprefix(prefix) for name in found if name.startswith(prefix)} == leaves
    outside = {name.split("/")[0] for name in found}
    assert outside == {"step", "rng", "params", "opt_state"}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_scan_changes_no_name(optimizer):
    scanned, unrolled = (
        names(eight_devices.one_device(optimizer=OPTIMIZERS[optimizer], scan_layers=scan)) for scan in (True, False)
    )
    assert scanned == unrolled


def test_the_stacks_of_unequal_height():
    run = eight_devices.one_device(num_encoder_layers=1, num_decoder_layers=3, optimizer=Adafactor())
    layers = {name.split("/")[2] for name in names(run) if name.startswith("params/decoder/layers")}
    assert layers == {"layers_0", "layers_1", "layers_2"}
    assert not any(name.startswith("params/encoder/layers_1") for name in names(run))


def test_shapes_on_disk_are_split_as_in_memory_without_the_layers():
    disk = layout.flatten(layout.shapes_on_disk(with_shardings(eight_devices.run(eight_devices.mesh(2, 2, 2)))))
    kernel = disk["params/encoder/layers_1/mlp/wo/kernel"]
    assert kernel.shape == (24, 16)
    assert kernel.sharding.spec == PartitionSpec(("model",), ("fsdp",))


def test_some_fields_of_a_state_have_the_names_that_they_have_in_all_of_it():
    run = eight_devices.one_device()
    params = jax.device_get(eight_devices.random_state(run).params)
    disk = layout.to_disk({"params": params})
    assert layout.flatten(disk).keys() == {name for name in names(run) if name.startswith("params/")}
    jax.tree.map(np.testing.assert_array_equal, layout.from_disk(disk, {"params": params}), {"params": params})


def test_two_arrays_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two arrays of the state have the name params/a/b"):
        layout.to_disk({"params": {"a/b": np.ones(1), "a": {"b": np.ones(1)}}})
