"""Decoding with a model: T5X's tokens and scores, what each option does, and what each row owes to itself alone."""

import functools

import eight_devices
import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from t5x_mini.errors import UserError
from t5x_mini.model import transformer
from t5x_mini.model.config import ARCHITECTURES, DecodingConfig
from t5x_mini.model.decoding import decode, greedy, inputs_of
from t5x_mini.model.scoring import score

BEAM = DecodingConfig(method="beam", num_decodes=4)
SAMPLE = DecodingConfig(method="sample", num_decodes=3)
INPUTS = np.array([[5, 6, 7, 1], [8, 1, 0, 0], [9, 4, 1, 0]])


write_greedily = jax.jit(greedy, static_argnums=2, compiler_options=tiny.QUICK)


@functools.cache
def compiled(**static):
    return jax.jit(functools.partial(decode, **static), compiler_options=tiny.QUICK)


def write(config, decoding, *, seed=4, inputs=INPUTS, length=6, params=None, logit_callback=None, **options):
    """Tokens and scores as numpy."""
    function = compiled(config=config, decoding=decoding, length=length, logit_callback=logit_callback)
    options = {name: jnp.asarray(option) for name, option in options.items()}
    return jax.tree.map(np.asarray, function(params or tiny.params(config, seed), jnp.asarray(inputs), **options))


@pytest.mark.parametrize("name", goldens.DECODED)
def test_tokens_are_t5xs(name):
    golden = goldens.load(name)
    np.testing.assert_array_equal(write_greedily(golden.params, golden.batch, golden.model), golden.greedy_tokens)


@pytest.mark.parametrize("name", [name for name in goldens.DECODED if name.startswith("encdec")])
def test_beams_are_t5xs(name):
    golden, arrays = goldens.load(name), np.load(goldens.FOLDER / f"{name}.npz")
    inputs = inputs_of(golden.batch, golden.model)
    tokens, scores = write(golden.model, BEAM, inputs=inputs, length=18, params=golden.params)
    np.testing.assert_array_equal(tokens[:, ::-1], arrays["beam4/tokens"])
    assert goldens.error(scores[:, ::-1], arrays["beam4/scores"]) < 1e-5


@pytest.fixture(scope="module", params=ARCHITECTURES)
def decoded(request):
    """A model, its batch, and what it writes."""
    config = tiny.model(request.param)
    params = tiny.params(config, 4)
    batch = tiny.batch(request.param, tiny.examples(1, 8), inputs=6, targets=8)
    return config, params, batch, np.asarray(write_greedily(params, batch, config))


def test_each_token_is_the_most_likely_after_those_before(decoded):
    """The decoded tokens, fed as targets, are the argmax of the logits at every position that was written."""
    config, params, batch, tokens = decoded
    rows, length = tokens.shape
    prefix = np.zeros(rows, int)
    if config.architecture != "encoder_decoder":
        prefix = np.asarray(batch["decoder_causal_attention"]).sum(1) - 1
    targets = np.array(batch["decoder_target_tokens"])
    for row in range(rows):
        targets[row, prefix[row] :] = tokens[row, : length - prefix[row]]
    inputs = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    # An untrained model writes 0 too; it is no padding here.
    forced = dict(batch, decoder_target_tokens=jnp.ones_like(targets), decoder_input_tokens=jnp.asarray(inputs))
    most_likely = np.asarray(transformer.bind(config, params)(forced).argmax(-1))
    for row in range(rows):
        ends = np.flatnonzero(tokens[row] == 1)
        written = ends[0] + 1 if ends.size else length - prefix[row]
        here = slice(prefix[row], prefix[row] + written)
        np.testing.assert_array_equal(most_likely[row, here], tokens[row, :written], err_msg=str(row))


def test_nothing_follows_eos_or_the_end_of_the_row(decoded):
    config, _, batch, tokens = decoded
    room = np.full(len(tokens), tokens.shape[1])
    if config.architecture != "encoder_decoder":
        room -= np.asarray(batch["decoder_causal_attention"]).sum(1) - 1
    for row, limit in zip(tokens, room, strict=True):
        assert not row[limit:].any()
        ends = np.flatnonzero(row == 1)
        assert not ends.size or not row[ends[0] + 1 :].any()


