"""Exported language models under transformers: the same numbers and the same text as here."""

import json

import goldens
import hf_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from t5x_mini.checkpoint.huggingface import decoder_only, decoder_only_tokenizer, export
from t5x_mini.checkpoint.huggingface import source as huggingface
from t5x_mini.checkpoint.source import Origin
from t5x_mini.errors import UserError
from t5x_mini.model import decoding, masks, transformer
from t5x_mini.tasks import vocabularies

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)  # these models are too small for more

pytestmark = pytest.mark.filterwarnings("ignore:memory doesn't say which vocabulary")

EXAMPLES = tiny.examples(seed=5, count=4)
TIED = dict(logits_via_embedding=True, mlp_activations=("relu",))
BIAS_PER_LAYER = dict(relpos_bias_per_layer=True, relpos_buckets=8, relpos_max_distance=10)
MODELS = {
    "prefix_lm, tied": ("prefix_lm", TIED),
    "prefix_lm, untied": ("prefix_lm", {}),
    "causal_lm, tied": ("causal_lm", TIED),
    "causal_lm, untied, bias per layer": ("causal_lm", BIAS_PER_LAYER),
}


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    """As with HF_HUB_OFFLINE=1, which is read at the import; the models' code is copied away from the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    """A model here, and the same one as transformers loads it from the exported folder."""
    architecture, changes = MODELS[request.param]
    config = tiny.model(architecture, **changes)
    params = random_params(config)
    folder = tmp_path_factory.mktemp("exported")
    export.write_folder(hf_models.MemorySource(config, params), folder, dtype="float32", shard_bytes=20_000)
    return config, params, load(folder), folder


def random_params(config):
    """Fresh ones, with norms that are not 1, as those of a trained model, and a relative position bias that counts."""
    rng = np.random.default_rng(3)
    return {
        name: jnp.asarray(np.asarray(array) + 0.3 * rng.normal(size=array.shape), jnp.float32)
        for name, array in tiny.params(config, seed=2).items()
    }


def load(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folder), trust_remote_code=True)
    return model.eval()


def batch(architecture):
    return tiny.batch(architecture, EXAMPLES)


def theirs(rows, *, left):
    """Our batch as transformers takes it: padded on the right as it is, or on the left.

    Returns the arguments, and how far each row was moved.
    """
    ids, real = np.asarray(rows["decoder_input_tokens"]), np.asarray(rows["decoder_target_tokens"]) > 0
    shifts = (real.shape[1] - real.sum(1)) if left else np.zeros(len(real), int)
    arguments = dict(
        input_ids=move(ids * real, shifts),
        attention_mask=move(real, shifts).astype(int),
        prefix_length=np.asarray(rows["decoder_causal_attention"]).sum(1),
    )
    return {name: torch.tensor(array, dtype=torch.long) for name, array in arguments.items()}, shifts


def move(array, shifts):
    return np.stack([np.roll(row, shift, axis=0) for row, shift in zip(array, shifts, strict=True)])


def on_tokens(array, rows):
    return np.asarray(array)[np.asarray(rows["decoder_target_tokens"]) > 0]


def test_logits_agree_whichever_side_is_padded(pair):
    config, params, model, _ = pair
    rows = batch(config.architecture)
    ours = jax.jit(lambda p: transformer.bind(config, p)(rows), compiler_options=tiny.QUICK)(params)
    for left in (False, True):
        arguments, shifts = theirs(rows, left=left)
        with torch.no_grad():
            logits = move(model(**arguments).logits.numpy(), -shifts)
        assert goldens.error(on_tokens(logits, rows), on_tokens(ours, rows)) < 1e-4


def test_layers_agree(pair):
    config, params, model, _ = pair
    rows = batch(config.architecture)
    arguments, _ = theirs(rows, left=False)
    with torch.no_grad():
        states = model(**arguments, output_hidden_states=True).hidden_states
    ours = jax.jit(lambda p: layer_outputs(config, p, rows), compiler_options=tiny.QUICK)(params)
    assert len(states) == len(ours) == config.num_decoder_layers + 1
    for state, own in zip(states, ours, strict=True):
        assert goldens.error(on_tokens(state.numpy(), rows), on_tokens(own, rows)) < 1e-5


def layer_outputs(config, params, rows):
    """The embedded tokens, the output of each layer but the last, and the normalised output of that one."""
    decoder = transformer.bind(config, params).decoder
    mask = masks.make_masks(config.architecture, rows).decoder
    x = jnp.take(decoder.token_embedder.embedding[...], rows["decoder_input_tokens"], axis=0)
    length, outputs = x.shape[1], [x]
    bias = None
    if not config.relpos_bias_per_layer:
        bias = decoder.relpos_bias(length, length, bidirectional=False, config=config)
    for i in range(config.num_decoder_layers):
        layer = jax.tree.map(lambda stacked, i=i: stacked[i], decoder.layers)
        outputs.append(layer(outputs[-1], mask=mask, bias=bias, config=config)[0])
    return [*outputs[:-1], decoder.decoder_norm(outputs[-1], x.dtype)]


def test_the_mask_matters(pair):
    """Or the tests above could not tell a prefix LM from a causal one."""
    config, _, model, _ = pair
    arguments, _ = theirs(batch(config.architecture), left=False)
    with torch.no_grad():
        with_prefix = model(**arguments).logits
        without = model(**arguments | {"prefix_length": torch.zeros(len(EXAMPLES), dtype=torch.long)}).logits
    first = (with_prefix - without)[:, 0].abs().max()
    assert first > 0.01 if config.architecture == "prefix_lm" else first == 0


def prompts():
    """The inputs of the examples with 0 in front, padded on the left."""
    rows = [[0, *inputs, 1] for inputs, _ in EXAMPLES]
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])


def test_greedy_decoding_writes_the_same_with_a_cache_and_without(pair):
    config, params, model, _ = pair
    rows = batch(config.architecture)
    ours = np.asarray(jax.jit(lambda p: decoding.greedy(p, rows, config), compiler_options=tiny.QUICK)(params))
    ids, attention_mask = prompts()
    options = dict(attention_mask=attention_mask, max_new_tokens=6, do_sample=False)
    for use_cache in (True, False):
        answers = model.generate(ids, **options, use_cache=use_cache)[:, ids.shape[1] :].numpy()
        assert answers.any(axis=1).all()
        assert np.array_equal(answers, ours[:, : answers.shape[1]])


def test_a_row_decodes_alone_as_in_a_batch_without_a_mask(pair):
    _, _, model, _ = pair
    ids, attention_mask = prompts()
    assert (attention_mask.sum(1) < ids.shape[1]).any()
    options = dict(max_new_tokens=5, min_new_tokens=5, num_beams=3, do_sample=False)
    together = model.generate(ids, **options)
    for row, is_token, answer in zip(ids, attention_mask.bool(), together, strict=True):
        alone = model.generate(row[is_token][None], **options)
        assert torch.equal(alone[0, -5:], answer[-5:])


def test_beams_and_samples_run(pair):
    _, _, model, _ = pair
    ids, _ = prompts()
    options = dict(num_beams=3, num_return_sequences=2, max_new_tokens=4, do_sample=False)
    assert torch.equal(model.generate(ids, **options), model.generate(ids, **options, use_cache=False))
    torch.manual_seed(0)
    samples = model.generate(ids, do_sample=True, top_k=0, num_return_sequences=3, max_new_tokens=6)
    assert len(samples) == 3 * len(ids)
    assert len({tuple(row) for row in samples[:3].tolist()}) > 1


def test_caches_and_chunks_that_cannot_work_are_refused(pair):
    config, _, model, _ = pair
    ids, _ = prompts()
    with pytest.raises(ValueError, match="leave `cache_implementation` at its default"):
        model.generate(ids, max_new_tokens=2, cache_implementation="static")
    if config.architecture == "prefix_lm":
        with pytest.raises(ValueError, match="leave `prefill_chunk_size` out"):
            model.generate(ids, max_new_tokens=2, prefill_chunk_size=2)


def test_reading_the_folder_back_gives_the_same_bits(pair):
    config, params, _, folder = pair
    source = huggingface.HuggingFaceSource(str(folder))
    same_model = {field: getattr(config, field) for field in decoder_only._FIELDS.values()}
    assert {field: getattr(source.origin.model, field) for field in same_model} == same_model
    written = hf_models.MemorySource(config, params)
    assert set(source.shapes) == set(written.shapes)
    for name in written.shapes:
        read = source.read(name)
        assert read.dtype == np.float32 and np.array_equal(read, written.read(name)), name


def test_training_goes_on_under_transformers(pair):
    """With the loss on the targets, a prefix LM's prefix ends where they begin."""
    config, _, _, folder = pair
    rows = batch(config.architecture)
    arguments, _ = theirs(rows, left=False)
    prefix_length = arguments.pop("prefix_length")
    is_target = torch.arange(arguments["input_ids"].shape[1]) >= prefix_length[:, None]
    labels = arguments["input_ids"].masked_fill(~(is_target & arguments["attention_mask"].bool()), -100)
    model = load(folder).train()
    out = model(**arguments, labels=labels)
    assert torch.equal(out.logits, model(**arguments, prefix_length=prefix_length).logits)
    out.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_a_saved_copy_is_complete(pair, tmp_path):
    """transformers' own `save_pretrained` writes a folder that it can load again."""
    _, _, model, _ = pair
    model.save_pretrained(tmp_path)
    ids, _ = prompts()
    assert torch.equal(load(tmp_path)(ids).logits, model(ids).logits)


