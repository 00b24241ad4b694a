import dataclasses
import gzip
import json
import zipfile

import fake_servers
import goldens
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import t5x_writer
import tiny
from goldens import error

from t5x_mini.checkpoint import layout, t5x_files
from t5x_mini.checkpoint.t5x_format import T5XSource, is_t5x
from t5x_mini.errors import UserError
from t5x_mini.model import transformer
from t5x_mini.train import optimizers
from t5x_mini.train.optimizers import Adafactor


def arrays_of(source):
    arrays = {name: source.read(name) for name in source.shapes}
    assert {name: array.shape for name, array in arrays.items()} == dict(source.shapes)
    return arrays


def on_disk(**state):
    """A state in memory, as numpy arrays by their names on disk."""
    return layout.flatten(jax.device_get(layout.to_disk(state)))


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)


# -------------------------------------------------------------------------------------------- what T5X itself wrote


@pytest.fixture(scope="module")
def golden_folder(tmp_path_factory):
    """The checkpoint that T5X wrote after the six steps of `adafactor_6_steps.npz`, in a folder `checkpoint_6`."""
    folder = tmp_path_factory.mktemp("t5x")
    with zipfile.ZipFile(goldens.FOLDER / "t5x_checkpoint.zip") as packed:
        packed.extractall(folder)
    return folder


def zarr_array(folder):
    """An array of one chunk, without TensorStore."""
    about = json.loads((folder / ".zarray").read_text())
    (chunk,) = folder.glob("[0-9]*")
    return np.frombuffer(gzip.decompress(chunk.read_bytes()), about["dtype"]).reshape(about["shape"])


def test_golden_parameters_are_t5xs_bit_by_bit(golden_folder):
    source = T5XSource(str(golden_folder))
    golden = goldens.under("params6", np.load(goldens.FOLDER / "adafactor_6_steps.npz"))
    assert_same(goldens.under("params", arrays_of(source)), golden)


def test_golden_is_described(golden_folder):
    origin = T5XSource(str(golden_folder)).origin
    model = goldens.load("encdec_t5_1_1").model
    assert origin.model == dataclasses.replace(model, dtype=origin.model.dtype)
    assert (origin.kind, origin.step, origin.vocabulary) == ("t5x", 6, None)
    assert origin.path == str(golden_folder / "checkpoint_6")
    assert origin.notes == ("T5X doesn't say what the activation is: taken to be a gated GELU",)


def test_the_next_adafactor_step_goes_on_from_goldens_state(golden_folder):
    """Our update 7 from what was read, against Adafactor in float64 on the moments in T5X's files, with gradients that
    are T5X's too. (No side of these parameters reaches 128: nothing is factored.)"""
    found, golden = arrays_of(T5XSource(str(golden_folder))), goldens.load("encdec_t5_1_1")
    like = {"params": golden.params, "opt_state": optimizers.init(Adafactor(), golden.params)}
    before = layout.from_disk(layout.nest({name: jnp.asarray(found[name]) for name in found.keys() - {"step"}}), like)
    update = jax.jit(lambda *of: optimizers.update(Adafactor(), golden.grads, *of), compiler_options=tiny.QUICK)
    params, opt_state = update(before["opt_state"], before["params"], 0.5)
    after, grads = on_disk(params=params, opt_state=opt_state), on_disk(params=golden.grads)
    keep = 1 - 7**-0.8
    for name, grad in goldens.under("params", grads).items():
        saved = zarr_array(golden_folder / "checkpoint_6" / f"state.param_states.{name.replace('/', '.')}.v")
        grad, param = grad.astype(np.float64), found[f"params/{name}"].astype(np.float64)
        moment = keep * saved.astype(np.float64) + (1 - keep) * grad**2
        direction = grad / np.sqrt(moment)
        direction /= max(1.0, np.sqrt(np.mean(direction**2)))
        expected = param - 0.5 * max(1e-3, np.sqrt(np.mean(param**2))) * direction
        assert error(after[f"opt_state/{name}/v"], moment) < 1e-6, name
        assert error(after[f"params/{name}"], expected) < 2e-6, name
        assert after[f"opt_state/{name}/count"] == 7


