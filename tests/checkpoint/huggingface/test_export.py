"""A checkpoint as a folder for transformers: the same numbers there and back, and a folder that is whole or absent."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import hf_models
import jax
import numpy as np
import pytest
import tiny
from goldens import error
from hf_models import MemorySource

from t5x_mini.checkpoint.huggingface import export, hub
from t5x_mini.checkpoint.huggingface.export import export_checkpoint, write_folder
from t5x_mini.checkpoint.huggingface.safetensors_files import Tensors
from t5x_mini.checkpoint.huggingface.source import HuggingFaceSource
from t5x_mini.checkpoint.import_checkpoint import import_checkpoint
from t5x_mini.errors import UserError
from t5x_mini.model import transformer
from t5x_mini.tasks import vocabularies

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

T5_1_0 = dict(mlp_activations=("relu",), logits_via_embedding=True)
MODELS = {
    "t5": T5_1_0,
    "t5_1_1": {},
    "byt5": dict(num_encoder_layers=3, num_decoder_layers=1),
    "umt5": dict(relpos_bias_per_layer=True),
    "umt5_tied": dict(relpos_bias_per_layer=True, logits_via_embedding=True),
    "gated_silu": dict(mlp_activations=("silu", "linear"), relpos_buckets=16, relpos_max_distance=32),
}
SHARED = {"shared": dict(share_layers=True)}  # comes back as a model that shares nothing


def source_of(vocabulary=None, extra_ids=0, **changes):
    config = tiny.model(**changes)
    return MemorySource(config, hf_models.perturbed(config), vocabulary, extra_ids)


def write(source, folder, **options):
    folder.mkdir()
    with contextlib.nullcontext() if source.origin.vocabulary else pytest.warns(UserWarning, match="no tokenizer"):
        write_folder(source, folder, **options)
    return folder


@pytest.fixture
def opened(monkeypatch):
    """`opened(source)` is what every checkpoint's name stands for."""
    return lambda source: monkeypatch.setattr(export, "open_source", lambda path: source)


@pytest.fixture(scope="module")
def with_words(tmp_path_factory):
    """A model with docs_8k's words, exported: (checkpoint, folder)."""
    source = source_of("docs_8k", 100, vocab_size=8192, num_encoder_layers=1, num_decoder_layers=1)
    return source, write(source, tmp_path_factory.mktemp("export") / "words", name="words")


# --------------------------------------------------------------------------------------------------- there and back


# The others are read back bit for bit below, and what is read agrees with transformers (test_huggingface.py).
@pytest.mark.parametrize("name", ["t5", "umt5", "gated_silu", "shared"])
def test_transformers_gives_our_logits(name, tmp_path):
    source = source_of(**(MODELS | SHARED)[name])
    config = source.origin.model
    batch = tiny.batch("encoder_decoder", tiny.examples(0, 3))
    params = hf_models.params(source, config)
    ours = jax.jit(lambda params: transformer.bind(config, params)(batch), compiler_options=tiny.QUICK)(params)
    model = hf_models.load(write(source, tmp_path / "hf"))
    data = {name: torch.from_numpy(np.array(array)).long() for name, array in batch.items()}
    with torch.no_grad():
        theirs = model(
            input_ids=data["encoder_input_tokens"],
            attention_mask=(data["encoder_input_tokens"] > 0).long(),
            decoder_input_ids=data["decoder_input_tokens"],
        ).logits.numpy()
    mask = np.asarray(batch["decoder_target_tokens"]) > 0
    assert error(np.asarray(ours)[mask], theirs[mask]) < 1e-4
    assert torch.equal(model.lm_head.weight, model.shared.weight) == config.logits_via_embedding


@pytest.mark.parametrize("name", MODELS)
def test_ours_comes_back_bit_for_bit(name, tmp_path):
    source = source_of(**MODELS[name])
    back = HuggingFaceSource(str(write(source, tmp_path / "hf")))
    assert back.origin.model == dataclasses.replace(source.origin.model, dtype="bfloat16")  # how it is computed
    assert back.shapes == source.shapes
    for array in source.shapes:
        np.testing.assert_array_equal(back.read(array), source.read(array))


@pytest.mark.parametrize("variant", ["t5", "umt5"])
def test_transformers_model_comes_back_bit_for_bit_through_a_run_folder(variant, tmp_path):
    tensors = hf_models.write(tmp_path / "hf", variant, shard_size="8KB", vocab_size=8192, d_model=4)
    (tmp_path / "hf" / "spiece.model").write_bytes(Path(vocabularies.load("docs_8k").path).read_bytes())
    run = import_checkpoint(str(tmp_path / "hf"), kind="hf", output=str(tmp_path / "run"))
    assert export_checkpoint(run, str(tmp_path / "back")) == str(tmp_path / "back")
    back = Tensors(tmp_path / "back")
    assert back.shapes.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back.read(name), tensor, err_msg=name)
    before, after = (json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("hf", "back"))
    after.setdefault("tie_word_embeddings", None)
    assert before.items() <= (after | {"tie_word_embeddings": before.get("tie_word_embeddings", True)}).items()
    assert after["tie_word_embeddings"] == (variant == "t5")
    assert (tmp_path / "back" / "spiece.model").read_bytes() == (tmp_path / "hf" / "spiece.model").read_bytes()