def test_targets_in_the_batch_are_not_read(decoded):
    config, params, batch, tokens = decoded
    is_target = batch["decoder_loss_weights"] > 0
    blind = dict(batch, decoder_target_tokens=jnp.where(is_target, 17, batch["decoder_target_tokens"]))
    reads_target = jnp.pad(is_target, ((0, 0), (1, 0)))[:, :-1]
    blind["decoder_input_tokens"] = jnp.where(reads_target, 17, batch["decoder_input_tokens"])
    np.testing.assert_array_equal(write_greedily(params, blind, config), tokens)


def test_eos_stops_its_row_and_no_other():
    """The token that the first row begins with is made to be EOS, by swapping two columns of the output head."""
    config = tiny.model()
    params = tiny.params(config)
    batch = tiny.batch("encoder_decoder", tiny.examples(2, 6))
    first = np.asarray(write_greedily(params, batch, config))[:, 0]
    swap = np.arange(tiny.VOCAB)
    swap[[1, first[0]]] = first[0], 1
    params["decoder/logits_dense/kernel"] = params["decoder/logits_dense/kernel"][:, swap]
    tokens = np.asarray(write_greedily(params, batch, config))
    assert first[0] != 1 and tokens[0].tolist() == [1, 0, 0, 0, 0, 0]
    others = first != first[0]
    assert others.any() and (tokens[others] != 0).sum(1).min() > 1


def features(config, inputs, tokens):
    """Feature rows with these answers as targets, each as long as its tokens up to EOS, and where they are scored."""
    rows = [
        ([int(i) for i in row if i > 1], answer[: list(answer).index(1)].tolist())
        for row, answer in zip(inputs, tokens, strict=True)
    ]
    return tiny.batch(config.architecture, rows, inputs=inputs.shape[1], targets=tokens.shape[1])


def words_only(logits, tokens, place):
    """No padding; EOS as the last of six tokens, so that answers can be scored as targets."""
    logits = logits.at[:, 0].set(-jnp.inf)
    is_last = (place == tokens.shape[1] - 1)[:, None]
    is_eos = jnp.arange(logits.shape[1]) == 1
    return jnp.where(is_last & ~is_eos, -jnp.inf, logits)


