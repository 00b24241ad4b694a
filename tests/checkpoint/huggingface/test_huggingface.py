"""Reading Hugging Face's T5 family: the same numbers as transformers, layer by layer, and what is refused."""

import dataclasses
import json

import hf_models
import jax
import numpy as np
import pytest
import tiny
from goldens import error

from t5x_mini.checkpoint.huggingface.names import names, stored
from t5x_mini.checkpoint.huggingface.source import HuggingFaceSource
from t5x_mini.errors import UserError
from t5x_mini.model import transformer
from t5x_mini.model.config import TransformerConfig
from t5x_mini.tasks import vocabularies

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

ROWS = [([5, 9, 4, 13, 2, 1], [7, 3, 11, 1]), ([8, 6, 1], [17, 4, 19, 2, 6, 1]), ([44, 47, 46, 45, 1], [46, 1])]


def batch():
    """Rows of several lengths: all but one padded, in the inputs and in the targets."""
    return tiny.batch("encoder_decoder", [(i[:-1], t[:-1]) for i, t in ROWS], inputs=7, targets=6)


def ours(source, monkeypatch, **changes):
    """Our logits and, of each stack, the output of every layer (before the last norm) and of the stack (after it)."""
    config = dataclasses.replace(source.origin.model, dtype="float32", **changes)
    outputs = []

    def run_stack(layer, stack, x, config, key):
        xs = [x]
        for i in range(jax.tree.leaves(stack)[0].shape[0]):
            xs.append(layer(jax.tree.map(lambda array, i=i: array[i], stack), xs[-1], None))
        outputs.append(xs)
        return xs[-1]

    params = hf_models.params(source, config)
    monkeypatch.setattr(transformer, "_run_stack", run_stack)

    def run(params, batch):
        outputs.clear()
        model = transformer.bind(config, params)
        logits = model(batch)
        norms = model.encoder.encoder_norm, model.decoder.decoder_norm
        return logits, [[*xs[:-1], norm(xs[-1], np.dtype("float32"))] for xs, norm in zip(outputs, norms, strict=True)]

    return jax.jit(run, compiler_options=tiny.QUICK)(params, batch())


def theirs(folder):
    data = {name: torch.from_numpy(np.array(array)).long() for name, array in batch().items()}
    with torch.no_grad():
        outputs = hf_models.load(folder)(
            input_ids=data["encoder_input_tokens"],
            attention_mask=(data["encoder_input_tokens"] > 0).long(),
            decoder_input_ids=data["decoder_input_tokens"],
            output_hidden_states=True,
        )
    hidden = [[x.numpy() for x in xs] for xs in (outputs.encoder_hidden_states, outputs.decoder_hidden_states)]
    return outputs.logits.numpy(), hidden


def assert_same(folder, source, monkeypatch):
    logits, layers = ours(source, monkeypatch)
    their_logits, their_layers = theirs(folder)
    # Padding is masked where it is read; what stands on it is nobody's.
    masks = [np.asarray(batch()[name]) > 0 for name in ("encoder_input_tokens", "decoder_target_tokens")]
    for xs, their_xs, mask in zip(layers, their_layers, masks, strict=True):
        assert len(xs) == len(their_xs)
        for x, their_x in zip(xs, their_xs, strict=True):
            assert error(np.asarray(x)[mask], their_x[mask]) < 1e-5
    assert error(np.asarray(logits)[masks[1]], their_logits[masks[1]]) < 1e-4