def test_small_shards_hold_the_same(tmp_path):
    source = source_of()
    whole = write(source, tmp_path / "whole")
    parts = write(source, tmp_path / "parts", shard_bytes=8000)
    files = sorted(path.name for path in parts.glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    largest = max((parts / file).stat().st_size for file in files)
    assert largest < 8000 + 4000  # and a header
    a, b = (transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).state_dict() for folder in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * sum(np.prod(shape) for shape in source.shapes.values())


def test_bfloat16_is_rounded_and_loads_as_such(tmp_path):
    source = source_of()
    folder = write(source, tmp_path / "hf", dtype="bfloat16")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    exact = source.read("params/encoder/layers_0/mlp/wo/kernel")
    expected = torch.from_numpy(np.array(exact)).bfloat16().float().numpy()
    np.testing.assert_array_equal(
        HuggingFaceSource(str(folder)).read("params/encoder/layers_0/mlp/wo/kernel"), expected
    )


def test_every_array_is_read_once_and_the_optimisers_not(tmp_path):
    source = source_of()
    source.shapes["opt_state/token_embedder/embedding/v"] = (40, 16)
    write(source, tmp_path / "hf")
    assert sorted(source.reads) == sorted(name for name in source.shapes if name.startswith("params/"))


# ------------------------------------------------------------------------------------------------- loading at once


def test_it_answers_at_once(with_words):
    """The model, the tokenizer and the generation config of the folder fit together."""
    _, folder = with_words
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(["Thank you <extra_id_0> me to your party", "a"], return_tensors="pt", padding=True)
    assert inputs["input_ids"][1].tolist()[1:] == [1] + [0] * (inputs["input_ids"].shape[1] - 2)
    answer = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert answer.shape == (2, 5) and answer[:, 0].tolist() == [0, 0]
    settings = model.generation_config
    assert (settings.decoder_start_token_id, settings.eos_token_id, settings.pad_token_id) == (0, 1, 0)


def test_a_pipeline_answers(with_words):
    """transformers 5 has no pipeline of texts to texts any more; that of texts gives the ids of all models."""
    _, folder = with_words
    options = {"max_new_tokens": 4, "do_sample": False}
    text = "Thank you <extra_id_0> me"
    made = transformers.pipeline("text-generation", model=str(folder))(text, return_tensors=True, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    expected = model.generate(**tokenizer(text, return_tensors="pt"), **options)[0].tolist()
    assert made[0]["generated_token_ids"] == expected


def test_the_cards_code_runs(with_words, monkeypatch, capsys):
    _, folder = with_words
    card = (folder / "README.md").read_text()
    monkeypatch.chdir(folder.parent)
    exec(card.partition("```python\n")[2].partition("```")[0], {})
    assert capsys.readouterr().out.startswith("<pad>")


# ---------------------------------------------------------------------------------------------------- the folder


def test_a_folder_with_something_in_it_is_not_touched(tmp_path, opened):
    opened(source_of("bytes", 0, vocab_size=300))
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"exists, and is not the folder of an exported model"):
            export_checkpoint("run", str(tmp_path), overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_earlier_export_is_replaced_when_asked_to(tmp_path, opened):
    opened(source_of("bytes", 0, vocab_size=300))
    path = str(tmp_path / "hf")
    export_checkpoint("run", path)
    (tmp_path / "hf" / "model-00001-of-00002.safetensors").touch()
    with pytest.raises(UserError, match=r"holds a model already.*--overwrite"):
        export_checkpoint("run", path)
    export_checkpoint("run", path, overwrite=True)
    assert not (tmp_path / "hf" / "model-00001-of-00002.safetensors").exists()
    assert [child.name for child in tmp_path.iterdir()] == ["hf"]


def test_what_no_export_wrote_is_never_removed(tmp_path, opened):
    opened(source_of("bytes", 0, vocab_size=300))
    path = str(tmp_path / "hf")
    export_checkpoint("run", path)
    (tmp_path / "hf" / ".git").mkdir()
    with pytest.raises(UserError, match=r"holds \.git, which no export wrote and replacing the folder would remove"):
        export_checkpoint("run", path, overwrite=True)
    assert (tmp_path / "hf" / ".git").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path, opened):
    opened(source_of("bytes", 0, vocab_size=300))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/hf cannot be made: Not a directory. Write another one's name"):
        export_checkpoint("run", str(tmp_path / "file" / "hf"))


def test_an_empty_folder_is_filled(tmp_path, opened):
    opened(source_of("bytes", 0, vocab_size=300))
    (tmp_path / "hf").mkdir()
    export_checkpoint("run", str(tmp_path / "hf"))
    assert (tmp_path / "hf" / "model.safetensors").exists()


def test_an_export_that_fails_leaves_nothing(tmp_path, opened):
    source = source_of("bytes", 0, vocab_size=300)
    opened(source)
    export_checkpoint("run", str(tmp_path / "hf"))
    before = (tmp_path / "hf" / "README.md").read_bytes()
    source.read = lambda name: (_ for _ in ()).throw(OSError("the disk is gone"))
    for path, overwrite in (("new", False), ("hf", True)):
        with pytest.raises(OSError, match="the disk is gone"):
            export_checkpoint("run", str(tmp_path / path), overwrite=overwrite)
    assert [child.name for child in tmp_path.iterdir()] == ["hf"]
    assert (tmp_path / "hf" / "README.md").read_bytes() == before


def test_what_a_killed_export_left_is_thrown_away(tmp_path, opened):
    opened(source_of("bytes", 0, vocab_size=300))
    (tmp_path / ".hf.partial").mkdir()
    (tmp_path / ".hf.partial" / "model.safetensors").write_bytes(b"half")
    export_checkpoint("run", str(tmp_path / "hf"))
    assert [child.name for child in tmp_path.iterdir()] == ["hf"]


# ------------------------------------------------------------------------------------------------ refused, and pushed


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(mlp_activations=("relu", "gelu")), r"no T5 with TransformerConfig.mlp_activations = \('relu', 'gelu'\)"),
        (
            dict(vocab_size=200),
            r"vocabulary bytes has 259 ids with its 0 extra ids, and the model's embedding 200 ",
        ),
    ],
)
def test_what_transformers_cannot_be_is_refused(changes, message, tmp_path, opened):
    opened(source_of("bytes", 0, **{"vocab_size": 300} | changes))
    with pytest.raises(UserError, match=message):
        export_checkpoint("run", str(tmp_path / "hf"))
    assert not list(tmp_path.iterdir())


