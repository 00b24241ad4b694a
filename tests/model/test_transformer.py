"""The whole model: T5X's numbers, published sizes, initialisers, numerics, and what may influence what."""

import dataclasses
import functools

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from goldens import error

from t5x_mini import config as run_config
from t5x_mini.errors import UserError
from t5x_mini.model import decoding, transformer
from t5x_mini.model.config import ARCHITECTURES, TransformerConfig
from t5x_mini.train.loss import cross_entropy


def jit(function):
    return jax.jit(function, compiler_options=tiny.QUICK)


# ------------------------------------------------------------------------------------------------- parity with T5X


UNROLLED = ("encdec_t5_1_1_packed", "encdec_t5_1_0", "prefix_lm_packed")  # the rest takes as long again


@pytest.mark.parametrize("name", goldens.MODELS)
def test_logits_loss_and_gradients_are_t5xs(name):
    assert_is_t5xs(goldens.load(name), scan_layers=True)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in UNROLLED else pytest.mark.slow) for name in goldens.MODELS]
)
def test_so_are_those_of_unrolled_layers(name):
    assert_is_t5xs(goldens.load(name), scan_layers=False)


def assert_is_t5xs(golden, scan_layers):
    config = dataclasses.replace(golden.model, scan_layers=scan_layers)
    smoothing, z_loss = golden.loss_config.label_smoothing, golden.loss_config.z_loss

    def loss(params, batch):
        logits = transformer.bind(config, params)(batch)
        tokens = cross_entropy(logits, batch["decoder_target_tokens"], label_smoothing=smoothing, z_loss=z_loss)
        return jnp.sum(batch["decoder_loss_weights"] * tokens.total), logits

    (summed, logits), grads = jit(jax.value_and_grad(loss, has_aux=True))(golden.params, golden.batch)
    assert error(logits, golden.logits) < 1e-5
    assert error(summed, golden.loss) < 1e-5
    assert grads.keys() == golden.grads.keys()
    for parameter, grad in grads.items():
        assert error(grad, golden.grads[parameter]) < 1e-4, parameter


def test_every_kind_of_golden_is_there():
    architectures = {goldens.load(name).model.architecture for name in goldens.MODELS}
    assert architectures == set(ARCHITECTURES) and len(goldens.MODELS) == 8 and len(goldens.DECODED) == 5


@pytest.mark.parametrize("name", goldens.MODELS)
def test_names_and_shapes_of_the_parameters_are_t5xs(name):
    golden = goldens.load(name)
    shapes = {parameter: shape.shape for parameter, shape in transformer.param_shapes(golden.model).items()}
    assert shapes == {parameter: array.shape for parameter, array in golden.params.items()}


# ------------------------------------------------------------------------------------------------------------ sizes