TOKENIZERS = [("docs_8k", "prefix_lm"), ("bytes", "causal_lm")]


@pytest.mark.parametrize(("name", "architecture"), TOKENIZERS)
def test_the_tokenizer_gives_our_ids_behind_a_zero(name, architecture, tmp_path):
    vocabulary = vocabularies.load(name)
    origin = Origin(path="memory", kind="t5x_mini", model=tiny.model(architecture))
    decoder_only_tokenizer.write_tokenizer(tmp_path, vocabulary, origin)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    text = "Thank you for the party  (and `x + 1`)."
    end = [1] if architecture == "prefix_lm" else []
    assert tokenizer(text).input_ids == [0, *vocabulary.encode(text), *end]
    assert tokenizer(text, " targets").input_ids == [
        *(0, *vocabulary.encode(text), *end),
        *(*vocabulary.encode(" targets"), 1),
    ]
    assert tokenizer.decode([0, *vocabulary.encode(text), 1], skip_special_tokens=True) == vocabulary.decode(
        vocabulary.encode(text)
    )
    last = vocabulary.vocab_size - 1
    assert tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_99>"]) == [last, last - 99]
    assert tokenizer("to <extra_id_1> week").input_ids.count(last - 1) == 1
    padded = tokenizer(["one", "one two three four five"], padding=True, return_tensors="pt")
    assert padded.input_ids[0, 0] == 0 and padded.attention_mask[0].tolist()[:2] == [0, 0]
    assert padded.attention_mask[0].sum() == len(tokenizer("one").input_ids)