def test_unknown_dtypes_and_remote_folders_are_refused():
    with pytest.raises(UserError, match=r"--dtype=float16 cannot be written. Write one of float32, bfloat16"):
        export_checkpoint("run", "hf", dtype="float16")
    with pytest.raises(UserError, match=r"local folder, and gs://bucket/hf is not one"):
        export_checkpoint("run", "gs://bucket/hf")


def test_a_complete_folder_is_pushed(tmp_path, opened, monkeypatch):
    opened(source_of("bytes", 0, vocab_size=300))
    pushed = []
    monkeypatch.setattr(hub, "check_push", lambda name: pushed.append(name))
    monkeypatch.setattr(hub, "push", lambda folder, name: (pushed.append((name, sorted(os.listdir(folder)))), "url")[1])
    assert export_checkpoint("run", str(tmp_path / "hf"), push_to="me/my-t5") == "url"
    files = ["README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json"]
    assert pushed == ["me/my-t5", ("me/my-t5", files)]
    assert 'from_pretrained("me/my-t5")' in (tmp_path / "hf" / "README.md").read_text()


def test_nobody_logged_in_is_found_out_before_anything_is_written(tmp_path, opened, monkeypatch):
    opened(source_of("bytes", 0, vocab_size=300))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="Nobody is logged in"):
        export_checkpoint("run", str(tmp_path / "hf"), push_to="me/my-t5")
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------------- memory

_PEAK = """
import resource, sys, threading
from t5x_mini.checkpoint.{module} import {function}
def anonymous():
    # Files that are mapped count as well, but give way; what has been allocated doesn't.
    return int(next(line for line in open('/proc/self/status') if line.startswith('RssAnon')).split()[1]) // 1024
before, peak, done = anonymous(), [0], threading.Event()
def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
{function}({arguments})
done.set()
watcher.join()
print(max(peak[0], anonymous()) - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_of_a_few_tensors_not_of_the_model(tmp_path):
    """500 MiB of parameters, 32 the largest: an export holds a few of them; an import writes 256 MiB at a time."""
    sizes = dict(d_model=1024, d_kv=64, num_heads=16, d_ff=2816, num_layers=4, num_decoder_layers=4, vocab_size=8192)
    tensors = hf_models.write(tmp_path / "hf", "t5_1_1", **sizes)
    megabytes = sum(tensor.nbytes for tensor in tensors.values()) // 2**20
    assert megabytes > 400
    (tmp_path / "hf" / "spiece.model").write_bytes(Path(vocabularies.load("docs_8k").path).read_bytes())
    hf, run, back = (repr(str(tmp_path / name)) for name in ("hf", "run", "back"))
    imported = peak("import_checkpoint", "import_checkpoint", f"{hf}, kind='hf', output={run}")
    exported = peak("huggingface.export", "export_checkpoint", f"{run}, {back}")
    assert imported < megabytes
    assert exported < megabytes / 2
    written = Tensors(tmp_path / "back")
    assert all(np.array_equal(written.read(name), tensor) for name, tensor in tensors.items())


def peak(module, function, arguments):
    """MiB that the call took on top of what the process had."""
    code = _PEAK.format(module=module, function=function, arguments=arguments)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "XLA_FLAGS": ""}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return int(run.stdout.split()[-1])