@pytest.mark.parametrize("variant", hf_models.VARIANTS)
def test_every_layer_and_the_logits_are_transformers(variant, tmp_path, monkeypatch):
    hf_models.write(tmp_path, variant)
    source = HuggingFaceSource(str(tmp_path))
    assert_same(tmp_path, source, monkeypatch)
    model = source.origin.model
    assert model.relpos_bias_per_layer == variant.startswith("umt5")
    assert model.logits_via_embedding == (variant in ("t5", "umt5_tied"))
    if variant == "byt5":
        assert (model.num_encoder_layers, model.num_decoder_layers) == (3, 1)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_scanned_and_unrolled_layers_give_transformers_logits(scan_layers, tmp_path):
    hf_models.write(tmp_path, "t5_1_1")
    source = HuggingFaceSource(str(tmp_path))
    config = dataclasses.replace(source.origin.model, dtype="float32", scan_layers=scan_layers)
    run = jax.jit(lambda params: transformer.bind(config, params)(batch()), compiler_options=tiny.QUICK)
    mask = np.asarray(batch()["decoder_target_tokens"]) > 0
    assert error(np.asarray(run(hf_models.params(source, config)))[mask], theirs(tmp_path)[0][mask]) < 1e-4


def test_a_head_of_its_own_is_read_as_one(tmp_path):
    """transformers ties the head of a model it has made, but not of one whose file has two different tensors."""
    tensors = hf_models.write(tmp_path, "t5_1_1")
    model = hf_models.load(tmp_path)
    assert not torch.equal(model.shared.weight, model.lm_head.weight)
    source = HuggingFaceSource(str(tmp_path))
    np.testing.assert_array_equal(source.read("params/decoder/logits_dense/kernel"), tensors["lm_head.weight"].T)
    np.testing.assert_array_equal(source.read("params/token_embedder/embedding"), tensors["shared.weight"])


def test_a_tied_head_that_the_file_repeats_is_the_embedding(tmp_path):
    """As in the files of T5 1.0 that older versions wrote."""
    tensors = hf_models.write(tmp_path, "t5")
    copies = ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    rewrite(tmp_path, tensors | {copy: tensors["shared.weight"] for copy in copies})
    source = HuggingFaceSource(str(tmp_path))
    assert source.origin.model.logits_via_embedding
    assert "params/decoder/logits_dense/kernel" not in source.shapes


def test_an_embedding_by_another_name_is_found(tmp_path, monkeypatch):
    tensors = hf_models.write(tmp_path, "t5")
    embedding = tensors.pop("shared.weight")
    rewrite(tmp_path, tensors | {"encoder.embed_tokens.weight": embedding})
    np.testing.assert_array_equal(HuggingFaceSource(str(tmp_path)).read("params/token_embedder/embedding"), embedding)


def test_two_embeddings_are_refused(tmp_path):
    tensors = hf_models.write(tmp_path, "t5_1_1")
    rewrite(tmp_path, tensors | {"decoder.embed_tokens.weight": tensors["shared.weight"] + 1})
    with pytest.raises(UserError, match=r"decoder.embed_tokens.weight and shared.weight are two embeddings"):
        HuggingFaceSource(str(tmp_path))


@pytest.mark.parametrize("head", ["its own", "the embedding"])
@pytest.mark.parametrize("scaled", [True, False])
def test_logits_are_transformers_however_head_and_scale_go_together(head, scaled, tmp_path, monkeypatch):
    """transformers 5 writes `tie_word_embeddings: true` and, beside it, whether the logits are scaled."""
    tensors = hf_models.write(tmp_path, "t5_1_1", num_layers=1, num_decoder_layers=1)
    if head == "the embedding":
        del tensors["lm_head.weight"]
        rewrite(tmp_path, tensors)
    change_config(tmp_path, tie_word_embeddings=True, scale_decoder_outputs=scaled)
    source = HuggingFaceSource(str(tmp_path))
    assert source.origin.model.logits_via_embedding == (scaled and head == "the embedding")
    assert_same(tmp_path, source, monkeypatch)


def test_what_transformers_saves_again_is_read_the_same(tmp_path):
    """It writes other words into config.json than it read."""
    for variant in ("t5", "t5_1_1", "mt5"):
        hf_models.write(tmp_path / variant, variant)
        first = HuggingFaceSource(str(tmp_path / variant))
        hf_models.load(tmp_path / variant).save_pretrained(tmp_path / "again")
        second = HuggingFaceSource(str(tmp_path / "again"))
        assert second.origin.model == first.origin.model
        for name in first.shapes:
            np.testing.assert_array_equal(first.read(name), second.read(name), err_msg=name)