@pytest.mark.parametrize("name", goldens.DECODED)
def test_logits_of_t5xs_models_are_t5xs(name, tmp_path):
    golden = goldens.load(name)
    params = goldens.under("params", np.load(goldens.FOLDER / f"{name}.npz"))
    t5x_writer.native(tmp_path / "checkpoint_1", t5x_writer.as_state(params))
    source = T5XSource(str(tmp_path), None if golden.model.has_encoder else golden.model.architecture)
    model = dataclasses.replace(source.origin.model, dtype="float32")
    params = goldens.stacked(goldens.under("params", arrays_of(source)))
    forward = jax.jit(lambda params, batch: transformer.bind(model, params)(batch), compiler_options=tiny.QUICK)
    assert error(forward(jax.tree.map(jnp.asarray, params), golden.batch), golden.logits) < 1e-5


# ---------------------------------------------------------------------------------------------------- its formats


@pytest.fixture(scope="module")
def state():
    """A model without a head, with random moments: (our names, T5X's names)."""
    params = on_disk(params=tiny.params(tiny.model(logits_via_embedding=True, mlp_activations=("relu",))))
    rng = np.random.default_rng(0)
    moments = {name.removeprefix("params/"): rng.random(p.shape, np.float32) for name, p in params.items()}
    none = np.zeros(1, np.float32)
    ours = params | {"step": np.asarray(6, np.int32)}
    for name, v in moments.items():
        leaves = {"count": np.asarray(6, np.int32), "v_row": none, "v_col": none, "v": v}
        ours |= {f"opt_state/{name}/{leaf}": array for leaf, array in leaves.items()}
    theirs = {f"{name}/v": v for name, v in moments.items()}
    theirs |= {f"{name}/{leaf}": none for name in moments for leaf in ("v_row", "v_col", "m")}
    return ours, t5x_writer.as_state(goldens.under("params", params), theirs)


def in_a_placeholder(folder, flat):
    """As Orbax wrote in 2022: names of arrays in the msgpack file, and small arrays themselves."""
    t5x_writer.orbax(folder, flat, ocdbt=False)
    small = {name: array for name, array in flat.items() if array.ndim == 0 or array.shape == (1,)}
    names = {name: f"PLACEHOLDER://{name.replace('/', '.')}" for name in flat}
    tree = t5x_writer.nested(names | small) | {"flax_mutables": None}
    (folder / "state" / "checkpoint").write_bytes(t5x_writer.serialization.msgpack_serialize(tree))
    (folder / "state" / "_METADATA").unlink()


WRITERS = {
    "native": t5x_writer.native,
    "native_written_to_a_bucket": lambda *to: t5x_writer.native(*to, driver="gcs"),
    "all_in_msgpack": lambda *to: t5x_writer.native(*to, inline=lambda name, array: True),
    "all_in_zarr": lambda *to: t5x_writer.native(*to, inline=lambda name, array: False),
    "orbax_ocdbt": t5x_writer.orbax,
    "orbax_folders": lambda *to: t5x_writer.orbax(*to, ocdbt=False),
    "orbax_placeholders": in_a_placeholder,
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_format_gives_the_same_arrays(write, state, tmp_path):
    ours, theirs = state
    write(tmp_path / "checkpoint_6", theirs)
    source = T5XSource(str(tmp_path / "checkpoint_6"))
    assert_same(arrays_of(source), ours)
    assert source.origin.step == 6
    assert source.origin.model.logits_via_embedding
    assert source.origin.model.mlp_activations == ("relu",)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.uint16], ids=["bfloat16", "version_2"])
def test_bfloat16_is_read_as_float32(dtype, state, tmp_path):
    ours, theirs = state
    half = {
        name: array.astype(ml_dtypes.bfloat16).view(dtype) if name.startswith("target/") else array
        for name, array in theirs.items()
    }
    t5x_writer.native(tmp_path / "checkpoint_6", half)
    rounded = {
        name: array.astype(ml_dtypes.bfloat16).astype(np.float32) if name.startswith("params/") else array
        for name, array in ours.items()
    }
    assert_same(arrays_of(T5XSource(str(tmp_path))), rounded)