# As counted in the published checkpoints, whose vocabulary has 32128 rows.
PUBLISHED = {
    "t5_1_0/small": 60_506_624,
    "t5_1_0/base": 222_903_552,
    "t5_1_0/large": 737_668_096,
    "t5_1_0/xl": 2_851_598_336,
    "t5_1_0/xxl": 11_307_321_344,
    "t5_1_1/small": 76_961_152,
    "t5_1_1/base": 247_577_856,
    "t5_1_1/large": 783_150_080,
    "t5_1_1/xl": 2_849_757_184,
    "t5_1_1/xxl": 11_135_332_352,
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes_have_the_published_number_of_parameters(size):
    run = run_config.load(["gin/quickstart.gin", f"gin/models/{size}.gin"])
    model = dataclasses.replace(run.model, vocab_size=32128)
    assert transformer.param_count(model) == counted_by_hand(model) == PUBLISHED[size]


def counted_by_hand(c: TransformerConfig) -> int:
    attention = 4 * c.emb_dim * c.num_heads * c.head_dim
    mlp = (len(c.mlp_activations) + 1) * c.emb_dim * c.mlp_dim
    encoder = c.num_encoder_layers * (attention + mlp + 2 * c.emb_dim)
    decoder = c.num_decoder_layers * (2 * attention + mlp + 3 * c.emb_dim)
    tables = c.vocab_size * c.emb_dim * (1 if c.logits_via_embedding else 2)
    return encoder + decoder + tables + 2 * (c.num_heads * c.relpos_buckets + c.emb_dim)


@pytest.mark.parametrize("architecture", ["prefix_lm", "causal_lm"])
def test_a_decoder_only_model_is_the_decoder_without_cross_attention(architecture):
    whole = transformer.param_shapes(tiny.model())
    alone = transformer.param_shapes(tiny.model(architecture))
    of_decoder = {name for name in whole if name.startswith("decoder/") and "cross" not in name}
    of_decoder -= {name for name in whole if "encoder_decoder_attention" in name}
    assert set(alone) == of_decoder | {"decoder/token_embedder/embedding"}


# ----------------------------------------------------------------------------------------------------- initialisers

WIDE = tiny.model(
    emb_dim=192, num_heads=4, head_dim=24, mlp_dim=320, vocab_size=1000, relpos_buckets=512, relpos_max_distance=4096
)
TRUNCATED = 2 / 0.87962566103423978  # jax cuts at 2 and then brings the standard deviation back to 1
STDS = {
    "query/kernel": (1 / np.sqrt(192 * 24), np.inf),
    "key/kernel": (1 / np.sqrt(192), np.inf),
    "value/kernel": (1 / np.sqrt(192), np.inf),
    "out/kernel": (1 / np.sqrt(4 * 24), np.inf),
    "wi_0/kernel": (1 / np.sqrt(192), TRUNCATED),
    "wi_1/kernel": (1 / np.sqrt(192), TRUNCATED),
    "wo/kernel": (1 / np.sqrt(320), TRUNCATED),
    "logits_dense/kernel": (1 / np.sqrt(192), TRUNCATED),
    "token_embedder/embedding": (1.0, np.inf),
    "relpos_bias/rel_embedding": (np.sqrt(2 / (4 + 512)), np.sqrt(3)),  # uniform: it ends at sqrt(3) deviations
}


def test_initial_values_are_drawn_as_t5s():
    params = tiny.params(WIDE)
    for name, param in params.items():
        assert param.dtype == jnp.float32
        if name.endswith("/scale"):
            assert (param == 1).all()
            continue
        std, end = STDS["/".join(name.split("/")[-2:])]
        drawn = np.asarray(param, np.float64) / std
        assert abs(drawn.std() - 1) < 4 / np.sqrt(2 * drawn.size), name
        assert abs(drawn.mean()) < 4 / np.sqrt(drawn.size), name
        reached = np.abs(drawn).max()
        assert reached <= end * (1 + 1e-6) and (reached > 0.97 * end if np.isfinite(end) else reached > 3), name


def test_every_parameter_and_every_layer_is_drawn_anew():
    params = tiny.params(WIDE)
    drawn = {name: param for name, param in params.items() if not name.endswith("/scale")}
    arrays = [
        layer for name, param in drawn.items() for layer in (list(param) if transformer.is_stacked(name) else [param])
    ]
    assert len({np.asarray(array).ravel()[:8].tobytes() for array in arrays}) == len(arrays)
    again = tiny._params.__wrapped__(WIDE, 0)
    other = tiny.params(WIDE, 1)
    assert all((again[name] == params[name]).all() for name in params)
    assert all((other[name] != params[name]).any() for name in drawn)


def test_axes_name_every_dimension():
    config = tiny.model()
    axes = transformer.param_axes(config)
    for name, shape in transformer.param_shapes(config).items():
        assert len(axes[name]) == len(shape.shape), name
        assert (axes[name][0] == "layers") == transformer.is_stacked(name) == ("/layers/" in name), name


# --------------------------------------------------------------------------------------------------------- numerics

EXAMPLES = tiny.examples(0, 4)


@functools.cache
def compiled(config):
    return jit(lambda params, *args: transformer.bind(config, params)(*args))


def forward(config, dropout_key=None):
    return compiled(config)(tiny.params(config), tiny.batch(config.architecture, EXAMPLES), dropout_key)


@functools.cache
def gradients(config):
    """With dropout on, so that a recomputation has to draw the same numbers again."""
    params = tiny.params(config)
    batch = tiny.batch(config.architecture, EXAMPLES)

    def objective(params, batch, key):
        logits = transformer.bind(config, params)(batch, key)
        return jnp.sum(jnp.sin(logits) * (batch["decoder_target_tokens"] > 0)[..., None])

    return jit(jax.grad(objective))(params, batch, jax.random.key(3))


REMAT = [{"remat": name} for name in ("minimal", "full", "offload")]


@pytest.mark.parametrize("changes", [{"scan_layers": False}, *REMAT], ids=str)
def test_scan_and_remat_change_no_gradient(changes):
    config = tiny.model("prefix_lm", dropout_rate=0.2)
    changed = gradients(dataclasses.replace(config, **changes))
    for name, grad in gradients(config).items():
        assert np.abs(grad).max() > 0, name
        assert error(changed[name], grad) < 1e-6, name


def test_remat_saves_memory():
    def scratch_bytes(remat):
        config = tiny.model("causal_lm", num_decoder_layers=6, remat=remat)
        batch = tiny.batch("causal_lm", EXAMPLES * 8, inputs=40, targets=40)
        gradient = jit(jax.grad(lambda params: jnp.sum(transformer.bind(config, params)(batch) ** 2)))
        return gradient.lower(transformer.param_shapes(config)).compile().memory_analysis().temp_size_in_bytes

    none, minimal, full = (scratch_bytes(remat) for remat in ("none", "minimal", "full"))
    assert none > 1.2 * minimal > 1.2 * full


def test_bfloat16_is_of_activations_alone():
    config = tiny.model(dtype="bfloat16")
    params = tiny.params(config)
    batch = tiny.batch("encoder_decoder", EXAMPLES)
    model = transformer.bind(config, params)
    masks = transformer.make_masks("encoder_decoder", batch)
    assert {param.dtype for param in params.values()} == {jnp.dtype("float32")}
    assert jax.eval_shape(model.encode, batch["encoder_input_tokens"], masks.encoder).dtype == jnp.bfloat16
    assert jax.eval_shape(model, batch).dtype == jnp.float32


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_stays_within_its_rounding(architecture):
    """bfloat16 has 8 bits: 0.4 % a rounding, and a few tens of roundings from the tokens to the logits."""
    exact, rounded = (forward(tiny.model(architecture, dtype=dtype)) for dtype in ("float32", "bfloat16"))
    assert 1e-4 < error(rounded, exact) < 0.05


def test_dropout_needs_a_key_and_a_rate():
    plain, dropping = tiny.model(), tiny.model(dropout_rate=0.3)
    logits = forward(plain)
    np.testing.assert_array_equal(forward(plain, jax.random.key(0)), logits)
    np.testing.assert_array_equal(forward(dropping), logits)
    one, same, other = (forward(dropping, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert error(one, logits) > 0.05 and error(other, one) > 0.05


# ------------------------------------------------------------------------------------------------ what reaches what


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request):
    """An architecture, and logits of its batches as a function."""
    config = tiny.model(request.param)
    return request.param, functools.partial(compiled(config), tiny.params(config))


def moved(logits, others):
    """Which positions' logits differ: `[row, position]`."""
    return np.abs(np.asarray(logits) - np.asarray(others)).max(axis=-1) > 1e-6


ONE = ([7, 8, 9], [20, 21, 22])


def test_an_input_token_reaches_the_logits_of_every_target(model):
    architecture, logits = model
    batch = tiny.batch(architecture, [ONE])
    changed = tiny.batch(architecture, [([7, 11, 9], [20, 21, 22])])
    targets = np.asarray(batch["decoder_loss_weights"]) > 0
    assert targets.sum() == 4
    assert moved(logits(batch), logits(changed))[targets].all()


def test_a_target_reaches_none_before_it(model):
    architecture, logits = model
    batch = tiny.batch(architecture, [ONE])
    changed = tiny.batch(architecture, [([7, 8, 9], [20, 31, 22])])
    targets = np.asarray(batch["decoder_loss_weights"]) > 0
    assert moved(logits(batch), logits(changed))[targets].tolist() == [False, False, True, True]


def test_inputs_see_each_other_in_a_prefix_lm_and_only_back_in_a_causal_lm(model):
    architecture, logits = model
    if architecture == "encoder_decoder":
        pytest.skip("the decoder's row holds no inputs")
    batch = tiny.batch(architecture, [ONE])
    changed = tiny.batch(architecture, [([7, 8, 12], [20, 21, 22])])  # the third input is read at position 3
    reached = moved(logits(batch), logits(changed))[0, :8].tolist()
    assert reached == [architecture == "prefix_lm"] * 3 + [True] * 5


def test_a_causal_lm_never_looks_ahead():
    config = tiny.model("causal_lm")
    batch = tiny.batch("causal_lm", [([7, 8, 9, 10, 11], [20, 21, 22, 23, 24])])
    tokens = batch["decoder_input_tokens"]

    def logits(tokens):
        return compiled(config)(tiny.params(config), {**batch, "decoder_input_tokens": tokens})

    for position in range(12):
        reached = moved(logits(tokens), logits(tokens.at[0, position].set(33)))[0]
        assert reached.tolist() == [later >= position for later in range(12)]


def test_padding_is_not_seen(model):
    """Neither longer rows nor tokens under the padding change the logits of real positions."""
    architecture, logits = model
    short = tiny.batch(architecture, [ONE], inputs=4, targets=4)
    long = tiny.batch(architecture, [ONE], inputs=9, targets=7)
    length = short["decoder_target_tokens"].shape[1]
    assert error(logits(long)[:, :length], logits(short)) < 1e-6
    under = jnp.where(long["decoder_target_tokens"] > 0, long["decoder_input_tokens"], 33)
    assert error(logits({**long, "decoder_input_tokens": under})[:, :length], logits(short)) < 1e-6


def test_packed_examples_are_as_if_alone(model):
    """Relative positions are differences, so that a place later in the row makes none."""
    architecture, logits = model
    examples = [ONE, ([5, 6], [30, 31, 32, 33])]
    packed = tiny.batch(architecture, examples, inputs=9, targets=11, pack=True)
    alone = tiny.batch(architecture, examples, inputs=9, targets=11)
    together, apart = logits(packed)[0], logits(alone)
    segments = np.asarray(packed["decoder_segment_ids"][0])
    assert set(segments) == {0, 1, 2}
    for row in (0, 1):
        of_row = together[segments == row + 1]
        assert error(of_row, apart[row][: len(of_row)]) < 2e-6


def test_a_prefix_lm_without_a_prefix_is_a_causal_lm():
    """A plain language model's batch has no `decoder_causal_attention`."""
    prefix, causal = (tiny.model(name) for name in ("prefix_lm", "causal_lm"))
    params = tiny.params(prefix)
    batch = tiny.batch("prefix_lm", [ONE])
    del batch["decoder_causal_attention"]
    np.testing.assert_array_equal(*(transformer.bind(config, params)(batch) for config in (prefix, causal)))


def test_a_tied_head_is_the_embedding_scaled_by_the_width():
    decoded = jax.random.normal(jax.random.key(1), (2, 3, 16))
    tied, own = (transformer.bind(c, tiny.params(c)) for c in (tiny.model(logits_via_embedding=True), tiny.model()))
    assert (
        error(tied.logits(decoded), np.asarray(decoded) @ np.asarray(tied.token_embedder.embedding[...]).T / 4) < 1e-5
    )
    assert error(own.logits(decoded), np.asarray(decoded) @ np.asarray(own.decoder.logits_dense.kernel[...])) < 1e-5
    assert error(own.logits(decoded, own.head[:, 5:9]), own.logits(decoded)[..., 5:9]) < 1e-5


# ---------------------------------------------------------------------------------------------------- shared layers


def twice(params):
    """Parameters of a model that shares nothing, with the decoder's layers in both stacks."""
    both = dict(params)
    for name, array in params.items():
        if name.startswith("decoder/layers/") and "encoder_decoder" not in name and "cross" not in name:
            both[name.replace("decoder/", "encoder/", 1).replace("self_attention", "attention")] = array
    return both


@pytest.mark.parametrize("scan_layers", [True, False])
def test_sharing_layers_is_having_the_same_ones_in_both_stacks(scan_layers):
    shared = tiny.model(share_layers=True, scan_layers=scan_layers)
    apart = dataclasses.replace(shared, share_layers=False)
    params, batch = tiny.params(shared), tiny.batch("encoder_decoder", tiny.examples(0, 4))
    assert twice(params).keys() == transformer.param_shapes(apart).keys()

    def loss(config, params):
        logits = transformer.bind(config, params)(batch)
        return jnp.mean(cross_entropy(logits, batch["decoder_target_tokens"]).total)

    one, grads = jit(jax.value_and_grad(functools.partial(loss, shared)))(params)
    other, both = jit(jax.value_and_grad(functools.partial(loss, apart)))(twice(params))
    assert error(one, other) < 1e-6
    kernel = "decoder/layers/self_attention/query/kernel"
    summed = both[kernel] + both["encoder/layers/attention/query/kernel"]
    assert error(grads[kernel], summed) < 1e-5  # what both stacks want of the one array
    cross = "decoder/layers/encoder_decoder_attention/query/kernel"
    assert error(grads[cross], both[cross]) < 1e-5


@pytest.mark.slow  # compiles two decoders
@pytest.mark.parametrize("scan_layers", [True, False])
def test_a_model_that_shares_its_layers_writes_what_one_with_the_same_layers_twice_does(scan_layers):
    shared = tiny.model(share_layers=True, scan_layers=scan_layers)
    params, batch = tiny.params(shared), tiny.batch("encoder_decoder", tiny.examples(0, 4))
    ours = decoding.greedy(params, batch, shared)
    theirs = decoding.greedy(twice(params), batch, dataclasses.replace(shared, share_layers=False))
    np.testing.assert_array_equal(ours, theirs)


def test_a_model_that_shares_its_layers_has_no_other_parameters_than_its_decoder_and_two_of_the_encoder():
    shared, whole = transformer.param_shapes(tiny.model(share_layers=True)), transformer.param_shapes(tiny.model())
    own = {"encoder/relpos_bias/rel_embedding", "encoder/encoder_norm/scale"}
    assert shared.keys() == {name for name in whole if not name.startswith("encoder/")} | own


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "prefix_lm"}, "a prefix_lm has none: write share_layers = False"),
        ({"num_encoder_layers": 3}, "found 3 and 2: write num_encoder_layers = 2"),
        ({"relpos_bias_per_layer": True}, "write relpos_bias_per_layer = False"),
    ],
)
def test_layers_that_cannot_be_shared_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        tiny.model(**{"share_layers": True} | changes)