def test_shards_are_read_like_one_file(tmp_path):
    tensors = hf_models.write(tmp_path, "t5_1_1", shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    source = HuggingFaceSource(str(tmp_path))
    for name, (theirs, transposed) in names(source.origin.model).items():
        expected = tensors[theirs].T if transposed else tensors[theirs]
        np.testing.assert_array_equal(source.read(name), expected)
        assert source.shapes[name] == expected.shape


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_read_as_float32(dtype, tmp_path):
    tensors = hf_models.write(tmp_path, "t5", dtype=dtype)
    array = HuggingFaceSource(str(tmp_path)).read("params/encoder/layers_1/mlp/wi/kernel")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, tensors["encoder.block.1.layer.1.DenseReluDense.wi.weight"].T)


def test_names_are_transformers():
    """Two of each kind by hand; that they are all there, and fit, the parity tests show."""
    for name, expected in {
        "params/decoder/layers_3/encoder_decoder_attention/out/kernel": "decoder.block.3.layer.1.EncDecAttention.o",
        "params/decoder/layers_3/pre_mlp_layer_norm/scale": "decoder.block.3.layer.2.layer_norm",
        "params/encoder/layers_0/mlp/wi_1/kernel": "encoder.block.0.layer.1.DenseReluDense.wi_1",
        "params/encoder/encoder_norm/scale": "encoder.final_layer_norm",
        "params/decoder/relpos_bias/rel_embedding": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        "params/encoder/layers_7/relpos_bias/rel_embedding": (
            "encoder.block.7.layer.0.SelfAttention.relative_attention_bias"
        ),
    }.items():
        assert stored(name).name == f"{expected}.weight"
    with pytest.raises(KeyError, match="query_norm"):
        stored("params/encoder/layers_0/query_norm/scale")


# --------------------------------------------------------------------------------------------------- vocabularies


def test_the_spiece_model_is_the_vocabulary(tmp_path):
    hf_models.write(tmp_path, "t5")
    (tmp_path / "spiece.model").write_bytes(docs_8k())
    origin = HuggingFaceSource(str(tmp_path)).origin
    assert (origin.kind, origin.extra_ids, origin.step, origin.dropout_rate) == ("hf", 100, None, 0.1)
    assert vocabularies.load(origin.vocabulary, origin.extra_ids).vocab_size == 8100


def test_the_tokenizers_config_says_how_many_extra_ids(tmp_path):
    hf_models.write(tmp_path, "t5")
    (tmp_path / "spiece.model").write_bytes(docs_8k())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 7}))
    assert HuggingFaceSource(str(tmp_path)).origin.extra_ids == 7


def test_a_model_that_holds_its_extra_ids_says_how_many(tmp_path):
    """mT5's and umT5's do: whatever tokenizer_config.json says, <extra_id_0> is the last of them."""
    from sentencepiece import sentencepiece_model_pb2

    hf_models.write(tmp_path, "mt5")
    model = sentencepiece_model_pb2.ModelProto.FromString(docs_8k())
    for i in reversed(range(30)):
        model.pieces.add(piece=f"▁<extra_id_{i}>", type=model.SentencePiece.USER_DEFINED)
    (tmp_path / "spiece.model").write_bytes(model.SerializeToString())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    origin = HuggingFaceSource(str(tmp_path)).origin
    assert origin.extra_ids == 30
    assert vocabularies.load(origin.vocabulary, origin.extra_ids).encode("a <extra_id_0>")[-1] == 8029


def test_byt5s_vocabulary_is_bytes(tmp_path):
    hf_models.write(tmp_path, "byt5", tokenizer_class="ByT5Tokenizer")
    origin = HuggingFaceSource(str(tmp_path)).origin
    assert (origin.vocabulary, origin.extra_ids) == ("bytes", 125)
    assert vocabularies.load("bytes", 125).vocab_size == origin.model.vocab_size == 384