def test_a_checkpoint_in_a_bucket(state, tmp_path, monkeypatch):
    ours, theirs = state
    t5x_writer.native(tmp_path / "checkpoint_6", theirs)
    stored = {
        f"bucket/models/{path.relative_to(tmp_path)}": path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    with fake_servers.serving(stored) as (address, _):
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "token")
        assert is_t5x("gs://bucket/models")
        assert not is_t5x("gs://bucket/other")
        source = T5XSource("gs://bucket/models")
        assert source.origin.path == "gs://bucket/models/checkpoint_6"
        assert_same(arrays_of(source), ours)


# -------------------------------------------------------------------------------------------------- scalable_t5

# The layers of umT5: wide enough that their Adafactor is factored, and taller, square and wider than long by turns.
SCALABLE = [
    dict(emb_dim=128, num_heads=2, head_dim=96, mlp_dim=160),
    dict(emb_dim=192, num_heads=2, head_dim=64, mlp_dim=160),
    dict(emb_dim=128, num_heads=2, head_dim=64, mlp_dim=128),
]


def trained_once(model):
    """Gradients, and our state after one update with them, on disk."""
    rng = np.random.default_rng(0)
    shapes = transformer.param_shapes(model)
    params, grads = ({name: rng.standard_normal(p.shape, np.float32) for name, p in shapes.items()} for _ in range(2))
    update = jax.jit(
        lambda grads: optimizers.update(Adafactor(), grads, optimizers.init(Adafactor(), params), params, 0.1)[1],
        compiler_options=tiny.QUICK,
    )
    state = on_disk(params=params, opt_state=update(grads))
    return on_disk(params=grads), state | {"step": np.asarray(1, np.int32)}


def disk_shapes(model):
    shapes = jax.eval_shape(layout.to_disk, {"params": transformer.param_shapes(model)})
    return {name: shape.shape for name, shape in layout.flatten(shapes["params"]).items()}


def as_scalable(model, flat, scan=True):
    apart = t5x_writer.heads_apart(goldens.under("params", flat), model.num_heads)
    return t5x_writer.scanned(apart) if scan else apart


def scalable_state(model, grads, ours):
    """T5X's state after that update: the mean squared gradient is the first gradient's square."""
    squares = {name: grad**2 + np.float32(1e-30) for name, grad in as_scalable(model, grads).items()}
    moments = {
        f"{name}/{moment}": array
        for name, square in squares.items()
        for moment, array in t5x_writer.scanned_moments(name, square).items()
    }
    return t5x_writer.as_state(as_scalable(model, ours), moments, step=1)


@pytest.mark.parametrize("sizes", SCALABLE, ids=["wide", "tall", "square"])
def test_scanned_layers_come_apart_with_their_moments(sizes, tmp_path):
    model = tiny.model(relpos_bias_per_layer=True, vocab_size=32, **sizes)
    grads, ours = trained_once(model)
    t5x_writer.native(tmp_path / "checkpoint_1", scalable_state(model, grads, ours))
    source = T5XSource(str(tmp_path))
    assert source.origin.model == dataclasses.replace(model, dtype="bfloat16")
    found = arrays_of(source)
    assert found.keys() == ours.keys()
    factored = 0
    for name, array in ours.items():
        if name.startswith("params/"):
            np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)
        np.testing.assert_allclose(found[name], array, rtol=2e-6, err_msg=name)
        factored += name.endswith("/kernel/v_row") and array.shape != (1,)
    assert factored == 2 * (4 + 3) + 2 * (8 + 3)


def test_unscanned_scalable_layers(tmp_path):
    model = tiny.model(relpos_bias_per_layer=True, mlp_activations=("relu",))
    rng = np.random.default_rng(0)
    ours = {f"params/{name}": rng.random(shape, np.float32) for name, shape in disk_shapes(model).items()}
    params = as_scalable(model, ours, scan=False)
    assert params["encoder/layers_0/attention/out/kernel"].shape == (2, 8, 16)
    t5x_writer.native(tmp_path / "checkpoint_1", t5x_writer.as_state(params))
    source = T5XSource(str(tmp_path))
    assert_same(goldens.under("params", arrays_of(source)), goldens.under("params", ours))