@pytest.mark.parametrize(("name", "architecture"), TOKENIZERS)
def test_the_pipeline_writes_what_the_model_does(name, architecture, tmp_path):
    vocabulary = vocabularies.load(name)
    config = tiny.model(architecture, vocab_size=vocabulary.vocab_size + 28)
    export.write_folder(hf_models.MemorySource(config, random_params(config), name, 100), tmp_path)
    origin = huggingface.HuggingFaceSource(str(tmp_path)).origin
    assert vocabularies.load(origin.vocabulary, origin.extra_ids).fingerprint() == vocabulary.fingerprint()
    pipe = transformers.pipeline("text-generation", str(tmp_path), trust_remote_code=True)
    text = "Thank you for the party"
    (answer,) = pipe(text, max_new_tokens=5, do_sample=False, return_full_text=False)
    prompt = torch.tensor([[0, *vocabulary.encode(text), *([1] if architecture == "prefix_lm" else [])]])
    written = pipe.model.generate(prompt, max_new_tokens=5, do_sample=False)[0, prompt.shape[1] :]
    assert answer["generated_text"] == pipe.tokenizer.decode(written, skip_special_tokens=True) != ""


@pytest.mark.parametrize(("lengths", "ends"), [({"inputs": 8, "targets": 4}, True), ({"targets": 8}, False)])
def test_a_prompt_ends_as_the_inputs_of_training_did(lengths, ends, tmp_path):
    config = tiny.model("causal_lm", vocab_size=384)
    export.write_folder(
        hf_models.MemorySource(config, tiny.params(config), "bytes", 100, feature_lengths=lengths), tmp_path
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert tokenizer("a").input_ids == [0, 100, *([1] if ends else [])]
    assert huggingface.HuggingFaceSource(str(tmp_path)).origin.feature_lengths == lengths


def test_a_config_that_says_too_little_is_refused():
    config = decoder_only.hf_config(tiny.model("prefix_lm"), dropout_rate=0.1)
    assert json.loads(json.dumps(config)) == {**config, "mlp_activations": ["gelu", "linear"]}
    with pytest.raises(UserError, match="there/config.json does not say num_heads of its t5x_mini model.*Export"):
        decoder_only.model_config({k: v for k, v in config.items() if k != "num_heads"}, "there")
    with pytest.raises(UserError, match="architecture 'encoder'; a t5x_mini model is prefix_lm or causal_lm"):
        decoder_only.model_config(config | {"architecture": "encoder"}, "there")