def test_without_a_spiece_model_the_vocabulary_is_not_known(tmp_path):
    hf_models.write(tmp_path, "t5")
    (tmp_path / "tokenizer.json").write_text("{}")
    origin = HuggingFaceSource(str(tmp_path)).origin
    assert origin.vocabulary is None
    assert "spiece.model" in origin.notes[0]


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(model_type="bart"), r"type 'bart'. T5 models can be read: t5, mt5, umt5"),
        (dict(feed_forward_proj="gated-tanh"), r"feed_forward_proj = 'gated-tanh'.*gated-gelu"),
        (dict(layer_norm_epsilon=1e-5), r"layer_norm_epsilon = 1e-05, not 1e-06"),
        (dict(is_encoder_decoder=False), r"is_encoder_decoder = False, not True: an encoder alone"),
        (dict(eos_token_id=2), r"eos_token_id = 2, not 1"),
        (dict(d_ff=48), r"DenseReluDense\.wi\w*\.weight has the shape \(24, 16\).*makes it \(48, 16\)"),
        (
            dict(num_layers=3),
            r"not the model.*9 tensors \(as encoder\.block\.2\.layer\.0\.\w+\.k\.weight\) not in",
        ),
        (dict(num_layers=1), r"0 tensors not in it, 9 tensors \(as encoder\.block\.1\..*\) not known"),
    ],
)
def test_other_models_are_refused_with_the_reason(changes, message, tmp_path):
    hf_models.write(tmp_path, "t5_1_1")
    change_config(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        HuggingFaceSource(str(tmp_path))


def test_a_config_without_sizes_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 8}))
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match="does not say vocab_size, num_heads, num_layers, d_ff"):
        HuggingFaceSource(str(tmp_path))


def test_pickles_are_refused_with_what_to_do(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(hf_models.config_json("t5")))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model.bin, a pickle.*save_pretrained"):
        HuggingFaceSource(str(tmp_path))


def test_half_a_download_is_refused(tmp_path):
    hf_models.write(tmp_path, "t5", shard_size="8KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    with pytest.raises(UserError, match=r"-00002-of-.* is \d+ bytes long, where its header says \d+"):
        HuggingFaceSource(str(tmp_path))
    shards[1].unlink()
    with pytest.raises(
        UserError, match=r"lacks model-00002-of-\d+.safetensors, which its model.safetensors.index.json"
    ):
        HuggingFaceSource(str(tmp_path))


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no config.json in"):
        HuggingFaceSource(str(tmp_path))


@pytest.mark.slow
def test_a_small_model_is_transformers(tmp_path, monkeypatch):
    """T5 1.1-small's sizes, with fewer words: the error of many and wide layers."""
    sizes = dict(d_model=512, d_kv=64, num_heads=6, d_ff=1024, num_layers=8, num_decoder_layers=8, vocab_size=1024)
    hf_models.write(tmp_path, "t5_1_1", **sizes)
    assert_same(tmp_path, HuggingFaceSource(str(tmp_path)), monkeypatch)


def rewrite(folder, tensors):
    from safetensors.numpy import save_file

    save_file(
        {name: np.array(array) for name, array in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def docs_8k():
    with open(vocabularies.load("docs_8k").path, "rb") as file:
        return file.read()


def test_sizes_become_the_models(tmp_path):
    hf_models.write(tmp_path, "t5_1_1", relative_attention_num_buckets=16, relative_attention_max_distance=64)
    assert HuggingFaceSource(str(tmp_path)).origin.model == TransformerConfig(
        vocab_size=48,
        emb_dim=16,
        num_heads=3,
        head_dim=8,
        num_encoder_layers=2,
        num_decoder_layers=2,
        mlp_dim=24,
        relpos_buckets=16,
        relpos_max_distance=64,
    )