@pytest.mark.parametrize(
    ("architecture", "decoding"),
    [
        ("encoder_decoder", DecodingConfig()),
        ("encoder_decoder", DecodingConfig(method="beam", num_decodes=3, length_penalty=0.0)),
        ("causal_lm", DecodingConfig(method="sample", num_decodes=3, temperature=2.0, top_k=20)),
        pytest.param(
            "prefix_lm",
            DecodingConfig(method="beam", num_decodes=3, length_penalty=0.0),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_scores_are_those_of_the_answers_as_targets(architecture, decoding):
    """Whatever the temperature, and the best first."""
    config = tiny.model(architecture)
    tokens, scores = write(config, decoding, logit_callback=words_only)
    count = decoding.num_decodes
    assert tokens.shape == (3, count, 6) and scores.shape == (3, count)
    assert (np.diff(scores, axis=1) <= 0).all()
    batch = features(config, np.repeat(INPUTS, count, axis=0), tokens.reshape(3 * count, 6))
    scored = jax.jit(score, static_argnums=2, compiler_options=tiny.QUICK)
    log_probs = scored(tiny.params(config, 4), batch, config).sum(1)
    np.testing.assert_allclose(scores.reshape(-1), log_probs, rtol=1e-5)


def to_the_end(logits, tokens, place):
    return logits.at[:, 1].add(100.0)


@pytest.mark.parametrize(
    ("method", "earliest"), [("greedy", 0), ("greedy", 6), ("greedy", 3), ("sample", 3), ("beam", 3)]
)
def test_eos_comes_no_earlier_than_min_length(method, earliest):
    """The callback makes EOS by far the likeliest token, so that answers end as soon as they may."""
    decoding = DecodingConfig(method=method, min_length=earliest)
    tokens, _ = write(tiny.model(), decoding, logit_callback=to_the_end)
    is_eos = tokens[:, 0] == 1
    assert (is_eos.argmax(-1) == earliest).all() if earliest < 6 else not is_eos.any()


@pytest.mark.parametrize("method", ["greedy", "sample", "beam"])
def test_the_callback_sees_what_is_written_and_decides(method):
    """It asks for the token after the last one written, whatever the model thinks."""
    config = tiny.model("prefix_lm")

    def count_up(logits, tokens, place):
        last = jnp.take_along_axis(tokens, jnp.maximum(place - 1, 0)[:, None], axis=1)
        wanted = jnp.where(place[:, None] == 0, 20, last + 1)
        return jnp.where(jnp.arange(logits.shape[1]) == wanted, logits, -jnp.inf)

    tokens, _ = write(config, DecodingConfig(method=method), logit_callback=count_up)
    np.testing.assert_array_equal(tokens[:, 0], np.tile(np.arange(20, 26), (3, 1)))


@pytest.mark.parametrize(
    ("architecture", "decoding"),
    [
        ("encoder_decoder", BEAM),
        ("causal_lm", SAMPLE),
        pytest.param("encoder_decoder", DecodingConfig(), marks=pytest.mark.slow),
        pytest.param("prefix_lm", BEAM, marks=pytest.mark.slow),
    ],
)
def test_forced_answers_go_on_as_each_row_alone(architecture, decoding):
    """Rows are forced by different lengths; each ends where it would alone, with as many tokens."""
    config = tiny.model(architecture)
    forced = np.array([[11, 12, 13], [14, 0, 0], [0, 0, 0]])
    callback = dict(logit_callback=words_only)
    tokens, scores = write(config, decoding, forced=forced, **callback)
    for row, begin in enumerate(forced):
        written = tokens[row, :, : (begin > 0).sum()]
        assert (written == begin[begin > 0]).all()
        if decoding.method == "sample" and row:
            continue  # a row draws by its number in the batch
        own = slice(row, row + 1)
        wanted, wanted_scores = write(config, decoding, inputs=INPUTS[own], forced=forced[own], **callback)
        np.testing.assert_array_equal(tokens[row], wanted[0])
        np.testing.assert_allclose(scores[row], wanted_scores[0], rtol=1e-5)


def test_greedy_goes_on_from_its_own_beginning():
    config = tiny.model("causal_lm")
    tokens, _ = write(config, DecodingConfig())
    again, _ = write(config, DecodingConfig(), forced=tokens[:, 0, :3])
    np.testing.assert_array_equal(again, tokens)


def test_the_loop_stops_when_all_rows_have_ended():
    """Row r ends after r + 2 tokens; the host counts how often a token is chosen."""
    config = tiny.model()
    calls = []

    def end(logits, tokens, place):
        jax.debug.callback(lambda: calls.append(1))
        row = jnp.arange(len(tokens)) % 3
        ends = (place == row + 1)[:, None] == (jnp.arange(logits.shape[1]) == 1)
        return jnp.where(ends, logits, -jnp.inf)

    tokens, _ = write(config, DecodingConfig(), logit_callback=end, length=50)
    jax.effects_barrier()
    assert len(calls) == 4 and (tokens[:, 0] == 1).argmax(1).tolist() == [1, 2, 3]
    assert not tokens[:, 0, 4:].any()


def test_beam_search_stops_when_no_live_beam_can_win():
    config = tiny.model()
    calls = []

    def end_soon(logits, tokens, place):
        jax.debug.callback(lambda: calls.append(1))
        return logits.at[:, 1].set(jnp.where(place == 2, jax.nn.logsumexp(logits, axis=-1) - 1e-3, -jnp.inf))

    tokens, _ = write(config, DecodingConfig(method="beam", num_decodes=2), logit_callback=end_soon, length=50)
    jax.effects_barrier()
    assert len(calls) < 10 and ((tokens == 1).argmax(-1) == 2).all()


@pytest.mark.slow
def test_scanned_layers_and_written_out_ones_decode_alike():
    made = [write(tiny.model(scan_layers=scan), BEAM) for scan in (True, False)]
    np.testing.assert_array_equal(made[0].tokens, made[1].tokens)
    np.testing.assert_allclose(made[0].scores, made[1].scores, rtol=1e-5)


@pytest.mark.parametrize(
    ("decoding", "mesh"),
    [
        (BEAM, (2, 2, 2)),
        *(pytest.param(*both, marks=pytest.mark.slow) for both in [(BEAM, (8, 1, 1)), (SAMPLE, (2, 2, 2))]),
        pytest.param(DecodingConfig(), (1, 1, 8), marks=pytest.mark.slow),
    ],
)
def test_eight_devices_write_what_one_writes(decoding, mesh):
    run = eight_devices.run(eight_devices.mesh(*mesh))
    config = run.config.model
    params = tiny.params(config, 3)
    inputs = np.random.default_rng(0).integers(2, tiny.VOCAB, (8, 5))
    wanted = write(config, decoding, params=params, inputs=inputs)
    function = functools.partial(decode, config=config, decoding=decoding, length=6)
    shardings = (run.shardings.params, run.partitioner.rows)
    made = run.partitioner.jit(function, shardings, run.partitioner.rows)(
        *jax.device_put((params, jnp.asarray(inputs)), shardings)
    )
    np.testing.assert_array_equal(made.tokens, wanted.tokens)
    np.testing.assert_allclose(made.scores, wanted.scores, rtol=1e-4)


@pytest.mark.slow
def test_samples_are_the_seeds_and_differ():
    config = tiny.model()
    many = DecodingConfig(method="sample", num_decodes=8)
    tokens, _ = write(config, many, inputs=np.repeat(INPUTS[:1], 2, axis=0))
    assert len({tuple(answer) for answer in tokens.reshape(16, -1).tolist()}) == 16
    again, _ = write(config, many, inputs=np.repeat(INPUTS[:1], 2, axis=0), key=jax.random.key(0))
    np.testing.assert_array_equal(again, tokens)
    other, _ = write(config, DecodingConfig(method="sample", num_decodes=8, seed=1), inputs=INPUTS[:1])
    assert (other[0] != tokens[0]).any()
    cold, _ = write(config, many, temperature=np.array([1.0, 0.0, 1.0]))
    likeliest, _ = write(config, DecodingConfig())
    assert (cold[1] == likeliest[1]).all() and (cold[0] == tokens[0]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(method="bean"), "no decoding method 'bean'; did you mean beam[?] There are greedy, sample, beam"),
        (dict(method="sample", top_p=0.0), "DecodingConfig.top_p is 0.0: write a value that is above 0 and at most 1"),
        (dict(min_length=-1), "min_length is -1: write a value that is 0 or more"),
        (dict(max_length=4, min_length=5), "min_length is 5 and max_length 4: write a min_length that is no larger"),
        (
            dict(temperature=0.5),
            "temperature is 0.5, which the method 'greedy' doesn't read: write method = 'sample', or leave",
        ),
        (dict(num_decodes=2), "'greedy' doesn't read: write method = 'sample' or 'beam'"),
        (dict(method="beam", top_k=3), "top_k is 3, which the method 'beam' doesn't read"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        DecodingConfig(**options)


def test_arguments_that_do_not_fit_are_refused():
    config = tiny.model()
    with pytest.raises(UserError, match="for the decoding method 'sample', and the method is 'greedy'"):
        write(config, DecodingConfig(), temperature=np.ones(3))
    with pytest.raises(UserError, match="up to 6 tokens can't begin with 7 forced ones"):
        write(config, DecodingConfig(), forced=np.full((3, 7), 5))