def test_small_scanned_matrices_get_the_whole_of_their_moments(tmp_path):
    """T5X factors them under scan, ours doesn't: the whole is what Adafactor takes it to be from the means."""
    model = tiny.model(relpos_bias_per_layer=True)
    grads, ours = trained_once(model)
    t5x_writer.native(tmp_path / "checkpoint_1", scalable_state(model, grads, ours))
    source = T5XSource(str(tmp_path))
    assert any("made from the means" in note for note in source.origin.notes)
    found = arrays_of(source)
    for name, array in goldens.under("opt_state", ours).items():
        if name.endswith("/wo/kernel/v"):
            wanted = np.outer(array.mean(axis=1), array.mean(axis=0)) / array.mean()
            np.testing.assert_allclose(found[f"opt_state/{name}"], wanted, rtol=1e-5)
        elif not ("/layers_" in name and name.endswith("/kernel/v")):
            np.testing.assert_allclose(found[f"opt_state/{name}"], array, rtol=1e-5, err_msg=name)


def test_whole_moments_of_large_matrices_are_averaged(tmp_path):
    """umT5's larger sizes were trained with `Adafactor.factored = False` and momentum."""
    model = tiny.model(relpos_bias_per_layer=True, vocab_size=32, **SCALABLE[0])
    grads, ours = trained_once(model)
    squares = {name: grad**2 + np.float32(1e-30) for name, grad in as_scalable(model, grads).items()}
    none = np.zeros(1, np.float32)
    moments = {f"{name}/v": square for name, square in squares.items()}
    moments |= {f"{name}/{moment}": none for name in squares for moment in ("v_row", "v_col")}
    moments |= {f"{name}/m": square for name, square in squares.items()}
    t5x_writer.native(tmp_path / "checkpoint_1", t5x_writer.as_state(as_scalable(model, ours), moments, step=1))
    source = T5XSource(str(tmp_path))
    for name, array in goldens.under("opt_state", ours).items():
        np.testing.assert_allclose(source.read(f"opt_state/{name}"), array, rtol=2e-6, err_msg=name)
    assert "Adafactor's momentum is left out: Adafactor has none here" in source.origin.notes


def test_a_stacked_array_is_read_once(tmp_path, monkeypatch):
    model = tiny.model(relpos_bias_per_layer=True, num_encoder_layers=3)
    params = {f"params/{name}": np.zeros(shape) for name, shape in disk_shapes(model).items()}
    theirs = t5x_writer.as_state(as_scalable(model, params))
    t5x_writer.native(tmp_path / "checkpoint_1", theirs)
    source = T5XSource(str(tmp_path))
    read, names = t5x_files.read, []
    monkeypatch.setattr(t5x_files, "read", lambda leaf: names.append(leaf) or read(leaf))
    for name in source.shapes:
        if name.startswith("params/"):
            source.read(name)
    assert len(names) == sum(name.startswith("target/") for name in theirs)


# ------------------------------------------------------------------------------------ what else a checkpoint may be


def test_the_newest_complete_checkpoint_is_taken(state, tmp_path):
    theirs = state[1]
    for number in (9, 10):
        t5x_writer.native(tmp_path / f"checkpoint_{number}", theirs | {"state/step": np.asarray(number, np.int32)})
    (tmp_path / "checkpoint_11").mkdir()
    (tmp_path / "checkpoint_12.tmp-1700000000").mkdir()
    assert T5XSource(f"{tmp_path}/").origin.step == 10
    assert T5XSource(str(tmp_path / "checkpoint_9")).origin.step == 9


def test_other_optimisers_state_is_left_out(state, tmp_path):
    theirs = {name: array for name, array in state[1].items() if "param_states" not in name}
    theirs["state/param_states/0/mu/token_embedder/embedding"] = np.ones((40, 16), np.float32)
    t5x_writer.native(tmp_path / "checkpoint_6", theirs)
    source = T5XSource(str(tmp_path))
    assert not goldens.under("opt_state", dict(source.shapes))
    assert "the optimiser's state is left out: it is not that of T5X's Adafactor" in source.origin.notes


def test_a_checkpoint_for_inference_has_parameters_alone(state, tmp_path):
    theirs = {name: array for name, array in state[1].items() if name.startswith("target/")}
    t5x_writer.orbax(tmp_path / "checkpoint_6", theirs)
    source = T5XSource(str(tmp_path))
    assert source.origin.step is None
    assert {name.partition("/")[0] for name in source.shapes} == {"params"}


