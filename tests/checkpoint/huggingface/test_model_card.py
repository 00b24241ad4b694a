"""What the card says, from the files of the run."""

import json

import pytest
import tiny

from t5x_mini.checkpoint.huggingface.model_card import tokens_seen, write_card
from t5x_mini.checkpoint.source import Origin

CONFIG = """# Everything a run was configured with: pass this file as --gin_file.

BATCH_SIZE = 16
INITIAL_CHECKPOINT_PATH = None
MIXTURE_OR_TASK_NAME = 'my_text'
TASK_FEATURE_LENGTHS = {'inputs': 128, 'targets': 29}
VOCABULARY = 'docs_8k'

RunConfig:
  model = @TransformerConfig()
"""
ROWS = [
    {"step": 1, "loss_per_nonpadding_target_token": 9.0, "accuracy": 0.0, "speed": 100.0, "seconds": 2.0},
    {"step": 2, "loss_per_nonpadding_target_token": 8.5, "accuracy": 0.25, "speed": 1000.0, "seconds": 0.3},
    {"step": 2, "eval/my_text/loss_per_nonpadding_target_token": 8.75, "eval/my_text/z_loss": 0.1},
    {"step": 3, "loss_per_nonpadding_target_token": 7.0, "accuracy": 0.5, "speed": 1000.0, "seconds": 1.0},
]
TIMING = {"speed": "timing/tokens_per_second", "seconds": "timing/seconds"}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.gin").write_text(CONFIG)
    rows = [{TIMING.get(name, name): value for name, value in row.items()} for row in ROWS]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "run"


def card(folder, *, has_tokenizer=True, name="me/my-t5", architecture="encoder_decoder", changes=(), **known):
    model = tiny.model(architecture, **dict(changes))
    origin = Origin(**{"path": "x", "kind": "hf", "model": model} | known)
    shapes = {"params/a": (3, 4), "params/b": (1000,), "opt_state/a/v": (3, 4), "step": ()}
    write_card(folder, name, origin, shapes, has_tokenizer=has_tokenizer)
    return (folder / "README.md").read_text()


def test_a_runs_card(run, tmp_path):
    text = card(tmp_path, path=str(run / "checkpoints" / "2"), kind="t5x_mini", step=2)
    assert text.startswith("---\nlibrary_name: transformers\npipeline_tag: text2text-generation\n")
    for line in (
        "# my-t5",
        "An encoder-decoder of 1,012 parameters, after 2 steps. Written by t5x-mini.",
        'model = AutoModelForSeq2SeqLM.from_pretrained("me/my-t5")',
        "| MIXTURE_OR_TASK_NAME | `'my_text'` |",
        "| TASK_FEATURE_LENGTHS | `{'inputs': 128, 'targets': 29}` |",
        "| steps | `2` |",
        "| tokens seen | `500` |",
        "| training loss, nats a token | `8.5` |",
        "| training accuracy | `0.25` |",
        "| eval/my_text/loss_per_nonpadding_target_token | `8.75 (step 2)` |",
        "| emb_dim | `16` |",
        "| mlp_activations | `('gelu', 'linear')` |",
    ):
        assert line in text.splitlines(), line
    assert "INITIAL_CHECKPOINT_PATH" not in text
    assert "z_loss" not in text
    assert str(tmp_path) not in text


def test_tokens_are_counted_up_to_the_checkpoint():
    rows = [{TIMING.get(name, name): value for name, value in row.items()} for row in ROWS]
    assert [tokens_seen(rows, step) for step in (1, 2, 3)] == [200, 500, 1500]


def test_what_is_not_known_is_said(tmp_path):
    text = card(tmp_path)
    assert "An encoder-decoder of 1,012 parameters. Written by t5x-mini." in text
    assert "Not known: the checkpoint (hf) doesn't say." in text
    assert "Not known: there are no metrics beside the checkpoint." in text


def test_a_language_model_is_loaded_with_its_code(tmp_path):
    text = card(tmp_path, architecture="prefix_lm")
    assert 'AutoModelForCausalLM.from_pretrained("me/my-t5", trust_remote_code=True)' in text
    assert "pipeline_tag: text-generation\n" in text and "Pad prompts of several lengths on the left" in text
    assert "A prefix LM of" in text and "num_encoder_layers" not in text


def test_without_a_tokenizer_none_is_loaded(tmp_path):
    text = card(tmp_path, has_tokenizer=False)
    assert "tokenizer.from_pretrained" not in text and "AutoModelForSeq2SeqLM.from_pretrained" in text


@pytest.mark.parametrize("tied", [False, True])
def test_an_untied_umt5_says_what_transformers_makes_of_it(tied, tmp_path):
    text = card(tmp_path, changes={"relpos_bias_per_layer": True, "logits_via_embedding": tied})
    assert ("tie_word_embeddings = False" in text) == (not tied)