def test_what_t5xs_config_says_is_taken(state, tmp_path):
    t5x_writer.native(tmp_path / "checkpoint_6", state[1])
    (tmp_path / "config.gin").write_text(
        "from t5x import models\n"
        "DROPOUT_RATE = 0.1\n"
        "LOSS_NORMALIZING_FACTOR = 233472\n"
        "network.T5Config.mlp_activations = ('gelu',)\n"
        "seqio.SentencePieceVocabulary.sentencepiece_model_file = \\\n"
        "    'gs://t5-data/vocabs/cc_all.32000/sentencepiece.model'\n"
        "seqio.SentencePieceVocabulary.extra_ids = 30\n"
        "VOCABULARY = @seqio.SentencePieceVocabulary()\n"
    )
    origin = T5XSource(str(tmp_path)).origin
    assert origin.vocabulary == "gs://t5-data/vocabs/cc_all.32000/sentencepiece.model"
    assert (origin.extra_ids, origin.dropout_rate, origin.loss_normalizing_factor) == (30, 0.1, 233472)
    assert origin.model.mlp_activations == ("gelu",)
    assert origin.notes == ()


def test_decoder_only_is_a_prefix_lm_unless_told(tmp_path):
    params = goldens.under("params", np.load(goldens.FOLDER / "causal_lm.npz"))
    t5x_writer.native(tmp_path / "checkpoint_1", t5x_writer.as_state(params))
    origin = T5XSource(str(tmp_path)).origin
    assert origin.model.architecture == "prefix_lm"
    assert "T5X doesn't say whether it is a prefix_lm or a causal_lm: taken to be a prefix_lm" in origin.notes
    with pytest.raises(UserError, match="has no encoder, so that its architecture is prefix_lm or causal_lm, and not"):
        T5XSource(str(tmp_path), "encoder_decoder")


# ---------------------------------------------------------------------------------------------------- what is refused


def test_no_checkpoint(tmp_path):
    assert not is_t5x(str(tmp_path))
    with pytest.raises(UserError, match=r"no T5X checkpoint in .*Write a folder with a file `checkpoint` or a folder"):
        T5XSource(str(tmp_path / "nothing"))


def test_a_missing_chunk_is_not_zeros(state, tmp_path):
    t5x_writer.native(tmp_path / "checkpoint_6", state[1])
    (tmp_path / "checkpoint_6" / "target.token_embedder.embedding" / "1.0").unlink()
    source = T5XSource(str(tmp_path))
    with pytest.raises(UserError, match="incomplete: parts of .*target.token_embedder.embedding/ are missing"):
        source.read("params/token_embedder/embedding")


def test_a_missing_array(state, tmp_path):
    t5x_writer.native(tmp_path / "checkpoint_6", state[1])
    (tmp_path / "checkpoint_6" / "target.token_embedder.embedding" / ".zarray").unlink()
    with pytest.raises(UserError, match="incomplete: its array target.token_embedder.embedding cannot be opened"):
        T5XSource(str(tmp_path))


def test_a_tensorflow_checkpoint(tmp_path):
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1000000"\n')
    with pytest.raises(UserError, match="of a TensorFlow checkpoint .*convert it with T5X's convert_tf_checkpoint"):
        T5XSource(str(tmp_path))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p: p.pop("decoder/relpos_bias/rel_embedding"), "it has no parameter 'decoder/relpos_bias/rel_emb"),
        (lambda p: p.pop("encoder/layers_1/mlp/wo/kernel"), "it lacks encoder/layers_1/mlp/wo/kernel"),
        (lambda p: p.update({"encoder/adapter": np.ones(3)}), "it has besides encoder/adapter"),
        (
            lambda p: p.update({"encoder/layers_1/mlp/wo/kernel": np.ones((24, 8))}),
            r"encoder/layers_1/mlp/wo/kernel is \(24, 8\), not \(24, 16\)",
        ),
    ],
    ids=["no_bias", "a_kernel_short", "an_adapter", "another_shape"],
)
def test_another_network(change, message, state, tmp_path):
    params = goldens.under("params", state[0])
    change(params)
    t5x_writer.native(tmp_path / "checkpoint_6", t5x_writer.as_state(params), inline=lambda name, array: True)
    with pytest.raises(UserError, match=f"holds no T5 as it is known here: {message}"):
        T5XSource(str(tmp_path))
